"""Computes the losses of UmURL (Sun et al., ACM MM 2023, arXiv 2311.03106): what is fused stays
consistent.

Its fusion is the policy ``static``; projectors and views belong to the model.
"""

from __future__ import annotations

from dms_spec.equations.losses import consistency_loss
from dms_spec.equations.namespace import Namespace
from dms_spec.equations.published.common import check_axes, everything, mean_over
from dms_spec.types import Array


def intra_consistency(
    ns: Namespace, projected: Array, decomposed: Array, *, active: Array | None = None
) -> Array:
    """sum_m MSE(z_m, z_um): each modality's part of the fused vector matches that modality.

    UmURL (arXiv 2311.03106), its intra-modal loss; MSE is the mean over samples and dimensions.

    Args:
        ns: The namespace to compute in.
        projected: z_m, each modality's projected feature, floating ``[B, M, D]``.
        decomposed: z_um, the fused feature through each modality's projector, ``[B, M, D]``.
        active: bool ``[B, M]``; None for all.

    Returns:
        A scalar: the sum over the active modalities, the mean over the samples that have any.

    Raises:
        ShapeError: Shapes disagree.
    """
    check_axes(
        projected=(projected, "B M D"), decomposed=(decomposed, "B M D"), active=(active, "B M")
    )
    xp = ns.xp
    active = everything(ns, projected, 2) if active is None else active
    off = ns.select(active, projected) - ns.select(active, decomposed)
    each = xp.sum(xp.mean(off * off, axis=-1), axis=-1)
    return mean_over(ns, each, xp.any(active, axis=-1))


def inter_consistency(ns: Namespace, projected: Array, *, active: Array | None = None) -> Array:
    """sum_m MSE(z_m, mean_n z_n): the modalities agree.

    UmURL (arXiv 2311.03106), its inter-modal loss, which is the consistency loss (equation E7) of
    equal weights, times M / D; the gradient goes through the mean as well.

    Args:
        ns: The namespace to compute in.
        projected: z_m, floating ``[B, M, D]``.
        active: bool ``[B, M]``; the mean, and M, are of the active ones. None for all.

    Returns:
        A scalar: the mean over the samples that have anything active.

    Raises:
        ShapeError: Shapes disagree.
    """
    check_axes(projected=(projected, "B M D"), active=(active, "B M"))
    xp = ns.xp
    active = everything(ns, projected, 2) if active is None else active
    number = xp.sum(xp.astype(active, projected.dtype), axis=-1)
    equal = xp.astype(active, projected.dtype)
    equal = equal / xp.maximum(number, ns.constant(1.0, number))[:, None]
    each = consistency_loss(ns, projected, equal, reduction="none")
    return mean_over(ns, number * each / ns.count(projected, -1), xp.any(active, axis=-1))


def variance_covariance(ns: Namespace, z: Array, *, counted: Array | None = None) -> Array:
    """5 mean_d relu(1 - sqrt(Var z_d + 1e-4)) + (1/D) sum over d != d' of Cov_dd'^2.

    UmURL (arXiv 2311.03106), against collapse; after VICReg (arXiv 2105.04906). Variances and
    covariances are over the batch, with the divisor B - 1.

    Args:
        ns: The namespace to compute in.
        z: Floating ``[B, D]``.
        counted: bool ``[B]``; None for all.

    Returns:
        A scalar, 0 or more; that of a constant with fewer than two samples.

    Raises:
        ShapeError: Shapes disagree.
    """
    check_axes(z=(z, "B D"), counted=(counted, "B"))
    xp = ns.xp
    counted = everything(ns, z, 1) if counted is None else counted
    there = xp.astype(counted, z.dtype)
    zero, one = ns.constant(0.0, z), ns.constant(1.0, z)
    number = xp.sum(there)
    values = ns.select(counted, z)
    mean = xp.sum(values, axis=0) / xp.maximum(number, one)
    deviation = ns.select(counted, values - mean)
    covariance = xp.matmul(xp.matrix_transpose(deviation), deviation)
    covariance = covariance / xp.maximum(number - 1.0, one)
    variance = xp.sum(deviation * deviation, axis=0) / xp.maximum(number - 1.0, one)
    spread = xp.mean(xp.maximum(1.0 - xp.sqrt(variance + 1e-4), zero))
    off_diagonal = covariance * ns.others(covariance)
    return 5.0 * spread + xp.sum(off_diagonal * off_diagonal) / ns.count(z, -1)


def umurl_loss(
    ns: Namespace,
    projected: Array,
    decomposed: Array,
    *,
    active: Array | None = None,
    weight: float = 5.0,
) -> dict[str, Array]:
    """weight (intra + inter) + the sum of the variance-covariance terms of all 2 M parts.

    UmURL (arXiv 2311.03106). Arguments as in `intra_consistency`, with the weight 5 of its code.

    Returns:
        ``total``, ``intra``, ``inter`` and ``variance_covariance``, scalars.

    Raises:
        ShapeError: Shapes disagree.
    """
    active = everything(ns, projected, 2) if active is None else active
    intra = intra_consistency(ns, projected, decomposed, active=active)
    inter = inter_consistency(ns, projected, active=active)
    parts = [
        variance_covariance(ns, z[:, m, :], counted=active[:, m])
        for z in (projected, decomposed)
        for m in range(projected.shape[1])
    ]
    spread = ns.xp.sum(ns.xp.stack(parts))
    return {
        "total": weight * (intra + inter) + spread,
        "intra": intra,
        "inter": inter,
        "variance_covariance": spread,
    }
