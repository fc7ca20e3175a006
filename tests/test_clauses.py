"""The specification's text, its machine copy and its checks agree."""

from __future__ import annotations

import importlib.util
import re
import tomllib
from importlib.resources import files
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def builder() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "build_clauses", ROOT / "docs" / "spec" / "build_clauses.py"
    )
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    # dataclasses look their module up by name.
    import sys

    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.clause("DMS-V-004")
def test_the_machine_copy_is_up_to_date(builder: ModuleType) -> None:
    shipped = files("dms_spec.conformance").joinpath("clauses.toml").read_text(encoding="utf-8")
    assert shipped == builder.build(), "run: make clauses"


def test_every_must_has_a_check_or_a_reason() -> None:
    text = files("dms_spec.conformance").joinpath("clauses.toml").read_text(encoding="utf-8")
    bare = [
        clause["id"]
        for clause in tomllib.loads(text)["clause"]
        if clause["level"] == "must" and not clause.get("checks") and not clause.get("unchecked")
    ]
    assert not bare


def test_no_clause_hides_from_the_parser(builder: ModuleType) -> None:
    """Each bold id on a page is a clause that the machine copy has."""
    pages = "".join(page.read_text(encoding="utf-8") for page in builder.PAGES.glob("*.md"))
    assert re.findall(r"\*\*(DMS-\S+?)\*\*", pages)
    assert set(re.findall(r"\*\*(DMS-\S+?)\*\*", pages)) == {c.id for c in builder.read_pages()}


def test_ids_named_elsewhere_exist(builder: ModuleType) -> None:
    """A comment, a docstring or a page that cites a clause cites one that exists."""
    known = {clause.id for clause in builder.read_pages()}
    places = [
        *(ROOT / "dms_spec").rglob("*.py"),
        *(ROOT / "backends").rglob("*.py"),
        *(ROOT / "docs").glob("**/*.md"),
        ROOT / "README.md",
    ]
    for place in places:
        cited = set(re.findall(r"DMS-[A-Z]-\d{3}", place.read_text(encoding="utf-8")))
        assert cited <= known, f"{place.relative_to(ROOT)}: {sorted(cited - known)}"
