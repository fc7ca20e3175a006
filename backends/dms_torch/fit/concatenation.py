"""Measures what people would use instead: one logistic regression on all modalities together."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dms_spec.embeddings.labels import class_indices
from dms_spec.embeddings.metrics import Answers
from dms_spec.embeddings.table import Table
from dms_spec.equations.heads import scaled
from dms_spec.equations.primitives import softmax
from dms_torch.fit.checkpoint import Arrays
from dms_torch.fit.folds import Rows


def measure_concatenation(
    found: Arrays, copy: int, rows: Rows, table: Table, index: NDArray[np.intp]
) -> dict[str, Any]:
    """Measures one copy of `joint_regression` on rows that it has not seen.

    Args:
        found: What `joint_regression` found.
        copy: The copy that has not seen the rows.
        rows: What it has learned from.
        table: With labels.
        index: The rows.
    """
    answers = []
    for part in table.parts(index):
        assert part.labels is not None  # noqa: S101 - narrows the type
        logits = _inputs(found, rows, part) @ found["weight"][copy] + found["bias"][copy]
        targets = class_indices(rows.classes, part.labels)
        answers.append(Answers.of(softmax(np, logits), targets))
    weight = table.sample_weight
    return Answers.joined(answers).measured(None if weight is None else weight[index])


def _inputs(found: Arrays, rows: Rows, table: Table) -> NDArray[np.float64]:
    """Puts modalities, scaled, next to each other, each at its mean where it is absent."""
    widths = [array.shape[1] for array in table.embeddings.values()]
    means = np.split(found["mean"].astype(np.float64), np.cumsum(widths)[:-1])
    parts = []
    for m, (name, scale) in enumerate(rows.scale.items()):
        x = table.embeddings[name].astype(np.float64)
        with np.errstate(over="ignore", invalid="ignore"):
            s = scaled(x, scale.zero, scale.unit)
        parts.append(np.where(table.present[:, m, None], s, means[m]))
    return np.concatenate(parts, axis=1)
