"""``dms diff`` compares two artifacts, and says with its exit code whether they are the same."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dms_spec.artifact import Artifact, load_artifact
from dms_spec.cli.codes import DIFFERENT, GOOD
from dms_spec.cli.printing import note, say, say_json, say_table, say_verdict
from dms_spec.embeddings.difference import compare_predictions, differences
from dms_spec.embeddings.predictor import Predictor
from dms_spec.embeddings.sources.columns import Columns
from dms_spec.embeddings.table import read_table
from dms_spec.markup import counted
from dms_spec.plugins import get_backend

EXAMPLE = "dms diff model-monday model-tuesday --table test.npz"

# So many differences are printed for a person; --json has all.
_MOST = 40


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("first", metavar="A", type=Path, help="artifact folder")
    parser.add_argument("second", metavar="B", type=Path, help="another one")
    parser.add_argument(
        "--table", metavar="IN", type=Path, help="a table whose predictions are compared as well"
    )
    parser.add_argument("--json", action="store_true", help="print JSON, for machines")


def run(args: argparse.Namespace) -> int:

    artifacts = [load_artifact(path) for path in (args.first, args.second)]
    hashes = [artifact.content_hash() for artifact in artifacts]
    found = differences(*artifacts)
    predictions = None
    if args.table is not None:
        one, other = (_predicted(artifact, args.table) for artifact in artifacts)
        predictions = compare_predictions(one, other)
    if args.json:
        said = [asdict(one) for one in found]
        say_json({"hashes": hashes, "differences": said, "predictions": predictions})
    else:
        for path, text in zip((args.first, args.second), hashes, strict=True):
            say(f"{path}: {text}")
        if found:
            rows = [
                (f"{one.where}: {one.name}", _short(one.first), _short(one.second)) for one in found
            ]
            say_table(("", "A", "B"), rows[:_MOST])
        if len(found) > _MOST:
            note(f"{len(found) - _MOST} differences more: --json lists all")
        if predictions is not None:
            _print(predictions)
        words = "the same" if hashes[0] == hashes[1] else "different"
        say_verdict(f"The contents are {words}.", good=hashes[0] == hashes[1])
    return GOOD if hashes[0] == hashes[1] else DIFFERENT


def _predicted(artifact: Artifact, path: Path) -> Any:
    predictor = Predictor(artifact, get_backend("numpy"))
    table = read_table(
        path,
        columns=Columns(),
        before=Columns.of_model(artifact.model),
        axis=artifact.spec.modalities,
        widths=predictor.model.widths,
        strict_labels=False,
    )
    return predictor.predict(table)


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _print(predictions: dict[str, Any]) -> None:
    rows, labels = counted(predictions["rows"], "row"), predictions["other_labels"]
    say(f"predictions of {rows}: {labels} get another class")
    for name, largest in predictions["largest_difference"].items():
        say(f"  {name} differs by up to {largest:.3g}")
