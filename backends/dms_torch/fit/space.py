"""Learns heads that share a space: classifiers and projections of all modalities at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from dms_spec.embeddings.calibration import fit_temperature
from dms_spec.embeddings.settings import FitSettings
from dms_spec.equations.heads import class_scores
from dms_spec.spec import SchedulerSpec
from dms_torch.backend import torch_namespace
from dms_torch.fit.checkpoint import Arrays
from dms_torch.fit.corruption import Random, dropped, noisy, stream
from dms_torch.fit.folds import Rows, batches, cut
from dms_torch.fit.initialize import RIDGE_ROWS, ridge_start
from dms_torch.fit.optimize import Stage, Tensors
from dms_torch.fit.part import Part
from dms_torch.fit.regression import means_of
from dms_torch.losses import consistency_loss

Apply = Callable[[Tensors, Tensor, Tensors, tuple[str, ...]], dict[str, Tensor]]


class CommonSpace:
    """How such heads are learned: one copy, by rows of which some are noisy; fold 0 judges.

    Args:
        spec: Whose modalities they are.
        settings: How to learn.
        rows: To learn from.
        apply: Gives what heads say of scaled embeddings.
    """

    def __init__(
        self, spec: SchedulerSpec, settings: FitSettings, rows: Rows, apply: Apply
    ) -> None:
        self._spec, self._settings, self._rows, self._apply = spec, settings, rows, apply
        self._device = rows.learn.present.device
        self._ns = torch_namespace(self._device.type)
        random = stream(settings.seed, "validation")
        validation = {
            name: noisy(x, settings.noise, random) for name, x in rows.validation.embeddings.items()
        }
        self._noisy = replace(rows.validation, embeddings=validation)

    def stage(self) -> Stage:
        """Gives the stage of learning."""
        seed, size, part = self._settings.seed, self._settings.batch_size, self._rows.learn
        return Stage(
            name="heads",
            start=self._start(),
            rate=self._settings.learning_rate,
            stream=lambda epoch: stream(seed, "heads", epoch),
            batches=lambda random: batches(
                part, cut(random.permutation(len(part.labels)), size), self._spec, random
            ),
            loss=self._loss,
            validation=self._validation,
        )

    def _start(self) -> Arrays:
        """Starts classifiers at ridge regression, projections at random, what reads them at 0."""
        random, classes = stream(self._settings.seed, "start"), len(self._rows.classes)
        learn, judge = self._rows.learn, self._noisy
        start: Arrays = {}
        for name, mean in zip(self._spec.modalities, means_of(learn), strict=True):
            given = []
            for part, most in ((learn, RIDGE_ROWS), (judge, None)):
                there = torch.nonzero(_there(part, name))[:, 0]
                step = 1 if most is None else max(1, -(-len(there) // most))
                some = part.only((name,)).rows(there[::step])
                x = some.embeddings[name].cpu().numpy().astype(np.float64)
                given.append((x, some.labels.cpu().numpy()))
            (x, labels), (judged, judged_labels) = given
            weight = ridge_start(x, labels, classes, judged, judged_labels)
            start[f"heads.{name}.classifier.weight"] = weight
            start[f"heads.{name}.classifier.bias"] = np.zeros(classes, np.float32)
            inputs, width = x.shape[1], self._settings.width
            weight = random.normal(size=(inputs, width)) / np.sqrt(inputs)
            start[f"heads.{name}.projection.weight"] = weight.astype(np.float32)
            # Around the middle of what there is, or all features would point one way.
            bias = -mean.cpu().numpy().astype(np.float64) @ weight
            start[f"heads.{name}.projection.bias"] = bias.astype(np.float32)
        start["head.weight"] = np.zeros((self._settings.width, classes), np.float32)
        start["head.bias"] = np.zeros(classes, np.float32)
        return start

    def _loss(self, parameters: Tensors, part: Part, random: Random) -> Tensor:
        """Computes cross-entropy of each modality, seen through noise and dropout, and `_shape`."""
        rate, share = self._settings.dropout, self._settings.noise
        embeddings = {n: noisy(x, share, random) for n, x in part.embeddings.items()}
        if rate > 0:
            embeddings = {n: dropped(x, rate, random) for n, x in embeddings.items()}
        neutral = self._neutral(parameters)
        heads = self._apply(embeddings, part.present, neutral, ("logits", "features"))
        return _unimodal(heads["logits"], part) + self._shape(parameters, heads["features"], part)

    def _validation(self, parameters: Tensors) -> Tensor:
        """Computes the loss of each modality at its best temperature, since that comes next."""
        part, neutral = self._noisy, self._neutral(parameters)
        total = torch.tensor(sum(own["nll_after"] for own in self._fit(parameters, part).values()))
        heads = self._apply(part.embeddings, part.present, neutral, ("features",))
        return total + self._shape(parameters, heads["features"], part)

    def _shape(self, parameters: Tensors, features: Tensor, part: Part) -> Tensor:
        """Computes what makes a common space: one head for all modalities, and consistency."""
        shared = class_scores(self._ns, features, parameters)
        level = torch.zeros(part.present.shape, dtype=shared.dtype, device=shared.device)
        uniform = self._ns.masked_softmax(level, part.present)
        mwcl = consistency_loss(features, uniform)
        return _unimodal(shared, part) + self._settings.consistency * mwcl

    def calibrate(self, parameters: Tensors) -> dict[str, dict[str, Any]]:
        """Fits a temperature for each modality, and says what it changed on validation rows."""
        return self._fit(parameters, self._rows.validation)

    def _fit(self, parameters: Tensors, part: Part) -> dict[str, dict[str, Any]]:
        with torch.no_grad():
            neutral = self._neutral(parameters)
            logits = self._apply(part.embeddings, part.present, neutral, ("logits",))["logits"]
        own, labels, weight = (a.cpu().numpy() for a in (logits, part.labels, part.weight))
        result = {}
        for m, name in enumerate(part.embeddings):
            rows = part.present[:, m].cpu().numpy()
            if rows.any():
                fitted = fit_temperature(own[rows, m], labels[rows], weight=weight[rows])
                result[name] = asdict(fitted)
            else:
                result[name] = {
                    "temperature": 1.0,
                    "nll_after": 0.0,
                    "samples": 0,
                    "note": "absent in all validation rows: not calibrated",
                }
        return result

    def _neutral(self, parameters: Tensors) -> dict[str, Tensor]:
        """Gives temperatures of 1, since they are fitted after the heads."""
        one = torch.ones((), device=self._device)
        return {**parameters, **{f"heads.{n}.temperature": one for n in self._spec.modalities}}


def _there(part: Part, name: str) -> Tensor:
    return part.present[:, list(part.embeddings).index(name)]


def _unimodal(logits: Tensor, part: Part) -> Tensor:
    """Computes the mean cross-entropy of what is there, each modality alone: ``[B, M, C]``."""
    labels = part.labels[:, None].expand(logits.shape[:-1])
    each = functional.cross_entropy(logits.movedim(-1, 1), labels, reduction="none")
    weight = torch.where(part.present, part.weight[:, None], 0.0)
    return (each * weight).sum() / weight.sum().clamp(min=torch.finfo(weight.dtype).tiny)
