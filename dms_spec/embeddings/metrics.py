"""Measures how good class probabilities are on rows with labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from dms_spec.embeddings.calibration import calibration_error, check_probabilities


@dataclass(frozen=True)
class Answers:
    """Holds what is measured of the answers to some rows, by their class probabilities.

    Attributes:
        right: bool ``[N]``, whether the likeliest class is that of the row.
        confidence: Its probability, ``[N]``.
        likelihood: The probability of the row's class, ``[N]``; of some other where it has none.
        targets: The class of each row ``[N]``, -1 for a label that is not a class.
        classes: C.
    """

    right: NDArray[np.bool_]
    confidence: NDArray[np.float64]
    likelihood: NDArray[np.float64]
    targets: NDArray[np.intp]
    classes: int

    @classmethod
    def of(cls, probabilities: NDArray[Any], targets: NDArray[np.intp]) -> Self:
        """Keeps of ``[N, C]`` what `measured` needs.

        Raises:
            SpecError: Rows of a known class are not probabilities.
        """
        p = probabilities.astype(np.float64)
        check_probabilities(p[targets >= 0])
        chosen = p.argmax(axis=1)
        rows = np.arange(len(p))
        return cls(chosen == targets, p[rows, chosen], p[rows, targets], targets, p.shape[1])

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """Joins the rows of several parts, at least one."""
        return cls(
            np.concatenate([part.right for part in parts]),
            np.concatenate([part.confidence for part in parts]),
            np.concatenate([part.likelihood for part in parts]),
            np.concatenate([part.targets for part in parts]),
            parts[0].classes,
        )

    def rows(self, index: NDArray[np.bool_]) -> Self:
        """Gives some of the rows."""
        return type(self)(
            self.right[index],
            self.confidence[index],
            self.likelihood[index],
            self.targets[index],
            self.classes,
        )

    def measured(self, weight: NDArray[np.float64] | None = None) -> dict[str, Any]:
        """Measures them: see the function `measured`."""
        result: dict[str, Any] = {
            "accuracy": None,
            "balanced_accuracy": None,
            "recall": [None] * self.classes,
            "nll": None,
            "ece": None,
        }
        counts: NDArray[Any] = np.ones(len(self.targets)) if weight is None else weight
        if not counts.sum() > 0:
            return result
        result["accuracy"] = float((counts * self.right).sum() / counts.sum())
        known = (self.targets >= 0) & (counts > 0)
        if not known.any():
            return result
        own, counts = self.rows(known), counts[known]
        total, found = (
            np.bincount(own.targets, w, minlength=self.classes)
            for w in (counts, counts * own.right)
        )
        recall = [float(f / t) if t > 0 else None for f, t in zip(found, total, strict=True)]
        likelihood = np.maximum(own.likelihood, np.finfo(np.float32).tiny)
        return result | {
            "recall": recall,
            "balanced_accuracy": float(np.mean([r for r in recall if r is not None])),
            "nll": float(-(counts * np.log(likelihood)).sum() / counts.sum()),
            "ece": calibration_error(own.confidence, own.right),
        }


def measured(
    probabilities: NDArray[Any],
    targets: NDArray[np.intp],
    weight: NDArray[np.float64] | None = None,
) -> dict[str, Any]:
    """Measures predictions, in plain numbers; None where there is nothing to measure.

    Args:
        probabilities: ``[N, C]``.
        targets: The class of each row ``[N]``, -1 for a label that is not a class: it counts as
            wrong, and is left out of calibration and likelihood.
        weight: How much each row counts, ``[N]``; None for all alike. The ECE counts rows alike.

    Returns:
        ``accuracy``; ``recall``, the share of each class that is found, ``[C]``, None for a class
        without rows; ``balanced_accuracy``, their mean; ``nll``, the mean negative log-likelihood
        in nats; ``ece``, see `dms_spec.embeddings.calibration.expected_calibration_error`.
    """
    return Answers.of(probabilities, targets).measured(weight)
