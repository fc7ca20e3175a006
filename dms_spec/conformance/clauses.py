"""Reads the clauses of the specification from ``clauses.toml``."""

from __future__ import annotations

import hashlib
import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files


@dataclass(frozen=True)
class Clause:
    """One clause: its id, its page, its keyword (must, should, may), its text without markup."""

    id: str
    page: str
    keyword: str
    text: str


@cache
def clauses() -> dict[str, Clause]:
    """Gives every clause of the edition, by id."""
    rows = tomllib.loads(_source())["clause"]
    return {
        row["id"]: Clause(row["id"], row["page"], row["level"], row["text"].replace("**", ""))
        for row in rows
    }


def edition() -> str:
    """Names the edition that the clauses are of."""
    return str(tomllib.loads(_source())["edition"])


def digest() -> str:
    """The SHA-256 of the machine copy. Two reports with the same one mean the same clauses."""
    return hashlib.sha256(_source().encode()).hexdigest()


@cache
def _source() -> str:
    return files("dms_spec.conformance").joinpath("clauses.toml").read_text(encoding="utf-8")
