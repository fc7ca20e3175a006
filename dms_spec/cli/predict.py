"""``dms predict`` scores every row of a table: classes, probabilities and weights."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from dms_spec.artifact import load_artifact
from dms_spec.cli.common import (
    add_columns,
    add_modalities,
    check_order,
    columns_of,
    modality_table,
    names_of,
    output_target,
)
from dms_spec.cli.predict_parts import is_folder, run_parts
from dms_spec.cli.printing import note, say, say_json
from dms_spec.embeddings.labels import Labels, class_indices, strangers, unlike
from dms_spec.embeddings.origin import other_encoders
from dms_spec.embeddings.predictor import Predictor
from dms_spec.embeddings.sources.columns import Columns
from dms_spec.embeddings.sources.frame_writer import ParquetWriter
from dms_spec.embeddings.summary import Summary
from dms_spec.embeddings.table_parts import Part, read_parts
from dms_spec.errors import FileError, SpecError, counting_from
from dms_spec.files import SUFFIXES, array_writer, check_suffix
from dms_spec.outputs import Target, check_not_input
from dms_spec.plugins import get_backend
from dms_spec.streams import Writer, forget

_KIND = "predictions"
_MARK = f"dms-spec {_KIND}"


EXAMPLE = "dms predict model train.npz -o predictions.npz"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "artifact", metavar="DIR", type=Path, help="artifact folder, as dms fit writes it"
    )
    parser.add_argument(
        "input",
        metavar="IN",
        nargs="+",
        help=".npz, .safetensors or a folder of .npy with an array [N, D] for each modality under "
        "its name, and where something is missing present.<modality> [N] (bool); or columns in "
        ".parquet, .arrow, .feather or .csv. Several .parquet files, folders or URIs of them go "
        "into a folder",
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="OUT",
        required=True,
        help=".npz, .safetensors or .parquet for probabilities, predicted, weights, active and "
        "each signal; or a folder or URI, for .parquet in parts with a manifest. The same command "
        "goes on where a run was stopped",
    )
    parser.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="for a folder: processes, of one thread each (default: as many as cores; with "
        "--device 1)",
    )
    parser.add_argument(
        "--keep", metavar="COL,...", help="for a folder: columns that are copied to the output"
    )
    add_modalities(parser, "the others count as absent")
    add_columns(parser, "label", "id")
    parser.add_argument(
        "--backend", default="numpy", help="where to compute (default: %(default)s)"
    )
    parser.add_argument("--device", help="one of the backend's devices (default: its first)")
    parser.add_argument(
        "--batch-size", type=int, default=1024, help="rows at a time (default: %(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON, for machines")


def run(args: argparse.Namespace) -> int:

    check_order("predict", args.artifact, Path(args.input[0]))
    return run_parts(args) if is_folder(args.output) else _run_table(args)


def _run_table(args: argparse.Namespace) -> int:
    """Scores one table into one file."""
    _check_one(args)
    source_path, output = Path(args.input[0]), Path(args.output)
    target = _target(output, source_path)
    backend = get_backend(args.backend)
    predictor = Predictor(load_artifact(args.artifact), backend, args.device)
    spec = predictor.artifact.spec
    given, before = columns_of(args), Columns.of_model(predictor.artifact.model)
    source = read_parts(
        source_path,
        names_of(args.modalities),
        columns=given,
        before=before,
        axis=spec.modalities,
        widths=predictor.model.widths,
        size=args.batch_size,
    )
    if output.suffix == ".safetensors" and predictor.classes.dtype.kind == "U":
        raise FileError(
            "safetensors holds no strings, and the classes are",
            expected="an .npz or .parquet output",
            got=str(args.output),
        )
    counted, score = Summary(spec.modalities), _Accuracy(source.labels, predictor.classes)
    notes: dict[str, None] = {}
    with target.writing() as new, _writer(next(iter(new.values())), predictor) as out:
        for part in source:
            with counting_from(counted.samples):
                for found in predictor.parts(part.table, args.batch_size):
                    rows = slice(counted.samples, counted.samples + len(found["active"]))
                    _append(out, found, part, source.id)
                    notes |= dict.fromkeys(found.notes)
                    counted.add(found["active"], found["weights"])
                    score.add(rows, found["predicted"])
                    forget(*part.table.embeddings.values())
    if source.id is not None and not isinstance(out, ParquetWriter):
        notes[f"column {source.id!r} is not written: only .parquet carries it"] = None

    summary: dict[str, Any] = {
        "output": str(args.output),
        "backend": args.backend,
        "policy": spec.policy,
        "samples": source.rows,
        "samples_with_nothing_active": counted.nothing,
        "modalities": counted.rows(),
        # All rows, because a prediction does not depend on how the table was split.
        "notes": [
            *other_encoders(predictor.artifact.model, source_path, given),
            *source.notes(),
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


def _check_one(args: argparse.Namespace) -> None:
    """Refuses what goes into a folder alone.

    Raises:
        SpecError: It was asked for.
    """
    several = f"{len(args.input)} inputs" if len(args.input) > 1 else ""
    options = [name for name in ("workers", "keep") if getattr(args, name) is not None]
    if got := several or " and ".join(f"--{name}" for name in options):
        raise SpecError(
            "one table goes into one file",
            expected="a folder as the output, for parts: -o OUT/",
            got=f"{got} and -o {args.output}",
        )


def _target(output: Path, source: Path) -> Target:
    """Gives the target of the output, checked before any work is done."""
    check_suffix(output, (*SUFFIXES, ".parquet"))
    if output.suffix != ".parquet":
        return output_target(output, source, _KIND)
    check_not_input(output, source)
    return Target.of_file(output, _MARK.encode())


def _writer(path: Path, predictor: Predictor) -> Writer | ParquetWriter:
    if path.suffix != ".parquet":
        return array_writer(path, _KIND)
    names = {
        "classes": predictor.classes.tolist(),
        "modalities": predictor.artifact.spec.modalities,
    }
    return ParquetWriter(path, _MARK, {name: json.dumps(value) for name, value in names.items()})


def _append(
    out: Writer | ParquetWriter, found: Mapping[str, NDArray[Any]], part: Part, name: str | None
) -> None:
    """Writes predictions, and the names of their rows where the output carries them."""
    if isinstance(out, ParquetWriter):
        out.append(found, {} if name is None else {name: part.id})
    else:
        out.append(found)


class _Accuracy:
    """Counts the labels that are predicted.

    Args:
        labels: Of all rows.
        classes: Those of the model ``[C]``.
    """

    def __init__(self, labels: Labels, classes: NDArray[Any]) -> None:
        self._labels, self._classes, self._right = labels, classes, 0
        #: What is odd about the labels, in words.
        self.notes: list[str] = []
        known = labels.values
        if known is not None and labels.known is not None:
            known = known[labels.known]
        self._rows = 0 if known is None else len(known)
        if known is None or not self._rows:
            return
        if reason := unlike(classes, known):
            self._rows, self.notes = 0, [f"accuracy is not measured: {reason}"]
        elif unknown := strangers(classes, known):
            self.notes = [f"labels that are not a class count as wrong: {unknown}"]

    @property
    def share(self) -> float | None:
        """The share of the labels that are predicted; None if none can be."""
        return self._right / self._rows if self._rows else None

    def add(self, rows: slice, predicted: NDArray[Any]) -> None:
        """Counts some rows of the table."""
        if not self._rows or self._labels.values is None:
            return
        labels, known = self._labels.values[rows], self._labels.known
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
