"""Runs a scheduler on the pooled tokens of a batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from dms_torch.adapters.tokens import Pooled
from dms_torch.output import FusionOutput


@dataclass(frozen=True)
class Decision:
    """Holds what a scheduler decided for one batch, a row for each sample.

    Attributes:
        pooled: What it looked at.
        logits: Of the heads, by modality ``[B, C]``; empty without heads.
        output: All that it returned, for `dms_torch.fusion_loss` and others.
        notes: Everything that was weaker than asked for, in words.
    """

    pooled: Pooled
    logits: dict[str, Tensor]
    output: FusionOutput
    notes: tuple[str, ...]

    @property
    def weights(self) -> Tensor:
        """``[B, M]``."""
        return self.output.weights

    @property
    def present(self) -> Tensor:
        """bool ``[B, M]``."""
        return self.pooled.present

    @property
    def signals(self) -> dict[str, Tensor]:
        """By name ``[B, M]``."""
        return self.output.signals

    @property
    def terms(self) -> dict[str, Tensor]:
        """By name ``[B, M]``."""
        return self.output.terms


def schedule(scheduler: nn.Module, heads: nn.ModuleDict, pooled: Pooled) -> Decision:
    """Runs the heads and the scheduler.

    Tokens of differing widths are filled up with zeros to the widest, and a note says so.
    """
    logits = {name: head(_finite(pooled.features[name])) for name, head in heads.items()}
    notes = list(pooled.notes)
    widths = {name: x.shape[-1] for name, x in pooled.features.items()}
    if len(set(widths.values())) > 1:
        told = ", ".join(f"{name} {width}" for name, width in widths.items())
        notes.append(f"tokens differ in width, zeros fill them up: {told}")
    features = {
        name: functional.pad(x, (0, max(widths.values()) - widths[name]))
        for name, x in pooled.features.items()
    }
    output = scheduler(features=features, logits=logits or None, present=pooled.present)
    return Decision(pooled, logits, output, (*notes, *output.notes))


def modalities_of(scheduler: Any) -> tuple[str, ...]:
    """Gives the names of a scheduler's modalities, in order."""
    return tuple(scheduler.spec.modalities)


def _finite(features: Tensor) -> Tensor:
    """Puts 0 for samples that are not finite: a head's gradient would be NaN for one of them."""
    return torch.where(features.isfinite().all(dim=-1, keepdim=True), features, 0.0)
