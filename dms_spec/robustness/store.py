"""Keeps finished cases until the report is written: a file with one line of JSON for each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dms_spec.errors import ArtifactError, FileError

_FORMAT = "dms-spec robustness cases 1"

#: What one knows a store by.
STORE_MARK = f'{{"format": "{_FORMAT}"'.encode()


class Store:
    """Holds finished cases by key, on disk as they come.

    Args:
        path: The file; made when the first case is kept. None keeps nothing.
        fingerprint: Of everything that the results depend on.

    Raises:
        ArtifactError: The file is of another run.
        FileError: It is damaged, or cannot be read.
    """

    def __init__(self, path: Path | None, fingerprint: str) -> None:
        self._path, self._fingerprint = path, fingerprint
        self._whole = 0  # in bytes; a line that was cut short is overwritten
        self._cases: dict[str, Any] = {}
        if path is not None and path.exists():
            self._read(path)
        #: How many cases there were at the start.
        self.resumed = len(self._cases)

    def get(self, key: tuple[Any, ...]) -> Any:
        """Gives what was kept under a key. None if there is nothing."""
        return self._cases.get(json.dumps(key))

    def put(self, key: tuple[Any, ...], value: Any) -> None:
        """Keeps plain data under a key, safe from what happens next.

        Raises:
            FileError: The file cannot be written.
        """
        self._cases[json.dumps(key)] = value
        if self._path is None:
            return
        line = json.dumps({"key": key, "value": value}, allow_nan=False) + "\n"
        try:
            if not self._whole:
                header = json.dumps({"format": _FORMAT, "fingerprint": self._fingerprint})
                line = f"{header}\n{line}"
            with self._path.open("r+b" if self._whole else "wb") as file:
                file.seek(self._whole)
                file.truncate()
                self._whole += file.write(line.encode())
        except OSError as error:
            raise FileError(f"cannot write {self._path}", got=str(error)) from error

    def _read(self, path: Path) -> None:
        try:
            content = path.read_bytes()
            end = content.rfind(b"\n") + 1
            lines = [json.loads(line) for line in content[:end].splitlines()]
            if not lines:
                return
            header, *rest = lines
            if header["format"] != _FORMAT:
                raise ValueError(header["format"])
            own = header["fingerprint"]
            self._cases = {json.dumps(entry["key"]): entry["value"] for entry in rest}
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise FileError(
                f"cannot go on from {path}",
                expected="the cases of an interrupted run",
                got=f"{type(error).__name__}: {error}",
                fix="Remove the file to start anew.",
            ) from error
        if own != self._fingerprint:
            raise ArtifactError(
                f"{path} is of another run",
                expected="the same samples, methods and settings",
                got="others",
                fix="Give the same arguments to go on, or remove the file to start anew.",
            )
        self._whole = end
