"""examples/train_ddp.py: no row is lost or doubled, and processes learn what one alone learns."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dms_spec import Columns, Table, load_artifact

torch = pytest.importorskip("torch")
FusionModel = pytest.importorskip("dms_torch").FusionModel

SCRIPT = Path(__file__).resolve().parents[1] / "examples" / "train_ddp.py"
WIDTH = 8
example = SimpleNamespace(**runpy.run_path(str(SCRIPT)))


def rows_of(rows: int, seed: int = 0) -> pa.Table:
    """Four classes in two modalities, each missing in a fifth of the rows; x counts the rows."""
    draw = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(2, 4, WIDTH)) * 0.7
    labels = draw.integers(0, 4, rows)
    columns = {"x": pa.array(np.arange(rows))}
    for m, name in enumerate(("image", "text")):
        cells = (centres[m, labels] + draw.normal(size=(rows, WIDTH))).astype("f4").tolist()
        cells = [None if draw.random() < 0.2 else cell for cell in cells]
        columns[name] = pa.array(cells, pa.list_(pa.float32()))
    return pa.table(columns | {"labels": pa.array([f"class {k}" for k in labels])})


def write(path: Path, table: pa.Table, sizes: list[int]) -> str:
    with pq.ParquetWriter(path, table.schema) as out:
        for stop, size in zip(np.cumsum(sizes), sizes, strict=True):
            out.write_table(table[stop - size : stop], row_group_size=size)
    return str(path)


@settings(max_examples=10, deadline=None)
@given(
    sizes=st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=4), min_size=1, max_size=3),
    world=st.integers(1, 5),
    size=st.integers(1, 10),
    seed=st.integers(0, 9),
)
def test_every_row_comes_once_in_an_epoch(
    sizes: list[list[int]],
    world: int,
    size: int,
    seed: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder, files, first = tmp_path_factory.mktemp("lake"), [], 0
    for k, own in enumerate(sizes):
        count = sum(own)
        vectors = np.repeat(np.arange(first, first + count)[:, None], 2, axis=1).tolist()
        table = pa.table({"a": pa.array(vectors, pa.list_(pa.float64())), "labels": ["c"] * count})
        files.append(write(folder / f"{k}.parquet", table, own))
        first += count
    orders = []
    for epoch in range(2):
        tables = [
            list(example.batches(files, {"a": 2}, size, rank, world, (seed, epoch)))
            for rank in range(world)
        ]
        assert all(len(table) <= size for own in tables for table in own)
        orders.append([int(x) for own in tables for t in own for x in t.embeddings["a"][:, 0]])
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(first))


def run(processes: int, output: Path, files: list[str], *words: object) -> list[str]:
    """Trains by the command of the page, and gives what it printed."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", str(processes), str(SCRIPT), *files, "-o", str(output)]
    command += map(str, words)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.slow
def test_steps_are_those_of_one_process(tmp_path: Path) -> None:
    """The same rows in a step: one row group, two of unlike size, and a process without rows."""
    table = rows_of(57)
    whole = write(tmp_path / "whole.parquet", table, [57])
    cut = write(tmp_path / "cut.parquet", table, [40, 17])
    said = {}
    for processes, file in ((1, whole), (2, cut), (3, cut)):
        words = ("--batch", 57 * processes, "--epochs", 4)
        said[processes] = run(processes, tmp_path / str(processes), [file], *words)
    assert said[1] == said[2] == said[3]
    assert all("57 rows" in line for line in said[1]) and len(said[1]) == 4
    one, *others = (load_artifact(tmp_path / f"{p}/artifact").parameters for p in said)
    for other in others:
        for name, array in one.items():
            np.testing.assert_allclose(other[name], array, rtol=1e-3, atol=1e-5, err_msg=name)


def accuracy(folder: Path, test: Table) -> float:
    artifact = load_artifact(folder / "artifact")
    encoders = {name: example.encoder(WIDTH) for name in artifact.spec.modalities}
    weights = torch.load(folder / "encoders.pt", weights_only=True)
    torch.nn.ModuleDict(encoders).load_state_dict(weights)
    model = FusionModel.from_artifact(encoders, artifact).eval()
    inputs = {name: torch.from_numpy(array).float() for name, array in test.embeddings.items()}
    with torch.no_grad():
        found = model(inputs, torch.from_numpy(test.present)).probabilities.argmax(1).numpy()
    return float((np.array(model.labels)[found] == test.labels).mean())


@pytest.mark.slow
def test_two_processes_learn_what_one_learns_in_memory(tmp_path: Path) -> None:
    """Five seeds each: row groups that do not divide, against one that holds everything."""
    table = rows_of(1203, seed=1)
    whole = [write(tmp_path / "whole.parquet", table, [1203])]
    cut = [
        write(tmp_path / "a.parquet", table[:700], [170] * 4 + [20]),
        write(tmp_path / "b.parquet", table[700:], [170] * 2 + [163]),
    ]
    test = Table.from_frame(rows_of(4000, seed=2).drop_columns(["x"]), Columns())
    found = {}
    for processes, files in ((1, whole), (2, cut)):
        for seed in range(5):
            folder = tmp_path / f"{processes}-{seed}"
            said = run(processes, folder, files, "--batch", 64, "--seed", seed)
            assert [line.split(":")[1].split(",")[0] for line in said] == [" 1203 rows"] * 5
            found.setdefault(processes, []).append(accuracy(folder, test))
    alone, both = np.array(found[1]), np.array(found[2])
    print("alone", alone, "two", both)
    assert min(alone.min(), both.min()) > 0.7
    spread = np.sqrt((alone.var(ddof=1) + both.var(ddof=1)) / 5)
    assert abs(alone.mean() - both.mean()) < 3 * spread
