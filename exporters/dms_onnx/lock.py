"""Lets one thread trace at a time."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_lock = threading.RLock()


def _unlock() -> None:
    """Makes a new lock in the child of a fork: the thread that held the old one may be gone."""
    global _lock
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_unlock)


@contextmanager
def tracing() -> Iterator[None]:
    """Waits for the trace of another thread: each sets Python's filters of warnings for all."""
    with _lock:
        yield
