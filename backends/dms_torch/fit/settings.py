"""How `dms_torch.fit.training.fit` learns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from dms_spec.embeddings.typicality import Covariance
from dms_spec.errors import SpecError


@dataclass(frozen=True, kw_only=True)
class FitSettings:
    """How to learn; see `fit`. The defaults are those of ``dms fit``.

    Attributes:
        epochs: At most so many in each stage: the heads (one modality after the other, where they
            share no space), then the policy.
        patience: Stop a stage after so many epochs without a better held-out score.
        batch_size: Rows in a step.
        learning_rate: Of Adam, for the heads; the policy's is five times that.
        width: D, of the common feature space, where features of different modalities are compared
            or fused.
        passes: T of Monte-Carlo dropout, where the spec reads passes; 0 for none.
        dropout: Rate on the heads' inputs, in training and in the passes, in [0, 1).
        noise: Share of the rows that the heads see through noise, in training and where they are
            judged for when to stop, in [0, 1].
        covariance: Form of the covariance that typicality measures distances by.
        rank: How many directions it has in its low-rank form.
        pull: Strength of the pull of the policy towards where it starts, the rule.
        consistency: lambda of the consistency loss, where there is a common feature space.
        seed: Of everything random.
    """

    epochs: int = 200
    patience: int = 20
    batch_size: int = 128
    learning_rate: float = 3e-3
    width: int = 64
    passes: int = 10
    dropout: float = 0.1
    noise: float = 0.4
    covariance: Covariance = "low_rank"
    rank: int = 128
    pull: float = 0.01
    consistency: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (
            ("epochs", 1),
            ("patience", 1),
            ("batch_size", 1),
            ("width", 1),
            ("passes", 0),
            ("rank", 1),
            ("seed", 0),
        ):
            if getattr(self, name) < least:
                raise SpecError(
                    f"{name} is out of range",
                    expected=f"{least} or more",
                    got=str(getattr(self, name)),
                )
        forms = get_args(Covariance)
        for name, good, expected in (
            ("covariance", self.covariance in forms, " or ".join(forms)),
            ("learning_rate", 0 < self.learning_rate < float("inf"), "a number above 0"),
            ("dropout", 0 <= self.dropout < 1, "a number in [0, 1)"),
            ("noise", 0 <= self.noise <= 1, "a number in [0, 1]"),
            ("pull", 0 <= self.pull < float("inf"), "0 or more"),
            ("consistency", 0 <= self.consistency < float("inf"), "0 or more"),
        ):
            if not good:
                raise SpecError(
                    f"{name} is out of range", expected=expected, got=str(getattr(self, name))
                )
