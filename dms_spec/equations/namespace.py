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

from dms_spec.equations.weights import device_of, masked_softmax, usable
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


def entropy(xp: Any, logits: Array) -> Array:
    """Entropy in nats of softmax(l) over the last axis: H = log S - sum(e^x x)/S, x = l - max l.

    Both parts are non-negative, so nothing cancels. -inf logits contribute 0 (0 log 0 = 0): the
    finite floor is what keeps 0 * -inf out of values and out of gradients.
    """
    peak = xp.max(logits, axis=-1, keepdims=True)
    x = xp.maximum(
        logits - peak, xp.full((), _NO_MASS, dtype=logits.dtype, device=device_of(logits))
    )
    e = xp.exp(x)
    total = xp.sum(e, axis=-1)
    return xp.log(total) - xp.sum(e * x, axis=-1) / total


def variance_over_passes(xp: Any, mc_logits: Array) -> Array:
    """Population variance over T of the class probabilities, summed over classes (equation E3).

    Two passes over the data, not E[p^2] - E[p]^2, which cancels: [T, B, M, C] -> [B, M].
    """
    p = softmax(xp, mc_logits)
    deviation = p - xp.mean(p, axis=0, keepdims=True)
    return xp.sum(xp.mean(deviation * deviation, axis=0), axis=-1)


def cosine(xp: Any, left: Array, right: Array) -> Array:
    """Cosine over the last axis of vectors whose squares are in range; 0 where either is zero.

    The axes before the last are broadcast.
    """
    norms = xp.linalg.vector_norm(left, axis=-1) * xp.linalg.vector_norm(right, axis=-1)
    defined = norms > 0
    zero = xp.zeros((), dtype=norms.dtype, device=device_of(norms))
    # Selected before the quotient, whose slope at a zero vector is infinite.
    dot = xp.where(defined, xp.sum(left * right, axis=-1), zero)
    return clip(xp, dot / xp.where(defined, norms, zero + 1.0), -1.0, 1.0)


def select(xp: Any, mask: Array, values: Array) -> Array:
    """The values where the mask [B, M] holds, exactly 0 elsewhere, NaN and Inf included.

    The mask is aligned with the axes B and M of ``[B, M]``, ``[B, M, *]``, ``[T, B, M, *]``.
    """
    if values.ndim > mask.ndim:
        mask = mask[..., None]
    return xp.where(mask, values, xp.zeros((), dtype=values.dtype, device=device_of(values)))


def count(xp: Any, array: Array, axis: int) -> Array:
    """The size of an axis, to compute with: never frozen into a traced graph.

    An array of one entry, of the dtype of the other; it broadcasts like a scalar.
    """
    return xp.full((), array.shape[axis], dtype=array.dtype, device=device_of(array))


def clip(xp: Any, values: Array, low: float, high: float) -> Array:
    """Values held to [low, high]: for round-off at the ends of a range, nothing else."""
    least, most = (
        xp.full((), v, dtype=values.dtype, device=device_of(values)) for v in (low, high)
    )
    return xp.minimum(xp.maximum(values, least), most)


def others(xp: Any, array: Array) -> Array:
    """Ones off the diagonal, [M, M]: a matrix product with it sums over the others."""
    # Not eye: the array API's is filled in place for torch, which no exporter follows.
    m = xp.arange(array.shape[1], device=device_of(array))
    return xp.astype(m[:, None] != m, array.dtype)


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
    entropy: Callable[[Array], Array]
    variance_over_passes: Callable[[Array], Array]
    masked_softmax: Callable[[Array, Array], Array]
    cosine: Callable[[Array, Array], Array]
    usable: Callable[..., Array]
    select: Callable[[Array, Array], Array]
    clip: Callable[[Array, float, float], Array]
    count: Callable[[Array, int], Array]
    others: Callable[[Array], Array]
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
            for f in (
                softmax,
                logsumexp,
                log_softmax,
                entropy,
                variance_over_passes,
                masked_softmax,
                cosine,
                usable,
                select,
                clip,
                count,
                others,
            )
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
        return self.xp.full((), value, dtype=like.dtype, device=device_of(like))
