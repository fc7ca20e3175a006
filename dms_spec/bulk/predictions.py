"""Reads what ``dms predict`` wrote: Parquet in parts, or the same columns as lines of JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from numpy.typing import NDArray

from dms_spec.bulk.drift import Rows
from dms_spec.bulk.places import Place
from dms_spec.embeddings.sources.frame_files import readable
from dms_spec.embeddings.sources.frames import Frame, arrays_of_frame, open_frame, plain, pyarrow
from dms_spec.errors import MissingInput, closest

#: What is compared, where it is there.
VALUES = ("weights", "typicality")

# Rows at a time.
_MANY = 1 << 14


def read_predictions(text: str, time: str | None = None) -> Iterator[Rows]:
    """Reads the predictions of a file, or of a folder of parts, some rows at a time.

    Args:
        text: A path or URI: ``.parquet``, a folder of some, or ``.jsonl``.
        time: The column that says when a row was.

    Raises:
        FileError: It cannot be read.
        MissingInput: It holds no predictions, or has no such column.
    """
    given = Place.of(text)
    if given.path.endswith(".jsonl"):
        with (
            readable(given.given, ".jsonl"),
            given.filesystem.open_input_stream(given.path) as file,
        ):
            from pyarrow import json as arrow_json

            table = arrow_json.read_json(file)
        yield _rows(open_frame(table, given.given), time)
        return
    for place in given.files():
        with place.parquet() as file:
            names = file.schema_arrow.names
            _check(names, place.given, time)
            columns = [n for n in ("active", *VALUES, time) if n in names]
            for batch in file.iter_batches(_MANY, columns=columns, use_threads=False):
                yield _rows(open_frame(pyarrow().Table.from_batches([batch]), place.given), time)


def read_modalities(text: str) -> tuple[str, ...] | None:
    """Reads which modalities predictions are of; None where the file does not say.

    Raises:
        FileError: It cannot be read.
    """
    given = Place.of(text)
    if given.path.endswith(".jsonl"):
        return None
    with given.files()[0].parquet() as file:
        found = (file.metadata.metadata or {}).get(b"modalities")
    return None if found is None else tuple(json.loads(found))


def _check(names: list[str], where: str, time: str | None) -> None:
    for name in ("active", "weights"):
        if name not in names:
            raise MissingInput(
                f"{where} holds no predictions",
                expected="active and weights, as dms predict writes them",
                got=", ".join(names) or "no columns",
            )
    if time is not None and time not in names:
        raise MissingInput(
            f"{where} has no column {time!r}, for --time",
            fix=f"Keep it when you predict: --keep {time}. {closest(time, names)}",
        )


def _rows(frame: Frame, time: str | None) -> Rows:
    _check(list(frame.names), frame.where, time)
    # Each is read as a modality would be: a column of vectors of one length.
    names = {n: n for n in ("active", *VALUES) if n in frame.names}
    arrays: dict[str, NDArray[Any]] = arrays_of_frame(frame, names)
    when = None if time is None else plain(frame.column(time))
    active = arrays.pop("active").astype(bool)
    return Rows(active, {name: arrays[name] for name in VALUES if name in arrays}, when)
