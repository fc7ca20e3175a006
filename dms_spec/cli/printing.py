"""Prints: the one way to the terminal for every verb, whatever names and messages hold.

On a terminal, lines of words are as long as it is wide, and what matters has a colour. A file or a
pipe gets whole lines without colours, as does a terminal where ``NO_COLOR`` is set. ``COLUMNS``
says how wide the lines are in any case.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from math import isfinite
from typing import Any, TextIO

from dms_spec.markup import shown, shown_lines, text_table

# Enough for any message, and for the smallest failing case in a report.
_LONGEST_NOTE, _LONGEST_TEXT = 2_000, 20_000

# Of the terminal's own sixteen, which its reader has chosen.
_RED, _GREEN, _YELLOW = 31, 32, 33

# A shape such as [3, 2]; a number and its sign of percent.
_TOGETHER = re.compile(r"\[[^][]*\]|\d %")


def say(text: object = "") -> None:
    """Prints lines on stdout, without control characters.

    A line that begins with a blank is a command, code or part of a list, and stays whole.
    """
    print(_fitted(shown_lines(text), sys.stdout))


def say_under(text: object) -> None:
    """Prints lines on stdout under another one, four blanks in. Code among them stays whole."""
    most = width()
    for line in shown_lines(text).split("\n"):
        print(textwrap.indent(line if most is None else _broken(line, most - 4), "    "))


def say_table(
    header: Sequence[str], rows: Iterable[Sequence[Any]], right: Sequence[int] = ()
) -> None:
    """Prints a table on stdout, in parts where it is wider than the terminal."""
    print(text_table(header, rows, right, width()))


def say_verdict(text: object, *, good: bool) -> None:
    """Prints the line on stdout that says how it ended."""
    verdict = _fitted(shown_lines(text), sys.stdout)
    print(_painted(verdict, _GREEN if good else _RED, sys.stdout))


def note(text: object) -> None:
    """Prints one line on stderr, for what a person should know."""
    _tell(f"note: {text}", "dms: note:", _YELLOW)


def tell(text: object) -> None:
    """Prints one line of the program's own on stderr."""
    _tell(text, "", 0)


def tell_error(text: object) -> None:
    """Prints on stderr, in one line, why the program ends."""
    _tell(text, "dms:", _RED)


def tell_usage(usage: str, program: str, message: str) -> None:
    """Prints on stderr how a verb is called, and in one line what was wrong."""
    start = f"{program}: error:"
    line = _fitted(f"{start} {shown(message, _LONGEST_NOTE)}", sys.stderr)
    print(usage + _painted(start, _RED, sys.stderr) + line.removeprefix(start), file=sys.stderr)


def _tell(text: object, start: str, colour: int) -> None:
    line = _fitted(f"dms: {shown(text, _LONGEST_NOTE)}", sys.stderr)
    painted = _painted(start, colour, sys.stderr) if start else ""
    print(painted + line.removeprefix(start), file=sys.stderr)


def say_json(data: Any) -> None:
    """Prints plain data as JSON, without control characters; null for what is not finite."""
    print(json.dumps(_clean(data), indent=2, allow_nan=False))


def width(stream: TextIO | None = None) -> int | None:
    """Counts the columns of a terminal; None for a file or a pipe, which get whole lines.

    Args:
        stream: Where to print; stdout by default.
    """
    if not os.environ.get("COLUMNS") and not (stream or sys.stdout).isatty():
        return None
    return shutil.get_terminal_size().columns


def _fitted(text: str, stream: TextIO) -> str:
    """Breaks long lines of words between two words, but not inside a shape, or before %."""
    most = width(stream)
    if most is None:
        return text
    return "\n".join(_broken(line, most) for line in text.split("\n"))


def _broken(line: str, most: int) -> str:
    if len(line) <= most or line.startswith(" "):
        return line
    held = _TOGETHER.sub(lambda found: found[0].replace(" ", "\0"), line)
    parts = textwrap.wrap(
        held, most, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
    )
    return "\n".join(parts).replace("\0", " ")


def _painted(text: str, colour: int, stream: TextIO) -> str:
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return text if plain or not stream.isatty() else f"\033[{colour}m{text}\033[0m"


def _clean(data: Any) -> Any:
    if isinstance(data, str):
        return shown_lines(data, _LONGEST_TEXT)
    if isinstance(data, float):
        return data if isfinite(data) else None
    if isinstance(data, Mapping):
        return {_clean(key): _clean(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_clean(value) for value in data]
    return data
