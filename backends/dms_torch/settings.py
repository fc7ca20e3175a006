"""How `dms_torch.training.fit` learns."""

from __future__ import annotations

from dataclasses import dataclass

from dms_spec.errors import SpecError


@dataclass(frozen=True, kw_only=True)
class FitSettings:
    """How to learn; see `fit`. The defaults are those of ``dms fit``.

    Attributes:
        epochs: At most so many in each of the two stages.
        patience: Stop a stage after so many epochs without a better held-out likelihood.
        batch_size: Rows in a step.
        learning_rate: Of Adam.
        width: D, of the common feature space, where the spec reads features.
        passes: T of Monte-Carlo dropout, where the spec reads passes; 0 for none.
        dropout: Rate on the heads' inputs, in training and in the passes, in [0, 1).
        consistency: lambda of the consistency loss, where the spec reads features.
        seed: Of everything random.
    """

    epochs: int = 200
    patience: int = 20
    batch_size: int = 128
    learning_rate: float = 3e-3
    width: int = 64
    passes: int = 10
    dropout: float = 0.2
    consistency: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (
            ("epochs", 1),
            ("patience", 1),
            ("batch_size", 1),
            ("width", 1),
            ("passes", 0),
            ("seed", 0),
        ):
            if getattr(self, name) < least:
                raise SpecError(
                    f"{name} is out of range",
                    expected=f"{least} or more",
                    got=str(getattr(self, name)),
                )
        for name, good, expected in (
            ("learning_rate", 0 < self.learning_rate < float("inf"), "a number above 0"),
            ("dropout", 0 <= self.dropout < 1, "a number in [0, 1)"),
            ("consistency", 0 <= self.consistency < float("inf"), "0 or more"),
        ):
            if not good:
                raise SpecError(
                    f"{name} is out of range", expected=expected, got=str(getattr(self, name))
                )
