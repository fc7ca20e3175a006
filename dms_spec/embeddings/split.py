"""Says which rows are for what: training, validation and test; and what rows have in common."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dms_spec.embeddings.arrays import numbers, plain_column
from dms_spec.errors import DTypeError, ShapeError, SpecError
from dms_spec.markup import counted

#: The arrays that choose rows.
SPLITS = ("train", "validation", "test")


def row_indices(name: str, array: NDArray[Any], rows: int, where: str) -> NDArray[np.intp]:
    """Reads row indices, in rising order, from indices or from bool ``[N]``.

    Raises:
        DTypeError: It is neither.
        ShapeError: An index is outside the table, or there twice.
    """
    if array.dtype == np.bool_ and array.shape == (rows,):
        return np.flatnonzero(array)
    if array.shape == (0,):  # an empty list is of floats
        return np.zeros(0, dtype=np.intp)
    if array.dtype.kind not in "iu" or array.ndim != 1:
        raise DTypeError(
            f"{name} in {where} does not hold row indices",
            expected=f"integers, one axis; or bool [N] = [{rows}]",
            got=f"{array.dtype} {list(array.shape)}",
        )
    if array.min() < 0 or array.max() >= rows:
        raise ShapeError(
            f"{name} in {where} points outside the table",
            expected=f"row indices from 0 to {rows - 1}",
            got=f"{array.min()} to {array.max()}",
        )
    unique = np.unique(array).astype(np.intp)
    if len(unique) < len(array):
        raise ShapeError(
            f"{name} in {where} repeats rows",
            expected="each row once",
            got=f"{len(array)} indices of {len(unique)} rows",
        )
    return unique


def check_disjoint(parts: Mapping[str, NDArray[np.intp]], where: str) -> None:
    """Checks that no row is in two parts of a split.

    Raises:
        SpecError: One is.
    """
    for (a, one), (b, other) in combinations(parts.items(), 2):
        both = np.intersect1d(one, other)
        if len(both):
            raise SpecError(
                f"{a} and {b} in {where} overlap",
                expected="no row in both",
                got=f"{counted(len(both), 'row')}, row {both[0]} among them",
                fix="What is measured on rows that were learned from says nothing.",
            )


def read_groups(array: NDArray[Any] | None, rows: int, where: str) -> NDArray[np.intp] | None:
    """Numbers groups from 0, in the order of their sorted names; None for none.

    Raises:
        ShapeError, DTypeError: There is not one for each row.
    """
    if array is None:
        return None
    _check_column("groups", array, rows, where)
    values, known = plain_column("groups", array, where)
    if not known.all():
        unknown = counted(int((~known).sum()), "row")
        raise DTypeError(
            f"groups in {where} are not all known",
            expected="an integer or a string for each row",
            got=f"{unknown} without one, row {int(np.argmin(known))} among them",
            fix="Give a row that belongs to nothing a group of its own.",
        )
    return np.unique(values, return_inverse=True)[1].astype(np.intp)


def read_weights(array: NDArray[Any] | None, rows: int, where: str) -> NDArray[np.float64] | None:
    """Reads how much each row counts; None for none.

    Raises:
        ShapeError, DTypeError: There is not a number for each row.
        SpecError: A number cannot be a weight, or all are 0.
    """
    if array is None:
        return None
    _check_column("sample_weight", array, rows, where)
    weight = numbers("sample_weight", array, where).astype(np.float64)
    bad = ~(np.isfinite(weight) & (weight >= 0))
    if bad.any() or (rows and not weight.any()):
        row = int(np.argmax(bad))
        raise SpecError(
            f"sample_weight in {where} cannot weigh rows",
            expected="finite numbers, 0 or more, some above 0",
            got=f"{weight[row]:g} in row {row}" if bad.any() else "zero in every row",
        )
    return weight


def straddling(groups: NDArray[np.intp], one: NDArray[np.intp], other: NDArray[np.intp]) -> int:
    """Counts the groups that have rows in both parts."""
    return len(np.intersect1d(groups[one], groups[other]))


def _check_column(name: str, array: NDArray[Any], rows: int, where: str) -> None:
    if array.shape != (rows,):
        raise ShapeError(
            f"{name} in {where} has the wrong shape",
            expected=f"[N] = [{rows}]",
            got=str(list(array.shape)),
        )
