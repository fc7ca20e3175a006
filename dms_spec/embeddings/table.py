"""A table: one array of frozen embeddings per modality, with presence, labels and a split.

Everything that a table can be wrong in is found here, before anything is learned from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from dms_spec.errors import (
    DTypeError,
    MissingInput,
    NonFiniteInput,
    ShapeError,
    SpecError,
    closest,
)
from dms_spec.files import read_arrays

#: The arrays of a table that are no modality.
RESERVED: tuple[str, ...] = (
    "labels",
    "present",
    "train",
    "test",
    "validation",
    "groups",
    "sample_weight",
)

_FLOATS = ("float16", "float32", "float64")
_LABELS = "biuU"


@dataclass(frozen=True, kw_only=True)
class Table:
    """N samples seen through M modalities.

    Attributes:
        embeddings: ``[N, D_m]`` floating, by modality, in the order of the M axis.
        present: bool ``[N, M]``. Where it is False the embeddings may hold anything.
        labels: ``[N]``, integers or strings; None if the table has none.
        train: Rows to learn from, in rising order; None if the table has no split.
        test: Rows to measure on, in rising order; None if there are none.
        validation: Rows to choose settings on, in rising order; None leaves the choice of rows to
            whoever learns. Never learned from, and never among ``train`` or ``test``.
        groups: ``[N]``, integers from 0: rows of one group (one subject, one recording) stay
            together in every fold. None: every row stands alone.
        sample_weight: float64 ``[N]``, finite, 0 or more: how much each row counts in learning
            and in what is measured on validation rows. None: all count alike.
        spoilt: By modality, how many rows claimed to be present but hold NaN or Inf. They are
            False in ``present``.
    """

    embeddings: Mapping[str, NDArray[Any]]
    present: NDArray[np.bool_]
    labels: NDArray[Any] | None = None
    train: NDArray[np.intp] | None = None
    test: NDArray[np.intp] | None = None
    validation: NDArray[np.intp] | None = None
    groups: NDArray[np.intp] | None = None
    sample_weight: NDArray[np.float64] | None = None
    spoilt: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.present)

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names, in the order of the M axis."""
        return tuple(self.embeddings)

    def rows(self, index: slice | NDArray[np.intp]) -> Self:
        """Some of the rows, without the split."""
        return replace(
            self,
            embeddings={name: array[index] for name, array in self.embeddings.items()},
            present=self.present[index],
            labels=None if self.labels is None else self.labels[index],
            train=None,
            test=None,
            validation=None,
            groups=None if self.groups is None else self.groups[index],
            sample_weight=None if self.sample_weight is None else self.sample_weight[index],
        )

    def training_rows(self) -> NDArray[np.intp]:
        """``train``; without it, all rows that are neither in ``test`` nor in ``validation``."""
        if self.train is not None:
            return self.train
        held = np.zeros(len(self), dtype=bool)
        for other in (self.test, self.validation):
            if other is not None:
                held[other] = True
        return np.flatnonzero(~held)

    def notes(self) -> tuple[str, ...]:
        """What was found to be weaker than it claims, in words."""
        return tuple(
            f"{count} rows of {name!r} are present but hold NaN or Inf; they count as absent"
            for name, count in self.spoilt.items()
            if count
        )

    def refuse_spoilt(self) -> None:
        """For a spec with ``nonfinite="raise"``.

        Raises:
            NonFiniteInput: A row that is present holds NaN or Inf.
        """
        for name, count in self.spoilt.items():
            if count:
                raise NonFiniteInput(
                    f"modality {name!r} is not finite where it is present",
                    expected='finite embeddings, since the spec says nonfinite="raise"',
                    got=f"NaN or Inf in {count} rows",
                    fix="Mend them, or mark them absent in present.",
                )


def read_table(
    path: Path | str, modalities: tuple[str, ...] | None = None, *, need_labels: bool = False
) -> Table:
    """Read a table from ``.npz`` or ``.safetensors``.

    Args:
        path: A file with ``[N, D_m]`` for each modality under its name, and where they apply
            ``labels`` [N], ``present`` [N, M], ``train`` and ``test`` (row indices).
        modalities: Which modalities it must have, in the order of the M axis; None takes those
            of the file, in the file's order.
        need_labels: Refuse a table that cannot be learned from: it must have labels of two
            classes or more, and each modality must be present somewhere, in the training rows.

    Raises:
        FileError: The file cannot be read.
        MissingInput, ShapeError, DTypeError, SpecError: The table is not one; the message names
            the array.
    """
    path = Path(path)
    arrays = read_arrays(path)
    names = [name for name in arrays if name not in RESERVED]
    if modalities is None:
        if not names:
            raise MissingInput(
                f"{path} has no modality",
                expected="an array [N, D] for each modality, under its name",
                got=", ".join(arrays) or "no array",
            )
        modalities = tuple(names)
    _check_names(path, names, modalities)
    embeddings, rows = _embeddings(path, {name: arrays[name] for name in modalities})
    claimed = _present(path, arrays.get("present"), rows, modalities)
    finite = np.stack([np.isfinite(array).all(axis=1) for array in embeddings.values()], axis=1)
    spoilt = np.count_nonzero(claimed & ~finite, axis=0)
    table = Table(
        embeddings=embeddings,
        present=claimed & finite,
        labels=_labels(path, arrays.get("labels"), rows),
        train=_indices(path, "train", arrays.get("train"), rows),
        test=_indices(path, "test", arrays.get("test"), rows),
        validation=_indices(path, "validation", arrays.get("validation"), rows),
        groups=_groups(path, arrays.get("groups"), rows),
        sample_weight=_sample_weight(path, arrays.get("sample_weight"), rows),
        spoilt={name: int(count) for name, count in zip(modalities, spoilt, strict=True)},
    )
    _check_split(path, table)
    if need_labels:
        check_learnable(table, str(path))
    return table


def check_learnable(table: Table, name: str = "the table") -> None:
    """Refuse a table that nothing can be learned from.

    Raises:
        MissingInput: There are no labels, no training rows, only one class, or a modality is
            absent in all training rows.
    """
    if table.labels is None:
        raise MissingInput(
            f"{name} has no labels",
            expected="labels [N], integers or strings",
            got=", ".join(table.modalities),
        )
    rows = table.training_rows()
    present = table.present[rows]
    if not present.any():
        raise MissingInput(
            f"nothing is present in any training row of {name}",
            expected="rows with at least one modality",
            got=f"{len(rows)} training rows",
        )
    for m, modality in enumerate(table.modalities):
        if not present[:, m].any():
            raise MissingInput(
                f"modality {modality!r} is absent in all training rows of {name}",
                expected="rows to learn from",
                got=f"present in 0 of {len(rows)}",
                fix="Leave the modality out of the table.",
            )
    classes = np.unique(table.labels[rows][present.any(axis=1)])
    if len(classes) < 2:
        raise MissingInput(
            f"the training rows of {name} are all of one class",
            expected="two classes or more",
            got=f"{classes.tolist()[0]!r}",
            fix="There is nothing to tell apart.",
        )


def _check_names(path: Path, names: list[str], modalities: tuple[str, ...]) -> None:
    for name in modalities:
        if name in RESERVED:
            raise SpecError(
                f"modality {name!r} has the name of another array of a table",
                expected=f"a name other than {', '.join(RESERVED)}",
                fix="Rename the modality.",
            )
        if name not in names:
            raise MissingInput(
                f"{path} lacks modality {name!r}",
                expected=", ".join(modalities),
                got=", ".join(names) or "none",
                fix="Give an array for every modality; mark the rows without it in present.",
            )
    for name in names:
        if name not in modalities:
            hint = closest(name, (*modalities, *RESERVED))
            raise SpecError(
                f"{path} has a modality {name!r} that the spec does not name",
                expected=", ".join(modalities),
                fix=hint if hint.startswith("Did") else "Leave it out.",
            )


def _embeddings(
    path: Path, arrays: Mapping[str, NDArray[Any]]
) -> tuple[dict[str, NDArray[Any]], int]:
    """Floating arrays [N, D_m] by name, and N."""
    embeddings: dict[str, NDArray[Any]] = {}
    first = ""
    for name, array in arrays.items():
        array = _numbers(path, name, array)
        if array.ndim != 2 or array.shape[1] == 0:
            raise ShapeError(
                f"modality {name!r} in {path} has the wrong shape",
                expected="[N, D]: a row for each sample, at least one column",
                got=str(list(array.shape)),
                fix="Flatten or pool each sample's embedding to one row of numbers.",
            )
        first = first or name
        if len(array) != len(embeddings.get(first, array)):
            raise ShapeError(
                f"modalities {first!r} and {name!r} in {path} differ in their rows",
                expected=f"N = {len(embeddings[first])}",
                got=f"N = {len(array)}",
                fix="Row i is the same sample in all; mark missing ones in present.",
            )
        embeddings[name] = array
    return embeddings, len(embeddings[first])


def _numbers(path: Path, name: str, array: NDArray[Any]) -> NDArray[Any]:
    dtype = getattr(array, "dtype", None)
    if dtype is not None and dtype.name in _FLOATS:
        return array
    if dtype is None or dtype.kind not in "biu":
        raise DTypeError(
            f"modality {name!r} in {path} does not hold numbers",
            expected=" or ".join((*_FLOATS, "integers")),
            got=str(dtype or type(array).__name__),
            fix="A table holds embeddings: run the encoder first.",
        )
    # Integers are exact in float32 as far as 2^24, and no dtype keeps all of those beyond 2^53.
    narrow: NDArray[Any] = array.astype(np.float32)
    return narrow if (narrow == array).all() else array.astype(np.float64)


def _present(
    path: Path, array: NDArray[Any] | None, rows: int, modalities: tuple[str, ...]
) -> NDArray[np.bool_]:
    if array is None:
        return np.ones((rows, len(modalities)), dtype=bool)
    if array.dtype != np.bool_:
        raise DTypeError(
            f"present in {path} has the wrong dtype",
            expected="bool, True where a modality is there",
            got=str(array.dtype),
            fix="Compare first, for example present > 0.5: no threshold is guessed.",
        )
    if array.shape != (rows, len(modalities)):
        raise ShapeError(
            f"present in {path} has the wrong shape",
            expected=f"[N, M] = [{rows}, {len(modalities)}], columns {', '.join(modalities)}",
            got=str(list(array.shape)),
        )
    return array


def _labels(path: Path, array: NDArray[Any] | None, rows: int) -> NDArray[Any] | None:
    if array is None:
        return None
    if array.dtype.kind not in _LABELS:
        raise DTypeError(
            f"labels in {path} have the wrong dtype",
            expected="integers or strings, one class each",
            got=str(array.dtype),
            fix="Number the classes, or name them.",
        )
    if array.shape != (rows,):
        raise ShapeError(
            f"labels in {path} have the wrong shape",
            expected=f"[N] = [{rows}]",
            got=str(list(array.shape)),
            fix="One class for each row.",
        )
    return array


def _indices(
    path: Path, name: str, array: NDArray[Any] | None, rows: int
) -> NDArray[np.intp] | None:
    """Row indices in rising order, or None."""
    if array is None:
        return None
    if array.dtype.kind not in "iu" or array.ndim != 1:
        raise DTypeError(
            f"{name} in {path} does not hold row indices",
            expected="integers, one axis",
            got=f"{array.dtype} {list(array.shape)}",
            fix="numpy.flatnonzero makes indices of a mask." if array.dtype == np.bool_ else "",
        )
    if len(array) and (array.min() < 0 or array.max() >= rows):
        raise ShapeError(
            f"{name} in {path} points outside the table",
            expected=f"row indices from 0 to {rows - 1}",
            got=f"{array.min()} to {array.max()}",
        )
    unique = np.unique(array).astype(np.intp)
    if len(unique) < len(array):
        raise ShapeError(
            f"{name} in {path} repeats rows",
            expected="each row once",
            got=f"{len(array)} indices of {len(unique)} rows",
        )
    return unique


def _groups(path: Path, array: NDArray[Any] | None, rows: int) -> NDArray[np.intp] | None:
    """Groups by number, in the order of their sorted names."""
    if array is None:
        return None
    _check_column(path, "groups", array, rows)
    if array.dtype.kind not in "biufUSmM" or (array != array).any():
        raise DTypeError(
            f"groups in {path} cannot be compared",
            expected="integers or strings, one for each row",
            got=f"{array.dtype}, {int((array != array).sum())} of them missing",
            fix="Give each row the number or name of its group.",
        )
    return np.unique(array, return_inverse=True)[1].astype(np.intp)


def _sample_weight(path: Path, array: NDArray[Any] | None, rows: int) -> NDArray[np.float64] | None:
    if array is None:
        return None
    _check_column(path, "sample_weight", array, rows)
    weight = _numbers(path, "sample_weight", array).astype(np.float64)
    good = np.isfinite(weight) & (weight >= 0)
    if not good.all() or (rows and not weight.any()):
        raise SpecError(
            f"sample_weight in {path} cannot weigh rows",
            expected="finite numbers, 0 or more, some above 0",
            got=f"{weight[~good][0]!s} in row {np.flatnonzero(~good)[0]}"
            if not good.all()
            else "0 everywhere",
        )
    return weight


def _check_column(path: Path, name: str, array: NDArray[Any], rows: int) -> None:
    if array.shape != (rows,):
        raise ShapeError(
            f"{name} in {path} have the wrong shape",
            expected=f"[N] = [{rows}]",
            got=str(list(array.shape)),
        )


def _check_split(path: Path, table: Table) -> None:
    for a, b in combinations(("train", "validation", "test"), 2):
        one, other = getattr(table, a), getattr(table, b)
        if one is None or other is None:
            continue
        both = np.intersect1d(one, other)
        if len(both):
            raise SpecError(
                f"{a} and {b} in {path} overlap",
                expected="no row in both",
                got=f"{len(both)} rows, row {both[0]} among them",
                fix="What is measured on rows that were learned from says nothing.",
            )
