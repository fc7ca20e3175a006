"""Holds mutants that are wrong about weights: the softmax, the order, what stays between calls."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from threading import current_thread, main_thread
from time import sleep
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dms_spec.conformance.mutants.mutant import Call, Mutant, policy, primitives
from dms_spec.engine.resolve import Resolved
from dms_spec.equations.namespace import Namespace
from dms_spec.equations.policies import linear
from dms_spec.equations.primitives import masked_softmax
from dms_spec.interface.policy import PolicyInput
from dms_spec.spec import SchedulerSpec
from dms_spec.types import Array, ModalityBatch, Schedule

_Values = NDArray[Any]


def _uniform(result: Schedule, batch: ModalityBatch, spec: SchedulerSpec) -> Schedule:
    count = np.maximum(result.active.sum(axis=1, keepdims=True), 1)
    return replace(result, weights=(result.active / count).astype(result.weights.dtype))


def _normalised(e: _Values, active: _Values, axis: int = -1, more: float = 0.0) -> _Values:
    e = np.where(active, e, 0)
    total = e.sum(axis=axis, keepdims=True)
    return np.asarray(e / (np.where(total > 0, total, 1) + e.dtype.type(more)))


def _shifted(scores: _Values, active: _Values, axis: int | None = -1) -> _Values:
    """Takes the exponential of the scores less the largest of them along an axis, or of all."""
    masked = np.where(active, scores, -np.inf).astype(scores.dtype)
    peak = masked.max(axis=axis, keepdims=True, initial=-np.inf)
    peak = np.where(np.isfinite(peak), peak, 0).astype(scores.dtype)
    return np.asarray(np.exp(masked - peak))


def _unshifted(scores: _Values, active: _Values) -> _Values:
    return _normalised(np.exp(scores), active)


def _over_samples(scores: _Values, active: _Values) -> _Values:
    return _normalised(_shifted(scores, active, axis=0), active, axis=0)


def _epsilon(scores: _Values, active: _Values) -> _Values:
    return _normalised(_shifted(scores, active), active, more=1e-8)


def _largest_of_the_batch(scores: _Values, active: _Values) -> _Values:
    return _normalised(_shifted(scores, active, axis=None), active)


def _sigmoid(scores: _Values, active: _Values) -> _Values:
    return np.asarray(np.where(active, 1 / (1 + np.exp(-scores)), 0).astype(scores.dtype))


def _shares(scores: _Values, active: _Values) -> _Values:
    return _normalised(scores, active)


def _winner(scores: _Values, active: _Values) -> _Values:
    best = np.where(active, scores, -np.inf).argmax(axis=-1)
    return np.asarray((np.arange(scores.shape[1]) == best[:, None]) & active).astype(scores.dtype)


def _halves(scores: _Values, active: _Values) -> _Values:
    return np.asarray(masked_softmax(np, scores, active)).astype("f2").astype(scores.dtype)


def _singles(scores: _Values, active: _Values) -> _Values:
    weights = np.asarray(masked_softmax(np, scores.astype("f4"), active))
    return weights.astype(scores.dtype)


def _early_ones_win_ties(scores: _Values, active: _Values) -> _Values:
    order = np.arange(scores.shape[1], dtype=scores.dtype) * scores.dtype.type(-1e-5)
    return np.asarray(masked_softmax(np, scores + order, active))


def _last_gets_the_rest(scores: _Values, active: _Values) -> _Values:
    weights = np.asarray(masked_softmax(np, scores, active)).copy()
    weights[:, 0] *= weights.dtype.type(0.999)
    weights[:, -1] = np.where(active.any(axis=1), 1 - weights[:, :-1].sum(axis=1), 0)
    return np.asarray(np.where(active, weights, 0))


def _standardised(resolved: Resolved) -> Resolved:
    def wrong(function: Any, ns: Namespace, evidence: Any, **options: Any) -> Array:
        value = function(ns, evidence, **options)
        spread = value.std(axis=0, keepdims=True)
        return (value - value.mean(axis=0, keepdims=True)) / (spread + value.dtype.type(1e-3))

    signals = [replace(s, function=partial(wrong, s.function)) for s in resolved.signals]
    return replace(resolved, signals=tuple(signals))


def _rows(result: Schedule, order: _Values) -> Schedule:
    return result.converted(lambda array: np.asarray(array)[order])


def _grouped_by_pattern(result: Schedule, batch: ModalityBatch, spec: SchedulerSpec) -> Schedule:
    return _rows(result, np.lexsort(result.active.T)) if result.active.size else result


def _modalities_reversed(result: Schedule, batch: ModalityBatch, spec: SchedulerSpec) -> Schedule:
    back = {name: value[:, ::-1].copy() for name, value in result.terms.items()}
    return replace(
        result, weights=result.weights[:, ::-1].copy(), scores=result.scores[:, ::-1].copy(),
        active=result.active[:, ::-1].copy(), terms=back,
    )  # fmt: skip


def _jitter(scores: _Values, active: _Values) -> _Values:
    noise = np.random.default_rng().random(scores.shape).astype(scores.dtype)
    return np.asarray(masked_softmax(np, scores, active) * (1 + noise / 100))


def _own_buffer(call: Call) -> Schedule:
    result = call.schedule(call.batch)
    buffer = call.state.setdefault(
        (result.weights.shape, result.weights.dtype), np.empty_like(result.weights)
    )
    buffer[...] = result.weights
    return replace(result, weights=buffer)


def _shared_batch(call: Call) -> Schedule:
    call.state["batch"] = call.batch
    if current_thread() is not main_thread():
        sleep(0.05)  # another thread has its turn
    return call.schedule(call.state["batch"])


def _capped(ns: Namespace, given: PolicyInput) -> Mapping[str, Array]:
    terms = linear(ns, given)
    return {name: np.nan_to_num(np.asarray(term), posinf=1e4) for name, term in terms.items()}


MUTANTS = (
    Mutant(
        name="uniform",
        summary="weighs whatever is there alike",
        clause="DMS-N-001",
        result=_uniform,
    ),
    Mutant(
        name="score_shares",
        summary="divides scores by their sum instead of taking a softmax",
        clause="DMS-W-001",
        namespace=primitives(masked_softmax=_shares),
    ),
    Mutant(
        name="over_samples",
        summary="takes the softmax over the wrong axis",
        clause="DMS-W-002",
        namespace=primitives(masked_softmax=_over_samples),
    ),
    Mutant(
        name="sigmoid_gates",
        summary="takes a sigmoid of each score",
        clause="DMS-W-002",
        namespace=primitives(masked_softmax=_sigmoid),
    ),
    Mutant(
        name="half_weights",
        summary="keeps weights in half precision on the way",
        clause="DMS-W-002",
        namespace=primitives(masked_softmax=_halves),
    ),
    Mutant(
        name="epsilon",
        summary="adds 1e-8 to the denominator of the softmax",
        clause="DMS-W-003",
        dtype="float64",
        namespace=primitives(masked_softmax=_epsilon),
    ),
    Mutant(
        name="modalities_reversed",
        summary="returns modalities in the reverse order",
        clause="DMS-W-004",
        result=_modalities_reversed,
    ),
    Mutant(
        name="last_gets_the_rest",
        summary="gives the last modality what the others leave, rounding and all",
        clause="DMS-W-004",
        namespace=primitives(masked_softmax=_last_gets_the_rest),
    ),
    Mutant(
        name="batch_statistics",
        summary="standardises signals over the batch",
        clause="DMS-W-005",
        resolved=_standardised,
    ),
    Mutant(
        name="batch_maximum",
        summary="shifts every sample by the largest score of the batch",
        clause="DMS-W-005",
        namespace=primitives(masked_softmax=_largest_of_the_batch),
    ),
    Mutant(
        name="samples_grouped",
        summary="groups samples by who is there, and returns them in that order",
        clause="DMS-W-005",
        result=_grouped_by_pattern,
    ),
    Mutant(
        name="unshifted",
        summary="takes exponentials of scores as they are",
        clause="DMS-W-006",
        namespace=primitives(masked_softmax=_unshifted),
    ),
    Mutant(
        name="winner_takes_all",
        summary="gives everything to the largest score, and ties to the first",
        clause="DMS-W-007",
        namespace=primitives(masked_softmax=_winner),
    ),
    Mutant(
        name="ties_broken",
        summary="breaks ties by a hundred-thousandth in favour of early modalities",
        clause="DMS-W-007",
        namespace=primitives(masked_softmax=_early_ones_win_ties),
    ),
    Mutant(
        name="overflow_capped",
        summary="caps a score that overflowed, and goes on",
        clause="DMS-W-008",
        resolved=policy("linear", _capped),
    ),
    Mutant(
        name="single_precision",
        summary="takes the softmax in float32 where float64 came in",
        clause="DMS-N-001",
        dtype="float64",
        namespace=primitives(masked_softmax=_singles),
    ),
    Mutant(
        name="jitter",
        summary="claims determinism, and adds noise so that no two weights tie",
        clause="DMS-C-004",
        namespace=primitives(masked_softmax=_jitter),
    ),
    Mutant(
        name="buffer_reused",
        summary="returns a buffer that the next call of the same shape overwrites",
        clause="DMS-C-004",
        around=_own_buffer,
    ),
    Mutant(
        name="shared_state",
        summary="keeps the batch of the moment on the backend, for every thread to see",
        clause="DMS-C-004",
        around=_shared_batch,
    ),
)
