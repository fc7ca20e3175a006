"""`dms watch`: a modality that fails is named, and when; a healthy stream gives no alarm."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dms_spec.bulk.drift import FALSE_ALARMS, Reference, Rows, windows_of
from dms_spec.embeddings.sources.frame_writer import frame_of_arrays

Run = Callable[..., Any]
NAMES = ("camera", "microphone")


def healthy(rows: int, seed: int) -> Rows:
    """What a good artifact says: a tenth of each missing, weights that share 1, typicality."""
    draw = np.random.default_rng(seed)
    active = draw.random((rows, 2)) < 0.9
    scores = np.where(active, np.exp(draw.normal(size=(rows, 2))), 0)
    weights = scores / np.maximum(scores.sum(axis=1, keepdims=True), 1e-9)
    return Rows(active, {"weights": weights, "typicality": -np.abs(draw.normal(size=(rows, 2)))})


def dead(rows: Rows) -> Rows:
    """The same without a camera."""
    active = rows.active.copy()
    active[:, 0] = False
    weights = np.where(active, 1.0, 0.0)
    return Rows(active, {**rows.values, "weights": weights})


def frozen(rows: Rows) -> Rows:
    """The same with a camera that shows what nobody has seen in training."""
    typicality = rows.values["typicality"].copy()
    typicality[:, 0] -= 2
    return Rows(rows.active, {**rows.values, "typicality": typicality})


def write(path: Path, *parts: Rows, names: tuple[str, ...] = NAMES) -> Path:
    """Writes predictions as dms predict does, with a column that says when they were."""
    arrays = {"active": np.concatenate([p.active for p in parts])}
    arrays |= {n: np.concatenate([p.values[n] for p in parts]) for n in parts[0].values}
    hours = pa.array([f"hour {k // 250}" for k in range(len(arrays["active"]))])
    table = frame_of_arrays(arrays, {"hour": hours})
    pq.write_table(table.replace_schema_metadata({"modalities": json.dumps(names)}), path)
    return path


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("watch") / "reference.parquet", healthy(4000, 1))


@pytest.mark.parametrize(
    ("fails", "what", "share"), [(dead, "active", 0.0), (frozen, "typicality below", 1.0)]
)
def test_a_camera_that_fails_is_named_and_when(
    dms: Run,
    reference: Path,
    tmp_path: Path,
    fails: Callable[[Rows], Rows],
    what: str,
    share: float,
) -> None:
    stream = write(tmp_path / "s.parquet", healthy(3000, 2), fails(healthy(2000, 3)))
    page = tmp_path / "page.html"
    given = ("watch", stream, "--reference", reference, "--window", 500, "--time", "hour")
    done = dms(*given, "-o", page)
    assert done.code == 3 and "Alarms in 4 of 10 windows." in done.out
    found = json.loads(dms(*given, "--json").out)
    first = next(one for one in found["alarms"] if what in one["what"])
    assert (first["modality"], first["first_row"], first["first_time"]) == (
        "camera", 3000, "hour 12",
    )  # fmt: skip
    assert first["windows"] == 4 and first["share_there"] == pytest.approx(share, abs=0.05)
    assert found["alarms"][0]["what"].endswith(("active", "p5", "median", "p95"))
    text = page.read_text(encoding="utf-8")
    assert text.count("<img") == 2 and "3000, hour 12" in text


def test_a_healthy_stream_gives_no_alarm(
    dms: Run, reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "parts"
    folder.mkdir()
    for k in range(3):
        write(folder / f"part-{k}.parquet", healthy(900, 10 + k))
    monkeypatch.setenv("COLUMNS", "80")
    done = dms("watch", folder, "--reference", reference, "--window", 500)
    assert "2500 rows in 5 windows" in done.succeeded() and "No alarm" in done.out
    assert max(map(len, done.out.splitlines())) <= 80
    rows = pq.read_table(folder).slice(0, 600).to_pylist()
    lines = "\n".join(json.dumps(row) for row in rows)
    (tmp_path / "log.jsonl").write_text(lines, encoding="utf-8")
    done = dms("watch", tmp_path / "log.jsonl", "--reference", reference, "--window", 500)
    assert "500 rows in 1 window" in done.succeeded()


def test_alarms_in_healthy_streams_are_rare() -> None:
    """Each has ten windows of 300 rows, and a reference of 3000 of its own."""
    streams, false = 150, 0
    for seed in range(streams):
        usual = Reference(NAMES, healthy(3000, 2 * seed))
        windows = [usual.window(k, w) for k, w in windows_of([healthy(3000, 2 * seed + 1)], 300)]
        false += any(usual.alarms(window, len(windows)) for window in windows)
    assert false <= 5  # a binomial of FALSE_ALARMS exceeds it once in two hundred times
    assert FALSE_ALARMS == 0.01


@given(st.lists(st.integers(0, 40), max_size=8), st.integers(1, 30))
def test_windows_are_the_stream_in_order(sizes: list[int], size: int) -> None:
    rows = healthy(sum(sizes), 0)
    ends = np.cumsum([0, *sizes])
    parts = [
        Rows(rows.active[a:b], {n: v[a:b] for n, v in rows.values.items()})
        for a, b in itertools.pairwise(ends)
    ]
    found = list(windows_of(parts, size))
    assert [start for start, _ in found] == list(range(0, len(rows) - size + 1, size))
    for start, window in found:
        assert np.array_equal(
            window.values["weights"], rows.values["weights"][start : start + size]
        )


REFUSED: dict[str, tuple[tuple[str, ...], str]] = {
    "short": (("s.parquet", "--window", "9999"), "shorter than a window"),
    "time": (("s.parquet", "--time", "day"), "Keep it when you predict: --keep day"),
    "other": (("other.parquet",), "has other modalities than the reference"),
    "table": (("table.parquet",), "holds no predictions"),
    "nothing": (("none.parquet",), "nothing there"),
    "line": (("bad.jsonl",), "cannot read bad.jsonl"),
    "window": (("s.parquet", "--window", "0"), "a window has no rows"),
}


def test_a_reference_without_rows_is_refused(dms: Run, tmp_path: Path) -> None:
    nothing = write(tmp_path / "nothing.parquet", healthy(0, 1))
    stream = write(tmp_path / "s.parquet", healthy(900, 1))
    assert "the reference has no rows" in dms("watch", stream, "--reference", nothing).refused()


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_watched_is_refused(
    dms: Run, reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "s.parquet", healthy(1500, 2))
    write(tmp_path / "other.parquet", healthy(1500, 2), names=("a", "b"))
    pq.write_table(pa.table({"a": [1]}), "table.parquet")
    Path("bad.jsonl").write_text("{", encoding="utf-8")
    given, words = REFUSED[case]
    assert words in dms("watch", *given, "--reference", reference).refused()
    assert not list(tmp_path.glob("*.html"))
    Path("mine.html").write_text("years", encoding="utf-8")
    if case == "short":
        taken = ("watch", "s.parquet", "--reference", reference, "-o", "mine.html")
        assert "is not replaced" in dms(*taken).refused()
        assert Path("mine.html").read_text(encoding="utf-8") == "years"


def test_plots_have_times_below_them_where_times_rise() -> None:
    from dms_spec.bulk.drift_page import Watch, _places, html

    usual = Reference(NAMES, healthy(1000, 1))
    hours = np.arange(3).astype("datetime64[h]").astype("datetime64[us]")
    cases = (
        (hours, "time", [*hours, np.datetime64(3, "h")]),
        (hours[::-1], "row", [0, 10, 20, 30]),
        ([None] * 3, "row", [0, 10, 20, 30]),
    )
    for number, (times, label, places) in enumerate(cases):
        windows = [
            replace(usual.window(10 * k, healthy(10, k)), time=time) for k, time in enumerate(times)
        ]
        watch = Watch(reference=usual, windows=windows, alarms={})
        assert _places(watch) == (label, places)
        if not number:
            assert "No alarm" in html(watch)  # it can be drawn
