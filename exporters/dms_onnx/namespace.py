"""Makes the namespace that a graph is traced in, with ONNX's own operators as primitives."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any

import numpy as np
import spox
import spox.opset.ai.onnx.v21 as op
from ndonnx import Array

from dms_onnx import array_api
from dms_onnx.array_api import integers, var, wrap
from dms_spec.equations.namespace import Namespace

# Far above round-off, and small enough that a sum of finite entries stays finite.
_SCALE = 1e-8


def onnx_namespace() -> Namespace:
    """Makes the namespace for one graph. It remembers what it has put into its graph."""
    graph = _Graph()
    return Namespace.of(
        array_api,
        Array,
        traced=lambda: True,
        softmax=softmax,
        log_softmax=log_softmax,
        entropy=graph.entropy,
        masked_softmax=masked_softmax,
        cosine=cosine,
        clip=clip,
        others=others,
        usable=graph.usable,
        count=graph.count,
        select=graph.select,
        variance_over_passes=graph.variance_over_passes,
    )


def softmax(logits: Array, axis: int = -1) -> Array:
    return wrap(op.softmax(var(logits), axis=axis))


def log_softmax(logits: Array, axis: int = -1) -> Array:
    return wrap(op.log_softmax(var(logits), axis=axis))


def entropy(logits: Array) -> Array:
    """H = -sum p log p, with a floor under log p that keeps 0 * -inf out."""
    log_p = op.max([op.log_softmax(var(logits)), var(-1e4, logits)])
    return wrap(
        op.neg(op.reduce_sum(op.mul(op.softmax(var(logits)), log_p), integers(-1), keepdims=0))
    )


def masked_softmax(scores: Array, active: Array) -> Array:
    """Selects away the operator's softmax of a row of -inf, which may be NaN or anything."""
    there = var(active)
    weights = op.softmax(op.where(there, var(scores), var(-np.inf, scores)))
    return wrap(op.where(there, weights, var(0.0, scores)))


def cosine(left: Array, right: Array) -> Array:
    """Where a vector is zero, the product is zero too, so any divisor above 0 will do."""
    xp = array_api
    norms = xp.linalg.vector_norm(left, axis=-1) * xp.linalg.vector_norm(right, axis=-1)
    dot = xp.sum(left * right, axis=-1)
    tiny = float(np.finfo(left.dtype.unwrap_numpy()).tiny)
    return clip(dot / xp.maximum(norms, tiny), -1.0, 1.0)


def clip(values: Array, low: float, high: float) -> Array:
    return wrap(op.clip(var(values), var(low, values), var(high, values)))


def variance_over_passes(mc_logits: Array) -> Array:
    """Population variance over T of softmax(l), summed over classes: [T, B, M, C] -> [B, M].

    With G = P P^T over the passes, [B, M, T, T], it is trace(G)/T - sum(G)/T^2.
    """
    p = op.transpose(op.softmax(var(mc_logits), axis=-1), perm=[1, 2, 0, 3])
    gram = op.matmul(p, op.transpose(p, perm=[0, 1, 3, 2]))
    own = op.einsum([gram], equation="bmtt->bmt")
    square = op.reduce_mean(own, integers(-1), keepdims=0)
    variance = op.sub(square, op.reduce_mean(gram, integers(-2, -1), keepdims=0))
    return array_api.maximum(wrap(variance), 0.0)


def others(array: Array) -> Array:
    """Makes the matrix as a constant, since M is known."""
    return wrap(var(1.0 - np.eye(array.shape[1] or 0), array))


class _Graph:
    """Holds primitives that share values: sizes of axes, vectors of ones, what was selected."""

    def __init__(self) -> None:
        self._sizes: dict[str, spox.Var] = {}
        # What was selected, by the value that stands for it: the mask, and what was there before.
        self._selected: dict[spox.Var, tuple[Array, Array]] = {}

    def _size(self, array: Array, axis: int) -> spox.Var:
        """Gives the size of an axis, int64 [1]. An axis with a name is measured once."""
        axis %= array.ndim
        size = array.shape[axis]
        if size is not None:
            return integers(size)
        axes = var(array).unwrap_tensor().shape
        name = axes[axis] if axes else None
        if isinstance(name, str) and name in self._sizes:
            return self._sizes[name]
        found = op.shape(var(array), start=axis, end=axis + 1)
        if isinstance(name, str):
            self._sizes[name] = found
        return found

    def count(self, array: Array, axis: int, dtype: Any = None) -> Array:
        """Gives the size of an axis, read from the array when the graph runs: [1]."""
        kind = (array.dtype if dtype is None else dtype).unwrap_numpy()
        return wrap(op.cast(self._size(array, axis), to=kind))

    def usable(
        self,
        *,
        features: Array | None = None,
        logits: Array | None = None,
        mc_logits: Array | None = None,
    ) -> Array:
        """Gives one number for each modality, below +Inf where everything is as it should be.

        It uses sums, not maxima alone: ONNX does not say what a maximum makes of NaN, and one
        runtime skips it. The size of the sum of features is NaN or +Inf unless all are finite. A
        row of logits gives its sum less its maximum: NaN for NaN, for +Inf and for nothing but
        -Inf, and otherwise finite, or -Inf where a single class is ruled out.
        """
        parts = []
        if features is not None:
            scaled = op.mul(var(features), var(_SCALE, features))
            parts.append(op.abs(op.reduce_sum(scaled, integers(-1), keepdims=1)))
        if logits is not None:
            parts.append(self._spread(logits))
        if mc_logits is not None:
            parts.append(self._spread(mc_logits))
        # The passes' own axis is summed over as well; what has none is counted once for each.
        total = reduce(op.add, parts)
        axes = (-1,) if mc_logits is None else (0, -1)
        total = op.reduce_sum(total, integers(*axes), keepdims=0)
        given = next(a for a in (features, logits) if a is not None)
        return wrap(op.less(total, var(np.inf, given)))

    def _spread(self, logits: Array) -> spox.Var:
        """Sums over classes, scaled, and subtracts the maximum: [..., C] -> [...].

        As a matrix product, which reads the passes once and writes nothing of their size. Some
        runtimes begin a maximum at the lowest finite number, and give that for nothing but -Inf:
        it is pushed to -Inf, unless the sum says that there is no -Inf.
        """
        # expand, not constant_of_shape: onnx cannot take that back to opset 18.
        column = op.expand(var([_SCALE], logits), self._size(logits, -1))
        total = op.matmul(var(logits), op.unsqueeze(column, integers(-1)))
        peak = op.reduce_max(var(logits), integers(-1), keepdims=1)
        above_one = 1.0 + float(np.finfo(logits.dtype.unwrap_numpy()).eps)
        peak = op.max([op.mul(peak, var(above_one, logits)), total])
        return op.sub(total, peak)

    def select(self, mask: Array, values: Array) -> Array:
        there = var(mask)
        if values.ndim > mask.ndim:
            there = op.unsqueeze(there, integers(-1))
        selected = op.where(there, var(values), var(0.0, values))
        if values.ndim > mask.ndim:
            self._selected[selected] = (mask, values)
        return wrap(selected)

    def _before_selection(self, function: Callable[[Array], Array], values: Array) -> Array:
        """Computes a function of rows before the selection, and selects its result.

        The arrays are large and the results are small; and no row reaches another's result.
        """
        mask, before = self._selected.get(var(values), (None, values))
        result = function(before)
        return result if mask is None else self.select(mask, result)

    def entropy(self, logits: Array) -> Array:
        return self._before_selection(entropy, logits)

    def variance_over_passes(self, mc_logits: Array) -> Array:
        return self._before_selection(variance_over_passes, mc_logits)
