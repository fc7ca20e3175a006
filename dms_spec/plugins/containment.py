"""Runs code of plugins: what it raises, prints or takes too long for stays its own.

What cannot be contained: a plugin that ends the process (``os._exit``, a crash in C), changes
modules of others, or writes to the standard streams past ``sys``.
"""

from __future__ import annotations

import io
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any

from dms_spec.errors import DMSError, PluginError

#: After how many seconds somebody is told what keeps them waiting.
PATIENCE = 5.0

# How many characters of what a plugin says are kept.
_LONGEST = 500


def described(error: BaseException) -> str:
    """Names an exception and cites its message, also of one that cannot be printed."""
    try:
        message = str(error)
    except BaseException as failure:
        message = f"its message cannot be printed, which raises {type(failure).__name__}"
    return f"{type(error).__name__}: {message[:_LONGEST]}"


@contextmanager
def patiently(what: str) -> Iterator[None]:
    """Says on stderr what keeps somebody waiting, once, when it has run for `PATIENCE` seconds."""
    stream = sys.stderr  # as it is now: what runs may be redirected
    note = (
        f"dms: note: {what} has been running for {PATIENCE:g} seconds. To go without a plugin, "
        "name it in DMS_SPEC_DISABLE_PLUGINS."
    )
    timer = threading.Timer(PATIENCE, lambda: print(note, file=stream, flush=True))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


class _Kept(io.TextIOBase):
    """Keeps the first characters that are written to it."""

    def __init__(self) -> None:
        self.text = ""

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self.text += text[: _LONGEST - len(self.text)]
        return len(text)


@contextmanager
def unheard() -> Iterator[_Kept]:
    """Keeps what is printed from the streams of the program. It is the same for all threads."""
    kept = _Kept()
    with redirect_stdout(kept), redirect_stderr(kept):
        yield kept


def contained(owner: str, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """Calls a function of a plugin: whatever it raises becomes a PluginError that names it.

    Args:
        owner: Whose function it is, such as ``"signal 'margin'"``.
        function: What to call.
        args: Its arguments.
        options: Its keyword arguments.

    Raises:
        PluginError: It raised something else than an error of dms-spec, SystemExit included.
    """
    try:
        with patiently(owner):
            return function(*args, **options)
    except (DMSError, KeyboardInterrupt, MemoryError):
        raise
    except BaseException as error:
        raise PluginError(
            f"{owner} failed",
            got=described(error),
            fix="It belongs to a plugin, which gets its arrays to read and not to change.",
        ) from error
