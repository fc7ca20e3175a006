"""Every code block of the README, the first page and the guides runs, or says why it does not.

The blocks of a page run from top to bottom: Python in one namespace, commands in one folder. What a
block is, its language says:

- ``python`` runs, and so does each ``dms`` command of ``sh``.
- ``output`` is what the block above it printed, to the letter.
- ``toml`` and ``json`` are read. The extras, folders and targets of ``pip`` and ``make`` are there.
- ``text`` is no code.

A comment on the line above a block says what is special about it or, at the top, about the page:
``<!-- not run: REASON -->``, or ``<!-- continues: fit -->`` for a page that begins with the files
that another one leaves behind.
"""

from __future__ import annotations

import io
import json
import re
import shlex
import shutil
import textwrap
import tomllib
from collections.abc import Callable
from contextlib import chdir, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from dms_spec.cli import main

ROOT = Path(__file__).resolve().parents[1]
PAGES = {
    path.stem.lower(): path
    for path in (ROOT / "README.md", ROOT / "docs" / "index.md", *ROOT.glob("docs/guide/*.md"))
}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
#: How many blocks are shown without being run, over all pages. Each has its reason in the source.
NOT_RUN = 18

# A page runs in whichever test needs it first.
pytestmark = [
    # What a page may print beside its result, such as a note on typicality without a fit.
    pytest.mark.filterwarnings("ignore::dms_spec.errors.DMSWarning"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning"),  # torch's own
    pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning:onnxruntime"),  # a guide's
]


@dataclass(frozen=True)
class Block:
    """One fenced block of a page."""

    line: int
    language: str
    code: str
    not_run: str = ""


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, but for directives such as ``{literalinclude}``."""
    text = page.read_text(encoding="utf-8")
    fence = r"(?:^<!-- not run: (?P<why>.+?) -->\n)?^```(?P<language>[^{\n]*)\n(?P<code>.*?)^```$"
    return [
        Block(
            text.count("\n", 0, found.start("code")),
            found["language"],
            found["code"],
            found["why"] or "",
        )
        for found in re.finditer(
            fence,
            _DIRECTIVE.sub(lambda it: "\n" * it[0].count("\n"), text),
            re.DOTALL | re.MULTILINE,
        )
    ]


_DIRECTIVE = re.compile(r"^```\{.*?^```$", re.DOTALL | re.MULTILINE)


@dataclass
class Run:
    """A page that is being run: its folder, its names, and what its last block printed."""

    folder: Path
    names: dict[str, Any] = field(default_factory=lambda: {"__name__": "__main__"})
    printed: str = ""

    def python(self, code: str) -> None:
        self._printing(lambda: exec(compile(textwrap.dedent(code), "a page", "exec"), self.names))

    def sh(self, code: str) -> None:
        for line in code.replace("\\\n", " ").splitlines():
            program, *words = shlex.split(line, comments=True) or [""]
            if program == "dms":
                self._printing(lambda words=words: self._dms(words))
            elif program == "pip":
                _installs(words)
            elif program == "make":
                assert re.search(rf"^{words[0]}:", _MAKEFILE, re.MULTILINE), line
            else:
                assert not program, f"what is {program!r}?"

    def output(self, code: str) -> None:
        assert self.printed == code

    def toml(self, code: str) -> None:
        tomllib.loads(code)

    def json(self, code: str) -> None:
        json.loads(code)

    def text(self, code: str) -> None:
        """No code."""

    @staticmethod
    def _dms(words: list[str]) -> None:
        code = main(words)
        assert code == 0, f"dms {shlex.join(words)} ended with {code}"

    def _printing(self, run: Callable[[], None]) -> None:
        there = io.StringIO()
        with chdir(self.folder), redirect_stdout(there):
            run()
        self.printed = there.getvalue()


_MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


def _installs(words: list[str]) -> None:
    """What a page tells pip to install is in a checkout; nothing says that dms-spec is on PyPI."""
    assert words[0] == "install"
    for word in words[1:]:
        where, _, extras = word.rstrip("]").partition("[")
        if not word.startswith("-"):
            assert (ROOT / where).is_dir(), f"pip install {word}: no such folder in a checkout"
            assert set(filter(None, extras.split(","))) <= set(PROJECT["optional-dependencies"])


_finished: dict[str, Run] = {}


def run_page(name: str, make_folder: Callable[[str], Path]) -> Run:
    """Runs a page, once for each process; returns what it left behind."""
    if name in _finished:
        return _finished[name]
    page, folder = PAGES[name], make_folder(name)
    if before := re.search(r"^<!-- continues: (\w+) -->$", page.read_text("utf-8"), re.MULTILINE):
        shutil.copytree(run_page(before[1], make_folder).folder, folder, dirs_exist_ok=True)
    run = Run(folder)
    for block in blocks(page):
        if not block.not_run:
            try:
                getattr(run, block.language)(block.code)
            except BaseException as error:
                error.add_note(f"in the block at {page.relative_to(ROOT)}:{block.line}")
                raise
    _finished[name] = run
    return run


@pytest.mark.parametrize("name", PAGES)
def test_every_block_of_the_page_runs(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    for package in ("torch", "transformers", "pandas", "sklearn"):
        if package in PAGES[name].read_text(encoding="utf-8"):
            pytest.importorskip(package)
    run_page(name, tmp_path_factory.mktemp)


def test_every_block_says_what_it_is() -> None:
    known = {"python", "sh", "output", "toml", "json", "text"}
    assert {block.language for page in PAGES.values() for block in blocks(page)} <= known


def test_few_blocks_are_not_run() -> None:
    shown = [block for page in PAGES.values() for block in blocks(page) if block.not_run]
    assert len(shown) == NOT_RUN, [block.not_run for block in shown]


def test_the_gate_of_the_guide_learns(tmp_path_factory: pytest.TempPathFactory) -> None:
    pytest.importorskip("torch")
    fusion = run_page("published", tmp_path_factory.mktemp).names["fusion"]
    assert (dict(fusion.named_parameters())["policy/gate_weight"].grad != 0).any()


def test_the_typicality_of_the_torch_guide_is_fitted(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Fitted as the guide says, a modality that is far from its training loses its weight."""
    torch = pytest.importorskip("torch")
    names = run_page("torch", tmp_path_factory.mktemp).names
    features = torch.tensor(names["new"][:4], dtype=torch.float32)
    features[:, 0] += 20.0
    with torch.no_grad():
        output = names["fusion"](features=features, logits=torch.zeros(4, 3, 2))
    assert float(output.weights[:, 0].max()) < 0.01
    assert float(output.signals["typicality"][:, 1:].min()) > -0.1
