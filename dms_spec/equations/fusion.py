"""Fusion: the weighted sum over modalities, at three levels.

All three give 0 for a sample in which nothing is active.
"""

from __future__ import annotations

from dms_spec.equations.namespace import Namespace
from dms_spec.types import Array


def fuse_features(ns: Namespace, features: Array, weights: Array) -> Array:
    """z = sum_m w_m h_m: [B, M, D], [B, M] -> [B, D]. DMS section 3.1, equation E1."""
    return ns.xp.matmul(weights[:, None, :], features)[:, 0, :]


def fuse_logits(ns: Namespace, logits: Array, weights: Array) -> Array:
    """o = sum_m w_m l_m: [B, M, C], [B, M] -> [B, C]. SimMLM (arXiv 2507.19264), DMoME.

    -inf wins wherever its modality has any weight at all, and is selected away where it has
    none, since 0 * -inf is NaN.
    """
    xp = ns.xp
    heard = weights > 0
    zero = ns.constant(0.0, logits)
    return xp.sum(xp.where(heard, weights, zero)[..., None] * ns.select(heard, logits), axis=1)


def fuse_probabilities(ns: Namespace, logits: Array, weights: Array) -> Array:
    """p = sum_m w_m softmax(l_m): [B, M, C], [B, M] -> [B, C]; rows sum to one.

    SimMLM (arXiv 2507.19264), the probability level of its released code.
    """
    return fuse_features(ns, ns.softmax(logits), weights)
