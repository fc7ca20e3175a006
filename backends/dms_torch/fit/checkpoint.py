"""Keeps the state of a run of `dms_torch.fit.training.fit` in one safetensors file: no pickle.

The file is written under a temporary name and moved, so that a process killed at any moment
leaves the last whole one. JSON in its metadata says what run it is of.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from dms_spec.errors import ArtifactError, FileError
from dms_spec.files import array_mark, read_arrays, save_arrays
from dms_spec.outputs import remove, writing_file

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
            from safetensors import safe_open

            with safe_open(self._path, framework="numpy") as file:
                data = json.loads((file.metadata() or {})[_KEY])
            if data.pop("format") != _FORMAT:
                raise ValueError("another format")
            run = data.pop("run")
            state = State(arrays=arrays, **data)
        except (OSError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise FileError(
                f"{self._path} is not a checkpoint of this version",
                got=f"{type(error).__name__}: {error}",
                fix=fix,
            ) from error
        if run != self._run:
            if self._replace:
                return None
            raise ArtifactError(
                f"{self._path} is of another run",
                expected="the same table, spec, settings and device",
                got="others",
                fix=f"Repeat the command that was stopped, or replace it: --overwrite. {fix}",
            )
        self._own = True
        return state

    def discard(self) -> None:
        """Removes the file if it is of this run, which cannot be finished."""
        if self._path is not None and self._own:
            remove(self._path, MARK)

    def save(self, state: State) -> None:
        """Writes a state, unless the last one is recent.

        Raises:
            FileError: It cannot be written.
        """
        if self._path is None or time.monotonic() - self._written < self._seconds:
            return
        data = {f.name: getattr(state, f.name) for f in fields(state) if f.name != "arrays"}
        data |= {"format": _FORMAT, "run": self._run}
        with writing_file(self._path, MARK) as temporary:
            save_arrays(temporary, state.arrays, _KIND, {_KEY: json.dumps(data)})
        self._written, self._own = time.monotonic(), True
