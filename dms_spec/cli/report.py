"""``dms report`` draws the reports of several backends side by side."""

from __future__ import annotations

import argparse
from pathlib import Path

from dms_spec.cli.printing import say
from dms_spec.conformance.render import DRAWN, badge, html, markdown
from dms_spec.errors import BackendUnavailable, FileError, install_hint
from dms_spec.outputs import Target

EXAMPLE = "dms report numpy.json -o matrix.md"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "reports", metavar="JSON", nargs="+", type=Path, help="reports of dms check"
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        type=Path,
        required=True,
        help="what to draw: .md, .html or .svg",
    )


def run(args: argparse.Namespace) -> int:

    target = Target.of_file(args.output, DRAWN.encode())
    try:
        from dms_spec.conformance.reading import read_reports
    except ImportError as error:
        raise BackendUnavailable(
            "the checks of a report are counted by the conformance suite",
            got=str(error),
            fix=install_hint("dms-spec[conformance]"),
        ) from error
    reports = read_reports(args.reports)
    draw = {".md": markdown, ".html": html}.get(args.output.suffix)
    if draw is not None:
        text = draw(reports)
    elif args.output.suffix == ".svg" and len(reports) == 1:
        text = badge(reports[0])
    else:
        raise FileError(
            f"{args.output} cannot be drawn from {len(reports)} reports",
            expected=".md or .html; .svg of one report",
        )
    with target.writing() as new:
        next(iter(new.values())).write_text(text, encoding="utf-8")
    say(f"wrote {args.output}")
    return 0
