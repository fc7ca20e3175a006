"""Checks that the same comes out again: in a second run, a second scheduler, another thread."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import numpy as np

from dms_spec.conformance import strategies
from dms_spec.conformance.registry import Context, check
from dms_spec.spec import SchedulerSpec
from dms_spec.types import Schedule


def _parts(case: strategies.Case) -> tuple[SchedulerSpec, strategies.Arrays, strategies.Arrays]:
    return case.spec, case.arrays, case.parameters


def _copy(result: Schedule) -> Schedule:
    return result.converted(lambda array: np.array(array))


@check("DMS-C-004", "DMS-R-003", level="determinism", needs=("deterministic",))
def check_a_second_run_gives_the_same_bits(ctx: Context) -> None:
    """Equal inputs give equal bits, whatever was scheduled in between."""

    @ctx.given(ctx.cases(), ctx.cases())
    def property_(case: strategies.Case, other: strategies.Case) -> None:
        first = ctx.schedule(case.spec, case.arrays, case.parameters)
        kept = _copy(first)
        # Of another shape, and of the same one: what is kept by shape shows.
        ctx.schedule(other.spec, other.arrays, other.parameters)
        fewer = case.arrays | {"present": np.zeros_like(case.arrays["present"])}
        ctx.schedule(case.spec, fewer, case.parameters)
        ctx.expect_same("DMS-C-004", first, kept, "a result that was kept", *_parts(case))
        again = ctx.schedule(case.spec, case.arrays, case.parameters)
        ctx.expect_same("DMS-C-004", again, kept, "a second run", *_parts(case))


@check("DMS-C-004", level="determinism", needs=("deterministic",))
def check_threads_do_not_see_each_other(ctx: Context) -> None:
    """Two threads that schedule different batches get what one thread gets."""

    @ctx.given(ctx.cases(), ctx.cases())
    def property_(case: strategies.Case, other: strategies.Case) -> None:
        def run(each: strategies.Case) -> Schedule:
            return ctx.schedule(each.spec, each.arrays, each.parameters)

        alone = [run(case), run(other)]
        start = Barrier(2)

        def at_once(each: strategies.Case) -> Schedule:
            start.wait()
            return run(each)

        with ThreadPoolExecutor(2) as pool:
            running = [pool.submit(at_once, each) for each in (case, other)]
        for each, one, both in zip((case, other), alone, running, strict=True):
            # Each ran well alone, so an error comes from the other thread.
            error = both.exception()
            ctx.expect("DMS-C-004", error is None, f"threads disturb each other: {error!r}")
            ctx.expect_same("DMS-C-004", both.result(), one, "beside a thread", *_parts(each))
