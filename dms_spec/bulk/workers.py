"""Runs jobs in processes of their own, which end when this one does, however it ends."""

from __future__ import annotations

import os
import pickle
import signal
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from queue import SimpleQueue
from subprocess import PIPE, Popen, TimeoutExpired
from typing import Any, TypeVar

from dms_spec.errors import DMSError

Job = TypeVar("Job")
Result = TypeVar("Result")
Process = Popen[bytes]

# What says to libraries of linear algebra, Arrow, Numba and ONNX Runtime how many threads to take.
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")

# The path is this process's own: a file beside somebody's data is no module.
_PROGRAM = "import sys; sys.path[:] = {path!r}; from dms_spec.bulk.workers import serve; serve()"


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
    found: SimpleQueue[tuple[Job, bool, Any]] = SimpleQueue()
    processes = [_start() for _ in range(min(workers, len(jobs)))]
    threads = [
        threading.Thread(target=_feed, args=(process, work, waiting, found), daemon=True)
        for process in processes
    ]
    try:
        for thread in threads:
            thread.start()
        for _ in jobs:
            job, good, result = found.get()
            if not good:
                raise result
            yield job, result
    finally:
        waiting.clear()
        for process in processes:
            process.terminate()
            process.wait()
        for thread in threads:
            thread.join()
        for process in processes:
            for stream in (process.stdin, process.stdout):
                with suppress(OSError):
                    stream.close()  # type: ignore[union-attr]


def _start() -> Process:
    command = [sys.executable, "-c", _PROGRAM.format(path=sys.path)]
    environment = dict.fromkeys(_THREADS, "1") | dict(os.environ)
    return Popen(command, stdin=PIPE, stdout=PIPE, env=environment)  # noqa: S603 - our own program


def _feed(process: Process, work: Any, waiting: deque[Any], found: SimpleQueue[Any]) -> None:
    """Gives a process one job after the other, and passes on what it answers."""
    asked, answers = process.stdin, process.stdout
    assert asked is not None and answers is not None  # noqa: S101 - both are pipes
    given = [work]
    while True:
        try:
            job = waiting.popleft()
        except IndexError:
            return
        try:
            for one in (*given, job):
                pickle.dump(one, asked)
            asked.flush()
            given = []
            good, result = pickle.load(answers)  # noqa: S301 - from our own process
        except (EOFError, OSError, ValueError, pickle.UnpicklingError):
            good, result = False, _ended(process, job)
        found.put((job, good, result))
        if not good:
            return


def _ended(process: Process, job: object) -> DMSError:
    with suppress(TimeoutExpired):
        process.wait(5)
    return DMSError(
        f"a worker process ended during {job}",
        got=f"exit code {process.returncode}",
        fix="If it was killed for want of memory, take fewer --workers or a smaller --batch-size. "
        "The same command goes on from here.",
    )


# ------------------------------------------------------------------------------- in the process


def serve() -> None:
    """Runs the jobs that come in, until nobody is there to send more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all of them; the parent ends us
    asked: SimpleQueue[Any] = SimpleQueue()
    threading.Thread(target=_listen, args=(asked,), daemon=True).start()
    with suppress(OSError), os.fdopen(os.dup(1), "wb") as answers:  # the parent may be gone
        os.dup2(2, 1)  # what a library prints is no answer
        work = asked.get()
        while True:
            pickle.dump(_done(work, asked.get()), answers)
            answers.flush()


def _listen(asked: SimpleQueue[Any]) -> None:
    """Takes what comes in, and ends the process with its parent, in the middle of a job too."""
    try:
        while True:
            asked.put(pickle.load(sys.stdin.buffer))  # noqa: S301 - from our own parent
    except (EOFError, OSError, pickle.UnpicklingError):
        os._exit(1)


def _done(work: Callable[[Job], Result], job: Job) -> tuple[bool, Any]:
    try:
        return True, work(job)
    except DMSError as error:
        return False, DMSError(f"{job}: {error}")
    except (MemoryError, OSError) as error:
        return False, error
    except BaseException:  # a defect, whose traceback belongs here
        return False, RuntimeError(traceback.format_exc())
