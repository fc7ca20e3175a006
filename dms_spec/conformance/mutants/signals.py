"""Wrong about signals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dms_spec.conformance.mutants.mutant import Mutant, primitives, signal, softmax
from dms_spec.equations import signals as right
from dms_spec.equations.namespace import Namespace
from dms_spec.equations.signals import Evidence
from dms_spec.resolve import Resolved
from dms_spec.spec import SchedulerSpec
from dms_spec.types import Array, ModalityBatch, Schedule

_Values = NDArray[Any]

# --------------------------------------------------------------------------- entropy, confidence


def _entropy_nan(logits: _Values) -> _Values:
    p = softmax(logits)
    return np.asarray(-(p * np.log(p)).sum(axis=-1))


def _entropy_unshifted(logits: _Values) -> _Values:
    p = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    return np.asarray(-np.where(p > 0, p * np.log(np.where(p > 0, p, 1)), p).sum(axis=-1))


def _entropy_padded(logits: _Values) -> _Values:
    p = softmax(logits)
    return np.asarray(-(p * np.log(p + p.dtype.type(1e-12))).sum(axis=-1))


def _confidence(largest: Callable[[int], float], *, normalized: bool | None = None) -> Any:
    """Confidence with another number for log C, or with one normalisation for both."""

    def function(ns: Namespace, evidence: Evidence, *, normalize: bool = True) -> Array:
        h = ns.entropy(evidence.logits)
        if not (normalize if normalized is None else normalized):
            return 1 - h
        divisor = h.dtype.type(largest(evidence.logits.shape[-1]))
        return np.asarray(1 - h / divisor)

    return function


def _log_classes(classes: int) -> float:
    return float(np.log(classes)) if classes > 1 else 1.0


def _bits(ns: Namespace, evidence: Evidence, *, normalize: bool = True) -> Array:
    value = right.confidence(ns, evidence, normalize=normalize)
    return value if normalize else 1 - (1 - value) / value.dtype.type(np.log(2))


def _largest_probability(ns: Namespace, evidence: Evidence, *, normalize: bool = True) -> Array:
    return softmax(evidence.logits).max(axis=-1)


# ------------------------------------------------------------------------------------ the passes


def _sample_variance(passes: _Values) -> _Values:
    return np.asarray(softmax(passes).var(axis=0, ddof=1).sum(axis=-1))


def _variance_over_classes(passes: _Values) -> _Values:
    return np.asarray(softmax(passes).var(axis=-1).mean(axis=0))


def _logit_variance(passes: _Values) -> _Values:
    finite = np.where(np.isfinite(passes), passes, 0)
    return np.asarray(finite.var(axis=0).sum(axis=-1))


def _deviation(passes: _Values) -> _Values:
    return np.asarray(softmax(passes).std(axis=0).sum(axis=-1))


def _sum_and_mean_swapped(ns: Namespace, evidence: Evidence, *, reduction: str = "mean") -> Array:
    swapped: Any = "sum" if reduction == "mean" else "mean"
    return right.uncertainty(ns, evidence, reduction=swapped)


def _information_by_difference(ns: Namespace, evidence: Evidence) -> Array:
    mean = softmax(evidence.mc_logits).mean(axis=0)
    total = -(mean * np.log(np.where(mean > 0, mean, 1))).sum(axis=-1)
    return total - ns.entropy(evidence.mc_logits).mean(axis=0)


def _information_in_bits(ns: Namespace, evidence: Evidence) -> Array:
    value = right.mutual_information(ns, evidence)
    return value / value.dtype.type(np.log(2))


def _total_entropy(ns: Namespace, evidence: Evidence) -> Array:
    mean = softmax(evidence.mc_logits).mean(axis=0)
    return np.asarray(-(mean * np.log(np.where(mean > 0, mean, 1))).sum(axis=-1))


def _without_notes(result: Schedule, batch: ModalityBatch, spec: SchedulerSpec) -> Schedule:
    return replace(result, notes=())


# --------------------------------------------------------------------------------------- cosines


def _cosine(left: _Values, right_: _Values, least: float = 0.0) -> _Values:
    norms = np.linalg.norm(left, axis=-1) * np.linalg.norm(right_, axis=-1)
    dot = (left * right_).sum(axis=-1)
    if least:
        return np.asarray(dot / np.maximum(norms, norms.dtype.type(least)))
    return np.asarray(np.where(norms > 0, dot / np.where(norms > 0, norms, 1), 0))


def _scaled(features: _Values) -> _Values:
    """Of a size whose squares fit; each sample by one number, so that directions stay."""
    peak = np.abs(features).max(axis=(1, 2), keepdims=True)
    return np.asarray(features / np.where(peak > 0, peak, 1))


def _including_self(ns: Namespace, evidence: Evidence) -> Array:
    h = _scaled(evidence.features)
    return _cosine(h, h.sum(axis=1, keepdims=True))


def _sum_less_self(ns: Namespace, evidence: Evidence) -> Array:
    h = _scaled(evidence.features)
    return np.clip(_cosine(h, h.sum(axis=1, keepdims=True) - h), -1, 1)


def _mean_of_directions(ns: Namespace, evidence: Evidence) -> Array:
    norms = np.linalg.norm(_scaled(evidence.features), axis=-1, keepdims=True)
    unit = _scaled(evidence.features) / np.where(norms > 0, norms, 1)
    return _cosine(unit, unit.sum(axis=1, keepdims=True) - unit)


def _mean_of_cosines(ns: Namespace, evidence: Evidence) -> Array:
    h = evidence.features
    pairs = right.cosine(ns, h[:, :, None], h[:, None])
    others = ~np.eye(h.shape[1], dtype=bool) & evidence.active[:, None]
    total = np.where(others, pairs, 0).sum(axis=-1)
    return total / np.maximum(others.sum(axis=-1), 1).astype(h.dtype)


def _torch_like(ns: Namespace, evidence: Evidence) -> Array:
    h = evidence.features
    return _cosine(h, np.matmul(ns.others(h), h), least=1e-8)


def _unguarded_cosine(left: _Values, right_: _Values) -> _Values:
    norms = np.linalg.norm(left, axis=-1) * np.linalg.norm(right_, axis=-1)
    return np.asarray((left * right_).sum(axis=-1) / norms)


def _distance(ns: Namespace, evidence: Evidence) -> Array:
    return 1 - right.alignment(ns, evidence)


def _dot_product(ns: Namespace, evidence: Evidence) -> Array:
    return (evidence.features * evidence.parameters["anchor"]).sum(axis=-1)


def _first_anchor(ns: Namespace, evidence: Evidence) -> Array:
    anchor = evidence.parameters["anchor"]
    own = {"anchor": anchor if anchor.ndim == 1 else anchor[0]}
    return right.anchored_alignment(ns, replace(evidence, parameters=own))


# -------------------------------------------------------------------------------------- agreement


def _prediction_and_others(evidence: Evidence, *, absent: bool = False) -> tuple[_Values, _Values]:
    p = softmax(evidence.logits)
    if not absent:
        p = np.where(evidence.active[..., None], p, 0)
    others = 1 - np.eye(p.shape[1], dtype=p.dtype)
    count = p.shape[1] - 1 if absent else (evidence.active @ others)[..., None]
    return p, np.matmul(others, p) / np.maximum(count, 1)


def _kl(p: _Values, q: _Values) -> _Values:
    there = (p > 0) & (q > 0)
    ratio = np.where(there, p, 1) / np.where(there, q, 1)
    return np.asarray((p * np.log(ratio)).sum(axis=-1))


def _js(p: _Values, q: _Values) -> _Values:
    return np.asarray((_kl(p, (p + q) / 2) + _kl(q, (p + q) / 2)) / 2)


def _agreement(divergence: Callable[[_Values, _Values], _Values], *, absent: bool = False) -> Any:
    def function(ns: Namespace, evidence: Evidence) -> Array:
        p, q = _prediction_and_others(evidence, absent=absent)
        alone = evidence.active.sum(axis=-1, keepdims=True) < 2
        value = np.where(alone, 0, np.clip(1 - divergence(p, q), 0, 1))
        return np.asarray(value, dtype=evidence.logits.dtype)

    return function


def _lone_agrees(ns: Namespace, evidence: Evidence) -> Array:
    value = right.agreement(ns, evidence)
    alone = evidence.active.sum(axis=-1, keepdims=True) < 2
    return np.where(alone, value.dtype.type(1), value)


# ----------------------------------------------------------------------------------------- energy


def _energy(function: Callable[[Namespace, _Values, float], Array]) -> Any:
    def wrong(ns: Namespace, evidence: Evidence, *, temperature: float = 1.0) -> Array:
        return function(ns, evidence.logits, temperature)

    return wrong


def _silent_about_two(resolved: Resolved) -> Resolved:
    signals = [replace(s, cancels_with_two=False) for s in resolved.signals]
    return replace(resolved, signals=tuple(signals))


_LOG_2 = float(np.log(2))

MUTANTS = (
    Mutant(
        name="log_of_more_classes",
        summary="normalises confidence by log(C + 1)",
        clause="DMS-Q-001",
        resolved=signal("confidence", _confidence(lambda c: float(np.log(c + 1)))),
    ),
    Mutant(
        name="log_of_one",
        summary="divides by log C where there is one class: 0/0",
        clause="DMS-Q-001",
        resolved=signal("confidence", _confidence(lambda c: float(np.log(c)))),
    ),
    Mutant(
        name="padded_log",
        summary="takes log(p + 1e-12) against log 0",
        clause="DMS-Q-001",
        dtype="float64",
        namespace=primitives(entropy=_entropy_padded),
    ),
    Mutant(
        name="largest_probability",
        summary="takes the largest probability for confidence",
        clause="DMS-Q-001",
        resolved=signal("confidence", _largest_probability),
    ),
    Mutant(
        name="normalize_ignored",
        summary="normalises confidence whatever the option says",
        clause="DMS-Q-002",
        resolved=signal("confidence", _confidence(_log_classes, normalized=True)),
    ),
    Mutant(
        name="bits",
        summary="takes entropy in bits, which shows only without normalisation",
        clause="DMS-Q-002",
        resolved=signal("confidence", _bits),
    ),
    Mutant(
        name="entropy_unshifted",
        summary="takes exponentials of logits as they are, for the entropy",
        clause="DMS-N-002",
        namespace=primitives(entropy=_entropy_unshifted),
    ),
    Mutant(
        name="zero_log_zero",
        summary="takes p log p where p is 0, which is NaN",
        clause="DMS-N-004",
        namespace=primitives(entropy=_entropy_nan),
    ),
    Mutant(
        name="sample_variance",
        summary="divides the variance by T - 1",
        clause="DMS-Q-003",
        namespace=primitives(variance_over_passes=_sample_variance),
    ),
    Mutant(
        name="variance_over_classes",
        summary="takes the variance over classes, and the mean over passes",
        clause="DMS-Q-003",
        namespace=primitives(variance_over_passes=_variance_over_classes),
    ),
    Mutant(
        name="standard_deviation",
        summary="forgets that the variance is a square",
        clause="DMS-Q-003",
        namespace=primitives(variance_over_passes=_deviation),
    ),
    Mutant(
        name="logit_variance",
        summary="takes the variance of logits, not of probabilities",
        clause="DMS-Q-003",
        namespace=primitives(variance_over_passes=_logit_variance),
    ),
    Mutant(
        name="reductions_swapped",
        summary="sums uncertainty for mean, and averages for sum",
        clause="DMS-Q-003",
        resolved=signal("uncertainty", _sum_and_mean_swapped),
    ),
    Mutant(
        name="no_notes",
        summary="says nothing where passes are missing",
        clause="DMS-Q-004",
        result=_without_notes,
    ),
    Mutant(
        name="information_by_difference",
        summary="subtracts entropies in float32, and lands below 0",
        clause="DMS-Q-005",
        resolved=signal("mutual_information", _information_by_difference),
    ),
    Mutant(
        name="information_in_bits",
        summary="takes mutual information in bits",
        clause="DMS-Q-005",
        resolved=signal("mutual_information", _information_in_bits),
    ),
    Mutant(
        name="total_entropy",
        summary="takes the entropy of the mean prediction for mutual information",
        clause="DMS-Q-005",
        resolved=signal("mutual_information", _total_entropy),
    ),
    Mutant(
        name="self_included",
        summary="aligns with the mean of all instead of the others",
        clause="DMS-Q-006",
        resolved=signal("alignment", _including_self),
    ),
    Mutant(
        name="sum_less_self",
        summary="takes the sum of all less itself, which cancels beside a large one",
        clause="DMS-Q-006",
        resolved=signal("alignment", _sum_less_self),
    ),
    Mutant(
        name="mean_of_directions",
        summary="scales features to length one before the mean",
        clause="DMS-Q-006",
        resolved=signal("alignment", _mean_of_directions),
    ),
    Mutant(
        name="mean_of_cosines",
        summary="averages cosines instead of taking the cosine with the average",
        clause="DMS-Q-006",
        resolved=signal("alignment", _mean_of_cosines),
    ),
    Mutant(
        name="clamped_norms",
        summary="clamps norms at 1e-8, which is too large for small features",
        clause="DMS-Q-006",
        resolved=signal("alignment", _torch_like),
    ),
    Mutant(
        name="zero_vector",
        summary="divides by the norm of a zero vector",
        clause="DMS-Q-006",
        namespace=primitives(cosine=_unguarded_cosine),
    ),
    Mutant(
        name="cosine_distance",
        summary="takes the cosine distance for the cosine",
        clause="DMS-Q-006",
        resolved=signal("alignment", _distance),
    ),
    Mutant(
        name="silent_about_two",
        summary="does not say that alignment of two modalities cancels",
        clause="DMS-Q-007",
        resolved=_silent_about_two,
        result=_without_notes,
    ),
    Mutant(
        name="dot_product",
        summary="takes the dot product with the anchor",
        clause="DMS-Q-008",
        resolved=signal("anchored_alignment", _dot_product),
    ),
    Mutant(
        name="first_anchor",
        summary="takes the first modality's anchor for all",
        clause="DMS-Q-008",
        resolved=signal("anchored_alignment", _first_anchor),
    ),
    Mutant(
        name="relative_entropy",
        summary="takes the Kullback-Leibler divergence for the Jensen-Shannon one",
        clause="DMS-Q-009",
        resolved=signal("agreement", _agreement(lambda p, q: _kl(p, q) / _LOG_2)),
    ),
    Mutant(
        name="agreement_in_nats",
        summary="does not divide the divergence by log 2",
        clause="DMS-Q-009",
        resolved=signal("agreement", _agreement(_js)),
    ),
    Mutant(
        name="absent_in_mean",
        summary="counts absent modalities in the mean prediction of the others",
        clause="DMS-Q-009",
        resolved=signal("agreement", _agreement(lambda p, q: _js(p, q) / _LOG_2, absent=True)),
    ),
    Mutant(
        name="lone_agrees",
        summary="lets a lone modality agree with itself",
        clause="DMS-Q-009",
        resolved=signal("agreement", _lone_agrees),
    ),
    Mutant(
        name="temperature_ignored",
        summary="takes energy at temperature 1, whatever the option says",
        clause="DMS-Q-010",
        resolved=signal("energy", _energy(lambda ns, x, t: ns.logsumexp(x))),
    ),
    Mutant(
        name="temperature_once",
        summary="divides logits by the temperature, and does not multiply back",
        clause="DMS-Q-010",
        resolved=signal("energy", _energy(lambda ns, x, t: ns.logsumexp(x / x.dtype.type(t)))),
    ),
    Mutant(
        name="negative_energy",
        summary="takes energy with the sign of its source",
        clause="DMS-Q-010",
        resolved=signal("energy", _energy(lambda ns, x, t: -t * ns.logsumexp(x / t))),
    ),
)
