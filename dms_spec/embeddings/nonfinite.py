"""Finds where embeddings hold NaN or Inf, and says so."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dms_spec.markup import counted
from dms_spec.streams import forget, row_parts


@dataclass(frozen=True)
class NonFinite:
    """Counts NaN and Inf of one modality, in the rows in which it claims to be present.

    Attributes:
        rows: How many rows hold some. They count as absent.
        cells: How many cells are NaN or Inf.
        columns: In which columns, in rising order.
        whole: Which columns are nowhere finite.
        claimed: In how many rows the modality claims to be present.
    """

    rows: int
    cells: int
    columns: tuple[int, ...]
    whole: tuple[int, ...]
    claimed: int

    def __str__(self) -> str:
        return f"{counted(self.cells, 'cell')}, in {named(self.columns)}"

    def joined(self, other: NonFinite) -> NonFinite:
        """Counts the rows of both, which are parts of one table."""
        parts = [part for part in (self, other) if part.claimed]
        whole = set.intersection(*(set(part.whole) for part in parts)) if parts else set()
        return NonFinite(
            rows=self.rows + other.rows,
            cells=self.cells + other.cells,
            columns=tuple(sorted({*self.columns, *other.columns})),
            whole=tuple(sorted(whole)),
            claimed=self.claimed + other.claimed,
        )

    def note(self, modality: str) -> str:
        """What became of the rows, in words."""
        of = f"{counted(self.rows, 'row')} of {modality!r}"
        if self.rows == 1:
            return f"{of} counts as absent: a row that is present may not hold NaN or Inf ({self})"
        return f"{of} are present but hold NaN or Inf ({self}); they count as absent"


def finite_rows(array: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Says which rows of ``[N, D]`` are finite throughout, bool ``[N]``."""
    found = np.ones(len(array), dtype=bool)
    for rows in row_parts(array):
        found[rows] = np.isfinite(array[rows]).all(axis=1)
        forget(array)
    return found


def nonfinite(
    array: NDArray[np.floating], claimed: NDArray[np.bool_], finite: NDArray[np.bool_]
) -> NonFinite:
    """Finds what is not finite among ``[N, D]``, in the rows that claim to be there.

    Args:
        array: The rows.
        claimed: Which of them are there, bool ``[N]``.
        finite: What `finite_rows` says of them: no other row is read again.
    """
    bad_rows = claimed & ~finite
    by_column = np.zeros(array.shape[1], dtype=np.int64)
    for rows in row_parts(array) if bad_rows.any() else ():
        by_column += (~np.isfinite(array[rows][bad_rows[rows]])).sum(axis=0)
        forget(array)
    count = int(claimed.sum())
    return NonFinite(
        rows=int(bad_rows.sum()),
        cells=int(by_column.sum()),
        columns=tuple(np.flatnonzero(by_column).tolist()),
        whole=tuple(np.flatnonzero(by_column == count).tolist()) if count else (),
        claimed=count,
    )


def absence(bad: NonFinite | None, rows: int) -> str:
    """Says why a modality is present in none of some rows."""
    if bad is None or not bad.rows:
        return f"present in 0 of {rows}"
    return f"NaN or Inf in {counted(bad.rows, 'row')}: {bad}"


def columns_to_leave(found: Mapping[str, NonFinite]) -> str:
    """Says what to do about columns that are nowhere finite; empty if there are none."""
    return " ".join(
        f"Leave out or fill {named(bad.whole)} of {name!r}, without one finite number."
        for name, bad in found.items()
        if bad.whole
    )


def named(columns: tuple[int, ...], most: int = 5) -> str:
    """Names columns by number, the first few of many."""
    if len(columns) == 1:
        return f"column {columns[0]}"
    shown = ", ".join(str(k) for k in columns[:most])
    more = len(columns) - most
    return f"columns {shown}" + (f" and {more} more" if more > 0 else "")
