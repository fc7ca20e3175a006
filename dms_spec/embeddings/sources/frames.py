"""Reads frames as arrays: pandas, polars, pyarrow, ``datasets``, and what else speaks Arrow."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dms_spec.embeddings.looks import synonym
from dms_spec.embeddings.presence import PREFIX
from dms_spec.embeddings.sources.columns import Columns, Taken, Wanted, take
from dms_spec.embeddings.split import SPLITS
from dms_spec.errors import BackendUnavailable, DTypeError, ShapeError, SpecError, install_hint

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Frame:
    """Holds the columns of a frame, each converted to Arrow when it is asked for.

    Attributes:
        names: Of the columns, in their order.
        rows: N.
        where: The frame's name, for messages.
        texts: What is said of the frame beside its columns, by name.
    """

    names: tuple[str, ...]
    rows: int
    where: str
    _at: Callable[[int], Any]
    texts: Mapping[str, str] = field(default_factory=dict)

    def column(self, name: str) -> Any:
        """Gives a column as a ``pyarrow.ChunkedArray``.

        Raises:
            DTypeError: It holds objects that Arrow does not know.
            SpecError: There are two of this name.
        """
        if self.names.count(name) > 1:
            raise SpecError(f"column {name!r} of {self.where} is there twice", fix="Rename one.")
        try:
            column = self._at(self.names.index(name))
        except (ValueError, TypeError) as error:  # both are also Arrow's own
            raise DTypeError(
                f"column {name!r} of {self.where} cannot be read",
                expected="numbers, strings, or vectors of numbers, one kind for all rows",
                got=str(error),
            ) from error
        if hasattr(column.type, "storage_type"):  # such as a tensor of fixed shape
            chunks = [chunk.storage for chunk in column.chunks]
            return pyarrow().chunked_array(chunks, column.type.storage_type)
        return column

    def vectors(self) -> tuple[str, ...]:
        """Names the columns whose cells are lists of numbers."""
        once = [name for name in self.names if self.names.count(name) == 1]
        return tuple(name for name in once if self._is_vector(name))

    def _is_vector(self, name: str) -> bool:
        try:
            kind = self.column(name).type
        except DTypeError:
            return False
        return is_list(kind) and _is_number(kind.value_type)


def pyarrow() -> Any:
    """Imports pyarrow.

    Raises:
        BackendUnavailable: It is not installed.
    """
    try:
        import pyarrow
    except ImportError as error:
        raise BackendUnavailable(
            "frames and their files need pyarrow",
            got=str(error),
            fix=install_hint("dms-spec[tables]"),
        ) from error
    return pyarrow


def open_frame(frame: Any, where: str = "the frame") -> Frame:
    """Opens a frame of any library.

    Args:
        frame: A pandas or polars data frame, a ``pyarrow.Table``, a ``datasets.Dataset``, or
            anything else with ``__arrow_c_stream__``.
        where: What messages call it.

    Raises:
        DTypeError: It is something else.
        BackendUnavailable: pyarrow is not installed.
    """
    pa = pyarrow()
    if isinstance(frame, Frame):
        return frame
    if type(frame).__module__.split(".")[0] == "pandas" and hasattr(frame, "columns"):
        names = tuple(str(name) for name in frame.columns)
        return Frame(names, len(frame), where, lambda k: _of_pandas(frame.iloc[:, k]))
    try:
        table = pa.table(_of_datasets(frame))
    except (TypeError, ValueError) as error:
        raise DTypeError(
            f"{where} cannot be read as a frame",
            expected="a data frame of pandas or polars, a pyarrow.Table, or a datasets.Dataset",
            got=f"{type(frame).__name__}: {next(iter(str(error).splitlines()), '')}",
            fix="Collect a lazy frame first, choose one of a mapping, or use Table.from_arrays.",
        ) from error
    texts = {
        name.decode(errors="replace"): text.decode(errors="replace")
        for name, text in (table.schema.metadata or {}).items()
    }
    return Frame(tuple(table.column_names), table.num_rows, where, table.column, texts)


def _of_datasets(frame: Any) -> Any:
    """Gives the Arrow table of a ``datasets.Dataset``, and anything else as it is."""
    if isinstance(frame, Mapping):
        raise TypeError("it is a mapping, and not one frame")
    if not hasattr(frame, "with_format") or not hasattr(frame, "num_rows"):
        return frame
    return frame.with_format("arrow")[:]  # rows may be chosen, which its own table does not know


def _of_pandas(series: Any) -> Any:
    pa = pyarrow()
    column = pa.array(series, from_pandas=True)
    return column if isinstance(column, pa.ChunkedArray) else pa.chunked_array([column])


def arrays_of_frame(
    frame: Any,
    modalities: Mapping[str, Wanted] | Columns | Taken,
    *,
    widths: Mapping[str, int] | None = None,
    where: str = "the frame",
) -> Arrays:
    """Turns a frame into the arrays that `Table.from_arrays` takes.

    Args:
        frame: See `open_frame`.
        modalities: By modality, its column of vectors, or its columns of single numbers as a
            pattern or a list; or `Columns`, which names labels and the like as well.
        widths: D by modality, for one that is absent in every row.
        where: What messages call the frame.

    Returns:
        ``[N, D]`` for each modality; bool ``present.<modality>`` [N] where it is missing: a vector
        that is null, or columns of which none holds a number. Null inside of a vector or in some
        of the columns is NaN. A modality without any vector and of unknown width is left out.
        Then ``labels`` and the like. Columns of these names are taken without being asked for.

    Raises:
        MissingInput, SpecError: A column is not there, or taken twice.
        DTypeError: A column does not hold numbers.
        ShapeError: The vectors of a column differ in length.
    """
    opened = open_frame(frame, where)
    taken = modalities if isinstance(modalities, Taken) else take_of(opened, modalities)
    result: Arrays = {}
    for modality, block in taken.modalities.items():
        array, present = _block(opened, modality, block, (widths or {}).get(modality))
        if array is not None:
            result[modality] = array
            if not present.all():
                result[PREFIX + modality] = present
    for name, column in taken.arrays.items():
        array = plain(opened.column(column))
        if name in SPLITS or name.startswith(PREFIX):
            array = _as_bool(array, column, opened.where)
        result[name] = array & result[name] if name in result else array
    if taken.split is not None:
        result |= _split(plain(opened.column(taken.split)), taken.split, opened.where)
    return result


def take_of(
    frame: Frame, columns: Columns | Mapping[str, Wanted], before: Columns | None = None
) -> Taken:
    """Finds columns of a frame: see `take`."""
    asked = columns if isinstance(columns, Columns) else Columns(modalities=columns)
    vectors = () if asked.modalities else frame.vectors()
    return take(frame.names, asked, frame.where, vectors=vectors, before=before)


# ------------------------------------------------------------------------------------ modalities


def _block(
    frame: Frame, modality: str, names: tuple[str, ...], width: int | None
) -> tuple[NDArray[Any] | None, NDArray[np.bool_]]:
    """Reads a modality, and in which rows it is there; None if its width is not known."""
    columns = {name: frame.column(name) for name in names}
    lists = [name for name, column in columns.items() if is_list(column.type)]
    if lists and len(names) > 1:
        raise SpecError(
            f"modality {modality!r} takes a column of vectors among others",
            expected="one column of vectors, or columns of single numbers",
            got=f"{lists[0]!r} and {next(name for name in names if name != lists[0])!r}",
            fix="Give it that column alone, or use a narrower pattern.",
        )
    if lists:
        return _vectors(lists[0], columns[lists[0]], width, frame.where)
    if len(names) == 1 and pyarrow().types.is_null(columns[names[0]].type):
        # Nothing says whether it holds vectors.
        filler = None if width is None else np.full((frame.rows, width), np.nan, np.float32)
        return filler, np.zeros(frame.rows, dtype=bool)
    singles = [_numbers(column, name, frame.where) for name, column in columns.items()]
    array = np.stack(singles, axis=1)
    return array, np.ones(len(array), bool) if array.dtype.kind != "f" else _some(array)


def _some(array: NDArray[Any]) -> NDArray[np.bool_]:
    """Says which rows hold any number, bool ``[N]``."""
    found: NDArray[np.bool_] = ~np.isnan(array).all(axis=1)
    return found


def _vectors(
    name: str, column: Any, width: int | None, where: str
) -> tuple[NDArray[Any] | None, NDArray[np.bool_]]:
    """Reads a column of lists as ``[N, D]``, and which rows are not null."""
    import pyarrow.compute as pc

    if is_list(column.type.value_type):
        raise ShapeError(
            f"column {name!r} of {where} holds a matrix in each row",
            expected="a vector of numbers in each row",
            got=str(column.type),
            fix="Flatten or pool each sample's embedding to one row of numbers.",
        )
    present = _filled(column.is_valid(), bool)
    lengths = _filled(pc.fill_null(pc.list_value_length(column), -1), np.int64)
    known = lengths[present]
    if not len(known):
        width = _fixed_width(column.type) or width
        if width is None:
            return None, present
    else:
        width = int(known[0])
    if (known != width).any():
        row = int(np.flatnonzero(present & (lengths != width))[0])
        raise ShapeError(
            f"the vectors in column {name!r} of {where} differ in length",
            expected=f"{width} numbers in each row, as in the first",
            got=f"{lengths[row]} in row {row}",
            fix="Pool each sample to as many numbers as all others; a missing one is null.",
        )
    # Flattening leaves out what is null, whole rows too, and knows where a slice begins.
    flat = [_numbers(chunk.flatten(), name, where) for chunk in column.chunks]
    values = (flat[0] if len(flat) == 1 else np.concatenate(flat)) if flat else np.zeros(0, "f4")
    values = values.reshape(len(known), width)
    if present.all():
        return values, present
    dtype = values.dtype if values.dtype.kind == "f" else np.float64
    array = np.full((len(present), width), np.nan, dtype)
    array[present] = values
    return array, present


def _fixed_width(kind: Any) -> int | None:
    return kind.list_size if pyarrow().types.is_fixed_size_list(kind) else None


def is_list(kind: Any) -> bool:
    """Says whether an Arrow type is one of its five kinds of lists."""
    types = pyarrow().types
    kinds = (types.is_list, types.is_large_list, types.is_fixed_size_list)
    views = (types.is_list_view, types.is_large_list_view)
    return any(is_kind(kind) for is_kind in (*kinds, *views))


def _is_number(kind: Any) -> bool:
    types = pyarrow().types
    kinds = (types.is_integer, types.is_floating, types.is_boolean, types.is_decimal)
    return any(is_kind(kind) for is_kind in kinds)


def _numbers(column: Any, name: str, where: str) -> NDArray[Any]:
    """Converts an Arrow array of numbers, with NaN for null."""
    pa = pyarrow()
    column = _decoded(column)
    kind = column.type
    if pa.types.is_null(kind):
        return np.full(len(column), np.nan, np.float32)
    if not _is_number(kind):
        raise DTypeError(
            f"column {name!r} of {where} does not hold numbers",
            expected="numbers in every column of a modality",
            got=str(kind),
            fix="Leave that column out, or turn it into numbers.",
        )
    if pa.types.is_boolean(kind):
        column = column.cast(pa.uint8())
    if pa.types.is_decimal(kind):
        column = column.cast(pa.float64())
    return _to_numpy(column)


def _decoded(column: Any) -> Any:
    """Replaces the codes of a dictionary, such as pandas' categories, by what they stand for."""
    pa = pyarrow()
    if not pa.types.is_dictionary(column.type):
        return column
    kind = column.type.value_type
    kind = pa.large_string() if pa.types.is_string_view(kind) else kind  # Arrow decodes no views
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    plain_chunks = [
        pa.DictionaryArray.from_arrays(chunk.indices, chunk.dictionary.cast(kind))
        for chunk in chunks
    ]
    return pa.chunked_array([chunk.dictionary_decode() for chunk in plain_chunks], kind)


def _to_numpy(column: Any) -> NDArray[Any]:
    """Gives NumPy's array: objects or NaN where Arrow's is null."""
    if isinstance(column, pyarrow().ChunkedArray):
        return np.asarray(column.to_numpy())
    return np.asarray(column.to_numpy(zero_copy_only=False))


def _filled(column: Any, dtype: Any) -> NDArray[Any]:
    return _to_numpy(column).astype(dtype, copy=False)


# --------------------------------------------------------------------------- labels and the like


def plain(column: Any) -> NDArray[Any]:
    """Converts a column of names or numbers: objects with None where it holds null or strings."""
    pa = pyarrow()
    column = _decoded(column)
    if pa.types.is_null(column.type):
        return np.full(len(column), None, dtype=object)
    # Integers with null would become floats, which do not hold them all.
    if column.null_count and not pa.types.is_floating(column.type):
        return np.array(column.to_pylist(), dtype=object)
    return _to_numpy(column)


def _as_bool(array: NDArray[Any], name: str, where: str) -> NDArray[np.bool_]:
    if array.dtype != np.bool_:
        raise DTypeError(
            f"column {name!r} of {where} has the wrong dtype",
            expected="true or false in every row",
            got="null in some rows" if array.dtype == object else str(array.dtype),
            fix="Compare first; a column of names, such as 'train', is a split.",
        )
    return array


def _split(column: NDArray[Any], name: str, where: str) -> Arrays:
    """Reads what each row is for; null is for nothing."""
    parts = np.array([_part(cell) for cell in column.tolist()], dtype=object)
    for row, part in enumerate(parts):
        if part is not None and part not in SPLITS:
            raise SpecError(
                f"column {name!r} of {where} does not say what a row is for",
                expected=", ".join(SPLITS),
                got=f"{column[row]!r} in row {row}",
            )
    return {part: parts == part for part in SPLITS if (parts == part).any()}


def _part(cell: object) -> str | None:
    text = "" if cell is None else str(cell).strip().lower()
    return (text if text in SPLITS else synonym(text) or text) or None
