"""Keeps the state of a run of `dms_torch.fit.training.fit` in one safetensors file: no pickle.

The file is written under a temporary name and moved, so that a process killed at any moment
leaves the last whole one. JSON in its metadata says what run it is of.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dms_spec.errors import ArtifactError, FileError, UnknownName
from dms_spec.files import array_mark, read_arrays, read_metadata, save_arrays
from dms_spec.outputs import remove, writing_file
from dms_spec.texts import parse_json
from dms_spec.typed import read_typed

_FORMAT = "dms-spec checkpoint 1"
_KEY = "dms"
_KIND = "checkpoint"

#: What one knows a checkpoint by.
MARK = array_mark(".safetensors", _KIND)

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True, kw_only=True)
class State:
    """Holds a stage after some epoch.

    Attributes:
        stage: Its name.
        epoch: Epochs done.
        best_epoch: The one with the best validation score; 0 for where the stage started.
        best_score: That score.
        finished: What earlier stages reported, by name.
        arrays: Parameters under ``now.``, those of the best epoch under ``best.``, the optimiser's
            two moments under ``first.`` and ``second.``, what earlier stages left under ``done.``.
    """

    stage: str
    epoch: int
    best_epoch: int
    best_score: float
    finished: Mapping[str, Any] = field(default_factory=dict)
    arrays: Arrays = field(default_factory=dict)

    def part(self, prefix: str) -> Arrays:
        """Gives the arrays of one kind, by their own names."""
        start = f"{prefix}."
        return {
            name.removeprefix(start): array
            for name, array in self.arrays.items()
            if name.startswith(start)
        }


class Checkpoint:
    """Reads and writes the checkpoint file of one run.

    Args:
        path: Where it lies; None keeps none.
        run: A fingerprint of everything that the result depends on.
        seconds: How long to leave between two of them.
        replace: Start anew where the file is a checkpoint of another run.
    """

    def __init__(
        self, path: Path | None, run: str, seconds: float = 5.0, *, replace: bool = False
    ) -> None:
        self._path, self._run, self._seconds, self._replace = path, run, seconds, replace
        self._written, self._own = -seconds, False

    def load(self) -> State | None:
        """Reads the state to go on from; None if the run starts anew.

        Raises:
            ArtifactError: The file is of another run.
            FileError: It is damaged, or not a checkpoint.
        """
        if self._path is None or not self._path.exists():
            return None
        fix = f"Remove {self._path} to start anew, or choose another output."
        arrays = read_arrays(self._path)
        try:
            texts = read_metadata(self._path)
            about = read_typed(
                CheckpointFile, parse_json(texts[_KEY], str(self._path)), str(self._path)
            )
            if texts["sha256"] != _checksum(texts[_KEY], arrays):
                raise ValueError("content that is not as it was written")
        except (KeyError, ValueError, UnknownName) as error:
            raise FileError(
                f"{self._path} is not a checkpoint of this version", got=str(error), fix=fix
            ) from error
        if about.run != self._run:
            if self._replace:
                return None
            raise ArtifactError(
                f"{self._path} is of another run",
                expected="the same table, spec, settings and device",
                got="others",
                fix=f"Repeat the command that was stopped, or replace it: --overwrite. {fix}",
            )
        self._own = True
        return State(
            stage=about.stage,
            epoch=about.epoch,
            best_epoch=about.best_epoch,
            best_score=about.best_score,
            finished=about.finished,
            arrays=arrays,
        )

    def discard(self) -> None:
        """Removes the file if it is of this run, which cannot be finished."""
        if self._path is not None and self._own:
            remove(self._path, MARK)

    def save(self, state: State) -> None:
        """Writes a state, unless the last one is recent, or a score of it is infinite.

        Raises:
            FileError: It cannot be written.
        """
        if self._path is None or time.monotonic() - self._written < self._seconds:
            return
        data = {f.name: getattr(state, f.name) for f in fields(state) if f.name != "arrays"}
        data |= {"format": _FORMAT, "run": self._run}
        try:
            text = json.dumps(data, allow_nan=False)
        except ValueError:
            return
        texts = {_KEY: text, "sha256": _checksum(text, state.arrays)}
        with writing_file(self._path, MARK) as temporary:
            save_arrays(temporary, state.arrays, _KIND, texts)
        self._written, self._own = time.monotonic(), True


@dataclass(frozen=True, kw_only=True)
class CheckpointFile:
    """Describes the JSON of a checkpoint, beside its arrays."""

    format: Literal["dms-spec checkpoint 1"]
    run: str
    stage: str
    epoch: int
    best_epoch: int
    best_score: float
    finished: Mapping[str, Any]


def _checksum(text: str, arrays: Arrays) -> str:
    digest = sha256(text.encode())
    for name, array in sorted(arrays.items()):
        digest.update(f"{name}{array.dtype}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
