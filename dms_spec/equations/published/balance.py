"""Balances multimodal training: OGM, OGM-GE and OPM, as rules over arrays.

OGM-GE: Peng et al., CVPR 2022, arXiv 2203.15332. OPM: Wei et al., TPAMI 2024, arXiv 2410.11582.
What they do to gradients and to features is in `dms_torch.hooks`.
"""

from __future__ import annotations

from dms_spec.equations.namespace import Namespace
from dms_spec.equations.primitives import smallest
from dms_spec.equations.published.common import (
    check_axes,
    check_range,
    everything,
    is_true_class,
    mean_over,
)
from dms_spec.types import Array


def true_class_scores(
    ns: Namespace, logits: Array, labels: Array, *, active: Array | None = None
) -> Array:
    """s_m: the mean probability that each modality alone gives to the true class.

    OGM-GE (arXiv 2203.15332), equation 8, which sums over the batch. A mean gives the same ratios
    where everything is there. Where something is absent, it does not favour what is there more
    often.

    Args:
        ns: The namespace to compute in.
        logits: Floating ``[B, M, C]``.
        labels: Integers ``[B]`` in [0, C).
        active: bool ``[B, M]``; None for all.

    Returns:
        ``[M]``, in [0, 1]; 0 for a modality that no sample has.

    Raises:
        ShapeError: Shapes disagree.
    """
    check_axes(logits=(logits, "B M C"), labels=(labels, "B"), active=(active, "B M"))
    xp = ns.xp
    active = everything(ns, logits, 2) if active is None else active
    p = ns.softmax(ns.select(active, logits))
    own = is_true_class(ns, labels[:, None], p)
    return mean_over(ns, xp.sum(xp.where(own, p, ns.constant(0.0, p)), axis=-1), active, axis=0)


def discrepancy(ns: Namespace, scores: Array, *, counted: Array | None = None) -> Array:
    """rho_m = s_m / (mean of the other s_n): above 1 where a modality is ahead.

    OGM-GE (arXiv 2203.15332), equation 9, for two modalities; the mean over the others for more
    is a reading, which gives the paper's ratio for two.

    Args:
        ns: The namespace to compute in.
        scores: s, floating ``[M]``, 0 or more.
        counted: bool ``[M]``: which modalities the batch has; None for all.

    Returns:
        ``[M]``, 0 or more; 1 where there is no other, and for what does not count.

    Raises:
        ShapeError: Shapes disagree.
    """
    check_axes(scores=(scores, "M"), counted=(counted, "M"))
    xp = ns.xp
    counted = everything(ns, scores, 1) if counted is None else counted
    s = ns.select(counted, scores)
    # As a row of a batch of one, for the matrix that sums over the others.
    others = ns.others(s[None, :, None])
    number = xp.matmul(others, xp.astype(counted, s.dtype)[:, None])[:, 0]
    total = xp.matmul(others, s[:, None])[:, 0]
    one = ns.constant(1.0, s)
    least = smallest(ns, s)
    ratio = s / xp.maximum(total / xp.maximum(number, one), least)
    return xp.where(counted & (number > 0), ratio, one)


def ogm_coefficients(ns: Namespace, rho: Array, *, alpha: float = 0.1) -> Array:
    """k_m = 1 - tanh(alpha rho_m) where rho_m > 1, else 1: what scales an encoder's gradient.

    OGM-GE (arXiv 2203.15332), equation 10. It jumps at rho = 1, as published. Its code
    recommends alpha 0.1 for VGGSound and 0.8 for CREMA-D.

    Args:
        ns: The namespace to compute in.
        rho: Floating ``[M]``, from `discrepancy`.
        alpha: 0 or more.

    Returns:
        ``[M]``, in (0, 1] but for round-off.

    Raises:
        SpecError: ``alpha`` is negative.
    """
    check_range("alpha", alpha, 0, float("inf"))
    one = ns.constant(1.0, rho)
    return ns.xp.where(rho > 1, 1.0 - ns.xp.tanh(alpha * rho), one)


def opm_rates(ns: Namespace, rho: Array, *, base: float = 0.5, slope: float = 0.5) -> Array:
    """q_m = base (1 + slope tanh(rho_m - 1)) where rho_m > 1, else 0, limited to [0, 1].

    OPM (arXiv 2410.11582): the probability of dropping a modality's features.

    Args:
        ns: The namespace to compute in.
        rho: Floating ``[M]``, from `discrepancy`.
        base: q_base, in [0, 1].
        slope: lambda, 0 or more.

    Returns:
        ``[M]``, in [0, 1].

    Raises:
        SpecError: A number is out of range.
    """
    check_range("base", base, 0, 1)
    check_range("slope", slope, 0, float("inf"))
    zero = ns.constant(0.0, rho)
    ahead = ns.xp.maximum(rho - 1.0, zero)
    rates = ns.clip(base * (1.0 + slope * ns.xp.tanh(ahead)), 0.0, 1.0)
    return ns.xp.where(rho > 1, rates, zero)


def opm_scale(ns: Namespace, rates: Array) -> Array:
    """1 / (1 - theta), theta = mean_m q_m: what rescales the features that are left.

    OPM (arXiv 2410.11582), which weighs q by the widths of the features; here all have one width.
    Weights on the simplex renormalise by themselves, and need none of it.

    Args:
        ns: The namespace to compute in.
        rates: q, floating ``[M]``; not all of them 1.

    Returns:
        A scalar, 1 or more.
    """
    return 1.0 / (1.0 - ns.xp.mean(rates))
