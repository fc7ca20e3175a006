"""From scores to weights: who takes part, and the softmax over those who do.

`usable` and `masked_softmax` are primitives: call them as ``ns.usable`` and ``ns.masked_softmax``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dms_spec.types import Array

if TYPE_CHECKING:
    from dms_spec.equations.namespace import Namespace


def device_of(array: Array) -> Any:
    """Where an array is, to make another there; None, the default device, if it cannot say.

    JAX hides the device while it traces (https://github.com/jax-ml/jax/issues/26000).
    """
    return getattr(array, "device", None)


def usable(
    xp: Any,
    *,
    features: Array | None = None,
    logits: Array | None = None,
    mc_logits: Array | None = None,
) -> Array:
    """Which modalities carry numbers that mean something: bool [B, M].

    Features must be finite. A row of logits must have a finite maximum: NaN and +Inf spoil it,
    and so does a row of nothing but -Inf, while single -Inf entries are legal zeros. One bad
    pass in ``mc_logits`` and the modality counts as absent for that sample.

    At least one of features and logits must be given.
    """
    verdicts = []
    if features is not None:
        verdicts.append(xp.all(xp.isfinite(features), axis=-1))
    if logits is not None:
        verdicts.append(xp.isfinite(xp.max(logits, axis=-1)))
    if mc_logits is not None:
        verdicts.append(xp.all(xp.isfinite(xp.max(mc_logits, axis=-1)), axis=0))
    verdict = verdicts[0]
    for other in verdicts[1:]:
        verdict = verdict & other
    return verdict


def masked_softmax(xp: Any, scores: Array, active: Array) -> Array:
    """w = exp(s) / sum exp(s) over the active modalities, exactly 0 elsewhere: [B, M].

    Equation E6; DMS (arXiv 2506.12724) section 3.2. One active gives exactly 1, none gives a
    row of zeros. Selection comes before the exponential, so a NaN score of an inactive modality
    reaches neither a value nor a gradient.
    """
    zero = xp.zeros((), dtype=scores.dtype, device=device_of(scores))
    peak = xp.max(xp.where(active, scores, zero - float("inf")), axis=-1, keepdims=True)
    # A row with nothing active has no maximum.
    peak = xp.where(xp.any(active, axis=-1, keepdims=True), peak, zero)
    e = xp.where(active, xp.exp(xp.where(active, scores, peak) - peak), zero)
    total = xp.sum(e, axis=-1, keepdims=True)
    return e / xp.where(total > 0, total, zero + 1.0)


def masked_logsumexp(ns: Namespace, values: Array, mask: Array, axis: int) -> Array:
    """The log of the sum of exp over an axis, where the mask holds; 0 where it holds nowhere.

    The axis is kept, with size one.
    """
    xp = ns.xp
    zero = ns.constant(0.0, values)
    anything = xp.any(mask, axis=axis, keepdims=True)
    peak = xp.max(
        xp.where(mask, values, ns.constant(-float("inf"), values)), axis=axis, keepdims=True
    )
    peak = ns.stop_gradient(xp.where(anything, peak, zero))
    e = xp.where(mask, xp.exp(xp.where(mask, values, peak) - peak), zero)
    total = xp.sum(e, axis=axis, keepdims=True)
    return xp.where(
        anything, peak + xp.log(xp.where(anything, total, ns.constant(1.0, values))), zero
    )
