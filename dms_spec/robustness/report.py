"""Writes a result in words and files. Every claim is computed from the numbers beside it."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path

from dms_spec.errors import FileError
from dms_spec.markup import (
    GENERATOR,
    escape,
    html_list,
    html_page,
    html_picture,
    html_table,
    markdown_table,
    plain_markdown,
)
from dms_spec.outputs import Target, writing_file
from dms_spec.robustness.findings import (
    CLEAR,
    LEGEND,
    about,
    accuracy_table,
    detail_table,
    findings,
    sensor_table,
)
from dms_spec.robustness.methods import ORACLE, STATIC
from dms_spec.robustness.plots import plots
from dms_spec.robustness.result import Result
from dms_spec.texts import read_text

#: The files of a report, and what is in each.
FILES = {
    "robustness.html": "the report, to read",
    "robustness.json": "every case, and what follows from them",
    "robustness.csv": "the same, one number in a row",
    "robustness.md": "a section for the artifact's card",
}

_BEGIN, _END = "<!-- dms robustness: begin -->", "<!-- dms robustness: end -->"
_FIELDS = ("corruption", "severity", "seed", "pattern", "method", "metric", "value")

# What one knows a file of a report by.
_MARKS = {
    "robustness.html": GENERATOR.encode(),
    "robustness.json": b'"format": "dms-spec robustness',
    "robustness.csv": ",".join(_FIELDS).encode(),
    "robustness.md": _BEGIN.encode(),
}


def write_report(
    result: Result, folder: Path | str, *, title: str = "", overwrite: bool = False
) -> None:
    """Writes `FILES` into a folder, which is made if need be: all of them or none.

    Args:
        result: What was measured.
        folder: Where to.
        title: What was measured, in a few words.
        overwrite: Replace the files of a report that is there.

    Raises:
        FileError: A file is there already (with ``overwrite``, one of somebody else), or the
            folder cannot be written.
        BackendUnavailable: matplotlib is not installed.

    Example:
        >>> from dms_spec import Predictor, get_backend, load_artifact, read_table
        >>> from dms_spec.robustness import Samples, measure, of_predictor, sweep, write_report
        >>> predictor = Predictor(load_artifact("model"), get_backend("numpy"))
        >>> samples = Samples.of_table(read_table("train.npz"), predictor.classes)
        >>> cases = sweep(["gaussian"], seeds=(0,))
        >>> result = measure({"mine": of_predictor(predictor)}, samples, cases)
        >>> write_report(result, "report", title="Mine")
    """
    target = report_target(folder, overwrite=overwrite)
    pictures = plots(result)
    data = result.to_dict() | {
        "title": title,
        "summary": result.summary(),
        "sensor_failure": result.sensor_failure(),
        "findings": findings(result),
    }
    with target.writing() as new:
        text = json.dumps(data, indent=1, allow_nan=False)
        new["robustness.json"].write_text(text + "\n", encoding="utf-8")
        new["robustness.html"].write_text(html(result, title, pictures), encoding="utf-8")
        new["robustness.md"].write_text(section(result), encoding="utf-8")
        with new["robustness.csv"].open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, _FIELDS)
            writer.writeheader()
            writer.writerows(result.rows())


def report_target(folder: Path | str, *, overwrite: bool = False) -> Target:
    """Gives the target of `write_report`, checked before the work is done.

    Raises:
        FileError: As in `write_report`.
    """
    return Target.of_folder(folder, _MARKS, overwrite=overwrite)


# ------------------------------------------------------------------------------------- markdown


def section(result: Result) -> str:
    """Writes a section for an artifact's card, in Markdown, between `put_in_card`'s markers."""
    lines = [
        _BEGIN,
        "## Robustness",
        "",
        plain_markdown(about(result)),
        "",
        markdown_table(*accuracy_table(result)),
    ]
    lines += ["", f"`{STATIC}`: {LEGEND[STATIC]}. `{ORACLE}`: {LEGEND[ORACLE]}.", ""]
    header, rows = sensor_table(result)
    if rows:
        lines += ["### Sensor failure", "", markdown_table(header, rows), ""]
    lines += [f"- {plain_markdown(text)}" for text in (*findings(result), *result.notes)]
    return "\n".join([*lines, "", "Measured by `dms robustness`.", _END, ""])


def put_in_card(card: Path, text: str) -> None:
    """Writes a section into a card: in place of an older one, otherwise at the end.

    Raises:
        FileError: The card cannot be read or written.
    """
    old = read_text(card)  # with line ends as they are
    before, begin, rest = old.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if begin and not end:
        raise FileError(
            f"{card} has the beginning of a section, and not its end",
            expected=_END,
            fix="Remove what is left of the section.",
        )
    new = before + text.rstrip("\n") + after if begin else f"{old.rstrip()}\n\n{text}"
    # Any card will do, since all that it says besides is kept.
    with writing_file(card, b"", inside=True) as temporary:
        temporary.write_text(new, encoding="utf-8", newline="")


# ----------------------------------------------------------------------------------------- html


def html(result: Result, title: str, pictures: dict[str, tuple[str, bytes]]) -> str:
    """Writes one page that needs nothing else.

    Args:
        result: What was measured.
        title: In a few words.
        pictures: By heading, a caption and an SVG.
    """
    title = title or "Robustness"
    return html_page(title, "\n".join(_body(result, title, pictures)))


def _body(result: Result, title: str, pictures: dict[str, tuple[str, bytes]]) -> Iterator[str]:
    yield f"<h1>{escape(title)}</h1>"
    yield f"<p>{escape(about(result))}</p>"
    yield "<h2>What the numbers say</h2>"
    yield html_list(findings(result))
    if result.notes:
        yield "<h2>Notes</h2>"
        yield html_list(result.notes)
    yield "<h2>Accuracy</h2>"
    yield html_table(*accuracy_table(result))
    yield (
        f"<p>Gain: accuracy above static, in points, and its standard error over the samples. "
        f"It counts as clear beyond {CLEAR} of them.</p>"
    )
    for heading, (caption, svg) in pictures.items():
        yield f"<h2>{escape(heading)}</h2><p>{escape(caption)}</p>"
        yield html_picture(svg, f"Chart: {heading}. Its numbers are in the tables of this page.")
    header, rows = sensor_table(result)
    if rows:
        yield "<h2>Sensor failure</h2>"
        yield (
            "<p>EMM: entire modalities missing; RMM: random features missing; NM: noise. Missing "
            "features are the training mean. Average: over all sets of damaged modalities but the "
            "set of all; expected p: each modality damaged with probability p (Liao et al. "
            "2025).</p>"
        )
        yield html_table(header, rows)
    yield "<h2>Everything else</h2>"
    for method in result.methods:
        yield html_table(*detail_table(result, method))
    yield "<h2>Words</h2>"
    yield html_list(f"{name}: {text}." for name, text in LEGEND.items())
    yield "<h2>Corruptions</h2>"
    yield html_list(
        f"{name}: {c['meaning']}" + (f" Severity: {c['unit']}." if c["unit"] else "")
        for name, c in result.corruptions.items()
    )
    others = {note: None for case in result.cases for note in case.notes}
    if others:
        yield "<h2>Notes on single cases</h2>"
        yield html_list(others)
