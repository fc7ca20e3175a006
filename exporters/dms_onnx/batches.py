"""Draws the batches on which a graph is compared with its spec, hostile ones among them.

The same on every machine: NumPy's Philox, a fixed seed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

Arrays = dict[str, NDArray[Any]]
Axes = Mapping[str, tuple[str | int, ...]]

#: What stands for an axis without a fixed size; every batch but the first takes the others.
_SIZES = ({"B": 6, "D": 7, "C": 5, "T": 4}, {"B": 3, "D": 4, "C": 3, "T": 2})
_ONE = {"B": 1, "D": 1, "C": 1, "T": 1}
# A plugin's signal may want a second class, or a second feature; one of ours may not.
_FEW = {"B": 1, "D": 2, "C": 2, "T": 1}

# None leaves what is there: an absent modality may look like any other, and only the mask tells.
_FILLERS = (None, np.nan, np.inf, -np.inf, 1e4)


def draw(axes: Axes, dtype: str, *, ours: bool = True) -> Iterator[tuple[str, Arrays]]:
    """Draws batches, each with a word about it.

    Args:
        axes: The axes of every input of the graph, by name, ``present`` among them.
        dtype: The dtype of the others.
        ours: Whether nothing but the core computes; then there is a batch of single entries.
    """
    random = np.random.Generator(np.random.Philox(2026))
    for sizes in (*_SIZES, _ONE if ours else _FEW):
        yield f"all present, {sizes}", _ordinary(axes, dtype, sizes, random)
    hostile: dict[str, Callable[[Arrays, np.random.Generator], None]] = {
        "modalities missing at random": _missing,
        "nothing present": _nothing,
        "one modality present": _alone,
        "NaN and Inf where present": _nonfinite,
        "logits offset by 1e4": lambda arrays, _: _offset(arrays, 1e4),
        "logits offset by -1e4": lambda arrays, _: _offset(arrays, -1e4),
        "classes ruled out": _ruled_out,
    }
    for what, change in hostile.items():
        for sizes in _SIZES:
            arrays = _ordinary(axes, dtype, sizes, random)
            change(arrays, random)
            yield f"{what}, {sizes}", arrays


def entries(axes: Axes) -> int:
    """Counts the entries of the inputs in the largest of the batches."""
    largest = _SIZES[0]
    return sum(
        prod(largest[axis] if isinstance(axis, str) else axis for axis in own)
        for own in axes.values()
    )


def _ordinary(
    axes: Axes, dtype: str, sizes: Mapping[str, int], random: np.random.Generator
) -> Arrays:
    arrays: Arrays = {}
    for name, own in axes.items():
        shape = tuple(sizes[axis] if isinstance(axis, str) else axis for axis in own)
        if name == "present":
            arrays[name] = np.ones(shape, dtype=bool)
        else:
            scale = 3.0 if name in _LOGITS else 1.0
            arrays[name] = (random.normal(size=shape) * scale).astype(dtype)
    return arrays


_LOGITS = ("logits", "mc_logits")


def _rows(arrays: Arrays, m: int) -> Iterator[NDArray[Any]]:
    """Lists the views of every floating array that belong to one modality, [..., B, *]."""
    for k, (name, array) in enumerate(arrays.items()):
        if name in ("features", *_LOGITS):
            yield array[..., m, :]
        elif name != "present" and k == m:  # with heads, inputs stand in the modalities' order
            yield array


def _fill_absent(arrays: Arrays) -> None:
    for b, m in np.argwhere(~arrays["present"]):
        filler = _FILLERS[(b + m) % len(_FILLERS)]
        for rows in _rows(arrays, m) if filler is not None else ():
            rows[..., b, :] = filler


def _missing(arrays: Arrays, random: np.random.Generator) -> None:
    arrays["present"][:] = random.random(arrays["present"].shape) < 0.5
    _fill_absent(arrays)


def _nothing(arrays: Arrays, random: np.random.Generator) -> None:
    del random
    arrays["present"][:] = False
    _fill_absent(arrays)


def _alone(arrays: Arrays, random: np.random.Generator) -> None:
    batch, count = arrays["present"].shape
    arrays["present"][:] = np.arange(count) == random.integers(count, size=(batch, 1))
    _fill_absent(arrays)


def _nonfinite(arrays: Arrays, random: np.random.Generator) -> None:
    """Puts NaN or Inf in one modality of each sample, in one array and one place, not the first."""
    batch, count = arrays["present"].shape
    for b in range(batch):
        m = int(random.integers(count))
        rows = list(_rows(arrays, m))
        row = rows[int(random.integers(len(rows)))][..., b, :]
        place = tuple(int(random.integers(size)) for size in row.shape)
        row[place] = (np.nan, np.inf, np.nan)[b % 3]
        if b % 4 == 3:
            row[place[:-1]] = -np.inf


def _offset(arrays: Arrays, offset: float) -> None:
    for name in _LOGITS:
        if name in arrays:
            arrays[name] = (arrays[name].astype(np.float64) + offset).astype(arrays[name].dtype)


def _ruled_out(arrays: Arrays, random: np.random.Generator) -> None:
    for name in _LOGITS:
        if name in arrays:
            arrays[name][random.random(arrays[name].shape) < 0.3] = -np.inf
            arrays[name][..., 0] = 0.0
