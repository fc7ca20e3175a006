"""The schedulers that are compared, each a module for `dms_torch.adapters.attach`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from models import WIDTH
from scenes import MODALITIES, WORDS
from torch import Tensor, nn

from dms_spec import SchedulerSpec
from dms_torch import Fusion, FusionModel, FusionOutput
from dms_torch.losses import consistency_loss, unimodal_loss
from dms_torch.output import ModelOutput

STATIC = SchedulerSpec.preset("static", MODALITIES)
CO_ATTENTION = SchedulerSpec(modalities=MODALITIES, policy="co_attention", fusion="feature")
PAPER = SchedulerSpec.preset("paper", MODALITIES)
#: What `robust` computes before it compares what the modalities say: a language model has no
#: classes to compare.
ROBUST = SchedulerSpec.preset("robust", MODALITIES).replace(fusion="feature")
#: Units of the hidden layer of its heads.
HIDDEN = 128
#: lambda of the consistency loss, as `dms_torch.fusion_loss` has it.
CONSISTENCY = 0.1


class Chosen(nn.Module):
    """Equal weights for what it is told to show, 0 for the rest: dropout and the oracle.

    Attributes:
        shown: bool ``[B, 2]`` for the batch that comes; None shows everything.
    """

    def __init__(self) -> None:
        super().__init__()
        self.spec, self.fusion = STATIC, Fusion(STATIC)
        self.shown: Tensor | None = None

    def forward(self, present: Tensor, **given: Any) -> FusionOutput:
        """Weighs a batch."""
        shown = present if self.shown is None else present & self.shown
        # A text whose image is missing is never dropped: no prompt would be left.
        shown = torch.where(shown.any(dim=1, keepdim=True), shown, present)
        out: FusionOutput = self.fusion(present=shown, **given)
        return out


def attached_to(model: Any) -> nn.Module | None:
    """What is attached to a model, if anything."""
    found: nn.Module | None = model.dms.scheduler if hasattr(model, "dms") else None
    return found


def tell(model: nn.Module, shown: Tensor | None) -> None:
    """Says to an attached `Chosen` what to show of the next batch; to others nothing."""
    scheduler = attached_to(model)
    if isinstance(scheduler, Chosen):
        scheduler.shown = shown


class Published(nn.Module):
    """DMS as published: heads with Monte-Carlo dropout on mean tokens, and the rule.

    Attributes:
        last: What it made of the last batch.
    """

    def __init__(self, spec: SchedulerSpec = PAPER) -> None:
        super().__init__()
        self.spec, self.last = spec, None
        self.model = FusionModel(
            {name: _hidden() for name in MODALITIES},
            spec,
            widths=dict.fromkeys(MODALITIES, HIDDEN),
            width=WIDTH,
            classes=len(WORDS),
            passes=10,
        )
        self.last: ModelOutput | None = None

    def forward(
        self, features: Mapping[str, Tensor], present: Tensor, logits: None = None
    ) -> ModelOutput:
        """Weighs mean tokens, by modality ``[B, D]``."""
        self.last = self.model(features, present)
        return self.last

    def loss(self, framed: Tensor) -> Tensor:
        """Its own losses on the last batch: that of the heads, and consistency."""
        assert self.last is not None and self.last.logits is not None
        consistent = consistency_loss(self.last.features, self.last.weights)
        return unimodal_loss(self.last.logits, framed, self.last.active) + CONSISTENCY * consistent

    def without(self, signal: str) -> Published:
        """The same without one of the signals."""
        kept = {name: c for name, c in self.spec.coefficients.items() if name != signal}
        signals = {name: options for name, options in self.spec.signals.items() if name in kept}
        other = Published(self.spec.replace(signals=signals, coefficients=kept))
        other.load_state_dict(self.state_dict())
        return other.eval()


def _hidden() -> nn.Module:
    """A layer below each head: which digit is framed is no linear function of a mean token."""
    norm = nn.BatchNorm1d(WIDTH, affine=False)
    return nn.Sequential(norm, nn.Linear(WIDTH, HIDDEN), nn.ReLU())


def robust(calibrated: Fusion) -> Fusion:
    """`robust` with the typicality that `calibrate` has found; what it trusts is to be learned."""
    found = {k: a for k, a in calibrated.artifact().parameters.items() if k.startswith("signals.")}
    start = {"policy.exponent": torch.full((2,), EXPONENT), "policy.doubt": torch.tensor(DOUBT)}
    return Fusion(ROBUST, found | start)


#: softplus(EXPONENT) = 1, the rule; sigmoid(DOUBT) = 0.1, which no weight of a softmax feels.
EXPONENT, DOUBT = 0.5413249, -2.1972246
