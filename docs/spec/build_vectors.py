"""Writes the golden vectors: ``python docs/spec/build_vectors.py``.

One file for each topic, named by the letter of its family of clauses. Every clause is there in
float64 and in float32; answers and scales are the oracle's. Numbers are drawn from Philox's raw
integers and scaled by powers of two, and logarithms are rounded from decimal ones, so that the
inputs are the same on every machine. The answers go through the machine's exp and log, and may
differ in the last bits; the test that the files are up to date allows for that.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

from golden import heads, policies, presence, results, signals  # noqa: E402
from golden.cases import DTYPES  # noqa: E402

from dms_spec.conformance.vectors import to_json  # noqa: E402

TARGET = ROOT / "dms_spec" / "conformance" / "vectors"

#: What is written, in the order of the files' names.
FILES = [
    *sorted(
        (*presence.CASES, *signals.CASES, *policies.CASES, *results.CASES),
        key=lambda cases: cases.__name__,
    ),
    *heads.CASES,
]

#: Where the dtype decides what can go wrong.
DELICATE = {"DMS-A-007", "DMS-N-001", "DMS-N-002"}


def build() -> dict[str, str]:
    """The text of each file, by its place.

    A case is there in both dtypes if one of its clauses is delicate or is there for the first
    time, else in one of them, in turn: what it shows does not depend on the dtype.
    """
    seen: set[str] = set()
    texts, turn = {}, 0
    for cases in FILES:
        vectors = []
        for case in cases():
            ids = set(case.clause.split())
            both = ids & DELICATE or not ids <= seen
            vectors += [
                case.frozen(dtype) for dtype in (DTYPES if both else DTYPES[turn : turn + 1])
            ]
            seen |= ids
            turn = turn if both else 1 - turn
        folder = "heads/" if cases in heads.CASES else ""
        texts[f"{folder}{cases.__name__}.json"] = to_json(vectors)
    return texts


if __name__ == "__main__":
    texts = build()
    for old in TARGET.rglob("*.json"):
        if old.relative_to(TARGET).as_posix() not in texts:
            old.unlink()
    (TARGET / "heads").mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (TARGET / name).write_text(text, encoding="utf-8", newline="\n")
    size = sum(len(text) for text in texts.values())
    print(f"wrote {len(texts)} files, {size} bytes, to {TARGET.relative_to(ROOT)}")
