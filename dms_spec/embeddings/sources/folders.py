"""Reads a folder of ``.npy`` files: one array each, under the file's name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dms_spec.errors import DMSError, FileError
from dms_spec.files import Wanted
from dms_spec.outputs import is_artifact
from dms_spec.streams import LARGE, like


def read_folder(
    folder: Path, *, wanted: Wanted | None = None, mapped: bool = False
) -> dict[str, NDArray[Any]]:
    """Reads ``NAME.npy`` for each array of a table, such as ``image.npy`` and ``labels.npy``.

    Args:
        folder: Where they lie. Other files are left alone.
        wanted: In place of others, zeros of their shape and dtype are given.
        mapped: Leave large arrays in their files.

    Raises:
        FileError: There are none, or one is damaged or holds Python objects.
    """
    paths = sorted(folder.glob("*.npy"))
    if not paths:
        raise FileError(
            f"cannot read {folder}",
            expected="a folder with an .npy file for each array, or with .parquet files",
            got="an artifact, which holds no table"
            if is_artifact(folder)
            else "a folder without any",
            fix="Check the path. Of images, texts and sounds, dms embed makes a table.",
        )
    return {path.stem: _array(path, wanted, mapped) for path in paths}


def _array(path: Path, wanted: Wanted | None, mapped: bool) -> NDArray[Any]:
    try:
        large = path.stat().st_size >= LARGE
        array = np.load(path, mmap_mode="r" if large else None, allow_pickle=False)
        if not isinstance(array, np.ndarray):
            array.close()
            raise FileError(f"cannot read {path}", expected="one array", got="an .npz archive")
        if wanted is not None and not wanted(path.stem, array.shape, array.dtype):
            return like(array.shape, array.dtype)
        return np.asarray(array) if mapped or not large else np.array(array)
    except (DMSError, MemoryError):
        raise
    except Exception as error:  # a hostile file can raise almost anything
        raise FileError(
            f"cannot read {path}",
            expected="an .npy file with an array of numbers or strings",
            got=f"{type(error).__name__}: {error}",
            fix="Write it again with numpy.save; strings as .astype(str).",
        ) from error
