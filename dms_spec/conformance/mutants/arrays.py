"""Holds mutants that are wrong about arrays: shapes, dtypes, devices, layout, and refusals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dms_spec.conformance.mutants.mutant import Arrays, Call, Mutant
from dms_spec.spec import SchedulerSpec
from dms_spec.types import ModalityBatch, Schedule

_Values = NDArray[Any]
_Result = Callable[[Schedule, ModalityBatch, SchedulerSpec], Schedule]


class _Placed(np.ndarray[Any, Any]):
    """An array that says that it is on a device."""

    where = "cpu"

    @property
    def device(self) -> str:  # type: ignore[override]
        return self.where


def _placed(array: _Values, device: str) -> _Placed:
    placed = np.asarray(array).view(_Placed)
    placed.where = device
    return placed


def _brought_back(call: Call) -> Schedule:
    arrays = {name: np.asarray(array) for name, array in call.batch.arrays().items()}
    return call.schedule(ModalityBatch(**arrays)).converted(lambda array: _placed(array, "cpu"))


def _cast(dtype: str) -> Callable[[Arrays], Arrays]:
    def change(arrays: Arrays) -> Arrays:
        for name in {"features", "logits", "mc_logits"} & set(arrays):
            if arrays[name].dtype.kind == "f":
                arrays[name] = arrays[name].astype(dtype)
        return arrays

    return change


def _as_the_features(arrays: Arrays) -> Arrays:
    own = arrays["features" if "features" in arrays else "logits"].dtype.name
    return _cast(own)(arrays)


def _integers_too(arrays: Arrays) -> Arrays:
    for name in ("features", "logits", "mc_logits"):
        if name in arrays and arrays[name].dtype.kind in "iub":
            arrays[name] = arrays[name].astype("float32")
    return arrays


def _thresholded(arrays: Arrays) -> Arrays:
    if "present" in arrays:
        arrays["present"] = arrays["present"] > 0.5
    return arrays


def _filled_up(call: Call) -> Schedule:
    """Gives as many modalities as the spec has, the last of them absent."""
    arrays, wanted = call.batch.arrays(), len(call.spec.modalities)
    first = next(iter(arrays.values()))
    lacking = wanted - first.shape[1]
    if lacking > 0:
        arrays.setdefault("present", np.ones(first.shape[:2], dtype=bool))
        for name, array in arrays.items():
            width = [(0, 0)] * array.ndim
            width[{"present": 1, "mc_logits": 2}.get(name, 1)] = (0, lacking)
            arrays[name] = np.pad(array, width)
    return call.schedule(ModalityBatch(**arrays))


def _zeros_for_missing(call: Call) -> Schedule:
    arrays = call.batch.arrays()
    if "features" not in arrays:
        arrays["features"] = np.zeros((*call.batch.shape, 1), dtype=arrays["logits"].dtype)
    return call.schedule(ModalityBatch(**arrays))


def _one_at_least(call: Call) -> Schedule:
    if call.batch.shape[0]:
        return call.schedule(call.batch)
    padded = {
        name: np.zeros([1 if i == (name == "mc_logits") else n for i, n in enumerate(a.shape)])
        .astype(a.dtype)
        for name, a in call.batch.arrays().items()
    }  # fmt: skip
    return call.schedule(ModalityBatch(**padded))


def _cleaned_in_place(call: Call) -> Schedule:
    result = call.schedule(call.batch)
    for array in call.batch.arrays().values():
        if array.dtype != bool and array.flags.writeable:
            np.nan_to_num(array, copy=False)
    return result


def _converted(call: Call) -> Schedule:
    arrays = {name: np.asarray(array) for name, array in call.batch.arrays().items()}
    return call.schedule(ModalityBatch(**arrays))


def _in_the_order_of_memory(array: _Values, device: str) -> _Values:
    return array.ravel(order="K").reshape(array.shape)


def _outputs(**dtypes: str) -> _Result:
    def change(result: Schedule, batch: ModalityBatch, spec: SchedulerSpec) -> Schedule:
        arrays = {name: getattr(result, name).astype(dtype) for name, dtype in dtypes.items()}
        return replace(result, **arrays)

    return change


def _as_they_came(result: Schedule, batch: ModalityBatch, spec: SchedulerSpec) -> Schedule:
    dtype = next(iter(batch.arrays().values())).dtype
    return replace(result, weights=result.weights.astype(dtype))


def _squeezed(result: Schedule, batch: ModalityBatch, spec: SchedulerSpec) -> Schedule:
    one = result.fused.shape[0] == 1
    return replace(result, fused=result.fused[0]) if one else result


def _unsqueezed(result: Schedule, batch: ModalityBatch, spec: SchedulerSpec) -> Schedule:
    return replace(result, weights=result.weights[..., None])


def _asked_for_only(result: Schedule, batch: ModalityBatch, spec: SchedulerSpec) -> Schedule:
    weighed = {n: value for n, value in result.signals.items() if spec.coefficients.get(n)}
    return replace(result, signals=weighed)


def _shifted_in_half(arrays: Arrays) -> Arrays:
    for name in ("logits", "mc_logits"):
        if name in arrays and arrays[name].dtype == np.float16:
            arrays[name] = arrays[name] - arrays[name].max(axis=-1, keepdims=True, initial=-np.inf)
    return arrays


MUTANTS = (
    Mutant(
        name="squeezed",
        summary="drops the axis of a batch of one",
        clause="DMS-S-001",
        result=_squeezed,
    ),
    Mutant(
        name="kept_axis",
        summary="leaves an axis of size one on the weights",
        clause="DMS-S-001",
        result=_unsqueezed,
    ),
    Mutant(
        name="signals_left_out",
        summary="returns no signal that is not weighed",
        clause="DMS-S-001",
        result=_asked_for_only,
    ),
    Mutant(
        name="narrowed",
        summary="takes the dtype of the features for everything",
        clause="DMS-S-002",
        batch=_as_the_features,
    ),
    Mutant(
        name="weights_as_features",
        summary="returns weights in half precision, as the features came",
        clause="DMS-S-003",
        dtype="float16",
        result=_as_they_came,
    ),
    Mutant(
        name="wide_fused",
        summary="returns fused in the computing dtype",
        clause="DMS-S-003",
        dtype="float16",
        result=_outputs(fused="float32"),
    ),
    Mutant(
        name="active_as_numbers",
        summary="returns active as 0 and 1",
        clause="DMS-S-003",
        result=_outputs(active="uint8"),
    ),
    Mutant(
        name="modalities_filled_up",
        summary="takes the modalities that a batch lacks for absent",
        clause="DMS-S-004",
        around=_filled_up,
    ),
    Mutant(
        name="presence_thresholded",
        summary="takes a presence above 0.5 for true",
        clause="DMS-S-005",
        batch=_thresholded,
    ),
    Mutant(
        name="integers_cast",
        summary="casts integers to floats",
        clause="DMS-S-006",
        batch=_integers_too,
    ),
    Mutant(
        name="empty_padded",
        summary="pads an empty batch to one sample, and does not cut it again",
        clause="DMS-S-007",
        around=_one_at_least,
    ),
    Mutant(
        name="cleaned_in_place",
        summary="replaces NaN in the caller's own arrays",
        clause="DMS-S-008",
        around=_cleaned_in_place,
    ),
    Mutant(
        name="strides_ignored",
        summary="reads arrays in the order of their memory",
        clause="DMS-S-009",
        convert=_in_the_order_of_memory,
    ),
    Mutant(
        name="zeros_for_missing",
        summary="takes zeros for features that were not given",
        clause="DMS-S-010",
        around=_zeros_for_missing,
    ),
    Mutant(
        name="half_shift",
        summary="subtracts the largest logit in half precision, and widens afterwards",
        clause="DMS-N-005",
        dtype="float16",
        batch=_shifted_in_half,
    ),
    Mutant(
        name="dtype_cast",
        summary="casts a dtype that it does not claim",
        clause="DMS-C-002",
        batch=_cast("float32"),
        claims=lambda claims: replace(claims, dtypes=("float32",)),
    ),
    Mutant(
        name="silent_copy",
        summary="computes on the CPU whatever device was asked for",
        clause="DMS-C-003",
        claims=lambda claims: replace(claims, devices=("cpu", "cuda")),
    ),
    Mutant(
        name="result_elsewhere",
        summary="computes on the CPU, and leaves the result there",
        clause="DMS-C-003",
        claims=lambda claims: replace(claims, devices=("cpu", "cuda")),
        convert=_placed,
        around=_brought_back,
    ),
    Mutant(
        name="anything_converted",
        summary="converts arrays of other libraries",
        clause="DMS-C-006",
        around=_converted,
    ),
    Mutant(
        name="parameters_narrowed",
        summary="keeps parameters in float32",
        clause="DMS-X-002",
        dtype="float64",
        convert=lambda array, device: (
            array.astype("float32") if array.dtype == np.float64 and array.ndim < 3 else array
        ),
    ),
)
