"""Scales inputs: zero and unit of each, such that no glitch decides what they are.

For the host, in NumPy. The heads apply them: ``s = (x - zero) / unit``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dms_spec.errors import NonFiniteInput
from dms_spec.streams import forget, row_parts

#: A value is a glitch when the gap to the others is so many times as wide as they are.
GAP = 10.0
#: A row with a larger share of glitches than this counts as absent.
MOST_GLITCHES = 0.5

# Bytes of some columns at a time.
_BLOCK = 1 << 26

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Says how the inputs of one modality are scaled, from its training rows.

    Attributes:
        zero: The least value of each input that is no glitch, float32 ``[D]``.
        unit: The range of those values, above 0, float32 ``[D]``; 1 where they do not vary.
        low: The least value of each input that is no glitch, float64 ``[D]``.
        high: The greatest, ``[D]``.
        faint: Which inputs vary, but by less than float32 tells apart, bool ``[D]``. They count as
            constant.
    """

    zero: NDArray[np.float32]
    unit: NDArray[np.float32]
    low: Floats
    high: Floats
    faint: NDArray[np.bool_]

    def glitches(self, x: NDArray[Any]) -> NDArray[np.bool_]:
        """Finds the values that are glitches, ``[N, D]``."""
        return np.asarray((x < self.low) | (x > self.high))


def fit_scale(x: NDArray[Any], name: str, index: NDArray[np.intp] | None = None) -> Scale:
    """Scales by the range of what is not a glitch, from its bottom.

    It starts from the bottom of the range, not from the mean, so that a dead input, which reads the
    least that it can, is 0. It divides by the range, not by the deviation, because sensors are
    noisy in proportion to it. Measured, a head then loses less under noise.

    It takes some columns of all rows at a time, then some rows: the array may be mapped.

    Args:
        x: ``[N, D]``, finite in the rows that count.
        name: Of the modality, for messages.
        index: Which rows count, at least one; None for all.

    Raises:
        NonFiniteInput: The numbers do not fit float32.
    """
    index = np.arange(len(x)) if index is None else index
    low, high = _ranges(x, index)
    least, most = np.full_like(low, np.inf), np.full_like(high, -np.inf)
    broken = False
    for rows in _some(x, index):
        part = rows.astype(np.float64)
        odd = ((part < low) | (part > high)).mean(axis=1) > MOST_GLITCHES
        broken |= bool(odd.any())
        kept = part[~odd].clip(low, high)
        if len(kept):
            least, most = np.minimum(least, kept.min(axis=0)), np.maximum(most, kept.max(axis=0))
    if broken:  # what such a row holds elsewhere is no value either
        low, high = least, most
    with np.errstate(over="ignore"):
        unit = high - low
        # A column that does not vary says nothing; its round-off is not to be blown up.
        varies = unit > np.maximum(1e-6 * np.abs(low), np.finfo(np.float32).tiny)
        faint = (unit > 0) & ~varies
        unit[~varies] = 1.0
        zero, units = low.astype(np.float32), unit.astype(np.float32)
    if not (np.isfinite(zero).all() and np.isfinite(units).all()):
        largest = max(float(np.abs(rows.astype(np.float64)).max()) for rows in _some(x, index))
        raise NonFiniteInput(
            f"the numbers of modality {name!r} are too large",
            expected="magnitudes below 1e38",
            got=f"up to {largest:.3g}",
            fix="Scale the embeddings down.",
        )
    return Scale(zero=zero, unit=units, low=low, high=high, faint=faint)


def _ranges(x: NDArray[Any], index: NDArray[np.intp]) -> tuple[Floats, Floats]:
    """Finds the `_ends` of each column."""
    step = max(1, _BLOCK // (len(index) * x.dtype.itemsize))
    ends = []
    for start in range(0, x.shape[1], step):
        columns = x[:, start : start + step]
        block = np.empty((len(index), columns.shape[1]), x.dtype)
        for rows in row_parts(x, len(index)):
            block[rows] = columns[index[rows]]
            forget(x)
        ends += [_ends(column) for column in block.T]
    low, high = np.array(ends).T
    return low, high


def _some(x: NDArray[Any], index: NDArray[np.intp]) -> Iterator[NDArray[Any]]:
    """Gives rows, some at a time."""
    for rows in row_parts(x, len(index)):
        yield x[index[rows]]
        forget(x)


def _ends(values: NDArray[Any]) -> tuple[float, float]:
    """Finds the least and the greatest value that is not a glitch.

    From the middle half of the distinct values outwards, up to the first gap that is `GAP` times
    as wide as everything before it. Distinct values, so that a filler counts once, however many
    rows it fills.
    """
    v = np.unique(values).astype(np.float64)
    if len(v) < 4:
        return float(v[0]), float(v[-1])
    i = (len(v) - 1) // 4
    j = len(v) - 1 - i
    with np.errstate(over="ignore"):
        above = np.flatnonzero(np.diff(v[j:]) > GAP * (v[j:-1] - v[i]))
        below = np.flatnonzero(np.diff(v[: i + 1]) > GAP * (v[j] - v[1 : i + 1]))
    least = v[below[-1] + 1] if len(below) else v[0]
    most = v[j + above[0]] if len(above) else v[-1]
    return float(least), float(most)
