"""`dms predict` into a folder: the rows of one file, in parts that are scored once each."""

from __future__ import annotations

import hashlib
import json
import operator
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fuzzing import small_artifact
from hypothesis import given
from hypothesis import strategies as st

from dms_spec.artifact import load_artifact, save_artifact
from dms_spec.bulk.places import Place
from dms_spec.bulk.plan import cut
from dms_spec.bulk.workers import run_jobs
from dms_spec.cli import main
from dms_spec.errors import DMSError

Run = Callable[..., Any]
POSIX = pytest.mark.skipif(sys.platform == "win32", reason="POSIX processes")


def frame(start: int, rows: int) -> pa.Table:
    """Some rows of a table with gaps, and a name and a place for each."""
    draw = np.random.default_rng(start)
    columns = {}
    for name in "ab":
        cells = draw.normal(size=(rows, 3)).tolist()
        cells = [None if draw.random() < 0.2 else cell for cell in cells]
        # Of any size: before pyarrow 26, null in vectors of fixed size could not be read.
        columns[name] = pa.array(cells, pa.list_(pa.float32()))
    numbers = range(start, start + rows)
    names = {"track": pa.array([f"t{k}" for k in numbers], pa.string())}
    names["city"] = pa.array([f"c{k % 3}" for k in numbers], pa.string())
    return pa.table({**names, **columns})


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact, and three files of 64 rows in all; one row is not finite, one file is empty."""
    folder = tmp_path_factory.mktemp("lake")
    save_artifact(folder / "art", small_artifact())
    (folder / "data").mkdir()
    for number, (start, rows) in enumerate(((0, 30), (30, 0), (30, 34))):
        table = frame(start, rows)
        if start and rows:
            cells = [[float("nan")] * 3, *table["a"].to_pylist()[1:]]
            table = table.set_column(2, "a", pa.array(cells, table["a"].type))
        pq.write_table(table, folder / "data" / f"{number}.parquet", row_group_size=7)
    return folder


GIVEN = ("predict", "art", "data", "-o", "out/", "--keep", "track,city")


@pytest.fixture(scope="module")
def finished(lake: Path) -> Path:
    """A run of two workers in seven parts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(lake)
        patch.setattr("dms_spec.bulk.plan.ROWS", 10)
        assert main([*GIVEN, "--workers", "2"]) == 0
    return lake


@pytest.fixture
def again(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of all of it, to be changed."""
    shutil.copytree(finished, tmp_path / "lake")
    monkeypatch.chdir(tmp_path / "lake")
    monkeypatch.setattr("dms_spec.bulk.plan.ROWS", 10)
    return tmp_path / "lake"


def parts(folder: Path) -> list[Path]:
    return sorted(folder.glob("part-*.parquet"))


def test_parts_hold_the_rows_of_one_file(dms: Run, again: Path) -> None:
    given = ("predict", "art", "data", "-o", "one.parquet", "--id", "track", "--json")
    said = json.loads(dms(*given).succeeded())
    one = pq.read_table("one.parquet")
    many = pa.concat_tables([pq.read_table(path) for path in parts(again / "out")])
    assert many.column_names == ["track", "city", *one.column_names[1:]]
    assert many.num_rows == 64 and len(parts(again / "out")) == 7
    for name in ("track", "predicted", "active"):
        assert many[name].equals(one[name]), name
    for name in ("probabilities", "weights"):
        both = [t[name].combine_chunks().flatten().to_numpy() for t in (one, many)]
        assert np.abs(both[0] - both[1]).max() < 1e-6
    assert many["city"].to_pylist() == [f"c{k % 3}" for k in range(64)]
    manifest = json.loads((again / "out" / "_manifest.json").read_text(encoding="utf-8"))
    assert manifest["rows"] == 64
    assert manifest["notes"] == said["notes"] and "1 row of 'a' counts" in said["notes"][-2]
    for row, own in zip(manifest["modalities"], said["modalities"], strict=True):
        assert row["active"] == own["active"]
        mean = "mean_weight_where_active"
        assert row[mean] == pytest.approx(own[mean], abs=1e-6)
    for part, path in zip(manifest["parts"], parts(again / "out"), strict=True):
        assert part["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
        assert part["rows"] == pq.read_metadata(path).num_rows


@given(st.lists(st.integers(0, 30), max_size=12), st.integers(1, 40))
def test_every_row_group_is_in_one_part(sizes: list[int], least: int) -> None:
    found = cut(sizes, least)
    assert [k for start, stop in found for k in range(start, stop)] == list(range(len(sizes)))
    rows = [sum(sizes[start:stop]) for start, stop in found]
    assert all(n >= least for n in rows[:-1]) and len(found) >= 1
    assert all(sum(sizes[start : stop - 1]) < least for start, stop in found)


def test_what_is_finished_is_not_scored_again(dms: Run, again: Path) -> None:
    before = contents(again)
    times = {path: path.stat().st_mtime_ns for path in parts(again / "out")}
    assert "7 parts, 7 of them by an earlier run" in dms(*GIVEN).succeeded()
    assert contents(again) == before
    assert {path: path.stat().st_mtime_ns for path in parts(again / "out")} == times
    lost, bad = parts(again / "out")[1:3]
    lost.unlink()
    bad.write_bytes(bad.read_bytes()[:-12] + bytes(12))
    done = dms(*GIVEN, "--workers", 1)
    assert "7 parts, 5 of them by an earlier run" in done.succeeded()
    assert f"{bad.name} was damaged, and was scored again" in done.err
    assert contents(again) == before


def rewrite_input() -> None:
    pq.write_table(frame(5, 30), "data/0.parquet", row_group_size=7)


def rewrite_artifact() -> None:
    artifact = load_artifact("art")
    model = dict(artifact.model) | {"classes": [5, 6]}
    save_artifact("art", replace(artifact, model=model), overwrite=True)


CHANGES: dict[str, tuple[Callable[[], object], tuple[str, ...], str]] = {
    "artifact": (rewrite_artifact, (), "got another artifact"),
    "input": (rewrite_input, (), "data/0.parquet was written again"),
    "more": (lambda: pq.write_table(frame(9, 3), "data/9.parquet"), (), "data/9.parquet is new"),
    "less": (lambda: Path("data/0.parquet").unlink(), (), "data/0.parquet is gone"),
    "keep": (lambda: None, ("--keep", "city"), 'keep ["track", "city"] before, ["city"] now'),
    "size": (lambda: None, ("--batch-size", "9"), "batch_size 1024 before, 9 now"),
}


@pytest.mark.parametrize("case", CHANGES)
def test_a_change_is_noticed(dms: Run, again: Path, case: str) -> None:
    change, options, words = CHANGES[case]
    change()
    before = contents(again)
    message = dms(*GIVEN, *options).refused()
    assert "was begun with something else" in message and words in message
    assert contents(again) == before


def own(path: str, text: str = "years") -> None:
    Path(path).parent.mkdir(exist_ok=True)
    Path(path).write_text(text, encoding="utf-8")


REFUSED: dict[str, tuple[Callable[[], object], tuple[str, ...], str]] = {
    "theirs": (lambda: own("new/thesis.tex"), ("-o", "new/"), "is not replaced"),
    "part": (lambda: own("new/part-00001.parquet"), ("-o", "new"), "is not replaced"),
    "manifest": (lambda: own("new/_manifest.json"), ("-o", "new"), "is not replaced"),
    "parts": (lambda: Path("out/_manifest.json").unlink(), ("-o", "out"), "has parts and no"),
    "twice": (lambda: None, ("data/0.parquet", "-o", "new"), "data/0.parquet is given twice"),
    "file": (lambda: own("new"), ("-o", "new"), "is not replaced"),
    "inputs": (lambda: None, ("-o", "data"), "among the files of the input"),
    "artifact": (lambda: None, ("-o", "art/out"), "stand in an artifact"),
    "keep": (lambda: None, ("-o", "new", "--keep", "trak"), "Did you mean 'track'?"),
    "label": (lambda: None, ("-o", "new", "--label", "city"), "is for one table"),
    "workers": (lambda: None, ("-o", "new", "--workers", "-1"), "there is no worker"),
    "one": (lambda: None, ("-o", "new.npz", "--workers", "2"), "-o OUT/"),
    "columns": (
        lambda: pq.write_table(frame(9, 3).drop(["b"]), "data/9.parquet"),
        ("-o", "new"),
        "data/9.parquet differs from data/0.parquet in its columns",
    ),
    "damaged": (lambda: own("data/9.parquet"), ("-o", "new"), "cannot read data/9.parquet"),
    "uri": (lambda: None, ("-o", "nowhere://new"), "a URI that pyarrow knows"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_refused_and_nothing_is_touched(dms: Run, again: Path, case: str) -> None:
    prepare, options, words = REFUSED[case]
    prepare()
    before = contents(again)
    message = dms("predict", "art", "data", *options).refused()
    assert words in message, message
    assert contents(again) == before


def test_uris_are_read_and_written_through_pyarrow(dms: Run, again: Path) -> None:
    given = ("predict", "art", (again / "data").as_uri(), "-o", (again / "new").as_uri())
    dms(*given, "--keep", "track,city", "--workers", 1).succeeded()
    for ours, other in zip(parts(again / "out"), parts(again / "new"), strict=True):
        assert pq.read_table(ours).equals(pq.read_table(other))
    before = contents(again)
    said = dms(*given, "--keep", "track,city").succeeded()
    assert "7 of them by an earlier run" in said and contents(again) == before
    own("theirs/part-00001.parquet")
    message = dms(*given[:-1], (again / "theirs").as_uri()).refused()
    assert "theirs/part-00001.parquet exists already, and is not replaced" in message
    assert contents(again) == before | {"theirs/part-00001.parquet": b"years"}


def test_an_address_keeps_its_options_and_not_its_credentials() -> None:
    place = Place.of("s3://key:secret@bucket/data/?region=here&scheme=http").within("0.parquet")
    assert place.given == "s3://bucket/data/0.parquet?region=here&scheme=http"
    assert place.path == "bucket/data/0.parquet"
    assert Place.of("why?/").within("0.parquet").given == "why?/0.parquet"


def test_workers_give_results_errors_and_their_end() -> None:
    found = dict(run_jobs(operator.neg, range(5), 2))
    assert found == {k: -k for k in range(5)}
    with pytest.raises(DMSError, match=r"ended during 3: got exit code 3\. .*--workers"):
        list(run_jobs(os._exit, [3], 1))
    with pytest.raises(RuntimeError, match="bad operand type"):
        list(run_jobs(operator.neg, ["text"], 1))


# ----------------------------------------------------------------------------------------- kills


def begin(folder: Path, *program: str) -> subprocess.Popen[str]:
    command = ["predict", "art", "many", "-o", "killed", "--workers", "2"]
    return subprocess.Popen(
        [sys.executable, *(program or ("-m", "dms_spec")), *command], cwd=folder, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def children(process: int) -> list[int]:
    found = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(process)], capture_output=True, text=True, check=False
    )
    return [int(word) for word in found.stdout.split()]


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty files, each a part, and an unbroken run over them."""
    folder = tmp_path_factory.mktemp("many")
    save_artifact(folder / "art", small_artifact())
    (folder / "many").mkdir()
    for k in range(40):
        pq.write_table(frame(k * 50, 50), folder / "many" / f"{k}.parquet")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["predict", "art", "many", "-o", "unbroken", "--workers", "1"]) == 0
    return folder


def is_alive(process: int) -> bool:
    """Says whether a process runs; one that has ended may wait for somebody to ask how."""
    found = subprocess.run(
        ["ps", "-o", "stat=", "-p", str(process)], capture_output=True, text=True, check=False
    )
    return found.stdout.strip()[:1] not in ("", "Z")


def killed_when(folder: Path, ready: Callable[[], bool], number: int, whom: str) -> str:
    """Kills a run or one of its workers at a moment; gives what it said."""
    process = begin(folder)
    while process.poll() is None and not ready():
        time.sleep(0.002)
    workers = children(process.pid)
    with_workers = whom == "worker" and workers
    if process.poll() is None:
        os.kill(workers[0] if with_workers else process.pid, number)
    said, _ = process.communicate(timeout=60)
    deadline = time.monotonic() + 10
    while any(is_alive(pid) for pid in workers):
        assert time.monotonic() < deadline, "a worker outlives its run"
        time.sleep(0.01)
    return said


def check_next_run(folder: Path) -> None:
    process = begin(folder)
    said, _ = process.communicate(timeout=100)
    assert process.returncode == 0 and "Traceback" not in said, said
    assert contents(folder / "killed") == contents(folder / "unbroken")
    assert not list(folder.rglob(".dms-spec-*"))
    shutil.rmtree(folder / "killed")


DIES = """
import os, signal, sys
from dms_spec.cli import main, progress

left = iter(range(10))
progress.Bar.step = lambda *_: os.kill(os.getpid(), signal.SIGKILL if next(left, 0) == 9 else 0)
main(sys.argv[1:])
"""


@POSIX
def test_a_killed_run_is_gone_on_with(many: Path) -> None:
    """Killed when the tenth part is there: the same bytes as an unbroken run in the end."""
    killed = begin(many, "-c", DIES)
    killed.communicate(timeout=60)  # ends when no worker holds the error stream any more
    assert killed.returncode == -signal.SIGKILL
    assert 10 <= len(parts(many / "killed")) <= 13
    check_next_run(many)


@POSIX
@pytest.mark.slow
def test_a_run_may_be_killed_at_any_moment(many: Path) -> None:
    draw = random.Random(0)
    for _ in range(12):
        moment = time.monotonic() + draw.uniform(0.2, 2.5)
        number = draw.choice((signal.SIGKILL, signal.SIGTERM))
        whom = draw.choice(("run", "worker"))
        said = killed_when(many, lambda m=moment: time.monotonic() > m, number, whom)
        assert "Traceback" not in said, said
        check_next_run(many)
