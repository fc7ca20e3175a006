"""Says for one sample which modality was trusted, and why."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from dms_spec.errors import ShapeError
from dms_spec.markup import text_table
from dms_torch.adapters.decision import Decision
from dms_torch.adapters.weighing import factors


@dataclass(frozen=True)
class Explanation:
    """Holds what was decided for one sample, by modality. As text it is a table.

    Attributes:
        weights: The weights.
        strength: n w, the factor that each weight amounts to: 1 is neutral.
        present: What the prompt has.
        signals: By modality, each signal by name.
        terms: By modality, what each term contributed to the score.
        notes: Of the whole batch.
    """

    weights: dict[str, float]
    strength: dict[str, float]
    present: dict[str, bool]
    signals: dict[str, dict[str, float]]
    terms: dict[str, dict[str, float]]
    notes: tuple[str, ...]

    @property
    def trusted(self) -> str:
        """The modality with the largest weight."""
        return max(self.weights, key=self.weights.__getitem__)

    def __str__(self) -> str:
        header = ["modality", "present", "weight", "n w"]
        some = next(iter(self.weights))
        header += [f"signal {name}" for name in self.signals[some]]
        header += [f"term {name}" for name in self.terms[some]]
        rows = [
            [
                name,
                "yes" if self.present[name] else "no",
                *(
                    f"{value:.3f}"
                    for value in (
                        weight,
                        self.strength[name],
                        *self.signals[name].values(),
                        *self.terms[name].values(),
                    )
                ),
            ]
            for name, weight in self.weights.items()
        ]
        table = text_table(header, rows, right=range(2, len(header)))
        return "\n".join([table, *(f"note: {note}" for note in self.notes)])


def explain(decision: Decision, sample: int) -> Explanation:
    """Takes one sample out of a decision.

    Raises:
        ShapeError: The batch has no such sample.
    """
    count = decision.weights.shape[0]
    if not 0 <= sample < count:
        raise ShapeError(
            "the batch has no such sample", expected=f"0 to {count - 1}", got=str(sample)
        )
    names = tuple(decision.pooled.features)

    def of(rows: Tensor) -> dict[str, float]:
        return dict(zip(names, rows[sample].detach().tolist(), strict=True))

    def each(values: dict[str, Tensor]) -> dict[str, dict[str, float]]:
        return {
            name: {key: float(rows[sample, m].detach()) for key, rows in values.items()}
            for m, name in enumerate(names)
        }

    return Explanation(
        weights=of(decision.weights),
        strength=of(factors(decision.weights)),
        present={name: bool(p) for name, p in zip(names, decision.present[sample], strict=True)},
        signals=each(decision.signals),
        terms=each(decision.terms),
        notes=decision.notes,
    )
