"""Writes outputs: all files of one or none, and never over what this program did not write.

An output is a `Target`. It is checked before the work begins and once more before its files are
moved into place. Until then they lie in a hidden folder beside it, which a later run removes when
this one is killed.
"""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from dms_spec.errors import DMSError, FileError
from dms_spec.staging import LOCK, STAGING, clear_leftovers, move_in, staging, sync, there

#: How one knows an artifact: the file, and what it holds.
ARTIFACT = ("config.json", b'"format": "dms-spec"')

# Where a mark is looked for: this many bytes at the beginning of a file, and at its end.
_NEAR_THE_ENDS = 1 << 16


@dataclass(frozen=True, kw_only=True)
class Target:
    """Says where the files of one output go, and how one knows an earlier output of its kind.

    Make one with `of_file` or `of_folder`, which check it.

    Attributes:
        folder: Where, with symbolic links followed.
        given: The path as it was given, for messages.
        marks: By file name, or path within the folder such as ``1/model.onnx``: bytes that each
            file of this kind holds near its beginning or end.
        overwrite: Whether an earlier output of the same kind is replaced.
        alone: Whether the folder must be new, be empty, or hold an earlier output.
        new: Whether the folder and its parents are made.
        inside: Whether it may stand directly in an artifact.
        error: What is raised.
    """

    folder: Path
    given: Path
    marks: Mapping[str, bytes]
    overwrite: bool
    alone: bool = False
    new: bool = True
    inside: bool = False
    error: type[DMSError] = FileError

    @classmethod
    def of_file(
        cls,
        path: Path | str,
        mark: bytes,
        *,
        inside: bool = False,
        beside: Mapping[str, bytes] | None = None,
    ) -> Self:
        """One file, which replaces an earlier one of the same kind. Its folder must exist.

        Args:
            path: The file.
            mark: What it holds near its beginning or end.
            inside: Whether it may stand directly in an artifact.
            beside: The marks of files that are written with it, by what their names have more.

        Raises:
            FileError: Something else is there, it would stand in an artifact, or the folder
                cannot be written to.
        """
        real = Path(os.path.realpath(path))
        target = cls(
            folder=real.parent,
            given=Path(path),
            marks={real.name: mark} | {real.name + more: m for more, m in (beside or {}).items()},
            overwrite=True,
            new=False,
            inside=inside,
        )
        return target._ready()

    @classmethod
    def of_folder(
        cls,
        path: Path | str,
        marks: Mapping[str, bytes],
        *,
        overwrite: bool,
        alone: bool = False,
        inside: bool = False,
        error: type[DMSError] = FileError,
    ) -> Self:
        """Some files of one folder. The folder and its parents are made when they are written.

        Raises:
            FileError: As in `of_file`, or something is there and ``overwrite`` is False.
        """
        target = cls(
            folder=Path(os.path.realpath(path)),
            given=Path(path),
            marks=marks,
            overwrite=overwrite,
            alone=alone,
            inside=inside,
            error=error,
        )
        return target._ready()

    def check(self) -> None:
        """Refuses what would lose a file, or cannot be written.

        Raises:
            FileError: As in `of_file` and `of_folder`.
        """
        try:
            if there(self.folder) and not self.folder.is_dir():
                raise self._in_the_way(self.given)
            self._check_surroundings()
            old = [name for name in self.marks if there(self.folder / name)]
            others = self.alone and not old and self.folder.exists() and any(self._entries())
            for name in self.marks:
                self._check_way(name)
            for name in old:
                self._check_old(name)
        except OSError as error:
            raise _unwritable(self.given, error) from error
        if others:
            raise self._in_the_way(self.given)

    def make_parent(self) -> None:
        """Makes the folder in which the output stands, for files that are to lie beside it.

        Raises:
            FileError: It cannot be made or written to.
        """
        try:
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=self.folder.parent).close()
        except OSError as error:
            raise _unwritable(self.given, error) from error

    def others(self) -> list[str]:
        """Names what else stands in the folder."""
        return sorted({entry.name for entry in self._entries()} - set(self.marks))

    @contextmanager
    def writing(self) -> Iterator[dict[str, Path]]:
        """Gives a temporary path for each file. They are moved into place when the block succeeds.

        Raises:
            FileError: A file cannot be written, or something else has come to its place.
        """
        try:
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            whole = not self.folder.exists()
            with staging(self.folder.parent if whole else self.folder) as hidden:
                new = hidden / "new"
                new.mkdir()
                paths = {name: new / name for name in self.marks}
                for path in paths.values():
                    path.parent.mkdir(exist_ok=True, parents=True)
                yield paths
                mode = (hidden / LOCK).stat().st_mode
                for path in paths.values():
                    path.chmod(stat.S_IMODE(mode))  # some libraries make a file private
                    sync(path)
                self.check()
                if whole:
                    new.rename(self.folder)
                    sync(self.folder.parent)
                else:
                    move_in(hidden, list(self.marks), self.folder)
        except OSError as error:
            raise _unwritable(self.given, error) from error

    def _named(self, name: str) -> Path:
        """Gives the path of one of the files, for messages."""
        if self.new:
            return self.given / name
        return self.given.with_name(self.given.name + name.removeprefix(next(iter(self.marks))))

    def _ready(self) -> Self:
        for folder in (self.folder, self.folder.parent):
            clear_leftovers(folder)
        self.check()
        return self

    def _entries(self) -> Iterator[Path]:
        return (path for path in self.folder.iterdir() if not path.name.startswith(STAGING))

    def _check_surroundings(self) -> None:
        near = self.folder.parent if self.new else self.folder
        for above in (near, *near.parents):
            if is_artifact(above) and not (self.inside and above == near):
                raise self.error(
                    f"{self.given} would stand in an artifact",
                    expected="a place outside, since an artifact holds its own files alone",
                    got=f"the artifact {above}",
                    fix="Choose another path.",
                )
        existing = self.folder
        while self.new and not there(existing):
            existing = existing.parent
        # On a file, this says that it is not a folder.
        tempfile.TemporaryFile(dir=existing).close()

    def _check_way(self, name: str) -> None:
        """Refuses a link or a file where a folder within this one is to be."""
        for part in list(Path(name).parents)[-2::-1]:
            path = self.folder / part
            if there(path) and (path.is_symlink() or not path.is_dir()):
                raise self._in_the_way(self.given / part)

    def _check_old(self, name: str) -> None:
        path = self.folder / name
        if not self.overwrite:
            raise self.error(
                f"{self.given if self.alone else self._named(name)} exists already",
                expected="a new folder",
                fix="Choose another, or replace it: overwrite=True, or --overwrite.",
            )
        if not is_marked(path, self.marks[name]):
            raise self._in_the_way(self._named(name))

    def _in_the_way(self, path: Path) -> DMSError:
        return self.error(
            f"{path} exists already, and is not replaced",
            expected="a new path, or an earlier output of this kind",
            got="something else, which could be lost",
            fix="Choose another path, or move it away yourself.",
        )


@contextmanager
def writing_file(path: Path | str, mark: bytes, *, inside: bool = False) -> Iterator[Path]:
    """Gives a temporary path, which is moved to ``path`` when the block succeeds.

    Raises:
        FileError: As in `Target.of_file` and `Target.writing`.
    """
    target = Target.of_file(path, mark, inside=inside)
    with target.writing() as new:
        yield next(iter(new.values()))


def remove(path: Path, mark: bytes) -> None:
    """Removes a file that this program wrote, and leaves any other alone."""
    if is_marked(path, mark):
        path.unlink(missing_ok=True)


def is_marked(path: Path, mark: bytes) -> bool:
    """Says whether a regular file holds a mark near its beginning or its end."""
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            return False
        with path.open("rb") as file:
            if mark in file.read(_NEAR_THE_ENDS):
                return True
            file.seek(max(0, file.seek(0, os.SEEK_END) - _NEAR_THE_ENDS))
            return mark in file.read()
    except OSError:
        return False


def is_artifact(folder: Path) -> bool:
    """Says whether a folder is an artifact, by its config."""
    name, mark = ARTIFACT
    return is_marked(folder / name, mark)


def check_not_input(output: Path, source: Path) -> None:
    """Refuses an output that is the input, under whatever name, or stands in an input folder.

    Raises:
        FileError: It is, or does.
    """
    if source.is_dir() and Path(os.path.realpath(output)).parent == Path(os.path.realpath(source)):
        raise FileError(
            "the output would stand among the files of the input",
            got=str(output),
            fix="Choose another folder.",
        )
    with suppress(OSError):  # one of them does not exist, or cannot; opening it will say so
        if output.samefile(source):
            raise FileError(
                "the output is the input", got=str(output), fix="Choose another output file."
            )


def _unwritable(path: Path, error: OSError) -> FileError:
    if isinstance(error, FileNotFoundError):
        got, fix = f"no folder {path.parent}", "Make the folder first, or choose another."
    else:
        got = f"{type(error).__name__}: {error.strerror or error}"
        fix = "Check the folder, its permissions and the free space."
    return FileError(
        f"cannot write {path}",
        expected="a folder that exists and can be written to",
        got=got,
        fix=f"Nothing was written. {fix}",
    )
