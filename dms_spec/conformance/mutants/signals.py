"""Holds mutants that are wrong about signals of one modality: confidence, the passes, energy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dms_spec.conformance.mutants.mutant import Mutant, primitives, signal, softmax
from dms_spec.equations import signals as right
from dms_spec.equations.namespace import Namespace
from dms_spec.interface.signal import Evidence
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
    """Computes confidence with another number for log C, or always or never normalised."""

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


# ----------------------------------------------------------------------------------------- energy


def _energy(function: Callable[[Namespace, _Values, float], Array]) -> Any:
    def wrong(ns: Namespace, evidence: Evidence, *, temperature: float = 1.0) -> Array:
        return function(ns, evidence.logits, temperature)

    return wrong


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
