"""Checks shapes, dtypes and layout."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

from dms_spec.conformance import strategies
from dms_spec.conformance.registry import Context, check
from dms_spec.spec import SchedulerSpec


@check("DMS-S-001", "DMS-S-002", "DMS-S-003", "DMS-N-003", "DMS-N-005")
def check_shapes_and_dtypes(ctx: Context) -> None:
    """Every output has the shape and dtype that the specification gives it."""

    @ctx.given(ctx.cases())
    def property_(case: strategies.Case) -> None:
        result = ctx.schedule(case.spec, case.arrays, case.parameters)
        square = case.arrays["present"].shape
        role = "features" if case.spec.fusion == "feature" else "logits"
        wanted: dict[str, tuple[tuple[int, ...], Any]] = {
            "weights": (square, ctx.computing),
            "scores": (square, ctx.computing),
        }
        wanted |= dict.fromkeys((*result.signals, *result.terms), (square, ctx.computing))
        wanted |= {"active": (square, np.bool_), "soundness": (square, ctx.computing)}
        wanted |= {"fused": ((square[0], case.arrays[role].shape[-1]), ctx.dtype)}
        for name, value in (result.arrays() | dict(result.terms)).items():
            shape, dtype = wanted[name]
            ctx.expect("DMS-S-001", value.shape == shape, f"{name} has shape {value.shape}")
            ctx.expect("DMS-S-003", value.dtype == np.dtype(dtype), f"{name} is {value.dtype}")
        ctx.expect(
            "DMS-S-001", set(result.signals) == set(case.spec.signals), "signals are missing"
        )


@check("DMS-S-002", needs=("dtype:float64",))
def check_widest_input_decides(ctx: Context) -> None:
    """One float64 input makes the whole computation float64."""

    @ctx.given(strategies.batches(ctx.dtype, tame=True))
    def property_(arrays: strategies.Arrays) -> None:
        m = arrays["present"].shape[1]
        spec = SchedulerSpec.preset("paper", strategies.names(m))
        if m == 2:
            return  # warns, which is another clause
        wide = arrays | {"logits": arrays["logits"].astype(np.float64)}
        result = ctx.schedule(spec, wide)
        ctx.expect("DMS-S-002", result.weights.dtype == np.float64, "float64 logits were narrowed")
        ctx.expect(
            "DMS-S-003", result.fused.dtype == np.dtype(ctx.dtype), "fused changed its dtype"
        )


@check("DMS-S-007")
def check_empty_batch(ctx: Context) -> None:
    """Without samples in, no samples come out."""

    @ctx.given(ctx.cases())
    def property_(case: strategies.Case) -> None:
        empty = {
            name: array[:, :0] if name == "mc_logits" else array[:0]
            for name, array in case.arrays.items()
        }
        result = ctx.schedule(case.spec, empty, case.parameters)
        for name, value in result.arrays().items():
            ctx.expect("DMS-S-007", value.shape[0] == 0, f"{name} has samples")


@check("DMS-S-008", "DMS-S-009")
def check_inputs_are_only_read(ctx: Context) -> None:
    """Inputs stay as they were, and strided or read-only inputs give the same."""

    @ctx.given(ctx.cases(), st.sampled_from(["backwards", "every other", "columns first"]))
    def property_(case: strategies.Case, layout: str) -> None:
        before = {name: array.copy() for name, array in case.arrays.items()}
        strided = {}
        for name, array in case.arrays.items():
            if layout == "backwards":
                strided[name] = np.ascontiguousarray(array[..., ::-1])[..., ::-1]
            elif layout == "columns first":
                strided[name] = np.array(array, order="F")
            else:
                strided[name] = np.repeat(array, 2, axis=-1)[..., ::2]
            strided[name].flags.writeable = False
        ctx.schedule(case.spec, case.arrays, case.parameters)
        for name, array in case.arrays.items():
            same = np.array_equal(array, before[name], equal_nan=name != "present")
            ctx.expect("DMS-S-008", same, f"{name} was changed")
        ctx.expect_exact("DMS-S-009", case.spec, strided, case.parameters)
