"""The namespace that equations compute in: an array-API module and a few primitives.

A backend hands in the array-API module of its library (`array_api_compat` gives one) and, where
its library has something better than the plain composition, a primitive of its own. A primitive
may be faster, never different: conformance holds it to the plain one.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

from dms_spec.errors import unknown
from dms_spec.types import Array

# exp(-1e4) is 0 in every float dtype, and 0 * -1e4 is 0 where 0 * -inf would be NaN.
_NO_MASS = -1e4


def softmax(xp: Any, logits: Array, axis: int = -1) -> Array:
    """exp(l) / sum exp(l) along an axis, shifted by the maximum; -inf gives 0."""
    e = xp.exp(logits - xp.max(logits, axis=axis, keepdims=True))
    return e / xp.sum(e, axis=axis, keepdims=True)


def logsumexp(xp: Any, logits: Array, axis: int = -1) -> Array:
    """The log of the sum of exp(l) along an axis, which it drops; shifted by the maximum."""
    peak = xp.max(logits, axis=axis, keepdims=True)
    total = xp.sum(xp.exp(logits - peak), axis=axis, keepdims=True)
    return xp.squeeze(peak + xp.log(total), axis=axis)


def log_softmax(xp: Any, logits: Array, axis: int = -1) -> Array:
    """l - log sum exp(l) along an axis; -inf stays -inf."""
    shifted = logits - xp.max(logits, axis=axis, keepdims=True)
    return shifted - xp.log(xp.sum(xp.exp(shifted), axis=axis, keepdims=True))


def variance_over_passes(xp: Any, mc_logits: Array) -> Array:
    """Population variance over T of the class probabilities, summed over classes (equation E3).

    Two passes over the data, not E[p^2] - E[p]^2, which cancels: [T, B, M, C] -> [B, M].
    """
    p = softmax(xp, mc_logits)
    deviation = p - xp.mean(p, axis=0, keepdims=True)
    return xp.sum(xp.mean(deviation * deviation, axis=0), axis=-1)


def select(xp: Any, mask: Array, values: Array) -> Array:
    """The values where the mask [B, M] holds, exactly 0 elsewhere, NaN and Inf included.

    The mask is aligned with the axes B and M of ``[B, M]``, ``[B, M, *]``, ``[T, B, M, *]``.
    """
    if values.ndim > mask.ndim:
        mask = mask[..., None]
    return xp.where(mask, values, xp.zeros((), dtype=values.dtype, device=values.device))


def _no_gradient(values: Array) -> Array:
    return values


@dataclass(frozen=True, kw_only=True)
class Namespace:
    """An array-API module with the primitives that equations are written in.

    Build it with `Namespace.of`. The callables that work on arrays are the primitives.

    Attributes:
        xp: The array-API module.
        array_type: The class of its arrays; anything else is refused by name.
        guard: Entered around each schedule. For a library that warns about overflows: the
            equations expect some (logits as far apart as the dtype is wide), and scores that
            overflow are refused with a message of their own. For one that lowers precision on
            its own (autocast): the computing dtype is the specification's.
        entries_at_once: How many input entries to schedule at a time, so that temporaries stay
            in a cache; None for all of them.
    """

    xp: Any
    array_type: type
    softmax: Callable[..., Array]
    logsumexp: Callable[..., Array]
    log_softmax: Callable[..., Array]
    variance_over_passes: Callable[[Array], Array]
    select: Callable[[Array, Array], Array]
    stop_gradient: Callable[[Array], Array]
    guard: Callable[[], AbstractContextManager[Any]] = nullcontext
    entries_at_once: int | None = None

    @classmethod
    def of(
        cls,
        xp: Any,
        array_type: type,
        *,
        guard: Callable[[], AbstractContextManager[Any]] = nullcontext,
        entries_at_once: int | None = None,
        **primitives: Callable[..., Array],
    ) -> Namespace:
        """The namespace of an array-API module.

        Args:
            xp: An array-API module (2024.12), such as ``array_api_compat.torch``.
            array_type: The class of its arrays.
            guard: A context manager to enter around each schedule.
            entries_at_once: How many input entries to schedule at a time.
            primitives: Faster replacements, by name. A library with gradients must hand in
                ``stop_gradient``; the default passes its argument on.

        Raises:
            UnknownName: A primitive's name is not one of the attributes of this class.
        """
        known: dict[str, Callable[..., Array]] = {
            f.__name__: partial(f, xp)
            for f in (softmax, logsumexp, log_softmax, variance_over_passes, select)
        }
        known["stop_gradient"] = _no_gradient
        for name in primitives:
            if name not in known:
                raise unknown("primitive", name, known)
        return cls(
            xp=xp,
            array_type=array_type,
            guard=guard,
            entries_at_once=entries_at_once,
            **(known | primitives),
        )

    def constant(self, value: float, like: Array) -> Array:
        """A scalar array of the same dtype and device as another array."""
        return self.xp.full((), value, dtype=like.dtype, device=like.device)

    def clip(self, values: Array, low: float, high: float) -> Array:
        """Values held to [low, high]: for round-off at the ends of a range, nothing else."""
        xp = self.xp
        return xp.minimum(
            xp.maximum(values, self.constant(low, values)), self.constant(high, values)
        )

    def shifted(self, logits: Array) -> Array:
        """Logits less their row maximum, with -inf replaced by a number that has no mass.

        Shifting costs nothing and is what keeps an offset of 1e4 harmless; the finite floor is
        what keeps 0 * -inf out of entropies and out of gradients.
        """
        peak = self.stop_gradient(self.xp.max(logits, axis=-1, keepdims=True))
        return self.xp.maximum(logits - peak, self.constant(_NO_MASS, logits))

    def count(self, array: Array, axis: int) -> Array:
        """The size of an axis as a scalar array: never frozen into a traced graph."""
        return self.xp.full((), array.shape[axis], dtype=array.dtype, device=array.device)

    def others(self, array: Array) -> Array:
        """Ones off the diagonal, [M, M]: a matrix product with it sums over the others."""
        m = array.shape[1]
        eye = self.xp.eye(m, dtype=array.dtype, device=array.device)
        return self.constant(1.0, array) - eye
