"""How numbers and paragraphs are written on the page."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from dms_spec.markup import markdown_table

Lines = list[str]


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> Lines:
    """A table, and an empty line before it."""
    return ["", markdown_table(header, rows)]


def prose(text: str) -> str:
    """A paragraph in one line."""
    return " ".join(text.split())


def one(value: float) -> str:
    """With one digit, or a dash for nothing."""
    return "-" if np.isnan(value) else f"{value:.1f}"


def two(value: float) -> str:
    """With two."""
    return "-" if np.isnan(value) else f"{value:.2f}"


def three(value: float) -> str:
    """With three."""
    return "-" if np.isnan(value) else f"{value:.3f}"


def count(seeds: int) -> str:
    """So many seeds."""
    return f"{seeds} seeds" if seeds > 1 else "seed"
