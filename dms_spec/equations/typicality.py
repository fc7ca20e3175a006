"""Typicality: do a modality's features look like those that its head has learned from?

A head is confidently wrong far from its training data; a distance is not. The model of what is
typical is one Gaussian for each class with a covariance that they share (Lee et al. 2018, arXiv
1807.03888), held to a subspace and one variance outside it where there are many features.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dms_spec.equations.namespace import Namespace
from dms_spec.equations.signals import Evidence, Signal
from dms_spec.types import Array

#: What places a modality's features, and with them `log_distance`.
PLACE: Mapping[str, str] = {
    "center": "M D",
    "whitening": "M D r | M D",
    "deviations": "M r | M D",
    "prototypes": "M c r | M c D",
    "outside": "M",
}

#: What a distance costs in trust.
TRUST: Mapping[str, str] = {"band": "M b", "loss": "M b"}


def typicality(ns: Namespace, evidence: Evidence) -> Array:
    """t_m = log(s(e_m) / s(0)), s(e) = 1 / (1 + exp(k (e - h))): 0 where typical, else below.

    e is how far the log-distance of `log_distance` lies outside the ``band`` of held-out clean
    samples, on either side: too far from every prototype, or closer than samples come (the
    typical set; Nalisnick et al. 2019, arXiv 1906.02994). k and h, the two numbers of ``loss``,
    are fitted so that ``exp(t)`` is the share of its skill that the modality's head keeps there.
    Equation E21; dms-spec, clause DMS-Q-013. Without parameters it is 0.
    """
    xp, p = ns.xp, evidence.parameters
    distance = log_distance(ns, evidence.features, p)
    zero = ns.constant(0.0, distance)
    low, high = p["band"][:, 0], p["band"][:, 1]
    excess = xp.maximum(distance - high, zero) + xp.maximum(low - distance, zero)
    steepness, onset = p["loss"][:, 0], p["loss"][:, 1]
    kept = xp.logaddexp(-steepness * onset, zero)
    return kept - xp.logaddexp(steepness * (excess - onset), zero)


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
        ``[B, M]``; at least half the log of the smallest normal number.
    """
    xp = ns.xp
    one = ns.constant(1.0, features)
    # Relative to the largest entry, so that no square overflows.
    peak = ns.stop_gradient(xp.maximum(xp.max(xp.abs(features), axis=-1, keepdims=True), one))
    offset = features / peak - parameters["center"] / peak
    whitening = parameters["whitening"]
    diagonal = whitening.ndim == 2
    y = offset * whitening if diagonal else _each(xp, offset, whitening)
    nu = parameters["prototypes"]
    # |y - nu|^2 multiplied out: nothing of size [B, M, c, r] is made.
    square = xp.sum(y * y, axis=-1, keepdims=True)
    across = _each(xp, y, xp.matrix_transpose(nu))
    own = xp.sum(nu * nu, axis=-1) / peak / peak
    nearest = xp.min(square - 2.0 * across / peak + own, axis=-1)
    length = y * parameters["deviations"]
    outside = xp.sum(offset * offset, axis=-1) - xp.sum(length * length, axis=-1)
    zero = ns.constant(0.0, nearest)
    total = xp.maximum(nearest, zero) + parameters["outside"] * xp.maximum(outside, zero)
    least = ns.constant(float(xp.finfo(total.dtype).smallest_normal), total)
    return 0.5 * xp.log(xp.maximum(total, least)) + xp.log(peak[..., 0])


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
    ),
)
