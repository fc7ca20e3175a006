"""Computes the contrastive loss of MoCa (arXiv 2506.23115).

Its masked reconstruction pre-trains a language model and has no part in fusion.
"""

from __future__ import annotations

from dms_spec.equations.namespace import Namespace
from dms_spec.equations.published.common import check_axes, check_range, everything, mean_over
from dms_spec.types import Array


def unit_vectors(ns: Namespace, vectors: Array) -> Array:
    """Vectors of length one over the last axis; a zero vector stays 0, with a finite gradient."""
    xp = ns.xp
    peak = ns.stop_gradient(xp.max(xp.abs(vectors), axis=-1, keepdims=True))
    nonzero = peak > 0
    one = ns.constant(1.0, vectors)
    # A zero vector is replaced before the norm, whose slope there is no number.
    scaled = xp.where(nonzero, vectors / xp.where(nonzero, peak, one), one)
    length = xp.sqrt(xp.sum(scaled * scaled, axis=-1, keepdims=True))
    return xp.where(nonzero, scaled / length, ns.constant(0.0, vectors))


def contrastive_loss(
    ns: Namespace,
    queries: Array,
    targets: Array,
    negatives: Array | None = None,
    *,
    temperature: float = 0.03,
    counted: Array | None = None,
) -> Array:
    """InfoNCE with hard negatives, from queries to targets, over cosines.

    MoCa (arXiv 2506.23115), contrastive stage, with its temperature 0.03 and two hard negatives
    for each query::

        -log exp(q.t+/tau) / (sum_j exp(q.t_j/tau) + sum_k exp(q.n_k/tau))

    where t+ is the query's own target, j runs over the batch and k over its own negatives.

    Args:
        ns: The namespace to compute in.
        queries: Such as fused features, floating ``[B, D]``.
        targets: Row i is the match of query i, ``[B, D]``.
        negatives: Hard negatives of each query, ``[B, K, D]``, or None.
        temperature: tau, above 0.
        counted: bool ``[B]``: the samples that take part, as queries and as targets. None: all.

    Returns:
        A scalar in nats, the mean over the queries that count, 0 if there are none.

    Raises:
        ShapeError: Shapes disagree.
        SpecError: The temperature is not positive.
    """
    check_range("the temperature", temperature, 1e-30, float("inf"))
    check_axes(
        queries=(queries, "B D"),
        targets=(targets, "B D"),
        negatives=(negatives, "B K D"),
        counted=(counted, "B"),
    )
    xp = ns.xp
    counted = everything(ns, queries, 1) if counted is None else counted
    q, t = (unit_vectors(ns, ns.select(counted, x)) for x in (queries, targets))
    similar = xp.matmul(q, xp.matrix_transpose(t)) / temperature
    mask = counted[None, :] & counted[:, None]
    own = xp.sum(q * t, axis=-1) / temperature
    if negatives is not None:
        clean = xp.where(counted[:, None, None], negatives, ns.constant(0.0, negatives))
        hard = xp.sum(q[:, None, :] * unit_vectors(ns, clean), axis=-1) / temperature
        similar = xp.concat([similar, hard], axis=1)
        mask = xp.concat([mask, counted[:, None] & everything(ns, hard, 2)], axis=1)
    total = ns.masked_logsumexp(similar, mask, axis=1)[:, 0]
    return mean_over(ns, total - own, counted)
