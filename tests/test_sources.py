"""Where a table comes from: every frame and file of the same rows gives the same table."""

from __future__ import annotations

import json
import pickle
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.csv
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from fuzzing import small_artifact
from hypothesis import given, settings
from hypothesis import strategies as st

from dms_spec.artifact import load_artifact, save_artifact
from dms_spec.embeddings.scoring import Scorer
from dms_spec.embeddings.sources.columns import Columns, natural, take
from dms_spec.embeddings.sources.frame_files import readable
from dms_spec.embeddings.sources.frames import arrays_of_frame
from dms_spec.embeddings.table import Table, read_table
from dms_spec.errors import (
    BackendUnavailable,
    DMSError,
    DTypeError,
    FileError,
    MissingInput,
    ShapeError,
    SpecError,
)

Run = Callable[..., Any]

BLOCKS = {"image": "clip", "text": "e5_*"}
COLUMNS = Columns(modalities=BLOCKS, labels="genre", groups="band", sample_weight="w", split="part")


class Rows:
    """The rows that all frames and files are made of."""

    def __init__(self, n: int, seed: int) -> None:
        random = np.random.default_rng(seed)
        self.image = random.normal(size=(n, 3)).astype(np.float32)
        self.text = random.normal(size=(n, 11))
        self.there = random.random((n, 2)) < 0.7
        self.genre = [["rock", "pop", None][k] for k in random.integers(0, 3, n)]
        self.band = random.integers(0, 2**40, n)
        self.weight = random.random(n) + 0.5
        self.part = [["train", "val", "test", None][k] for k in random.integers(0, 4, n)]

    def table(self) -> Table:
        """Made of arrays, as everything else is compared with."""
        return Table.from_arrays(self.arrays(), ("image", "text"))

    def arrays(self) -> dict[str, Any]:
        """As `Table.from_arrays` takes them."""
        arrays = {
            "image": self.image,
            "text": self.text,
            "present.image": self.there[:, 0],
            "present.text": self.there[:, 1],
            "labels": self.genre,
            "groups": self.band,
            "sample_weight": self.weight,
        }
        parts = {"train": "train", "validation": "val", "test": "test"}
        split = {n: np.array([p == s for p in self.part], bool) for n, s in parts.items()}
        split = {n: rows for n, rows in split.items() if rows.any()}
        return arrays | split

    def cells(self, gap: Any = None) -> dict[str, list[Any]]:
        """Columns of Python's own; the columns of text in an order that is not theirs."""
        image, text = self.there.T
        columns = {
            "clip": [r.tolist() if t else None for r, t in zip(self.image, image, strict=True)]
        }
        for k in reversed(range(11)):
            cells = zip(self.text[:, k].tolist(), text, strict=True)
            columns[f"e5_{k}"] = [x if t else gap for x, t in cells]
        return columns | {
            "genre": self.genre,
            "band": self.band.tolist(),
            "w": self.weight.tolist(),
            "part": self.part,
            "title": [f"song {k}" for k in range(len(self.image))],
        }

    def arrow(self, clip: Any = None) -> pa.Table:
        types = {
            "clip": clip or pa.list_(pa.float32(), 3),
            "genre": pa.string(),
            "part": pa.string(),
        }
        return pa.table(
            {
                name: pa.array(cells, types.get(name, None if cells else pa.float64()))
                for name, cells in self.cells().items()
            }
        )


def of_pandas(rows: Rows) -> pd.DataFrame:
    frame = pd.DataFrame(rows.cells(float("nan")))
    frame["clip"] = [None if x is None else np.array(x, np.float32) for x in frame["clip"]]
    frame["genre"] = frame["genre"].astype("category")
    frame[7] = 1.0  # names of mixed types, and a cell that Arrow does not know
    frame["odd"] = [object()] * len(frame)
    return frame.set_index("title")


def of_polars(rows: Rows) -> pl.DataFrame:
    frame = pl.DataFrame(rows.cells(), strict=False)
    kinds = {"clip": pl.Array(pl.Float32, 3), "genre": pl.Categorical}
    return frame.with_columns(pl.col(name).cast(kind) for name, kind in kinds.items())


def sliced(rows: Rows) -> pa.Table:
    """The same rows out of the middle of a longer table, in three chunks."""
    table = rows.arrow(pa.list_(pa.float32()))
    longer = pa.concat_tables([table, table, table]).combine_chunks()
    middle = longer.slice(len(table), len(table))
    third = len(table) // 3
    return pa.concat_tables(
        [middle.slice(0, third), middle.slice(third, third), middle.slice(2 * third)]
    )


class Dataset:
    """The face of `datasets.Dataset` whose rows were chosen: its Arrow table has others."""

    def __init__(self, rows: Rows) -> None:
        self._rows, self.num_rows = rows, len(rows.image)

    def with_format(self, kind: str) -> Any:
        assert kind == "arrow"
        return self

    def __getitem__(self, rows: slice) -> pa.Table:
        return self._rows.arrow()[rows]


FRAMES: dict[str, Callable[[Rows], Any]] = {
    "fixed lists": lambda rows: rows.arrow(),
    "lists": lambda rows: rows.arrow(pa.list_(pa.float32())),
    "large lists": lambda rows: rows.arrow(pa.large_list(pa.float32())),
    "list views": lambda rows: rows.arrow(pa.list_view(pa.float32())),
    "a slice": sliced,
    "batches": lambda rows: rows.arrow().to_reader(2),
    "pandas": of_pandas,
    "polars": of_polars,
    "datasets": Dataset,
}


def same(one: Table, other: Table) -> None:
    assert one.modalities == other.modalities
    assert np.array_equal(one.present, other.present)
    for m, name in enumerate(one.modalities):
        a, b = one.embeddings[name], other.embeddings[name]
        assert np.array_equal(a[one.present[:, m]], b[one.present[:, m]])
        assert a.shape == b.shape
    known = one.labelled_rows()
    assert np.array_equal(known, other.labelled_rows())
    if len(known):
        assert np.array_equal(one.labels[known], other.labels[known])
    for name in ("groups", "sample_weight", "train", "validation", "test"):
        assert np.array_equal(getattr(one, name), getattr(other, name)), name


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_every_frame_gives_the_same_table(n: int, seed: int) -> None:
    rows = Rows(n, seed)
    wanted = rows.table()
    for name, make in FRAMES.items():
        got = arrays_of_frame(make(rows), COLUMNS, widths={"image": 3, "text": 11}, where=name)
        same(wanted, Table.from_arrays(got, ("image", "text")))


def test_a_mapping_is_enough_and_its_columns_are_in_natural_order() -> None:
    rows = Rows(4, 0)
    rows.there[:] = True
    got = arrays_of_frame(of_pandas(rows), BLOCKS)
    assert list(got) == ["image", "text"]
    assert np.array_equal(got["text"], rows.text) and got["image"].dtype == np.float32
    listed = arrays_of_frame(rows.arrow(), {"text": ["e5_10", "e5_2"]})
    assert np.array_equal(listed["text"], rows.text[:, [10, 2]])
    assert sorted(["e5_10", "e5_2", "e5_1"], key=natural) == ["e5_1", "e5_2", "e5_10"]


def test_without_a_mapping_each_column_of_vectors_is_a_modality() -> None:
    frame = pa.table(
        {"a": [[1.0, 2.0], None], "labels": ["x", "y"], "year": [1, 2], "s": [["t"], []]}
    )
    got = arrays_of_frame(frame, {})
    assert list(got) == ["a", "present.a", "labels"]
    assert got["present.a"].tolist() == [True, False]


def test_null_is_absent_for_a_row_and_nan_inside_of_one() -> None:
    frame = pa.table(
        {
            "v": pa.array([[1, None], [2, 3], None], pa.list_(pa.int8())),
            "x": [1.0, None, None],
            "y": [None, float("nan"), 5.0],
        }
    )
    got = arrays_of_frame(frame, {"v": "v", "xy": ["x", "y"]})
    assert got["present.v"].tolist() == [True, True, False]
    assert got["present.xy"].tolist() == [True, False, True]
    table = Table.from_arrays(got, ("v", "xy"))
    assert table.present.tolist() == [[False, False], [True, False], [False, False]]
    assert [note.partition(" ")[0] for note in table.notes()] == ["1", "2"]


def test_numbers_of_every_width_come_whole() -> None:
    columns = {
        "half": pa.array([1.5, None], pa.float16()),
        "huge": pa.array([2**53, 1], pa.int64()),
        "yes": pa.array([True, None]),
        "price": pa.array([Decimal("1.25"), None]),
        "code": pa.array([1.0, 2.0]).dictionary_encode(),
        "nothing": pa.nulls(2),
    }
    for name, column in columns.items():
        got = arrays_of_frame(pa.table({name: column, "z": [0.0, 0.0]}), {"m": [name, "z"]})["m"]
        wanted = [np.nan if x is None else float(x) for x in column.to_pylist()]
        assert np.array_equal(got[:, 0].astype(float), wanted, equal_nan=True), name
    half = arrays_of_frame(pa.table({"h": columns["half"]}), {"h": "h"})["h"]
    assert half.dtype == np.float16
    labels = pa.array([2**60 + 1, None], pa.int64())
    got = arrays_of_frame(
        pa.table({"y": labels, "x": [0.5, 1.5]}), Columns(modalities={"x": "x"}, labels="y")
    )
    assert Table.from_arrays(got, ("x",)).labels.tolist()[0] == 2**60 + 1


def test_a_tensor_of_fixed_shape_is_a_vector() -> None:
    column = pa.FixedShapeTensorArray.from_numpy_ndarray(np.arange(6.0).reshape(3, 2))
    assert arrays_of_frame(pa.table({"v": column}), {"v": "v"})["v"].tolist()[2] == [4.0, 5.0]


def test_a_frame_without_rows_is_an_empty_table() -> None:
    frame = pa.table(
        {"v": pa.array([], pa.list_(pa.float32(), 3)), "e5_0": pa.array([], pa.float64())}
    )
    got = arrays_of_frame(frame, {"image": "v", "text": "e5_*"})
    assert {name: array.shape for name, array in got.items()} == {"image": (0, 3), "text": (0, 1)}
    lists = pa.table({"v": pa.array([], pa.list_(pa.float32()))})
    assert arrays_of_frame(lists, {"image": "v"}) == {}
    assert arrays_of_frame(lists, {"image": "v"}, widths={"image": 5})["image"].shape == (0, 5)


FRAME = pa.table(
    {
        "clip": [[1.0, 2.0], [1.0]],
        "deep": [[[1.0]], [[2.0]]],
        "e5_0": [1.0, 2.0],
        "e5_1": [1.0, 2.0],
        "when": pa.array([0, 1], pa.timestamp("s")),
        "genre": ["a", "b"],
        "part": ["train", "later"],
        "test": [0, 1],
    }
)


WRONG: list[tuple[Any, type[DMSError], tuple[str, ...]]] = [
    ({"image": "clip"}, ShapeError, ("differ in length: expected 2 numbers", "got 1 in row 1")),
    ({"image": "deep"}, ShapeError, ("'deep' of the frame holds a matrix in each row",)),
    ({"image": "clib"}, MissingInput, ("Did you mean 'clip'?",)),
    ({"image": "e6_*"}, MissingInput, ("'e6_*', for modality 'image'", "Did you mean 'e5_0'?")),
    ({"a": "e5_*", "b": "e5_1"}, SpecError, ("'e5_1' of the frame is taken", "'a' and 'b'")),
    ({"a": ["e5_0", "e5_*"]}, SpecError, ("'e5_0' of the frame is taken twice",)),
    ({"a": ["e5_0", "when"]}, DTypeError, ("'when' of the frame does not hold", "timestamp")),
    ({"a": "genre"}, DTypeError, ("'genre' of the frame does not hold numbers", "string")),
    ({"a": ["e5_0", "clip"]}, SpecError, ("'clip' and 'e5_0'",)),
    (Columns(modalities={"a": "e5_1"}, labels="e5_1"), SpecError, ("and something else",)),
    (Columns(modalities={"a": "e5_1"}, labels="gender"), MissingInput, ("'gender', for labels",)),
    (Columns(modalities={"a": "e5_1"}, split="part"), SpecError, ("got 'later' in row 1",)),
    ({"a": "e5_1", "b": "test"}, SpecError, ("'test' of the frame is taken twice",)),
]


@pytest.mark.parametrize(("columns", "error", "words"), WRONG)
def test_what_cannot_be_read_is_refused_with_its_column(
    columns: Any, error: type[DMSError], words: tuple[str, ...]
) -> None:
    with pytest.raises(error) as caught:
        arrays_of_frame(FRAME if "'test'" in words[0] else FRAME.drop(["test"]), columns)
    assert all(word in str(caught.value) for word in words), caught.value


def test_a_column_with_the_name_of_a_split_says_true_or_false() -> None:
    with pytest.raises(DTypeError, match="column 'test' of the frame has the wrong dtype"):
        arrays_of_frame(FRAME, {"a": "e5_1"})


def test_columns_that_are_there_twice_or_unreadable_matter_where_they_are_taken() -> None:
    twice = pd.DataFrame(np.eye(3), columns=["a", "b", "b"])
    assert arrays_of_frame(twice, {"m": "a"})["m"].shape == (3, 1)
    with pytest.raises(SpecError, match="'b' of the frame is there twice"):
        arrays_of_frame(twice, {"m": "b*"})
    with pytest.raises(DTypeError, match="column 'b' of the frame cannot be read"):
        arrays_of_frame(pd.DataFrame({"a": [1.0, 2.0], "b": [1, "x"]}), {"m": "*"})
    for nothing in (3, pl.LazyFrame({"a": [1]}), [[1.0]], {"train": twice}):
        with pytest.raises(DTypeError, match="the frame cannot be read as a frame"):
            arrays_of_frame(nothing, {"m": "a"})


def test_a_pattern_leaves_out_what_is_used_as_something_else() -> None:
    names = ("x1", "x0", "xlabel", "__index_level_0__")
    found = take(names, Columns(modalities={"m": "*"}, labels="xlabel"), "the frame")
    assert found.modalities == {"m": ("x0", "x1")}
    assert found.notes == ("modality 'm' leaves out xlabel: used as something else",)
    again = Columns.from_dict(found.columns().to_dict(), "it")
    assert again == Columns(modalities={"m": ["x0", "x1"]}, labels="xlabel")


def test_what_an_artifact_remembers_may_lack_whole_and_not_in_part() -> None:
    before = Columns(modalities={"a": ["a0", "a1"], "b": ["b0"]}, labels="genre")
    found = take(("a0", "a1", "c"), Columns(id="c"), "the frame", before=before)
    assert found.modalities == {"a": ("a0", "a1")} and found.arrays == {} and found.id == "c"
    with pytest.raises(MissingInput, match="no column 'a1', for a"):
        take(("a0", "b0"), Columns(), "the frame", before=before)


# ----------------------------------------------------------------------------------------- files


def to_npz(rows: Rows, path: Path) -> None:
    np.savez(path, **plain_arrays(rows))


def to_folder(rows: Rows, path: Path) -> None:
    path.mkdir()
    for name, array in plain_arrays(rows).items():
        np.save(path / f"{name}.npy", array)


def plain_arrays(rows: Rows) -> dict[str, np.ndarray]:
    """With strings as a file holds them without a pickle."""
    labels = np.array([genre or "" for genre in rows.genre])
    return {name: np.asarray(a) for name, a in (rows.arrays() | {"labels": labels}).items()}


def to_csv(rows: Rows, path: Path) -> None:
    """One column for each number, since CSV has no vectors."""
    table = rows.arrow().drop(["clip"])
    for k in range(3):
        cells = [x if t else None for x, t in zip(rows.image[:, k], rows.there[:, 0], strict=True)]
        table = table.append_column(f"clip_{k}", pa.array(cells, pa.float64()))
    with pa.CompressedOutputStream(path, "gzip") if path.suffix == ".gz" else path.open("wb") as f:
        pa.csv.write_csv(table, f)


def to_stream(rows: Rows, path: Path) -> None:
    table = rows.arrow()
    with pa.ipc.new_stream(path, table.schema) as stream:
        stream.write_table(table, max_chunksize=4)


def to_parts(rows: Rows, path: Path) -> None:
    """As engines write them: a part may have no rows, and part 10 comes after part 9."""
    path.mkdir()
    table = rows.arrow()
    for k in range(11):
        pq.write_table(table.slice(k, 1 if k < 10 else None), path / f"part-{k}.parquet")


FILES: dict[str, Callable[[Rows, Path], None]] = {
    "t.npz": to_npz,
    "folder": to_folder,
    "t.parquet": lambda rows, path: pq.write_table(rows.arrow(), path, row_group_size=3),
    "pandas.parquet": lambda rows, path: of_pandas(rows).drop(columns=["odd", 7]).to_parquet(path),
    "polars.parquet": lambda rows, path: of_polars(rows).write_parquet(path),
    "parts": to_parts,
    "t.feather": lambda rows, path: pa.feather.write_feather(rows.arrow(), path),
    "t.arrow": to_stream,
    "t.csv": to_csv,
    "t.csv.gz": to_csv,
}


@settings(max_examples=4, deadline=None)
@given(st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_every_file_gives_the_same_table(n: int, seed: int) -> None:
    rows = Rows(n, seed)
    wanted = rows.table()
    for name, write in FILES.items():
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / name
            write(rows, path)
            got = read_table(path, axis=("image", "text"), widths=WIDTHS, **given_columns(name))
            same(wanted, got)


WIDTHS = {"image": 3, "text": 11}


def given_columns(name: str) -> dict[str, Any]:
    if name in ("t.npz", "folder"):
        return {}
    blocks = {**BLOCKS, "image": "clip_*"} if "csv" in name else BLOCKS
    return {"columns": replace(COLUMNS, modalities=blocks)}


@pytest.fixture(scope="module")
def art(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact for modalities a and b of width 3, fitted to nothing."""
    path = tmp_path_factory.mktemp("art") / "art"
    save_artifact(path, small_artifact())
    return path


def small_frame(rows: int = 50, **more: Any) -> pa.Table:
    random = np.random.default_rng(3)
    there = random.random((2, rows)) < 0.8
    columns = {
        name: pa.FixedSizeListArray.from_arrays(
            pa.array(random.normal(size=3 * rows).astype("f4")), 3, mask=pa.array(~t)
        )
        for name, t in zip("ab", there, strict=True)
    }
    return pa.table({"track": [f"t{k}" for k in range(rows)], **columns, **more})


def test_predict_writes_the_same_rows_from_and_to_every_format(
    dms: Run, art: Path, tmp_path: Path
) -> None:
    frame = small_frame(labels=[0, 1, None, 7, 1] * 10)
    pq.write_table(frame, tmp_path / "t.parquet", row_group_size=11)
    arrays = arrays_of_frame(frame, {"a": "a", "b": "b"})
    labels = arrays.pop("labels").astype(float)
    arrays["a"][4] = np.nan
    arrays["a"][[7, 33], 1] = np.nan
    np.savez(tmp_path / "t.npz", **arrays, labels=labels)
    cells = [x and [None if y != y else y for y in x] for x in arrays["a"].tolist()]
    present = arrays["present.a"].tolist()
    cells = [x if t else None for x, t in zip(cells, present, strict=True)]
    frame = frame.set_column(1, "a", pa.array(cells, pa.list_(pa.float32(), 3)))
    pq.write_table(frame, tmp_path / "t.parquet", row_group_size=11)

    said = {}
    for name in ("t.npz", "t.parquet"):
        for out in ("npz", "parquet"):
            path = tmp_path / f"{name}.{out}"
            done = dms("predict", art, tmp_path / name, "-o", path, "--batch-size", 7, "--json")
            assert done.code == 0, done.err
            said[name, out] = json.loads(done.out) | {"output": ""}
    first, *others = said.values()
    drop = "labels are float64 and hold whole numbers: they are read as integers"
    first["notes"].remove(drop)
    assert "2 rows of 'a' are present but hold NaN or Inf" in " ".join(first["notes"])
    assert "no label in 10 of 50 rows" in " ".join(first["notes"])
    for other in others:
        other["notes"] = [note for note in other["notes"] if note != drop]
        assert sorted(other.pop("notes")) == sorted(first["notes"])
    assert all(other == {k: v for k, v in first.items() if k != "notes"} for other in others)
    wanted = np.load(tmp_path / "t.npz.npz")
    for name in ("t.parquet.npz", "t.npz.parquet", "t.parquet.parquet"):
        got = written(tmp_path / name)
        assert set(got) == set(wanted)
        for key in wanted:
            assert np.array_equal(got[key], wanted[key]) and got[key].dtype == wanted[key].dtype


def written(path: Path) -> dict[str, np.ndarray]:
    """What predict wrote, as arrays."""
    if path.suffix == ".npz":
        return dict(np.load(path))
    table = pq.read_table(path)
    assert json.loads(pq.read_metadata(path).metadata[b"classes"]) == [0, 1]
    result = {}
    for name in table.column_names:
        column = table[name].combine_chunks()
        wide = pa.types.is_fixed_size_list(column.type)
        flat = (column.flatten() if wide else column).to_numpy(zero_copy_only=False)
        result[name] = flat.reshape(len(table), -1) if wide else flat
    return result


def test_predict_carries_the_names_of_the_rows_into_parquet(
    dms: Run, art: Path, tmp_path: Path
) -> None:
    pq.write_table(small_frame(), tmp_path / "t.parquet")
    given = ("predict", art, tmp_path / "t.parquet", "--id", "track", "--batch-size", 9, "-o")
    for _ in range(2):  # the second replaces the first
        assert dms(*given, tmp_path / "out.parquet").code == 0
    table = pq.read_table(tmp_path / "out.parquet")
    assert table["track"].to_pylist() == [f"t{k}" for k in range(50)]
    done = dms(*given, tmp_path / "out.npz")
    assert done.code == 0 and "'track' is not written: only .parquet carries it" in done.err
    pq.write_table(table, tmp_path / "out.parquet")  # without our mark
    assert "is not replaced" in dms(*given, tmp_path / "out.parquet").err
    renamed = small_frame().rename_columns(["weights", "a", "b"])
    pq.write_table(renamed, tmp_path / "t.parquet")
    given = ("predict", art, tmp_path / "t.parquet", "--id", "weights", "-o")
    assert "column 'weights' has the name of something" in dms(*given, tmp_path / "o.parquet").err
    assert not (tmp_path / "o.parquet").exists()


def test_predict_takes_a_frame_without_rows_and_one_that_lacks_a_modality(
    dms: Run, art: Path, tmp_path: Path
) -> None:
    for name, frame in (("none", small_frame().slice(0, 0)), ("one", small_frame().drop(["b"]))):
        pq.write_table(frame, tmp_path / f"{name}.parquet")
        out = tmp_path / f"out-{name}.parquet"
        done = dms("predict", art, tmp_path / f"{name}.parquet", "-o", out)
        assert done.code == 0, done.err
        assert pq.read_metadata(out).num_rows == len(frame)
    assert "modality 'b' is not in" in done.err


@pytest.mark.parametrize(("version", "words"), [("25.0.0", "pyarrow 26"), ("26.0.1", "damaged")])
def test_what_an_old_pyarrow_cannot_read_is_no_damage(
    monkeypatch: pytest.MonkeyPatch, version: str, words: str
) -> None:
    """As 17 to 25 say it of a null vector of a fixed size."""
    monkeypatch.setattr(pa, "__version__", version)
    with pytest.raises(FileError, match=words), readable("table.parquet", ".parquet"):
        raise pa.ArrowInvalid("Expected all lists to be of size=3 but index 2 had size=0")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("t.parquet", "cannot read"),
        ("t.feather", "cannot read"),
        ("t.csv", "has no column of vectors, and no modality is named"),
        ("t.csv.gz", "cannot read"),
        ("t.xlsx", "a folder of .npy or .parquet files, or .npz, .safetensors, .parquet"),
        ("folder", "expected a folder with an .npy file for each array, or"),
    ],
)
def test_a_damaged_file_is_one_message(
    dms: Run, art: Path, tmp_path: Path, name: str, words: str
) -> None:
    path = tmp_path / name
    path.mkdir() if name == "folder" else path.write_bytes(b"PAR1 not at all\n1")
    done = dms("predict", art, path, "-o", tmp_path / "out.npz")
    assert done.code == 2 and words in done.err and done.err.count("\n") == 1
    assert not (tmp_path / "out.npz").exists()


def test_a_cut_parquet_file_and_columns_of_arrays_are_refused(
    dms: Run, art: Path, tmp_path: Path
) -> None:
    pq.write_table(small_frame(), tmp_path / "t.parquet", row_group_size=5)
    whole = (tmp_path / "t.parquet").read_bytes()
    (tmp_path / "t.parquet").write_bytes(whole[:300] + bytes(300) + whole[600:])
    done = dms("predict", art, tmp_path / "t.parquet", "-o", tmp_path / "out.parquet")
    assert done.code == 2 and "cannot read" in done.err
    np.savez(tmp_path / "t.npz", a=np.ones((2, 3)), b=np.ones((2, 3)))
    for option, words in (("a=b", "has no columns to choose"), ("a", "expected NAME=COL,...")):
        done = dms(
            "predict", art, tmp_path / "t.npz", "-o", tmp_path / "o.npz", "--modality", option
        )
        assert done.code == 2 and words in done.err


def test_a_folder_of_parts_is_one_table_with_one_kind_of_columns(
    dms: Run, art: Path, tmp_path: Path
) -> None:
    parts = tmp_path / "parts"
    parts.mkdir()
    frame = small_frame()
    for k, part in enumerate((frame[:20], frame[20:20], frame[20:])):
        pq.write_table(part, parts / f"{k}.parquet")
    pq.write_table(frame, tmp_path / "t.parquet")
    for source, out in ((parts, "parts.parquet"), (tmp_path / "t.parquet", "whole.parquet")):
        done = dms("predict", art, source, "-o", tmp_path / out, "--id", "track")
        assert done.code == 0, done.err
    one, other = (pq.read_table(tmp_path / n) for n in ("parts.parquet", "whole.parquet"))
    assert one.equals(other)
    for among in ("out.parquet", "out.npz"):
        done = dms("predict", art, parts, "-o", parts / among)
        assert done.code == 2 and "would stand among the files of the input" in done.err
    pq.write_table(frame.drop(["track"]), parts / "3.parquet")
    done = dms("predict", art, parts, "-o", tmp_path / "out.npz")
    assert done.code == 2 and "differ in their columns" in done.err and "3.parquet" in done.err
    (parts / "3.parquet").write_bytes(b"PAR1")
    assert "3.parquet" in dms("predict", art, parts, "-o", tmp_path / "out.npz").err


def test_an_error_in_a_later_part_counts_its_row_from_the_first_of_the_file(
    dms: Run, art: Path, tmp_path: Path
) -> None:
    cells = [[1.0, 2.0, 3.0]] * 20 + [[1.0]]
    pq.write_table(pa.table({"a": cells, "b": cells}), tmp_path / "t.parquet")
    out = tmp_path / "out.npz"
    done = dms("predict", art, tmp_path / "t.parquet", "-o", out, "--batch-size", 20)
    assert done.code == 2 and "from row 20 on: " in done.err


def test_fit_remembers_the_columns_and_learns_what_it_learns_from_arrays(
    dms: Run, tmp_path: Path
) -> None:
    pytest.importorskip("torch")
    rows = Rows(240, 1)
    to_npz(rows, tmp_path / "t.npz")
    FILES["t.parquet"](rows, tmp_path / "t.parquet")
    asked = ["--modality", "image=clip", "--modality", "text=e5_*", "--label", "genre"]
    asked += ["--group", "band", "--weight", "w", "--split", "part", "--id", "title"]
    for name, more in (("t.npz", []), ("t.parquet", asked)):
        out = tmp_path / f"art-{name}"
        learn = ("--epochs", 1, "--passes", 0, "--spec", "static")
        done = dms("fit", tmp_path / name, "-o", out, *learn, *more)
        assert done.code == 0, done.err
    arts = [load_artifact(tmp_path / f"art-{name}") for name in ("t.npz", "t.parquet")]
    for name, array in arts[0].parameters.items():
        assert np.array_equal(arts[1].parameters[name], array)
    kept = Columns.of_model(arts[1].model)
    assert kept is not None and list(kept.modalities["text"]) == [f"e5_{k}" for k in range(11)]
    assert Columns.of_model(arts[0].model) is None

    for verb in (
        ("predict", out, tmp_path / "t.parquet", "-o", tmp_path / "out.parquet"),
        ("robustness", out, tmp_path / "t.parquet", "-o", tmp_path / "r",
         "--corruption", "gaussian:0.5", "--seeds", 1),
        ("explain", tmp_path / "t.parquet", "--spec", out, "--sample", 3),
    ):  # fmt: skip
        done = dms(*verb)
        assert done.code == 0, done.err
    assert pq.read_table(tmp_path / "out.parquet")["title"].to_pylist()[0] == "song 0"
    pq.write_table(rows.arrow().drop(["e5_3"]), tmp_path / "t.parquet")
    done = dms("predict", out, tmp_path / "t.parquet", "-o", tmp_path / "out.parquet")
    assert done.code == 2 and "no column 'e5_3', for text" in done.err


def test_a_frame_makes_a_table_that_says_where_it_comes_from() -> None:
    rows = Rows(8, 2)
    same(rows.table(), table := Table.from_frame(of_polars(rows), COLUMNS, widths=WIDTHS))
    assert table.columns is not None and table.columns.labels == "genre"
    assert table.rows(slice(2)).columns == table.columns
    with pytest.raises(SpecError, match="columns in the artifact's model does not name columns"):
        Columns.of_model({"columns": {"modalities": {"image": "clip"}}})


def test_without_pyarrow_the_message_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, dms: Run, art: Path, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    done = dms("predict", art, tmp_path / "t.parquet", "-o", tmp_path / "out.npz")
    assert done.code == 4 and "pip install '.[tables]'" in done.err
    with pytest.raises(BackendUnavailable, match="frames and their files need pyarrow"):
        arrays_of_frame(pd.DataFrame({"a": [1.0]}), {"m": "a"})


# --------------------------------------------------------------------------------------- scoring


def test_a_scorer_gives_each_row_what_predict_gives_it_however_they_are_cut(
    dms: Run, art: Path, tmp_path: Path
) -> None:
    frame = small_frame()
    pq.write_table(frame, tmp_path / "t.parquet")
    given = ("predict", art, tmp_path / "t.parquet", "--id", "track")
    assert dms(*given, "-o", tmp_path / "out.parquet").code == 0
    wanted = pq.read_table(tmp_path / "out.parquet")
    score = pickle.loads(pickle.dumps(Scorer(artifact=art, keep=("track",))))
    assert score(frame).equals(wanted)
    cut = [score(part) for part in (frame[:13], frame[13:13], frame[13:14], frame[14:])]
    assert pa.concat_tables(cut, promote_options="none").replace_schema_metadata().equals(wanted)
    assert score(pl.from_arrow(frame)).select(wanted.column_names[1:]).equals(wanted.drop("track"))
    assert "1 row of 'a' counts" in json.loads(score(broken(frame)).schema.metadata[b"notes"])[0]
    with pytest.raises(MissingInput, match="has no column 'trak', to keep"):
        replace(score, keep=("trak",))(frame)


def broken(frame: pa.Table) -> pa.Table:
    cells = [[float("nan")] * 3, *frame["a"].to_pylist()[1:]]
    return frame.set_column(1, "a", pa.array(cells, pa.list_(pa.float32(), 3)))


def test_a_scorer_sees_that_its_artifact_was_written_anew(tmp_path: Path) -> None:
    artifact, frame = small_artifact(), small_frame()
    score = Scorer(artifact=tmp_path / "art")
    answers = []
    for classes in ([0, 1], [5, 6]):
        save_artifact(
            tmp_path / "art",
            replace(artifact, model=artifact.model | {"classes": classes}),
            overwrite=True,
        )
        answers.append(set(score(frame)["predicted"].to_pylist()))
    assert answers == [{0, 1}, {5, 6}]
