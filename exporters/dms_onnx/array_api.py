"""Gives lazy ONNX values the array API: ndonnx, and ONNX's own operators where it guards too much.

ndonnx follows the array API to the letter: its maximum propagates NaN, its reductions have an
answer for arrays without entries. In a graph that costs an ``If`` and a dozen nodes each time.
The equations need neither. They replace every NaN before they compute (`primitives.usable` finds
it, by the primitives of `dms_onnx.namespace`), and reduce over axes that are never empty. So the
functions here write one operator each; everything else is ndonnx's.
"""

from __future__ import annotations

from typing import Any

import ndonnx
import numpy as np
import spox
import spox.opset.ai.onnx.v21 as op
from ndonnx import Array
from numpy.typing import NDArray


def wrap(var: spox.Var) -> Array:
    """Wraps a value of the graph as a lazy array."""
    return ndonnx.asarray(var)


def var(array: Any, like: Array | None = None) -> spox.Var:
    """Gives the value of the graph behind a lazy array, or a constant of the dtype of another."""
    if isinstance(array, Array):
        return array.unwrap_spox()
    dtype = None if like is None else like.dtype.unwrap_numpy()
    return _constant(np.asarray(array, dtype=dtype))


def integers(*values: int) -> spox.Var:
    """Makes a constant int64 vector."""
    return _constant(np.asarray(values, dtype=np.int64))


_CONSTANTS: dict[tuple[str, tuple[int, ...], bytes], spox.Var] = {}


def _constant(array: NDArray[Any]) -> spox.Var:
    """Makes a constant once: half of the time of tracing went into the same few numbers."""
    key = (array.dtype.str, array.shape, array.tobytes())
    if key not in _CONSTANTS:
        _CONSTANTS[key] = op.const(array)
    return _CONSTANTS[key]


def __getattr__(name: str) -> Any:
    return getattr(ndonnx, name)


def _axes(axis: int | tuple[int, ...]) -> spox.Var:
    return integers(*((axis,) if isinstance(axis, int) else axis))


def max(x: Array, /, *, axis: int | tuple[int, ...], keepdims: bool = False) -> Array:
    return wrap(op.reduce_max(var(x), _axes(axis), keepdims=int(keepdims)))


def min(x: Array, /, *, axis: int, keepdims: bool = False) -> Array:
    return wrap(op.reduce_min(var(x), _axes(axis), keepdims=int(keepdims)))


def sum(x: Array, /, *, axis: int | tuple[int, ...], keepdims: bool = False) -> Array:
    return wrap(op.reduce_sum(var(x), _axes(axis), keepdims=int(keepdims)))


def mean(x: Array, /, *, axis: int | tuple[int, ...], keepdims: bool = False) -> Array:
    return wrap(op.reduce_mean(var(x), _axes(axis), keepdims=int(keepdims)))


def any(x: Array, /, *, axis: int, keepdims: bool = False) -> Array:
    # Reductions of bool came with opset 20; this form has no lower bound.
    some = op.reduce_max(op.cast(var(x), to=np.float32), _axes(axis), keepdims=int(keepdims))
    return wrap(op.cast(some, to=np.bool_))


def all(x: Array, /, *, axis: int, keepdims: bool = False) -> Array:
    every = op.reduce_min(op.cast(var(x), to=np.float32), _axes(axis), keepdims=int(keepdims))
    return wrap(op.cast(every, to=np.bool_))


def maximum(x: Array, y: Array | float, /) -> Array:
    return wrap(op.max([var(x), var(y, x)]))


def minimum(x: Array, y: Array | float, /) -> Array:
    return wrap(op.min([var(x), var(y, x)]))


def logaddexp(x: Array, y: Array, /) -> Array:
    """Starts from the larger and the distance of the other, so that no exponential overflows."""
    apart = op.neg(op.abs(op.sub(var(x), var(y, x))))
    # Not the operator Softplus, which one runtime does not have for float64; nor log(1 + t), which
    # loses a small t beside a maximum of 0.
    more = ndonnx.log1p(wrap(op.exp(apart)))
    return wrap(op.add(op.max([var(x), var(y, x)]), var(more)))


def where(condition: Array, x: Array, y: Array, /) -> Array:
    like = x if isinstance(x, Array) else y
    return wrap(op.where(var(condition), var(x, like), var(y, like)))


def matmul(x: Array, y: Array, /) -> Array:
    return wrap(op.matmul(var(x), var(y)))


class linalg:  # noqa: N801 - the array API's extension of that name
    """Holds what the equations use of the array API's linear algebra."""

    @staticmethod
    def vector_norm(x: Array, /, *, axis: int) -> Array:
        return wrap(op.reduce_l2(var(x), _axes(axis), keepdims=0))


def isfinite(x: Array, /) -> Array:
    return wrap(op.less(op.abs(var(x)), var(np.inf, x)))


def zeros(shape: tuple[int, ...], *, dtype: Any, device: Any = None) -> Array:
    return full(shape, 0, dtype=dtype, device=device)


def full(shape: tuple[int, ...], value: float, /, *, dtype: Any, device: Any = None) -> Array:
    del device
    if shape == ():
        return wrap(_constant(np.asarray(value, dtype=dtype.unwrap_numpy())))
    return ndonnx.full(shape, value, dtype=dtype)
