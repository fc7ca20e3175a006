"""Defines the losses that belong to scheduling itself."""

from __future__ import annotations

from typing import Literal

from dms_spec.equations.fusion import fuse_features
from dms_spec.equations.namespace import Namespace
from dms_spec.types import Array

Reduction = Literal["mean", "sum", "none"]


def consistency_loss(
    ns: Namespace,
    features: Array,
    weights: Array,
    *,
    reduction: Reduction = "mean",
    detach_weights: bool = True,
) -> Array:
    """MWCL: ``L = sum_m w_m |h_m - z|^2``, ``z = sum_m w_m h_m``. Equation E7; DMS section 3.4.

    Args:
        ns: The namespace to compute in.
        features: ``[B, M, D]``. Where the weight is 0 they may hold anything, NaN included.
        weights: ``[B, M]``, rows on the simplex or all zero.
        reduction: ``"none"`` gives ``[B]``; ``"mean"`` averages over the samples with any
            weight (0 if there are none), so that empty samples do not dilute it.
        detach_weights: Keep gradients out of the weights. The loss is concave in them and would
            drive them to one-hot (clause DMS-O-003).
    """
    xp = ns.xp
    w = ns.stop_gradient(weights) if detach_weights else weights
    heard = weights > 0
    h = ns.select(heard, features)
    deviation = h - fuse_features(ns, h, w)[:, None, :]
    loss = xp.sum(w * xp.sum(deviation * deviation, axis=-1), axis=-1)
    return _reduced(ns, loss, heard, reduction)


def weight_entropy(ns: Namespace, weights: Array, *, reduction: Reduction = "mean") -> Array:
    """H(w) = -sum_m w_m log w_m in nats, in [0, log M]; 0 log 0 = 0. [B, M] -> [B] or scalar."""
    xp = ns.xp
    heard = weights > 0
    logs = xp.log(xp.where(heard, weights, ns.constant(1.0, weights)))
    return _reduced(ns, -xp.sum(weights * logs, axis=-1), heard, reduction)


def _reduced(ns: Namespace, loss: Array, heard: Array, reduction: Reduction) -> Array:
    """The loss of each sample, their sum, or their mean over the samples with any weight."""
    xp = ns.xp
    if reduction == "none":
        return loss
    total = xp.sum(loss)
    if reduction == "sum":
        return total
    samples = xp.sum(xp.astype(xp.any(heard, axis=-1), loss.dtype))
    return total / xp.maximum(samples, ns.constant(1.0, samples))
