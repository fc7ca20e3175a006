"""Times calls in turn, so that whatever else the machine does strikes all of them alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from statistics import median, quantiles
from typing import Any

#: What is timed: it returns when its result is there.
Call = Callable[[], Any]
#: Milliseconds of each round, by name.
Times = dict[str, list[float]]

_FEWEST = 5


def rounds(calls: Mapping[str, Call], seconds: float) -> Times:
    """Times every call once a round, for as many rounds as fit.

    Args:
        calls: By name. Each runs once before, to compile and to warm up.
        seconds: For each call; five rounds are taken in any case.

    Returns:
        Milliseconds of each round.
    """
    for call in calls.values():
        call()
    times: Times = {name: [] for name in calls}
    end = time.perf_counter() + seconds * len(calls)
    done = 0
    while done < _FEWEST or time.perf_counter() < end:
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            times[name].append(1e3 * (time.perf_counter() - start))
        done += 1
    return times


def middle(values: list[float]) -> tuple[float, float, float]:
    """The median, and the quantiles .2 and .8."""
    low, *_, high = quantiles(values, n=5, method="inclusive")
    return median(values), low, high


def ratios(times: Times, name: str, baseline: list[float]) -> list[float]:
    """The time of a call as a multiple of a baseline, round by round."""
    return [took / base for took, base in zip(times[name], baseline, strict=True)]
