"""Checks what has to be refused, and how."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dms_spec.conformance import worked_example
from dms_spec.conformance.context import Arrays, ConformanceError
from dms_spec.conformance.registry import Context, check
from dms_spec.errors import (
    BackendUnavailable,
    DMSError,
    DTypeError,
    MissingInput,
    NonFiniteInput,
    ShapeError,
    UnsupportedCapability,
)
from dms_spec.spec import SchedulerSpec
from dms_spec.types import ModalityBatch


def _expect(
    clause: str,
    kind: type[DMSError],
    builtin: type[Exception],
    what: str,
    call: Callable[[], object],
) -> DMSError:
    """Expects a call to raise an error of a kind, and of the builtin that fits, and returns it."""
    try:
        call()
    except kind as error:
        if not isinstance(error, builtin):
            raise ConformanceError(
                f"DMS-E-002: {kind.__name__} is not a {builtin.__name__}"
            ) from error
        # Two words may name a thing; what happened takes more.
        if len(str(error).split()) < 3:
            said = f"{kind.__name__} says only {str(error)!r}"
            raise ConformanceError(f"DMS-E-001: {what} is refused, but {said}") from error
        return error
    raise ConformanceError(f"{clause}: {what} was not refused with {kind.__name__}")


@check("DMS-S-004", "DMS-S-010", "DMS-E-001", "DMS-E-002")
def check_misfits_are_refused(ctx: Context) -> None:
    """Wrong ranks, sizes that disagree, missing arrays and a wrong M are refused."""
    good = worked_example.arrays(ctx.dtype)
    spec = ctx.example()
    misfits = {
        "features of rank 2": {"features": good["features"][:, 0]},
        "logits of another batch": {"logits": good["logits"][:2]},
        "passes of other classes": {"mc_logits": good["mc_logits"][..., :2]},
        "presence of other modalities": {"present": good["present"][:, :2]},
        "no classes": {"logits": good["logits"][..., :0], "mc_logits": good["mc_logits"][..., :0]},
    }
    for what, change in misfits.items():
        _expect(
            "DMS-S-004", ShapeError, ValueError, what, partial(ctx.schedule, spec, good | change)
        )
    fewer = {
        name: array[:, :2] if name == "present" else array[..., :2, :]
        for name, array in good.items()
    }
    error = _expect(
        "DMS-S-004",
        ShapeError,
        ValueError,
        "two modalities for three",
        partial(ctx.schedule, spec, fewer),
    )
    ctx.expect("DMS-E-001", "image" in str(error), f"the message names no modality: {error}")
    for name, who in (("features", "fusion"), ("logits", "confidence")):
        lacking = {key: array for key, array in good.items() if key != name}
        error = _expect(
            "DMS-S-010",
            MissingInput,
            ValueError,
            f"no {name}",
            partial(ctx.schedule, spec, lacking),
        )
        ctx.expect("DMS-S-010", who in str(error), f"the message does not say who needs {name}")


@check("DMS-S-005", "DMS-S-006", "DMS-C-002", "DMS-E-002")
def check_dtypes_are_refused(ctx: Context) -> None:
    """Presence other than bool, features other than floats, and dtypes not claimed are refused."""
    good = worked_example.arrays(ctx.dtype)
    spec = ctx.example()
    for dtype in (ctx.dtype, "int64", "int32", "uint8", "int8", "object"):
        arrays = good | {"present": good["present"].astype(dtype)}
        if not _holds(ctx, arrays["present"]):
            continue
        _expect(
            "DMS-S-005",
            DTypeError,
            TypeError,
            f"presence of {dtype}",
            partial(ctx.schedule, spec, arrays),
        )
    roles = ("features", "logits", "mc_logits")
    for role, dtype in itertools.product(
        roles, ("int64", "int32", "int16", "bool", "uint8", "complex64", "object", "U4")
    ):
        with np.errstate(invalid="ignore"):  # -inf is no whole number
            # By way of a dtype from which NumPy knows the way to text.
            arrays = good | {role: good[role].astype("float64").astype(dtype)}
        if not _holds(ctx, arrays[role]):
            continue
        _expect(
            "DMS-S-006",
            DTypeError,
            TypeError,
            f"{role} of {dtype}",
            partial(ctx.schedule, spec, arrays),
        )
    for role, name in itertools.product(roles, ("float64", "float32", "float16")):
        if name not in ctx.backend.capabilities.dtypes:
            _refuse_unclaimed(ctx, spec, good, role, name)


def _holds(ctx: Context, array: NDArray[Any]) -> bool:
    """Says whether the library has such arrays at all; some have none of objects or texts."""
    try:
        ctx.backend.from_numpy(array, ctx.device)
    except (TypeError, UnsupportedCapability):
        return False
    return True


def _refuse_unclaimed(
    ctx: Context, spec: SchedulerSpec, good: Arrays, role: str, name: str
) -> None:
    arrays = good | {role: good[role].astype(name)}
    try:
        ctx.backend.from_numpy(arrays[role], ctx.device)
    except UnsupportedCapability as error:
        refusal: DMSError = error
    else:
        refusal = _expect(
            "DMS-C-002",
            UnsupportedCapability,
            NotImplementedError,
            f"{role} of {name}",
            partial(ctx.schedule, spec, arrays),
        )
    named = name in getattr(refusal, "capability", "")
    ctx.expect("DMS-C-002", named, f"the refusal of {name} does not name the capability")


@check("DMS-C-001", "DMS-C-003")
def check_devices_are_refused(ctx: Context) -> None:
    """A device that is not there is an error, never another device."""
    claims = ctx.backend.capabilities
    ctx.expect("DMS-C-001", len(claims.dtypes) > 0, "no dtype is claimed")
    ctx.expect("DMS-C-001", ctx.device in claims.devices, "a device is used that is not claimed")
    _expect(
        "DMS-C-003",
        BackendUnavailable,
        RuntimeError,
        "a device that does not exist",
        lambda: ctx.backend.scheduler(ctx.example(), device="abacus"),
    )


@check("DMS-C-003")
def check_devices_are_those_asked_for(ctx: Context) -> None:
    """Arrays for another device lie elsewhere, and the result lies where they do."""
    arrays = worked_example.arrays(ctx.dtype)
    ctx.schedule(ctx.example(), arrays)
    for device in ctx.backend.capabilities.devices:
        # "cuda" and "cuda:0" may be one and the same; "cpu" and "cuda" may not.
        if device.partition(":")[0] == ctx.device.partition(":")[0]:
            continue
        here, there = (
            str(getattr(ctx.backend.from_numpy(arrays["features"], each), "device", each))
            for each in (ctx.device, device)
        )
        ctx.expect("DMS-C-003", here != there, f"arrays for {device} lie on {there}")


class _Foreign:
    """An array of an unknown library, which NumPy could convert."""

    def __init__(self, array: NDArray[Any]) -> None:
        self._array, self.shape, self.dtype = array, array.shape, array.dtype
        self.ndim = array.ndim

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.array(self._array, dtype=dtype)


@check("DMS-C-006")
def check_foreign_arrays_are_refused(ctx: Context) -> None:
    """An array of another library is refused, even if it could be converted."""
    good = worked_example.arrays(ctx.dtype)
    moved = {name: ctx.backend.from_numpy(array, ctx.device) for name, array in good.items()}
    scheduler = ctx.backend.scheduler(ctx.example(), device=ctx.device)
    for name, array in good.items():
        batch = ModalityBatch(**(moved | {name: _Foreign(array)}))
        what = f"{name} of another library"
        _expect("DMS-C-006", DTypeError, TypeError, what, partial(scheduler, batch))


@check("DMS-W-008", needs=("policy:linear",))
def check_overflowing_scores_are_refused(ctx: Context) -> None:
    """A score that overflows is an error, not a NaN weight."""
    spec = SchedulerSpec(
        modalities=("a", "b"), signals={"energy": {}}, coefficients={"energy": 1e300}
    )
    arrays = {
        "features": np.ones((1, 2, 2), dtype=ctx.dtype),
        "logits": np.array([[[3.0, 2.0], [1e4, 0.0]]], dtype=ctx.dtype),
    }
    if ctx.computing is np.float64:
        arrays["logits"] = arrays["logits"] * 1e10
    ordinary = {name: array.clip(-1, 1) for name, array in arrays.items()}
    among = {n: np.concatenate([ordinary[n], a, ordinary[n]]) for n, a in arrays.items()}
    for what, given in {"alone": arrays, "among others": among}.items():
        _expect(
            "DMS-W-008",
            NonFiniteInput,
            ValueError,
            f"an infinite score {what}",
            partial(ctx.schedule, spec, given),
        )
