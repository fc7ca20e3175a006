"""Computes typicality: do a modality's features look like those that its head has learned from?

Far from its training data a head can be wrong with confidence, and a distance shows how far that
is. The model of what is typical is one Gaussian for each class, with a covariance that they share
(Lee et al. 2018, arXiv 1807.03888). Where there are many features, it has a subspace, and one
variance outside it.
"""

from __future__ import annotations

from collections.abc import Mapping

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
    return ns.log_distance(ns, features, parameters)


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
