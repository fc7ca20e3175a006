"""Warns of notes that hold whatever the data, unless the same words come back with the result."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from dms_spec.errors import DMSWarning

_quiet: ContextVar[bool] = ContextVar("_quiet", default=False)


@contextmanager
def quietly() -> Iterator[None]:
    """Leaves the warnings out, in this thread alone.

    Python's own filters belong to the process. Two threads that set and restore them can leave
    a filter behind, and then nobody is warned any more.
    """
    token = _quiet.set(True)
    try:
        yield
    finally:
        _quiet.reset(token)


def warn(notes: Iterable[str], stacklevel: int) -> None:
    """Warns of each note. ``stacklevel`` counts from the caller of this function, as 1."""
    if not _quiet.get():
        for note in notes:
            warnings.warn(note, DMSWarning, stacklevel=stacklevel + 1)
