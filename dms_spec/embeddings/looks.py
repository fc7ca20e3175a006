"""Says what an array looks like that should be an embedding: a mask, labels, ids, row indices."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

# What people call the arrays that a table has other names for.
_CALLED = {
    "labels": "y label target targets class classes y_true truth",
    "present": "mask masks presence available availability observed exists",
    "groups": "group subject subjects patient patients speaker speakers user users site",
    "sample_weight": "weight weights importance",
    "validation": "val dev eval",
    "train": "training",
    "test": "testing",
    "train, validation and test": "split splits fold folds",
}
_SYNONYMS = {word: name for name, words in _CALLED.items() for word in words.split()}


class Look(NamedTuple):
    """Says what an array looks like, and which names of a table may have been meant."""

    what: str
    meant: str


def synonym(name: str) -> str:
    """Gives a table's own name for what people call so; empty if there is none."""
    return _SYNONYMS.get(name.lower(), "")


def look(name: str, array: NDArray[Any], others: int, rows: int) -> Look | None:
    """Says what an array looks like that is not an embedding, if it looks like something.

    An embedding is ``[N, D]`` numbers with D above 1, or one column of fractions.

    Args:
        name: Of the array: it decides between the names that may have been meant.
        array: Of any shape and dtype.
        others: How many other arrays are embeddings.
        rows: N.
    """
    mask = look_of_mask(array, others)
    if mask:
        return Look(mask.what, synonym(name) or mask.meant)
    if array.ndim == 2 and array.shape[1] > 1:
        if _one_hot(array):
            return Look("one-hot labels", "labels")
        return Look("targets, by its name", "labels") if synonym(name) == "labels" else None
    if array.ndim not in (1, 2) or array.size == 0 or array.dtype.kind == "O":
        return None
    found = _look_of_column(array.ravel(), rows)
    if found is None and (array.ndim == 1 or synonym(name)):
        found = Look("one number a row", "labels or sample_weight")
    return found and Look(found.what, synonym(name) or found.meant)


def look_of_mask(array: NDArray[Any], others: int) -> Look | None:
    """Says whether it looks like presence: booleans, or a 0 or 1 for each other array."""
    if array.ndim not in (1, 2) or array.size == 0:
        return None
    if array.dtype == np.bool_:
        one = array.ndim == 1 or array.shape[1] == 1
        return Look("a mask", "present.<modality>, train or test" if one else "present")
    if array.ndim == 2 and 1 < array.shape[1] == others and _zeros_and_ones(array):
        return Look("a mask", "present")
    return None


def _look_of_column(column: NDArray[Any], rows: int) -> Look | None:
    kind = column.dtype.kind
    distinct = len(np.unique(column))
    if kind in "USTMm":
        unique = distinct == len(column)
        return Look("the names of rows", "") if unique else Look("names", "labels or groups")
    if kind not in "iuf" or not np.isfinite(column).all() or (column != np.rint(column)).any():
        return None
    if distinct < len(column):
        return Look("labels", "labels or groups")
    inside = rows and column.min() >= 0 and column.max() < rows
    if inside and len(column) < rows:
        return Look("row indices", "train, validation or test")
    return Look("the numbers of rows", "")


def _zeros_and_ones(array: NDArray[Any]) -> bool:
    inside = array.dtype.kind in "iuf" and bool(((array == 0) | (array == 1)).all())
    return inside and bool(array.any())


def _one_hot(array: NDArray[Any]) -> bool:
    if not _zeros_and_ones(array[:1]) or not _zeros_and_ones(array):
        return False
    return bool((array.sum(axis=1) == 1).all())
