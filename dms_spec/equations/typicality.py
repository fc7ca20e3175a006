"""Computes typicality: do a modality's features look like those that its head has learned from?

Far from its training data a head can be wrong with confidence, and a distance shows how far that
is. The model of what is typical is one Gaussian for each class, with a covariance that they share
(Lee et al. 2018, arXiv 1807.03888). Where there are many features, it has a subspace, and one
variance outside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dms_spec.equations.namespace import Namespace
from dms_spec.interface.signal import Evidence, Signal
from dms_spec.types import Array

#: The parameters of `log_distance`.
PLACE: Mapping[str, str] = {
    "center": "M D",
    "whitening": "M D r | M D",
    "deviations": "M r | M D",
    "prototypes": "M c r | M c D",
    "outside": "M",
}

#: The parameters that say what a distance costs in trust.
TRUST: Mapping[str, str] = {"band": "M 2", "loss": "M 2"}


def typicality(ns: Namespace, evidence: Evidence) -> Array:
    """t_m = log(s(e_m) / s(0)), s(e) = 1 / (1 + exp(k (e - h))): 0 where typical, else below.

    e is how far the log-distance of `log_distance` lies outside the ``band`` of clean validation
    samples. It may lie on either side: too far from every prototype, or closer than samples come
    (the typical set; Nalisnick et al. 2019, arXiv 1906.02994). k and h are the two numbers of
    ``loss``. They are fitted so that ``exp(t)`` is the share of trust that the modality's head
    deserves there.
    Equation E21; dms-spec, clause DMS-Q-013. Without parameters it is 0.
    """
    xp, p = ns.xp, evidence.parameters
    distance = log_distance(ns, evidence.features, p)
    zero = ns.constant(0.0, distance)
    low, high = p["band"][:, 0], p["band"][:, 1]
    excess = xp.maximum(distance - high, zero) + xp.maximum(low - distance, zero)
    steepness, onset = p["loss"][:, 0], p["loss"][:, 1]
    kept = xp.logaddexp(-steepness * onset, zero)
    lost = xp.minimum(kept - xp.logaddexp(steepness * (excess - onset), zero), zero)
    # Selected: a compiler that folds the first logarithm may round the two differently.
    return xp.where(excess > 0, lost, zero)


def log_distance(ns: Namespace, features: Array, parameters: Mapping[str, Array]) -> Array:
    """log d, half the log of ``d^2 = min_c |y - nu_c|^2 + o (|x - a|^2 - |V y|^2)``.

    ``y = (x - a) W`` are whitened coordinates, ``nu_c`` the prototypes in them. W has orthogonal
    columns; V, the ``deviations``, scales y back to lengths in the features' own units, so that
    the last term is the squared length outside the subspace, over its variance 1 / o. With a
    diagonal covariance W is a vector, with a full one o is 0.

    Args:
        ns: The namespace to compute in.
        features: x, ``[B, M, D]``, finite, of any magnitude.
        parameters: ``center`` a [M, D], ``whitening`` W [M, D, r] or [M, D], ``deviations`` V
            [M, r], ``prototypes`` nu [M, c, r], ``outside`` o [M].

    Returns:
        ``[B, M]``, finite also at a prototype, where it is some large negative number.
    """
    xp, p = ns.xp, parameters
    one = ns.constant(1.0, features)
    least = ns.constant(float(xp.finfo(features.dtype).smallest_normal), features)
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


SIGNALS: tuple[Signal, ...] = (
    Signal(
        name="typicality",
        function=typicality,
        needs=("features",),
        direction=1,
        source="Lee et al. 2018, arXiv 1807.03888 (distance); dms-spec 2026.11 (loss of trust)",
        equation="E21",
        bounds="at most 0, unbounded below",
        parameters={**PLACE, **TRUST},
        parameters_optional=True,
        by_itself=True,
        log_trust=True,
    ),
)
