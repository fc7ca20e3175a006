"""Reads failures that an author expects, with a reason: exact, strict, and never in silence.

::

    [[expect]]
    check = "check_learned_policies_match_the_oracle"
    dtype = "bfloat16"       # optional, as is device
    reason = "no kernel for tanh in bfloat16"
    link = "https://..."

What is expected and does not fail is a failure, and an entry that matches nothing is an error.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path

from dms_spec.errors import FileError, SpecError, unknown
from dms_spec.texts import read_text
from dms_spec.typed import read_typed


@dataclass(frozen=True, kw_only=True)
class Expectation:
    """Says which check is expected to fail, where, and why."""

    check: str
    reason: str
    link: str = ""
    dtype: str = ""
    device: str = ""

    def matches(self, check: str, device: str, dtype: str) -> bool:
        """Says whether the entry is about this run of a check."""
        return self.check == check and self.device in ("", device) and self.dtype in ("", dtype)


def read_expected(path: Path, checks: Iterable[str]) -> list[Expectation]:
    """Reads the entries of a file.

    Raises:
        FileError: The file cannot be read.
        SpecError, UnknownName: An entry lacks a reason, or names a check or key that is not there.
    """
    try:
        data = tomllib.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        if isinstance(error, FileError):
            raise
        raise FileError(f"cannot read {path}", expected="TOML", got=str(error)) from error
    known = [f.name for f in fields(Expectation)]
    names, found = set(checks), []
    for key in data:
        if key != "expect":
            raise unknown(f"table in {path}", key, ("expect",))
    entries = data.get("expect", [])
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise FileError(f"expect in {path} is no table", expected="[[expect]]", got=repr(entries))
    for entry in entries:
        for key in entry:
            if key not in known:
                raise unknown(f"key in {path}", key, known)
        if not entry.get("check") or not str(entry.get("reason", "")).strip():
            raise SpecError(
                f"an entry of {path} is incomplete",
                expected="check and reason",
                got=", ".join(entry),
                fix="Say why it fails; a link to where that is discussed helps.",
            )
        expectation = read_typed(Expectation, entry, str(path))
        if expectation.check not in names:
            raise unknown(f"check in {path}", expectation.check, names)
        found.append(expectation)
    return found
