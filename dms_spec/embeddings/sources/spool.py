"""Reads a frame some rows at a time into arrays that need not fit into memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dms_spec.embeddings.presence import PREFIX
from dms_spec.embeddings.sources.columns import Taken
from dms_spec.embeddings.sources.frame_files import FrameFile
from dms_spec.embeddings.sources.frames import Arrays, arrays_of_frame
from dms_spec.embeddings.split import SPLITS
from dms_spec.errors import counting_from
from dms_spec.scratch import Scratch

# Rows at a time.
_ROWS = 4096


def embedding_bytes(file: FrameFile, taken: Taken) -> int:
    """Estimates from its first rows what the embeddings of a frame take in memory."""
    first = next(file.parts(taken.names(), _ROWS))
    arrays = arrays_of_frame(first, taken)
    widths = [arrays[name][:1].nbytes for name in taken.modalities if name in arrays]
    return file.rows * sum(widths)


def spooled(file: FrameFile, taken: Taken, scratch: Scratch) -> Arrays:
    """Reads what `arrays_of_frame` reads, with embeddings in arrays of a scratch.

    Embeddings that are no floating-point numbers become float64.

    Raises:
        MissingInput, SpecError, DTypeError, ShapeError: As there.
        FileError: The file is damaged, or the disk has no room.
    """
    embeddings: Arrays = {}
    columns: dict[str, list[tuple[slice, Any]]] = {}
    start = 0
    for frame in file.parts(taken.names(), _ROWS):
        rows = slice(start, start + frame.rows)
        widths = {name: array.shape[1] for name, array in embeddings.items()}
        with counting_from(start):
            arrays = arrays_of_frame(frame, taken, widths=widths)
        for name, array in arrays.items():
            if name not in taken.modalities:
                # A view would keep all that Arrow has read with it.
                columns.setdefault(name, []).append((rows, array.copy()))
                continue
            if name not in embeddings:  # nobody knew its width while all were null
                dtype = array.dtype if array.dtype.kind == "f" else np.float64
                embeddings[name] = scratch.empty((file.rows, array.shape[1]), dtype)
                embeddings[name][:start] = np.nan
                columns[PREFIX + name] = [(slice(0, start), False)]
            embeddings[name][rows] = array
        scratch.forget()
        start = rows.stop
    return embeddings | {name: _whole(name, own, file.rows) for name, own in columns.items()}


def _whole(name: str, parts: Sequence[tuple[slice, Any]], rows: int) -> NDArray[Any]:
    """Joins the parts of a column."""
    if name not in SPLITS and not name.startswith(PREFIX):
        return np.concatenate([array for _, array in parts])
    # A part says nothing where a modality is present in all its rows, or no row is of a split.
    whole = np.full(rows, name.startswith(PREFIX))
    for own, array in parts:
        whole[own] = array
    return whole
