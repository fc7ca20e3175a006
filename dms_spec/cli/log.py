"""Keeps a log of a run: a line of JSON for each step, added as it ends."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dms_spec.errors import FileError
from dms_spec.outputs import Target


class Log:
    """Adds lines to a log, a new one or an earlier one of the same verb.

    Each line is an object of its own, with the ``run`` that wrote it: when it began, in UTC. What
    was written stays when the run is stopped.

    Args:
        path: The file. Its folder must exist.
        verb: Who writes.

    Raises:
        FileError: Something else is there, it would stand in an artifact, or it cannot be written.
    """

    def __init__(self, path: Path, verb: str) -> None:
        self._path = path
        self._start = {"log": f"dms {verb}", "run": datetime.now(UTC).isoformat(timespec="seconds")}
        Target.of_file(path, f'{{"log": "dms {verb}"'.encode())

    def write(self, **values: Any) -> None:
        """Adds a line.

        Raises:
            FileError: It cannot be written.
        """
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(self._start | values, allow_nan=False) + "\n")
        except OSError as error:
            raise FileError(
                f"cannot add to the log {self._path}", got=error.strerror or str(error)
            ) from error
