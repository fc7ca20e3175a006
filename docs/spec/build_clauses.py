"""Writes the machine copy of the clauses: ``python docs/spec/build_clauses.py``.

The text comes from the Markdown pages, the checks from the code that names a clause: conformance
checks (``@check("DMS-...")``) and tests (``@pytest.mark.clause("DMS-...")``). The result ships in
the wheel; a test fails when it is out of date, or when a clause has neither a check nor a reason.
"""

from __future__ import annotations

import ast
import re
import sys
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
EDITION = "2026.11"
PAGES = ROOT / "docs" / "spec" / EDITION
TARGET = ROOT / "dms_spec" / "conformance" / "clauses.toml"

_CLAUSE = re.compile(r"^\*\*(?P<id>DMS-[A-Z]-\d{3})\*\* (?P<text>.+)$")
_UNCHECKED = re.compile(r"^\*Unchecked:\* (?P<reason>.+)$")
_LEVEL = re.compile(r"\*\*(must not|must|should not|should|may)\*\*")


@dataclass
class Clause:
    """One clause, as the text has it."""

    id: str
    page: str
    text: str
    unchecked: str = ""
    checks: list[str] = field(default_factory=list)

    @property
    def level(self) -> str:
        """must, should or may."""
        levels = {match.split()[0] for match in _LEVEL.findall(self.text)}
        if len(levels) != 1:
            raise ValueError(f"{self.id} has keywords of {len(levels)} levels, not of one")
        return levels.pop()


def read_pages() -> list[Clause]:
    """Reads every clause of the edition, in the order of the pages' names."""
    clauses: list[Clause] = []
    for page in sorted(PAGES.glob("*.md")):
        for line in page.read_text(encoding="utf-8").splitlines():
            if match := _CLAUSE.match(line):
                clauses.append(Clause(match["id"], page.stem, match["text"]))
            elif match := _UNCHECKED.match(line):
                clauses[-1].unchecked = match["reason"]
    return clauses


def read_checks() -> dict[str, list[str]]:
    """Lists for each clause the checks and tests that name it."""
    found: dict[str, list[str]] = defaultdict(list)
    folders = (ROOT / "dms_spec" / "conformance" / "checks", ROOT / "tests")
    for path in sorted(p for folder in folders for p in folder.rglob("*.py")):
        where = path.relative_to(ROOT).as_posix()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                for clause in _named_by(node):
                    own = path.parent.name == "checks"
                    found[clause].append(node.name if own else f"{where}::{node.name}")
    return found


def _named_by(node: ast.FunctionDef) -> list[str]:
    names = []
    for decorator in node.decorator_list:
        if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) in (
            "check",
            "pytest.mark.clause",
        ):
            names += [argument.value for argument in decorator.args]  # type: ignore[attr-defined]
    return names


def build() -> str:
    """The machine copy, as TOML."""
    clauses, checks = read_pages(), read_checks()
    known = {clause.id for clause in clauses}
    if len(known) != len(clauses):
        raise ValueError("a clause id is used twice")
    if strangers := sorted(set(checks) - known):
        raise ValueError(f"checks name clauses that do not exist: {', '.join(strangers)}")
    lines = [
        "# The clauses of the specification, for machines. Written by docs/spec/build_clauses.py.",
        "",
        f'edition = "{EDITION}"',
    ]
    for clause in clauses:
        clause.checks = sorted(checks.get(clause.id, []))
        lines += [
            "",
            "[[clause]]",
            f'id = "{clause.id}"',
            f'page = "{clause.page}"',
            f'level = "{clause.level}"',
            f"text = '''{clause.text}'''",
        ]
        if clause.checks:
            lines += ["checks = [", *(f'    "{name}",' for name in clause.checks), "]"]
        if clause.unchecked:
            lines.append(f"unchecked = '''{clause.unchecked}'''")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    TARGET.write_text(build(), encoding="utf-8")
    checked = read_checks()
    bare = [c.id for c in read_pages() if not c.unchecked and c.id not in checked]
    print(f"wrote {TARGET.relative_to(ROOT)}; without check or reason: {', '.join(bare) or 'none'}")
    sys.exit(bool(bare))
