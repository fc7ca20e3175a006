"""Keeps finished cases until the report is written: a file with one line for each.

A line is a checksum and JSON.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

from dms_spec.errors import ArtifactError, FileError, UnknownName
from dms_spec.texts import LARGEST_RESULT, parse_json, read_bytes
from dms_spec.typed import read_typed

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
        body = json.dumps({"key": key, "value": value}, allow_nan=False)
        line = f"{_checksum(body)} {body}\n"
        try:
            if not self._whole:
                line = self._header().decode() + line
            with self._path.open("r+b" if self._whole else "wb") as file:
                file.seek(self._whole)
                file.truncate()
                self._whole += file.write(line.encode())
        except OSError as error:
            raise FileError(f"cannot write {self._path}", got=str(error)) from error

    def _read(self, path: Path) -> None:
        content = read_bytes(path, LARGEST_RESULT)
        end = content.rfind(b"\n") + 1
        start = self._header()
        if not end and start.startswith(content):  # cut short at once, or empty
            return
        try:
            first, *lines = content[:end].decode().splitlines()
            header = read_typed(_Header, parse_json(first, str(path)), str(path))
            self._cases = dict(_parsed(line, path) for line in lines)
        except (ValueError, UnknownName) as error:
            raise FileError(
                f"cannot go on from {path}",
                expected="the cases of an interrupted run",
                got=str(error),
                fix="Remove the file to start anew.",
            ) from error
        if header.fingerprint != self._fingerprint:
            raise ArtifactError(
                f"{path} is of another run",
                expected="the same samples, methods and settings",
                got="others",
                fix="Give the same arguments to go on, or remove the file to start anew.",
            )
        self._whole = end

    def _header(self) -> bytes:
        text = json.dumps({"format": _FORMAT, "fingerprint": self._fingerprint})
        return f"{text}\n".encode()


@dataclass(frozen=True, kw_only=True)
class _Header:
    """Describes the first line of a store."""

    format: Literal["dms-spec robustness cases 1"]
    fingerprint: str


@dataclass(frozen=True, kw_only=True)
class StoreLine:
    """Describes what stands after the checksum in every other line of a store."""

    key: tuple[Any, ...]
    value: Any


def _parsed(line: str, path: Path) -> tuple[str, Any]:
    checksum, _, body = line.partition(" ")
    if checksum != _checksum(body):
        raise ValueError("a line that is not as it was written")
    entry = read_typed(StoreLine, parse_json(body, str(path)), str(path))
    return json.dumps(entry.key), entry.value


def _checksum(text: str) -> str:
    return sha256(text.encode()).hexdigest()[:16]
