"""``dms export`` writes a scheduler for another runtime, verified before it is written."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from dms_spec.cli.common import read_spec
from dms_spec.cli.printing import say, say_json, say_table
from dms_spec.errors import SpecError
from dms_spec.plugins import available, get_exporter
from dms_spec.texts import read_json

EXAMPLE = "dms export onnx model -o model"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "format", metavar="FORMAT", help="an exporter's name, such as onnx or triton"
    )
    parser.add_argument(
        "spec", metavar="S", help="a preset (with --modalities), a JSON file, or an artifact folder"
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="DIR",
        type=Path,
        required=True,
        help="folder; the file goes to DIR/FORMAT. For onnx, the artifact's own folder does well",
    )
    parser.add_argument("--modalities", metavar="A,B,...", help="names for a preset, in order")
    parser.add_argument("--dtype", help="dtype of the inputs: float32 (default) or float16")
    parser.add_argument("--opset", type=int, help="opset of the graph, 18 to 26 (default: 21)")
    parser.add_argument(
        "--passes-axis",
        type=int,
        help="axis of the passes in mc_logits, for onnx: 0 (default), or 1 with the samples first",
    )
    parser.add_argument("--name", help="name of the model, for triton (default: scheduler)")
    parser.add_argument(
        "--max-batch-size", type=int, metavar="N", help="samples in a run, for triton (default: 32)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier export")
    parser.add_argument("--json", action="store_true", help="print JSON, for machines")


def run(args: argparse.Namespace) -> int:

    known = available("exporter")
    if args.spec in known and args.format not in known:
        raise SpecError(
            "the arguments are swapped",
            expected="FORMAT S",
            got=f"{args.format} {args.spec}",
            fix=f"Run dms export {args.spec} {args.format} -o DIR",
        )
    exporter = get_exporter(args.format)
    artifact = read_spec(args.spec, args.modalities)
    names = ("dtype", "opset", "passes_axis", "name", "max_batch_size")
    options = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    path = exporter.export(artifact, args.output, overwrite=args.overwrite, **options)
    report = read_json(path.with_name("verification.json"))
    if args.json:
        say_json({"output": str(path), **report})
        return 0
    print_report(report)
    say(f"wrote {path}: {report['bytes']} bytes, opset {report['opset']}")
    return 0


def print_report(report: dict[str, Any]) -> None:
    """Prints what a verification found. `dms verify` prints the same."""
    for side in ("inputs", "outputs"):
        values = (f"{v['name']} {v['dtype']} {v['shape']}" for v in report[side])
        say(f"{side}: {', '.join(values)}".replace("'", ""))
    runtimes = report["errors"]
    say(f"\n{report['batches']} batches, worst error in eps of its scale, 8 allowed:")
    rows = [
        (name, *(f"{errors[name]:.2f}" for errors in runtimes.values()))
        for name in next(iter(runtimes.values()))
    ]
    say_table(("output", *runtimes), rows, right=range(1, len(runtimes) + 1))
    for note in report["notes"]:
        say(f"note: {note}")
    say()
