"""Reads what is to be embedded: a table of paths and words, or a folder of files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dms_spec.embeddings.presence import PREFIX
from dms_spec.embeddings.sources.columns import Columns, natural, take
from dms_spec.embeddings.sources.frame_files import SUFFIXES, is_frame_file, open_frame_file
from dms_spec.embeddings.sources.frames import Frame, arrays_of_frame, open_frame, plain, pyarrow
from dms_spec.errors import DTypeError, FileError, MissingInput, closest
from dms_spec.markup import counted

#: What is encoded: words, the path of a file, or nothing.
Cell = str | Path | None

#: What a file of a folder is, by its suffix.
FILES = {
    "image": (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"),
    "text": (".txt",),
    "audio": (".wav", ".flac", ".ogg", ".mp3", ".aiff", ".aif"),
}
_KIND = {suffix: kind for kind, suffixes in FILES.items() for suffix in suffixes}

# How many rows are named in a note.
_NAMED = 3


@dataclass(frozen=True, kw_only=True)
class Source:
    """Says where a modality comes from.

    Attributes:
        kind: ``image``, ``text``, ``audio``, or ``file`` for paths that the encoder itself opens.
        column: The column; None: the one with the modality's name, else the one with the kind's.
    """

    kind: str
    column: str | None = None


@dataclass(frozen=True, kw_only=True)
class Items:
    """Holds what is to be embedded, and what goes with it.

    Attributes:
        rows: N.
        cells: By modality, one for each row.
        arrays: Labels and the like, as `Table.from_arrays` takes them.
        name: The column that names the rows; None if there is none.
        ids: The names of the rows; empty if there are none.
        notes: What is odd, in words.
    """

    rows: int
    cells: Mapping[str, Sequence[Cell]]
    arrays: Mapping[str, NDArray[Any]]
    name: str | None
    ids: Sequence[str]
    notes: tuple[str, ...]


def read_items(path: Path, sources: Mapping[str, Source], columns: Columns) -> Items:
    """Reads a table or a folder.

    Args:
        path: ``.parquet``, ``.arrow``, ``.feather``, ``.csv``, or a folder of ``.parquet`` files:
            paths in it start from its own folder. Or a folder of images, texts and sounds: files
            that differ in their suffix alone are one row, with the columns ``id``, ``folder``,
            ``image``, ``text`` and ``audio``.
        sources: By modality.
        columns: Which column is the label, the group and so on.

    Raises:
        FileError: It cannot be read, or a folder holds two images of one name.
        MissingInput: There is no such column, or no row.
        DTypeError: A column holds neither words nor paths.
        BackendUnavailable: pyarrow is not installed.
    """
    folder = path.is_dir() and not is_frame_file(path)
    names, whole, notes = _of_folder(path) if folder else _of_file(path)
    chosen = {name: _column(names, name, source, str(path)) for name, source in sources.items()}
    if folder and columns.id is None:
        columns = replace(columns, id="id")
    wanted = replace(columns, modalities={column: column for column in chosen.values()})
    taken = take(names, wanted, str(path))
    frame = whole(taken.names())
    if not frame.rows:
        raise MissingInput(f"{path} has no row", expected="something to embed")
    arrays = arrays_of_frame(frame, replace(taken, modalities={}))
    start = path if path.is_dir() else path.parent
    cells = {
        name: _cells(frame, column, start, files=folder or sources[name].kind != "text")
        for name, column in chosen.items()
    }
    ids = () if taken.id is None else tuple(map(str, plain(frame.column(taken.id)).tolist()))
    masks = {name: arrays.pop(name) for name in list(arrays) if name.startswith(PREFIX)}
    unused = (f"column {m!r} is not used" for m in masks if m.removeprefix(PREFIX) not in cells)
    return Items(
        rows=frame.rows,
        cells={name: _present(masks.get(PREFIX + name), own) for name, own in cells.items()},
        arrays={name: _storable(name, array, frame.where) for name, array in arrays.items()},
        name=taken.id,
        ids=ids,
        notes=(*notes, *unused, *_twice(ids)),
    )


# The names of some columns, what reads them, and what is odd about them.
_Opened = tuple[Sequence[str], Callable[[Sequence[str]], Frame], tuple[str, ...]]


def _of_file(path: Path) -> _Opened:
    if not is_frame_file(path):
        raise FileError(
            f"cannot read {path}",
            expected=f"a table ({', '.join(SUFFIXES)}), or a folder of images, texts and sounds",
            got=(path.suffix or "no suffix") if path.exists() else "nothing there",
            fix="Check the path, or write the table in one of these formats.",
        )
    file = open_frame_file(path)
    return file.names, file.whole, ()


def _of_folder(folder: Path) -> _Opened:
    """Makes a frame of a folder's files, in natural order. Hidden ones are left alone."""
    found: dict[str, dict[str, str]] = {}
    others = 0
    for file in folder.rglob("*"):
        inner = file.relative_to(folder)
        if any(part.startswith(".") for part in inner.parts) or not file.is_file():
            continue
        kind = _KIND.get(file.suffix.lower())
        if kind is None:
            others += 1
            continue
        row = found.setdefault(inner.with_suffix("").as_posix(), {})
        if kind in row:
            raise FileError(
                f"{folder} holds two files for one {kind}",
                expected="names that differ before the suffix",
                got=", ".join(sorted((row[kind], inner.as_posix()))),
                fix="Rename one, or move it away.",
            )
        row[kind] = inner.as_posix()
    names = sorted(found, key=natural)
    table = pyarrow().table(
        {
            "id": names,
            "folder": [Path(name).parent.as_posix() for name in names],
            **{kind: _strings([found[name].get(kind) for name in names]) for kind in FILES},
        }
    )
    note = f"{counted(others, 'file')} of {folder} of other kinds: not read"
    frame = open_frame(table, str(folder))
    return frame.names, lambda _: frame, (note,) if others else ()


def _strings(cells: list[str | None]) -> Any:
    return pyarrow().array(cells, pyarrow().string())


def _column(names: Sequence[str], modality: str, source: Source, where: str) -> str:
    wanted = source.column or (modality if modality in names else source.kind)
    if wanted not in names:
        raise MissingInput(
            f"{where} has no column {source.column or modality!r}, for {modality}",
            expected=f"--modality {modality}=COL, or a column of its name",
            got=", ".join(names),
            fix=closest(wanted, names),
        )
    return wanted


def _cells(frame: Frame, column: str, start: Path, *, files: bool) -> list[Cell]:
    """Gives paths, or words. What is null or an empty path is nothing."""
    array = plain(frame.column(column))
    cells = [None if cell is None or cell != cell else cell for cell in array.tolist()]
    strange = next((cell for cell in cells if not isinstance(cell, str | int | float | None)), None)
    if strange is not None or (files and not all(isinstance(c, str | None) for c in cells)):
        raise DTypeError(
            f"column {column!r} of {frame.where} does not hold {'paths' if files else 'words'}",
            expected="strings",
            got=str(frame.column(column).type),
            fix="Write what it holds into files, and their paths into the column.",
        )
    if files:
        return [start / str(cell) if cell else None for cell in cells]
    return [None if cell is None else str(cell) for cell in cells]


def _present(present: NDArray[Any] | None, cells: list[Cell]) -> list[Cell]:
    """Leaves out what the table says is not there."""
    if present is None:
        return cells
    return [cell if there else None for cell, there in zip(cells, present, strict=True)]


def _storable(name: str, array: NDArray[Any], where: str) -> NDArray[Any]:
    """Gives an array without objects. Only labels may be missing: NaN, or an empty string."""
    if array.dtype != object:
        return array
    cells = array.tolist()
    if None in cells and name != "labels":
        raise MissingInput(
            f"{name} of {where} is not known in every row",
            expected="a value in each",
            got=f"none in row {cells.index(None)}",
        )
    known = [cell for cell in cells if cell is not None]
    missing = "" if any(isinstance(cell, str) for cell in known) else np.nan
    return np.array([missing if cell is None else cell for cell in cells])


def _twice(ids: Sequence[str]) -> tuple[str, ...]:
    twice = [name for name, count in Counter(ids).items() if count > 1]
    if not twice:
        return ()
    some = ", ".join(map(repr, twice[:_NAMED])) + (", ..." if len(twice) > _NAMED else "")
    return (f"{counted(len(twice), 'id')} in more than one row: {some}",)
