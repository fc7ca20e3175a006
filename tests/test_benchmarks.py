"""The benchmarks run; what they measure is nobody's test."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dms_spec.speed.measure import spec_for
from dms_spec.speed.shapes import Shape

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
SMALL = Shape(3, 3, 8, 5, 4)


def loaded(name: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A script, which would keep this process to one core."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.delattr(os, "sched_setaffinity", raising=False)
    return importlib.import_module(name)


def test_the_import_benchmark_prints_a_table() -> None:
    command = [sys.executable, str(BENCHMARKS / "bench_import.py"), "--runs", "1"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and "numpy" in done.stdout, done.stderr


def test_the_naive_form_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is timed against is right on ordinary data, or the ratio would mean nothing."""
    torch = pytest.importorskip("torch")
    naive = loaded("naive", monkeypatch)
    arrays = {name: torch.from_numpy(array) for name, array in SMALL.arrays().items()}
    from dms_torch import Fusion

    weights = Fusion(spec_for("paper", SMALL))(**arrays).weights
    torch.testing.assert_close(naive.naive(**arrays)[1], weights)


def test_every_contender_is_compared_and_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("matplotlib", "onnxruntime", "onnxscript", "torch"):
        pytest.importorskip(name)
    speed = loaded("speed", monkeypatch)
    rows = speed.timed(SMALL, 0.0, compiled=False)
    names = [row["contender"] for row in rows]
    assert names[:2] == ["stream", "exponentials"]
    assert {"numpy", "torch, naive", "torch, Fusion, with gradients", "naive, dynamo export"} < {
        *names
    }
    assert {row["what"] for row in rows} == {"", "forward", "forward and backward"}
    lines = speed.table(
        [row | {"B": shape.samples} for shape in speed.SHAPES for row in rows],
        [row | {"B": 1024, "ms": row["ms"] / 2} for row in rows],
    )
    assert all(line["two cores"] == "2.00 x" for line in lines)
    assert {line[""] for line in lines} == {*names}


def test_a_head_is_timed_in_forwards_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    assert "ten passes" in loaded("heads", monkeypatch).head_cost(3, 0.0)


def test_an_export_has_no_more_nodes_once_optimised(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    exports = loaded("exports", monkeypatch)
    artifact = exports.Artifact(spec=spec_for("paper", SMALL))
    model, report, _ = exports.exported(artifact)
    assert 0 < exports.optimised_nodes(model) <= report["nodes"]


@pytest.mark.slow
def test_a_forward_pass_and_a_table_are_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("onnxruntime", "sklearn", "transformers"):
        pytest.importorskip(name)
    whole = loaded("end_to_end", monkeypatch)
    monkeypatch.setattr(whole, "MODELS", {"tiny": whole.MODELS["tiny"]})
    (row,) = whole.models(0.0)
    assert row["tokens"] == 48 and row["share_20"] <= row["share of the pass"] <= row["share_80"]
    rates = {row["predict"]: row["rows per second"] for row in whole.tables(0.0, 3000)}
    assert {"numpy", "torch", "scikit-learn, concatenated", "matrix products alone"} <= {*rates}
    assert all(rate > 0 for rate in rates.values())


@pytest.mark.slow
def test_what_a_prediction_takes_is_measured_stage_by_stage(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("sklearn")
    predict = loaded("predict", monkeypatch)
    artifact = predict.repeated(predict.fitted(8), 20)
    x = {name: np.ones((100, 8), np.float32) for name in predict.NAMES}
    calls = predict.in_memory(artifact, x) | predict.over_parquet(artifact, x, tmp_path)
    seconds = predict.measured(calls, 1)
    assert {"products", "Predictor, numpy", "Parquet, write"} <= {*seconds}
    assert len(predict.Predictor(artifact, predict.get_backend("numpy")).classes) == 20


@pytest.mark.slow
def test_the_robustness_study_writes_every_table(tmp_path: Path) -> None:
    """Two views of digits, beside a file that is no table."""
    for name in ("onnxruntime", "sklearn", "torch"):
        pytest.importorskip(name)
    from sklearn.datasets import load_digits

    x, y = load_digits(n_class=3, return_X_y=True)
    views = {"top": x[:100, :32], "bottom": x[:100, 32:]}
    np.savez(tmp_path / "digits.npz", **views, labels=y[:100])
    np.savez(tmp_path / "pictures.npz", image=np.zeros((5, 2, 2, 3), np.uint8), y=np.arange(5))
    script = str(BENCHMARKS / "robustness" / "study.py")
    command = [sys.executable, script, str(tmp_path), "-o", str(tmp_path / "out"), "--seeds", "1"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and "pictures is left out" in done.stderr, done.stderr
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "README.md",
        "differences.png",
        "environment.json",
        "pairs.csv",
        "robustness.csv",
        "robustness.png",
    }
    text = (tmp_path / "out" / "README.md").read_text()
    assert "nan" not in text
    # Every condition is judged, by each of the bars that apply to two modalities.
    assert re.search(r"\| digits \| 2 \| \d+ of 23 \| \d of 3 \| \d of 1 \|", text)
    for heading in ("The sets, and what was looked at", "Other runtimes", "Time of a fit"):
        assert f"## {heading}" in text
    assert re.search(r"\| digits \| 100 % \| \S+ \| 100 % \|", text)
    assert str(tmp_path) not in text + (tmp_path / "out" / "environment.json").read_text()


def test_the_gpu_run_says_that_there_is_none(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is one")
    command = [sys.executable, str(BENCHMARKS / "gpu.py"), "-o", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 4 and "no CUDA device" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_gpu_run_works_on_a_cpu(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    command = [sys.executable, str(BENCHMARKS / "gpu.py"), "--device", "cpu", "--trial"]
    done = subprocess.run([*command, "-o", str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert {step["status"] for step in summary["steps"].values()} == {"passed"}
    rows = (tmp_path / "speed.csv").read_text().splitlines()
    assert len(rows) == 1 + 4 * 2 * 2  # shapes, contenders, forward and with backward
