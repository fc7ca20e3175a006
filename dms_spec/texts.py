"""Reads text and JSON files that may come from anywhere: one reader for all of them.

A file must be regular, of a sane size, and UTF-8. JSON must say one thing only: no key twice, no
NaN, no number beyond 64 bits, no half of a surrogate pair, no endless nesting.
"""

from __future__ import annotations

import json
import os
import re
import stat
from math import isfinite
from pathlib import Path
from typing import Any

from dms_spec.errors import FileError, nearest_path

#: The most bytes of a text file. A config has thousands of them, a report millions.
LARGEST = 1 << 26
#: The most bytes of what holds every case of a measurement.
LARGEST_RESULT = 1 << 30
#: What is found where no file is.
NOTHING = "nothing there"
#: How deep JSON may be nested.
DEEPEST = 32

# Brackets of JSON, with its strings skipped.
_BRACKET = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}]', re.DOTALL)
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_LARGEST_INTEGER = 1 << 63


def read_bytes(path: Path | str, most: int = LARGEST) -> bytes:
    """Reads a regular file. A pipe, a device and a folder are refused, and nothing waits for them.

    Args:
        path: The file.
        most: The most bytes that it may have.

    Raises:
        FileError: It is missing, not regular, too large, or cannot be read.
    """
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        with os.fdopen(handle, "rb") as file:
            mode = os.fstat(handle).st_mode
            if not stat.S_ISREG(mode):
                raise _unreadable(path, "a file", "a pipe, a device or another thing")
            content = file.read(most + 1)
    except (OSError, ValueError) as error:  # ValueError: a path with a null byte
        if isinstance(error, FileError):
            raise
        what = "a folder" if isinstance(error, IsADirectoryError) else _of(error)
        raise _unreadable(path, "a file", what) from error
    if len(content) > most:
        raise _unreadable(path, f"{most} bytes at most", "more")
    return content


def read_text(path: Path | str, most: int = LARGEST) -> str:
    """Reads a regular file of UTF-8.

    Raises:
        FileError: As in `read_bytes`, or it is not UTF-8.
    """
    try:
        return read_bytes(path, most).decode()
    except UnicodeDecodeError as error:
        raise _unreadable(path, "text in UTF-8", str(error)) from error


def read_json(path: Path | str, most: int = LARGEST) -> Any:
    """Reads a JSON file.

    Raises:
        FileError: As in `read_text` and `parse_json`.
    """
    return parse_json(read_text(path, most), str(path))


def parse_json(text: str, source: str) -> Any:
    """Reads JSON that says one thing only.

    Args:
        text: The JSON.
        source: Where it is from, for messages.

    Raises:
        FileError: It is no JSON, names a key twice, or holds NaN, an infinity, an integer beyond
            64 bits, half of a surrogate pair, or brackets nested too deep.
    """
    try:
        _check_depth(text)
        data = json.loads(
            text,
            object_pairs_hook=_once,
            parse_constant=_refuse_constant,
            parse_float=_finite,
            parse_int=_integer,
        )
        if _SURROGATE.search(text):
            _check_strings(data)
    except (ValueError, RecursionError) as error:
        raise FileError(
            f"cannot read {source}",
            expected="JSON",
            got=str(error),
            fix="It is damaged, cut short, or of another kind: write it again.",
        ) from error
    return data


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} twice")
    return found


def _refuse_constant(text: str) -> float:
    raise ValueError(f"{text}, which is not a number")


def _finite(text: str) -> float:
    if not isfinite(number := float(text)):
        raise ValueError(f"{text:.40}, which is infinite")
    return number


def _integer(text: str) -> int:
    if len(text) > 20 or not -_LARGEST_INTEGER <= int(text) < 2 * _LARGEST_INTEGER:
        raise ValueError(f"{text:.40}, an integer beyond 64 bits")
    return int(text)


def _check_depth(text: str) -> None:
    if text.count("[") + text.count("{") <= DEEPEST:
        return
    depth = 0
    for found in _BRACKET.finditer(text):
        bracket = found[0]
        if bracket in "[{":
            depth += 1
            if depth > DEEPEST:
                raise ValueError(f"brackets nested deeper than {DEEPEST}")
        elif bracket in "]}":
            depth -= 1


def _check_strings(data: Any) -> None:
    left = [data]
    while left:
        value = left.pop()
        if isinstance(value, dict):
            left += [*value, *value.values()]
        elif isinstance(value, list):
            left += value
        elif isinstance(value, str) and not _encodable(value):
            raise ValueError(f"half of a surrogate pair in {value[:40]!a}")


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _of(error: Exception) -> str:
    return NOTHING if isinstance(error, FileNotFoundError) else str(error)


def _unreadable(path: Path | str, expected: str, got: str) -> FileError:
    near = nearest_path(path) if got == NOTHING else ""
    fix = near or "Check the path."
    return FileError(f"cannot read {path}", expected=expected, got=got, fix=fix)
