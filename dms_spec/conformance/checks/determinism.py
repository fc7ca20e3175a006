"""The same again: in a second run, from a second scheduler, from another thread."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from dms_spec.conformance import strategies
from dms_spec.conformance.registry import Context, check
from dms_spec.types import Schedule


def _same_bits(one: Schedule, other: Schedule) -> bool:
    pairs = zip(one.arrays().values(), other.arrays().values(), strict=True)
    return all(np.array_equal(a, b, equal_nan=a.dtype != bool) for a, b in pairs)


@check("DMS-C-004", "DMS-R-003", level="determinism", needs=("deterministic",))
def check_a_second_run_gives_the_same_bits(ctx: Context) -> None:
    """Equal inputs give equal bits, whatever was scheduled in between."""

    @ctx.given(ctx.cases(), ctx.cases())
    def property_(case: strategies.Case, other: strategies.Case) -> None:
        first = ctx.schedule(case.spec, case.arrays, case.parameters)
        ctx.schedule(other.spec, other.arrays, other.parameters)
        again = ctx.schedule(case.spec, case.arrays, case.parameters)
        ctx.expect("DMS-C-004", _same_bits(first, again), "a second run gives other bits")


@check("DMS-C-004", level="determinism", needs=("deterministic",))
def check_threads_do_not_see_each_other(ctx: Context) -> None:
    """Two threads that schedule different batches get what one thread gets."""

    @ctx.given(ctx.cases(), ctx.cases())
    def property_(case: strategies.Case, other: strategies.Case) -> None:
        def run(each: strategies.Case) -> Schedule:
            return ctx.schedule(each.spec, each.arrays, each.parameters)

        alone = [run(case), run(other)]
        with ThreadPoolExecutor(2) as pool:
            together = list(pool.map(run, [case, other]))
        for one, both in zip(alone, together, strict=True):
            ctx.expect("DMS-C-004", _same_bits(one, both), "threads disturb each other")
