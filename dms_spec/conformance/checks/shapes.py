"""Checks shapes, dtypes and layout."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from dms_spec.conformance import drawing, strategies, worked_example
from dms_spec.conformance.context import everything
from dms_spec.conformance.registry import Context, check
from dms_spec.spec import SchedulerSpec
from dms_spec.types import Schedule


@check("DMS-S-001", "DMS-S-002", "DMS-S-003", "DMS-N-003", "DMS-N-005")
def check_shapes_and_dtypes(ctx: Context) -> None:
    """Every output has the shape and dtype that the specification gives it."""

    @ctx.given(ctx.cases())
    def property_(case: strategies.Case) -> None:
        result = ctx.schedule(case.spec, case.arrays, case.parameters)
        _expect_kinds(ctx, "DMS-S-001", "DMS-S-003", case.spec, case.arrays, result)


def _expect_kinds(
    ctx: Context,
    shapes: str,
    dtypes: str,
    spec: SchedulerSpec,
    arrays: strategies.Arrays,
    result: Schedule,
) -> None:
    """Expects every output to have its shape and dtype, each in the name of a clause."""
    square = arrays["present"].shape
    summed = arrays["features" if spec.fusion == "feature" else "logits"]
    for name, value in everything(result).items():
        shape, dtype = square, np.dtype(bool if name == "active" else ctx.computing)
        if name == "fused":
            shape, dtype = (square[0], summed.shape[-1]), summed.dtype
        ctx.expect(shapes, value.shape == shape, f"{name} has shape {value.shape}, not {shape}")
        ctx.expect(dtypes, value.dtype == dtype, f"{name} is {value.dtype}, not {dtype}")
    ctx.expect(shapes, set(result.signals) == set(spec.signals), "signals are not those asked for")


@check("DMS-S-002", "DMS-S-003", "DMS-N-001")
def check_each_array_has_its_own_dtype(ctx: Context) -> None:
    """Arrays of several dtypes are computed in the widest, and what is fused keeps its own."""
    names = ("float16", "bfloat16", "float32", "float64")
    claimed = [n for n in ctx.backend.capabilities.dtypes if n in names]
    narrow = [n for n in claimed if names.index(n) <= names.index(ctx.dtype)]
    roles = ("features", "logits", "mc_logits")

    @ctx.given(
        ctx.cases(tame=True, nonfinite=False),
        st.permutations(roles),
        st.sampled_from(narrow),
        st.sampled_from(narrow),
    )
    def property_(case: strategies.Case, order: list[str], one: str, other: str) -> None:
        # One keeps the dtype that is checked, so that the widest is known.
        dtypes = dict(zip(order, (ctx.dtype, one, other), strict=True))
        arrays = case.arrays | {n: case.arrays[n].astype(d) for n, d in dtypes.items()}
        result = ctx.schedule(case.spec, arrays, case.parameters)
        _expect_kinds(ctx, "DMS-S-001", "DMS-S-003", case.spec, arrays, result)
        wide = result.weights.dtype == np.dtype(ctx.computing)
        ctx.expect("DMS-S-002", wide, f"weights of {dtypes} are {result.weights.dtype}")
        ctx.expect_result("DMS-S-002", result, case.spec, arrays, case.parameters)


@check("DMS-S-002", needs=("dtype:float64",))
def check_widest_input_decides(ctx: Context) -> None:
    """One float64 input makes the whole computation float64."""

    @ctx.given(strategies.batches(ctx.dtype, tame=True))
    def property_(arrays: strategies.Arrays) -> None:
        m = arrays["present"].shape[1]
        spec = ctx.example().replace(modalities=strategies.names(m))
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
        _expect_kinds(ctx, "DMS-S-007", "DMS-S-007", case.spec, empty, result)
        some = ctx.schedule(case.spec, case.arrays, case.parameters)
        same = set(everything(result)) == set(everything(some))
        ctx.expect("DMS-S-007", same, f"the outputs are {', '.join(everything(result))}")


@check("DMS-S-008", "DMS-S-009")
def check_inputs_are_only_read(ctx: Context) -> None:
    """Inputs stay as they were, and strided or read-only inputs give the same."""
    example = {n: np.roll(a, 1, axis=-1) for n, a in worked_example.arrays(ctx.dtype).items()}
    example["present"] = np.ones_like(example["present"])
    for layout in _LAYOUTS:
        strided = {n: _laid_out(a, layout, max(a.ndim - 3, 0)) for n, a in example.items()}
        ctx.expect_exact("DMS-S-009", ctx.example(), strided, {})
    twice = example | {"features": example["logits"]}
    ctx.expect_exact("DMS-S-009", ctx.example(), twice, {})

    @ctx.given(ctx.cases(), st.sampled_from(_LAYOUTS))
    def property_(case: strategies.Case, layout: str) -> None:
        before = {name: array.copy() for name, array in case.arrays.items()}
        strided = {}
        for name, array in case.arrays.items():
            strided[name] = _laid_out(array, layout, max(array.ndim - 3, 0))
            strided[name].flags.writeable = False
        ctx.schedule(case.spec, case.arrays, case.parameters)
        for name, array in case.arrays.items():
            same = np.array_equal(array, before[name], equal_nan=name != "present")
            ctx.expect("DMS-S-008", same, f"{name} was changed")
        ctx.expect_exact("DMS-S-009", case.spec, strided, case.parameters)


_LAYOUTS = (
    "backwards",
    "every other",
    "columns first",
    "rows backwards",
    "one row",
    "modalities first",
)


def _laid_out(array: NDArray[Any], layout: str, rows: int) -> NDArray[Any]:
    """The same numbers in another order of memory; of one row, that row for all."""
    if layout == "backwards":
        return np.ascontiguousarray(array[..., ::-1])[..., ::-1]
    if layout == "columns first":
        return np.array(array, order="F")
    if layout == "every other":
        return np.repeat(array, 2, axis=-1)[..., ::2]
    if layout == "rows backwards":
        return np.flip(np.ascontiguousarray(np.flip(array, rows)), rows)
    if layout == "modalities first":
        return np.ascontiguousarray(array.swapaxes(rows, rows + 1)).swapaxes(rows, rows + 1)
    if layout == "one row":
        return np.broadcast_to(array.take([0], axis=rows), array.shape).view()
    return array.copy()


@check(
    "DMS-S-002",
    "DMS-N-001",
    needs=("dtype:float32", "dtype:float64"),
    dtypes=("float32", "float64"),
)
def check_parameters_do_not_decide_the_dtype(ctx: Context) -> None:
    """Parameters of another dtype give what the same numbers give in the computing dtype."""
    policies = ("static", *strategies.POLICIES, *drawing.LEARNED)
    other = np.float64 if ctx.dtype == "float32" else np.float32

    @ctx.given(ctx.cases(policies=policies, tame=True, nonfinite=False))
    def property_(case: strategies.Case) -> None:
        # Of numbers that both dtypes hold.
        own = {k: v.astype(np.float32).astype(other) for k, v in case.parameters.items()}
        result = ctx.schedule(case.spec, case.arrays, own)
        _expect_kinds(ctx, "DMS-S-001", "DMS-S-002", case.spec, case.arrays, result)
        ctx.expect_result("DMS-N-001", result, case.spec, case.arrays, own)
