"""Reads a table some rows at a time, to predict from one that need not fit into memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dms_spec.embeddings.labels import NONE, Labels, read_labels, unlabelled
from dms_spec.embeddings.sources.columns import Columns, Taken
from dms_spec.embeddings.sources.frame_files import FrameFile, is_frame_file, open_frame_file
from dms_spec.embeddings.sources.frames import plain
from dms_spec.embeddings.summary import Remarks
from dms_spec.embeddings.table import Table, read_table
from dms_spec.errors import counting_from


@dataclass(frozen=True)
class Part:
    """Holds some rows of a table.

    Attributes:
        table: The rows, without labels.
        id: The column of their names, as Arrow has it; None if there is none.
    """

    table: Table
    id: Any = None


class TableParts:
    """A table that is read some rows at a time. Make one with `read_parts`.

    Attributes:
        rows: N.
        labels: The labels of all rows.
        id: The name of the column that names the rows; None if there is none.
    """

    def __init__(self, rows: int, labels: Labels, name: str | None, parts: Iterator[Part]) -> None:
        self.rows, self.labels, self.id = rows, labels, name
        self._parts, self._remarks = parts, Remarks()

    def __iter__(self) -> Iterator[Part]:
        for part in self._parts:
            self._remarks.add(part.table.remarks, part.table.nonfinite)
            yield part

    def notes(self) -> tuple[str, ...]:
        """What was found to be weaker than it claims in the rows that were read, in words."""
        return self._remarks.notes()


def read_parts(
    path: Path | str,
    modalities: Sequence[str] | None = None,
    *,
    columns: Columns | None = None,
    before: Columns | None = None,
    axis: Sequence[str],
    widths: Mapping[str, int],
    size: int,
) -> TableParts:
    """Opens a table to predict from: Parquet and Arrow come ``size`` rows at a time.

    The arrays of other files are mapped as far as they can be, and are one part.

    Args:
        path: See `read_table`, for this and all others.
        modalities: Of the table.
        columns: Which columns of a frame are what.
        before: The columns that an artifact was learned from.
        axis: The modalities of the artifact.
        widths: D by modality.
        size: Rows at a time.

    Raises:
        FileError, MissingInput, ShapeError, DTypeError, SpecError: As in `read_table`.
    """
    path = Path(path)
    known: dict[str, Any] = {"axis": axis, "widths": widths, "strict_labels": False}
    if is_frame_file(path):
        return _of_frame(
            open_frame_file(path), modalities, columns or Columns(), before, known, size
        )
    table = read_table(path, modalities, columns=columns, mapped=True, **known)
    labels = Labels(table.labels, table.labelled)
    return TableParts(len(table), labels, None, iter([Part(table.rows(slice(None)))]))


def _of_frame(
    file: FrameFile,
    modalities: Sequence[str] | None,
    columns: Columns,
    before: Columns | None,
    known: Mapping[str, Any],
    size: int,
) -> TableParts:
    taken = file.take(columns, before)
    labels = _labels(file, taken)
    notes = (*taken.notes, *labels.notes)
    if labels.known is not None:
        notes = (*notes, unlabelled(labels.known))
    needed = replace(taken.to_predict(), notes=())

    def parts() -> Iterator[Part]:
        start = 0
        for frame in file.parts(needed.names(), max(1, size)):
            with counting_from(start):
                table = Table.from_frame(frame, needed, modalities, where=frame.where, **known)
            table = replace(table, remarks=(*notes, *table.remarks))
            yield Part(table, None if needed.id is None else frame.column(needed.id))
            start += frame.rows

    return TableParts(file.rows, labels, needed.id, parts())


def _labels(file: FrameFile, taken: Taken) -> Labels:
    """Reads the labels of all rows: a column is small."""
    name = taken.arrays.get("labels")
    if name is None:
        return NONE
    column = plain(file.whole([name]).column(name))
    return read_labels(column, file.rows, str(file.path), strict=False)
