"""Says where files lie, on this machine or in a store of pyarrow's, and reads Parquet there."""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dms_spec.embeddings.sources.columns import natural
from dms_spec.embeddings.sources.frame_files import FEW_AT_A_TIME, readable
from dms_spec.embeddings.sources.frames import pyarrow
from dms_spec.errors import FileError
from dms_spec.outputs import Target, is_marked
from dms_spec.staging import STAGING, clear_leftovers
from dms_spec.texts import NOTHING

# Bytes at a time, and as many as are looked through for a mark at each end of a file.
_BLOCK = 1 << 20

# Who asks, in a URI such as s3://KEY:SECRET@bucket/folder: not for messages, nor for a manifest.
_CREDENTIALS = re.compile(r"(?<=://)[^/@]*@")


def is_uri(text: str) -> bool:
    """Says whether a path is one of a store, such as ``s3://bucket/folder``."""
    return "://" in text


@dataclass(frozen=True)
class Place:
    """A file or folder, on this machine or in a store. It can be pickled.

    Make one with `of`.

    Attributes:
        given: As it was given, without credentials, for messages.
        path: In its file system.
        filesystem: A ``pyarrow.fs.FileSystem``.
    """

    given: str
    path: str
    filesystem: Any

    @classmethod
    def of(cls, text: str) -> Place:
        """Finds a place by its path or URI.

        Raises:
            FileError: pyarrow does not know such a URI.
        """
        pyarrow()
        from pyarrow import fs

        if not is_uri(text):
            return cls(text, text, fs.LocalFileSystem())
        try:
            filesystem, path = fs.FileSystem.from_uri(text)
        except (ValueError, OSError, NotImplementedError) as error:
            raise FileError(
                f"cannot use {_CREDENTIALS.sub('', text)}",
                expected="a path, or a URI that pyarrow knows, such as s3://bucket/folder",
                got=str(error),
            ) from error
        return cls(_CREDENTIALS.sub("", text), path, filesystem)

    def within(self, name: str) -> Place:
        """Gives a file of this folder."""
        given, mark, options = (
            self.given.partition("?") if is_uri(self.given) else (self.given, "", "")
        )
        given, path = given.rstrip("/"), self.path.rstrip("/")
        return replace(self, given=f"{given}/{name}{mark}{options}", path=f"{path}/{name}")

    @contextmanager
    def reached(self) -> Iterator[None]:
        """Says what is wrong where a file system, or a store, does not answer.

        Raises:
            FileError: It does not.
        """
        try:
            yield
        except (OSError, ValueError, NotImplementedError) as error:
            raise FileError(
                f"cannot reach {self.given}",
                got=str(error).rstrip("."),
                fix="Check the address, the credentials and the network.",
            ) from error

    def files(self) -> list[Place]:
        """Lists the Parquet files of a folder, in the natural order of their names; or itself.

        Raises:
            FileError: There is nothing, or it is another kind of file.
        """
        from pyarrow import fs

        with self.reached():
            info = self.filesystem.get_file_info(self.path)
            if info.type == fs.FileType.File and self.path.endswith(".parquet"):
                return [self]
            if info.type == fs.FileType.Directory:
                found = self.filesystem.get_file_info(fs.FileSelector(self.path))
                names = [one.base_name for one in found if one.type == fs.FileType.File]
                names = [name for name in names if name.endswith(".parquet")]
                if names := sorted((n for n in names if n[0] not in "._"), key=natural):
                    return [self.within(name) for name in names]
        what = {fs.FileType.Directory: "a folder without any", fs.FileType.File: "another file"}
        raise FileError(
            f"cannot read {self.given}",
            expected=".parquet files, or a folder of some",
            got=what.get(info.type, NOTHING),
            fix="Check the path. dms watch reads what dms predict wrote as .parquet; dms predict "
            "reads other formats with one output file, -o OUT.npz.",
        )

    def exists(self) -> bool:
        """Says whether there is anything."""
        from pyarrow import fs

        with self.reached():
            return bool(self.filesystem.get_file_info(self.path).type != fs.FileType.NotFound)

    def modified(self) -> int | None:
        """When it was written, in nanoseconds; None where the store does not know."""
        found = self.filesystem.get_file_info(self.path).mtime_ns
        return None if found is None else int(found)

    @contextmanager
    def parquet(self) -> Iterator[Any]:
        """Opens it as a ``pyarrow.parquet.ParquetFile``, to be read little by little.

        Raises:
            FileError: It is missing, damaged or of another kind.
        """
        import pyarrow.parquet as pq

        with (
            readable(self.given, ".parquet"),
            self.filesystem.open_input_file(self.path) as file,
            pq.ParquetFile(file, **FEW_AT_A_TIME) as found,
        ):
            yield found

    def checksum(self) -> tuple[int, str]:
        """Reads it, and gives its bytes and their SHA-256.

        Raises:
            FileError: It cannot be read.
        """
        found, size = hashlib.sha256(), 0
        with readable(self.given, ".parquet"), self.filesystem.open_input_file(self.path) as file:
            while block := file.read(_BLOCK):
                found.update(block)
                size += len(block)
        return size, found.hexdigest()

    def footer(self) -> tuple[int, str]:
        """Gives the bytes of a Parquet file, and the SHA-256 of its footer, which describes it.

        Raises:
            FileError: It is damaged.
        """
        with readable(self.given, ".parquet"), self.filesystem.open_input_file(self.path) as file:
            size = int(file.size())
            length = int.from_bytes(file.read_at(4, max(0, size - 8)), "little")
            footer = file.read_at(length + 8, max(0, size - length - 8))
        return size, hashlib.sha256(footer).hexdigest()

    def text(self) -> str:
        """Reads it as text.

        Raises:
            FileError: It cannot be read.
        """
        with readable(self.given, ".json"), self.filesystem.open_input_file(self.path) as file:
            return bytes(file.readall()).decode()


@dataclass(frozen=True)
class Folder:
    """A folder to write to: files under temporary names, then renamed, never over others' files.

    Attributes:
        place: Where.
    """

    place: Place

    @property
    def here(self) -> bool:
        """Whether it is a path, and not a URI."""
        return not is_uri(self.place.given)

    def check(self, marks: Mapping[str, bytes]) -> None:
        """Refuses a folder that holds something else than an earlier output.

        Args:
            marks: By the name of each file, what one of this kind holds near its ends.

        Raises:
            FileError: Something else is there, or it cannot be written to.
        """
        if self.here:
            Target.of_folder(self.place.path, marks, overwrite=True, alone=True)
            return
        with self.place.reached():
            self.place.filesystem.create_dir(self.place.path, recursive=True)
        names = {name for name in self.names() if not name.startswith(STAGING)}
        strange = [n for n in names & set(marks) if not self._is_marked(n, marks[n])]
        if strange or (names and not names & set(marks)):
            raise FileError(
                f"{self.place.within(sorted(strange or names)[0]).given} exists already, and is "
                "not replaced",
                expected="a new folder, or an earlier output of this kind",
                got="something else, which could be lost",
                fix="Choose another folder, or move it away yourself.",
            )

    def names(self) -> list[str]:
        """Lists what is in it, in order; nothing where there is no folder yet."""
        from pyarrow import fs

        with self.place.reached():
            selector = fs.FileSelector(self.place.path, allow_not_found=True)
            infos = self.place.filesystem.get_file_info(selector)
        return sorted(info.base_name for info in infos)

    def clear(self) -> None:
        """Removes what workers that were stopped have left behind."""
        if self.here:
            clear_leftovers(Path(self.place.path))
            return
        for name in self.names():
            if name.startswith(STAGING):
                with self.place.reached():
                    self.place.filesystem.delete_file(self.place.within(name).path)

    def _is_marked(self, name: str, mark: bytes) -> bool:
        place = self.place.within(name)
        with place.filesystem.open_input_file(place.path) as file:
            size = file.size()
            ends = file.read_at(_BLOCK, 0) + file.read_at(_BLOCK, max(0, size - _BLOCK))
        return mark in bytes(ends)

    @contextmanager
    def writing(self, name: str, mark: bytes) -> Iterator[Path]:
        """Gives a path of this machine, and puts what was written there into the folder.

        Raises:
            FileError: It cannot be written, or something else is in its place.
        """
        if self.here:
            marks = {name: mark}
            with Target.of_folder(self.place.path, marks, overwrite=True).writing() as new:
                yield new[name]
            return
        with tempfile.TemporaryDirectory(prefix=STAGING) as folder:
            path = Path(folder) / name
            yield path
            self._send(path, mark)

    def _send(self, path: Path, mark: bytes) -> None:
        from pyarrow import fs

        assert is_marked(path, mark)  # noqa: S101 - else the next run would not know it
        final, way = self.place.within(path.name), self.place.within(f"{STAGING}{path.name}")
        try:
            fs.copy_files(
                str(path),
                way.path,
                source_filesystem=fs.LocalFileSystem(),
                destination_filesystem=way.filesystem,
            )
            way.filesystem.move(way.path, final.path)
        except OSError as error:
            raise FileError(f"cannot write {final.given}", got=str(error)) from error
