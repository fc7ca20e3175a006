"""The documentation as it is built: the check that `make docs` ends with, and the first page."""

from __future__ import annotations

import importlib.util
import inspect
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from dms_spec.conformance.clauses import clauses

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"


@pytest.fixture(scope="module")
def check() -> ModuleType:
    spec = importlib.util.spec_from_file_location("check_pages", DOCS / "check_pages.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("body", "wrong"),
    [
        ('<a href="https://example.org">a link may lead outside</a>', None),
        ('<a href="#here" id="here">x</a><a href="b.html#there">y</a>', None),
        ('<img src="b.png" alt="a picture">', None),
        ('<script src="https://example.org/x.js"></script>', "loads https://example.org/x.js"),
        ('<link rel="stylesheet" href="//example.org/x.css">', "loads //example.org/x.css"),
        ("<style>@font-face {src: url('https://example.org/f')}</style>", "loads https://"),
        ('<p style="background: url(http://example.org/b)">x</p>', "loads http://"),
        ('<img src="b.png">', "no text stands for img b.png"),
        ('<svg role="img"></svg>', "no text stands for svg"),
        ('<a href="#nowhere">x</a>', "#nowhere leads nowhere"),
        ('<a href="b.html#nowhere">x</a>', "b.html#nowhere leads nowhere"),
        ('<a href="c.html">x</a>', "c.html leads nowhere"),
    ],
)
def test_the_check_finds_what_is_wrong(
    check: Any, tmp_path: Path, body: str, wrong: str | None
) -> None:
    (tmp_path / "a.html").write_text(f"<html>{body}</html>", encoding="utf-8")
    (tmp_path / "b.html").write_text('<p id="there">', encoding="utf-8")
    found = check.problems(tmp_path)
    assert (found == []) if wrong is None else (len(found) == 1 and wrong in found[0]), found


def test_a_style_sheet_that_loads_from_outside_is_found(check: Any, tmp_path: Path) -> None:
    (tmp_path / "a.css").write_text('@import "https://example.org/a.css";', encoding="utf-8")
    assert check.problems(tmp_path) == ["a.css: loads https://example.org/a.css"]


def test_a_clause_without_an_anchor_is_found(check: Any, tmp_path: Path) -> None:
    assert len(check.missing_clauses(tmp_path)) == len(clauses())


def test_make_docs_checks_what_it_built() -> None:
    recipe = (ROOT / "Makefile").read_text(encoding="utf-8").partition("\ndocs:")[2]
    assert "docs/check_pages.py docs/_build/html" in recipe.partition("\n\n")[0]


def test_the_picture_shows_the_second_sample_of_the_ten_lines() -> None:
    code = re.findall(
        r"^```python\n(.*?)^```$", (ROOT / "README.md").read_text("utf-8"), re.DOTALL | re.MULTILINE
    )[0]
    scope: dict[str, Any] = {}
    exec(code, scope)  # our own page
    result = scope["result"]
    picture = (DOCS / "picture.svg").read_text(encoding="utf-8")
    shown = re.findall(r">([\d.]+)</text>", picture)
    rows = (result.signals["confidence"], result.signals["alignment"], result.scores)
    expected = [f"{value:.2f}" for row in rows for value in row[1, :2]]
    weights = [f"{value:.2f}" for value in result.weights[1, :2]]
    assert shown == [*expected, *weights, "0", *weights]
    assert result.weights[1, 2] == 0
    described = re.search(r"<desc[^>]*>(.*)</desc>", picture)
    assert described is not None
    assert set(expected + weights) <= set(re.findall(r"\d\.\d\d", described[1]))


def test_there_is_a_card_for_each_kind_of_user() -> None:
    text = (DOCS / "index.md").read_text(encoding="utf-8")
    links = re.findall(r"^:link: (\S+)$", text, re.MULTILINE)
    assert len(links) == text.count("{grid-item-card}") == 5
    assert all((DOCS / f"{link}.md").is_file() for link in links)


#: What people import by name, and the pages that must say what it is.
PUBLIC = (
    "dms_spec",
    "dms_spec.conformance",
    "dms_spec.robustness",
    "dms_torch",
    "dms_torch.fit",
    "dms_onnxruntime",
)


@pytest.mark.parametrize("module", PUBLIC)
def test_every_public_name_is_on_a_reference_page(module: str) -> None:
    if module.startswith("dms_torch"):
        pytest.importorskip("torch")
    home = importlib.import_module(module)
    names = {
        f"{module}.{name}"
        for name in (dir(home) if module == "dms_spec" else home.__all__)
        if not name.startswith("__")
    }
    pages = "\n".join(p.read_text("utf-8") for p in (DOCS / "reference").rglob("*.md"))
    described = set(re.findall(r"^\.\. auto(?:class|function|exception|data):: (\S+)", pages, re.M))
    whole = re.findall(r"^\.\. automodule:: (\S+)\n   :members:$", pages, re.MULTILINE)
    if module not in whole:
        assert names <= described, sorted(names - described)
    if module == "dms_spec":
        listed = re.findall(r"^   (dms_spec\.\w+)$", pages, re.MULTILINE)
        assert names == set(listed), "the tables of the overview"


@pytest.mark.parametrize("module", PUBLIC)
def test_every_public_thing_says_in_a_sentence_what_it_is(module: str) -> None:
    if module.startswith("dms_torch"):
        pytest.importorskip("torch")
    home = importlib.import_module(module)
    for name in home.__all__:
        thing = getattr(home, name)
        if isinstance(thing, type) or inspect.isroutine(thing):
            first = (inspect.getdoc(thing) or "").partition("\n\n")[0]
            assert first.endswith((".", ":")), f"{module}.{name}: {first!r}"
            assert not first.startswith(f"{name}("), f"{module}.{name} has no words of its own"


def test_a_function_is_not_hidden_by_a_module_of_its_name() -> None:
    """A submodule becomes an attribute of its package as soon as it is imported."""
    pytest.importorskip("torch")
    from dms_torch import mc_dropout, sample_logits

    assert callable(sample_logits) and callable(mc_dropout)
