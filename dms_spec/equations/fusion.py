"""Fuses: computes the weighted sum over modalities, at three levels.

All three give 0 for a sample in which nothing is active.
"""

from __future__ import annotations

from dms_spec.equations.namespace import Namespace
from dms_spec.types import Array


def fuse_features(ns: Namespace, features: Array, weights: Array) -> Array:
    """z = sum_m w_m h_m: [B, M, D], [B, M] -> [B, D]. Equation E1; DMS section 3.1."""
    return ns.weighted_sum(features, weights)


def fuse_logits(ns: Namespace, logits: Array, weights: Array) -> Array:
    """o = sum_m w_m l_m: [B, M, C], [B, M] -> [B, C]. Equation E14; SimMLM (arXiv 2507.19264).

    A class at -inf in one active modality is ruled out, however small that modality's weight. For
    a softmax weight is positive, and only the dtype decides whether it underflows. Inactive
    modalities must have been replaced by 0.
    """
    xp = ns.xp
    ruled_out = logits == -float("inf")
    fused = fuse_features(ns, xp.where(ruled_out, ns.constant(0.0, logits), logits), weights)
    return xp.where(xp.any(ruled_out, axis=1), ns.constant(-float("inf"), fused), fused)


def fuse_probabilities(ns: Namespace, logits: Array, weights: Array) -> Array:
    """p = sum_m w_m softmax(l_m): [B, M, C], [B, M] -> [B, C]; rows sum to one.

    Equation E15; SimMLM (arXiv 2507.19264), the probability level of its released code.
    """
    return fuse_features(ns, ns.softmax(logits), weights)
