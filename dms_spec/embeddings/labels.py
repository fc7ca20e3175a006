"""Reads labels: one class for each row, known or not, and how they fit the classes of a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dms_spec.embeddings.arrays import plain_column
from dms_spec.errors import DMSError, DTypeError, ShapeError
from dms_spec.markup import counted

_ONE = "This is classification only, one label a row"
# What missing labels become when they are turned into strings.
_LIKE_MISSING = ("nan", "NaN", "None", "<NA>", "NaT", "null")


@dataclass(frozen=True)
class Labels:
    """Holds the labels of a table.

    Attributes:
        values: ``[N]``, booleans, integers or strings; anything where one is not known. None if
            there are no labels.
        known: bool ``[N]``; None if all are.
        notes: What is odd about them, in words.
    """

    values: NDArray[Any] | None = None
    known: NDArray[np.bool_] | None = None
    notes: tuple[str, ...] = ()


#: A table without labels.
NONE = Labels()


def read_labels(
    array: NDArray[Any] | None, rows: int, where: str, *, strict: bool = True
) -> Labels:
    """Reads labels as they are.

    Args:
        array: ``[N]``; None for none.
        rows: N.
        where: The table's name, for messages.
        strict: Refuse what cannot be labels; otherwise there are none, and a note says why.

    Raises:
        ShapeError: There is not one for each row.
        DTypeError: They cannot be classes.
    """
    if array is None:
        return NONE
    try:
        return _labels(array, rows, where)
    except DMSError as error:
        if strict:
            raise
        return Labels(notes=(f"labels are not used: {error}",))


def _labels(array: NDArray[Any], rows: int, where: str) -> Labels:
    if array.shape != (rows,):
        raise ShapeError(
            f"labels in {where} have the wrong shape",
            expected=f"[N] = [{rows}]",
            got=str(list(array.shape)),
            fix=_shape_hint(array, rows),
        )
    values, known = plain_column("labels", array, where)
    notes: tuple[str, ...] = ()
    if not known.any() and rows:
        return Labels(notes=("the labels are missing in every row: there are none",))
    if values.dtype.kind == "f":
        values = _whole(values, known, where)
        notes = (f"labels are {array.dtype} and hold whole numbers: they are read as integers",)
    if values.dtype.kind == "U":
        notes += _like_missing(values[known])
    return Labels(values, None if known.all() else known, notes)


def _shape_hint(array: NDArray[Any], rows: int) -> str:
    if array.shape == (rows, 1):
        return "labels[:, 0] is one class for each row."
    if array.ndim == 2 and len(array) == rows and array.dtype.kind in "biuf":
        if ((array == 0) | (array == 1)).all() and (array.sum(axis=1) == 1).all():
            return f"{_ONE}: labels.argmax(axis=1) numbers the classes."
        return f"{_ONE}: choose one column, or one class."
    return f"{_ONE}."


def _whole(values: NDArray[Any], known: NDArray[np.bool_], where: str) -> NDArray[np.int64]:
    """Converts whole numbers to integers: a data frame makes floats of them when one is missing."""
    numbers = np.where(known, values, 0).astype(np.float64)
    odd = (numbers != np.rint(numbers)) | (np.abs(numbers) > 2**53)
    if odd.any():
        raise DTypeError(
            f"labels in {where} have the wrong dtype",
            expected="integers or strings, one class each",
            got=f"{values.dtype}, such as {float(numbers[odd][0]):g}",
            fix=f"{_ONE}: number the classes or name them. A quantity cannot be learned.",
        )
    return numbers.astype(np.int64)


def _like_missing(values: NDArray[Any]) -> tuple[str, ...]:
    return tuple(
        f"label {text!r} of {counted(count, 'row')} is a class like any other; if it means that "
        "none is known, write an empty string"
        for text in _LIKE_MISSING
        if (count := int((values == text).sum()))
    )


def unlabelled(known: NDArray[np.bool_]) -> str:
    """Says in how many rows no label is known."""
    count = int((~known).sum())
    return f"no label in {count} of {len(known)} rows: nothing is learned or measured there"


# --------------------------------------------------------------------------------------- classes


def class_indices(classes: NDArray[Any], labels: NDArray[Any]) -> NDArray[np.intp]:
    """Finds the index of each label in the sorted classes, -1 for one that is not a class."""
    if (classes.dtype.kind == "U") != (labels.dtype.kind == "U"):
        return np.full(len(labels), -1, dtype=np.intp)
    index = np.searchsorted(classes, labels).clip(max=len(classes) - 1)
    return np.where(classes[index] == labels, index, -1)


def unlike(classes: NDArray[Any], labels: NDArray[Any]) -> str:
    """Says why no label can be compared with the classes; empty if some can."""
    if not len(labels) or (class_indices(classes, labels) >= 0).any():
        return ""
    if (classes.dtype.kind == "U") != (labels.dtype.kind == "U"):
        kinds = [
            f"{'strings' if a.dtype.kind == 'U' else 'integers'} such as {a[0].item()!r}"
            for a in (labels, classes)
        ]
        return f"the labels are {kinds[0]}, and the classes learned are {kinds[1]}"
    return (
        f"none of the labels is a class that was learned: labels {listed(np.unique(labels))}, "
        f"classes {listed(classes)}"
    )


def strangers(classes: NDArray[Any], labels: NDArray[Any]) -> str:
    """Lists the labels that are not a class, with their counts; empty if there are none."""
    return tally(labels[class_indices(classes, labels) < 0])


def tally(labels: NDArray[Any]) -> str:
    """Counts each value, the commonest first: ``'a' (3 rows), 'b' (1 row)``."""
    values, counts = np.unique(labels, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return listed([f"{values[k].item()!r} ({counted(int(counts[k]), 'row')})" for k in order])


def listed(values: Sequence[Any] | NDArray[Any], most: int = 5) -> str:
    """Lists the first few of many, and says how many more there are."""
    texts = [
        v
        if isinstance(v, str) and not isinstance(v, np.str_)
        else repr(v.item())
        if hasattr(v, "item")
        else str(v)
        for v in values
    ]
    more = len(texts) - most
    return ", ".join(texts[:most]) + (f" and {more} more" if more > 0 else "")
