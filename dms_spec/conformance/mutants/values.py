"""Holds mutants that are wrong about policies and fusion."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dms_spec.conformance.mutants.mutant import (
    Call,
    Mutant,
    fused,
    library,
    policy,
    signal,
    softmax,
)
from dms_spec.engine.resolve import Resolved
from dms_spec.equations import policies as right
from dms_spec.equations.namespace import Namespace
from dms_spec.interface.policy import PolicyInput
from dms_spec.spec import SchedulerSpec
from dms_spec.types import Array, ModalityBatch, Schedule

_Values = NDArray[Any]

# --------------------------------------------------------------------------------------- policies


def _without_bias(ns: Namespace, given: PolicyInput) -> Mapping[str, Array]:
    return {}


def _log_bias(ns: Namespace, given: PolicyInput) -> Mapping[str, Array]:
    terms = right.static(ns, given)
    return {name: np.log(softmax(np.asarray(term))) for name, term in terms.items()}


def _coefficients_that_sum_to_one(ns: Namespace, given: PolicyInput) -> Mapping[str, Array]:
    total = sum(given.coefficients.values()) or 1.0
    own = {name: value / total for name, value in given.coefficients.items()}
    return right.linear(ns, replace(given, coefficients=own))


def _clipped_terms(ns: Namespace, given: PolicyInput) -> Mapping[str, Array]:
    return {name: ns.clip(term, -20.0, 20.0) for name, term in right.linear(ns, given).items()}


def _raw_terms(result: Schedule, batch: ModalityBatch, spec: SchedulerSpec) -> Schedule:
    if spec.policy != "linear":
        return result
    return replace(result, terms={name: result.signals[name] for name in result.terms})


def _attention(axis: int = -1, *, everyone: bool = False, itself: bool = True) -> Any:
    """Computes co-attention with one of its parts wrong."""

    def function(ns: Namespace, given: PolicyInput) -> Mapping[str, Array]:
        h, active = given.evidence.features, given.evidence.active
        query, key = (given.evidence.parameters.get(name) for name in ("query", "key"))
        q, k = (h, h) if query is None else (h @ query, h @ key)
        s = q @ np.swapaxes(k, 1, 2) / q.dtype.type(np.sqrt(q.shape[-1]))
        there = np.ones_like(active) if everyone else active
        allowed = there[:, None, :] & there[:, :, None]
        if not itself:  # but for the only one
            alone = active.sum(axis=1)[:, None, None] < 2
            allowed = allowed & (alone | ~np.eye(s.shape[1], dtype=bool))
        s = np.where(allowed, s, -np.inf)
        peak = s.max(axis=axis, keepdims=True)
        e = np.exp(s - np.where(np.isfinite(peak), peak, 0))
        total = e.sum(axis=axis, keepdims=True)
        share = np.where(active[:, :, None], e / np.where(total > 0, total, 1), 0)
        received = share.sum(axis=1) / np.maximum(active.sum(axis=1, keepdims=True), 1)
        return {"attention": np.log(received).astype(h.dtype)}

    return function


def _drops_in_use(call: Call) -> Schedule:
    arrays = call.batch.arrays()
    if call.spec.policy == "modality_dropout" and "present" in arrays:
        arrays["present"] = right.modality_dropout_presence(arrays["present"], seed=0)
    return call.schedule(ModalityBatch(**arrays))


# ----------------------------------------------------------------------------------------- fusion


def _plain_mean(result: Schedule, batch: ModalityBatch, spec: SchedulerSpec) -> Schedule:
    if spec.fusion != "feature":
        return result
    count = np.maximum(result.active.sum(axis=1, keepdims=True), 1)
    even = replace(result, weights=result.active / count)
    return replace(result, fused=fused(even, batch.features).fused)


def _in_half(result: Schedule, batch: ModalityBatch, spec: SchedulerSpec) -> Schedule:
    if spec.fusion != "feature":
        return result
    total = np.zeros_like(result.fused)
    for m in range(result.weights.shape[1]):
        row = np.where(result.active[:, m, None], batch.features[:, m], 0)
        total += (result.weights[:, m, None].astype(total.dtype) * row).astype(total.dtype)
    return replace(result, fused=total)


def _times_count(result: Schedule, batch: ModalityBatch, spec: SchedulerSpec) -> Schedule:
    if spec.fusion != "feature":
        return result
    count = result.active.sum(axis=1, keepdims=True).astype(result.fused.dtype)
    return replace(result, fused=result.fused * count)


def _nothing_ruled_out(result: Schedule, batch: ModalityBatch, spec: SchedulerSpec) -> Schedule:
    if spec.fusion != "logit":
        return result
    least = np.finfo(batch.logits.dtype).min / 2
    return fused(result, np.where(np.isneginf(batch.logits), least, batch.logits))


def _zero_times_infinity(result: Schedule, batch: ModalityBatch, spec: SchedulerSpec) -> Schedule:
    return fused(result, batch.logits) if spec.fusion == "logit" else result


def _heavy_ones_rule_out(result: Schedule, batch: ModalityBatch, spec: SchedulerSpec) -> Schedule:
    if spec.fusion != "logit":
        return result
    rows = np.where(result.weights[..., None] > 0, batch.logits, 0)
    return fused(result, rows)


def _softmax_of_the_mean(result: Schedule, batch: ModalityBatch, spec: SchedulerSpec) -> Schedule:
    if spec.fusion != "probability":
        return result
    some = result.active.any(axis=1, keepdims=True)
    mixed = softmax(fused(result, batch.logits).fused)
    return replace(result, fused=np.where(some, mixed, 0).astype(result.fused.dtype))


def _log_probabilities(result: Schedule, batch: ModalityBatch, spec: SchedulerSpec) -> Schedule:
    if spec.fusion != "probability":
        return result
    return replace(result, fused=np.log(np.where(result.fused > 0, result.fused, 1)))


# ---------------------------------------------------------------------------------------- presets


def _sum_in_the_paper(resolved: Resolved) -> Resolved:
    """Sums uncertainty for the three signals of the paper, and is right for all other specs."""
    if set(resolved.spec.signals) != {"confidence", "uncertainty", "alignment"}:
        return resolved
    own = {name: dict(options) for name, options in resolved.spec.signals.items()}
    own["uncertainty"]["reduction"] = "sum"
    return replace(resolved, spec=resolved.spec.replace(signals=own))


MUTANTS: tuple[Mutant, ...] = (
    Mutant(
        name="bias_ignored",
        summary="weighs alike under static, whatever its bias",
        clause="DMS-L-002",
        resolved=policy("static", _without_bias),
    ),
    Mutant(
        name="bias_normalised",
        summary="takes the log of the softmax of the bias: right weights, other scores",
        clause="DMS-L-002",
        resolved=policy("static", _log_bias),
    ),
    Mutant(
        name="terms_without_coefficients",
        summary="explains with signals, and scores with coefficients",
        clause="DMS-L-001",
        result=_raw_terms,
    ),
    Mutant(
        name="coefficients_normalised",
        summary="scales coefficients so that they sum to one",
        clause="DMS-L-003",
        resolved=policy("linear", _coefficients_that_sum_to_one),
    ),
    Mutant(
        name="terms_clipped",
        summary="clips terms to [-20, 20] against overflow",
        clause="DMS-L-003",
        resolved=policy("linear", _clipped_terms),
    ),
    Mutant(
        name="beta_sign",
        summary="lets uncertainty add to trust",
        clause="DMS-L-004",
        resolved=signal("uncertainty", direction=1),
    ),
    Mutant(
        name="attention_unscaled",
        summary="does not divide by the root of d",
        clause="DMS-L-005",
        resolved=policy("co_attention", right.co_attention),
        namespace=library(sqrt=lambda x: x / x),
    ),
    Mutant(
        name="attention_to_absent",
        summary="lets absent keys take their share of attention",
        clause="DMS-L-005",
        resolved=policy("co_attention", _attention(everyone=True)),
    ),
    Mutant(
        name="attention_by_query",
        summary="takes the softmax of attention over queries",
        clause="DMS-L-005",
        resolved=policy("co_attention", _attention(axis=1)),
    ),
    Mutant(
        name="no_self_attention",
        summary="does not let a modality attend to itself",
        clause="DMS-L-005",
        resolved=policy("co_attention", _attention(itself=False)),
    ),
    Mutant(
        name="drops_in_use",
        summary="drops modalities outside training too",
        clause="DMS-L-006",
        around=_drops_in_use,
    ),
    Mutant(
        name="paper_sums",
        summary="sums uncertainty over classes in the paper's preset",
        clause="DMS-A-007",
        resolved=_sum_in_the_paper,
    ),
    Mutant(
        name="plain_mean",
        summary="fuses features without weights",
        clause="DMS-F-001",
        result=_plain_mean,
    ),
    Mutant(
        name="half_sums",
        summary="adds up half-precision features in half precision",
        clause="DMS-F-001",
        dtype="float16",
        result=_in_half,
    ),
    Mutant(
        name="finite_instead",
        summary="replaces -inf logits by a large number before fusing",
        clause="DMS-F-002",
        result=_nothing_ruled_out,
    ),
    Mutant(
        name="zero_times_infinity",
        summary="multiplies -inf by a weight that underflowed to 0",
        clause="DMS-F-002",
        result=_zero_times_infinity,
    ),
    Mutant(
        name="light_ones_not_heard",
        summary="forgets who rules a class out if its weight underflowed to 0",
        clause="DMS-F-002",
        result=_heavy_ones_rule_out,
    ),
    Mutant(
        name="softmax_of_mean",
        summary="takes the softmax of mean logits for the mean of probabilities",
        clause="DMS-F-003",
        result=_softmax_of_the_mean,
    ),
    Mutant(
        name="log_probabilities",
        summary="returns log probabilities for probabilities",
        clause="DMS-F-003",
        result=_log_probabilities,
    ),
    Mutant(
        name="sum_for_mean",
        summary="multiplies fused features by how many there are",
        clause="DMS-F-004",
        result=_times_count,
    ),
)
