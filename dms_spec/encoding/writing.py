"""Writes embeddings as a table, with what says where they come from."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dms_spec.embeddings.origin import ENCODERS
from dms_spec.embeddings.presence import PREFIX
from dms_spec.embeddings.sources.frame_writer import ParquetWriter
from dms_spec.encoding.embedding import starts
from dms_spec.encoding.encoder import Encoder
from dms_spec.encoding.items import Items
from dms_spec.encoding.journal import Batch, Journal
from dms_spec.errors import FileError, SpecError
from dms_spec.files import SUFFIXES, array_mark, check_suffix
from dms_spec.markup import counted
from dms_spec.outputs import Target, check_not_input
from dms_spec.streams import Writer

_KIND = "embeddings"
_MARK = f"dms-spec {_KIND}"

#: What the report lies beside the output as.
REPORT = ".json"

_REPORT_MARK = f'"written_by": "{_MARK} report"'


def table_target(output: Path, source: Path) -> Target:
    """Gives the target of a table and of the report beside it, checked before the work is done.

    Raises:
        FileError: Something else is there, the suffix is unknown, or it is the input.
    """
    check_suffix(output, (*SUFFIXES, ".parquet"))
    check_not_input(output, source)
    mark = _MARK.encode() if output.suffix == ".parquet" else array_mark(output, _KIND)
    return Target.of_file(output, mark, beside={REPORT: _REPORT_MARK.encode()})


def check_storable(output: Path, items: Items) -> None:
    """Refuses what the output cannot hold: strings in safetensors, a name twice in Parquet.

    Raises:
        FileError, SpecError: It cannot.
    """
    if output.suffix == ".parquet" and items.name in {*items.cells, *items.arrays}:
        raise SpecError(
            f"column {items.name!r} names the rows, and something else is written under its name",
            expected="another name for the modality, such as --image NAME=ENCODER",
        )
    strings = [name for name, array in items.arrays.items() if array.dtype.kind in "US"]
    if output.suffix == ".safetensors" and strings:
        raise FileError(
            f"safetensors holds no strings, and {strings[0]} are",
            expected="an .npz or .parquet output",
            got=str(output),
        )


def write_table(
    target: Target, items: Items, encoders: Mapping[str, Encoder], journal: Journal, size: int
) -> dict[str, Any]:
    """Writes the table, and beside it a report as JSON.

    Args:
        target: Of `table_target`.
        items: What was encoded.
        encoders: By modality.
        journal: Holds every batch.
        size: Rows of a batch.

    Returns:
        The report.

    Raises:
        FileError: They cannot be written.
    """
    about = {name: dict(encoder.about) for name, encoder in encoders.items()}
    report = Report(items, about)
    with target.writing() as new:
        path = next(iter(new.values()))
        with _writer(path, {ENCODERS: json.dumps(about)}) as out:
            for start in starts(items.rows, size):
                rows = slice(start, min(start + size, items.rows))
                part: dict[str, NDArray[Any]] = {}
                for name in about:
                    batch = journal.get(name, start)
                    report.add(name, start, batch)
                    part |= _filled(name, batch, journal.like(name), rows.stop - start)
                part |= {name: array[rows] for name, array in items.arrays.items()}
                if isinstance(out, ParquetWriter):
                    out.append(part, {items.name: items.ids[rows]} if items.name else {})
                else:
                    out.append(part)
        found = report.finished(out.shapes(), carries_ids=isinstance(out, ParquetWriter))
        text = json.dumps(found, indent=1, ensure_ascii=False)
        new[path.name + REPORT].write_text(text + "\n", encoding="utf-8")
    return found


def _writer(path: Path, texts: Mapping[str, str]) -> Writer | ParquetWriter:
    parquet = path.suffix == ".parquet"
    return ParquetWriter(path, _MARK, texts) if parquet else Writer(path, _MARK, texts)


def _filled(name: str, batch: Batch, like: NDArray[Any], rows: int) -> dict[str, NDArray[Any]]:
    """Gives a modality and its presence, with NaN where it is absent."""
    present = np.ones(rows, dtype=bool)
    present[list(batch.absent)] = False
    array = np.full((rows, like.shape[1]), np.nan, like.dtype)
    if batch.vectors is not None:
        array[present] = batch.vectors
    return {name: array, PREFIX + name: present}


class Report:
    """Sums up what came of each modality, and lists what is absent.

    Args:
        items: What was encoded.
        about: What each encoder is.
    """

    def __init__(self, items: Items, about: Mapping[str, Mapping[str, str]]) -> None:
        self._items, self._about = items, about
        self._absent: list[dict[str, Any]] = []
        self._alone: dict[str, list[str]] = {name: [] for name in about}
        self._cut: Counter[str] = Counter()

    def add(self, name: str, start: int, batch: Batch) -> None:
        """Counts a batch."""
        for row, absent in sorted(batch.absent.items()):
            cell = self._items.cells[name][start + row]
            found = {
                "row": start + row,
                "id": self._items.ids[start + row] if self._items.ids else None,
                "modality": name,
                "file": str(cell) if isinstance(cell, Path) else None,
                "reason": absent.reason,
                "detail": absent.detail or None,
            }
            self._absent.append({key: value for key, value in found.items() if value is not None})
        if batch.alone:
            self._alone[name].append(batch.alone)
        self._cut[name] += batch.cut

    def finished(self, shapes: Mapping[str, list[int]], *, carries_ids: bool) -> dict[str, Any]:
        """Gives the whole as plain data."""
        reasons = {name: self._reasons(name) for name in self._about}
        return {
            "written_by": f"{_MARK} report",
            "rows": self._items.rows,
            "modalities": {
                name: {
                    **about,
                    "width": shapes[name][1],
                    "present": self._items.rows - sum(reasons[name].values()),
                    "absent": dict(sorted(reasons[name].items())),
                }
                for name, about in self._about.items()
            },
            "arrays": dict(shapes),
            "notes": [*self._items.notes, *self._notes(carries_ids=carries_ids)],
            "absent": self._absent,
        }

    def _reasons(self, name: str) -> Counter[str]:
        return Counter(own["reason"] for own in self._absent if own["modality"] == name)

    def _notes(self, *, carries_ids: bool) -> Iterator[str]:
        for name, about in self._about.items():
            encoder = f"the encoder {about['encoder']!r} of {name!r}"
            if alone := self._alone[name]:
                yield (
                    f"{encoder} failed {counted(len(alone), 'time')} on several items together, "
                    f"which were then encoded one by one: {alone[0]}"
                )
            if cut := self._cut[name]:
                yield f"{encoder} reads only the beginning of {counted(cut, 'item')}"
        by_row = Counter(own["row"] for own in self._absent)
        nothing = sum(count == len(self._about) for count in by_row.values())
        if nothing:
            yield f"{counted(nothing, 'row')} with no embedding at all"
        if self._items.name and not carries_ids:
            yield f"column {self._items.name!r} is not written: only .parquet carries it"
