"""Finds which modality is present in which row: by name, or by columns whose order is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dms_spec.embeddings.arrays import column_names
from dms_spec.embeddings.split import SPLITS
from dms_spec.errors import DTypeError, MissingInput, ShapeError, SpecError, closest
from dms_spec.markup import counted

#: Before the name of a modality: bool [N], which rows have it.
PREFIX = "present."

#: The arrays that a table knows; ``present.<modality>`` besides. None of them is a modality.
RESERVED = ("labels", "present", "present_names", *SPLITS, "groups", "sample_weight")

_BY_NAME = "Write {names}, bool [N] each, in its place; or name its columns in present_names."


def is_reserved(name: str) -> bool:
    """Says whether a table knows an array of this name, so that it is not a modality."""
    return name in RESERVED or name.startswith(PREFIX)


def by_name(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Turns a mapping or data frame ``present`` into arrays ``present.<modality>``."""
    present = arrays.get("present")
    names = list(present) if isinstance(present, Mapping) else column_names(present)
    if present is None or not names:
        return dict(arrays)
    rest = {name: value for name, value in arrays.items() if name != "present"}
    return rest | {PREFIX + str(name): present[name] for name in names}


def presence(
    arrays: Mapping[str, NDArray[Any]],
    modalities: Sequence[str],
    rows: int,
    where: str,
    *,
    ordered: bool,
) -> NDArray[np.bool_]:
    """Reads the presence of each modality, ``[N, M]``. Without an array, it counts as present.

    Args:
        arrays: Of a table, in the order of the container: with ``present`` [N, M] and perhaps
            ``present_names`` [M], or with ``present.<modality>`` [N]; or with neither.
        modalities: The M axis.
        rows: N.
        where: The table's name, for messages.
        ordered: Whether the order of the container is its author's. A ``.safetensors`` file
            keeps none.

    Raises:
        SpecError: Presence is given twice, or the order of its columns cannot be known.
        MissingInput, ShapeError, DTypeError: It does not fit the table.
    """
    all_names = [name for name in arrays if not is_reserved(name)]
    named = {n.removeprefix(PREFIX): a for n, a in arrays.items() if n.startswith(PREFIX)}
    whole = arrays.get("present")
    if whole is None:
        if "present_names" in arrays:
            raise MissingInput(
                f"{where} has present_names, and no present",
                expected="present [N, M], bool, with a column for each name",
            )
    elif named:
        raise SpecError(
            f"{where} says twice what is present",
            expected="present, or an array for each modality",
            got=f"present and {PREFIX}{next(iter(named))}",
            fix="Leave one of the two out.",
        )
    else:
        named = _columns(whole, arrays.get("present_names"), modalities, all_names, where, ordered)
    result = np.ones((rows, len(modalities)), dtype=bool)
    for name, column in named.items():
        _check_bool(PREFIX + name if whole is None else "present", column, where)
        if column.shape != (rows,):
            raise ShapeError(
                f"{PREFIX}{name} in {where} has the wrong shape"
                if whole is None
                else f"present in {where} has the wrong shape",
                expected=f"[N] = [{rows}]" if whole is None else f"{rows} rows",
                got=str(list(column.shape)) if whole is None else f"{len(column)} rows",
            )
        if name in modalities:
            result[:, list(modalities).index(name)] = column
        elif name not in all_names and column.any():
            raise MissingInput(
                f"{where} says that {name!r} is present in {counted(int(column.sum()), 'row')}, "
                "and has no such array",
                expected="an array [N, D] for each modality that is present",
                got=", ".join(all_names),
                fix=closest(name, all_names),
            )
    return result


def _columns(
    present: NDArray[Any],
    names: NDArray[Any] | None,
    modalities: Sequence[str],
    all_names: Sequence[str],
    where: str,
    ordered: bool,
) -> dict[str, NDArray[Any]]:
    """Gives the columns of ``present`` by name."""
    _check_bool("present", present, where)
    columns = list(all_names) if names is None else _names(names, modalities, where)
    by_name = _BY_NAME.format(names=" and ".join(PREFIX + name for name in modalities[:3]))
    width = present.shape[1] if present.ndim == 2 else None
    own = [name for name in all_names if name in modalities]
    if names is None and width == len(own):
        columns = own
    if width != len(columns):
        raise ShapeError(
            f"present in {where} has the wrong shape",
            expected=f"[N, M] = [{len(present)}, {len(columns)}], columns {', '.join(columns)}",
            got=str(list(present.shape)),
            fix=by_name,
        )
    if names is None and not ordered and (present != present[:, :1]).any():
        raise SpecError(
            f"the columns of present in {where} have no names",
            expected="a name for each column, since .safetensors keeps no order of arrays",
            got=f"{width} columns, for {', '.join(sorted(columns))} in some order",
            fix=by_name,
        )
    return {name: present[:, k] for k, name in enumerate(columns)}


def _names(array: NDArray[Any], modalities: Sequence[str], where: str) -> list[str]:
    names = [str(name) for name in array.ravel().tolist()]
    if array.dtype.kind not in "UOT" or len(set(names)) < len(names):
        raise SpecError(
            f"present_names in {where} does not name the columns of present",
            expected="a string for each column, each once",
            got=", ".join(names) or "none",
        )
    for name in modalities:
        if name not in names:
            raise SpecError(
                f"present_names in {where} lacks modality {name!r}",
                expected=", ".join(modalities),
                got=", ".join(names),
                fix=closest(name, names),
            )
    return names


def _check_bool(name: str, array: NDArray[Any], where: str) -> None:
    if array.dtype != np.bool_:
        raise DTypeError(
            f"{name} in {where} has the wrong dtype",
            expected="bool, True where a modality is there",
            got=str(array.dtype),
            fix="Compare first, for example present > 0.5: no threshold is guessed.",
        )
