"""Measures how good class probabilities are on rows with labels."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dms_spec.embeddings.calibration import expected_calibration_error


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
        in nats; ``ece``, see `expected_calibration_error`.
    """
    classes = probabilities.shape[1]
    result: dict[str, Any] = {
        "accuracy": None,
        "balanced_accuracy": None,
        "recall": [None] * classes,
        "nll": None,
        "ece": None,
    }
    counts: NDArray[Any] = np.ones(len(targets)) if weight is None else weight
    if not counts.sum() > 0:
        return result
    right = probabilities.argmax(axis=1) == targets
    result["accuracy"] = float((counts * right).sum() / counts.sum())
    known = (targets >= 0) & (counts > 0)
    if not known.any():
        return result
    p, y, counts, right = (a[known] for a in (probabilities, targets, counts, right))
    total, found = (np.bincount(y, w, minlength=classes) for w in (counts, counts * right))
    recall = [float(f / t) if t > 0 else None for f, t in zip(found, total, strict=True)]
    p = p.astype(np.float64)
    likelihood = np.maximum(p[np.arange(len(y)), y], np.finfo(np.float32).tiny)
    return result | {
        "recall": recall,
        "balanced_accuracy": float(np.mean([r for r in recall if r is not None])),
        "nll": float(-(counts * np.log(likelihood)).sum() / counts.sum()),
        "ece": expected_calibration_error(p, y),
    }
