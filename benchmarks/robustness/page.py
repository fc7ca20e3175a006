"""The page: everything in README.md comes from the numbers beside it, and from peers.json."""

from __future__ import annotations

from pathlib import Path

import paper
import tables
from bars import must_hold, quoted
from measured import Numbers
from text import Lines, count, prose, table


def write_page(folder: Path) -> None:
    """Write README.md beside the numbers."""
    numbers = Numbers(folder)
    parts = [
        _intro(numbers),
        _sets(numbers),
        must_hold(numbers),
        tables.skewed(numbers),
        tables.forms(numbers),
        quoted(numbers),
        *(tables.accuracy(numbers, name) for name in numbers.sets),
        tables.told(numbers),
        tables.parts(numbers),
        paper.paper(numbers),
        tables.missing(numbers),
        tables.covariance(numbers),
        tables.runtimes(numbers),
        tables.seconds(numbers),
    ]
    text = "\n".join(line for part in parts if part for line in (*part, ""))
    (folder / "README.md").write_text(text.rstrip() + "\n", encoding="utf-8")


def _intro(numbers: Numbers) -> Lines:
    about = numbers.about
    machine, versions, seeds = about["machine"], about["versions"], about["seeds"]
    return [
        "# Fusion under noise, conflict, skew and missing modalities",
        "",
        prose(f"""
            Written by `benchmarks/robustness/study.py FOLDER`. Every number is in
            `robustness.csv`, every comparison in `pairs.csv`, versions and settings in
            `environment.json`. {machine["cpu"]}, {machine["cores"]} cores; Python
            {about["python"]},
        """)
        + " "
        + ", ".join(f"{name} {number}" for name, number in versions.items())
        + ".",
        "",
        prose(f"""
            Means over the first {count(seeds["accuracy"])}, accuracy in %, unless it says
            otherwise. The split is 80/20 by `RandomState(seed).permutation(n)`, or the set's own.
            Features are scaled to [0, 1] by the training rows. Test rows alone are corrupted:
            `max(1, M // 2)` modalities of each sample, and nobody is told. *Sigma* is Gaussian
            noise; *zeroed* sets all features to 0; *conflict* is RCML's routine (arXiv
            2402.16897). The other conditions are corruptions of `dms robustness`. ECE has 15 bins;
            *noisy* is its mean over the five levels of noise. All settings are the defaults of
            `dms fit`, the same for all sets.
        """),
        "",
        "![Accuracy against condition](robustness.png)",
    ]


def _sets(numbers: Numbers) -> Lines:
    rows = [
        [
            name,
            str(len(about["modalities"])),
            str(about["classes"]),
            f"{about['largest class']:.0%}",
            str(about["rows"]),
            f"{about['test rows']}, {about['test']}",
            about["test rows looked at"],
        ]
        for name, about in numbers.about["tables"].items()
    ]
    header = ["", "modalities", "classes", "largest class", "rows", "test rows"]
    return [
        "## The sets, and what was looked at",
        "",
        prose("""
            Settings are chosen by cross-validation within the training rows alone. Whoever designs
            a method with test scores in view fits it to them nevertheless. So for each set: were
            its test rows ever looked at while something here was designed? Where they were, this is
            no blind test.
        """),
        *table([*header, "looked at?"], rows),
    ]
