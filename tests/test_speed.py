"""The harness of benchmarks measures what it says. How fast anything is is nobody's test."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import time
from dataclasses import astuple
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dms_spec.cli import main
from dms_spec.errors import SpecError, VerificationError
from dms_spec.plugins import get_backend
from dms_spec.speed import growth
from dms_spec.speed.measure import Contender, backends, measure, plain, spec_for
from dms_spec.speed.setting import cores
from dms_spec.speed.shapes import Shape
from dms_spec.speed.timing import middle, ratios, rounds

SMALL = Shape(5, 3, 8, 4, 2)
ALL = str(len(cores()))


def test_every_call_runs_once_a_round_in_turn() -> None:
    ran: list[str] = []
    times = rounds({name: lambda name=name: ran.append(name) for name in "ab"}, 0.0)
    assert ran == ["a", "b"] * 6  # the first to warm up
    assert {name: len(own) for name, own in times.items()} == {"a": 5, "b": 5}


def test_the_clock_sees_what_a_call_takes() -> None:
    times = rounds({"short": lambda: time.sleep(0.002), "long": lambda: time.sleep(0.02)}, 0.0)
    low, high = middle(times["long"])[1:]
    assert 20 <= low <= high
    assert middle(ratios(times, "long", times["short"]))[0] > 2


@given(st.floats(0.1, 10), st.floats(-0.5, 3).map(lambda value: round(value, 3)))
def test_an_exponent_is_found(scale: float, exponent: float) -> None:
    rows = [
        {"axis": axis, "factor": f, "contender": "a", "ms": scale * f**exponent}
        for axis in "BM"
        for f in growth.FACTORS
    ]
    found = growth.slopes(rows)
    assert [row["axis"] for row in found] == ["B", "M"]
    assert all(abs(row["exponent"] - exponent) < 1e-9 for row in found)


def test_every_axis_grows_alone_from_one_shape() -> None:
    shapes = growth.shapes()
    assert len(shapes) == len(set(shapes)) == 1 + 5 * 3
    rows = list(growth.rows({shape: [shape.sizes() | {"ms": 1.0}] for shape in shapes}))
    base = growth.BASE.sizes()
    for row in rows:
        for axis, size in base.items():
            assert row[axis] == size * (row["factor"] if axis == row["axis"] else 1)


def test_rows_are_multiples_of_the_slower_baseline() -> None:
    spec, arrays = spec_for("paper", SMALL), SMALL.arrays()
    contenders = backends(["numpy"], spec, arrays) | {"plain": plain(spec, arrays)}
    rows = measure(SMALL, spec, arrays, contenders, 0.0)
    assert [row["contender"] for row in rows] == ["stream", "exponentials", "numpy", "plain"]
    assert all(row["ms_20"] <= row["ms"] <= row["ms_80"] for row in rows)
    assert {row["B"] for row in rows} == {5} and {row["T"] for row in rows} == {2}
    assert rows[2]["times_limit"] > max(rows[0]["times_limit"], 1.0)


@pytest.mark.parametrize("wrong", [lambda w: w[::-1], lambda w: w * np.nan], ids=["order", "nan"])
def test_what_is_wrong_is_not_timed(wrong) -> None:  # type: ignore[no-untyped-def]
    spec, arrays = spec_for("paper", SMALL), SMALL.arrays()
    right = plain(spec, arrays)
    planted = {"planted": Contender(lambda: wrong(right.run()))}
    with pytest.raises(VerificationError, match="planted gives wrong weights"):
        measure(SMALL, spec, arrays, planted, 0.0)


@given(st.tuples(*5 * (st.integers(1, 10**6),)))
def test_a_shape_is_read_as_it_is_written(sizes: tuple[int, ...]) -> None:
    assert astuple(Shape.parse(",".join(map(str, sizes)))) == sizes


@pytest.mark.parametrize("text", ["", "1,2,3,4", "1,2,3,4,0", "1,2,3,4,-5", "1,2,3,4,5,6", "a,b"])
def test_what_is_no_shape_is_refused(text: str) -> None:
    with pytest.raises(SpecError, match="five whole numbers above 0"):
        Shape.parse(text)


def test_a_preset_that_has_to_be_fitted_is_refused() -> None:
    with pytest.raises(SpecError, match="before it is fitted"):
        spec_for("robust", SMALL)


def test_the_verb_prints_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    command = ["bench", "--backend", "numpy", "--shape", "4,2,8,3,2", "--seconds", "0"]
    command += ["--cores", ALL, "-o", str(tmp_path / "out")]
    assert main([*command, "--growth"]) == 0
    printed = capsys.readouterr().out
    assert "B=4 M=2 D=8 C=3 T=2" in printed and "growth: " in printed
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written == {"speed.csv", "speed.svg", "growth.csv", "growth.svg"}
    with (tmp_path / "out" / "speed.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["contender"] for row in rows] == ["stream", "exponentials", "numpy", "plain"]
    assert main(command) == 0  # over its own files
    (tmp_path / "out" / "speed.csv").write_text("somebody's\n")
    assert main(command) == 2
    assert (tmp_path / "out" / "speed.csv").read_text() == "somebody's\n"


def test_one_core_is_one_core() -> None:
    code = ["-m", "dms_spec", "bench", "--backend", "numpy", "--shape", "2,2,4,3,2"]
    done = subprocess.run(
        [sys.executable, *code, "--seconds", "0", "--cores", "1", "--json"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["setting"]["cores"] == "1"


@pytest.mark.parametrize("count", ["0", "100000"])
def test_cores_that_are_not_there_are_refused(
    count: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "--cores", count]) == 2
    assert f"cannot time on {count} cores" in capsys.readouterr().err


def test_a_device_follows_a_colon() -> None:
    spec, arrays = spec_for("paper", SMALL), SMALL.arrays()
    first = get_backend("numpy").capabilities.devices[0]
    named, default = backends([f"numpy:{first}", "numpy"], spec, arrays).values()
    assert (named.run() == default.run()).all()
