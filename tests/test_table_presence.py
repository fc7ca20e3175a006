"""Presence: by name, or by columns whose order is known; never guessed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from dms_spec.embeddings.table import Table, read_table
from dms_spec.errors import DMSError, SpecError

NAMES = ("text", "image", "audio")
PRESENT = np.array([[1, 1, 0], [1, 0, 1], [1, 1, 1], [1, 0, 0]], dtype=bool)


def arrays(**more: Any) -> dict[str, Any]:
    """Three modalities of four rows, in no alphabetical order."""
    draw = np.random.default_rng(0).normal
    return {name: draw(size=(4, m + 2)) for m, name in enumerate(NAMES)} | more


def by_name(present: np.ndarray = PRESENT) -> dict[str, np.ndarray]:
    return {f"present.{name}": present[:, m].copy() for m, name in enumerate(NAMES)}


def counts(table: Table) -> dict[str, int]:
    return {name: int(table.present[:, m].sum()) for m, name in enumerate(table.modalities)}


RIGHT = {"text": 4, "image": 2, "audio": 2}


class Frame:
    """A data frame's face, as pandas and polars have it."""

    def __init__(self, columns: dict[str, Any]) -> None:
        self._columns = columns

    @property
    def columns(self) -> list[str]:
        return list(self._columns)

    def __getitem__(self, name: str) -> Any:
        return self._columns[name]

    def to_numpy(self) -> np.ndarray:
        return np.stack(list(self._columns.values()), axis=1)


GIVEN: dict[str, dict[str, Any]] = {
    "by name": by_name(),
    "a mapping": {"present": {name: PRESENT[:, m] for m, name in enumerate(NAMES)}},
    "a frame": {"present": Frame({n: PRESENT[:, NAMES.index(n)] for n in reversed(NAMES)})},
    "columns in the order of the arrays": {"present": PRESENT},
    "columns with names": {"present": PRESENT[:, ::-1], "present_names": list(reversed(NAMES))},
}


@pytest.mark.parametrize("way", GIVEN)
@pytest.mark.parametrize("order", [None, NAMES, ("audio", "image", "text")], ids=str)
def test_presence_is_that_of_its_modality_whatever_the_order(way: str, order: Any) -> None:
    """The axis of an artifact, or a choice, may have another order than the table."""
    named = arrays(**GIVEN[way])
    for table in (Table.from_arrays(named, order), Table.from_arrays(named, axis=order)):
        assert counts(table) == RIGHT
        assert table.modalities == (order or NAMES)


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(seed=st.integers(0, 2**32), axis=st.permutations(NAMES), file=st.permutations(NAMES))
def test_every_way_says_the_same(seed: int, axis: list[str], file: list[str]) -> None:
    """Names beside columns in any order, in a container of any order, on any axis."""
    present = np.random.default_rng(seed).random((4, 3)) < 0.5
    plain = {name: arrays()[name] for name in file}
    columns = present[:, [NAMES.index(name) for name in file]]
    ways = (
        plain | by_name(present),
        plain | {"present": columns},
        plain | {"present": columns[:, ::-1], "present_names": np.array(file[::-1])},
    )
    wanted = present[:, [NAMES.index(name) for name in axis]]
    for way in ways:
        assert np.array_equal(Table.from_arrays(way, axis=axis).present, wanted)


def test_columns_of_arrays_that_are_left_out_are_left_out() -> None:
    both = ("audio", "text")
    for present in (PRESENT, PRESENT[:, [0, 2]]):  # for all arrays, or for those chosen
        table = Table.from_arrays(arrays(present=present), both)
        assert counts(table) == {name: RIGHT[name] for name in both}
    axis = Table.from_arrays(arrays(present=PRESENT), axis=both)
    assert counts(axis) == {name: RIGHT[name] for name in both}


def test_a_modality_that_is_not_named_is_present() -> None:
    table = Table.from_arrays(arrays(**{"present.image": PRESENT[:, 1]}))
    assert counts(table) == {"text": 4, "image": 2, "audio": 4}


def test_a_modality_may_be_named_absent_without_an_array() -> None:
    nowhere = {"present.lidar": np.zeros(4, dtype=bool)}
    assert counts(Table.from_arrays(arrays(**nowhere))) == dict.fromkeys(NAMES, 4)


# ------------------------------------------------------------------------------ safetensors


def saved(folder: Path, metadata: dict[str, str] | None = None, **more: Any) -> Path:
    path = folder / "t.safetensors"
    whole = {name: np.ascontiguousarray(array) for name, array in arrays(**more).items()}
    safetensors.numpy.save_file(whole, path, metadata)
    return path


def test_safetensors_needs_names(tmp_path: Path) -> None:
    """Its arrays come back in an order that is not their author's."""
    path = saved(tmp_path, present=PRESENT)
    for options in ({}, {"axis": NAMES}, {"modalities": NAMES}):
        with pytest.raises(SpecError, match=r"have no names.*present\.text") as caught:
            read_table(path, **options)
        assert "present_names" in str(caught.value)


def test_safetensors_by_name(tmp_path: Path) -> None:
    assert counts(read_table(saved(tmp_path, **by_name()))) == RIGHT
    for text in ("text,image,audio", "text, image, audio"):
        path = saved(tmp_path, {"present_names": text}, present=PRESENT)
        assert counts(read_table(path)) == RIGHT
        assert counts(read_table(path, axis=NAMES)) == RIGHT


def test_columns_that_are_all_alike_need_no_names(tmp_path: Path) -> None:
    alike = np.repeat(np.array([True, False, True, True])[:, None], 3, axis=1)
    assert counts(read_table(saved(tmp_path, present=alike))) == dict.fromkeys(NAMES, 3)


# ------------------------------------------------------------------------------------ refused

ONE = PRESENT[:, 1]
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "twice": ({"present": PRESENT, "present.image": ONE}, "says twice"),
    "a typing error": ({"present.imgae": ONE}, "'imgae' is present in 2 rows.*'image'"),
    "numbers by name": ({"present.image": ONE * 1.0}, "present.image.*bool.*float64"),
    "too few by name": ({"present.image": ONE[:3]}, "present.image.*shape"),
    "a column by name": ({"present.image": ONE[:, None]}, "present.image.*shape"),
    "numbers": ({"present": PRESENT * 1}, "bool.*int64"),
    "too many columns": ({"present": np.ones((4, 4), dtype=bool)}, "text, image, audio"),
    "too few columns": ({"present": PRESENT[:, :2]}, r"present\.text"),
    "one axis": ({"present": ONE}, "wrong shape"),
    "too few rows": ({"present": PRESENT[:3]}, "wrong shape"),
    "too few rows with names": ({"present": PRESENT[:3], "present_names": NAMES}, "wrong shape"),
    "names without columns": ({"present_names": NAMES}, "no present"),
    "too few names": ({"present": PRESENT, "present_names": NAMES[:2]}, "lacks modality 'audio'"),
    "too many names": ({"present": PRESENT, "present_names": (*NAMES, "x")}, "wrong shape"),
    "names twice": ({"present": PRESENT, "present_names": ("text",) * 3}, "each once"),
    "names as numbers": ({"present": PRESENT, "present_names": [0, 1, 2]}, "a string"),
    "another name": ({"present": PRESENT, "present_names": ("text", "imag", "audio")}, "'imag'"),
}


@pytest.mark.parametrize("case", BAD)
def test_presence_that_does_not_fit_is_refused(case: str) -> None:
    changes, word = BAD[case]
    with pytest.raises(DMSError, match=word):
        Table.from_arrays(arrays(**changes))
