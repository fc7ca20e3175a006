"""Keeps the embeddings of a run in one file that only grows, so that a killed run goes on.

The file begins with its mark and a line of JSON that says which run it is of. Each batch adds a
line of JSON and the bytes of its vectors. What a kill has cut short is not used, and is encoded
again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from dms_spec.encoding.openers import Absent
from dms_spec.errors import ArtifactError, FileError
from dms_spec.outputs import Target, remove, writing_file
from dms_spec.staging import taken
from dms_spec.texts import parse_json

#: What one knows such a file by.
MARK = b"dms-spec embeddings, unfinished 1\n"

_LONGEST_LINE = 1 << 26


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Holds what came of some consecutive items of a modality.

    Attributes:
        vectors: float32 or float64 ``[n, D]``, of those that have an embedding; None if none has.
        absent: By position in the batch, why another has none.
        alone: Why the encoder did not take them together, but one by one; empty if it did.
        cut: Of how many only the beginning was read.
    """

    vectors: NDArray[Any] | None
    absent: Mapping[int, Absent]
    alone: str = ""
    cut: int = 0


class Journal:
    """Reads and adds to the file of one run.

    Args:
        path: The file, which is made where there is none.
        run: A fingerprint of everything that the result depends on.
        replace: Start anew where the file is of another run.

    Raises:
        ArtifactError: The file is of another run.
        FileError: It is none of ours, another run writes it, or it cannot be written.
    """

    def __init__(self, path: Path, run: str, *, replace: bool = False) -> None:
        check_journal(path)
        self._path, self._replace = path, replace
        self._run = json.dumps({"run": run}).encode() + b"\n"
        self._places: dict[tuple[str, int], tuple[int, Mapping[str, Any]]] = {}
        self._like: dict[str, NDArray[Any]] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        if not self._path.exists():
            with writing_file(self._path, MARK) as new:
                new.write_bytes(MARK + self._run)
        with ExitStack() as stack:
            try:
                self._file = stack.enter_context(self._path.open("r+b"))
                self._begin()
            except OSError as error:
                raise self._unwritable(error) from error
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        if not self._like:  # nothing would be lost
            self.discard()

    def __contains__(self, key: tuple[str, int]) -> bool:
        return key in self._places

    def __len__(self) -> int:
        return len(self._places)

    def add(self, modality: str, start: int, batch: Batch) -> None:
        """Adds a batch whose first row is ``start``.

        Raises:
            FileError: It cannot be written.
        """
        found = batch.vectors
        data = b"" if found is None else np.ascontiguousarray(found).tobytes()
        line = {
            "modality": modality,
            "start": start,
            "shape": None if found is None else list(found.shape),
            "dtype": None if found is None else found.dtype.name,
            "absent": [[row, a.reason, a.detail] for row, a in sorted(batch.absent.items())],
            "alone": batch.alone,
            "cut": batch.cut,
            "bytes": len(data),
        }
        signed = {**line, "sha256": _checksum(line, data)}
        try:
            self._file.write(json.dumps(signed).encode() + b"\n" + data)
            self._file.flush()
        except OSError as error:
            raise self._unwritable(error) from error
        self._keep(self._file.tell() - len(data), line)

    def _keep(self, place: int, line: Mapping[str, Any]) -> None:
        name = line["modality"]
        self._places[name, line["start"]] = place, line
        if line["shape"] is not None and name not in self._like:
            self._like[name] = np.empty((0, line["shape"][1]), line["dtype"])

    def like(self, modality: str) -> NDArray[Any]:
        """Gives ``[0, D]`` of the dtype that a modality has."""
        return self._like[modality]

    def get(self, modality: str, start: int) -> Batch:
        """Reads a batch again."""
        place, line = self._places[modality, start]
        self._file.seek(place)
        data = self._file.read(line["bytes"])
        self._file.seek(0, os.SEEK_END)
        return _batch(line, data)

    def discard(self) -> None:
        """Removes the file."""
        remove(self._path, MARK)

    def _begin(self) -> None:
        if taken(self._file.fileno()):
            raise FileError(
                f"another run writes {self._path}",
                expected="one run for each output",
                fix="Wait until it ends, or choose another output.",
            )
        self._file.seek(len(MARK))
        if self._file.readline(_LONGEST_LINE) != self._run:
            self._start_anew()
            return
        end = self._file.tell()
        for end in self._read():  # noqa: B007 - the last is what is wanted
            pass
        self._file.seek(end)
        self._file.truncate()

    def _start_anew(self) -> None:
        """Begins the file, unless it holds the work of another run."""
        if self._file.read(1) and not self._replace:
            raise ArtifactError(
                f"{self._path} is of another run",
                expected="the same input, encoders and settings",
                got="others",
                fix="Repeat the command that was stopped; or lose its work: --overwrite.",
            )
        self._file.seek(len(MARK))
        self._file.write(self._run)
        self._file.truncate()
        self._file.flush()

    def _read(self) -> Iterator[int]:
        """Finds the batches that are whole, and gives where each of them ends."""
        while True:
            text = self._file.readline(_LONGEST_LINE)
            place = self._file.tell()
            try:
                line = parse_json(text.decode(), str(self._path))
                data = self._file.read(line["bytes"])
                if line.pop("sha256") != _checksum(line, data):
                    return
                _batch(line, data)
                self._keep(place, line)
            except (
                ValueError,
                KeyError,
                TypeError,
                AttributeError,
            ):  # the end, or what a kill has cut short
                return
            yield self._file.tell()

    def _unwritable(self, error: OSError) -> FileError:
        return FileError(
            f"cannot add to {self._path}",
            expected="a folder that can be written to, and free space",
            got=error.strerror or str(error),
            fix="Run it again: it goes on from there.",
        )


def check_journal(path: Path) -> None:
    """Refuses a path where something else is, or where nothing can be written.

    Raises:
        FileError: It is such a path.
    """
    Target.of_file(path, MARK)


def _checksum(line: Mapping[str, Any], data: bytes) -> str:
    return sha256(json.dumps(line).encode() + data).hexdigest()


def _batch(line: Mapping[str, Any], data: bytes) -> Batch:
    vectors = None
    if line["shape"] is not None:
        vectors = np.frombuffer(data, dtype=line["dtype"]).reshape(line["shape"])
    absent = {int(row): Absent(reason, detail) for row, reason, detail in line["absent"]}
    return Batch(vectors=vectors, absent=absent, alone=line["alone"], cut=line["cut"])
