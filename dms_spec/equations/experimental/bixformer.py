"""Experimental: BiXFormer's matching (arXiv 2506.03675), reconstructed.

Known, from its text: queries of each modality see their own modality only; labels are assigned
once whatever the modality (MAM) and once more to the queries that are left (CM), so that every
label ends with a query of each modality; the weaker query learns to be close to the stronger; and
predictions are merged by their maximum. Guessed: the costs and losses, which are those of
Mask2Former (arXiv 2112.01527), the squared distance between queries, and the analogue for classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dms_spec.equations.namespace import Namespace
from dms_spec.equations.primitives import device_of
from dms_spec.equations.published.common import (
    check_axes,
    check_range,
    cross_entropy,
    everything,
    is_true_class,
    mean_over,
    softplus,
)
from dms_spec.errors import BackendUnavailable, ShapeError, install_hint
from dms_spec.types import Array

Indices = NDArray[np.intp]


# ------------------------------------------------------------------------ the analogue for classes


def winner_loss(
    ns: Namespace,
    logits: Array,
    labels: Array,
    features: Array,
    *,
    active: Array | None = None,
    kappa: float = 0.5,
) -> dict[str, Array]:
    """Experimental. The likeliest modality learns in full, the others less, and towards it.

    Reconstructed: the analogue for classification of BiXFormer's matching, of this project. With
    the winner ``m* = argmin_m CE_m`` of each sample, ``CE_m* + kappa sum of the others' CE``, and
    ``sum over the others of |h_m - stop(h_m*)|^2``.

    Args:
        ns: The namespace to compute in.
        logits: Floating ``[B, M, C]``.
        labels: Integers ``[B]`` in [0, C).
        features: ``[B, M, D]``.
        active: bool ``[B, M]``; None for all.
        kappa: In [0, 1].

    Returns:
        ``task`` and ``alignment``, scalars: means over the samples that have anything active.

    Raises:
        ShapeError: Shapes disagree.
        SpecError: ``kappa`` is out of range.
    """
    check_range("kappa", kappa, 0, 1)
    check_axes(
        logits=(logits, "B M C"),
        labels=(labels, "B"),
        features=(features, "B M D"),
        active=(active, "B M"),
    )
    xp = ns.xp
    active = everything(ns, logits, 2) if active is None else active
    losses = cross_entropy(ns, ns.select(active, logits), labels[:, None])
    zero = ns.constant(0.0, losses)
    best = xp.argmin(xp.where(active, losses, zero + float("inf")), axis=-1)
    positions = xp.arange(logits.shape[1], device=device_of(logits))
    winner = active & (best[:, None] == positions)
    others = active & (best[:, None] != positions)
    task = xp.sum(xp.where(winner, losses, zero), axis=-1)
    task = task + kappa * xp.sum(xp.where(others, losses, zero), axis=-1)
    h = ns.select(active, features)
    target = ns.stop_gradient(xp.sum(ns.select(winner, h), axis=1, keepdims=True))
    off = ns.select(others, h - target)
    some = xp.any(active, axis=-1)
    return {
        "task": mean_over(ns, task, some),
        "alignment": mean_over(ns, xp.sum(xp.sum(off * off, axis=-1), axis=-1), some),
    }


def max_merge(ns: Namespace, logits: Array, active: Array | None = None) -> Array:
    """Experimental. The elementwise maximum over active modalities: ``[B, M, C]`` -> [B, C].

    BiXFormer merges probabilities of queries so; here softmax(l), 0 where nothing is active. They
    need not sum to one.
    """
    check_axes(logits=(logits, "B M C"), active=(active, "B M"))
    active = everything(ns, logits, 2) if active is None else active
    p = ns.select(active, ns.softmax(ns.select(active, logits)))
    return ns.xp.max(p, axis=1)


# ------------------------------------------------------------------------------- matching of sets


def matching_cost(
    ns: Namespace,
    class_logits: Array,
    mask_logits: Array,
    labels: Array,
    masks: Array,
    *,
    strengths: tuple[float, float, float] = (2.0, 5.0, 5.0),
) -> Array:
    """Experimental. -a p_i[c_j] + b BCE(m_i, M_j) + c Dice(m_i, M_j): ``[Q, G]``, of one sample.

    Reconstructed with the cost of Mask2Former (arXiv 2112.01527).

    Args:
        ns: The namespace to compute in.
        class_logits: Of each query, floating ``[Q, K]``; the last class may be "no object".
        mask_logits: Of each query and pixel, ``[Q, P]``.
        labels: Class of each segment, integers ``[G]`` in [0, K).
        masks: 1 inside each segment, 0 outside, floating ``[G, P]``.
        strengths: a, b, c.

    Raises:
        ShapeError: Shapes disagree.
    """
    check_axes(
        class_logits=(class_logits, "Q K"),
        mask_logits=(mask_logits, "Q P"),
        labels=(labels, "G"),
        masks=(masks, "G P"),
    )
    xp = ns.xp
    own = xp.astype(is_true_class(ns, labels, class_logits), class_logits.dtype)
    likely = xp.matmul(ns.softmax(class_logits), xp.matrix_transpose(own))
    inside = xp.matrix_transpose(masks)
    pixels = ns.count(mask_logits, -1)
    bce = xp.sum(softplus(ns, mask_logits), axis=-1, keepdims=True)
    bce = (bce - xp.matmul(mask_logits, inside)) / pixels
    p = xp.exp(-softplus(ns, -mask_logits))
    both = xp.matmul(p, inside)
    size = xp.sum(p, axis=-1, keepdims=True) + xp.sum(masks, axis=-1)
    dice = 1.0 - (2.0 * both + 1.0) / (size + 1.0)
    a, b, c = strengths
    return -a * likely + b * bce + c * dice


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """Which query answers for which segment.

    Attributes:
        any: The query of each segment, whatever its modality: int ``[G]``, -1 for none (MAM).
        own: For each modality, the query that it adds to each segment: int ``[G]``, -1 where MAM
            took one of its own, or where it has none left (CM).
    """

    any: Indices
    own: Mapping[int, Indices]


def assign(cost: NDArray[np.floating[Any]], modality: Indices) -> Assignment:
    """Experimental. Modality-agnostic matching, then each modality's own for the segments it lost.

    BiXFormer (arXiv 2506.03675), MAM and CM. On the host. A modality that is missing has no
    queries: leave its rows out.

    Args:
        cost: ``[Q, G]``, finite.
        modality: The number of the modality of each query, int ``[Q]``.

    Raises:
        ShapeError: Shapes disagree.
        BackendUnavailable: scipy is not installed.
    """
    check_axes(cost=(cost, "Q G"), modality=(modality, "Q"))
    chosen = _hungarian(cost, np.arange(cost.shape[0]), np.arange(cost.shape[1]))
    own = {}
    for number in np.unique(modality):
        mine = np.flatnonzero(modality == number)
        left = np.setdiff1d(mine, chosen)
        lost = np.flatnonzero(~np.isin(chosen, mine))
        own[int(number)] = _hungarian(cost, left, lost)
    return Assignment(any=chosen, own=own)


def _hungarian(cost: NDArray[Any], queries: Indices, segments: Indices) -> Indices:
    """The cheapest query for each of some segments: int ``[G]``, -1 for what has none."""
    try:
        from scipy.optimize import linear_sum_assignment
    except ImportError as error:
        raise BackendUnavailable(
            "matching needs scipy", fix=install_hint("dms-spec[matching]")
        ) from error
    found = np.full(cost.shape[1], -1, dtype=np.intp)
    rows, columns = linear_sum_assignment(cost[np.ix_(queries, segments)])
    found[segments[columns]] = queries[rows]
    return found


def set_matching_loss(
    ns: Namespace,
    class_logits: Array,
    mask_logits: Array,
    embeddings: Array,
    labels: Array,
    masks: Array,
    assignment: Assignment,
    *,
    strengths: tuple[float, float, float] = (2.0, 5.0, 5.0),
    no_object: float = 0.1,
    alignment: float = 1.0,
) -> dict[str, Array]:
    """Experimental. L(MAM) + sum over modalities of L(CM) + mu L(CMA), of one sample.

    Reconstructed (BiXFormer, arXiv 2506.03675). Each L is, over the matched pairs, the mean of
    ``a CE + b BCE + c Dice``; queries that no matching took learn "no object", the last class,
    once, with the weight ``no_object``. CMA is the squared distance between the query that
    CM chose for a segment and the one that MAM chose; its published form is said to be a VAE's.

    Args:
        ns: The namespace to compute in.
        class_logits: ``[Q, K]``; the last class is "no object".
        mask_logits: ``[Q, P]``.
        embeddings: Of the queries, ``[Q, D]``.
        labels: Integers ``[G]`` in [0, K - 1).
        masks: ``[G, P]``.
        assignment: From `assign`.
        strengths: a, b, c.
        no_object: Weight of the queries that nothing took.
        alignment: mu.

    Returns:
        ``total``, ``any``, ``own``, ``no_object`` and ``alignment``, scalars.

    Raises:
        ShapeError: Shapes disagree.
    """
    sizes = check_axes(
        class_logits=(class_logits, "Q K"),
        mask_logits=(mask_logits, "Q P"),
        embeddings=(embeddings, "Q D"),
        labels=(labels, "G"),
        masks=(masks, "G P"),
    )
    if len(assignment.any) != sizes["G"]:
        raise ShapeError(
            "the assignment is of other segments",
            expected=f"{sizes['G']} segments",
            got=f"{len(assignment.any)}",
        )
    xp, (a, b, c) = ns.xp, strengths
    zero = ns.constant(0.0, class_logits)

    def taken(array: Array, index: Indices) -> Array:
        where = xp.asarray(index, device=device_of(array))
        return xp.take(array, where, axis=0)

    def matched(queries: Indices) -> Array:
        """Mean loss of the queries against their segments; 0 if there are none."""
        segments = np.flatnonzero(queries >= 0)
        if not len(segments):
            return zero
        rows = queries[segments]
        ce = cross_entropy(ns, taken(class_logits, rows), taken(labels, segments))
        x, y = taken(mask_logits, rows), taken(masks, segments)
        bce = xp.mean(softplus(ns, x) - x * y, axis=-1)
        p = xp.exp(-softplus(ns, -x))
        both = xp.sum(p * y, axis=-1)
        dice = 1.0 - (2.0 * both + 1.0) / (xp.sum(p, axis=-1) + xp.sum(y, axis=-1) + 1.0)
        return xp.mean(a * ce + b * bce + c * dice)

    def pulled(queries: Indices) -> Array:
        both = np.flatnonzero((queries >= 0) & (assignment.any >= 0))
        if not len(both):
            return zero
        target = ns.stop_gradient(taken(embeddings, assignment.any[both]))
        off = taken(embeddings, queries[both]) - target
        return xp.sum(off * off)

    used = np.concatenate([assignment.any, *assignment.own.values()])
    left = np.setdiff1d(np.arange(sizes["Q"]), used)
    nothing = zero
    if len(left):
        logits = taken(class_logits, left)
        last = xp.asarray(np.full(len(left), sizes["K"] - 1), device=device_of(logits))
        nothing = no_object * a * xp.mean(cross_entropy(ns, logits, last))
    first = matched(assignment.any)
    own, pull = zero, zero
    for queries in assignment.own.values():
        own, pull = own + matched(queries), pull + pulled(queries)
    return {
        "total": first + own + nothing + alignment * pull,
        "any": first,
        "own": own,
        "no_object": nothing,
        "alignment": pull,
    }
