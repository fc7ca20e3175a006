"""Tables: read as they are, or refused before anything is learned from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dms_spec.embeddings.table import Table, check_learnable, read_table
from dms_spec.errors import DMSError, MissingInput, NonFiniteInput
from dms_spec.files import write_arrays

NAN = float("nan")


def arrays(**changes: Any) -> dict[str, np.ndarray]:
    """A good table with some arrays changed (None: left out)."""
    good: dict[str, Any] = {
        "image": np.arange(12, dtype=np.float32).reshape(6, 2),
        "text": np.arange(18, dtype=np.float64).reshape(6, 3),
        "labels": np.array([0, 1, 0, 1, 2, 2]),
        "present": np.array([[1, 1], [1, 0], [0, 1], [1, 1], [1, 1], [0, 0]], dtype=bool),
        "train": np.array([3, 0, 1, 2]),
        "test": np.array([4, 5]),
    }
    return {name: np.asarray(a) for name, a in (good | changes).items() if a is not None}


def written(folder: Path, **changes: Any) -> Path:
    path = folder / "table.npz"
    np.savez(path, **arrays(**changes))
    return path


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_a_table_is_what_the_file_holds(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"table{suffix}"
    write_arrays(path, arrays())
    table = read_table(path, ("text", "image"), need_labels=True)
    assert table.modalities == ("text", "image")
    for name in table.modalities:
        assert np.array_equal(table.embeddings[name], arrays()[name])
        assert table.embeddings[name].dtype == arrays()[name].dtype
    assert np.array_equal(table.present, arrays()["present"])
    assert table.labels is not None
    assert table.labels.tolist() == [0, 1, 0, 1, 2, 2]
    assert table.training_rows().tolist() == [0, 1, 2, 3]
    assert table.test is not None
    assert table.test.tolist() == [4, 5]
    assert table.notes() == ()


def test_the_order_is_the_files_unless_one_is_given(tmp_path: Path) -> None:
    assert read_table(written(tmp_path)).modalities == ("image", "text")


def test_without_presence_all_is_there_and_without_train_what_is_no_test(tmp_path: Path) -> None:
    table = read_table(written(tmp_path, present=None, train=None))
    assert table.present.all()
    assert table.training_rows().tolist() == [0, 1, 2, 3]
    assert len(read_table(written(tmp_path, train=None, test=None)).training_rows()) == 6


@pytest.mark.clause("DMS-C-005")
def test_a_row_that_is_not_finite_counts_as_absent_and_is_said(tmp_path: Path) -> None:
    image = arrays()["image"].copy()
    image[[0, 2, 3], 1] = NAN, NAN, np.inf  # row 2 is absent anyway
    table = read_table(written(tmp_path, image=image))
    assert table.present[:, 0].tolist() == [False, True, False, False, True, False]
    assert table.spoilt == {"image": 2, "text": 0}
    (note,) = table.notes()
    assert note.startswith("2 rows of 'image'")
    with pytest.raises(NonFiniteInput, match="image"):
        table.refuse_spoilt()


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        (np.array([[2**24], [0]]), np.float32),
        (np.array([[2**24 + 1], [0]]), np.float64),
        (np.array([[255], [0]], dtype=np.uint8), np.float32),
        (np.array([[True], [False]]), np.float32),
    ],
)
def test_integers_become_floats_without_loss(tmp_path: Path, values: Any, dtype: Any) -> None:
    path = tmp_path / "table.npz"
    np.savez(path, image=values)
    got = read_table(path).embeddings["image"]
    assert got.dtype == dtype
    assert (got == values).all()


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no modality": ({"image": None, "text": None}, "no modality"),
    "unknown modality": ({"imgae": np.zeros((6, 2))}, "Did you mean 'image'"),
    "missing modality": ({"text": None}, "lacks modality 'text'"),
    "ragged": ({"text": np.zeros((5, 3))}, "'text'.*rows"),
    "one axis": ({"text": np.zeros(6)}, "wrong shape"),
    "raw images": ({"image": np.zeros((6, 4, 4, 3))}, "Flatten"),
    "no column": ({"image": np.zeros((6, 0))}, "wrong shape"),
    "strings": ({"text": np.full((6, 3), "a")}, "numbers"),
    "complex": ({"text": np.zeros((6, 3), complex)}, "numbers"),
    "no labels": ({"labels": None}, "no labels"),
    "labels too few": ({"labels": [0, 1]}, "labels"),
    "float labels": ({"labels": np.linspace(0, 1, 6)}, "labels"),
    "one class": ({"labels": [0, 0, 0, 0, 1, 1]}, "one class: .*got 0"),
    "one class among what is present": (
        {"labels": [0, 0, 0, 0, 1, 1], "train": None, "test": [4]},
        "one class",
    ),
    "presence of numbers": ({"present": np.ones((6, 2))}, "bool"),
    "presence of another M": ({"present": np.ones((6, 3), dtype=bool)}, "image, text"),
    "all absent": ({"present": np.zeros((6, 2), dtype=bool)}, "nothing is present"),
    "one absent": ({"present": np.array([[True, False]] * 6)}, "'text' is absent"),
    "one not finite": ({"text": np.full((6, 3), NAN)}, "'text' is absent"),
    "no row": ({"train": np.array([], dtype=int), "test": None}, "nothing is present"),
    "train outside": ({"train": [0, 6]}, "outside"),
    "train below": ({"train": [-1, 0]}, "outside"),
    "train repeats": ({"train": [0, 1, 1]}, "repeats"),
    "train a mask": ({"train": np.ones(6, dtype=bool)}, "flatnonzero"),
    "train of floats": ({"train": np.array([0.0, 1.0])}, "row indices"),
    "overlap": ({"train": [0, 1, 2, 3, 4]}, "overlap"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_table_is_refused(tmp_path: Path, case: str) -> None:
    changes, word = BAD[case]
    path = written(tmp_path, **changes)
    names = None if case == "no modality" else ("image", "text")
    with pytest.raises(DMSError, match=word) as caught:
        read_table(path, names, need_labels=True)
    assert isinstance(caught.value, ValueError | TypeError)


def test_a_modality_cannot_have_a_reserved_name(tmp_path: Path) -> None:
    with pytest.raises(DMSError, match="'labels'"):
        read_table(written(tmp_path), ("image", "labels"))


def test_labels_are_not_needed_for_use(tmp_path: Path) -> None:
    assert read_table(written(tmp_path, labels=None)).labels is None


def test_a_table_made_in_memory_is_held_to_the_same(tmp_path: Path) -> None:
    table = Table(embeddings={"a": np.zeros((2, 1))}, present=np.ones((2, 1), dtype=bool))
    with pytest.raises(MissingInput, match="labels"):
        check_learnable(table)


def test_some_rows_of_a_table(tmp_path: Path) -> None:
    part = read_table(written(tmp_path)).rows(slice(4, 6))
    assert len(part) == 2
    assert part.present.tolist() == [[True, True], [False, False]]
    assert part.labels is not None
    assert part.labels.tolist() == [2, 2]
    assert part.train is None


def test_rows_that_belong_together_are_numbered(tmp_path: Path) -> None:
    groups = np.array(["s2", "s1", "s2", "s3", "s1", "s1"])
    weight = np.array([0.0, 1, 2, 3, 4, 5])
    table = read_table(
        written(tmp_path, groups=groups, sample_weight=weight, train=None, validation=[3, 2])
    )
    assert table.groups is not None
    assert table.groups.tolist() == [1, 0, 1, 2, 0, 0]
    assert table.sample_weight is not None
    assert table.sample_weight.tolist() == weight.tolist()
    assert table.validation is not None
    assert table.validation.tolist() == [2, 3]
    assert table.training_rows().tolist() == [0, 1]
    part = table.rows(np.array([3, 0]))
    assert part.groups is not None
    assert part.groups.tolist() == [2, 1]
    assert part.sample_weight is not None
    assert part.sample_weight.tolist() == [3, 0]
    assert part.validation is None
