"""Large arrays to work in: in memory, or in temporary files that leave nothing behind."""

from __future__ import annotations

import errno
import mmap
import os
import tempfile
import weakref
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dms_spec.errors import FileError
from dms_spec.markup import gigabytes
from dms_spec.streams import forget


class Scratch:
    """Gives large arrays to work in.

    Files have no name and lie where Python puts temporary files, which ``TMPDIR`` says. Each is
    gone with its array, also when the program is killed.

    Args:
        on_disk: Whether the arrays are mapped from files, and not in memory.
    """

    def __init__(self, *, on_disk: bool = False) -> None:
        self.on_disk = on_disk
        self._maps: weakref.WeakSet[mmap.mmap] = weakref.WeakSet()

    def empty(self, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        """Gives an array whose values are not set.

        Raises:
            FileError: The disk has no room for it.
        """
        size = prod(shape) * np.dtype(dtype).itemsize
        if not (self.on_disk and size):
            return np.empty(shape, dtype)
        try:
            with tempfile.TemporaryFile() as file:
                _reserve(file.fileno(), size)
                mapped = mmap.mmap(file.fileno(), size)
        except OSError as error:
            raise FileError(
                "a temporary file cannot be made",
                expected=f"room for {gigabytes(size)} in {tempfile.gettempdir()}",
                got=str(error),
                fix="Set TMPDIR to a folder with more room.",
            ) from error
        self._maps.add(mapped)
        return np.frombuffer(mapped, dtype).reshape(shape)

    def forget(self) -> None:
        """Lets go of the memory that holds parts of the files."""
        forget(*(np.frombuffer(mapped, np.uint8) for mapped in self._maps))


def _reserve(file: int, size: int) -> None:
    """Takes the room now, where the system can: a disk that is full later would end the program."""
    try:
        os.posix_fallocate(file, 0, size)
    except AttributeError:  # neither macOS nor Windows has it
        os.ftruncate(file, size)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):  # of a file system without it
            raise
        os.ftruncate(file, size)
