"""Reads files of columns as frames: Parquet, Arrow IPC and CSV, whole or some rows at a time."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dms_spec.embeddings.sources.columns import Columns, Taken, natural
from dms_spec.embeddings.sources.frames import Frame, open_frame, pyarrow, take_of
from dms_spec.errors import DMSError, FileError, nearest_path
from dms_spec.texts import NOTHING

#: The endings of such files.
SUFFIXES = (".parquet", ".arrow", ".feather", ".csv", ".csv.gz")

# Rows at a time where a file is read whole.
_MANY = 1 << 16

#: How Parquet is read: buffered ahead, all row groups would stay in memory; without a buffer, one.
FEW_AT_A_TIME = {"pre_buffer": False, "buffer_size": 1 << 20}


def is_frame_file(path: Path) -> bool:
    """Says whether a file holds columns, by its name; or a folder, by its Parquet files."""
    if path.is_dir():
        return next(path.glob("*.parquet"), None) is not None
    return path.name.lower().endswith(SUFFIXES)


def check_here(path: Path) -> None:
    """Refuses the address of a store, such as ``s3://bucket/file.parquet``.

    Raises:
        FileError: It is one.
    """
    if re.fullmatch("[a-z][a-z0-9]+:", path.parts[0] if path.parts else ""):
        raise FileError(
            f"cannot read {path}",
            expected="a path on this machine",
            got="an address in a store",
            fix="Copy the file here. What reads from stores is dms watch, and dms predict with a "
            "folder as output, -o OUT/.",
        )


@dataclass(frozen=True)
class FrameFile:
    """A file of columns. Opening it reads what they are, and of a CSV file everything.

    Attributes:
        path: The file, or a folder of some.
        schema: The ``pyarrow.Schema`` of its columns.
        rows: N.
    """

    path: Path
    schema: Any
    rows: int
    _batches: Callable[[list[str], int], Iterator[Any]]

    @property
    def names(self) -> tuple[str, ...]:
        """The names of its columns.

        Raises:
            FileError: They are not in UTF-8.
        """
        with reading(self.path):
            return tuple(self.schema.names)

    def take(self, columns: Columns, before: Columns | None) -> Taken:
        """Finds the columns that are asked for: see `take_of`."""
        empty = open_frame(self.schema.empty_table(), str(self.path))
        return take_of(empty, columns, before)

    def parts(self, names: Sequence[str], size: int) -> Iterator[Frame]:
        """Reads some columns, ``size`` rows at a time or fewer; at least one part.

        Raises:
            FileError: The file is damaged.
        """
        pa, found = pyarrow(), 0
        columns = list(dict.fromkeys(names))
        kept = pa.schema([field for field in self.schema if field.name in columns])
        batches = self._batches(columns, size)
        while True:
            with reading(self.path):
                batch = next(batches, None)
                if batch is None:
                    break
                table = pa.Table.from_batches([batch]).select(columns)
                found += len(table)
            yield open_frame(table, str(self.path))
        if not found:
            yield open_frame(kept.empty_table().select(columns), str(self.path))
        if found != self.rows:
            raise FileError(
                f"{self.path} is cut short", expected=f"{self.rows} rows", got=str(found)
            )

    def whole(self, names: Sequence[str]) -> Frame:
        """Reads some columns of all rows."""
        pa = pyarrow()
        columns = list(dict.fromkeys(names))
        with reading(self.path):
            batches = list(self._batches(columns, _MANY))
            kept = pa.schema([self.schema.field(name) for name in columns])
            table = pa.Table.from_batches([b.select(columns) for b in batches], kept)
        return open_frame(table, str(self.path))


def open_frame_file(path: Path) -> FrameFile:
    """Opens a file of columns, or a folder of Parquet files with the same columns.

    Raises:
        FileError: It is missing, damaged or of another kind.
        BackendUnavailable: pyarrow is not installed.
    """
    check_here(path)
    pyarrow()
    name = path.name.lower()
    if path.is_dir():
        return _folder(path)
    with reading(path):
        if name.endswith(".parquet"):
            return _parquet(path)
        return _csv(path) if name.endswith((".csv", ".csv.gz")) else _ipc(path)


def read_metadata(path: Path) -> dict[str, str]:
    """The texts that a Parquet file has beside its columns.

    Raises:
        FileError: It is damaged.
    """
    import pyarrow.parquet as pq

    with reading(path), pq.ParquetFile(path) as file:
        texts = file.metadata.metadata or {}
        return {name.decode(): text.decode() for name, text in texts.items()}


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turns whatever a reader raises about a file into one error.

    Raises:
        FileError: The file is missing, damaged or of another kind.
    """
    if not path.exists():
        fix = nearest_path(path) or "Check the path."
        raise FileError(f"cannot read {path}", expected="a file", got=NOTHING, fix=fix)
    with readable(str(path), path.suffix):
        yield


@contextmanager
def readable(where: str, suffix: str) -> Iterator[None]:
    """Does the same for a file that is there, wherever it lies.

    Raises:
        FileError: It is damaged or of another kind.
    """
    try:
        yield
    except (DMSError, MemoryError):
        raise
    # A hostile file can make the readers raise almost anything.
    except Exception as error:
        raise FileError(
            f"cannot read {where}",
            expected=f"a {suffix} file with columns",
            got=next(iter(str(error).split(". ")), type(error).__name__).rstrip("."),
            fix=_fix(error),
        ) from error


def _fix(error: Exception) -> str:
    if "lists to be of size" in str(error) and int(pyarrow().__version__.partition(".")[0]) < 26:
        return "pyarrow 26 reads null vectors of a fixed size, and older ones do not: update it."
    return "The file is damaged, cut short, or of another kind: write it again."


def _parquet(path: Path) -> FrameFile:
    import pyarrow.parquet as pq

    def batches(names: list[str], size: int) -> Iterator[Any]:
        with pq.ParquetFile(path, **FEW_AT_A_TIME) as file:
            yield from file.iter_batches(size, columns=names)

    with pq.ParquetFile(path) as file:
        return FrameFile(path, file.schema_arrow, file.metadata.num_rows, batches)


def _folder(path: Path) -> FrameFile:
    """Joins the Parquet files of a folder, in the natural order of their names."""
    paths = sorted(path.glob("*.parquet"), key=lambda part: natural(part.name))
    files = [open_frame_file(part) for part in paths]
    for file in files[1:]:
        if not file.schema.equals(files[0].schema):
            raise FileError(
                f"the files of {path} differ in their columns",
                expected=f"the columns and types of {paths[0].name} in each",
                got=f"others in {file.path.name}",
                fix="Write them alike, or read them one by one.",
            )

    def batches(names: list[str], size: int) -> Iterator[Any]:
        for file in files:
            with reading(file.path):
                yield from file._batches(names, size)

    return FrameFile(path, files[0].schema, sum(file.rows for file in files), batches)


def _ipc(path: Path) -> FrameFile:
    """Opens Arrow's own format, as a file (also called Feather) or as a stream."""
    pa = pyarrow()
    with pa.memory_map(str(path)) as source:
        try:
            table = pa.ipc.open_file(source).read_all()
        except pa.ArrowInvalid:  # a stream has no footer; neither has a damaged file
            source.seek(0)
            table = pa.ipc.open_stream(source).read_all()
    table.validate()
    return _of_table(path, table)


def _csv(path: Path) -> FrameFile:
    import pyarrow.csv

    return _of_table(path, pyarrow.csv.read_csv(path))


def _of_table(path: Path, table: Any) -> FrameFile:
    def batches(names: list[str], size: int) -> Iterator[Any]:
        yield from table.select(names).to_batches(max_chunksize=size)

    return FrameFile(path, table.schema, table.num_rows, batches)
