"""Holds mutants that are right where one mostly looks: usual sizes, first calls, defaults.

They were found by writing wrong backends without looking at the checks.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dms_spec.conformance.mutants.mutant import Arrays, Call, Mutant, library
from dms_spec.engine.resolve import Resolved
from dms_spec.errors import DMSError, NothingPresent
from dms_spec.spec import SchedulerSpec
from dms_spec.types import Array, ModalityBatch, Schedule

_Values = NDArray[Any]
_Around = Callable[[Call], Schedule]
_Result = Callable[[Schedule, ModalityBatch, SchedulerSpec], Schedule]


def _even(result: Schedule, rows: slice = slice(None)) -> Schedule:
    """Gives equal weights to some rows."""
    weights = np.array(result.weights)
    count = np.maximum(result.active.sum(axis=1, keepdims=True), 1)
    weights[rows] = (result.active / count)[rows]
    return replace(result, weights=weights)


def _even_if(where: Callable[[Schedule, ModalityBatch, SchedulerSpec], bool]) -> _Result:
    return lambda result, batch, spec: _even(result) if where(result, batch, spec) else result


# ---------------------------------------------------------------------------------------- sizes


def _whole_blocks(result: Schedule, batch: ModalityBatch, spec: SchedulerSpec) -> Schedule:
    """Gets the last row wrong where no row is left over."""
    rows = len(result.weights)
    return _even(result, slice(-1, None)) if rows and rows % 8 == 0 else result


def _three_left_over(result: Schedule, batch: ModalityBatch, spec: SchedulerSpec) -> Schedule:
    rows = len(result.weights)
    return _even(result, slice(-1, None)) if rows > 4 and rows % 4 == 3 else result


def _wide_and_many(result: Schedule, batch: ModalityBatch, spec: SchedulerSpec) -> bool:
    logits = batch.logits
    return logits is not None and logits.shape[0] >= 40 and logits.shape[-1] >= 40


def _looks_at_the_first(name: str, count: int) -> Callable[[Arrays], Arrays]:
    """Does not see what is not finite past some entry."""

    def change(arrays: Arrays) -> Arrays:
        if name in arrays and arrays[name].dtype.kind == "f":
            rest = arrays[name][..., count:]
            rest[~np.isfinite(rest)] = 0
        return arrays

    return change


# ---------------------------------------------------------------------------------------- state


def _after_many_calls(call: Call) -> Schedule:
    call.own["calls"] = call.own.get("calls", 0) + 1
    result = call.schedule(call.batch)
    return _even(result) if call.own["calls"] > 50 else result


def _ring_of_eight(call: Call) -> Schedule:
    """Keeps eight results, and gives the memory of the oldest back."""
    ring = call.own.setdefault("ring", [])
    ring.append(call.schedule(call.batch))
    if len(ring) > 8:
        ring.pop(0).weights[...] = 0
    return ring[-1]  # type: ignore[no-any-return]


def _known_features(call: Call) -> Schedule:
    """Takes a batch for known by its features."""
    batch, result = call.batch, call.schedule(call.batch)
    if batch.features is None:
        return result
    shapes = tuple(array.shape for array in batch.arrays().values())
    key = batch.features.tobytes(), shapes, result.weights.dtype
    return call.own.setdefault(key, result)  # type: ignore[no-any-return]


def _after_a_refusal(call: Call) -> Schedule:
    """Is left in another state by a batch that it refused."""
    try:
        result = call.schedule(call.batch)
    except DMSError:
        call.own["refused"] = True
        raise
    return _even(result) if call.own.pop("refused", False) else result


def _after_no_samples(call: Call) -> Schedule:
    result = call.schedule(call.batch)
    before, call.own["empty"] = call.own.get("empty"), call.batch.shape[0] == 0
    return _even(result) if before else result


def _rows_of_the_first(call: Call) -> Schedule:
    """Computes as many rows as the first batch had."""
    result = call.schedule(call.batch)
    return _even(result, slice(call.own.setdefault("rows", len(result.weights)), None))


def _dtypes_of_the_first(call: Call) -> Schedule:
    """Reads later batches with the digits of the first."""
    arrays = call.batch.arrays()
    first = call.own.setdefault("dtypes", {name: a.dtype for name, a in arrays.items()})
    read = {
        name: a.astype(first.get(name, a.dtype)).astype(a.dtype) if a.dtype.kind == "f" else a
        for name, a in arrays.items()
    }
    return call.schedule(ModalityBatch(**read))


def _mask_of_the_last(call: Call) -> Schedule:
    """Takes the mask of the last batch where there is none."""
    batch = call.batch
    if batch.present is not None:
        call.own["mask"] = np.array(batch.present)
    elif call.own.get("mask", np.zeros(0)).shape == batch.shape:
        batch = replace(batch, present=call.own["mask"])
    return call.schedule(batch)


# -------------------------------------------------------------------------------------- numbers


def _options(change: Callable[[dict[str, Any]], dict[str, Any]]) -> Callable[..., SchedulerSpec]:
    return lambda spec: spec.replace(
        signals={name: change(dict(own)) for name, own in spec.signals.items()}
    )


def _cool(options: dict[str, Any]) -> dict[str, Any]:
    return options | ({"temperature": min(options["temperature"], 25.0)} if options else {})


def _cool_energy(spec: SchedulerSpec) -> SchedulerSpec:
    """Limits temperatures to 25."""
    return _options(lambda own: _cool(own) if "temperature" in own else own)(spec)


def _small_coefficients(spec: SchedulerSpec) -> SchedulerSpec:
    return spec.replace(coefficients={k: min(v, 40.0) for k, v in spec.coefficients.items()})


def _parameter(pattern: str, change: Callable[[Array], Array]) -> Callable[[Resolved], Resolved]:
    def wrong(resolved: Resolved) -> Resolved:
        own = {
            name: change(array) if re.fullmatch(pattern, name) else array
            for name, array in resolved.parameters.items()
        }
        return replace(resolved, parameters=own)

    return wrong


def _log_of_one_plus(one: _Values, other: _Values) -> _Values:
    return np.asarray(np.maximum(one, other) + np.log(1 + np.exp(-np.abs(one - other))))


def _wide_parameters(call: Call) -> Schedule:
    """Computes in float64 because parameters are float64."""
    result = call.schedule(call.batch)
    wide = any(np.asarray(array).dtype == np.float64 for array in call.parameters.values())
    return replace(result, weights=result.weights.astype("f8")) if wide else result


# ------------------------------------------------------------------------------ notes, refusals


def _silent_without_passes(result: Schedule, batch: ModalityBatch, spec: SchedulerSpec) -> Schedule:
    silent = batch.mc_logits is not None and batch.mc_logits.shape[0] == 0
    return replace(result, notes=()) if silent else result


def _policy_not_noted(result: Schedule, batch: ModalityBatch, spec: SchedulerSpec) -> Schedule:
    return replace(result, notes=tuple(n for n in result.notes if "policy" not in n))


def _strict_about_gaps(call: Call) -> Schedule:
    result = call.schedule(call.batch)
    if call.spec.strict and not result.active.all():
        raise NothingPresent("something is absent in sample 0")
    return result


def _taken(dtype: str) -> Callable[[Arrays], Arrays]:
    """Takes features of a dtype that is no real floating one."""

    def change(arrays: Arrays) -> Arrays:
        if "features" in arrays and arrays["features"].dtype == dtype:
            arrays["features"] = arrays["features"].astype("float32")
        return arrays

    return change


# ------------------------------------------------------------------------- layout and gradients


def _strides(wrong: Callable[[_Values], bool]) -> _Around:
    def around(call: Call) -> Schedule:
        result = call.schedule(call.batch)
        arrays = [a for n, a in call.batch.arrays().items() if n in ("features", "logits")]
        return _even(result) if any(wrong(a) for a in arrays) else result

    return around


def _gradients(
    where: Callable[[str, Array], bool],
) -> Callable[[dict[str, Array]], dict[str, Array]]:
    return lambda found: {n: 0.5 * g if where(n, g) else g for n, g in found.items()}


def _first_rows(found: dict[str, Array]) -> dict[str, Array]:
    """Loses the gradients of the rows past four."""
    kept = {name: gradient.clone() for name, gradient in found.items()}
    for name, gradient in kept.items():
        (gradient[:, 4:] if name == "mc_logits" else gradient[4:]).zero_()
    return kept


_EXACT, _ALONE, _HISTORY, _ANY = "DMS-N-001", "DMS-W-005", "DMS-C-007", "DMS-G-005"


def _of(kind: str, name: str, summary: str, clause: str, **how: Any) -> Mutant:
    return Mutant(name=name, summary=summary, clause=clause, kind=kind, **how)


MUTANTS = (
    _of(
        "size", "between_7_and_31", "gives equal weights to 7 to 31 modalities", _EXACT,
        result=_even_if(lambda result, batch, spec: 7 <= result.weights.shape[1] <= 31),
    ),
    _of(
        "size", "classes_17_to_32", "gives equal weights with 17 to 32 classes", _EXACT,
        result=_even_if(
            lambda r, batch, spec: batch.logits is not None and 16 < batch.logits.shape[-1] <= 32
        ),
    ),
    _of(
        "size", "six_to_eight_passes", "gives equal weights with six to eight passes", _EXACT,
        result=_even_if(
            lambda r, b, spec: b.mc_logits is not None and 6 <= b.mc_logits.shape[0] <= 8
        ),
    ),
    _of(
        "size", "nothing_left_over", "gets the last row of whole blocks of 8 wrong", _ALONE,
        result=_whole_blocks,
    ),
    _of(
        "size", "three_left_over", "gets the last of three rows beside blocks of 4 wrong", _ALONE,
        result=_three_left_over,
    ),
    _of(
        "size", "rows_by_classes", "gives equal weights to 40 rows of 40 classes", _ALONE,
        result=_even_if(_wide_and_many),
    ),
    _of(
        "presence", "features_past_64", "looks for NaN among the first 64 features", "DMS-P-004",
        batch=_looks_at_the_first("features", 64),
    ),
    _of(
        "presence", "logits_past_128", "looks for NaN among the first 128 classes", "DMS-P-004",
        batch=_looks_at_the_first("logits", 128),
    ),
    _of(
        "state", "tired_after_50", "gives equal weights from the 51st call on", _HISTORY,
        around=_after_many_calls,
    ),
    _of(
        "state", "ring_of_eight", "erases the weights of eight calls before", _HISTORY,
        around=_ring_of_eight,
    ),
    _of(
        "state", "known_features", "takes a batch for known by its features", _HISTORY,
        around=_known_features,
    ),
    _of(
        "state", "after_a_refusal", "gives equal weights after a batch that it refused", _HISTORY,
        around=_after_a_refusal,
    ),
    _of(
        "state", "after_no_samples", "gives equal weights after a batch of no samples", _HISTORY,
        around=_after_no_samples,
    ),
    _of(
        "state", "rows_of_the_first", "computes as many rows as the first batch had", _HISTORY,
        around=_rows_of_the_first,
    ),
    _of(
        "state", "dtypes_of_the_first", "reads every batch in the dtypes of the first", _HISTORY,
        dtype="float64", around=_dtypes_of_the_first,
    ),
    _of(
        "state", "mask_of_the_last", "takes the last mask where there is none", _HISTORY,
        around=_mask_of_the_last,
    ),
    _of(
        "numbers drawn", "coefficients_to_40", "limits coefficients to 40", "DMS-L-003",
        spec=_small_coefficients,
    ),
    _of(
        "numbers drawn", "temperature_to_25", "limits the temperature of energy to 25", "DMS-Q-010",
        spec=_cool_energy,
    ),
    _of(
        "numbers drawn", "four_prototypes", "looks at the first four prototypes", "DMS-Q-013",
        resolved=_parameter(r"signals\.typicality\.prototypes", lambda array: array[:, :4]),
    ),
    _of(
        "numbers drawn", "hidden_64", "reads 64 hidden units", "DMS-L-008",
        resolved=_parameter(
            r"policy\.output_weight",
            lambda array: np.where(np.arange(len(array)) < 64, array, 0).astype(array.dtype),
        ),
    ),
    _of(
        "numbers drawn",
        "log_of_one_plus",
        "computes softplus as the log of 1 + e^x, which loses what is small",
        "DMS-L-007",
        namespace=library(logaddexp=_log_of_one_plus),
    ),
    _of(
        "numbers drawn", "bias_to_100", "limits the bias of static to 100", "DMS-L-002",
        resolved=_parameter(r"policy\.bias", lambda array: np.minimum(array, 100)),
    ),
    _of(
        "numbers drawn", "attached_is_equal", "gives equal weights if signals are not detached",
        _EXACT, result=_even_if(lambda result, batch, spec: not spec.detach_signals),
    ),
    _of(
        "numbers drawn", "parameters_decide", "computes in the dtype of the parameters",
        "DMS-S-002", around=_wide_parameters,
    ),
    _of(
        "terms and notes", "silent_without_passes", "gives no notes for no passes", "DMS-Q-004",
        result=_silent_without_passes,
    ),
    _of(
        "terms and notes", "policy_not_noted", "does not say that a policy has no parameters",
        "DMS-C-005", result=_policy_not_noted,
    ),
    _of(
        "presence", "strict_about_gaps", "with strict refuses whatever has a gap", "DMS-P-008",
        around=_strict_about_gaps,
    ),
    _of(
        "presence", "raising_is_equal", "gives equal weights where it may refuse", "DMS-P-006",
        result=_even_if(lambda result, batch, spec: spec.nonfinite == "raise"),
    ),
    _of(
        "errors", "int32_taken", "takes features of int32", "DMS-S-006", batch=_taken("int32"),
    ),
    _of(
        "errors", "objects_taken", "takes features of objects", "DMS-S-006",
        batch=_taken("object"),
    ),
    _of(
        "state", "rows_backwards", "gets rows wrong that lie backwards", "DMS-S-009",
        around=_strides(lambda array: array.ndim > 2 and array.strides[0] < 0),
    ),
    _of(
        "state", "one_row_for_all", "gets rows wrong that are one in memory", "DMS-S-009",
        around=_strides(
            lambda array: array.ndim > 2 and array.shape[0] > 1 and array.strides[0] == 0
        ),
    ),
    _of(
        "gradients", "gradients_of_four_rows", "loses the gradients of rows past four", _ANY,
        base="torch", dtype="float64", gradients=_first_rows,
    ),
    _of(
        "gradients", "gradients_of_many_classes", "halves gradients past three classes", _ANY,
        base="torch", dtype="float64",
        gradients=_gradients(lambda name, array: name == "logits" and array.shape[-1] > 3),
    ),
    _of(
        "gradients", "gradients_of_many_passes", "halves gradients past three passes", _ANY,
        base="torch", dtype="float64",
        gradients=_gradients(lambda name, array: name == "mc_logits" and array.shape[0] > 3),
    ),
)  # fmt: skip
