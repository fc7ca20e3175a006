"""Makes NumPy arrays of lists, tensors, data frames and the like, and checks what they hold."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dms_spec.errors import DTypeError, ShapeError

FLOATS = ("float16", "float32", "float64")
# bfloat16 and the 8-bit floats of ml_dtypes, all exact in float32.
_NARROW = ("bfloat16", "float8", "float6", "float4")
_MISSING = ("NAType", "NaTType")  # pandas' own


def to_array(name: str, value: Any, where: str) -> NDArray[Any]:
    """Makes a NumPy array, in this machine's byte order, of any container.

    Args:
        name: Of the array, for messages.
        value: A list, a NumPy array, a tensor (any device, with or without gradients), a data
            frame or series, or anything with ``__array__`` or ``__dlpack__``.
        where: The table's name, for messages.

    Raises:
        DTypeError: It cannot be read as an array.
        ShapeError: Its rows differ in length.
    """
    try:
        array = _converted(value)
    except Exception as error:  # each library refuses in its own way
        if "inhomogeneous" in str(error) or "must have the same shape" in str(error):
            raise ShapeError(
                f"the rows of {name!r} in {where} differ in length",
                expected="[N, D]: a row of D numbers for each sample",
                fix="Pool each sample to as many numbers as all others.",
            ) from error
        raise DTypeError(
            f"{name!r} in {where} cannot be read as an array",
            expected="a list, an array, a tensor or a data frame",
            got=f"{type(value).__name__}: {next(iter(str(error).splitlines()), type(error))}",
            fix="Make it a NumPy array of numbers first.",
        ) from error
    # Strings of any length have no byte order, and NumPy refuses to say so.
    kind = array.dtype.kind
    return array if kind == "T" else array.astype(array.dtype.newbyteorder("="), copy=False)


def _converted(value: Any) -> NDArray[Any]:
    if isinstance(value, np.ma.MaskedArray):
        return _unmasked(value)
    if isinstance(value, np.ndarray):
        return np.asarray(value)
    if hasattr(value, "detach") and hasattr(value, "cpu"):  # torch
        value = value.detach().cpu()
        return np.asarray((value.float() if "bfloat16" in str(value.dtype) else value).numpy())
    if hasattr(value, "toarray"):  # scipy: NumPy would take it for one object
        raise TypeError("it is a sparse matrix; .toarray() makes it dense")
    if hasattr(value, "to_numpy"):  # pandas, polars
        return np.asarray(value.to_numpy())
    if hasattr(value, "__array__"):
        return np.asarray(value)
    if hasattr(value, "__dlpack__"):
        return np.from_dlpack(value)
    if isinstance(value, list | tuple):
        return _of_list(value)
    array = np.asarray(value)
    if array.dtype == object:
        raise TypeError("NumPy does not know this container")
    return array


def _unmasked(value: Any) -> NDArray[Any]:
    """Gives NaN or None where the mask hides something. NumPy would drop the mask in silence."""
    if not np.ma.is_masked(value):
        return np.asarray(value.data)
    if value.dtype.kind in "fiu" and value.ndim > 1:
        return np.asarray(value.astype(np.float64).filled(np.nan))
    result: NDArray[Any] = value.data.astype(object)
    result[value.mask] = None
    return result


def _of_list(value: list[Any] | tuple[Any, ...]) -> NDArray[Any]:
    if value and all(hasattr(row, "shape") for row in value):
        return np.stack([_converted(row) for row in value])
    # NumPy would turn ["a", nan, 1] into strings.
    if any(isinstance(x, str) for x in value) and not all(isinstance(x, str) for x in value):
        return np.array(value, dtype=object)
    return np.asarray(value)


def column_names(value: Any) -> tuple[str, ...]:
    """Names the columns of a data frame, and none for anything else."""
    names = getattr(value, "columns", None)
    return () if names is None or callable(names) else tuple(str(name) for name in names)


# --------------------------------------------------------------------------------------- numbers


def numbers(
    what: str, array: NDArray[Any], where: str, columns: tuple[str, ...] = ()
) -> NDArray[Any]:
    """Converts numbers to float16, float32 or float64, without loss wherever one of them can.

    Args:
        what: What it is, for messages, such as ``"modality 'image'"``.
        array: Of any shape.
        where: The table's name, for messages.
        columns: Names of its columns, if it has any.

    Raises:
        DTypeError: It does not hold numbers.
    """
    dtype = array.dtype
    if dtype.name in FLOATS:
        return array
    if dtype.name.startswith(_NARROW):
        return array.astype(np.float32)
    if dtype.kind == "O":
        return _of_objects(what, array, where, columns)
    if dtype.kind not in "biu":
        raise DTypeError(
            f"{what} in {where} does not hold numbers",
            expected=" or ".join((*FLOATS, "bfloat16", "integers")),
            got=str(dtype),
            fix=_number_hint(dtype),
        )
    # Integers are exact in float32 as far as 2^24, and no dtype keeps all of those beyond 2^53.
    narrow: NDArray[Any] = array.astype(np.float32)
    return narrow if (narrow == array).all() else array.astype(np.float64)


def _number_hint(dtype: np.dtype[Any]) -> str:
    if dtype.kind == "V" and dtype.names is None:
        hint = "An .npz file keeps bfloat16 as raw bytes: write float32, or write .safetensors."
    else:
        hint = {
            "f": "Write it with .astype(numpy.float64).",
            "c": "Give real and imaginary parts as columns of their own.",
            "M": "Turn dates into numbers first, such as days since the first.",
            "m": "Turn times into numbers first, such as seconds.",
        }.get(dtype.kind, "A table holds embeddings: run the encoder first.")
    return hint


def _of_objects(
    what: str, array: NDArray[Any], where: str, columns: tuple[str, ...]
) -> NDArray[Any]:
    """Converts objects that are numbers, or None, to float64."""
    result = np.full(array.shape, np.nan)
    for place, cell in np.ndenumerate(array):
        if missing(cell):
            continue
        if isinstance(cell, bool | int | float | np.number | np.bool_):
            result[place] = float(cell)
            continue
        if np.ndim(cell) or isinstance(cell, list | tuple):
            raise ShapeError(
                f"{what} in {where} holds an object of its own for each row",
                expected="one array [N, D]",
                got=f"{type(cell).__name__} in row {place[0]}",
                fix="numpy.stack(rows) makes one array of rows of equal length.",
            )
        named = f" ({columns[place[1]]!r})" if columns and len(place) > 1 else ""
        column = f", column {place[1]}{named}" if len(place) > 1 else ""
        raise DTypeError(
            f"{what} in {where} does not hold numbers alone",
            expected="numbers in every column",
            got=f"{type(cell).__name__} in row {place[0]}{column}",
            fix="Leave that column out, or turn it into numbers.",
        )
    return result


# --------------------------------------------------------------------------------------- columns


def missing(value: object) -> bool:
    """Says whether one cell is missing: None, NaN, or the NA of a data frame."""
    if value is None or type(value).__name__ in _MISSING:
        return True
    return isinstance(value, float | np.floating) and bool(np.isnan(value))


def plain_column(what: str, array: NDArray[Any], where: str) -> tuple[NDArray[Any], Any]:
    """Reads names or numbers, one for each row, and which of them are known.

    Args:
        what: What it is, for messages, such as ``"labels"``.
        array: ``[N]``, of any dtype. Missing are NaN, None, and the empty string.
        where: The table's name, for messages.

    Returns:
        ``[N]`` of booleans, integers, floats or strings, with anything where one is missing; and
        bool ``[N]``.

    Raises:
        DTypeError: They are neither names nor numbers, or both.
    """
    kind = array.dtype.kind
    if kind == "O":
        return _plain_objects(what, array, where)
    if kind == "S":
        array = _decoded(what, array, where)
    elif kind == "T":  # NumPy's strings of any length
        return _plain_objects(what, array.astype(object), where)
    elif array.dtype.name.startswith(_NARROW):
        array = array.astype(np.float32)
    if array.dtype.kind == "U":
        return array, array != ""
    if array.dtype.kind == "f":
        return array, ~np.isnan(array)
    if array.dtype.kind not in "biu":
        raise DTypeError(
            f"{what} in {where} hold neither names nor numbers",
            expected="integers or strings",
            got=str(array.dtype),
            fix="Number them, or use .astype(str).",
        )
    return array, np.ones(len(array), dtype=bool)


def _plain_objects(what: str, array: NDArray[Any], where: str) -> tuple[NDArray[Any], Any]:
    known = np.array([not missing(cell) and not _empty(cell) for cell in array], dtype=bool)
    cells = array[known].tolist()
    kinds = {_kind(cell) for cell in cells}
    if None in kinds or (len(kinds) > 1 and not kinds <= {"integer", "float"}):
        odd = next((cell for cell in cells if _kind(cell) is None), None)
        got = sorted({type(cell).__name__ for cell in cells}) if odd is None else [_type(odd)]
        raise DTypeError(
            f"{what} in {where} hold Python objects",
            expected="integers or strings, one kind for all rows",
            got=" and ".join(got),
            fix=f"Use {what}.astype(str), or number them.",
        )
    values = np.array([_text(cell) for cell in cells]) if cells else np.zeros(0, np.int64)
    if values.dtype.kind == "O":
        raise DTypeError(
            f"{what} in {where} hold integers beyond 64 bits", fix=f"Use {what}.astype(str)."
        )
    result = np.zeros(len(array), dtype=values.dtype)
    result[known] = values
    return result, known


def _empty(cell: object) -> bool:
    return isinstance(cell, str | bytes) and not cell


def _kind(cell: object) -> str | None:
    if isinstance(cell, bool | np.bool_):
        return "boolean"
    if isinstance(cell, int | np.integer):
        return "integer"
    if isinstance(cell, float | np.floating):
        return "float"
    return "string" if isinstance(cell, str | bytes) else None


def _text(cell: Any) -> Any:
    return cell.decode() if isinstance(cell, bytes) else cell


def _type(cell: Any) -> str:
    return "a list in place of one label" if np.ndim(cell) else type(cell).__name__


def _decoded(what: str, array: NDArray[Any], where: str) -> NDArray[Any]:
    try:
        return np.char.decode(array, "utf-8")
    except UnicodeDecodeError as error:
        raise DTypeError(
            f"{what} in {where} hold bytes that are not text",
            expected="UTF-8",
            got=str(array.dtype),
            fix="Decode them first, or number them.",
        ) from error
