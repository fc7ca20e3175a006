"""Writes the page of the wrong backends: ``python docs/spec/build_mutants.py``.

The checks of the clause that a mutant breaks run on it, in its dtype. The page says which of them
fail in the name of that clause. A test fails when a mutant is missing from the page.
"""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from dms_spec.conformance.clauses import clauses
from dms_spec.conformance.mutants import KINDS, broken_clause, get_mutant, mutants
from dms_spec.conformance.registry import checks

ROOT = Path(__file__).resolve().parents[2]
TARGET = ROOT / "docs" / "reference" / "mutants.md"
EXAMPLES = 100

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

`make mutants` writes this page. It runs the checks of the clause that a mutant breaks, with
{examples} cases for each property. The column *breaks* names the clause that a check must name to
catch the mutant. *Caught by* lists the checks that failed in the name of that clause.

## What has to be looked at

Most mutants are wrong about an equation, and any case of the right kind shows it. The others are
right in small cases, in the first call or in all that is mostly compared.

{kinds}

## All of them

| mutant | what is wrong | breaks | caught by |
|---|---|---|---|
"""

_CLAUSES = """
## Clauses

The suite checks {checked} clauses. At least one mutant breaks {broken} of them. Some clauses, such
as those of the command line, are checked by the tests of this repository alone. They are left out,
because a backend cannot break them.

| clause | mutants |
|---|---|
"""


def catching(name: str) -> list[str]:
    """The checks that fail on a mutant in the name of the clause that it breaks."""
    backend = get_mutant(name)
    clause = backend.mutant.clause
    return [
        check.name
        for check in checks(clauses=[clause])
        if broken_clause(backend, check, examples=EXAMPLES, only=clause) == clause
    ]


def build() -> str:
    """The page, as Markdown."""
    every = mutants()
    with ProcessPoolExecutor() as pool:
        found = list(pool.map(catching, [mutant.name for mutant in every]))
    lines, breakers = [], defaultdict(set)
    caught = Counter[str]()
    missed = [m for m, names in zip(every, found, strict=True) if not names]
    if missed:
        listed = ", ".join(f"{m.name} ({m.clause})" for m in missed)
        raise SystemExit(f"no check catches these in the name of their clause: {listed}")
    for mutant, names in zip(every, found, strict=True):
        caught[mutant.kind] += 1
        breakers[mutant.clause].add(mutant.name)
        shown = ", ".join(f"`{name}`" for name in names)
        dtype = "" if mutant.dtype == "float32" else f" ({mutant.dtype})"
        lines.append(f"| `{mutant.name}` | {mutant.summary}{dtype} | {mutant.clause} | {shown} |")
    count = Counter(mutant.kind for mutant in every)
    rows = [f"| {kind} | {count[kind]} | {caught[kind]} |" for kind in KINDS if count[kind]]
    kinds = "\n".join(["| kind | mutants | caught |", "|---|---|---|", *rows])
    checked = {clause for check in checks() for clause in check.clauses}
    page = _HEAD.format(count=len(every), examples=EXAMPLES, kinds=kinds) + "\n".join(lines) + "\n"
    broken = len(checked & set(breakers))
    page += _CLAUSES.format(checked=len(checked), broken=broken)
    for clause in clauses():
        if clause in checked:
            own = ", ".join(f"`{name}`" for name in sorted(breakers[clause]))
            page += f"| {clause} | {own or 'no mutant yet'} |\n"
    return page


if __name__ == "__main__":
    TARGET.write_text(build(), encoding="utf-8")
    print(f"wrote {TARGET.relative_to(ROOT)}")
    sys.exit()
