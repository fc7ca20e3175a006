"""The pages and the code are in plain English, and the internals name what there is."""

from __future__ import annotations

import argparse
import ast
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

from dms_spec.cli import VERBS

ROOT = Path(__file__).resolve().parents[1]
LONGEST = 30

#: Pages that people read from top to bottom.
GUIDES = [
    *sorted((ROOT / "docs" / "guide").glob("*.md")),
    *(ROOT / "docs" / name for name in ("index.md", "examples.md", "glossary.md", "internals.md")),
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md")),
    *sorted((ROOT / "docs" / "tutorials").glob("*.py")),
]
#: Everything written by hand, and the heads of what is generated.
PAGES = [*GUIDES, *sorted((ROOT / "docs" / "reference").glob("*.md"))]
SPECIFICATION = sorted((ROOT / "docs" / "spec").rglob("*.md"))
#: What people run, and what they read in the reference, in an editor and in a terminal.
CODE = [
    path
    for folder in ("dms_spec", "backends", "exporters", "examples", "benchmarks", "docs/try")
    for path in sorted((ROOT / folder).rglob("*.py"))
]

#: A word that pages and code do not use, and the one that they use in its place.
ONE_WORD = {
    r"uniform (?:weight|fusion|mean|over)": "static",
    r"as if one knew": "mask oracle",
    r"spoil\w*": "corrupt",
    r"mend\w*": "fix",
    r"pulls? (?:up|down)": "contribution",
    r"held[- ]out": "validation rows, or test rows",
    r"data ?sets? of ours": "dataset",
    r"data set": "dataset",
}


def read(page: Path) -> str:
    """A page as Markdown: of a tutorial, its docstring and the comments that become text."""
    text = page.read_text(encoding="utf-8")
    if page.suffix != ".py":
        return text
    cells = re.findall(r"^# %%\n((?:#.*\n)+)", text, re.MULTILINE)
    said = [re.sub(r"^# ?", "", cell, flags=re.MULTILINE) for cell in cells]
    text = "\n\n".join([ast.get_docstring(ast.parse(text)) or "", *said])
    text = re.sub(r"^(?:=+|-+)$", "", text, flags=re.MULTILINE)
    text = re.sub(r"^\.\. .*\n(?: +.*\n)*", "\n", text, flags=re.MULTILINE)
    return re.sub(r"``[^`]+``|:\w+:`[^`]+`", "`code`", text)


def prose(text: str) -> list[str]:
    """The paragraphs, list items and headings of a page; code, tables and formulas left out."""
    text = re.sub(
        r"^ *(`{3,}|:{3,})[^\n]*\n.*?^ *\1 *$", "\n", text, flags=re.DOTALL | re.MULTILINE
    )
    text = re.sub(r"^\$\$.*?\$\$.*?$", "\n", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"^ *\|.*$|^\(.*\)=$|^<!--.*?-->$", "", text, flags=re.MULTILINE)
    text = re.sub(r"!\[([^\]]*)\]\([^)]*\)", "", text)
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", lambda link: link[1] or "page", text)
    text = re.sub(r"`[^`]+`", "code", text)
    text = re.sub(r"\$[^$]+\$", "formula", text)
    text = re.sub(r"^ *(?:[-*:]|\d+\.|#+) ", "\n", text, flags=re.MULTILINE)
    return [" ".join(part.split()) for part in re.split(r"\n\s*\n", text) if part.strip()]


def sentences(text: str) -> list[str]:
    """The sentences of a page's prose."""
    marked = [
        re.sub(r"[*_]{1,2}(?=\w)|(?<=[\w.,:;?!)])[*_]{1,2}", "", part) for part in prose(text)
    ]
    return [one for part in marked for one in re.split(r"(?<!\bal\.)(?<=[.?!])\)? +", part)]


def length(sentence: str) -> int:
    """How many words it has."""
    return sum(any(letter.isalnum() for letter in word) for word in sentence.split())


def test_a_long_sentence_is_found() -> None:
    """The measure measures: lists, links and code neither hide a sentence nor make one."""
    words = " ".join(["word"] * LONGEST)
    page = f"# Title\n\n{words}. Short `code. With. Stops` one.\n\n- {words}\n  and more.\n- Item\n"
    page += f"\n```\n{words} {words}\n```\n\n| {words} {words} |\n"
    assert [n for n in map(length, sentences(page)) if n > LONGEST] == [LONGEST + 2]
    assert length("one - two (three), four") == 4


def test_a_long_sentence_of_a_tutorial_is_found(tmp_path: Path) -> None:
    """In its docstring and in its text, but in no other comment."""
    words = " ".join(["word"] * LONGEST)
    page = tmp_path / "tutorial.py"
    page.write_text(
        f'"""\nTitle\n=====\n\n{words} one.\n"""\n# {words} not this.\nx = 1\n\n# %%\n'
        f"# Heading\n# -------\n#\n# ``a`` {words}.\n# Short :doc:`b`.\n",
        encoding="utf-8",
    )
    found = [length(sentence) for sentence in sentences(read(page))]
    assert found == [1, LONGEST + 1, 1, LONGEST + 1, 2]


@pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.stem)
def test_sentences_of_guides_are_short(page: Path) -> None:
    long = [s for s in sentences(read(page)) if length(s) > LONGEST]
    assert not long, f"over {LONGEST} words: {long}"


def strays(text: str) -> list[str]:
    """What a text does not say in the one word for it."""
    line = " ".join(text.split())
    found = [
        (re.search(rf"\b{other}\b", line, re.IGNORECASE), word) for other, word in ONE_WORD.items()
    ]
    return [f"say {word!r}, not {match[0]!r}: {line[:80]}" for match, word in found if match]


def texts(source: str) -> Iterator[tuple[int, str]]:
    """Every text in code, with its line: docstrings, messages, help, output."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            yield node.lineno, node.value


@pytest.mark.parametrize("page", [*PAGES, *SPECIFICATION], ids=lambda page: page.stem)
def test_there_is_one_word_for_each_idea(page: Path) -> None:
    found = [word for part in prose(read(page)) for word in strays(part)]
    assert not found


def test_a_stray_word_in_code_is_found() -> None:
    """In docstrings and messages, over the end of a line; names are not read."""
    source = 'class A:\n    """Rows held\n    out."""\n    def mend(self, mended=1):\n'
    source += '        raise ValueError(f"{self} spoils "\n            "the rows")\n'
    found = {line: strays(text) for line, text in texts(source) if strays(text)}
    assert set(found) == {2, 5}
    assert found[2] == ["say 'validation rows, or test rows', not 'held out': Rows held out."]
    assert found[5][0].startswith("say 'corrupt', not 'spoils'")


@pytest.mark.parametrize("path", CODE, ids=lambda path: str(path.relative_to(ROOT)))
def test_code_has_one_word_for_each_idea(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    found = {f"{path.name}:{line}": strays(text) for line, text in texts(source) if strays(text)}
    assert not found


@pytest.mark.parametrize("verb", VERBS)
def test_help_has_one_word_for_each_idea(verb: str) -> None:
    parser = argparse.ArgumentParser(prog=f"dms {verb}", description=VERBS[verb])
    import_module(f"dms_spec.cli.{verb}").add_arguments(parser)
    text = parser.format_help()
    assert VERBS[verb].split()[0] in text and not strays(text)


#: What a newcomer has to learn.
TERMS = (
    "active", "artifact", "backend", "capability", "clause", "contribution", "corroboration",
    "edition", "fusion", "head", "mask oracle", "modality", "mutant", "oracle", "policy", "present",
    "schedule", "score", "signal", "soundness", "spec", "static", "term", "typicality",
    "validation rows", "weight",
)  # fmt: skip


def test_the_glossary_has_the_words_that_a_newcomer_must_learn() -> None:
    text = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
    entries = dict(re.findall(r"^(\S.*)\n: ((?:.+\n)+)", text, re.MULTILINE))
    names = {name for term in entries for name in term.split(", ")}
    assert names >= set(TERMS), sorted(set(TERMS) - names)
    assert all(len(sentences(said)) <= 2 for said in entries.values())
    assert "](glossary.md)" in (ROOT / "docs" / "index.md").read_text(encoding="utf-8")


INTERNALS = ROOT / "docs" / "internals.md"


def test_the_paths_that_the_internals_name_exist() -> None:
    text = INTERNALS.read_text(encoding="utf-8")
    places = re.findall(
        r"`((?:dms_spec|backends|exporters|docs|tests)/[\w./]*)`( \*\(new\)\*)?", text
    )
    missing = [place for place, new in places if not new and not (ROOT / place).exists()]
    assert len(places) > 50 and not missing, missing


def test_the_functions_on_the_way_of_an_array_exist() -> None:
    walk = INTERNALS.read_text(encoding="utf-8").partition("## One array")[2].partition("\n## ")[0]
    named = set(re.findall(r"`(?:\w+\.)?([A-Za-z_]+)`", walk)) - {"features", "fused", "py"}
    source = "\n".join(
        path.read_text(encoding="utf-8")
        for folder in ("dms_spec", "backends/dms_numpy")
        for path in (ROOT / folder).rglob("*.py")
    )
    missing = [name for name in named if not re.search(rf"\b(?:def|class) {name}\b", source)]
    assert len(named) > 20 and not missing, missing
    assert len(re.findall(r"^\d\. ", walk, re.MULTILINE)) <= 6, "at most six rooms"
