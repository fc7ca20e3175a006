"""Reads and writes files of arrays: ``.npz`` and ``.safetensors``, never a pickle."""

from __future__ import annotations

import zipfile
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dms_spec.errors import FileError
from dms_spec.outputs import Target
from dms_spec.texts import parse_json

SUFFIXES = (".npz", ".safetensors")

# As much as the library of safetensors takes.
_LARGEST_HEADER = 100_000_000

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

    _check_header(path)
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
            if twice := _twice(archive.files):
                raise FileError(
                    f"cannot read {path}", expected="each array once", got=f"{twice!r} twice"
                )
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
    _check_header(path)
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


def _check_header(path: Path) -> None:
    """Refuses a ``.safetensors`` file that says something twice: its reader takes the last."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if size <= _LARGEST_HEADER:  # the reader refuses others
            header = file.read(size)
    if size <= _LARGEST_HEADER and len(header) == size:
        try:
            text = header.decode()
        except UnicodeDecodeError:
            return  # the reader says so
        parse_json(text, f"the header of {path}")


def _twice(names: Iterable[str]) -> str:
    """Names the first that occurs twice; empty if none does."""
    return next((name for name, count in Counter(names).items() if count > 1), "")


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]], kind: str = "arrays") -> None:
    """Writes arrays by name: all of them, or nothing.

    Args:
        path: Where. An earlier file of the same kind is replaced.
        arrays: By name.
        kind: What they are, in a word. The file keeps it.

    Raises:
        FileError: The suffix is unknown, something else is there, or the folder cannot be written
            to.
    """
    with array_target(path, kind).writing() as new:
        save_arrays(new[next(iter(new))], arrays, kind)


def array_target(path: Path, kind: str) -> Target:
    """Gives the target of `write_arrays`, checked before the work is done.

    Raises:
        FileError: As in `write_arrays`.
    """
    check_suffix(path)
    return Target.of_file(path, array_mark(path, kind))


def array_mark(path: Path | str, kind: str) -> bytes:
    """What `save_arrays` writes into a file so that one knows its kind."""
    text = f"dms-spec {kind}"
    return text.encode() if str(path).endswith(".npz") else f'"written_by":"{text}"'.encode()


def save_arrays(
    path: Path,
    arrays: Mapping[str, NDArray[Any]],
    kind: str,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Writes arrays to a temporary path of a `Target`.

    Args:
        path: Where.
        arrays: By name.
        kind: As in `write_arrays`.
        metadata: Texts beside the arrays, for ``.safetensors``.

    Raises:
        FileError: The format cannot hold an array.
        OSError: The file cannot be written.
    """
    if path.suffix == ".npz":
        _save_npz(path, arrays, kind)
        return
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    texts = {"written_by": f"dms-spec {kind}", **(metadata or {})}
    try:
        # Not ascontiguousarray, which gives a scalar an axis.
        save_file({k: np.asarray(v, order="C") for k, v in arrays.items()}, path, metadata=texts)
    except SafetensorError as error:  # such as a full disk
        raise OSError(str(error)) from error


def _save_npz(path: Path, arrays: Mapping[str, NDArray[Any]], kind: str) -> None:
    """Does what `numpy.savez` does, for arrays of any name, and keeps the kind as a comment."""
    for name, array in arrays.items():
        if array.dtype.name == "bfloat16":
            raise FileError(
                f"an .npz file cannot hold {name!r}",
                expected="a dtype of NumPy's own",
                got="bfloat16",
                fix="Give the output the suffix .safetensors.",
            )
    with zipfile.ZipFile(path, "w") as archive:
        archive.comment = array_mark(path, kind)
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)


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
