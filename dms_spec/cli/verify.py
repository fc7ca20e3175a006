"""``dms verify``: an exported file held to its spec once more, on the machine where it runs."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from dms_spec.cli.export import print_report
from dms_spec.errors import FileError

HELP = "check an exported model again, on the machine where it is to run"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model", metavar="MODEL", type=Path, help="an exported file, such as DIR/onnx/model.onnx"
    )
    parser.add_argument("--json", action="store_true", help="print JSON, for machines")


def run(args: argparse.Namespace) -> int:
    from dms_spec.plugins import available, get_exporter

    kind = args.model.suffix.removeprefix(".")
    if kind not in available("exporter"):
        raise FileError(
            f"{args.model} is of no known kind",
            expected=" or ".join(f".{name}" for name in available("exporter")),
            fix="Name the file that was exported, not its folder.",
        )
    report = get_exporter(kind).verify(args.model)
    if args.json:
        print(json.dumps(report, indent=2))
        return 0
    print_report(report)
    print(f"{args.model} is what it says it is")
    return 0
