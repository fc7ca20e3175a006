"""The guide "Write a backend" is code: what it copies, what then fails, and what mends it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dms_spec.equations.namespace import Namespace

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "examples" / "guide"
GUIDE = (ROOT / "docs" / "guide" / "backend.md").read_text(encoding="utf-8")
Run = Callable[..., Any]


def _block(language: str, containing: str) -> str:
    found = re.findall(rf"^```{language}\n(.*?)^```$", GUIDE, re.DOTALL | re.MULTILINE)
    (block,) = [text for text in found if containing in text]
    return str(block)


@pytest.fixture(scope="module")
def dms_with(
    tmp_path_factory: pytest.TempPathFactory, build_wheels: Run, install: Run, spawn: Run
) -> Run:
    """Runs ``dms`` with the guide's distribution installed, made of some version of its backend."""

    def prepare(backend: str) -> Run:
        folder = tmp_path_factory.mktemp("guide")
        project = folder / "project"
        shutil.copytree(SOURCE, project, ignore=shutil.ignore_patterns("__pycache__"))
        (project / "my_backend.py").write_text(backend, encoding="utf-8")
        there = install(folder / "installed", build_wheels(folder / "wheels", [project]))

        def run(*args: object) -> Any:
            return spawn("-m", "dms_spec", *args, env={"PYTHONPATH": str(there)})

        return run

    return prepare


def _first() -> str:
    return (SOURCE / "my_backend.py").read_text(encoding="utf-8")


def _fixed() -> str:
    return (SOURCE / "my_backend_fixed.py").read_text(encoding="utf-8")


def test_it_is_short_and_one_line_is_wrong() -> None:
    first, fixed = _first().splitlines(), _fixed().splitlines()
    assert len(first) <= 42
    changed = [number for number, pair in enumerate(zip(first, fixed, strict=True), 1)
               if pair[0] != pair[1]]  # fmt: skip
    assert changed == [int(re.findall(r":emphasize-lines: (\d+)", GUIDE)[0])]


def test_the_first_version_runs_and_fails_as_the_guide_says(dms_with: Run) -> None:
    """It is listed, and what the suite finds first is what the guide shows."""
    dms = dms_with(_first())
    assert "mine" in dms("backends").succeeded()
    outcome = dms("check", "mine", "--dtype", "float32", "--level", "core", "--examples", 20)
    assert outcome.code == 1
    shown = _block("text", "failed").splitlines()
    found = outcome.out.splitlines()
    assert found[:2] == shown[:2]  # the check and the clause; the case is hypothesis's to choose
    assert shown[-3:] == found[found.index("  reproduce:") :][:3]
    assert "check_offset_logits [cpu, float32]: failed" in found


def test_the_fixed_version_passes_the_core(dms_with: Run) -> None:
    dms = dms_with(_fixed())
    args = ("--dtype", "float32", "--level", "core", "--examples", 10)
    text = dms("check", "mine", *args).succeeded()
    assert "mine is partial" in text
    assert "failed" not in text


def test_what_is_not_claimed_is_refused_and_what_is_claimed_is_tested(
    dms_with: Run, tmp_path: Path
) -> None:
    """A claim more is a line more; a library that halves in silence is found."""
    block = _block("python", "capabilities =").splitlines()
    (line,) = ("    " + x for x in block if x.startswith("capabilities ="))
    claim = next(x for x in _fixed().splitlines() if x.strip().startswith("capabilities ="))
    report = tmp_path / "report.json"
    dms = dms_with(_fixed().replace(claim, line))
    args = ("--dtype", "float16", "--level", "core", "--examples", 5, "--report", report)
    assert " passed" in dms("check", "mine", *args).succeeded()
    dms("report", report, "-o", tmp_path / "badge.svg").succeeded()
    assert (tmp_path / "badge.svg").exists()

    widening = _fixed().replace(
        "        return array\n",
        "        return array.astype(np.float32) if array.dtype == np.float16 else array\n",
        1,
    )
    assert widening != _fixed()
    outcome = dms_with(widening)("check", "mine", "--dtype", "float32", "--examples", 1)
    assert outcome.code == 1
    assert "refuses_dtype_float16 [cpu, float16]: refusal_missing" in outcome.out


def test_the_primitives_of_the_guide_are_those_there_are() -> None:
    section = GUIDE.partition("## Faster primitives")[2].partition("A replacement may be faster")[0]
    named = set(re.findall(r"`(\w+)`", section))
    fields = set(Namespace.__dataclass_fields__)
    settings = {"xp", "array_type", "guard", "entries_at_once", "stop_gradient"}
    settings |= {"lend", "copy", "traced"}  # how plugins are given arrays
    settings |= {"one_read", "over_blocks", "twin"}
    assert named == fields - settings
