"""Holds the files of an output until they are moved into place: all of them, or none.

They lie in a hidden folder, whose lock says that its run is alive. What a killed run leaves there,
the next one removes; a move that was cut short, it finishes.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

#: What the name of a hidden folder begins with.
STAGING = ".dms-spec-"

#: Its lock, which has the user's permissions for new files.
LOCK = "lock"

_READY, _LOCKED = "ready", b"dms-spec\n"


def move_in(hidden: Path, names: list[str], folder: Path) -> None:
    """Moves files over those of a folder: all of them, or none."""
    new, old = hidden / "new", hidden / "old"
    old.mkdir()
    inner = [path for path in _folders(names) if not there(folder / path)]
    for path in _folders(names):
        (old / path).mkdir()
    for name in names:
        if there(folder / name):
            _keep(folder / name, old / name)
    (hidden / _READY).write_text(json.dumps(names), encoding="utf-8")
    try:
        for path in inner:
            (folder / path).mkdir()
        for name in names:
            (new / name).replace(folder / name)
    except BaseException:
        (hidden / _READY).unlink()
        for name in names:
            if (new / name).exists():  # was not moved
                continue
            if (old / name).exists():
                (old / name).replace(folder / name)
            else:
                (folder / name).unlink()
        for path in reversed(inner):
            with suppress(OSError):  # it was not made, or somebody has put something in it
                (folder / path).rmdir()
        raise
    for path in (*_folders(names), Path()):
        sync(folder / path)


def _folders(names: list[str]) -> list[Path]:
    """Lists the folders that files lie in, within that of the output, the outer ones first."""
    parents = {path for name in names for path in Path(name).parents} - {Path()}
    return sorted(parents, key=lambda path: len(path.parts))


def _keep(path: Path, copy: Path) -> None:
    try:
        copy.hardlink_to(path)
    except OSError:  # a file system without links
        shutil.copy2(path, copy)


def sync(path: Path) -> None:
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
def staging(parent: Path) -> Iterator[Path]:
    """Gives a hidden folder that is removed at the end, by this run or by the next one."""
    with ExitStack() as stack:
        while True:
            folder = Path(tempfile.mkdtemp(dir=parent, prefix=STAGING))
            stack.callback(_discard, folder)
            with suppress(FileNotFoundError):  # another run took it for a leftover
                file = stack.enter_context((folder / LOCK).open("xb"))
                _lock(file.fileno())
                if (folder / LOCK).exists():
                    file.write(_LOCKED)
                    file.flush()
                    break
        yield folder


def clear_leftovers(folder: Path) -> None:
    """Removes what killed runs left in a folder, and finishes a move that was cut short."""
    try:
        found = [path for path in folder.glob(f"{STAGING}*") if path.is_dir()]
    except OSError:
        return
    for hidden in found:
        with suppress(OSError):
            _clear(hidden, folder)


def _clear(hidden: Path, folder: Path) -> None:
    if not any(hidden.iterdir()):
        hidden.rmdir()
        return
    with (hidden / LOCK).open("rb") as file:
        if not _lock(file.fileno(), wait=False) or file.read() not in (_LOCKED, b""):
            return
        ready = hidden / _READY
        # A list that was cut short is of a run that had moved nothing.
        with suppress(ValueError, FileNotFoundError):
            for name in json.loads(ready.read_text(encoding="utf-8")):
                if not Path(name).is_absolute() and ".." not in Path(name).parts:
                    _finish(hidden, folder, name)
        _discard(hidden)


def _discard(hidden: Path) -> None:
    """Removes a hidden folder, its lock last: without it, nobody knows that it is ours."""
    with suppress(OSError):
        for path in hidden.iterdir():
            if path.name != LOCK:
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink()
        (hidden / LOCK).unlink(missing_ok=True)
        hidden.rmdir()


def _finish(hidden: Path, folder: Path, name: str) -> None:
    """Moves a file that a killed run was about to move, if nobody has touched its place since."""
    new, old, path = hidden / "new" / name, hidden / "old" / name, folder / name
    same = path.samefile(old) if old.exists() and path.exists() else not there(path)
    if new.exists() and same:
        path.parent.mkdir(parents=True, exist_ok=True)
        new.replace(path)


def _lock(handle: int, *, wait: bool = True) -> bool:
    """Locks a file until it is closed, or its process ends. False if another has it."""
    if _locker() is None:  # then nothing is known to be a leftover
        return wait
    return wait if taken(handle) else True


def taken(handle: int) -> bool:
    """Locks a file until it is closed, and says whether another process has locked it already."""
    lock = _locker()
    try:
        if lock is not None:
            lock(handle)
    except OSError:
        return True
    return False


def _locker() -> Callable[[int], None] | None:
    try:
        import fcntl
    except ImportError:
        return None
    return lambda handle: fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def there(path: Path) -> bool:
    """Says whether there is anything at a path, a broken link too.

    Raises:
        OSError: The path cannot be, such as one below a file.
    """
    try:
        path.lstat()
    except FileNotFoundError:
        return False
    return True
