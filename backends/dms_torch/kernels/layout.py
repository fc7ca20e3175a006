"""Cuts arrays into tiles, one for each program of a launch.

A program holds some rows of an array: all passes or modalities of each, and a block of entries. It
goes through the blocks one after another. Rows lie on the first axis of the grid, which alone goes
beyond 2^16 programs.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

#: Entries that a program holds at once, and how many of them rows may fill that would fit together.
ENTRIES, TOGETHER = 1 << 14, 1 << 11


class Tile(NamedTuple):
    """What one program holds: powers of two, as Triton asks.

    Attributes:
        deep: Passes or modalities, all of them.
        rows: Rows at a time.
        wide: Entries of a row at a time.
        blocks: How many times ``wide`` covers a row.
        warps: Groups of 32 threads.
    """

    deep: int
    rows: int
    wide: int
    blocks: int
    warps: int


def tile(deep: int, width: int) -> Tile:
    """Chooses a tile for rows of ``deep`` times ``width`` entries, however many rows there are."""
    depth = _power(deep)
    # Compiled for compute capability 9.0, a deep tile of the full size does not fit the registers.
    entries = ENTRIES if depth <= 16 else ENTRIES // 4
    wide = min(_power(width), max(1, entries // depth))
    rows = max(1, TOGETHER // (depth * wide))
    warps = min(16, max(1, rows * depth * wide // 512))
    return Tile(depth, rows, wide, -(-width // wide), warps)


def _power(size: int) -> int:
    """The smallest power of two that is no smaller. A size of a graph becomes a number here."""
    return 1 << (int(size) - 1).bit_length()


def computing(given: Tensor) -> torch.dtype:
    """The dtype to compute in: float32 for half precision."""
    return torch.float64 if given.dtype == torch.float64 else torch.float32
