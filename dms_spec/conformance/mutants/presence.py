"""Holds mutants that are wrong about which modalities are there."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dms_spec.conformance.mutants.mutant import Arrays, Call, Mutant, primitives
from dms_spec.equations.primitives import masked_softmax, usable
from dms_spec.errors import NonFiniteInput
from dms_spec.spec import SchedulerSpec
from dms_spec.types import ModalityBatch, Schedule

_Values = NDArray[Any]


def _everyone(arrays: Arrays) -> Arrays:
    arrays["present"] = np.ones(next(iter(arrays.values())).shape[:2], dtype=bool)
    for name in ("features", "logits", "mc_logits"):
        if name in arrays:
            arrays[name] = np.nan_to_num(arrays[name], neginf=-1e4, posinf=1e4)
    return arrays


def _inverted(arrays: Arrays) -> Arrays:
    if "present" in arrays:
        arrays["present"] = ~arrays["present"]
    return arrays


def _guessed(arrays: Arrays) -> Arrays:
    if "features" in arrays:
        arrays.setdefault("present", (arrays["features"] != 0).any(axis=-1))
    return arrays


def _zeros_are_absent(arrays: Arrays) -> Arrays:
    if "features" in arrays and "present" in arrays:
        arrays["present"] = arrays["present"] & (arrays["features"] != 0).any(axis=-1)
    return arrays


def _times_mask(mask: _Values, values: _Values) -> _Values:
    mask = mask[..., None] if values.ndim > mask.ndim else mask
    return np.asarray(values * mask.astype(values.dtype))


def _all_finite(**arrays: _Values) -> _Values:
    verdict = usable(np, **arrays)
    if "logits" in arrays:
        verdict = verdict & np.isfinite(arrays["logits"]).all(axis=-1)
    return np.asarray(verdict)


def _no_nan(**arrays: _Values) -> _Values:
    role = "features" if "features" in arrays else "logits"
    rest = {name: array for name, array in arrays.items() if name != role}
    verdict = ~np.isnan(arrays[role]).any(axis=-1)
    if "logits" in rest or "features" in rest:
        verdict = verdict & usable(np, **rest)
    return np.asarray(verdict)


def _first_pass(**arrays: _Values) -> _Values:
    if "mc_logits" in arrays:
        arrays["mc_logits"] = arrays["mc_logits"][:1]
    return np.asarray(usable(np, **arrays))


def _spec_without(**changes: Any) -> Any:
    return lambda spec: spec.replace(**changes)


def _absent_ones_too(call: Call) -> Schedule:
    arrays = call.batch.arrays()
    if call.spec.nonfinite == "raise" and "present" in arrays:
        features = arrays.get("features")
        if features is not None and np.isnan(features).any():
            raise NonFiniteInput("features hold NaN")
    return call.schedule(call.batch)


def _uniform_if_nothing(scores: _Values, active: _Values) -> _Values:
    weights = masked_softmax(np, scores, active)
    nothing = ~active.any(axis=-1, keepdims=True)
    return np.asarray(np.where(nothing, np.full_like(weights, 1 / weights.shape[-1]), weights))


def _unguarded(scores: _Values, active: _Values) -> _Values:
    masked = np.where(active, scores, -np.inf)
    e = np.exp(masked - masked.max(axis=-1, keepdims=True, initial=-np.inf))
    return np.asarray(e / e.sum(axis=-1, keepdims=True))


def _very_negative(scores: _Values, active: _Values) -> _Values:
    masked = np.where(active, scores, scores.dtype.type(-1e9))
    e = np.exp(masked - masked.max(axis=-1, keepdims=True))
    weights = e / e.sum(axis=-1, keepdims=True)
    return np.asarray(np.where(active.any(axis=-1, keepdims=True), weights, 0))


def _masked_afterwards(scores: _Values, active: _Values) -> _Values:
    scores = np.where(np.isfinite(scores), scores, 0)
    e = np.exp(scores - scores.max(axis=-1, keepdims=True)) * active
    return np.asarray(e / np.maximum(e.sum(axis=-1, keepdims=True), np.finfo(e.dtype).tiny))


def _zero_score(result: Schedule, batch: ModalityBatch, spec: SchedulerSpec) -> Schedule:
    return replace(result, scores=np.where(result.active, result.scores, 0).astype("f4"))


def _signals_of_fillers(result: Schedule, batch: ModalityBatch, spec: SchedulerSpec) -> Schedule:
    left = {
        name: np.where(result.active, value, value.dtype.type(1))
        for name, value in result.signals.items()
    }
    return replace(result, signals=left)


def _present_is_active(result: Schedule, batch: ModalityBatch, spec: SchedulerSpec) -> Schedule:
    return result if batch.present is None else replace(result, active=batch.present.copy())


def _first_presence_of_a_shape(call: Call) -> Schedule:
    arrays = call.batch.arrays()
    if "present" in arrays:
        shapes = tuple(array.shape for array in arrays.values())
        arrays["present"] = call.state.setdefault(shapes, arrays["present"].copy())
    return call.schedule(ModalityBatch(**arrays))


MUTANTS = (
    Mutant(
        name="absent_counted",
        summary="ignores presence, and takes zeros for what is missing",
        clause="DMS-P-001",
        batch=_everyone,
    ),
    Mutant(
        name="mask_inverted",
        summary="reads True as missing, as a padding mask is read",
        clause="DMS-P-001",
        batch=_inverted,
    ),
    Mutant(
        name="very_negative",
        summary="masks scores with -1e9 instead of minus infinity",
        clause="DMS-P-001",
        namespace=primitives(masked_softmax=_very_negative),
    ),
    Mutant(
        name="stale_presence",
        summary="keeps the presence mask of the first batch of a shape",
        clause="DMS-P-001",
        around=_first_presence_of_a_shape,
    ),
    Mutant(
        name="nan_times_zero",
        summary="multiplies by the mask instead of selecting: NaN x 0 is NaN",
        clause="DMS-P-002",
        namespace=primitives(select=_times_mask),
    ),
    Mutant(
        name="presence_guessed",
        summary="without a mask takes rows of zeros for missing",
        clause="DMS-P-003",
        batch=_guessed,
    ),
    Mutant(
        name="zeros_are_absent",
        summary="takes rows of zeros for missing, whatever the mask says",
        clause="DMS-P-004",
        batch=_zeros_are_absent,
    ),
    Mutant(
        name="ruled_out_is_broken",
        summary="takes a single -inf logit for not finite",
        clause="DMS-P-004",
        namespace=primitives(usable=_all_finite),
    ),
    Mutant(
        name="only_nan",
        summary="looks for NaN alone, and lets infinite features in",
        clause="DMS-P-004",
        namespace=primitives(usable=_no_nan),
    ),
    Mutant(
        name="first_pass",
        summary="looks at the first pass alone: a later bad one does not count",
        clause="DMS-P-004",
        namespace=primitives(usable=_first_pass),
    ),
    Mutant(
        name="says_present",
        summary="returns the mask that came in as what was active",
        clause="DMS-P-004",
        result=_present_is_active,
    ),
    Mutant(
        name="raise_ignored",
        summary='treats nonfinite="raise" as "mask"',
        clause="DMS-P-006",
        spec=_spec_without(nonfinite="mask"),
    ),
    Mutant(
        name="raises_on_filler",
        summary="refuses NaN that only fills an absent modality",
        clause="DMS-P-006",
        around=_absent_ones_too,
    ),
    Mutant(
        name="nothing_is_uniform",
        summary="weighs all alike where nothing is there",
        clause="DMS-P-007",
        namespace=primitives(masked_softmax=_uniform_if_nothing),
    ),
    Mutant(
        name="nothing_is_nan",
        summary="takes the softmax of a row of -inf, which is NaN",
        clause="DMS-P-007",
        namespace=primitives(masked_softmax=_unguarded),
    ),
    Mutant(
        name="strict_ignored",
        summary="never refuses a sample with nothing there",
        clause="DMS-P-008",
        spec=_spec_without(strict=False),
    ),
    Mutant(
        name="absent_scores_zero",
        summary="gives what is absent a score of 0",
        clause="DMS-P-009",
        result=_zero_score,
    ),
    Mutant(
        name="absent_signals_left",
        summary="leaves the signals of what is absent as they came out",
        clause="DMS-P-009",
        result=_signals_of_fillers,
    ),
    Mutant(
        name="masked_afterwards",
        summary="masks after the softmax over all, where the rest may have underflowed",
        clause="DMS-W-002",
        namespace=primitives(masked_softmax=_masked_afterwards),
    ),
)
