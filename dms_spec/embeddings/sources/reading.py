"""Reads the arrays of a table from a file or folder of any kind, by its name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dms_spec.embeddings.sources import folders, frame_files
from dms_spec.embeddings.sources.columns import Columns
from dms_spec.embeddings.sources.frames import arrays_of_frame
from dms_spec.embeddings.sources.spool import embedding_bytes, spooled
from dms_spec.errors import FileError, SpecError, nearest_path
from dms_spec.files import SUFFIXES, Wanted, read_arrays, read_metadata
from dms_spec.scratch import Scratch
from dms_spec.texts import NOTHING


@dataclass(frozen=True, kw_only=True)
class Found:
    """Holds what a file or folder gives.

    Attributes:
        arrays: What `Table.from_arrays` takes.
        ordered: Whether their order is their author's.
        chosen: The modalities, where columns were named; None leaves them to the table.
        columns: Which columns of a frame they come from; None if they are arrays already.
        notes: What was left out, in words.
        names: Of all its columns or arrays.
    """

    arrays: Mapping[str, Any]
    ordered: bool
    chosen: tuple[str, ...] | None = None
    columns: Columns | None = None
    notes: tuple[str, ...] = ()
    names: tuple[str, ...] = ()


def read_source(
    path: Path,
    columns: Columns,
    before: Columns | None = None,
    *,
    widths: Mapping[str, int] | None = None,
    wanted: Wanted | None = None,
    mapped: bool = False,
    memory: int | None = None,
) -> Found:
    """Reads ``.npz``, ``.safetensors``, a folder of ``.npy`` or Parquet, Parquet, Arrow or CSV.

    Args:
        path: The file or folder.
        columns: Which columns of a frame are what.
        before: What an artifact was learned from.
        widths: D by modality, for one that is absent in every row.
        wanted: Which arrays are read, of a file of arrays.
        mapped: Leave large arrays in the file, of a file of arrays.
        memory: Bytes; what has more embeddings is mapped, of a frame from temporary files. None
            for no limit.

    Raises:
        FileError: It cannot be read.
        SpecError: Columns are named, and it holds arrays.
        MissingInput, DTypeError, ShapeError: A column is not there, or cannot be read.
    """
    if frame_files.is_frame_file(path):
        file = frame_files.open_frame_file(path)
        taken = file.take(columns, before)
        if memory is not None and embedding_bytes(file, taken) > memory:
            arrays = spooled(file, taken, Scratch(on_disk=True))
        else:
            arrays = arrays_of_frame(file.whole(taken.names()), taken, widths=widths)
        return Found(
            arrays=arrays,
            ordered=True,
            chosen=taken.chosen,
            columns=taken.columns(),
            notes=taken.notes,
            names=file.names,
        )
    check_arrays(path, columns)
    mapped = mapped or (memory is not None and _size(path) > memory)
    if path.is_dir():
        return Found(arrays=folders.read_folder(path, wanted=wanted, mapped=mapped), ordered=False)
    arrays = dict(read_arrays(path, wanted=wanted, mapped=mapped))
    names = read_metadata(path).get("present_names")
    if names is not None:
        arrays["present_names"] = np.array([name.strip() for name in names.split(",")])
    return Found(arrays=arrays, ordered=path.suffix == ".npz")


def _size(path: Path) -> int:
    """Counts the bytes of a file, or of the arrays in a folder."""
    files = path.glob("*.npy") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def check_arrays(path: Path, columns: Columns) -> None:
    """Refuses what is neither a frame nor arrays, and columns where there are arrays.

    Raises:
        FileError, SpecError: It is.
    """
    frame_files.check_here(path)
    known = (*SUFFIXES, *frame_files.SUFFIXES)
    if not path.is_dir() and path.suffix not in SUFFIXES:
        there = path.exists()
        fix = "Check the path, or write the table in one of these formats."
        raise FileError(
            f"cannot read {path}",
            expected=f"a table: a folder of .npy or .parquet files, or {', '.join(known)}",
            got=(path.suffix or "no suffix") if there else NOTHING,
            fix=(not there and nearest_path(path)) or fix,
        )
    if columns != Columns():
        raise SpecError(
            f"{path} has no columns to choose",
            expected=f"a frame ({', '.join(frame_files.SUFFIXES)}), where columns are named",
            got="arrays, which go by their own names, such as labels",
            fix="Rename the arrays; --modalities (in Python: modalities=...) chooses some.",
        )
