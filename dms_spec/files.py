"""Reads and writes files of arrays: ``.npz`` and ``.safetensors``, never a pickle."""

from __future__ import annotations

import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dms_spec.errors import FileError, nearest_path
from dms_spec.outputs import Target, is_artifact
from dms_spec.streams import Writer, check_npz, like, map_member, map_tensor, npy_header
from dms_spec.texts import NOTHING, parse_json

SUFFIXES = (".npz", ".safetensors")

# As much as the library of safetensors takes.
_LARGEST_HEADER = 100_000_000

# What files begin with: a zip archive, also an empty one, and a single array.
_ZIP, _NPY = (b"PK\x03\x04", b"PK\x05\x06"), b"\x93NUMPY"


#: Says of an array, by its name, shape and dtype, whether it is wanted.
Wanted = Callable[[str, tuple[int, ...], np.dtype[Any]], bool]


def read_arrays(
    path: Path, *, wanted: Wanted | None = None, mapped: bool = False
) -> dict[str, NDArray[Any]]:
    """Reads all arrays of a file, by name.

    Args:
        path: The file.
        wanted: In place of others, zeros of their shape and dtype are given, which take no memory.
        mapped: Leave large arrays in the file, to be read as they are needed. The file must not
            be changed then.

    Raises:
        FileError: The file is missing, damaged, of another kind, or holds Python objects.
    """
    _check_kind(path)
    try:
        if not path.is_file():
            raise FileError(
                f"cannot read {path}",
                expected="a file",
                got="a folder" if path.is_dir() else NOTHING,
                fix=nearest_path(path) or "Check the path.",
            )
        read = _read_npz if path.suffix == ".npz" else _read_safetensors
        return read(path, wanted or (lambda *_: True), mapped)
    except (FileError, MemoryError):
        raise
    # A hostile file can make the readers raise almost anything: zipfile, zlib, struct, numpy.
    except Exception as error:
        raise FileError(
            f"cannot read {path}",
            expected=f"a {path.suffix} file with arrays of numbers",
            got=f"{type(error).__name__}: {error}",
            fix="The file is damaged, cut short, or of another kind: write it again.",
        ) from error


def read_metadata(path: Path) -> dict[str, str]:
    """The texts that a file has beside its arrays. An ``.npz`` file has those of `Writer` alone."""
    if path.suffix != ".safetensors":
        return _npz_metadata(path)
    from safetensors import safe_open

    _read_header(path)
    with safe_open(path, framework="numpy") as file:
        return dict(file.metadata() or {})


def _npz_metadata(path: Path) -> dict[str, str]:
    try:
        with zipfile.ZipFile(path) as archive:
            mark, _, text = archive.comment.partition(b"\n")
    except Exception as error:  # as in `read_arrays`
        raise FileError(
            f"cannot read {path}",
            expected="an .npz archive",
            got=f"{type(error).__name__}: {error}",
        ) from error
    if not mark.startswith(b"dms-spec ") or not text:
        return {}
    data = parse_json(text.decode(errors="replace"), f"the comment of {path}")
    texts = data.items() if isinstance(data, dict) else ()
    return {name: value for name, value in texts if isinstance(value, str)}


def _read_npz(path: Path, wanted: Wanted, mapped: bool) -> dict[str, NDArray[Any]]:
    # Opened here: NumPy leaves a file open when it turns out to be damaged.
    with path.open("rb") as file:
        start = file.read(len(_NPY))
        # Without this, NumPy takes anything else for a pickle, and says how to load one.
        if not start.startswith(_ZIP):
            raise FileError(
                f"cannot read {path}",
                expected="an .npz archive with named arrays",
                got="a single .npy array" if start == _NPY else "something that is not an archive",
                fix="Write the file with numpy.savez(path, name=array, ...).",
            )
        file.seek(0)
        with np.load(file, allow_pickle=False) as archive:
            if twice := _twice(archive.files):
                raise FileError(
                    f"cannot read {path}", expected="each array once", got=f"{twice!r} twice"
                )
            members = dict(zip(archive.files, archive.zip.namelist(), strict=True))
            return {
                name: _native(_wanted_member(path, archive, name, member, wanted, mapped))
                for name, member in members.items()
            }


def _wanted_member(
    path: Path, archive: Any, name: str, member: str, wanted: Wanted, mapped: bool
) -> NDArray[Any]:
    with suppress(ValueError):  # no .npy file: NumPy says so
        shape, dtype, *_ = npy_header(archive.zip, member)
        if not wanted(name, shape, dtype):
            return like(shape, dtype)
        if mapped and (found := map_member(path, archive.zip, member)) is not None:
            return found
    return _member(path, archive, name)


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


def _read_safetensors(path: Path, wanted: Wanted, mapped: bool) -> dict[str, NDArray[Any]]:
    from safetensors import safe_open

    # Teaches NumPy bfloat16, where a backend that has it is installed; whether a file can be read
    # must not depend on what was imported before.
    with suppress(ImportError):
        import ml_dtypes  # noqa: F401
    arrays = {}
    header, start = _read_header(path)
    with safe_open(path, framework="numpy") as file:
        for name in file.keys():  # noqa: SIM118 - not a mapping
            if mapped and (found := map_tensor(path, header, start, name)) is not None:
                arrays[name] = found
                continue
            try:
                part = file.get_slice(name)
                shape = tuple(part.get_shape())
                empty = part[:0] if shape and shape[0] else file.get_tensor(name)
                arrays[name] = (
                    file.get_tensor(name)
                    if wanted(name, shape, empty.dtype)
                    else like(shape, empty.dtype)
                )
            except (TypeError, AttributeError) as error:
                raise FileError(
                    f"cannot read array {name!r} of {path}",
                    expected="a dtype that NumPy has",
                    got=file.get_slice(name).get_dtype(),
                    fix="Cast it to float32 before writing it.",
                ) from error
    return arrays


def _read_header(path: Path) -> tuple[dict[str, Any], int]:
    """Reads the header of a ``.safetensors`` file, and where its arrays begin.

    What is said twice is refused, since the library takes the last. It refuses all else itself.
    """
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = file.read(size) if size <= _LARGEST_HEADER else b""
    if len(header) < size or not size:
        return {}, 0
    with suppress(UnicodeDecodeError):
        data = parse_json(header.decode(), f"the header of {path}")
        return (data if isinstance(data, dict) else {}), 8 + size
    return {}, 0


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


def array_writer(path: Path, kind: str) -> Writer:
    """Gives what writes arrays part by part to a temporary path of a `Target`."""
    text = f"dms-spec {kind}"
    return Writer(path, text)


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
        check_npz(name, array)
    with zipfile.ZipFile(path, "w") as archive:
        archive.comment = array_mark(path, kind)
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)


def check_suffix(path: Path, known: Sequence[str] = SUFFIXES) -> None:
    """Refuses the name of a new file whose format is not known.

    Args:
        path: The file.
        known: The suffixes of what can be written.

    Raises:
        FileError: The suffix is none of them.
    """
    if path.suffix not in known:
        raise FileError(
            f"the format of {path} is unknown",
            expected=f"{', '.join(known[:-1])} or {known[-1]}",
            got=path.suffix or "no suffix",
            fix="Give the file one of these suffixes.",
        )


def _check_kind(path: Path) -> None:
    """Refuses to read what is no file of arrays, by its name."""
    if path.suffix in SUFFIXES:
        return
    fix = "Check the path. Python writes such a file with numpy.savez(path, features=...)."
    if path.is_dir():
        got = "an artifact" if is_artifact(path) else "a folder"
    elif path.exists():
        got = path.suffix or "no suffix"
    else:
        got, fix = NOTHING, nearest_path(path) or fix
    raise FileError(
        f"cannot read {path}",
        expected=f"a file of arrays, {' or '.join(SUFFIXES)}",
        got=got,
        fix=fix,
    )
