"""Arrays that need not fit into memory: read where they lie in a file, written part by part."""

from __future__ import annotations

import json
import mmap
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from math import prod
from pathlib import Path
from typing import IO, Any, Self

import numpy as np
from numpy.typing import NDArray

from dms_spec.errors import FileError

#: Smaller arrays are read whole.
LARGE = 1 << 24

#: Bytes at a time.
_PART = 1 << 24

# The names of dtypes in a ``.safetensors`` file. Others that it has are read whole.
_SAFETENSORS = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BOOL": "bool", "I64": "int64",
    "I32": "int32", "I16": "int16", "I8": "int8", "U64": "uint64", "U32": "uint32",
    "U16": "uint16", "U8": "uint8",
}  # fmt: skip
_BF16 = {"BF16": "bfloat16"}


def npy_header(archive: zipfile.ZipFile, name: str) -> tuple[tuple[int, ...], Any, bool, int]:
    """Reads what the header of an ``.npy`` member says.

    Returns:
        Shape, dtype, whether it is in Fortran's order, and the header's length.

    Raises:
        ValueError: It is no ``.npy`` file.
    """
    with archive.open(name) as member:
        version = np.lib.format.read_magic(member)
        read = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }.get(version)
        if read is None:
            raise ValueError(f"version {version}")
        shape, fortran, dtype = read(member)
        return shape, dtype, fortran, member.tell()


def map_member(path: Path, archive: zipfile.ZipFile, name: str) -> NDArray[Any] | None:
    """Maps a large member of an ``.npz`` file that is not compressed. None if it is another.

    Its checksum is compared first, part by part.

    Raises:
        zipfile.BadZipFile: The checksum is another one.
        ValueError: It is no ``.npy`` file.
    """
    info = archive.getinfo(name)
    shape, dtype, fortran, length = npy_header(archive, name)
    size = prod(shape) * dtype.itemsize
    plain = info.compress_type == zipfile.ZIP_STORED and dtype.isnative and not dtype.hasobject
    if not plain or fortran or size < LARGE or length + size != info.file_size:
        return None
    with archive.open(name) as member:
        while member.read(_PART):
            pass
    with path.open("rb") as file:
        file.seek(info.header_offset + 26)  # two lengths end the member's own header
        names = np.frombuffer(file.read(4), dtype="<u2")
    offset = info.header_offset + 30 + int(names.sum()) + length
    return np.asarray(np.memmap(path, dtype, "r", offset, shape))


def map_tensor(path: Path, header: Mapping[str, Any], start: int, name: str) -> NDArray[Any] | None:
    """Maps a large array of a ``.safetensors`` file, whose header was checked. None if it is small.

    Args:
        path: The file.
        header: What it says.
        start: Where the arrays begin.
        name: Of the array.
    """
    about = header[name]
    dtype = _SAFETENSORS.get(about["dtype"])
    first, last = about["data_offsets"]
    if dtype is None or last - first < LARGE:
        return None
    return np.asarray(np.memmap(path, dtype, "r", start + first, tuple(about["shape"])))


def check_npz(name: str, array: NDArray[Any]) -> None:
    """Refuses what an ``.npz`` file cannot hold without a pickle.

    Raises:
        FileError: It is of a dtype that NumPy has from another package.
    """
    if array.dtype.name == "bfloat16":
        raise FileError(
            f"an .npz file cannot hold {name!r}",
            expected="a dtype of NumPy's own",
            got="bfloat16",
            fix="Give the output the suffix .safetensors.",
        )


def like(shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    """Gives an array of zeros of any shape that takes no memory, and cannot be written."""
    return np.broadcast_to(np.zeros((), dtype), shape)


def forget(*arrays: NDArray[Any]) -> None:
    """Lets go of what was read of mapped arrays. They are read again when they are asked for."""
    for array in arrays:
        base: Any = array
        while base is not None and not isinstance(base, mmap.mmap):
            base = base.obj if isinstance(base, memoryview) else getattr(base, "base", None)
        if base is not None and hasattr(mmap, "MADV_DONTNEED"):
            with suppress(OSError, ValueError):
                base.madvise(mmap.MADV_DONTNEED)


def row_parts(array: NDArray[Any], rows: int | None = None) -> Iterator[slice]:
    """Gives consecutive rows of an array, some megabytes at a time; at least one part.

    Args:
        array: Whose rows they are.
        rows: How many there are, where some are chosen; None for all.
    """
    rows = len(array) if rows is None else rows
    width = max(1, prod(array.shape[1:]) * array.dtype.itemsize)
    step = max(1, _PART // width)
    for start in range(0, max(rows, 1), step):
        yield slice(start, start + step)


def npz_comment(mark: str, metadata: Mapping[str, str]) -> bytes:
    """Gives the comment of an archive: its mark, and on a second line texts as JSON."""
    return f"{mark}\n{json.dumps(metadata)}".encode() if metadata else mark.encode()


class Writer:
    """Writes arrays to a file whose rows come in parts, so that few of them are in memory.

    Args:
        path: A new file, ``.npz`` or ``.safetensors``.
        mark: What the file keeps of its origin: the comment of an archive, or the text under
            ``written_by``.
        metadata: Other texts that it keeps: after the mark as JSON, or each under its name.
    """

    def __init__(self, path: Path, mark: str, metadata: Mapping[str, str] | None = None) -> None:
        self._path, self._mark, self._metadata = path, mark, dict(metadata or {})
        self._rows: dict[str, int] = {}
        self._parts: dict[str, NDArray[Any]] = {}
        self._files: dict[str, IO[bytes]] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        with self._stack:
            if kind is None:
                self._write()

    def append(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Adds rows to each array.

        Raises:
            FileError: The format cannot hold one.
        ValueError: They are others than before, or of another dtype or width.
        """
        for name, array in arrays.items():
            if name not in self._files:
                if self._path.suffix == ".npz":
                    check_npz(name, array)
                file = tempfile.TemporaryFile(dir=self._path.parent)  # noqa: SIM115 - until the end
                self._files[name] = self._stack.enter_context(file)
                self._parts[name], self._rows[name] = array[:0], 0
            first = self._parts[name]
            if array.dtype != first.dtype or array.shape[1:] != first.shape[1:]:
                raise ValueError(f"{name} changes from part to part")
            self._files[name].write(np.ascontiguousarray(array).tobytes())
            self._rows[name] += len(array)
        if set(arrays) != set(self._files):
            raise ValueError("the arrays change from part to part")

    def shapes(self) -> dict[str, list[int]]:
        """The shape of each array, as far as it has come."""
        return {name: [self._rows[name], *part.shape[1:]] for name, part in self._parts.items()}

    def _write(self) -> None:
        for file in self._files.values():
            file.seek(0)
        if self._path.suffix == ".npz":
            self._write_npz()
        else:
            self._write_safetensors()

    def _write_npz(self) -> None:
        with zipfile.ZipFile(self._path, "w") as archive:
            archive.comment = npz_comment(self._mark, self._metadata)
            for name, shape in self.shapes().items():
                header = {
                    "descr": np.lib.format.dtype_to_descr(self._parts[name].dtype),
                    "fortran_order": False,
                    "shape": tuple(shape),
                }
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array_header_1_0(member, header)
                    shutil.copyfileobj(self._files[name], member, _PART)

    def _write_safetensors(self) -> None:
        codes = {dtype: code for code, dtype in (_SAFETENSORS | _BF16).items()}
        header: dict[str, Any] = {"__metadata__": {"written_by": self._mark, **self._metadata}}
        # Wide ones first, so that each lies at a multiple of its own width.
        order = sorted(self._parts, key=lambda name: (-self._parts[name].dtype.itemsize, name))
        start = 0
        for name in order:
            shape = self.shapes()[name]
            end = start + prod(shape) * self._parts[name].dtype.itemsize
            code = codes[self._parts[name].dtype.name]
            header[name] = {"dtype": code, "shape": shape, "data_offsets": [start, end]}
            start = end
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        with self._path.open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for name in order:
                shutil.copyfileobj(self._files[name], file, _PART)
