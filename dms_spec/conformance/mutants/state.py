"""Holds mutants that are right the first time: what they keep from one call shows in another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from time import sleep
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dms_spec.conformance.mutants.mutant import Call, Mutant
from dms_spec.types import ModalityBatch, Schedule

_Values = NDArray[Any]


def _shapes(call: Call) -> tuple[Any, ...]:
    return tuple((k, a.shape, a.dtype.str) for k, a in call.batch.arrays().items())


def _own_buffers(call: Call) -> Schedule:
    """Writes every result of one shape into the same arrays."""
    result = call.schedule(call.batch)
    kept = call.own.setdefault(_shapes(call), np.array(result.weights))
    np.copyto(kept, result.weights)
    return replace(result, weights=kept)


def _known_arrays(call: Call) -> Schedule:
    """Takes arrays that it has seen for unchanged."""
    key = tuple(id(array) for array in call.batch.arrays().values())
    if key not in call.own:
        call.own[key] = call.batch, call.schedule(call.batch)
    return call.own[key][1]  # type: ignore[no-any-return]


def _presence_kept(call: Call) -> Schedule:
    present = call.own.setdefault(_shapes(call), call.batch.present)
    return call.schedule(replace(call.batch, present=present))


def _all_present_kept(call: Call) -> Schedule:
    """Once all were there, takes all to be there."""
    batch = call.batch
    if batch.present is not None and (call.own.get("full") or batch.present.all()):
        call.own["full"] = True
        batch = replace(batch, present=np.ones_like(batch.present))
    return call.schedule(batch)


def _notes_once(call: Call) -> Schedule:
    result = call.schedule(call.batch)
    if call.own.setdefault("told", False):
        return replace(result, notes=())
    call.own["told"] = True
    return result


def _from_call(number: int, change: Callable[[Schedule], Schedule]) -> Callable[[Call], Schedule]:
    """Changes results from some call on, as a compiled form would that is wrong."""

    def around(call: Call) -> Schedule:
        call.own["calls"] = call.own.get("calls", 0) + 1
        result = call.schedule(call.batch)
        return change(result) if call.own["calls"] >= number else result

    return around


def _equal(result: Schedule) -> Schedule:
    count = np.maximum(result.active.sum(axis=1, keepdims=True), 1)
    return replace(result, weights=(result.active / count).astype(result.weights.dtype))


def _terms_forgotten(result: Schedule) -> Schedule:
    return replace(result, terms={name: term * 0 for name, term in result.terms.items()})


def _latest_parameters(call: Call) -> Schedule:
    """Runs the scheduler of a spec that was made first, whatever the parameters of this one."""
    key = repr(call.spec), tuple((k, np.shape(v)) for k, v in call.parameters.items())
    kept = call.state.setdefault(key, call.schedule)
    return kept(call.batch)  # type: ignore[no-any-return]


def _batch_on_the_scheduler(call: Call) -> Schedule:
    """Keeps the batch on the scheduler for the time of a call."""
    call.own["batch"] = call.batch
    sleep(0.002)
    return call.schedule(call.own["batch"])


def _previous_erased(call: Call) -> Schedule:
    previous = call.own.get("previous")
    if previous is not None:
        previous.fused[...] = 0
    call.own["previous"] = result = call.schedule(call.batch)
    return result


def _running_mean(call: Call) -> Schedule:
    """Mixes a hundredth of the last weights of that shape in."""
    result = call.schedule(call.batch)
    last = call.own.get(_shapes(call))
    call.own[_shapes(call)] = result.weights
    if last is None:
        return result
    mixed = np.where(result.active, 0.99 * result.weights + 0.01 * last, 0)
    return replace(result, weights=mixed.astype(result.weights.dtype))


def _mask_returned(call: Call) -> Schedule:
    """Returns the mask itself where it is the same."""
    result, present = call.schedule(call.batch), call.batch.present
    same = present is not None and np.array_equal(present, result.active)
    return replace(result, active=present) if same else result


def _only_one_returned(call: Call) -> Schedule:
    """Returns a view of the features where there is one modality, and it is active."""
    result, batch = call.schedule(call.batch), call.batch
    if call.spec.fusion == "feature" and batch.shape[1] == 1 and result.active.all():
        return replace(result, fused=batch.features[:, 0])
    return result


def _written_back(call: Call) -> Schedule:
    """Lets what was computed last be read from the batch that comes next."""
    batch: ModalityBatch = call.batch
    result = call.schedule(batch)
    call.own.setdefault("results", []).append(result)
    if len(call.own["results"]) > 2:
        call.own["results"][0].scores[...] = 0
    return result


_HISTORY = "DMS-C-007"

MUTANTS = (
    Mutant(
        name="own_buffers",
        summary="writes weights into a buffer of the scheduler, which the next call overwrites",
        clause=_HISTORY,
        kind="state",
        around=_own_buffers,
    ),
    Mutant(
        name="known_arrays",
        summary="takes arrays that it has seen before for unchanged",
        clause=_HISTORY,
        kind="state",
        around=_known_arrays,
    ),
    Mutant(
        name="presence_kept",
        summary="keeps the mask of a scheduler's first batch of a shape",
        clause=_HISTORY,
        kind="state",
        around=_presence_kept,
    ),
    Mutant(
        name="all_present_kept",
        summary="takes all to be present once all were",
        clause=_HISTORY,
        kind="state",
        around=_all_present_kept,
    ),
    Mutant(
        name="notes_once",
        summary="leaves out notes from the second call on",
        clause=_HISTORY,
        kind="state",
        around=_notes_once,
    ),
    Mutant(
        name="wrong_from_the_third",
        summary="gives equal weights from the third call on",
        clause=_HISTORY,
        kind="state",
        around=_from_call(3, _equal),
    ),
    Mutant(
        name="terms_from_the_second",
        summary="gives terms of 0 from the second call on",
        clause=_HISTORY,
        kind="state",
        around=_from_call(2, _terms_forgotten),
    ),
    Mutant(
        name="first_parameters",
        summary="gives schedulers of equal specs the parameters of the first",
        clause=_HISTORY,
        kind="state",
        around=_latest_parameters,
    ),
    Mutant(
        name="running_mean",
        summary="mixes some of the last weights of a scheduler in",
        clause=_HISTORY,
        kind="state",
        around=_running_mean,
    ),
    Mutant(
        name="previous_erased",
        summary="erases the fused value of the call before",
        clause=_HISTORY,
        kind="state",
        around=_previous_erased,
    ),
    Mutant(
        name="older_erased",
        summary="erases the scores of the first result at the third call",
        clause=_HISTORY,
        kind="state",
        around=_written_back,
    ),
    Mutant(
        name="batch_on_the_scheduler",
        summary="keeps the batch of the moment on the scheduler, for every thread to see",
        clause="DMS-C-008",
        kind="state",
        around=_batch_on_the_scheduler,
    ),
    Mutant(
        name="mask_returned",
        summary="returns the caller's own mask as active",
        clause="DMS-S-011",
        kind="state",
        around=_mask_returned,
    ),
    Mutant(
        name="features_returned",
        summary="returns a view of the features where one modality is all there is",
        clause="DMS-S-011",
        kind="state",
        around=_only_one_returned,
    ),
)
