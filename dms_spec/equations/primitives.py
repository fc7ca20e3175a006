"""Holds the plain primitives: small array functions that the equations are written in.

A backend may replace each by something faster of its own, never by something different. Equations
call them through their `Namespace`, as ``ns.softmax`` and so on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dms_spec.types import Array

# exp(-1e4) is 0 in every float dtype, and 0 * -1e4 is 0 where 0 * -inf would be NaN.
_NO_MASS = -1e4


def device_of(array: Array) -> Any:
    """Where an array is, to make another there; None, the default device, if it cannot say.

    JAX hides the device while it traces (https://github.com/jax-ml/jax/issues/26000).
    """
    return getattr(array, "device", None)


def softmax(xp: Any, logits: Array, axis: int = -1) -> Array:
    """exp(l) / sum exp(l) along an axis, shifted by the maximum; -inf gives 0."""
    e = xp.exp(logits - xp.max(logits, axis=axis, keepdims=True))
    return e / xp.sum(e, axis=axis, keepdims=True)


def logsumexp(xp: Any, logits: Array, axis: int = -1) -> Array:
    """The log of the sum of exp(l) along an axis, which it drops; shifted by the maximum."""
    peak = xp.max(logits, axis=axis, keepdims=True)
    total = xp.sum(xp.exp(logits - peak), axis=axis, keepdims=True)
    return xp.squeeze(peak + xp.log(total), axis=axis)


def logaddexp(xp: Any, left: Array, right: Array) -> Array:
    """log(e^a + e^b) of each pair; they are broadcast."""
    return xp.logaddexp(left, right)


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


def mutual_information(ns: Any, mc_logits: Array) -> Array:
    """Mean over passes of KL(p_t || mean p), which subtracts no two nearly equal entropies (E8).

    Composed of other primitives, so it gets the namespace: [T, B, M, C] -> [B, M].
    """
    xp = ns.xp
    # The floor stands in for log 0: such a class has p = 0, and 0 * floor is 0.
    log_p = xp.maximum(ns.log_softmax(mc_logits, axis=-1), ns.constant(_NO_MASS, mc_logits))
    log_mean = ns.logsumexp(log_p, axis=0) - xp.log(ns.count(mc_logits, 0))
    divergence = xp.sum(xp.exp(log_p) * (log_p - log_mean), axis=-1)
    mean = xp.mean(divergence, axis=0)
    return xp.maximum(mean, ns.constant(0.0, mean))


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
    """The values where the mask [B, M] holds, and exactly 0 elsewhere, NaN and Inf included.

    The mask is aligned with the axes B and M of ``[B, M]``, ``[B, M, *]``, ``[T, B, M, *]``.
    """
    if values.ndim > mask.ndim:
        mask = mask[..., None]
    return xp.where(mask, values, xp.zeros((), dtype=values.dtype, device=device_of(values)))


def filled(xp: Any, mask: Array, values: Array, other: float) -> Array:
    """The values where the mask holds, and some number elsewhere; the mask is broadcast."""
    return xp.where(mask, values, xp.full((), other, dtype=values.dtype, device=device_of(values)))


def constant(xp: Any, value: float, like: Array) -> Array:
    """A scalar array of the same dtype and device as another array."""
    return xp.full((), value, dtype=like.dtype, device=device_of(like))


def count(xp: Any, array: Array, axis: int, dtype: Any = None) -> Array:
    """The size of an axis, to compute with: never frozen into a traced graph.

    An array of one entry, of the dtype of the other or another one; it broadcasts like a scalar.
    """
    kind = array.dtype if dtype is None else dtype
    return xp.full((), array.shape[axis], dtype=kind, device=device_of(array))


def clip(xp: Any, values: Array, low: float, high: float) -> Array:
    """Limits values to [low, high]: for round-off at the ends of a range, and nothing else."""
    least, most = (
        xp.full((), v, dtype=values.dtype, device=device_of(values)) for v in (low, high)
    )
    return xp.minimum(xp.maximum(values, least), most)


def others(xp: Any, array: Array) -> Array:
    """Ones off the diagonal, [M, M]: a matrix product with it sums over the others."""
    # Not eye: the array API's is filled in place for torch, which no exporter follows.
    m = xp.arange(array.shape[1], device=device_of(array))
    return xp.astype(m[:, None] != m, array.dtype)


def usable(
    xp: Any,
    *,
    features: Array | None = None,
    logits: Array | None = None,
    mc_logits: Array | None = None,
) -> Array:
    """Finds the modalities whose numbers mean something: bool [B, M].

    Features must be finite. A row of logits must have a finite maximum. It has none if an entry is
    NaN or +Inf, or if all are -Inf; single -Inf entries are legal zeros. If one pass in
    ``mc_logits`` is bad, the modality counts as absent for that sample.

    At least one of them must be given.
    """
    verdicts = []
    if features is not None:
        verdicts.append(xp.all(xp.isfinite(features), axis=-1))
    if logits is not None:
        verdicts.append(xp.isfinite(xp.max(logits, axis=-1)))
    if mc_logits is not None:
        verdicts.append(xp.all(xp.isfinite(xp.max(mc_logits, axis=-1)), axis=0))
    verdict = verdicts[0]
    for other in verdicts[1:]:
        verdict = verdict & other
    return verdict


def masked_softmax(xp: Any, scores: Array, active: Array) -> Array:
    """w = exp(s) / sum exp(s) over the active modalities, exactly 0 elsewhere: [B, M].

    Equation E6; DMS (arXiv 2506.12724) section 3.2. One active gives exactly 1, none gives a
    row of zeros. Selection comes before the exponential, so a NaN score of an inactive modality
    reaches neither a value nor a gradient.
    """
    zero = xp.zeros((), dtype=scores.dtype, device=device_of(scores))
    peak = xp.max(xp.where(active, scores, zero - float("inf")), axis=-1, keepdims=True)
    # A row with nothing active has no maximum.
    peak = xp.where(xp.any(active, axis=-1, keepdims=True), peak, zero)
    e = xp.where(active, xp.exp(xp.where(active, scores, peak) - peak), zero)
    total = xp.sum(e, axis=-1, keepdims=True)
    return e / xp.where(total > 0, total, zero + 1.0)


def weighted_sum(xp: Any, values: Array, weights: Array) -> Array:
    """sum_m w_m h_m: [B, M, D], [B, M] -> [B, D]."""
    return xp.squeeze(xp.matmul(weights[:, None, :], values), axis=1)


def rescaled(ns: Any, vectors: Array) -> tuple[Array, Array]:
    """Vectors divided by their largest absolute entry, and that size, ``[..., 1]``.

    Keeps squares inside the dtype's range, whatever the size of the vectors. A cosine does not
    depend on the scale, so no gradient goes through it. The size is never below the smallest
    normal number: a smaller vector keeps some of its smallness. A zero vector stays 0, of size 0.
    """
    xp = ns.xp
    peak = ns.stop_gradient(_largest(xp, vectors))
    divisor = xp.maximum(peak, smallest(ns, peak))
    return vectors / divisor, xp.where(peak > 0, divisor, peak)


def smallest(ns: Any, like: Array) -> Array:
    """The smallest normal number: a divisor that leaves 0 at 0, where another would be 0 too."""
    return ns.constant(float(ns.xp.finfo(like.dtype).smallest_normal), like)


def alignment(ns: Any, features: Array) -> Array:
    """Cosine with the mean of the other modalities, 0 where either is zero: [B, M, D] -> [B, M].

    Of what is absent the features are 0. Composed of other primitives, so it gets the namespace.
    """
    xp = ns.xp
    unit, size = rescaled(ns, features)
    # The mean's direction is that of the sum. The sum is taken relative to the largest of the
    # others, so that it neither overflows nor vanishes, and without a "sum minus self", which
    # loses everything when the others cancel.
    relative = ns.others(unit) * xp.matrix_transpose(size)
    largest = xp.max(relative, axis=-1, keepdims=True)
    relative = relative / xp.maximum(largest, smallest(ns, largest))
    # Both sides are now of size one, or 0, or what rounding leaves of a sum that cancels.
    return ns.cosine(unit, xp.matmul(relative, unit))


def log_distance(ns: Any, features: Array, parameters: Mapping[str, Array]) -> Array:
    """Log of the distance from what is typical: [B, M, D] -> [B, M]; see `typicality`."""
    xp, p = ns.xp, parameters
    one = ns.constant(1.0, features)
    least = smallest(ns, features)
    # Each length is taken in units of its largest part, so that no square leaves the range of the
    # dtype, whatever the features and their deviations are measured in. No gradient goes through
    # units: the result does not depend on them.
    peak = xp.maximum(_largest(xp, features), xp.maximum(_largest(xp, p["center"]), one))
    peak = ns.stop_gradient(peak)
    offset = features / peak - p["center"] / peak
    diagonal = p["whitening"].ndim == 2
    y = offset * p["whitening"] if diagonal else _each(xp, offset, p["whitening"])
    farthest = xp.max(xp.abs(p["prototypes"]), axis=(-2, -1))[..., None]
    reach = xp.maximum(xp.maximum(_largest(xp, y), farthest / peak), least)
    reach = ns.stop_gradient(reach)
    # |y - nu|^2 multiplied out: nothing of size [B, M, c, r] is made.
    inside, share = y / reach, farthest / peak / reach
    nu = p["prototypes"] / xp.maximum(farthest, least)[..., None]
    square = xp.sum(inside * inside, axis=-1, keepdims=True)
    across = _each(xp, inside, xp.matrix_transpose(nu)) * share
    own = xp.sum(nu * nu, axis=-1) * share * share
    nearest = xp.min(square - 2.0 * across + own, axis=-1)
    extent = ns.stop_gradient(xp.maximum(_largest(xp, offset), least))
    whole, length = offset / extent, y * p["deviations"] / extent
    outside = xp.sum(whole * whole, axis=-1) - xp.sum(length * length, axis=-1)
    zero, weight = ns.constant(0.0, nearest), p["outside"]
    reach, extent = reach[..., 0], extent[..., 0]
    unit = ns.stop_gradient(xp.maximum(reach, xp.sqrt(weight) * extent))
    reach, extent = reach / unit, extent / unit
    total = xp.maximum(nearest, zero) * reach * reach
    total = total + weight * extent * extent * xp.maximum(outside, zero)
    return 0.5 * xp.log(xp.maximum(total, least)) + xp.log(unit) + xp.log(peak[..., 0])


def _largest(xp: Any, vectors: Array) -> Array:
    """The largest absolute entry over the last axis, which it keeps."""
    return xp.max(xp.abs(vectors), axis=-1, keepdims=True)


def _each(xp: Any, rows: Array, matrices: Array) -> Array:
    """Each modality's rows times its own matrix: [B, M, D], [M, D, r] -> [B, M, r]."""
    product = xp.matmul(xp.permute_dims(rows, (1, 0, 2)), matrices)
    return xp.permute_dims(product, (1, 0, 2))
