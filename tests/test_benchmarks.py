"""The benchmarks run; what they measure is nobody's test."""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


def test_the_schedule_benchmark_checks_and_times_every_contender() -> None:
    spec = importlib.util.spec_from_file_location("bench", BENCHMARKS / "bench_schedule.py")
    assert spec and spec.loader
    bench = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bench)
    rows = list(bench.measure(2, 0.01))
    assert rows[0]["contender"] == "stream"
    assert all(float(row["ms"]) > 0 for row in rows) and len(rows) >= 3


def test_the_import_benchmark_prints_a_table() -> None:
    command = [sys.executable, str(BENCHMARKS / "bench_import.py"), "--runs", "1"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and "numpy" in done.stdout, done.stderr


def test_the_torch_benchmark_has_a_baseline_that_agrees(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is timed against is right on ordinary data, or the ratio would mean nothing."""
    torch = pytest.importorskip("torch")
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    bench = importlib.import_module("bench_torch")
    arrays = {name: torch.from_numpy(array) for name, array in bench.batch(3).items()}
    from dms_torch import Fusion

    torch.testing.assert_close(bench.naive(**arrays)[1], Fusion(bench.SPEC)(**arrays).weights)
    assert "ten passes" in bench.head_cost(3, 0.01)


def test_the_onnx_benchmark_checks_every_contender(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    bench = importlib.import_module("bench_onnx")
    ours, report, _ = bench.exported(bench.Artifact(spec=bench.SPEC))
    rows = bench.measure(2, 0.01, ours, ours)
    assert [row["contender"] for row in rows][:2] == ["stream", "naive, dynamo"]
    assert all(float(row["ms"]) > 0 for row in rows)
    assert 0 < bench.optimised_nodes(ours) <= report["nodes"]


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
