"""Experimental: DynCIM's curriculum (arXiv 2503.06456), reconstructed from its abstract.

Known: the difficulty of a sample comes from the deviation, the consistency and the stability of
its predictions, with weights that favour the volatile ones; a balance factor mixes GMR and HMIR;
a gate adjusts what each modality contributes. Guessed: every formula here. The two statistics are
in `dms_spec.equations.published.dyncim`.
"""

from __future__ import annotations

from dataclasses import dataclass

from dms_spec.equations.namespace import Namespace
from dms_spec.equations.published.common import (
    check_axes,
    check_range,
    cross_entropy,
    everything,
    mean_over,
    softplus,
)
from dms_spec.types import Array

_EPS = 1e-8


def sample_metrics(
    ns: Namespace, fused: Array, logits: Array, labels: Array, *, active: Array | None = None
) -> Array:
    """Experimental. Deviation, consistency and stability of each sample: ``[B, 3]``.

    Reconstructed (DynCIM, arXiv 2503.06456: the names alone are known). Deviation is the mean
    cross-entropy of the fused and of each active prediction; consistency the mean Jensen-Shannon
    divergence of each active prediction from the fused one, in nats; stability the mean of their
    entropies over log C. More is harder in all three.

    Args:
        ns: The namespace to compute in.
        fused: Fused logits, floating ``[B, C]``, of the same dtype as the others.
        logits: ``[B, M, C]``.
        labels: Integers ``[B]`` in [0, C).
        active: bool ``[B, M]``; None for all.

    Raises:
        ShapeError: Shapes disagree.
    """
    sizes = check_axes(
        logits=(logits, "B M C"), fused=(fused, "B C"), labels=(labels, "B"), active=(active, "B M")
    )
    xp = ns.xp
    active = everything(ns, logits, 2) if active is None else active
    own = ns.select(active, logits)
    each = cross_entropy(ns, own, labels[:, None])
    each = xp.where(active, each, ns.constant(0.0, each))
    number = xp.sum(xp.astype(active, each.dtype), axis=-1)
    deviation = (cross_entropy(ns, fused, labels) + xp.sum(each, axis=-1)) / (number + 1.0)
    # The floor stands in for log 0: such a class has p = 0, and 0 * floor is 0.
    least = ns.constant(-1e4, own)
    log_p = xp.maximum(ns.log_softmax(own, axis=-1), least)
    log_f = xp.maximum(ns.log_softmax(fused, axis=-1), least)[:, None, :] + xp.zeros_like(own)
    log_mid = ns.logsumexp(xp.stack([log_p, log_f], axis=-1), axis=-1) - xp.log(
        ns.constant(2.0, own)
    )
    divergence = 0.5 * xp.sum(
        xp.exp(log_p) * (log_p - log_mid) + xp.exp(log_f) * (log_f - log_mid), axis=-1
    )
    consistency = mean_over(ns, divergence, active, axis=-1)
    largest = xp.log(ns.constant(float(max(sizes["C"], 2)), own))
    stability = mean_over(ns, ns.entropy(own) / largest, active, axis=-1)
    return xp.stack([deviation, consistency, stability], axis=-1)


def volatility_weights(ns: Namespace, history: Array) -> Array:
    """Experimental. omega_k = v_k / sum v, ``v = std / (|mean| + eps)`` over a window: ``[3]``.

    Reconstructed (known: volatile metrics weigh more).

    Args:
        ns: The namespace to compute in.
        history: Batch means of the metrics over the last steps, floating ``[W, 3]``.

    Returns:
        ``[3]``, sums to one; all are equal where nothing has varied yet.
    """
    check_axes(history=(history, "W K"))
    xp = ns.xp
    mean = xp.mean(history, axis=0)
    deviation = history - mean
    v = xp.sqrt(xp.mean(deviation * deviation, axis=0)) / (xp.abs(mean) + _EPS)
    return (v + _EPS) / xp.sum(v + _EPS)


def difficulty(ns: Namespace, metrics: Array, omega: Array) -> Array:
    """Experimental. d_i = sum_k omega_k minmax(metric_k): ``[B, 3]``, ``[3]`` -> [B] in [0, 1].

    Reconstructed. A metric that is the same for the whole batch counts 0.
    """
    check_axes(metrics=(metrics, "B K"), omega=(omega, "K"))
    xp = ns.xp
    low = xp.min(metrics, axis=0)
    spread = xp.max(metrics, axis=0) - low
    varies = spread > _EPS
    one = ns.constant(1.0, metrics)
    scaled = xp.where(
        varies, (metrics - low) / xp.where(varies, spread, one), ns.constant(0.0, metrics)
    )
    return xp.sum(scaled * omega, axis=-1)


def curriculum_weights(ns: Namespace, difficulty: Array, *, temperature: float) -> Array:
    """Experimental. pi_i = exp(-d_i / T) / mean of the same: ``[B]`` -> [B], mean one.

    Reconstructed (known: samples are reweighed by difficulty). Easy ones first: let the
    temperature T grow over training, and the weights become equal.

    Raises:
        SpecError: The temperature is not positive.
    """
    check_range("the temperature", temperature, 1e-30, float("inf"))
    check_axes(difficulty=(difficulty, "B"))
    p = ns.softmax(-difficulty / temperature)
    return p * ns.count(difficulty, 0)


@dataclass(frozen=True, kw_only=True)
class Balance:
    """What `balance` returns: scalars.

    Attributes:
        factor: tau_t in (0, 1): the part of the geometric statistic.
        signal: tau_t G + (1 - tau_t) H.
    """

    factor: Array
    signal: Array


def balance(
    ns: Namespace, gmr: Array, hmir: Array, *, sharpness: float = 1.0, smooth: Array | None = None
) -> Balance:
    """Experimental. tau_t = sigmoid(kappa (H - (G - 1))), and the mix of both statistics.

    Reconstructed (known: an adaptive balance factor).

    Args:
        ns: The namespace to compute in.
        gmr: G, a scalar array.
        hmir: H, a scalar array.
        sharpness: kappa.
        smooth: G and H as moving averages, ``[2]``, for the factor; None for the two as they are.
    """
    g, h = (gmr, hmir) if smooth is None else (smooth[0], smooth[1])
    factor = ns.xp.exp(-softplus(ns, -sharpness * (h - (g - 1.0))))
    return Balance(factor=factor, signal=factor * gmr + (1.0 - factor) * hmir)


def gate(
    ns: Namespace,
    features: Array,
    signal: Array,
    rates: Array,
    *,
    direction: Array,
    strengths: tuple[float, float] = (1.0, 1.0),
    active: Array | None = None,
) -> Array:
    """Experimental. g_m = sigmoid(a.h_m + b signal + c r_m), w = g / sum g: ``[B, M]``.

    Reconstructed (known: gated dynamic fusion).

    Args:
        ns: The namespace to compute in.
        features: Floating ``[B, M, D]``.
        signal: A scalar array, from `balance`.
        rates: r, ``[M]``, see `dms_spec.equations.published.dyncim.improvement_rates`.
        direction: a, ``[D]``, learned.
        strengths: b and c.
        active: bool ``[B, M]``; None for all.

    Returns:
        Weights on the simplex of what is active; rows with nothing active are 0.

    Raises:
        ShapeError: Shapes disagree.
    """
    check_axes(
        features=(features, "B M D"),
        rates=(rates, "M"),
        direction=(direction, "D"),
        active=(active, "B M"),
    )
    active = everything(ns, features, 2) if active is None else active
    level = ns.xp.matmul(ns.select(active, features), direction)
    level = level + strengths[0] * signal + strengths[1] * rates
    # log sigmoid: its softmax is g / sum g, without a quotient of numbers that underflow.
    return ns.masked_softmax(-softplus(ns, -level), active)
