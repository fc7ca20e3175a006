"""The benchmarks run; what they measure is nobody's test."""

from __future__ import annotations

import importlib
import importlib.util
import subprocess
import sys
from pathlib import Path

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
