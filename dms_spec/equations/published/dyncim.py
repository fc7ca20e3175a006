"""Computes DynCIM's two statistics of a fused prediction (arXiv 2503.06456), as diagnostics.

The exact published forms were not available, so both are readings of the names. Its curriculum is
in `dms_spec.equations.experimental.dyncim`.
"""

from __future__ import annotations

from dms_spec.equations.namespace import Namespace
from dms_spec.equations.published.common import check_axes, check_range, everything, mean_over
from dms_spec.types import Array


def geometric_mean_ratio(
    ns: Namespace, fused: Array, unimodal: Array, *, counted: Array | None = None
) -> Array:
    """GMR: G = exp(mean_m log(phi / phi_m)): above 1 where fusion helps overall.

    DynCIM (arXiv 2503.06456); a reading of the name. Multiplying all scores by one number changes
    nothing.

    Args:
        ns: The namespace to compute in.
        fused: phi, the mean probability of the true class after fusion, a scalar array above 0.
        unimodal: phi_m, the same of each modality, ``[M]``; 0 counts as the smallest normal
            number. See `dms_spec.equations.published.balance.true_class_scores`.
        counted: bool ``[M]``; None for all.

    Returns:
        A scalar above 0; 1 if nothing counts.

    Raises:
        ShapeError: Shapes disagree.
    """
    check_axes(unimodal=(unimodal, "M"), counted=(counted, "M"))
    xp = ns.xp
    counted = everything(ns, unimodal, 1) if counted is None else counted
    logs = xp.log(_positive(ns, fused)) - xp.log(_positive(ns, ns.select(counted, unimodal)))
    return xp.exp(mean_over(ns, logs, counted))


def improvement_rates(
    ns: Namespace, fused: Array, unimodal: Array, *, counted: Array | None = None
) -> Array:
    """r_m = (phi - phi_m) / phi_m: what fusion adds to each modality, ``[M]``; 0 if not counted.

    DynCIM (arXiv 2503.06456); a reading. Arguments and errors as in `geometric_mean_ratio`.
    """
    check_axes(unimodal=(unimodal, "M"), counted=(counted, "M"))
    counted = everything(ns, unimodal, 1) if counted is None else counted
    own = ns.select(counted, unimodal)
    return ns.select(counted, (fused - own) / _positive(ns, own))


def harmonic_improvement_rate(
    ns: Namespace,
    fused: Array,
    unimodal: Array,
    *,
    counted: Array | None = None,
    floor: float = 1e-6,
) -> Array:
    """HMIR: H = M / sum_m 1 / max(r_m, floor): near 0 as soon as one modality gains nothing.

    DynCIM (arXiv 2503.06456); a reading of the name. A harmonic mean of rates that are not
    positive means nothing, so they are kept above the floor.

    Args:
        ns: The namespace to compute in.
        fused: As in `geometric_mean_ratio`.
        unimodal: As in `geometric_mean_ratio`.
        counted: bool ``[M]``; None for all. M is the number that counts.
        floor: Above 0.

    Returns:
        A scalar, at least the floor; 0 if nothing counts.

    Raises:
        ShapeError: Shapes disagree.
        SpecError: The floor is not positive.
    """
    check_range("the floor of rates", floor, 1e-30, float("inf"))
    xp = ns.xp
    counted = everything(ns, unimodal, 1) if counted is None else counted
    rates = improvement_rates(ns, fused, unimodal, counted=counted)
    inverse = mean_over(ns, 1.0 / xp.maximum(rates, ns.constant(floor, rates)), counted)
    something = inverse > 0
    return xp.where(
        something,
        1.0 / xp.where(something, inverse, ns.constant(1.0, inverse)),
        ns.constant(0.0, inverse),
    )


def _positive(ns: Namespace, values: Array) -> Array:
    least = float(ns.xp.finfo(values.dtype).smallest_normal)
    return ns.xp.maximum(values, ns.constant(least, values))
