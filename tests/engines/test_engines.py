"""Engines that cut a dataset give every row what one machine gives it: make test-ray."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fuzzing import small_artifact

from dms_spec import Scorer
from dms_spec.artifact import save_artifact
from dms_spec.errors import MissingInput

ROOT = Path(__file__).resolve().parents[2]
ROWS, FILES = 60_000, 6
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact, six files with gaps, and what one machine says of them."""
    folder = tmp_path_factory.mktemp("lake")
    save_artifact(folder / "model", small_artifact())
    (folder / "lake").mkdir()
    draw = np.random.default_rng(0)
    for k in range(FILES):
        ids = np.arange(k * ROWS // FILES, (k + 1) * ROWS // FILES)
        columns = {}
        for name in "ab":
            cells = draw.normal(size=(len(ids), 3)).astype("f4").tolist()
            cells = [None if draw.random() < 0.2 else cell for cell in cells]
            columns[name] = pa.array(cells, pa.list_(pa.float32()))
        pq.write_table(pa.table({"id": ids, **columns}), folder / "lake" / f"{k}.parquet")
    return folder


@pytest.fixture(scope="module")
def wanted(lake: Path) -> pa.Table:
    return Scorer(artifact=lake / "model", keep=("id",))(pq.read_table(lake / "lake"))


def assert_same(table: pa.Table, wanted: pa.Table) -> None:
    """Every row once, with its label and its probabilities."""
    table = table.sort_by("id")
    assert table["id"].to_pylist() == list(range(ROWS))
    assert table["predicted"].to_pylist() == wanted["predicted"].to_pylist()
    both = [np.array(t["probabilities"].to_pylist()) for t in (table, wanted)]
    assert np.abs(both[0] - both[1]).max() < 1e-6


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    ray = pytest.importorskip("ray")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    yield ray
    ray.shutdown()


def written(dataset: Any, folder: Path) -> pa.Table:
    dataset.write_parquet(str(folder))
    return pq.read_table(folder)


def run_page(engine: str) -> pa.Table:
    """Runs the block of an engine of the page, and gives what it has written."""
    page = (ROOT / "docs" / "guide" / "engines.md").read_text(encoding="utf-8")
    code = re.search(rf"^## {engine}$.*?^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    assert code is not None
    # As a script that pickle cannot import: its functions travel by value.
    exec(compile(code[1], "engines.md", "exec"), {"__name__": "__main__"})
    return pq.read_table(f"scored-{engine.split()[0].lower()}")


@pytest.mark.parametrize("engine", ["Ray Data", "Spark", "Dask", "Daft"])
def test_the_page_gives_every_row_what_one_machine_gives(
    engine: str,
    request: pytest.FixtureRequest,
    lake: Path,
    wanted: pa.Table,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    package = {"Ray Data": "ray", "Spark": "pyspark", "Dask": "distributed", "Daft": "daft"}
    pytest.importorskip(package[engine])
    monkeypatch.setenv("PYSPARK_PYTHON", sys.executable)
    if engine == "Ray Data":
        request.getfixturevalue("ray")
    with chdir(lake):
        found = run_page(engine).sort_by("id")
    assert found["id"].to_pylist() == list(range(ROWS))
    assert found["predicted"].to_pylist() == wanted["predicted"].to_pylist()
    if "probabilities" in found.column_names:
        assert_same(found, wanted)


def test_rows_without_names_are_refused(ray: Any, lake: Path) -> None:
    from dms_spec.bulk.ray_data import score_dataset

    with pytest.raises(MissingInput, match="does not keep the order of rows"):
        score_dataset(ray.data.range(3), lake / "model", keep=())


def test_an_actor_that_is_killed_loses_no_row_and_doubles_none(
    ray: Any, lake: Path, wanted: pa.Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends once in the middle of a block, with blocks before and behind it."""
    from dms_spec.bulk import ray_data

    real, once = ray_data._Actor, tmp_path / "once"

    class Mortal(real):  # type: ignore[misc, valid-type]
        calls = 0

        def __call__(self, batch: Any) -> Any:
            self.calls += 1
            if self.calls == 20 and not once.exists():
                once.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return super().__call__(batch)

    monkeypatch.setattr(ray_data, "_Actor", Mortal)
    monkeypatch.setattr(ray_data, "ROWS", 500)
    monkeypatch.setattr(ray.data.DataContext.get_current(), "target_max_block_size", 200_000)
    dataset = ray.data.read_parquet(str(lake / "lake"))
    scored = ray_data.score_dataset(dataset, lake / "model", keep=["id"])
    table = written(scored, tmp_path / "out")
    assert once.exists()
    assert_same(table, wanted)
