"""Computes the scales of weights, and of all that fusion of evidence gives: float64 NumPy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dms_spec.conformance.oracle import Exact

Floats = NDArray[np.float64]


def weight_scale(exact: Exact, scores: Floats, score: Floats) -> Floats:
    """Computes the scale of a softmax over the active modalities, by what is compared."""
    active = exact.active
    top = np.where(active, scores, -np.inf).max(axis=-1, keepdims=True)
    gap = np.where(active, top - scores, 0.0)
    worst = np.where(active, score, 0.0).max(axis=-1, keepdims=True)
    condition = 1 + gap + 2 * worst
    # A weight of exactly 0 is far below anything that its condition could lift.
    return np.where(exact.weights > 0, exact.weights * condition, 0.0)


def evidence_scales(
    exact: Exact,
    logits: Floats,
    parameters: Mapping[str, NDArray[Any]],
    score: Floats,
    unit: float,
) -> dict[str, Floats]:
    """Computes the scales of ``fused``, ``soundness`` and ``weights``.

    Every scale on the way is that of a logarithm. h is the share of the evidence in a factor: what
    a modality says counts by h, and what it leaves open by 1 - h.

    Args:
        exact: The oracle's answer.
        logits: float64, 0 where not active.
        parameters: By full name.
        score: The scale of the scores, which are log g.
        unit: K eps: one less than this times the scale of log(1 - g) must leave something.
    """
    active, classes = exact.active, logits.shape[-1]
    on = active[..., None]
    uniform = np.full(classes, 1 / classes)
    prior = parameters.get("fusion.prior", uniform).astype(np.float64)
    priors = parameters.get("fusion.priors", uniform).astype(np.float64)
    rho = np.logaddexp(parameters.get("fusion.redundancy", np.log(np.expm1(0.2))), 0.0)
    log_g = np.where(active, np.minimum(exact.scores, np.log1p(-1e-6)), -1.0)
    g, log_doubt = np.exp(log_g), np.log(-np.expm1(log_g))
    score = np.where(active, score, 0.0)
    said, said_scale = _said(logits, priors)
    sound = log_g[..., None] + said
    factor = np.logaddexp(log_doubt[..., None], sound)
    h = np.exp(sound - factor)
    # log(1 - g) falls by no more than this when log g is off by K eps of its scale.
    left = 1 - np.minimum(unit * score * g / (1 - g), 1.0)
    doubt_scale = (1 - log_doubt - np.log(left) / unit)[..., None]
    heard = _times(h, score[..., None] + said_scale) + _times(1 - h, doubt_scale)
    factor_scale = np.where(on, 1 + np.abs(factor) + heard, 0.0).sum(axis=1)
    factor = np.where(on, factor, 0.0)

    count = np.maximum(np.where(active, g, 0.0).sum(axis=-1), 1.0)[:, None]
    kappa = 1 / (1 + rho * (count - 1))
    carried = np.where(active, g * score, 0.0).sum(axis=-1)[:, None]
    kappa_scale = 2 + kappa * (rho * (carried + count) + (1 + rho) * (count - 1))
    with_prior = np.where(prior > 0, np.log(np.where(prior > 0, prior, 1.0)), -np.inf)
    total = with_prior + kappa * factor.sum(axis=1)
    total_scale = (
        1
        + np.abs(np.where(prior > 0, with_prior, 0.0))
        + kappa * (factor_scale + kappa_scale * np.abs(factor).sum(axis=1))
    )
    log_p = total - np.logaddexp.reduce(total, axis=-1, keepdims=True)
    p = np.exp(log_p)
    whole = _times(p, total_scale).sum(axis=-1, keepdims=True)
    class_scale = 1 + np.abs(np.where(p > 0, log_p, 0.0)) + total_scale + whole

    believed = log_p[:, None] + sound - factor
    log_r = np.minimum(np.logaddexp.reduce(believed, axis=-1), 0.0)
    share = np.exp(believed - np.logaddexp.reduce(believed, axis=-1, keepdims=True))
    own = 1 + np.abs(sound) + np.abs(factor)
    own = own + _times(1 - h, score[..., None] + said_scale + doubt_scale)
    sound_scale = 1 + np.abs(log_r) + _times(share, class_scale[:, None] + own).sum(axis=-1)
    sound_scale = np.where(active, sound_scale, 0.0)
    return {
        "fused": _times(p, class_scale),
        "soundness": _times(np.where(active, np.exp(log_r), 0.0), sound_scale),
        "weights": weight_scale(exact, log_r, sound_scale),
    }


def _said(logits: Floats, priors: Floats) -> tuple[Floats, Floats]:
    """log p / pi, and its scale: that of a log-softmax, or of the least ratio."""
    seen = np.broadcast_to(priors > 0, logits.shape)
    heard = seen & (logits > -np.inf)
    something = heard.any(axis=-1, keepdims=True)
    held = np.where(heard, logits, -np.inf)
    held = np.where(something, held, 0.0)
    x = held - held.max(axis=-1, keepdims=True)
    log_p = x - np.log(np.exp(x).sum(axis=-1, keepdims=True))
    log_prior = np.log(np.where(seen, priors, 1.0))
    ratios = np.where(seen & something, np.maximum(log_p - log_prior, -1e4), 0.0)
    size = 2 + np.minimum(np.abs(x), 1e4) + np.log(logits.shape[-1]) + np.abs(log_prior)
    return ratios, np.where(seen & something, size, 0.0)


def _times(share: Floats, scale: Floats) -> Floats:
    """A share of a scale; a share of 0 has none of a scale that is infinite."""
    return np.where(share > 0, share * np.where(share > 0, scale, 0.0), 0.0)
