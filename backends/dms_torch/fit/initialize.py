"""Starts classifiers that share a space at a ridge regression that validation rows choose."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dms_spec.embeddings.calibration import fit_temperature

_PENALTIES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
#: Enough rows to start from; the rest is left to the training.
RIDGE_ROWS = 2048

Floats = NDArray[np.float64]


def ridge_start(
    x: Floats,
    labels: NDArray[np.intp],
    classes: int,
    validation: Floats,
    validation_labels: NDArray[np.intp],
) -> NDArray[np.float32]:
    """Computes the weights of a classifier. Validation rows choose its penalty and its scale.

    Regression of the centred one-hot labels on inputs that are not centred, without an
    intercept, so that an input of zeros speaks for no class. Penalty and scale make the validation
    labels likeliest.

    Args:
        x: ``[N, D]``.
        labels: ``[N]``, from 0 to C - 1.
        classes: C.
        validation: Rows to choose by, ``[H, D]``.
        validation_labels: ``[H]``.

    Returns:
        ``[D, C]``; zeros where there is nothing to choose by.
    """
    best, found = np.inf, np.zeros((x.shape[1], classes))
    for weight in _path(x, labels, classes) if len(validation) else ():
        fitted = fit_temperature(validation @ weight, validation_labels)
        if fitted.nll_after < best:
            best, found = fitted.nll_after, weight / fitted.temperature
    return found.astype(np.float32)


def _path(x: Floats, labels: NDArray[np.intp], classes: int) -> list[Floats]:
    """Solves for every penalty, [D, C] each."""
    step = max(1, -(-len(x) // RIDGE_ROWS))
    x, labels = x[::step], labels[::step]
    rows, width = x.shape
    if not rows:
        return [np.zeros((width, classes))] * len(_PENALTIES)
    target = np.eye(classes)[labels]
    target = (target - target.mean(axis=0)) / rows
    if width <= rows:
        values, vectors = np.linalg.eigh(x.T @ x / rows)
        right, left = vectors.T @ (x.T @ target), vectors
    else:  # the same by way of the rows, which are fewer
        values, vectors = np.linalg.eigh(x @ x.T / rows)
        right, left = vectors.T @ target, x.T @ vectors
    values = np.maximum(values, 0.0)
    return [left @ (right / (values + penalty)[:, None]) for penalty in _PENALTIES]
