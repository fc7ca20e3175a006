"""Labels: one class a row, known or not; and whether they are the classes that were learned."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dms_spec.embeddings.labels import class_indices, strangers, unlike
from dms_spec.embeddings.table import Table
from dms_spec.errors import DTypeError, MissingInput, ShapeError

NAN = float("nan")


class NAType:
    """As data frames mark what is missing: comparing it says neither yes nor no."""

    def __eq__(self, other: object) -> Any:
        return self

    def __bool__(self) -> bool:
        raise TypeError("neither")

    __hash__ = None  # type: ignore[assignment]


NA = NAType()


def table(labels: Any, **more: Any) -> Table:
    rows = len(labels)
    return Table.from_arrays({"image": np.full((rows, 2), 0.5), "labels": labels}, **more)


def objects(*cells: Any) -> np.ndarray:
    array = np.empty(len(cells), dtype=object)
    array[:] = cells
    return array


KNOWN: dict[str, tuple[Any, list[Any]]] = {
    "strings": (np.array(["b", "a", "b"]), ["b", "a", "b"]),
    "a list": (["b", "a", "b"], ["b", "a", "b"]),
    "objects": (objects("b", "a", "ccc"), ["b", "a", "ccc"]),
    "bytes": (np.array([b"b", b"a", b"\xc3\xa4"]), ["b", "a", "ä"]),
    "objects of bytes": (objects(b"b", b"a", b"b"), ["b", "a", "b"]),
    "strings of any length": (
        np.array(["b", "a", "ccc"], np.dtypes.StringDType()),
        ["b", "a", "ccc"],
    ),
    "integers": (np.array([2, -1, 2]), [2, -1, 2]),
    "bytes of numbers": (np.array([2, 1, 2], np.uint8), [2, 1, 2]),
    "objects of integers": (objects(2, np.int8(1), 2), [2, 1, 2]),
    "booleans": (np.array([True, False, True]), [True, False, True]),
    "objects of booleans": (objects(True, False, np.True_), [True, False, True]),
    "large": (np.array([2**64 - 1, 0, 1], np.uint64), [2**64 - 1, 0, 1]),
}


@pytest.mark.parametrize("case", KNOWN)
def test_labels_come_through_as_they_are(case: str) -> None:
    given_labels, wanted = KNOWN[case]
    got = table(given_labels)
    assert got.labels is not None
    assert got.labels.tolist() == wanted
    assert got.labels.dtype.kind in "biuU"
    assert got.labelled is None
    assert got.notes() == ()
    assert got.labelled_rows().tolist() == [0, 1, 2]


PARTLY: dict[str, tuple[Any, list[Any]]] = {
    "NaN among whole numbers": (np.array([2.0, NAN, 1.0, NAN, 1.0]), [2, 1, 1]),
    "NaN in half precision": (np.array([2, NAN, 1, NAN, 1], np.float16), [2, 1, 1]),
    "empty strings": (np.array(["x", "", "y", "", "y"]), ["x", "y", "y"]),
    "None among strings": (["x", None, "y", None, "y"], ["x", "y", "y"]),
    "NaN among strings": (["x", NAN, "y", NAN, "y"], ["x", "y", "y"]),
    "NA among strings": (objects("x", NA, "y", "", "y"), ["x", "y", "y"]),
    "NA among integers": (objects(2, NA, 1, NA, 1), [2, 1, 1]),
    "None among floats": (objects(2.0, None, 1, NAN, 1.0), [2, 1, 1]),
    "None among booleans": (objects(True, None, False, None, True), [True, False, True]),
    "masked integers": (np.ma.MaskedArray([2, 0, 1, 0, 1], [0, 1, 0, 1, 0]), [2, 1, 1]),
    "masked strings": (
        np.ma.MaskedArray(["x", "q", "y", "q", "y"], [0, 1, 0, 1, 0]),
        ["x", "y", "y"],
    ),
}


@pytest.mark.parametrize("case", PARTLY)
def test_rows_without_a_label_are_in_no_part_of_a_split(case: str) -> None:
    given_labels, wanted = PARTLY[case]
    got = table(given_labels)
    assert got.labels is not None
    assert got.labelled_rows().tolist() == [0, 2, 4]
    assert got.labels[got.labelled_rows()].tolist() == wanted
    assert got.training_rows().tolist() == [0, 2, 4]
    assert "no label in 2 of 5 rows" in got.notes()[-1]
    rows = {"train": [0, 1, 2], "test": [3, 4]}
    split = Table.from_arrays({"image": np.ones((5, 2)), "labels": given_labels, **rows})
    assert split.training_rows().tolist() == [0, 2]
    assert split.test is not None
    assert split.test.tolist() == [4]
    part = got.rows(np.array([4, 3]))
    assert part.labelled is not None
    assert part.labelled.tolist() == [True, False]


@pytest.mark.parametrize("labels", [[NAN, NAN], ["", ""], [None, None]], ids=str)
def test_labels_that_are_all_missing_are_none(labels: Any) -> None:
    got = table(labels)
    assert got.labels is None
    assert "missing in every row" in got.notes()[0]
    with pytest.raises(MissingInput, match=r"has no labels.*--label"):
        table(labels, need_labels=True)


def test_whole_numbers_as_floats_are_read_and_said() -> None:
    got = table(np.array([0.0, 1.0, 0.0]))
    assert got.labels is not None
    assert got.labels.dtype == np.int64
    assert "labels are float64 and hold whole numbers" in got.notes()[0]


@pytest.mark.parametrize("text", ["nan", "None", "<NA>"])
def test_a_missing_label_that_became_a_string_is_said(text: str) -> None:
    (note,) = table(["a", text, "b", text]).notes()
    assert note.startswith(f"label {text!r} of 2 rows is a class like any other")


REFUSED: dict[str, tuple[Any, type[Exception], str]] = {
    "a quantity": (np.array([0.3, 1.0, 2.0]), DTypeError, "such as 0.3.*classification only"),
    "a quantity with gaps": (np.array([0.3, NAN, 2.0]), DTypeError, "classification only"),
    "infinity": (np.array([0.0, np.inf, 1.0]), DTypeError, "classification only"),
    "many labels": (np.array([[1, 1], [0, 1], [0, 0]]), ShapeError, "one label a row"),
    "one-hot": (np.eye(3), ShapeError, "argmax"),
    "regression on many": (np.full((3, 2), 0.3), ShapeError, "classification only"),
    "a column": (np.array([[1], [0], [1]]), ShapeError, r"labels\[:, 0\]"),
    "one for all": (np.array(1), ShapeError, "one label a row"),
    "lists": (objects([1, 2], [1], []), DTypeError, "a list in place of one label"),
    "arrays": (objects(np.zeros(2), np.zeros(2), np.zeros(2)), DTypeError, "a list in place"),
    "a mixture": (["a", 1, 2.0], DTypeError, r"float and int and str.*astype\(str\)"),
    "anything": (objects("a", {"b": 1}, "c"), DTypeError, r"dict.*astype\(str\)"),
    "huge": (objects(2**70, 1, 2), DTypeError, "64 bits"),
    "dates": (np.zeros(3, "M8[D]"), DTypeError, r"datetime64.*astype\(str\)"),
    "complex": (np.zeros(3, complex), DTypeError, "complex"),
    "no text": (np.array([b"\xff", b"a", b"b"]), DTypeError, "UTF-8"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_class_is_refused_or_left_out(case: str) -> None:
    """A prediction needs no labels: there they are left out, with the same words."""
    labels, kind, word = REFUSED[case]
    whole = {"image": np.full((3, 2), 0.5), "labels": labels}
    with pytest.raises(kind, match=word):
        Table.from_arrays(whole)
    lenient = Table.from_arrays(whole, strict_labels=False)
    assert lenient.labels is None
    assert lenient.notes()[0].startswith("labels are not used: labels in the table")


# --------------------------------------------------------------------- against the classes


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(
    classes=st.sets(st.integers(-5, 5), min_size=1),
    labels=st.lists(st.integers(-9, 9), max_size=20),
)
def test_labels_are_found_among_the_classes(classes: set[int], labels: list[int]) -> None:
    known, given_labels = np.array(sorted(classes)), np.array(labels, dtype=np.int64)
    wanted = [sorted(classes).index(x) if x in classes else -1 for x in labels]
    assert class_indices(known, given_labels).tolist() == wanted
    odd = [x for x in labels if x not in classes]
    assert bool(strangers(known, given_labels)) == bool(odd)
    assert bool(unlike(known, given_labels)) == (bool(labels) and len(odd) == len(labels))


def test_why_no_label_can_be_compared() -> None:
    names, numbers = np.array(["cat", "dog"]), np.array([0, 1])
    assert unlike(names, numbers) == (
        "the labels are integers such as 0, and the classes learned are strings such as 'cat'"
    )
    assert "strings such as 'cat'" in unlike(numbers, names)
    assert "labels 'Cat', 'Dog', classes 'cat', 'dog'" in unlike(names, np.array(["Dog", "Cat"]))
    assert unlike(names, np.array(["dog", "eel"])) == ""
    assert (
        strangers(names, np.array(["eel", "dog", "fox", "eel"])) == "'eel' (2 rows), 'fox' (1 row)"
    )
    many = np.array([f"c{k}" for k in range(9)])
    assert strangers(names, many).endswith("and 4 more")
