"""Writes outputs: all files of one or none, and never over what this program did not write.

An output is a `Target`. It is checked before the work begins and once more before its files are
moved into place. Until then they lie in a hidden folder beside it, which a later run removes when
this one is killed.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from dms_spec.errors import DMSError, FileError

#: How one knows an artifact: the file, and what it holds.
ARTIFACT = ("config.json", b'"format": "dms-spec"')

# Where a mark is looked for: this many bytes at the beginning of a file, and at its end.
_NEAR_THE_ENDS = 1 << 16

_STAGING, _LOCK, _READY = ".dms-spec-", "lock", "ready"
_LOCKED = b"dms-spec\n"


@dataclass(frozen=True, kw_only=True)
class Target:
    """Says where the files of one output go, and how one knows an earlier output of its kind.

    Make one with `of_file` or `of_folder`, which check it.

    Attributes:
        folder: Where, with symbolic links followed.
        given: The path as it was given, for messages.
        marks: By file name, bytes that each file of this kind holds near its beginning or end.
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
    def of_file(cls, path: Path | str, mark: bytes, *, inside: bool = False) -> Self:
        """One file, which replaces an earlier one of the same kind. Its folder must exist.

        Raises:
            FileError: Something else is there, it would stand in an artifact, or the folder
                cannot be written to.
        """
        real = Path(os.path.realpath(path))
        target = cls(
            folder=real.parent,
            given=Path(path),
            marks={real.name: mark},
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
            if _there(self.folder) and not self.folder.is_dir():
                raise self._in_the_way(self.given)
            self._check_surroundings()
            there = [name for name in self.marks if _there(self.folder / name)]
            others = self.alone and not there and self.folder.exists() and any(self._entries())
            for name in there:
                self._check_old(name)
        except OSError as error:
            raise _unwritable(self.given, error) from error
        if others:
            raise self._in_the_way(self.given)

    def make_folder(self) -> None:
        """Makes the folder in which the output stands, and its parents.

        Raises:
            FileError: It cannot be made.
        """
        try:
            self.folder.parent.mkdir(parents=True, exist_ok=True)
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
            self.make_folder()
            whole = not self.folder.exists()
            with _staging(self.folder.parent if whole else self.folder) as staging:
                new = staging / "new"
                new.mkdir()
                paths = {name: new / name for name in self.marks}
                yield paths
                mode = (staging / _LOCK).stat().st_mode
                for path in paths.values():
                    path.chmod(stat.S_IMODE(mode))  # some libraries make a file private
                    _sync(path)
                self.check()
                if whole:
                    new.rename(self.folder)
                    _sync(self.folder.parent)
                else:
                    _move_in(staging, list(self.marks), self.folder)
        except OSError as error:
            raise _unwritable(self.given, error) from error

    def _named(self, name: str) -> Path:
        """Gives the path of one of the files, for messages."""
        return self.given / name if self.new else self.given

    def _ready(self) -> Self:
        for folder in (self.folder, self.folder.parent):
            clear_leftovers(folder)
        self.check()
        return self

    def _entries(self) -> Iterator[Path]:
        return (path for path in self.folder.iterdir() if not path.name.startswith(_STAGING))

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
        while self.new and not _there(existing):
            existing = existing.parent
        # On a file, this says that it is not a folder.
        tempfile.TemporaryFile(dir=existing).close()

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
    """Refuses an output that is the input, under whatever name.

    Raises:
        FileError: It is.
    """
    with suppress(OSError):  # one of them does not exist, or cannot; opening it will say so
        if output.samefile(source):
            raise FileError(
                "the output is the input", got=str(output), fix="Choose another output file."
            )


# -------------------------------------------------------------------------------------- moving


def _move_in(staging: Path, names: list[str], folder: Path) -> None:
    """Moves files over those of a folder: all of them, or none."""
    new, old = staging / "new", staging / "old"
    old.mkdir()
    for name in names:
        if _there(folder / name):
            _keep(folder / name, old / name)
    (staging / _READY).write_text(json.dumps(names), encoding="utf-8")
    try:
        for name in names:
            (new / name).replace(folder / name)
    except BaseException:
        (staging / _READY).unlink()
        for name in names:
            if (new / name).exists():  # was not moved
                continue
            if (old / name).exists():
                (old / name).replace(folder / name)
            else:
                (folder / name).unlink()
        raise
    _sync(folder)


def _keep(path: Path, copy: Path) -> None:
    try:
        copy.hardlink_to(path)
    except OSError:  # a file system without links
        shutil.copy2(path, copy)


def _sync(path: Path) -> None:
    """Waits until a file or the entries of a folder are on the disk."""
    if path.is_dir() and os.name == "nt":  # Windows cannot open a folder
        return
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# ------------------------------------------------------------------------------------- leftovers


@contextmanager
def _staging(parent: Path) -> Iterator[Path]:
    """Gives a hidden folder that is removed at the end, by this run or by the next one."""
    with ExitStack() as stack:
        while True:
            folder = Path(tempfile.mkdtemp(dir=parent, prefix=_STAGING))
            stack.callback(_discard, folder)
            with suppress(FileNotFoundError):  # another run took it for a leftover
                file = stack.enter_context((folder / _LOCK).open("xb"))
                _lock(file.fileno())
                if (folder / _LOCK).exists():
                    file.write(_LOCKED)
                    file.flush()
                    break
        yield folder


def clear_leftovers(folder: Path) -> None:
    """Removes what killed runs left in a folder, and finishes a move that was cut short."""
    try:
        found = [path for path in folder.glob(f"{_STAGING}*") if path.is_dir()]
    except OSError:
        return
    for staging in found:
        with suppress(OSError):
            _clear(staging, folder)


def _clear(staging: Path, folder: Path) -> None:
    if not any(staging.iterdir()):
        staging.rmdir()
        return
    with (staging / _LOCK).open("rb") as file:
        if not _lock(file.fileno(), wait=False) or file.read() not in (_LOCKED, b""):
            return
        ready = staging / _READY
        if ready.is_file():
            for name in json.loads(ready.read_text(encoding="utf-8")):
                _finish(staging, folder, Path(name).name)
        _discard(staging)


def _discard(staging: Path) -> None:
    """Removes a hidden folder, its lock last: without it, nobody knows that it is ours."""
    with suppress(OSError):
        for path in staging.iterdir():
            if path.name != _LOCK:
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink()
        (staging / _LOCK).unlink(missing_ok=True)
        staging.rmdir()


def _finish(staging: Path, folder: Path, name: str) -> None:
    """Moves a file that a killed run was about to move, if nobody has touched its place since."""
    new, old, path = staging / "new" / name, staging / "old" / name, folder / name
    same = path.samefile(old) if old.exists() and path.exists() else not _there(path)
    if new.exists() and same:
        new.replace(path)


def _lock(handle: int, *, wait: bool = True) -> bool:
    """Locks a file until it is closed, or its process ends. False if another has it."""
    lock = _locker()
    if lock is None:  # then nothing is known to be a leftover
        return wait
    try:
        lock(handle)
    except OSError:
        return wait
    return True


def _locker() -> Callable[[int], None] | None:
    try:
        import fcntl
    except ImportError:
        return None
    return lambda handle: fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _there(path: Path) -> bool:
    """Says whether there is anything at a path, a broken link too.

    Raises:
        OSError: The path cannot be, such as one below a file.
    """
    try:
        path.lstat()
    except FileNotFoundError:
        return False
    return True


def _unwritable(path: Path, error: OSError) -> FileError:
    return FileError(
        f"cannot write {path}",
        expected="a folder that exists and can be written to",
        got=f"{type(error).__name__}: {error.strerror or error}",
        fix="Nothing was written. Check the folder, its permissions and the free space.",
    )
