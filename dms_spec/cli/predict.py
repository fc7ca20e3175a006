"""``dms predict`` scores every row of a table: classes, probabilities and weights."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from dms_spec.artifact import load_artifact
from dms_spec.cli.common import (
    Summary,
    add_modalities,
    modality_table,
    names_of,
    output_target,
)
from dms_spec.cli.printing import note, say, say_json
from dms_spec.embeddings.labels import class_indices, strangers, unlike
from dms_spec.embeddings.predictor import Predictor
from dms_spec.embeddings.table import Table, read_table
from dms_spec.errors import FileError
from dms_spec.files import array_writer
from dms_spec.plugins import get_backend
from dms_spec.streams import forget

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
        mapped=True,
    )
    if args.output.suffix == ".safetensors" and predictor.classes.dtype.kind == "U":
        raise FileError(
            "safetensors holds no strings, and the classes are",
            expected="an .npz output",
            got=str(args.output),
        )
    counted, score, start = Summary(spec.modalities), _Accuracy(table, predictor.classes), 0
    notes: dict[str, None] = {}
    with target.writing() as new, array_writer(next(iter(new.values())), _KIND) as out:
        for part in predictor.parts(table, args.batch_size):
            out.append(part)
            notes |= dict.fromkeys(part.notes)
            counted.add(part["active"], part["weights"])
            score.add(slice(start, start := start + len(part["active"])), part["predicted"])
            forget(*table.embeddings.values())

    summary: dict[str, Any] = {
        "output": str(args.output),
        "backend": args.backend,
        "policy": spec.policy,
        "samples": len(table),
        "samples_with_nothing_active": counted.nothing,
        "modalities": counted.rows(),
        # All rows, because a prediction does not depend on how the table was split.
        "notes": [
            *table.rows(slice(None)).notes(),
            *notes,
            *predictor.nothing_note(counted.nothing),
            *score.notes,
        ],
    }
    if score.share is not None:
        summary["accuracy"] = score.share
    if args.json:
        say_json(summary)
        return 0
    _print(summary, out.shapes())
    return 0


class _Accuracy:
    """Counts the labels that are predicted.

    Args:
        table: Whose labels they are.
        classes: Those of the model ``[C]``.
    """

    def __init__(self, table: Table, classes: NDArray[Any]) -> None:
        self._table, self._classes, self._right = table, classes, 0
        self._rows = len(table.labelled_rows())
        #: What is odd about the labels, in words.
        self.notes: list[str] = []
        if table.labels is None or not self._rows:
            self._rows = 0
            return
        labels = table.labels[table.labelled_rows()]
        if reason := unlike(classes, labels):
            self._rows, self.notes = 0, [f"accuracy is not measured: {reason}"]
        elif unknown := strangers(classes, labels):
            self.notes = [f"labels that are not a class count as wrong: {unknown}"]

    @property
    def share(self) -> float | None:
        """The share of the labels that are predicted; None if none can be."""
        return self._right / self._rows if self._rows else None

    def add(self, rows: slice, predicted: NDArray[Any]) -> None:
        """Counts some rows of the table."""
        if not self._rows or self._table.labels is None:
            return
        labels, known = self._table.labels[rows], self._table.labelled
        if known is not None:
            labels, predicted = labels[known[rows]], predicted[known[rows]]
        right = class_indices(self._classes, predicted) == class_indices(self._classes, labels)
        self._right += int(right.sum())


def _print(summary: dict[str, Any], written: dict[str, list[int]]) -> None:
    say(f"{summary['samples']} rows, policy {summary['policy']}, backend {summary['backend']}")
    say(modality_table(summary["modalities"], summary["samples"]))
    if "accuracy" in summary:
        say(f"{100 * summary['accuracy']:.1f} % of the table's labels are predicted")
    for text in summary["notes"]:
        note(text)
    shapes = ", ".join(f"{name} {shape}" for name, shape in written.items())
    say(f"wrote {summary['output']}: {shapes}")
