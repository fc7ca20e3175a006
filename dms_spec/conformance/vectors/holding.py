"""Compares what an implementation computed with a vector."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np

from dms_spec.conformance.clauses import clauses
from dms_spec.conformance.context import ConformanceError
from dms_spec.conformance.vectors.vector import OF_CLASSES, Floats, Vector


def hold(vector: Vector, outputs: Mapping[str, Any]) -> None:
    """Compares what an implementation computed with a vector: shape, NaN and Inf, exactness,
    closeness.

    Args:
        vector: The case.
        outputs: ``active``, ``scores``, ``weights``, ``fused``, where evidence is fused
            ``soundness``, each signal of the spec, and of the level ``heads`` ``probabilities``
            and ``unimodal``, by name, as nested lists or NumPy arrays:
            ``active`` of bool or of 0 and 1, the others of any floating dtype, each in the shape
            that `Vector` has it in. Others may stand beside them, such as terms, and are not
            looked at.

    Raises:
        ConformanceError: An output is missing or wrong, or the case should have been refused. The
            message names the clause.

    Example:
        >>> from dms_spec import ModalityBatch, get_backend
        >>> from dms_spec.conformance.vectors import hold, read_vectors
        >>> vector = next(v for v in read_vectors() if not v.refusal)
        >>> scheduler = get_backend("numpy").scheduler(vector.spec, vector.parameters)
        >>> outputs = scheduler(ModalityBatch(**vector.arrays)).arrays()
        >>> hold(vector, outputs)  # it raises where one is off
    """
    own = vector.clauses[0]
    if vector.refusal:
        _expect(vector, own, False, f"there is an answer in place of {vector.refusal}")
    active = _output(vector, outputs, "active", vector.active.shape)
    _expect(vector, "DMS-P-005", active == vector.active, "active differs")
    off, some = ~vector.active, vector.active.any(axis=1)
    for name, expected in vector.expected.items():
        values = _output(vector, outputs, name, expected.values.shape)
        _expect(vector, own, ~np.isnan(values), f"{name} holds NaN")
        infinite = np.isinf(expected.values)
        _expect(vector, own, np.isinf(values) == infinite, f"{name} is infinite elsewhere")
        _expect(
            vector,
            own,
            values[infinite] == expected.values[infinite],
            f"{name} has the wrong infinity",
        )
        if name == "fused":
            _expect(vector, "DMS-P-007", values[~some] == 0, "fused is not 0 with nothing active")
        elif name not in OF_CLASSES:
            clause = "DMS-P-001" if name == "weights" else "DMS-P-009"
            exact = values[off] == expected.values[off]
            _expect(vector, clause, exact, f"{name} of what is not active is not exact")
        if name == "weights":
            right = values[vector.active & (vector.active.sum(axis=1, keepdims=True) == 1)] == 1
            _expect(vector, "DMS-W-003", right, "the only active modality has another weight")
        with np.errstate(invalid="ignore", over="ignore"):
            error = np.where(infinite, 0.0, np.abs(values - expected.values))
            allowed = vector.k * vector.eps * expected.scale + expected.allowance
        worst = np.max(error / np.maximum(allowed, np.finfo(np.float64).tiny), initial=0.0)
        what = f"{name} is off by {worst:.3g} times what is allowed"
        _expect(vector, own, error <= allowed, what)
        if name == "weights":  # the laws that are sharper than closeness
            _expect(vector, "DMS-W-001", values >= 0, "a weight is negative")
            total = values[some].sum(axis=1)
            close = np.abs(total - 1) <= 4 * values.shape[1] * vector.eps
            _expect(vector, "DMS-W-002", close, f"weights sum to {total}")


def _output(
    vector: Vector, outputs: Mapping[str, Any], name: str, shape: tuple[int, ...]
) -> Floats:
    """Gives one output as float64, in the shape that it must have."""
    _expect(vector, "DMS-S-001", name in outputs, f"{name} is missing")
    try:
        values = np.asarray(outputs[name], dtype=np.float64)
    except (TypeError, ValueError):
        values = np.empty(0)
    # A list of no rows cannot say how long its rows would be.
    if values.size == prod(shape) == 0:
        values = values.reshape(shape)
    _expect(vector, "DMS-S-001", values.shape == shape, f"{name} is not an array of shape {shape}")
    return values


def _expect(vector: Vector, clause: str, truth: Any, what: str) -> None:
    if not np.all(truth):
        raise ConformanceError(
            f"{clause}: {what} ({vector.description}, {vector.dtype}). "
            f"The clause: {clauses()[clause].text}"
        )
