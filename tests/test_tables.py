"""Tables: read as they are, or refused before anything is learned from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dms_spec.embeddings.table import Table, check_learnable, read_table
from dms_spec.errors import DMSError, MissingInput, NonFiniteInput, SpecError
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
    present = arrays()["present"]
    by_name = {f"present.{name}": present[:, m] for m, name in enumerate(("image", "text"))}
    write_arrays(path, arrays(present=None, **by_name))
    table = read_table(path, ("text", "image"), need_labels=True)
    assert table.modalities == ("text", "image")
    for name in table.modalities:
        assert np.array_equal(table.embeddings[name], arrays()[name])
        assert table.embeddings[name].dtype == arrays()[name].dtype
    assert np.array_equal(table.present, present[:, ::-1])
    assert table.labels is not None
    assert table.labels.tolist() == [0, 1, 0, 1, 2, 2]
    assert table.training_rows().tolist() == [0, 1, 2, 3]
    assert table.test is not None
    assert table.test.tolist() == [4, 5]
    assert table.notes() == (
        "test rows of classes that no training row has, which count as wrong: 2 (2 rows)",
    )


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
    assert {name: bad.rows for name, bad in table.nonfinite.items()} == {"image": 2, "text": 0}
    note = table.notes()[0]
    assert note.startswith("2 rows of 'image'")
    assert "2 cells, in column 1" in note
    with pytest.raises(NonFiniteInput, match="image"):
        table.refuse_nonfinite()


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
    "unknown modality": ({"imgae": np.ones((6, 2)), "image": None}, "Did you mean 'image'"),
    "another modality": ({"picture": np.full((6, 2), 0.5), "image": None}, "no 'image'"),
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
    "one class": ({"labels": [0, 0, 0, 0, 1, 1]}, "one class: .*got class 0 alone"),
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
    "train a short mask": ({"train": np.ones(5, dtype=bool)}, "bool .N. = .6."),
    "train of floats": ({"train": np.array([0.0, 1.0])}, "row indices"),
    "overlap": ({"train": [0, 1, 2, 3, 4]}, "train and test.* overlap"),
    "validation from training": ({"validation": [3]}, "train and validation.* overlap"),
    "validation from test": ({"validation": [5]}, "validation and test.* overlap"),
    "validation of none": ({"validation": np.zeros(6, dtype=bool)}, "no validation rows"),
    "groups too few": ({"groups": [0, 1]}, "groups.*shape"),
    "groups of many": ({"groups": np.zeros((6, 2), int)}, "groups.*shape"),
    "groups unknown": ({"groups": [0, 1, NAN, 1, 2, 2]}, "groups.*1 row without one, row 2"),
    "groups of nothing": ({"groups": ["a", "", "", "b", "c", "c"]}, "groups.*2 rows"),
    "complex groups": ({"groups": np.zeros(6, complex)}, "groups.*neither"),
    "weights too few": ({"sample_weight": [1.0]}, "sample_weight.*shape"),
    "weight below 0": ({"sample_weight": [1.0, 1, 1, -2, 1, 1]}, "-2 in row 3"),
    "weight unknown": ({"sample_weight": [1.0, 1, 1, 1, 1, NAN]}, "nan in row 5"),
    "weight infinite": ({"sample_weight": [1.0, np.inf, 1, 1, 1, 1]}, "inf in row 1"),
    "no weight": ({"sample_weight": np.zeros(6)}, "zero in every row"),
    "no weight in training": ({"sample_weight": [0.0, 0, 0, 0, 1, 1]}, "more than 0"),
    "one class that weighs": (
        {"sample_weight": [1.0, 0, 1, 0, 1, 1]},
        "one class: .*got class 0 alone",
    ),
    "weights as names": ({"sample_weight": np.full(6, "a")}, "sample_weight.*numbers"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_table_is_refused(tmp_path: Path, case: str) -> None:
    changes, word = BAD[case]
    path = written(tmp_path, **changes)
    names = None if case == "no modality" else ("image", "text")
    with pytest.raises(DMSError, match=word) as caught:
        read_table(path, axis=names, need_labels=True)
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


def test_labels_that_are_missed_are_looked_for_among_all_columns(tmp_path: Path) -> None:
    """As one who has them under another name would."""
    frame = pa.table({"view": [[1.0, 2.0]] * 3, "klass": [0, 1, 0]})
    pq.write_table(frame, tmp_path / "t.parquet")
    for make in (
        lambda: read_table(tmp_path / "t.parquet", need_labels=True),
        lambda: Table.from_frame(frame, {"view": "view"}, need_labels=True),
    ):
        with pytest.raises(MissingInput, match=r"got view, klass\."):
            make()
    many = {f"view{k}": np.ones((2, 2)) for k in range(30)}
    with pytest.raises(MissingInput, match=r"view19 and 10 more"):
        Table.from_arrays(many, need_labels=True)


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


def test_the_parts_of_a_split_may_be_masks() -> None:
    inside = np.array([True, True, False, True, False, False])
    table = Table.from_arrays(
        arrays(train=inside, validation=[2], test=~inside & (np.arange(6) > 2))
    )
    assert table.train is not None
    assert table.test is not None
    assert table.train.tolist() == [0, 1, 3]
    assert table.test.tolist() == [4, 5]


def test_groups_on_both_sides_of_a_split_are_said() -> None:
    named = arrays(labels=[0, 1, 0, 1, 0, 1], groups=["a", "b", "c", "d", "a", "e"])
    (note,) = Table.from_arrays(named).notes()
    assert note.startswith("1 group with rows both in training and in test")
    assert Table.from_arrays(named | {"test": np.array([5])}).notes() == ()


def test_classes_that_training_lacks_are_said() -> None:
    named = arrays(labels=["a", "b", "a", "b", "c", "a"], train=None, validation=[2])
    (note,) = Table.from_arrays(named).notes()
    assert note == (
        "test rows of classes that no training row has, which count as wrong: 'c' (1 row)"
    )
    assert Table.from_arrays(named).rows(slice(None)).notes() == ()


# -------------------------------------------------------------------------------- not finite


def test_columns_without_a_number_are_named() -> None:
    text = arrays()["text"].copy()
    text[:, 1] = NAN
    with pytest.raises(
        MissingInput, match=r"'text'.*NaN or Inf in 4 rows: 4 cells, in column 1.*fill"
    ):
        Table.from_arrays(arrays(text=text), need_labels=True)
    with pytest.raises(MissingInput, match=r"nothing is present.*column 1 of 'text'"):
        Table.from_arrays(arrays(text=text, image=None, present=None), need_labels=True)


@settings(max_examples=50, deadline=None, derandomize=True, database=None)
@given(seed=st.integers(0, 2**32), rows=st.integers(1, 20), width=st.integers(2, 9))
def test_what_is_not_finite_is_counted(seed: int, rows: int, width: int) -> None:
    """Against counting by hand; where a modality is absent nothing counts."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(rows, width)) + 0.5
    bad = random.random(x.shape) < random.random()
    x[bad] = random.choice([NAN, np.inf, -np.inf], size=x.shape)[bad]
    there = random.random(rows) < 0.7
    table = Table.from_arrays({"a": x, "b": np.full((rows, 2), 0.5), "present.a": there})
    found = table.nonfinite["a"]
    places = [(i, j) for i in range(rows) for j in range(width) if bad[i, j] and there[i]]
    assert found.cells == len(places)
    assert found.rows == len({i for i, _ in places})
    assert found.columns == tuple(sorted({j for _, j in places}))
    assert table.present[:, 0].tolist() == [there[i] and not bad[i].any() for i in range(rows)]
    assert len(table.notes()) == bool(places)


# ---------------------------------------------------------------------- lacking and left over


def test_a_modality_that_the_table_lacks_is_absent_where_widths_are_known() -> None:
    named = arrays(text=None, present=None)
    with pytest.raises(MissingInput, match="lacks modality 'text'"):
        Table.from_arrays(named, axis=("text", "image"))
    table = Table.from_arrays(named, axis=("text", "image"), widths={"text": 3, "image": 2})
    assert table.modalities == ("text", "image")
    assert table.embeddings["text"].shape == (6, 3)
    assert table.present.tolist() == [[False, True]] * 6
    assert "modality 'text' is not in the table: it is absent in all rows" in table.notes()
    assert table.nonfinite["text"].rows == 0


def test_arrays_beside_the_modalities_of_an_artifact_are_left_alone_and_said() -> None:
    named = arrays(present=None) | {"audio": np.full((6, 4), 0.3), "y": np.arange(6)[:, None]}
    table = Table.from_arrays(named, axis=("text", "image"))
    assert table.modalities == ("text", "image")
    assert table.notes()[:2] == ("array 'audio' is not used", "array 'y' is not used")


LEFT_OVER: dict[str, tuple[str, Any, str]] = {
    "a mask": ("known", np.ones((6, 2), dtype=bool), "looks like a mask.*'present'"),
    "a mask of numbers": ("known", np.eye(6)[:, :2], "looks like a mask"),
    "a mask by its name": ("Presents", np.full((6, 3), 0.5), "Did you mean 'present'"),
    "one that lacks": ("Text", np.full((6, 3), 0.5), "Did you mean 'text'"),
    "another that lacks": ("words", np.full((6, 3), 0.5), "no 'text'"),
}


@pytest.mark.parametrize("case", LEFT_OVER)
def test_no_mask_and_no_misspelt_modality_is_left_alone(case: str) -> None:
    name, array, word = LEFT_OVER[case]
    named = arrays(present=None) | {name: array}
    if "lacks" in case:
        del named["text"]
    with pytest.raises(SpecError, match=word):
        Table.from_arrays(named, axis=("text", "image"), widths={"text": 3, "image": 2})
    chosen = Table.from_arrays(
        named, ("image",), axis=("text", "image"), widths={"text": 3, "image": 2}
    )
    assert chosen.modalities == ("text", "image")
    assert f"array {name!r} is not used" in chosen.notes()


# --------------------------------------------------------------------------- misread otherwise

LOOKS: dict[str, tuple[str, Any, str]] = {
    "mask": ("mask", np.ones((6, 2), dtype=bool), "a mask.*Did you mean present"),
    "mask of one": ("seen", np.ones(6, dtype=bool), "a mask.*present.<modality>, train or test"),
    "mask of integers": ("avail", np.eye(6, dtype=np.uint8)[:, 1:3], "a mask"),
    "mask of floats": ("known", np.eye(6)[:, 1:3], "a mask"),
    "column of labels": ("y", [[0], [1], [0], [1], [2], [2]], "labels.*there already"),
    "labels again": ("cls", [0, 1, 0, 1, 2, 2], "looks like labels"),
    "labels as floats": ("out", [[0.0], [1], [0], [1], [2], [2]], "looks like labels"),
    "one-hot": ("encoded", np.eye(3)[[0, 1, 0, 1, 2, 2]], "one-hot"),
    "targets": ("targets", np.linspace(0, 1, 12).reshape(6, 2), "targets, by its name"),
    "a quantity": ("y", np.linspace(0, 1, 6)[:, None], "one number a row.*labels"),
    "classes": ("kind", ["a", "b", "a", "b", "c", "c"], "names.*labels or groups"),
    "ids": ("key", ["u", "v", "w", "x", "y", "z"], "names of rows.*needs none: leave it out"),
    "numbers of rows": ("row", np.arange(6), "numbers of rows.*leave it out"),
    "indices": ("val", [2, 3], "row indices.*validation"),
    "subjects": ("subject", [0, 0, 1, 1, 2, 2], "Did you mean groups"),
    "fold": ("fold", [0, 1, 2, 0, 1, 2], "train, validation and test"),
    "weight": ("weight", np.linspace(0, 1, 6), "Did you mean sample_weight"),
    "misspelt": ("lables", [0, 1, 0, 1, 2, 2], "Did you mean labels"),
}


@pytest.mark.parametrize("case", LOOKS)
def test_what_looks_like_no_embedding_is_refused_unless_modalities_are_chosen(case: str) -> None:
    name, value, word = LOOKS[case]
    named = arrays(present=None) | {name: np.asarray(value)}
    with pytest.raises(SpecError, match=word) as caught:
        Table.from_arrays(named)
    assert repr(name) in str(caught.value)
    assert "--modalities image,text" in str(caught.value)
    chosen = Table.from_arrays(named, ("text", "image"))
    assert chosen.modalities == ("text", "image")
    assert chosen.notes()[0] == f"array {name!r} is not used"


@pytest.mark.parametrize(
    "values",
    [
        np.linspace(0, 1, 6)[:, None],  # one number a row, under a name that says nothing
        np.array([[0, 1, 1, 0]] * 6, dtype=np.uint8),  # a fingerprint
        np.random.default_rng(0).normal(size=(6, 2)),
        np.zeros((6, 2)),
        np.arange(18).reshape(6, 3),
    ],
    ids=["a sensor", "a fingerprint", "as wide as M", "zeros", "counts"],
)
def test_what_may_be_an_embedding_is_one(values: Any) -> None:
    assert Table.from_arrays(arrays(present=None) | {"more": values}).modalities[2] == "more"


def test_what_looks_odd_is_a_modality_if_somebody_says_so() -> None:
    bits = np.eye(6, dtype=bool)[:, :2]
    table = Table.from_arrays({"image": arrays()["image"], "bits": bits}, ("bits", "image"))
    assert table.embeddings["bits"].tolist() == bits.astype(float).tolist()


@pytest.mark.parametrize(
    "name", ["probabilities", "weights", "active", "fused", "ids", "typicality", "confidence"]
)
def test_outputs_are_no_inputs(name: str) -> None:
    named = arrays(present=None) | {name: np.full((6, 2), 0.3)}
    with pytest.raises(SpecError, match=f"'{name}'.*Rename it"):
        Table.from_arrays(named)
    with pytest.raises(SpecError, match=f"'{name}'"):
        Table.from_arrays(named, ("image", name))
    assert Table.from_arrays(named, ("image",)).modalities == ("image",)


CHOICES: dict[str, tuple[tuple[str, ...], str]] = {
    "unknown": (("image", "texd"), "lacks modality 'texd'.*'text'"),
    "twice": (("image", "image"), "distinct"),
    "none": ((), "distinct"),
    "reserved": (("image", "train"), "'train'"),
    "reserved by prefix": (("image", "present.image"), "'present.image'"),
}


@pytest.mark.parametrize("case", CHOICES)
def test_a_choice_of_modalities_is_checked(case: str) -> None:
    names, word = CHOICES[case]
    with pytest.raises(DMSError, match=word):
        Table.from_arrays(arrays(), names)


def test_a_choice_is_among_what_was_learned() -> None:
    with pytest.raises(SpecError, match="'text' is chosen, but it was not learned"):
        Table.from_arrays(arrays(), ("text",), axis=("image",))
