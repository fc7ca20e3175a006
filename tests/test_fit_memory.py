"""A table that need not fit into memory: the same artifact, bit for bit, in flat memory."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pa = pytest.importorskip("pyarrow")
import pyarrow.parquet as pq  # noqa: E402
from hypothesis import given  # noqa: E402
from hypothesis import settings as settings_of  # noqa: E402
from hypothesis.strategies import integers, lists, sampled_from  # noqa: E402

from dms_spec import SchedulerSpec, Table, read_table  # noqa: E402
from dms_spec.cli.common import size_of  # noqa: E402
from dms_spec.embeddings.predictor import Predictor  # noqa: E402
from dms_spec.embeddings.scaling import fit_scale  # noqa: E402
from dms_spec.embeddings.sources import spool  # noqa: E402
from dms_spec.embeddings.sources.columns import Columns  # noqa: E402
from dms_spec.embeddings.typicality import ClassSums, fit_place  # noqa: E402
from dms_spec.errors import FileError, ShapeError, SpecError  # noqa: E402
from dms_spec.plugins import get_backend  # noqa: E402
from dms_spec.scratch import Scratch  # noqa: E402
from dms_torch.fit import FitSettings, Fitted, fit, folds, logistic, part, typicality  # noqa: E402

NAMES = ("image", "text")
SPLIT = Columns(split="split")


def frame(rows: int, seed: int) -> Any:
    """Modalities that are missing or broken in places, classes that are rare, and a split."""
    random = np.random.Generator(np.random.Philox(seed))
    labels = np.sort(random.integers(0, 3, rows))  # a class is in few row groups
    labels[-4:] = 7  # the last alone has it
    columns: dict[str, Any] = {}
    for m, name in enumerate(NAMES):
        x = (random.normal(size=(rows, 3 + m)) + labels[:, None]).astype(np.float32)
        x[random.random(rows) < 0.03] = np.nan
        x[random.random(rows) < 0.02, 0] = 1e6
        x[random.random(rows) < 0.01] = -1e5
        gone = random.random(rows) < 0.15
        cells = [None if g else row for g, row in zip(gone, x.tolist(), strict=True)]
        columns[name] = pa.array(cells, pa.list_(pa.float32()))
    split = np.where(random.random(rows) < 0.2, "test", "train")
    return pa.table({**columns, "labels": labels, "split": split})


def fitted(path: Path, memory: int | None, **settings: Any) -> Fitted:
    table = read_table(path, columns=SPLIT, memory=memory, need_labels=True)
    spec = SchedulerSpec.preset("robust", table.modalities)
    return fit(table, spec, FitSettings(**settings), memory=memory)


# --------------------------------------------------------------------------------- one artifact


@pytest.mark.parametrize("seed", [0, 1])
def test_where_the_arrays_lie_changes_no_bit(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In several blocks of rows everywhere, from files and in memory."""
    path = tmp_path / "t.parquet"
    pq.write_table(frame(200, seed), path, row_group_size=37)
    monkeypatch.setattr(spool, "_ROWS", 41)
    monkeypatch.setattr(part, "_VALUES", 7 * 90)
    monkeypatch.setattr(logistic, "_VALUES", 6 * 4 * 70)
    one, other = (fitted(path, memory) for memory in (None, 1))
    assert set(one.artifact.parameters) == set(other.artifact.parameters)
    for name, array in one.artifact.parameters.items():
        np.testing.assert_array_equal(array, other.artifact.parameters[name], name)
    assert one.artifact.model["metrics"] == other.artifact.model["metrics"]
    (more,) = set(other.notes) - set(one.notes)
    assert "copies of them lay in temporary files" in more

    if seed:
        return
    # Sums in other blocks round otherwise, and each optimum is found to 1e-5 in its gradient.
    monkeypatch.undo()
    whole = fitted(path, None)
    table = read_table(path, axis=NAMES, columns=SPLIT)
    p, q = (
        Predictor(found.artifact, get_backend("numpy")).predict(table)["probabilities"]
        for found in (one, whole)
    )
    np.testing.assert_allclose(p, q, atol=5e-3)
    sure = np.sort(q, axis=1)[:, -1] - np.sort(q, axis=1)[:, -2] > 1e-2
    assert sure.mean() > 0.9
    np.testing.assert_array_equal(p.argmax(axis=1)[sure], q.argmax(axis=1)[sure])


@pytest.mark.parametrize("preset", ["paper", "static"])
def test_heads_that_share_a_space_learn_from_files_too(preset: str, tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(frame(120, 3), path, row_group_size=50)
    found = []
    for memory in (None, 1):
        table = read_table(path, memory=memory, need_labels=True)
        spec = SchedulerSpec.preset(preset, table.modalities)
        found.append(fit(table, spec, FitSettings(epochs=2, passes=2, width=4), memory=memory))
    for name, array in found[0].artifact.parameters.items():
        np.testing.assert_array_equal(array, found[1].artifact.parameters[name], name)


def test_a_folder_of_arrays_is_mapped(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    large = random.random((1 << 16, 70), dtype=np.float32)
    np.save(tmp_path / "image.npy", large)
    np.save(tmp_path / "labels.npy", np.arange(1 << 16) % 2)
    table = read_table(tmp_path, ("image",), memory=1 << 20)
    assert not table.embeddings["image"].flags.owndata
    np.testing.assert_array_equal(table.embeddings["image"], large)


# --------------------------------------------------------------------------------------- reading


@settings_of(deadline=None, max_examples=40)
@given(
    rows=lists(sampled_from(["both", "image", "text", "broken"]), min_size=1, max_size=14),
    size=integers(1, 5),
    labels=sampled_from(["all", "some", "text"]),
    kind=sampled_from(["float32", "float64", "int16"]),
)
def test_a_frame_read_in_parts_is_the_same_table(
    rows: list[str], size: int, labels: str, kind: str
) -> None:
    def cell(name: str, k: int) -> list[float] | None:
        if rows[k] == "broken" and kind != "int16":
            return [np.nan, 0.0]
        return [k, k + len(name)] if rows[k] in ("both", name) else None

    vectors = {name: [cell(name, k) for k in range(len(rows))] for name in NAMES}
    known: dict[str, Any] = {
        "all": list(range(len(rows))),
        "some": [None if k % 3 == 1 else k for k in range(len(rows))],
        "text": [f"class {'x' * k}" for k in range(len(rows))],
    }
    table = pa.table(
        {
            **{n: pa.array(c, pa.list_(pa.type_for_alias(kind))) for n, c in vectors.items()},
            "labels": pa.array(known[labels]),
            "split": ["train" if k % 2 else "test" for k in range(len(rows))],
        }
    )
    given_columns = Columns(modalities={name: name for name in NAMES}, split="split")
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        path = Path(folder) / "t.parquet"
        pq.write_table(table, path, row_group_size=3)
        patch.setattr(spool, "_ROWS", size)
        try:
            whole: Any = read_table(path, columns=given_columns)
        except Exception as error:  # a modality without any vector
            with pytest.raises(type(error)):
                read_table(path, columns=given_columns, memory=-1)
            return
        parts = read_table(path, columns=given_columns, memory=-1)
    np.testing.assert_array_equal(whole.present, parts.present)
    for name in NAMES:
        there = whole.present[:, NAMES.index(name)]
        one, other = whole.embeddings[name], parts.embeddings[name]
        np.testing.assert_array_equal(one[there], other[there])
    for name in ("labels", "labelled", "train", "test"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(parts, name), name)
    assert whole.remarks == parts.remarks


def test_an_error_in_a_later_part_counts_its_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool, "_ROWS", 4)
    image = [[1.0, 2.0]] * 9 + [[1.0]]
    pq.write_table(pa.table({"image": image, "labels": list(range(10))}), tmp_path / "t.parquet")
    with pytest.raises(ShapeError, match=r"from row 8 on.*differ in length"):
        read_table(tmp_path / "t.parquet", memory=0)


# ---------------------------------------------------------------------------------- sums of parts


@settings_of(deadline=None, max_examples=40)
@given(seed=integers(0, 99), cuts=lists(integers(0, 60), max_size=6))
def test_sums_of_blocks_are_the_sums_of_all(seed: int, cuts: list[int]) -> None:
    random = np.random.default_rng(seed)
    x = (random.normal(size=(60, 3)) + 1e4).astype(np.float32)
    labels = random.integers(0, 4, 60)
    found = ClassSums.of(np.split(x, sorted(cuts)), labels, 5)
    wanted = np.stack([x[labels == c].astype(np.float64).sum(axis=0) for c in range(5)])
    np.testing.assert_allclose(found.totals, wanted, rtol=1e-14)
    assert found.counts.tolist() == [int((labels == c).sum()) for c in range(5)]
    one, other = fit_place(x, labels, rank=2), fit_place(x, labels, rank=2, sums=found)
    for name, array in one.items():
        np.testing.assert_allclose(array, other[name], rtol=1e-5, atol=1e-6, err_msg=name)


def test_a_loss_of_blocks_is_the_loss_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """And its gradient is that of autograd."""
    random = torch.Generator().manual_seed(0)
    x, labels = torch.rand(90, 4, generator=random), torch.arange(90) % 3
    weight = torch.rand(90, 2, generator=random)
    paths = [
        logistic.LogisticPath(blocks, labels, weight, 3, Scratch(on_disk=on_disk))
        for blocks, on_disk in (([x], False), (list(x.split(17)), True))
    ]
    found = torch.randn(5, 2, 3, generator=random)
    values = []
    for path in paths:
        values.append(path._loss(found, 0.1))
        monkeypatch.setattr(logistic, "_VALUES", 6 * 13)
    free = found.clone().requires_grad_()
    z = paths[0]._x @ free.flatten(1)
    p = (z.reshape(90, 2, 3) + paths[0]._offset).log_softmax(dim=2)
    share = weight / weight.sum(dim=0)
    own = p.gather(2, labels[:, None, None].expand(90, 2, 1))[..., 0]
    loss = 0.05 * free.square().sum() - (share * own).sum()
    loss.backward()
    for value, gradient in values:
        assert float(value) == pytest.approx(loss.item(), rel=1e-6)
        np.testing.assert_allclose(gradient, free.grad, atol=2e-6)


def test_scales_are_those_of_the_rows_that_count() -> None:
    random = np.random.default_rng(0)
    x = random.normal(size=(50, 4)).astype(np.float32)
    index = np.flatnonzero(random.random(50) < 0.6)
    x[np.setdiff1d(np.arange(50), index)] = 1e9
    one, other = fit_scale(x, "image", index), fit_scale(x[index], "image")
    np.testing.assert_array_equal(one.low, other.low)
    np.testing.assert_array_equal(one.unit, other.unit)


# ---------------------------------------------------------------------------------- who judges


def test_enough_rows_judge_and_all_of_a_rare_modality(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folds, "MOST_JUDGES", 100)
    monkeypatch.setattr(folds, "FEWEST_JUDGES", 20)
    random = np.random.default_rng(0)
    present = np.ones((2000, 2), dtype=bool)
    present[:, 1] = np.arange(2000) % 100 == 7
    drawn = folds._judges(present, 3, random)
    assert (np.diff(drawn) > 0).all()
    assert 100 <= len(drawn) <= 120 and present[drawn, 1].sum() == 20
    assert len(folds._judges(present, 3 * folds.MOST_SCORES, random)) == 40
    assert len(folds._judges(present[:80], 3, random)) == 80


def test_notes_say_that_some_rows_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(typicality, "_MOST_ROWS", 60)
    monkeypatch.setattr(folds, "MOST_JUDGES", 100)
    monkeypatch.setattr(folds, "FEWEST_JUDGES", 10)
    random = np.random.default_rng(0)
    labels = np.arange(200) % 2
    x = random.normal(size=(200, 3)) + labels[:, None]
    table = Table.from_arrays({"image": x, "labels": labels})
    spec = SchedulerSpec.preset("robust", ("image",))
    found = fit(table, spec, FitSettings())
    assert "100 of 200 validation rows, drawn at random, set" in " ".join(found.notes)
    assert "the covariance of 'image' is that of 50 of 200 rows" in found.notes
    assert found.artifact.model["data"]["judging_rows"] == 100
    assert found.artifact.model["metrics"]["validation"]["samples"] == 40
    with_own = replace(table, validation=np.arange(120))
    found = fit(with_own, spec, FitSettings())
    assert "100 of 120 validation rows" in " ".join(found.notes)


# ------------------------------------------------------------------------------ temporary files


def test_temporary_files_have_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    scratch = Scratch(on_disk=True)
    array = scratch.empty((1000, 3), np.float32)
    array[:] = np.arange(3000).reshape(1000, 3)
    scratch.forget()
    assert array.sum() == np.arange(3000).sum()
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="room is not reserved here")
def test_a_full_disk_is_said_before_it_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(FileError, match=r"room for 8 GB in .*No space left.*TMPDIR"):
        Scratch(on_disk=True).empty((1_000_000, 1000), np.float64)


def test_sizes_are_read() -> None:
    sizes = [size_of(text, "--memory") for text in ("17", "5kB", "1.5GB", "2G", "3 mb")]
    assert sizes == [17, 5_000, 1_500_000_000, 2_000_000_000, 3_000_000]
    with pytest.raises(SpecError, match="such as 500MB or 2GB"):
        size_of("much", "--memory")


_MEASURE = """
import resource, sys
import numpy as np, pyarrow as pa, pyarrow.parquet as pq
from dms_spec.cli import main

rows = int(sys.argv[1])
random = np.random.default_rng(0)
labels = np.arange(rows) % 3
vectors = pa.list_(pa.float32(), 64)
schema = pa.schema({"a": vectors, "b": vectors, "labels": pa.int64()})
with pq.ParquetWriter("t.parquet", schema) as file:
    for own in np.split(labels, range(4096, rows, 4096)):
        x = random.normal(size=(2, len(own), 64)) + own[:, None]
        a, b = (pa.FixedSizeListArray.from_arrays(one.ravel().astype("f4"), 64) for one in x)
        file.write_table(pa.table({"a": a, "b": b, "labels": own}))
assert main("fit t.parquet -o model --overwrite --memory 1MB".split()) == 0
print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    """Embeddings grow by 205 MB, the peak by less than a third. As many rows judge as ever will."""
    peaks = []
    for rows in (200_000, 600_000):
        run = subprocess.run(
            [sys.executable, "-c", _MEASURE, str(rows)],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        peaks.append(int(run.stdout.split()[-1]))
    assert peaks[1] - peaks[0] < 68, peaks
