"""Heads: where they start, what they learn from, how held-out rows judge and calibrate them.

Where features of different modalities are compared, all heads are learned at once, since they
share a space. Elsewhere each modality is learned by itself, in `FOLDS` + 1 copies: one for each
fold, which has not seen it, and the last, which is kept, learned from all rows. The classifiers of
the copies lie one after the other in one array, and learn in one go.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from dms_spec.embeddings.calibration import fit_temperature
from dms_spec.equations.heads import apply_heads, class_scores, draw_masks
from dms_spec.spec import SchedulerSpec
from dms_torch.backend import torch_namespace
from dms_torch.fit.checkpoint import Arrays
from dms_torch.fit.corruption import Random, dropped, noisy, stream
from dms_torch.fit.folds import FOLDS, Part, Rows, batches, cut
from dms_torch.fit.initialize import ridge_start
from dms_torch.fit.optimize import Stage, Tensors
from dms_torch.fit.settings import FitSettings
from dms_torch.losses import consistency_loss


class Heads:
    """How heads are learned; it holds rows, and no parameters.

    Args:
        spec: Whose modalities they are.
        settings: How to learn.
        rows: To learn from.
        shared: Whether they share a space, and are one copy then.
    """

    def __init__(
        self, spec: SchedulerSpec, settings: FitSettings, rows: Rows, *, shared: bool
    ) -> None:
        self.spec, self.settings, self.rows, self.shared = spec, settings, rows, shared
        self.copies = 1 if shared else FOLDS + 1
        self.device = rows.learn.present.device
        self.ns = torch_namespace(self.device.type)
        # Heads learn from rows of which some are noisy, and are judged by such.
        random = stream(settings.seed, "held")
        held = {name: noisy(x, settings.noise, random) for name, x in rows.held.embeddings.items()}
        self._noisy = replace(rows.held, embeddings=held)

    def stages(self) -> list[Stage]:
        """Each modality by itself, so that each stops when it is at its best, or all at once."""
        names = self.spec.modalities
        if self.shared:
            return [self._stage("heads", names)]
        return [self._stage(f"heads of {name}", (name,), name) for name in names]

    def _stage(self, title: str, names: tuple[str, ...], key: str = "") -> Stage:
        seed, size, part = self.settings.seed, self.settings.batch_size, self.rows.learn
        return Stage(
            name=title,
            start=self._start(names),
            rate=self.settings.learning_rate,
            # By the name: a modality's are the same whatever the others are.
            stream=lambda epoch: stream(seed, "heads", epoch, *key.encode()),
            batches=lambda random: batches(
                part, cut(random.permutation(len(part.labels)), size), self.spec, random
            ),
            loss=partial(self._loss, names),
            held_out=partial(self._held_out, names),
        )

    # ------------------------------------------------------------------------------------- start

    def _start(self, names: tuple[str, ...]) -> Arrays:
        """Classifiers at ridge regression; projections at random, and what reads them at 0."""
        random, classes = stream(self.settings.seed, "start"), len(self.rows.classes)
        learn, judge = self.rows.learn, self._noisy
        start: Arrays = {}
        for name in names:
            there, held = (_there(part, name) for part in (learn, judge))
            x, judged = (
                part.embeddings[name][rows].cpu().numpy().astype(np.float64)
                for part, rows in ((learn, there), (judge, held))
            )
            weight = ridge_start(
                x,
                learn.labels[there].cpu().numpy(),
                self.learned_from(learn)[there].cpu().numpy(),
                classes,
                judged,
                judge.labels[held].cpu().numpy(),
                judge.fold[held].cpu().numpy(),
            )
            start[f"heads.{name}.classifier.weight"] = weight
            start[f"heads.{name}.classifier.bias"] = np.zeros(self.copies * classes, np.float32)
            if self.shared:
                inputs, width = x.shape[1], self.settings.width
                weight = random.normal(size=(inputs, width)) / np.sqrt(inputs)
                start[f"heads.{name}.projection.weight"] = weight.astype(np.float32)
                # Around the middle of what there is, or all features would point one way.
                bias = -x.mean(axis=0) @ weight
                start[f"heads.{name}.projection.bias"] = bias.astype(np.float32)
        if self.shared:
            start["head.weight"] = np.zeros((self.settings.width, classes), np.float32)
            start["head.bias"] = np.zeros(classes, np.float32)
        return start

    def learned_from(self, part: Part) -> Tensor:
        """Which rows each copy learns from, bool [N, A]: the last from all."""
        return part.fold[:, None] != torch.arange(self.copies, device=self.device)

    # -------------------------------------------------------------------------------------- loss

    def _loss(
        self, names: tuple[str, ...], parameters: Tensors, part: Part, random: Random
    ) -> Tensor:
        """Cross-entropy of every modality by itself, seen through noise and dropout."""
        part, rate = part.only(names), self.settings.dropout
        embeddings = {n: noisy(x, self.settings.noise, random) for n, x in part.embeddings.items()}
        if rate > 0:
            embeddings = {n: dropped(x, rate, random) for n, x in embeddings.items()}
        outputs = ("logits", "features") if self.shared else ("logits",)
        heads = self.apply(embeddings, part.present, self._neutral(parameters), outputs)
        total = _unimodal(self._by_copy(heads["logits"]), part, self.learned_from(part))
        if self.shared:
            total = total + self._space_loss(parameters, heads["features"], part)
        return total

    def _held_out(self, names: tuple[str, ...], parameters: Tensors) -> Tensor:
        """Of each modality at its best temperature, which comes next: its scale is not the point.

        Each row is judged by the copy of the heads that has not seen it.
        """
        part = self._noisy.only(names)
        fitted = self._calibrate(parameters, part)
        total = torch.tensor(sum(own["nll_after"] for own in fitted.values()))
        if self.shared:
            neutral = self._neutral(parameters)
            heads = self.apply(part.embeddings, part.present, neutral, ("features",))
            total = total + self._space_loss(parameters, heads["features"], part)
        return total

    def _space_loss(self, parameters: Tensors, features: Tensor, part: Part) -> Tensor:
        """What makes a common space: one head for all modalities, and consistency."""
        shared = class_scores(self.ns, features, parameters)[:, :, None]
        level = torch.zeros(part.present.shape, dtype=shared.dtype, device=shared.device)
        uniform = self.ns.masked_softmax(level, part.present)
        everything = torch.ones_like(part.fold, dtype=torch.bool)[:, None]
        mwcl = consistency_loss(features, uniform)
        return _unimodal(shared, part, everything) + self.settings.consistency * mwcl

    # ------------------------------------------------------------------------------- calibration

    def calibrate(self, parameters: Tensors) -> dict[str, dict[str, Any]]:
        """For each modality its temperature, and what it changed on held-out rows."""
        return self._calibrate(parameters, self.rows.held)

    def _calibrate(self, parameters: Tensors, part: Part) -> dict[str, dict[str, Any]]:
        with torch.no_grad():
            neutral = self._neutral(parameters)
            logits = self.apply(part.embeddings, part.present, neutral, ("logits",))["logits"]
        labels, fold = part.labels.cpu().numpy(), part.fold.cpu().numpy()
        # By the copy that has not seen the row.
        own = self._by_copy(logits).cpu().numpy()[np.arange(len(fold)), :, fold]
        result = {}
        for m, name in enumerate(part.embeddings):
            rows = part.present[:, m].cpu().numpy()
            if rows.any():
                result[name] = asdict(fit_temperature(own[rows, m], labels[rows]))
            else:
                result[name] = {
                    "temperature": 1.0,
                    "nll_after": 0.0,
                    "samples": 0,
                    "note": "absent in all held-out rows: not calibrated",
                }
        return result

    def _neutral(self, parameters: Tensors) -> dict[str, Tensor]:
        """Temperatures are fitted after the heads: until then they are 1."""
        one = torch.ones((), device=self.device)
        return {**parameters, **{f"heads.{n}.temperature": one for n in self.spec.modalities}}

    # ------------------------------------------------------------------------------------ copies

    def fitted(
        self, learned: Arrays, calibration: Mapping[str, Mapping[str, Any]], *, passes: int
    ) -> list[Arrays]:
        """Each copy as heads of their own, with temperatures, and masks where there are passes."""
        fixed: Arrays = {
            f"heads.{name}.temperature": np.array(own["temperature"], dtype=np.float32)
            for name, own in calibration.items()
        }
        if passes:
            widths = {name: x.shape[1] for name, x in self.rows.learn.embeddings.items()}
            masks = draw_masks(widths, passes, self.settings.dropout, self.settings.seed)
            fixed |= {f"heads.{name}.dropout.masks": mask for name, mask in masks.items()}
        return [
            {n: self._own(n, a, copy) for n, a in learned.items() if n.startswith("heads.")} | fixed
            for copy in range(self.copies)
        ]

    def _own(self, name: str, array: NDArray[Any], copy: int) -> NDArray[Any]:
        if not name.endswith((".classifier.weight", ".classifier.bias")):
            return array
        classes = len(self.rows.classes)
        return np.ascontiguousarray(array[..., copy * classes : (copy + 1) * classes])

    def _by_copy(self, logits: Tensor) -> Tensor:
        """[B, M, A C] -> [B, M, A, C]."""
        return logits.reshape(*logits.shape[:-1], self.copies, -1)

    def apply(
        self,
        embeddings: Tensors,
        present: Tensor,
        parameters: Tensors,
        outputs: tuple[str, ...],
    ) -> dict[str, Tensor]:
        """What heads give for embeddings that are scaled already."""
        unscaled = dict(parameters)
        for name, x in embeddings.items():
            width = x.shape[1:]
            unscaled[f"heads.{name}.scale.zero"] = torch.zeros(width, device=self.device)
            unscaled[f"heads.{name}.scale.unit"] = torch.ones(width, device=self.device)
        with self.ns.guard():
            return apply_heads(
                self.ns,
                embeddings,
                present,
                unscaled,
                modalities=tuple(embeddings),
                dropout=self.settings.dropout,
                outputs=outputs,
            )


def _there(part: Part, name: str) -> Tensor:
    return part.present[:, list(part.embeddings).index(name)]


def _unimodal(logits: Tensor, part: Part, use: Tensor) -> Tensor:
    """Cross-entropy of every modality by itself, the mean over what each copy may use, summed.

    Args:
        logits: ``[B, M, A, C]``.
        part: The B rows.
        use: bool ``[B, A]``.
    """
    labels = part.labels[:, None, None].expand(logits.shape[:-1])
    each = functional.cross_entropy(logits.movedim(-1, 1), labels, reduction="none")
    there = part.present[:, :, None] & use[:, None, :]
    total = torch.where(there, each, 0.0).sum(dim=(0, 1))
    return (total / there.sum(dim=(0, 1)).clamp(min=1)).sum()
