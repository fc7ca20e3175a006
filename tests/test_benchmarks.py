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


@pytest.mark.parametrize(
    "command", [["errors.py", "--examples", "1"], ["bench_import.py", "--runs", "1"]]
)
def test_the_other_benchmarks_print_a_table(command: list[str]) -> None:
    script, *options = command
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / script), *options], capture_output=True, text=True
    )
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
