"""Computes in NumPy what the plain primitives compute, with less memory traffic."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dms_spec.equations import primitives as plain
from dms_spec.equations.namespace import Lent, Namespace, never

# NumPy begins a loop anew for each row: up to this width, whole columns are faster.
_NARROW = 32

# A squared length in between is exact in every dtype, and so are the squares that matter to it.
_LEAST, _MOST = 1e-20, 1e20


def select(mask: NDArray[np.bool_], values: NDArray[Any]) -> NDArray[Any]:
    """The values where the mask holds, 0 elsewhere; without a copy when it holds everywhere."""
    if mask.all():
        return values
    return np.where(mask[..., None] if values.ndim > mask.ndim else mask, values, 0)


def filled(mask: NDArray[np.bool_], values: NDArray[Any], other: float) -> NDArray[Any]:
    """The values where the mask holds, some number elsewhere; without a copy likewise."""
    return values if mask.all() else np.where(mask, values, values.dtype.type(other))


def constant(value: float, like: NDArray[Any]) -> NDArray[Any]:
    """A scalar array of the same dtype."""
    return np.array(value, like.dtype)


def count(array: NDArray[Any], axis: int, dtype: Any = None) -> NDArray[Any]:
    """The size of an axis, as a scalar array."""
    return np.array(array.shape[axis], dtype or array.dtype)


def clip(values: NDArray[Any], low: float, high: float) -> NDArray[Any]:
    """Limits values to [low, high]."""
    return np.asarray(np.minimum(np.maximum(values, low), high))


def lend(array: NDArray[Any]) -> Lent:
    """A view that cannot be written to."""
    view = array.view()
    view.flags.writeable = False
    return view, never


def variance_over_passes(mc_logits: NDArray[Any]) -> NDArray[Any]:
    """Population variance over T of softmax(l), summed over classes: [T, B, M, C] -> [B, M].

    The plain form in one buffer, with the sums over classes left to BLAS.
    """
    p = mc_logits - mc_logits.max(axis=-1, keepdims=True)
    np.exp(p, out=p)
    p /= np.matmul(p, np.ones(p.shape[-1], dtype=p.dtype))[..., None]
    p -= p.mean(axis=0)
    # Of BLAS: einsum adds one by one, and a thousand equal classes then lose a digit.
    return np.asarray(np.vecdot(p, p).mean(axis=0))


def softmax(logits: NDArray[Any], axis: int = -1) -> NDArray[Any]:
    """The plain form in one buffer."""
    e = logits - _along(np.maximum, logits, axis)
    np.exp(e, out=e)
    e /= _along(np.add, e, axis)
    return np.asarray(e)


def log_softmax(logits: NDArray[Any], axis: int = -1) -> NDArray[Any]:
    """The plain form in two buffers."""
    shifted = logits - _along(np.maximum, logits, axis)
    shifted -= np.log(_along(np.add, np.exp(shifted), axis))
    return np.asarray(shifted)


def logsumexp(logits: NDArray[Any], axis: int = -1) -> NDArray[Any]:
    """The plain form in one buffer."""
    peak = _along(np.maximum, logits, axis)
    e = logits - peak
    total = _along(np.add, np.exp(e, out=e), axis)
    return np.asarray(np.squeeze(peak + np.log(total), axis=axis))


def _along(reduction: np.ufunc, array: NDArray[Any], axis: int = -1) -> NDArray[Any]:
    """Reduces an axis, which stays with size one: a short last one column by column."""
    if axis not in (-1, array.ndim - 1) or not 0 < array.shape[axis] <= _NARROW:
        return np.asarray(reduction.reduce(array, axis=axis, keepdims=True))
    # As moveaxis, which takes longer than the rest.
    columns = np.ascontiguousarray(array.transpose(array.ndim - 1, *range(array.ndim - 1)))
    return np.asarray(reduction.reduce(columns, axis=0)[..., None])


def usable(
    *,
    features: NDArray[Any] | None = None,
    logits: NDArray[Any] | None = None,
    mc_logits: NDArray[Any] | None = None,
) -> NDArray[np.bool_]:
    """The plain form; the maxima of few classes are taken column by column."""
    verdicts = []
    if features is not None:
        verdicts.append(np.isfinite(features).all(axis=-1))
    if logits is not None:
        verdicts.append(np.isfinite(_along(np.maximum, logits))[..., 0])
    if mc_logits is not None:
        verdicts.append(np.isfinite(_along(np.maximum, mc_logits))[..., 0].all(axis=0))
    return np.asarray(reduce(np.logical_and, verdicts))


def masked_softmax(scores: NDArray[Any], active: NDArray[np.bool_]) -> NDArray[Any]:
    """The plain form, where what is not active is -inf."""
    held = np.where(active, scores, scores.dtype.type(-np.inf))
    peak = _along(np.maximum, held)
    e = np.exp(held - np.where(_along(np.logical_or, active), peak, peak.dtype.type(0)))
    total = _along(np.add, e)
    return np.asarray(e / np.where(total > 0, total, total.dtype.type(1)))


def logaddexp(left: NDArray[Any], right: NDArray[Any]) -> NDArray[Any]:
    """max(a, b) + log(1 + e^-|a - b|), as NumPy's, whose loop has no vectors."""
    gap = np.asarray(left - right)
    if np.isnan(gap).any():  # such as that of two equal infinities
        return np.asarray(np.logaddexp(left, right))
    np.abs(gap, out=gap)
    np.negative(gap, out=gap)
    np.exp(gap, out=gap)
    np.log1p(gap, out=gap)
    gap += np.maximum(left, right)
    return gap


def log_distance(
    ns: Namespace, features: NDArray[Any], parameters: Mapping[str, NDArray[Any]]
) -> NDArray[Any]:
    """The plain form without its units, and with them where a square leaves the dtype's range."""
    squares, wholes = np.empty((2, *features.shape[:2]), features.dtype)
    with np.errstate(over="ignore", invalid="ignore"):
        for m in range(features.shape[1]):
            own = {name: parameters[name][m] for name in _PLACE}
            squares[:, m], wholes[:, m] = _square_distance(features[:, m], **own)
    ordinary = np.ones(len(features), dtype=bool)
    for lengths in (squares, wholes):
        ordinary &= ((lengths > _LEAST) & (lengths < _MOST)).all(axis=1)
    if ordinary.all():
        return np.asarray(0.5 * np.log(squares))
    found = np.empty_like(squares)
    found[ordinary] = 0.5 * np.log(squares[ordinary])
    found[~ordinary] = plain.log_distance(ns, features[~ordinary], parameters)
    return np.asarray(found)


_PLACE = ("center", "whitening", "deviations", "prototypes", "outside")


def _square_distance(
    x: NDArray[Any],
    center: NDArray[Any],
    whitening: NDArray[Any],
    deviations: NDArray[Any],
    prototypes: NDArray[Any],
    outside: NDArray[Any],
) -> tuple[NDArray[Any], NDArray[Any]]:
    """d^2 and |x - a|^2 of one modality, [B, D] -> [B], wrong where a square is out of range."""
    offset = x - center
    y = offset @ whitening if whitening.ndim == 2 else offset * whitening
    whole, length = np.vecdot(offset, offset), y * deviations
    # |y - nu|^2 multiplied out, the least of it first.
    apart = y @ (-2.0 * prototypes.T)
    apart += np.vecdot(prototypes, prototypes)
    nearest = _along(np.minimum, apart)[:, 0] + np.vecdot(y, y)
    rest = whole - np.vecdot(length, length)
    return np.maximum(nearest, 0) + outside * np.maximum(rest, 0), whole
