"""Writes the page of the wrong backends: ``python docs/spec/build_mutants.py``.

Every check of the suite runs on every mutant, in the mutant's dtype. The page says which of them
fail, and in the name of which clause. A test fails when a mutant is missing from the page.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from dms_spec.conformance.clauses import clauses
from dms_spec.conformance.mutants import broken_clause, get_mutant, mutants
from dms_spec.conformance.registry import checks

ROOT = Path(__file__).resolve().parents[2]
TARGET = ROOT / "docs" / "reference" / "mutants.md"
EXAMPLES = 30
# Exchange and export are slow, and run other backends beside the mutant: only for their clauses.
_SLOW = ("exchange", "export")

_HEAD = """\
# Mutants: wrong backends that measure the suite

The suite ships with {count} backends that are wrong on purpose, each in one way in which somebody
could be wrong. They measure the suite: a mutant that no check catches is a gap in it. All of them
are caught, each by a check that names the clause that it breaks, and a test makes sure of that.
`dms check` runs two of them before anything else, and calls the run invalid if one survives. To see
the suite fail on one:

```
dms check mutant:nan_times_zero
```

Most mutants are NumPy with one thing wrong. Those that need gradients are made from torch, and are
listed where torch is installed.

`make mutants` writes this page. It runs every check on every mutant, with {examples} cases for each
property. The column *breaks* names the clause that a check must name to catch the mutant. *Caught
by* lists the checks that failed in the name of that clause. *And by* counts the other checks that
failed.

| mutant | what is wrong | breaks | caught by | and by |
|---|---|---|---|---|
"""

_CLAUSES = """
## Clauses

The suite checks {checked} clauses. At least one mutant breaks {broken} of them. Some clauses, such
as those of the command line, are checked by the tests of this repository alone. They are left out,
because a backend cannot break them.

| clause | mutants |
|---|---|
"""


def failures(name: str) -> dict[str, str]:
    """For each check that fails on a mutant, the clause that it names; empty for a crash."""
    backend = get_mutant(name)
    found = {}
    for check in checks():
        own = backend.mutant.clause in check.clauses
        # Checks of the clause run as in the suite; for the others a quick look is enough.
        if check.level in _SLOW and not own:
            continue
        clause = broken_clause(backend, check, examples=100 if own else EXAMPLES)
        if clause is not None:
            found[check.name] = clause
    return found


def build() -> str:
    """The page, as Markdown."""
    every = mutants()
    with ProcessPoolExecutor() as pool:
        found = list(pool.map(failures, [mutant.name for mutant in every]))
    lines = []
    breakers: dict[str, set[str]] = defaultdict(set)
    for mutant, failed in zip(every, found, strict=True):
        own = [name for name, clause in failed.items() if clause == mutant.clause]
        if not own:
            raise SystemExit(f"no check catches {mutant.name} in the name of {mutant.clause}")
        for clause in {mutant.clause, *failed.values()} - {""}:
            breakers[clause].add(mutant.name)
        caught = ", ".join(f"`{name}`" for name in own)
        dtype = "" if mutant.dtype == "float32" else f" ({mutant.dtype})"
        more = len(failed) - len(own)
        others = f"{more} more" if more else ""
        lines.append(
            f"| `{mutant.name}` | {mutant.summary}{dtype} | {mutant.clause} | {caught} | {others} |"
        )
    checked = {clause for check in checks() for clause in check.clauses}
    page = _HEAD.format(count=len(every), examples=EXAMPLES) + "\n".join(lines) + "\n"
    broken = len(checked & set(breakers))
    page += _CLAUSES.format(checked=len(checked), broken=broken)
    for clause in clauses():
        if clause in checked:
            names = ", ".join(f"`{name}`" for name in sorted(breakers[clause]))
            page += f"| {clause} | {names or 'no mutant yet'} |\n"
    return page


if __name__ == "__main__":
    TARGET.write_text(build(), encoding="utf-8")
    print(f"wrote {TARGET.relative_to(ROOT)}")
    sys.exit()
