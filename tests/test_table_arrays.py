"""One door: whatever holds the numbers, the table is the same, or the refusal says why."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from dms_spec.embeddings.table import Table, read_table
from dms_spec.errors import DMSError, DTypeError, FileError, ShapeError
from dms_spec.files import write_arrays

NAN = float("nan")


class Frame:
    """A data frame's face, as pandas and polars have it."""

    def __init__(self, array: Any, columns: Any = ()) -> None:
        self._array, self.columns = np.asarray(array), columns

    def to_numpy(self) -> np.ndarray:
        return self._array


class ArrayFace:
    """Any library's array that NumPy can ask."""

    def __init__(self, array: Any) -> None:
        self._array = np.asarray(array)

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return self._array


class DLPackFace:
    """Any library's array that speaks DLPack alone."""

    def __init__(self, array: Any) -> None:
        self._array = np.array(array)  # DLPack takes no array that is read-only

    def __dlpack__(self, **options: Any) -> Any:
        return self._array.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self._array.__dlpack_device__()


def tensor(array: np.ndarray) -> Any:
    torch = pytest.importorskip("torch")
    made = torch.from_numpy(np.array(array))
    return made.requires_grad_() if made.is_floating_point() else made


def swapped(array: np.ndarray) -> np.ndarray:
    return array.astype(array.dtype.newbyteorder(">"))


CONTAINERS: dict[str, Callable[[np.ndarray], Any]] = {
    "lists": lambda array: array.tolist(),
    "tuples": lambda array: tuple(map(tuple, array.tolist())) if array.ndim > 1 else tuple(array),
    "a list of rows": list,
    "a list of faces": lambda a: [ArrayFace(row) for row in a] if a.ndim > 1 else a.tolist(),
    "a tensor": tensor,
    "a list of tensors": lambda a: [tensor(row) for row in a],
    "a frame": Frame,
    "an array's face": ArrayFace,
    "DLPack": DLPackFace,
    "objects": lambda array: array.astype(object),
    "the other byte order": swapped,
    "columns first": np.asfortranarray,
    "read-only": lambda array: np.broadcast_to(array, array.shape),
    "masked, nothing hidden": np.ma.MaskedArray,
}


@pytest.mark.parametrize("name", CONTAINERS)
@settings(max_examples=20, deadline=None, derandomize=True, database=None)
@given(seed=st.integers(0, 2**32), rows=st.integers(2, 9), text=st.booleans())
def test_every_container_gives_the_same_table(name: str, seed: int, rows: int, text: bool) -> None:
    random = np.random.default_rng(seed)
    strings = np.array(["cat", "dog"])[random.integers(2, size=rows)]
    order = random.permutation(rows)
    arrays = {
        "image": random.normal(size=(rows, 3)),
        "counts": random.integers(-9, 9, size=(rows, 4)),
        "labels": strings if text else random.integers(3, size=rows),
        "present.image": random.random(rows) < 0.5,
        "test": order[:1],
        "validation": order[1:2],
        "groups": random.integers(4, size=rows),
        "sample_weight": random.random(rows) + 0.1,
    }
    put = CONTAINERS[name]
    held = {
        key: put(array)
        if array.dtype.kind != "U" or ("tensor" not in name and name not in ("DLPack",))
        else array
        for key, array in arrays.items()
        if name != "objects" or not key.startswith(("present", "test", "valid"))
    }
    one, other = Table.from_arrays(arrays), Table.from_arrays(arrays | held)
    assert one.modalities == other.modalities
    assert one.notes() == other.notes()
    for key in one.modalities:
        assert np.array_equal(one.embeddings[key], other.embeddings[key])
    for key in ("present", "labels", "train", "test", "validation", "groups", "sample_weight"):
        a, b = getattr(one, key), getattr(other, key)
        assert (a is None) == (b is None)
        if a is not None:
            assert a.tolist() == b.tolist(), key
            assert a.dtype.kind == b.dtype.kind, key


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_a_file_and_memory_are_one(tmp_path: Path, suffix: str) -> None:
    random = np.random.default_rng(3)
    arrays = {
        "image": random.normal(size=(6, 3)).astype(np.float32),
        "present.image": np.arange(6) > 1,
        "labels": np.arange(6) % 2,
        "train": np.array([0, 3, 1]),
        "groups": np.arange(6) // 2,
        "sample_weight": np.arange(6) / 2,
    }
    write_arrays(tmp_path / f"t{suffix}", arrays)
    one, other = Table.from_arrays(arrays), read_table(tmp_path / f"t{suffix}")
    assert np.array_equal(one.embeddings["image"], other.embeddings["image"])
    assert one.notes() == other.notes()
    for key in ("present", "labels", "train", "groups", "sample_weight"):
        assert getattr(one, key).tolist() == getattr(other, key).tolist()


# -------------------------------------------------------------------------------- floats


def test_bfloat16_is_read_in_float32(tmp_path: Path) -> None:
    """From a file, from memory and from a tensor, with or without gradients."""
    ml_dtypes = pytest.importorskip("ml_dtypes")
    wanted = np.array([[1.5, -2.0], [0.0078125, 3e38]], np.float32).astype(ml_dtypes.bfloat16)
    path = tmp_path / "t.safetensors"
    safetensors.numpy.save_file({"image": wanted}, path)
    ways = [read_table(path), Table.from_arrays({"image": wanted})]
    torch = pytest.importorskip("torch")
    like = torch.from_numpy(wanted.astype(np.float32)).to(torch.bfloat16)
    ways += [Table.from_arrays({"image": x}) for x in (like, like.clone().requires_grad_())]
    ways += [Table.from_arrays({"image": list(like)})]
    for table in ways:
        assert table.embeddings["image"].dtype == np.float32
        assert np.array_equal(table.embeddings["image"], wanted.astype(np.float32))


@pytest.mark.parametrize("name", ["float8_e4m3fn", "float8_e5m2"])
def test_eight_bit_floats_are_read_in_float32(name: str) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    wanted = np.array([[1.5, -2.0], [0.25, 8.0]])
    got = Table.from_arrays({"image": wanted.astype(getattr(ml_dtypes, name))})
    assert got.embeddings["image"].dtype == np.float32
    assert got.embeddings["image"].tolist() == wanted.tolist()


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_floats_stay_as_they_are(dtype: str) -> None:
    x = np.linspace(0, 1, 6).reshape(3, 2).astype(dtype)
    assert Table.from_arrays({"image": x}).embeddings["image"] is x


def test_cells_that_are_missing_are_absent() -> None:
    """None in objects, and what a masked array hides: NumPy would drop the mask."""
    objects = np.array([[1, 2.5], [None, 4], [5, 6]], dtype=object)
    hidden = np.ma.MaskedArray([[1, 2], [3, 4], [5, 6]], [[0, 0], [1, 0], [0, 0]])
    floats = np.ma.MaskedArray([[1, 2.5], [3, 4], [5, 6]], [[0, 0], [1, 0], [0, 0]])
    for held in (objects, hidden, floats):
        table = Table.from_arrays({"image": held})
        assert table.present[:, 0].tolist() == [True, False, True]
        assert table.notes()[0].startswith("1 row of 'image'")


# ------------------------------------------------------------------------------- refused

AGES = np.array([[1.0, "x"], [2.0, "y"]], dtype=object)
ROWS = np.empty(2, dtype=object)
ROWS[:] = [np.zeros(3), np.zeros(3)]
BAD: dict[str, tuple[Any, type[DMSError], str]] = {
    "ragged lists": ([[1, 2], [3]], ShapeError, "rows of 'image'.*differ in length"),
    "ragged rows": ([np.zeros(2), np.zeros(3)], ShapeError, "differ in length"),
    "an array for each row": (ROWS, ShapeError, r"object of its own for each row.*numpy\.stack"),
    "a column of text": (Frame(AGES, ["age", "sex"]), DTypeError, "str in row 0, column 1 .'sex'"),
    "objects of text": (AGES, DTypeError, "str in row 0, column 1"),
    "text": (np.array([["a", "b"]]), DTypeError, "run the encoder"),
    "raw bytes": (np.zeros((2, 3), "V2"), DTypeError, "keeps bfloat16 as raw bytes"),
    "records": (np.zeros((2, 3), "f4,f4"), DTypeError, "numbers"),
    "complex": (np.zeros((2, 3), complex), DTypeError, "real and imaginary"),
    "dates": (np.zeros((2, 3), "M8[D]"), DTypeError, "dates into numbers"),
    "spans": (np.zeros((2, 3), "m8[s]"), DTypeError, "times into numbers"),
    "nothing": (None, DMSError, "no modality"),
    "a mapping": ({"a": 1}, DTypeError, "'image'.*dict: NumPy does not know"),
    "a number": (3.0, ShapeError, "wrong shape"),
}
if np.dtype(np.longdouble).itemsize > 8:
    BAD["long"] = (np.zeros((2, 3), np.longdouble), DTypeError, "float64")


@pytest.mark.parametrize("case", BAD)
def test_what_holds_no_numbers_is_explained(case: str) -> None:
    value, kind, word = BAD[case]
    with pytest.raises(kind, match=word):
        Table.from_arrays({"image": value})


def test_a_sparse_matrix_is_explained() -> None:
    scipy = pytest.importorskip("scipy.sparse")
    with pytest.raises(DTypeError, match="sparse"):
        Table.from_arrays({"image": scipy.eye(3).tocsr()})


@pytest.mark.parametrize("name", ["labels", "image"])
def test_a_pickle_is_explained(tmp_path: Path, name: str) -> None:
    arrays = {"image": np.ones((2, 2)), "labels": np.array(["a", "b"])}
    np.savez(tmp_path / "t.npz", **arrays | {name: arrays[name].astype(object)})
    with pytest.raises(
        FileError, match=rf"'{name}'.*Python objects.*{name}\.astype\(str\)"
    ) as caught:
        read_table(tmp_path / "t.npz")
    assert "damaged" not in str(caught.value)


def test_a_dtype_that_no_file_reader_knows_is_explained(tmp_path: Path) -> None:
    """What NumPy writes of bfloat16 into .npz, it reads as raw bytes."""
    ml_dtypes = pytest.importorskip("ml_dtypes")
    np.savez(tmp_path / "t.npz", image=np.ones((2, 2), ml_dtypes.bfloat16))
    with pytest.raises(DTypeError, match=r"'image'.*raw bytes.*\.safetensors"):
        read_table(tmp_path / "t.npz")
