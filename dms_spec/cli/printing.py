"""Prints: the one way to the terminal for every verb, whatever names and messages hold."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from math import isfinite
from typing import Any

from dms_spec.markup import shown, shown_lines

# Enough for any message, and for the smallest failing case in a report.
_LONGEST_NOTE, _LONGEST_TEXT = 2_000, 20_000


def say(text: object = "") -> None:
    """Prints lines on stdout, without control characters."""
    print(shown_lines(text))


def note(text: object) -> None:
    """Prints one line on stderr, for what a person should know."""
    tell(f"note: {text}")


def tell(text: object) -> None:
    """Prints one line of the program's own on stderr."""
    print(f"dms: {shown(text, _LONGEST_NOTE)}", file=sys.stderr)


def say_json(data: Any) -> None:
    """Prints plain data as JSON, without control characters; null for what is not finite."""
    print(json.dumps(_clean(data), indent=2, allow_nan=False))


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
