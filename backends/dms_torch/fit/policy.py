"""Learns the policy, on rows under corruption, by heads that have not seen them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dms_spec.embeddings.settings import FitSettings
from dms_spec.engine.fitted import head_outputs
from dms_spec.equations.heads import class_scores
from dms_spec.plugins import get_policy
from dms_spec.spec import SchedulerSpec
from dms_torch.fit.checkpoint import Arrays
from dms_torch.fit.corruption import DRAWS, Random, corrupted, stream
from dms_torch.fit.folds import FOLDS, batches, cut
from dms_torch.fit.heads import Heads
from dms_torch.fit.optimize import Stage, Tensors, on_device, to_host
from dms_torch.fit.part import Part
from dms_torch.fusion import Fusion
from dms_torch.losses import present_cross_entropy

# The policy has few parameters, and a penalty keeps them near: it may take long steps.
_RATE = 5


def at_the_rule(
    spec: SchedulerSpec, settings: FitSettings, parameters: Arrays | None = None
) -> Fusion:
    """Makes the scheduler at the rule. A policy that needs no parameters learns if it can.

    Args:
        spec: The spec.
        settings: Width and seed of what starts at random.
        parameters: Those of the signals.
    """
    reads_features = "features" in get_policy(spec.policy).needs
    width = settings.width if reads_features else None
    return Fusion(spec, parameters, width=width, seed=settings.seed)


class PolicyStage:
    """Says how a policy is learned: from the rule on, and never far from it.

    With fusion of features the linear head over the fused ones goes on learning with it.

    Args:
        heads: How heads are applied, and the rows.
        copies: The parameters of each copy of the heads, with temperatures and masks.
        places: The parameters of the signals for each copy.
        head: The linear head over fused features; empty for another fusion.
    """

    def __init__(
        self,
        heads: Heads,
        copies: Sequence[Tensors],
        places: Sequence[Arrays],
        head: Arrays,
    ) -> None:
        device = str(heads.device)
        self._heads, self._copies, self._rows = heads, copies, heads.rows
        self._spec, self._settings = heads.spec, heads.settings
        #: The scheduler before anything is learned.
        self.fusion = at_the_rule(heads.spec, heads.settings, places[-1]).to(device)
        self._places = [
            {name.replace(".", "/"): tensor for name, tensor in on_device(place, device).items()}
            for place in places
        ]
        self._outputs = head_outputs(self.fusion._resolved, heads.settings.passes)
        self.start = to_host(self.fusion.learned()) | head
        self._anchor = on_device(self.start, device)

    def stage(self) -> Stage:
        seed = self._settings.seed
        return Stage(
            name="policy",
            start=self.start,
            rate=self._settings.learning_rate * _RATE,
            stream=lambda epoch: stream(seed, "policy", epoch),
            batches=lambda random: batches(
                self._rows.learn, self._index(random), self._spec, random
            ),
            loss=self._loss,
            validation=self._validation,
        )

    def _index(self, random: Random) -> Iterator[NDArray[np.intp]]:
        """Draws the rows of an epoch's batches: of one fold each, to go with its heads, but not of
        0.
        """
        size, fold = self._settings.batch_size, self._rows.learn.fold.cpu().numpy()
        if not self._rows.crossed:
            yield from cut(random.permutation(len(fold)), size)
            return
        parts = []
        for k in range(1, FOLDS):
            parts += cut(random.permutation(np.flatnonzero(fold == k)), size)
        yield from (parts[k] for k in random.permutation(len(parts)))

    def _loss(self, parameters: Tensors, part: Part, random: Random) -> Tensor:
        pull = sum(
            ((tensor - self._anchor[name]) ** 2).sum()
            for name, tensor in parameters.items()
            if name.startswith("policy/")
        )
        return self._fused_loss(parameters, part, random) + self._settings.pull * pull

    def _validation(self, parameters: Tensors) -> Tensor:
        """Computes the loss on fold 0, under the same corruption every time."""
        part, draws = self._rows.validation.of_fold(0), 1 if self._heads.shared else DRAWS
        total = torch.zeros((), device=self._heads.device)
        for draw in range(draws):
            random = stream(self._settings.seed, "validation", draw)
            total = total + self._fused_loss(parameters, part, random) / draws
        return total

    def _fused_loss(self, parameters: Tensors, part: Part, random: Random) -> Tensor:
        """Computes cross-entropy of the fused prediction, by heads that have not seen the rows."""
        copy, embeddings = -1, part.embeddings
        if not self._heads.shared:
            embeddings = corrupted(part.embeddings, random)[0]
        if self._rows.crossed:
            copy = int(part.fold[0])
        with torch.no_grad():
            inputs = self._heads.apply(embeddings, part.present, self._copies[copy], self._outputs)
        own = {name: tensor for name, tensor in parameters.items() if "/" in name}
        result = torch.func.functional_call(
            self.fusion, own | self._places[copy], (), {**inputs, "present": part.present}
        )
        if self._spec.fusion == "feature":
            scores = class_scores(self._heads.ns, result.fused, parameters)
        elif self._spec.fusion == "logit":
            scores = result.fused
        else:  # their softmax gives the probabilities back
            scores = result.fused.clamp(min=torch.finfo(result.fused.dtype).tiny).log()
        return present_cross_entropy(scores, part.labels, result.active.any(dim=1), part.weight)
