"""Shares work among threads: the rows of one loop, or the blocks of a batch.

What a row or a block gives does not depend on the thread that it runs on, nor on their number.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from functools import cache
from itertools import pairwise
from typing import Any, TypeVar

from numba import config

Block = TypeVar("Block")
Result = TypeVar("Result")

# Below this many entries a thread costs more than it gives.
_ENTRIES_OF_A_THREAD = 1 << 17


def threads() -> int:
    """How many threads share the work: ``NUMBA_NUM_THREADS``, or the cores of this process."""
    return int(config.NUMBA_NUM_THREADS)  # type: ignore[attr-defined]


_most: ContextVar[int | None] = ContextVar("_most", default=None)


@contextmanager
def at_most(count: int) -> Iterator[None]:
    """Shares work among no more threads than this, in this thread's calls alone."""
    token = _most.set(count)
    try:
        yield
    finally:
        _most.reset(token)


@cache
def _pool(process: int) -> ThreadPoolExecutor:
    """The threads of this process. Numba's own end a process that was forked, or call at once."""
    del process
    return ThreadPoolExecutor(threads(), thread_name_prefix="dms-numba")


def _parts(most: int) -> int:
    return min(most, threads(), _most.get() or threads())


def on_rows(kernel: Callable[..., None], rows: int, entries: int, *arguments: Any) -> None:
    """Runs a kernel on all rows, on several threads where that pays."""
    parts = _parts(min(rows, entries // _ENTRIES_OF_A_THREAD))
    if parts < 2:
        kernel(*arguments, 0, rows)
        return
    ends = [rows * part // parts for part in range(parts + 1)]
    jobs = [
        _pool(os.getpid()).submit(kernel, *arguments, start, stop) for start, stop in pairwise(ends)
    ]
    for job in jobs:
        job.result()


def on_blocks(function: Callable[[Block], Result], blocks: Iterable[Block]) -> list[Result]:
    """Runs a function on blocks: as many at once as there are threads, each on one of them.

    Where there are fewer blocks, they take turns, and threads share the rows of each.
    """
    each = list(blocks)
    parts = _parts(len(each))
    if parts < _parts(threads()) or parts < 2:
        return [function(block) for block in each]
    jobs = [
        _pool(os.getpid()).submit(copy_context().run, _alone, function, each[part::parts])
        for part in range(parts)
    ]
    done = [iter(job.result()) for job in jobs]
    return [next(done[place % parts]) for place in range(len(each))]


def _alone(function: Callable[[Block], Result], blocks: Iterable[Block]) -> list[Result]:
    with at_most(1):
        return [function(block) for block in blocks]
