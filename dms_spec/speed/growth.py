"""Fits how the time of a scheduler grows with each axis of a batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from dms_spec.speed.shapes import AXES, Shape

#: Where every axis begins, and how many times as long it becomes.
BASE, FACTORS = Shape(128, 4, 256, 256, 8), (1, 2, 4, 8)

Row = dict[str, Any]


def shapes() -> list[Shape]:
    """Every axis at every length, while the others stay as they are."""
    return list(dict.fromkeys(BASE.grown(axis, factor) for axis in AXES for factor in FACTORS))


def rows(measured: Mapping[Shape, list[Row]]) -> Iterator[Row]:
    """The rows of `shapes`, each with its ``axis`` and ``factor``."""
    for axis in AXES:
        for factor in FACTORS:
            for row in measured[BASE.grown(axis, factor)]:
                yield {"axis": axis, "factor": factor} | row


def slopes(rows: list[Row]) -> list[Row]:
    """Fits log time against log size by least squares, on the longer half of each axis.

    Args:
        rows: With ``axis``, ``factor``, ``contender`` and ``ms``.

    Returns:
        A row for each axis and contender with ``exponent``: 1 means twice the time for twice the
        size, 0 that the axis costs nothing yet.
    """
    found = []
    for axis, name in dict.fromkeys((row["axis"], row["contender"]) for row in rows):
        own = [row for row in rows if (row["axis"], row["contender"]) == (axis, name)]
        long = own[len(own) // 2 - 1 :]
        x, y = (np.log([row[key] for row in long]) for key in ("factor", "ms"))
        found.append({"axis": axis, "contender": name, "exponent": float(np.polyfit(x, y, 1)[0])})
    return found
