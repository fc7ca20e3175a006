"""Writes arrays to a Parquet file whose rows come in parts."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from dms_spec.embeddings.sources.frames import pyarrow
from dms_spec.errors import SpecError

#: Bytes of a row group, before they are encoded.
_GROUP = 1 << 25


class ParquetWriter:
    """Writes rows of arrays as columns: ``[N, K]`` as vectors of fixed size.

    Args:
        path: A new file.
        mark: What the file keeps of its origin, as its metadata ``written_by``.
        metadata: Other texts that it keeps.

    Raises:
        BackendUnavailable: pyarrow is not installed.
    """

    def __init__(self, path: Path, mark: str, metadata: Mapping[str, str]) -> None:
        pyarrow()
        self._path = path
        #: Texts that the file keeps; more may be added until it is closed.
        self.metadata = {**metadata, "written_by": mark}
        self._writer: Any = None
        self._waiting: list[Any] = []
        self._bytes = 0
        self._shapes: dict[str, list[int]] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        with self._stack:
            if kind is None:
                self._flush()
                self._writer.add_key_value_metadata(self.metadata)

    def append(
        self, arrays: Mapping[str, NDArray[Any]], columns: Mapping[str, Any] | None = None
    ) -> None:
        """Adds rows.

        Args:
            arrays: By name, with equal rows in each.
            columns: Arrow columns to write before them.

        Raises:
            SpecError: A column has the name of an array.
        """
        self.add(frame_of_arrays(arrays, columns))
        for name, array in arrays.items():
            rows = self._shapes.get(name, [0])[0]
            self._shapes[name] = [rows + len(array), *array.shape[1:]]

    def add(self, rows: Any) -> None:
        """Adds rows of a ``pyarrow.Table``."""
        self._waiting.append(rows)
        self._bytes += rows.nbytes
        if self._bytes >= _GROUP:
            self._flush()

    def shapes(self) -> dict[str, list[int]]:
        """The shape of each array that was appended, as far as it has come."""
        return self._shapes

    def _flush(self) -> None:
        import pyarrow.parquet as pq

        if not self._waiting:
            return
        table = pyarrow().concat_tables(self._waiting)
        if self._writer is None:
            self._writer = self._stack.enter_context(pq.ParquetWriter(self._path, table.schema))
        self._writer.write_table(table)
        self._waiting.clear()
        self._bytes = 0


def frame_of_arrays(
    arrays: Mapping[str, NDArray[Any]], columns: Mapping[str, Any] | None = None
) -> Any:
    """Makes a ``pyarrow.Table`` of arrays: ``[N, K]`` as vectors of fixed size.

    Args:
        arrays: By name, with equal rows in each.
        columns: Arrow columns to put before them.

    Raises:
        SpecError: A column has the name of an array.
    """
    for name in columns or ():
        if name in arrays:
            raise SpecError(
                f"column {name!r} has the name of something that is written beside it",
                expected=f"another name than {', '.join(arrays)}",
                fix="Rename the column.",
            )
    made = {name: _column(array) for name, array in arrays.items()}
    return pyarrow().table({**(columns or {}), **made})


def _column(array: NDArray[Any]) -> Any:
    pa = pyarrow()
    if array.dtype.name == "bfloat16":  # which Arrow has not; float32 holds it whole
        array = array.astype(np.float32)
    if array.ndim == 1:
        return pa.array(array)
    return pa.FixedSizeListArray.from_arrays(pa.array(array.ravel()), array.shape[1])
