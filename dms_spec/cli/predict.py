"""``dms predict`` scores every row of a table: classes, probabilities and weights."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from dms_spec.artifact import load_artifact
from dms_spec.cli.common import (
    add_modalities,
    modality_summary,
    modality_table,
    names_of,
    output_target,
)
from dms_spec.cli.printing import note, say, say_json
from dms_spec.embeddings.labels import class_indices, strangers, unlike
from dms_spec.embeddings.predictor import Predictor
from dms_spec.embeddings.table import Table, read_table
from dms_spec.errors import FileError
from dms_spec.files import save_arrays
from dms_spec.plugins import get_backend

_KIND = "predictions"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "artifact", metavar="DIR", type=Path, help="artifact folder, as dms fit writes it"
    )
    parser.add_argument(
        "input",
        metavar="IN",
        type=Path,
        help=".npz or .safetensors with an array [N, D] for each modality under its name, and "
        "where something is missing present.<modality> [N] (bool)",
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="OUT",
        type=Path,
        required=True,
        help=".npz or .safetensors for probabilities, predicted, weights, active and each signal",
    )
    add_modalities(parser, "the others count as absent")
    parser.add_argument(
        "--backend", default="numpy", help="where to compute (default: %(default)s)"
    )
    parser.add_argument("--device", help="one of the backend's devices (default: its first)")
    parser.add_argument(
        "--batch-size", type=int, default=1024, help="rows at a time (default: %(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON, for machines")


def run(args: argparse.Namespace) -> int:

    target = output_target(args.output, args.input, _KIND)
    backend = get_backend(args.backend)
    predictor = Predictor(load_artifact(args.artifact), backend, args.device)
    spec = predictor.artifact.spec
    table = read_table(
        args.input,
        names_of(args.modalities),
        axis=spec.modalities,
        widths=predictor.model.widths,
        strict_labels=False,
    )
    results = predictor.predict(table, args.batch_size)
    if args.output.suffix == ".safetensors" and results["predicted"].dtype.kind == "U":
        raise FileError(
            "safetensors holds no strings, and the classes are",
            expected="an .npz output",
            got=str(args.output),
        )
    with target.writing() as new:
        save_arrays(next(iter(new.values())), results, _KIND)

    active = results["active"]
    summary: dict[str, Any] = {
        "output": str(args.output),
        "backend": args.backend,
        "policy": spec.policy,
        "samples": len(table),
        "samples_with_nothing_active": int((~active.any(axis=1)).sum()),
        "modalities": modality_summary(spec.modalities, active, results["weights"]),
        # All rows, because a prediction does not depend on how the table was split.
        "notes": [*table.rows(slice(None)).notes(), *results.notes],
    }
    accuracy, notes = _accuracy(table, predictor, results)
    if accuracy is not None:
        summary["accuracy"] = accuracy
    summary["notes"] += notes
    if args.json:
        say_json(summary)
        return 0
    _print(summary, results)
    return 0


def _accuracy(
    table: Table, predictor: Predictor, results: dict[str, Any]
) -> tuple[float | None, list[str]]:
    """Computes the share of the labels that are predicted, None if none can be; and notes."""
    rows = table.labelled_rows()
    if table.labels is None or not len(rows):
        return None, []
    labels, classes = table.labels[rows], predictor.classes
    if reason := unlike(classes, labels):
        return None, [f"accuracy is not measured: {reason}"]
    right = class_indices(classes, results["predicted"][rows]) == class_indices(classes, labels)
    unknown = strangers(classes, labels)
    notes = [f"labels that are not a class count as wrong: {unknown}"] if unknown else []
    return float(right.mean()), notes


def _print(summary: dict[str, Any], results: dict[str, Any]) -> None:
    say(f"{summary['samples']} rows, policy {summary['policy']}, backend {summary['backend']}")
    say(modality_table(summary["modalities"], summary["samples"]))
    if "accuracy" in summary:
        say(f"{100 * summary['accuracy']:.1f} % of the table's labels are predicted")
    for text in summary["notes"]:
        note(text)
    shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in results.items())
    say(f"wrote {summary['output']}: {shapes}")
