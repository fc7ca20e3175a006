"""``dms watch`` compares a stream of predictions with a reference, and gives alarms."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from dms_spec.bulk.drift import Reference, Rows, joined, windows_of
from dms_spec.bulk.drift_page import Watch, html, since, verdict
from dms_spec.bulk.predictions import read_modalities, read_predictions
from dms_spec.cli.codes import GOOD, OUT_OF_TOLERANCE
from dms_spec.cli.printing import note, say, say_json, say_table, say_verdict
from dms_spec.errors import MissingInput, ShapeError, SpecError
from dms_spec.markup import GENERATOR, counted, percent
from dms_spec.outputs import Target

EXAMPLE = "dms watch today.parquet --reference healthy.parquet -o watch.html"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "predictions",
        metavar="PREDICTIONS",
        nargs="+",
        help="what dms predict wrote, in the order of time: .parquet files, folders of parts, or "
        ".jsonl with the same columns",
    )
    parser.add_argument(
        "--reference",
        metavar="FILE",
        required=True,
        help="predictions on rows that were in order, such as those that were learned from",
    )
    parser.add_argument(
        "--window",
        type=int,
        default=1000,
        metavar="ROWS",
        help="rows that are judged together (default: %(default)s)",
    )
    parser.add_argument("--time", metavar="COL", help="a column that says when a row was")
    parser.add_argument(
        "-o", "--output", metavar="FILE", type=Path, help="a page with plots, .html"
    )
    parser.add_argument("--json", action="store_true", help="print JSON, for machines")


def run(args: argparse.Namespace) -> int:

    target = None if args.output is None else Target.of_file(args.output, GENERATOR.encode())
    watch = _watch(args)
    if target is not None:
        with target.writing() as new:
            next(iter(new.values())).write_text(html(watch), encoding="utf-8")
    found = watch.summary()
    if args.json:
        say_json(
            {
                "rows": sum(window.rows for window in watch.windows),
                "windows": len(watch.windows),
                "windows_with_alarms": len(watch.alarms),
                "alarms": found,
                "notes": watch.notes,
            }
        )
    else:
        _print(watch)
        if args.output is not None:
            say(f"wrote {args.output}")
    return OUT_OF_TOLERANCE if watch.alarms else GOOD


def _watch(args: argparse.Namespace) -> Watch:
    if args.window < 1:
        raise SpecError("a window has no rows", expected="--window 1 or more", got=str(args.window))
    names = read_modalities(args.reference)
    if names is None:
        raise MissingInput(
            f"{args.reference} does not name its modalities",
            expected="a reference that dms predict wrote as .parquet, in one file or in parts",
        )
    for text in args.predictions:
        own = read_modalities(text)
        if own not in (None, names):
            raise ShapeError(
                f"{text} has other modalities than the reference",
                expected=", ".join(names),
                got=", ".join(own or ()),
            )
    reference = Reference(names, joined(list(read_predictions(args.reference))))
    windows = [
        reference.window(start, rows) for start, rows in windows_of(_stream(args), args.window)
    ]
    if not windows:
        raise MissingInput(
            "the stream is shorter than a window",
            expected=f"{args.window} rows or more",
            fix="Wait for more rows, or take a smaller --window.",
        )
    alarms = {
        k: found for k, w in enumerate(windows) if (found := reference.alarms(w, len(windows)))
    }
    notes = []
    if reference.usual.rows < args.window:
        notes.append(
            f"the reference has {reference.usual.rows} rows, fewer than a window: it knows little"
        )
    return Watch(reference=reference, windows=windows, alarms=alarms, notes=notes)


def _stream(args: argparse.Namespace) -> Iterator[Rows]:
    for text in args.predictions:
        yield from read_predictions(text, args.time)


def _print(watch: Watch) -> None:
    rows = sum(window.rows for window in watch.windows)
    say(
        f"{rows} rows in {counted(len(watch.windows), 'window')}; the reference has "
        f"{watch.reference.usual.rows} rows"
    )
    entries = [
        (
            entry["modality"],
            entry["what"],
            since(entry),
            entry["windows"],
            percent(entry["share_there"]),
            percent(entry["share_in_reference"]),
        )
        for entry in watch.summary()
    ]
    if entries:
        header = ("modality", "share of rows", "since row", "windows", "now", "usual")
        say_table(header, entries, right=(2, 3, 4, 5))
    for text in watch.notes:
        note(text)
    say_verdict(verdict(watch), good=not watch.alarms)
