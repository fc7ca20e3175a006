"""Sets how `dms_torch.fit.fit` learns. Who only sets it needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from dms_spec.embeddings.typicality import Covariance
from dms_spec.errors import SpecError

ClassWeight = Literal["none", "balanced"]


@dataclass(frozen=True, kw_only=True)
class FitSettings:
    """Sets how to learn; see `dms_torch.fit.fit`. The defaults are those of ``dms fit``.

    Attributes:
        epochs: At most so many in a stage of gradient descent: heads that share a space, and the
            policy.
        patience: Stop a stage after so many epochs without a better validation score.
        batch_size: Rows in a step.
        learning_rate: Of Adam, for heads that share a space; the policy's is five times that.
        width: D, of the common feature space, where features of different modalities are compared
            or fused.
        passes: T of Monte-Carlo dropout, where the spec reads passes; 0 for none.
        dropout: Rate on the heads' inputs, in training and in the passes, in [0, 1).
        noise: Share of the rows that are noisy, in [0, 1]: where heads that share a space learn and
            are judged; elsewhere half of it is how much noisy rows count in choosing a penalty.
        covariance: Form of the covariance that typicality measures distances by.
        rank: How many directions it has in its low-rank form.
        pull: Strength of the penalty that keeps the policy near where it starts, the rule.
        consistency: lambda of the consistency loss, where there is a common feature space.
        class_weight: ``"balanced"`` weighs rows so that all classes count alike, in learning and
            in the class frequencies; ``"none"``.
        seed: Of everything random.

    Example:
        >>> from dms_torch.fit import FitSettings
        >>> FitSettings(epochs=50, seed=1).patience
        20
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
    class_weight: ClassWeight = "none"
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
        forms, choices = get_args(Covariance), get_args(ClassWeight)
        for name, good, expected in (
            ("covariance", self.covariance in forms, " or ".join(forms)),
            ("class_weight", self.class_weight in choices, " or ".join(choices)),
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
