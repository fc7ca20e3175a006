"""Runs jobs in processes of their own, which end when this one does, however it ends."""

from __future__ import annotations

import os
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import connection, get_context, parent_process
from multiprocessing.context import SpawnProcess
from typing import Any, TypeVar

from dms_spec.errors import DMSError

Job = TypeVar("Job")
Result = TypeVar("Result")

# What says to libraries of linear algebra, Arrow and Numba how many threads to take.
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


def run_jobs(
    work: Callable[[Job], Result], jobs: Sequence[Job], workers: int
) -> Iterator[tuple[Job, Result]]:
    """Runs a function on every job, and gives each result as soon as it is there.

    Each process takes one thread where the environment says nothing else, so that results do not
    depend on how many processes there are.

    Args:
        work: Can be pickled, as its arguments and results can.
        jobs: In the order in which they begin.
        workers: Processes at most.

    Raises:
        DMSError: What the first job to fail raises, and no other job begins then; or a process was
            killed.
    """
    waiting = deque(jobs)
    busy: dict[Any, Job] = {}
    processes = {}
    try:
        with _one_thread_each():
            for _ in range(min(workers, len(jobs))):
                here, process = _start(work)
                processes[here] = process
        for here in processes:
            _send(here, busy, waiting)
        while busy:
            for here in connection.wait(list(busy)):
                job = busy.pop(here)
                yield job, _received(here, processes[here], job)
                _send(here, busy, waiting)
    finally:
        for here in processes:
            here.close()
        for process in processes.values():
            process.terminate()
            process.join()


def _start(work: Callable[[Job], Result]) -> tuple[Any, SpawnProcess]:
    context = get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(there, work), daemon=True)
    process.start()
    there.close()
    return here, process


def _send(here: Any, busy: dict[Any, Job], waiting: deque[Job]) -> None:
    if waiting:
        busy[here] = waiting.popleft()
        with suppress(OSError):  # it was killed: receiving will say so
            here.send(busy[here])


def _received(here: Any, process: SpawnProcess, job: object) -> Any:
    try:
        good, found = here.recv()
    except (EOFError, OSError) as error:
        process.join(5)
        raise DMSError(
            f"a worker process ended during {job}",
            got=f"exit code {process.exitcode}",
            fix="If it was killed for want of memory, take fewer --workers or a smaller "
            "--batch-size. The same command goes on from here.",
        ) from error
    if not good:
        raise found
    return found


def _serve(there: Any, work: Callable[[Job], Result]) -> None:
    """Runs what comes, until nobody is there to send more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all of them; the parent ends us
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with suppress(EOFError, OSError):
        while True:
            job = there.recv()
            there.send(_done(work, job))


def _done(work: Callable[[Job], Result], job: Job) -> tuple[bool, Any]:
    try:
        return True, work(job)
    except DMSError as error:
        return False, DMSError(f"{job}: {error}")
    except (MemoryError, OSError) as error:
        return False, error
    except BaseException:  # a defect, whose traceback belongs here
        return False, RuntimeError(traceback.format_exc())


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Lets processes that are started take one thread, unless the environment says otherwise."""
    missing = [name for name in _THREADS if name not in os.environ]
    os.environ.update(dict.fromkeys(missing, "1"))
    try:
        yield
    finally:
        for name in missing:
            del os.environ[name]
