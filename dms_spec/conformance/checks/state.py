"""Checks that nothing is left of a call: not in the next one, in another thread, or in an array."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from threading import Barrier
from typing import Any

import numpy as np
from hypothesis import strategies as st

from dms_spec.conformance import drawing, strategies, worked_example
from dms_spec.conformance.context import Arrays, everything
from dms_spec.conformance.registry import Context, check
from dms_spec.spec import SchedulerSpec
from dms_spec.types import ModalityBatch, Schedule


def _others(case: strategies.Case, seed: int) -> list[Arrays]:
    """Gives batches of the same shape and dtype: all present, gaps, and no passes that differ."""
    random = np.random.Generator(np.random.Philox(seed))
    drawn: Arrays = {
        name: random.normal(size=array.shape).astype(array.dtype)
        for name, array in case.arrays.items()
        if name != "present"
    }
    shape = case.arrays["present"].shape
    full = drawn | {"present": np.ones(shape, dtype=bool)}
    turned = {name: array[..., ::-1].copy() for name, array in drawn.items()}
    gaps = turned | {"present": random.random(shape) < 0.6}
    return [full, gaps]


def _copy(result: Schedule) -> Schedule:
    return result.converted(lambda array: np.array(array))


@check("DMS-C-007")
def check_a_scheduler_has_no_memory(ctx: Context) -> None:
    """Batches of one shape through one scheduler give what new schedulers give, and keep it."""

    @ctx.given(ctx.cases(), st.integers(0, 2**16))
    def property_(case: strategies.Case, seed: int) -> None:
        spec, own = case.spec, case.parameters
        batches = [case.arrays, *_others(case, seed)]
        alone = [_copy(ctx.schedule(spec, arrays, own)) for arrays in batches]
        scheduler = ctx.backend.scheduler(spec, own, device=ctx.device)
        given = []
        for number, place in enumerate((0, 1, 2, 0, 2)):
            result = ctx.run(scheduler, batches[place], own)
            what = f"call {number + 1} of a scheduler beside the first of a new one"
            ctx.expect_same("DMS-C-007", result, alone[place], what, spec, batches[place], own)
            given.append((place, result))
        for place, result in given:
            what = "a result that was kept while others were made"
            ctx.expect_same("DMS-C-007", result, alone[place], what, spec, batches[place], own)
        _change_in_place(ctx, case, batches[2], alone[2])


def _change_in_place(
    ctx: Context, case: strategies.Case, other: Arrays, expected: Schedule
) -> None:
    """Runs one scheduler twice on the same arrays, with other values in them."""
    scheduler = ctx.backend.scheduler(case.spec, case.parameters, device=ctx.device)
    moved = ctx.moved({name: array.copy() for name, array in case.arrays.items()})
    scheduler(ModalityBatch(**moved))
    if not _overwrite(moved, ctx.moved(other)):
        return
    again = scheduler(ModalityBatch(**moved)).converted(ctx.backend.to_numpy)
    what = "arrays whose values were changed in place"
    ctx.expect_same("DMS-C-007", again, expected, what, case.spec, other, case.parameters)


def _overwrite(arrays: dict[str, Any], values: dict[str, Any]) -> bool:
    """Writes values into arrays. Says whether their library lets anybody do that."""
    with suppress(TypeError, ValueError, RuntimeError, AttributeError):
        for name, array in arrays.items():
            array[...] = values[name]
        return True
    return False


@check("DMS-C-007")
def check_schedulers_do_not_see_each_other(ctx: Context) -> None:
    """Two schedulers of one spec keep to their own parameters."""
    policies = ("static", *strategies.POLICIES, *drawing.LEARNED)

    @ctx.given(ctx.cases(policies=policies, nonfinite=False), st.integers(0, 2**16))
    def property_(case: strategies.Case, seed: int) -> None:
        spec, arrays = case.spec, case.arrays
        d, c = arrays["features"].shape[-1], arrays["logits"].shape[-1]
        sets = [
            drawing.parameters(
                spec,
                np.random.Generator(np.random.Philox(seed + number)),
                width=d,
                classes=c,
                dtype=ctx.computing,
                optional=True,
                own=True,
            )
            for number in range(2)
        ]
        live = [ctx.backend.scheduler(spec, own, device=ctx.device) for own in sets]
        for which in (0, 1, 0):
            result = ctx.run(live[which], arrays, sets[which])
            ctx.expect_result("DMS-C-007", result, spec, arrays, sets[which])


@check("DMS-C-007")
def check_a_scheduler_serves_any_batch(ctx: Context) -> None:
    """Through one scheduler: other sizes, dtypes and arrays, no samples, and what is refused."""
    roles = ("features", "logits", "mc_logits")
    others = [d for d in ctx.backend.capabilities.dtypes if d in ("float64", "float32", "float16")]

    @ctx.given(ctx.cases(nonfinite=False, tame=True), st.sampled_from(others))
    def property_(case: strategies.Case, dtype: str) -> None:
        spec, own, given = case.spec, case.parameters, case.arrays
        changed = [given | {role: given[role] + given[role].dtype.type(1)} for role in roles]
        cast = {n: a if n == "present" else a.astype(dtype) for n, a in given.items()}
        batches = [
            cast, given, *changed, _rows(given, 0), _rows(given, 1), given, cast,
            _repeated(given), given,
            given | {"mc_logits": np.concatenate([given["mc_logits"], given["logits"][None]])},
            {name: array for name, array in given.items() if name != "present"}, given,
        ]  # fmt: skip
        scheduler = ctx.backend.scheduler(spec, own, device=ctx.device)
        misfit = given | {"features": np.ones(given["features"].shape, dtype=np.int64)}
        for number, arrays in enumerate(batches):
            if number % 2:
                with suppress(Exception):  # that it is refused is for another check to say
                    scheduler(ModalityBatch(**ctx.moved(misfit)))
            result = ctx.run(scheduler, arrays, own)
            alone = ctx.schedule(spec, arrays, own)
            what = f"batch {number + 1} of a scheduler beside a new one"
            wide = _in(ctx, arrays)
            wide.expect_same("DMS-C-007", result, alone, what, spec, arrays, own)


def _in(ctx: Context, arrays: Arrays) -> Context:
    """A context whose closeness is that of the batch."""
    names = {array.dtype.name for array in arrays.values()}
    return ctx if ctx.dtype in names else replace(ctx, dtype=min(names - {"bool"}))


def _rows(arrays: Arrays, count: int) -> Arrays:
    return {n: a[:, :count] if n == "mc_logits" else a[:count] for n, a in arrays.items()}


def _repeated(arrays: Arrays) -> Arrays:
    """Three times as many rows."""
    axes = {name: array.ndim - 3 if name == "mc_logits" else 0 for name, array in arrays.items()}
    return {name: np.concatenate([array] * 3, axis=axes[name]) for name, array in arrays.items()}


_CALLS = 300


@check("DMS-C-007")
def check_a_scheduler_does_not_tire(ctx: Context) -> None:
    """The last of many calls gives what the first gave, and all results are kept."""
    spec, arrays = ctx.example(), worked_example.arrays(ctx.dtype)
    other = arrays | {"present": arrays["present"][::-1].copy()}
    scheduler = ctx.backend.scheduler(spec, device=ctx.device)
    moved = [ModalityBatch(**ctx.moved(each)) for each in (arrays, other)]
    first = [_copy(ctx.run(scheduler, each)) for each in (arrays, other)]
    made = [scheduler(moved[number % 2]) for number in range(_CALLS)]
    for number, result in enumerate(made):
        found, place = result.converted(ctx.backend.to_numpy), number % 2
        what = f"call {number + 3} of a scheduler beside its first"
        batch = (arrays, other)[place]
        ctx.expect_same("DMS-C-007", found, first[place], what, spec, batch, {})


@check("DMS-C-008")
def check_threads_share_a_scheduler(ctx: Context) -> None:
    """Several threads on one scheduler get what one thread gets."""

    @ctx.given(ctx.cases(nonfinite=False), st.integers(0, 2**16))
    def property_(case: strategies.Case, seed: int) -> None:
        spec, own = case.spec, case.parameters
        batches = [case.arrays, *_others(case, seed)]
        scheduler = ctx.backend.scheduler(spec, own, device=ctx.device)
        alone = [_copy(ctx.run(scheduler, arrays, own)) for arrays in batches]
        start = Barrier(len(batches))

        def at_once(arrays: Arrays) -> list[Schedule]:
            start.wait(60)
            return [_copy(ctx.run(scheduler, arrays, own)) for _ in range(2)]

        with ThreadPoolExecutor(len(batches)) as pool:
            running = [pool.submit(at_once, arrays) for arrays in batches]
        for arrays, one, many in zip(batches, alone, running, strict=True):
            error = many.exception()
            # Each ran well alone, so an error comes from another thread.
            ctx.expect("DMS-C-008", error is None, f"threads on one scheduler fail: {error!r}")
            for result in many.result():
                ctx.expect_same("DMS-C-008", result, one, "beside threads", spec, arrays, own)


@check("DMS-S-011")
def check_outputs_are_arrays_of_their_own(ctx: Context) -> None:
    """Writing into inputs changes no output, and writing into outputs changes nothing else."""
    # What is alone is fused to itself, which tempts to return it.
    alone = SchedulerSpec(modalities=strategies.names(1), signals={}, coefficients={})
    features = np.arange(6.0).reshape(2, 1, 3).astype(ctx.dtype)
    arrays = {"features": features, "present": np.ones((2, 1), dtype=bool)}
    if not ctx.lacks((f"policy:{alone.policy}",)):
        _own_memory(ctx, strategies.Case(spec=alone, arrays=arrays, parameters={}))

    # Scores that are a parameter tempt to return that.
    biased = alone.replace(policy="static", modalities=strategies.names(3))
    bias = {"policy.bias": np.asarray([0.5, -1.0, 2.0], dtype=ctx.computing)}
    one = {"features": features.reshape(1, 3, 2), "present": np.ones((1, 3), dtype=bool)}
    if not ctx.lacks(("policy:static",)):
        _own_memory(ctx, strategies.Case(spec=biased, arrays=one, parameters=bias))

    @ctx.given(ctx.cases())
    def property_(case: strategies.Case) -> None:
        _own_memory(ctx, case)


def _own_memory(ctx: Context, case: strategies.Case) -> None:
    """Overwrites inputs, then outputs, and looks at what has changed."""
    spec, own = case.spec, case.parameters
    scheduler = ctx.backend.scheduler(spec, own, device=ctx.device)
    moved = ctx.moved({name: array.copy() for name, array in case.arrays.items()})
    made = scheduler(ModalityBatch(**moved))
    kept = _copy(made.converted(ctx.backend.to_numpy))
    overwritten = {
        name: ~array if array.dtype == bool else np.full_like(array, 5)
        for name, array in case.arrays.items()
    }
    if not _overwrite(moved, ctx.moved(overwritten)):
        return
    still = made.converted(ctx.backend.to_numpy)
    what = "an output after its inputs were overwritten"
    ctx.expect_same("DMS-S-011", still, kept, what, spec, case.arrays, own)
    _overwrite(moved, ctx.moved(case.arrays))
    for array in everything(made).values():
        with suppress(TypeError, ValueError, RuntimeError, AttributeError):
            array[...] = array == array if "bool" in str(array.dtype) else 7.0
    for name, array in moved.items():
        back, before = ctx.backend.to_numpy(array), case.arrays[name]
        same = np.array_equal(back, before, equal_nan=name != "present")
        ctx.expect("DMS-S-011", same, f"{name} changes when the outputs are overwritten")
    again = ctx.run(scheduler, case.arrays, own)
    what = "a call after the outputs of another were overwritten"
    ctx.expect_same("DMS-S-011", again, kept, what, spec, case.arrays, own)
