"""Reads and writes files of arrays: ``.npz`` and ``.safetensors``, never a pickle.

Everything is written under a temporary name in the same folder and then moved, so that a run
that fails, or is killed, leaves what was there before.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dms_spec.errors import FileError

SUFFIXES = (".npz", ".safetensors")

# What files begin with: a zip archive, also an empty one, and a single array.
_ZIP, _NPY = (b"PK\x03\x04", b"PK\x05\x06"), b"\x93NUMPY"


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Reads all arrays of a file, by name.

    Raises:
        FileError: The file is missing, damaged, of another kind, or holds Python objects.
    """
    check_suffix(path)
    try:
        if not path.is_file():
            raise FileError(
                f"cannot read {path}",
                expected="a file",
                got="a folder" if path.is_dir() else "nothing there",
                fix="Check the path.",
            )
        return _read_npz(path) if path.suffix == ".npz" else _read_safetensors(path)
    except FileError:
        raise
    # A hostile file can make the readers raise almost anything: zipfile, zlib, struct, numpy.
    except (Exception, MemoryError) as error:
        raise FileError(
            f"cannot read {path}",
            expected=f"a {path.suffix} file with arrays of numbers",
            got=f"{type(error).__name__}: {error}",
            fix="The file is damaged, cut short, or of another kind: write it again.",
        ) from error


def read_metadata(path: Path) -> dict[str, str]:
    """The texts that a ``.safetensors`` file has beside its arrays; none for ``.npz``."""
    if path.suffix != ".safetensors":
        return {}
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        return dict(file.metadata() or {})


def _read_npz(path: Path) -> dict[str, NDArray[Any]]:
    # Opened here: NumPy leaves a file open when it turns out to be damaged.
    with path.open("rb") as file:
        start = file.read(len(_NPY))
        # Without this, NumPy takes anything else for a pickle, and says how to load one.
        if not start.startswith(_ZIP):
            raise FileError(
                f"cannot read {path}",
                expected="an .npz archive with named arrays",
                got="a single .npy array" if start == _NPY else "something that is not an archive",
                fix="Write the file with numpy.savez(path, features=..., logits=...).",
            )
        file.seek(0)
        with np.load(file, allow_pickle=False) as archive:
            return {name: _native(_member(path, archive, name)) for name in archive.files}


def _member(path: Path, archive: Any, name: str) -> NDArray[Any]:
    try:
        return archive[name]  # type: ignore[no-any-return]
    except ValueError as error:
        if "Object arrays" not in str(error):
            raise
        raise FileError(
            f"array {name!r} of {path} holds Python objects",
            expected="numbers or strings: objects are read by pickle alone, which can run code",
            got="dtype object",
            fix=f"Write {name}.astype(str) if they are strings; numbers as .astype(float).",
        ) from error


def _native(array: NDArray[Any]) -> NDArray[Any]:
    """Converts an array to this machine's byte order, the only one that backends know."""
    if not isinstance(array, np.ndarray):  # a member that is not an .npy file comes as bytes
        return array
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _read_safetensors(path: Path) -> dict[str, NDArray[Any]]:
    from safetensors import safe_open

    # Teaches NumPy bfloat16, where a backend that has it is installed; whether a file can be read
    # must not depend on what was imported before.
    with suppress(ImportError):
        import ml_dtypes  # noqa: F401
    arrays = {}
    with safe_open(path, framework="numpy") as file:
        for name in file.keys():  # noqa: SIM118 - not a mapping
            try:
                arrays[name] = file.get_tensor(name)
            except (TypeError, AttributeError) as error:
                raise FileError(
                    f"cannot read array {name!r} of {path}",
                    expected="a dtype that NumPy has",
                    got=file.get_slice(name).get_dtype(),
                    fix="Cast it to float32 before writing it.",
                ) from error
    return arrays


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Writes arrays by name: all of them, or nothing.

    Raises:
        FileError: The suffix is unknown, or the folder cannot be written to.
    """
    check_suffix(path)
    for name, array in arrays.items():
        if path.suffix == ".npz" and array.dtype.name == "bfloat16":
            raise FileError(
                f"an .npz file cannot hold {name!r}",
                expected="a dtype of NumPy's own",
                got="bfloat16",
                fix="Give the output the suffix .safetensors.",
            )
    with replacing(path) as temporary:
        if path.suffix == ".npz":
            with temporary.open("wb") as file:
                np.savez(file, allow_pickle=False, **dict(arrays))
        else:
            from safetensors.numpy import save_file

            # Not ascontiguousarray, which gives a scalar an axis.
            save_file({k: np.asarray(v, order="C") for k, v in arrays.items()}, temporary)


def check_suffix(path: Path) -> None:
    """Refuses a file name whose format is not known.

    Raises:
        FileError: The suffix is neither ``.npz`` nor ``.safetensors``.
    """
    if path.suffix not in SUFFIXES:
        raise FileError(
            f"the format of {path} is unknown",
            expected=" or ".join(SUFFIXES),
            got=path.suffix or "no suffix",
            fix="Give the file one of these suffixes.",
        )


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives a temporary path. It is moved onto ``path`` when the block succeeds, and removed
    otherwise.

    Raises:
        FileError: The folder does not exist or cannot be written to.
    """
    temporary = None
    try:
        handle, name = tempfile.mkstemp(
            dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix
        )
        os.close(handle)
        temporary = Path(name)
        yield temporary
        temporary.chmod(0o666 & ~_umask())  # last: safetensors makes the file anew, and private
        temporary.replace(path)
    except OSError as error:
        raise _unwritable(path, error) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Does the same for a folder. An old folder is removed only when the new one stands."""
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
        temporary.chmod(0o777 & ~_umask())
        new, old = temporary / "new", temporary / "old"
        new.mkdir()
        yield new
        if path.exists():
            path.rename(old)
        new.rename(path)
    except OSError as error:
        raise _unwritable(path, error) from error
    finally:
        if temporary is not None:
            if (temporary / "old").exists() and not path.exists():
                (temporary / "old").rename(path)
            shutil.rmtree(temporary, ignore_errors=True)


def _unwritable(path: Path, error: OSError) -> FileError:
    return FileError(
        f"cannot write {path}",
        expected="a folder that exists and can be written to",
        got=f"{type(error).__name__}: {error.strerror or error}",
        fix="Nothing was written. Check the folder, its permissions and the free space.",
    )


def _umask() -> int:
    """The process's umask. Temporary files are private; finished ones follow the user's rule."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
