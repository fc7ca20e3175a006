"""Which families and which tests run: a few by default, all of them with ``MLLM=all``.

With ``MEASURED`` as the name of a folder, what held is written to a table in it, one for each line
of transformers: a row for each property, a column for each family.
"""

from __future__ import annotations

import csv
import os
from collections import defaultdict
from pathlib import Path

import pytest

ALL = os.environ.get("MLLM") == "all"
pytest.importorskip("torch")
transformers = pytest.importorskip("transformers", reason="not installed: dms-spec[transformers]")

import tiny_models  # noqa: E402

#: One whose image is among the text, and one with cross-attention.
FEW = ("llava", "mllama")
collect_ignore = [] if ALL else ["test_training.py", "test_learning.py", "test_compile.py"]

#: What was measured where a test measures: by property and family.
MEASURED: dict[tuple[str, str], str] = {}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "family" in metafunc.fixturenames:
        metafunc.parametrize("family", tiny_models.FAMILIES if ALL else FEW)


@pytest.fixture
def measured(request: pytest.FixtureRequest) -> object:
    """Takes a text that goes into the table in place of "yes"."""

    def note(text: str) -> None:
        MEASURED[_cell(request.node.nodeid)] = text

    return note


def _cell(nodeid: str) -> tuple[str, str]:
    """The property and the family of a test: ``test_what_holds[family-how]``."""
    name, _, parameters = nodeid.rpartition("::")[2].partition("[")
    family, *how = parameters.rstrip("]").split("-")
    title = name.removeprefix("test_").replace("_", " ")
    return f"{title}: {', '.join(how)}" if how else title, family


_outcomes: dict[str, dict[str, str]] = defaultdict(dict)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if "tests/mllm" in report.nodeid and (report.when == "call" or report.skipped):
        title, family = _cell(report.nodeid)
        if family in tiny_models.FAMILIES:
            words = {"passed": MEASURED.get((title, family), "yes"), "failed": "NO"}
            _outcomes[title][family] = words.get(report.outcome, "-")


def pytest_sessionfinish() -> None:
    if folder := os.environ.get("MEASURED"):
        version = transformers.__version__
        path = Path(folder) / f"transformers{version.partition('.')[0]}.csv"
        with path.open("w", encoding="utf-8", newline="") as file:
            table = csv.writer(file, lineterminator="\n")
            table.writerow([f"transformers {version}", *tiny_models.FAMILIES])
            for title, row in _outcomes.items():
                table.writerow([title, *(row.get(name, "-") for name in tiny_models.FAMILIES)])
