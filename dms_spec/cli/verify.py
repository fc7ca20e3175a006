"""``dms verify`` checks an exported file against its spec again, on the machine where it runs."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dms_spec.cli.export import print_report
from dms_spec.cli.printing import say_json, say_verdict
from dms_spec.errors import FileError
from dms_spec.plugins import available, get_exporter

# A file may ask for any amount of memory; this much beside its own size is plenty.
_MEMORY = 2 << 30


EXAMPLE = "dms verify model/onnx/model.onnx"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model", metavar="MODEL", type=Path, help="an exported file, such as DIR/onnx/model.onnx"
    )
    parser.add_argument("--json", action="store_true", help="print JSON, for machines")


def run(args: argparse.Namespace) -> int:

    kind = args.model.suffix.removeprefix(".")
    if kind not in available("exporter"):
        inside = next(iter(sorted(args.model.rglob("*.onnx"))), None)
        raise FileError(
            f"{args.model} is no exported file",
            expected="a file of dms export, such as model/onnx/model.onnx",
            got="a folder" if args.model.is_dir() else args.model.suffix or "no suffix",
            fix="dms export onnx model -o model writes one."
            if inside is None
            else f"Run dms verify {inside}",
        )
    exporter = get_exporter(kind)
    with _bounded_memory(args.model):
        report = exporter.verify(args.model)
    if args.json:
        say_json(report)
        return 0
    print_report(report)
    say_verdict(f"{args.model} is what it says it is", good=True)
    return 0


@contextmanager
def _bounded_memory(path: Path) -> Iterator[None]:
    """Limits the memory that a file from anywhere can ask for, where the system can do it."""
    try:
        import resource

        status = Path("/proc/self/status").read_text(encoding="ascii")
        kilobytes = int(status.partition("VmData:")[2].split()[0])
        size = path.stat().st_size
    except (ImportError, OSError, ValueError, IndexError):
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = (kilobytes << 10) + 8 * size + _MEMORY
    lower = [limit for limit in (soft, hard) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_DATA, (min([wanted, *lower]), hard))
    try:
        yield
    except MemoryError as error:
        raise FileError(
            f"{path} needs more memory than any scheduler",
            got=str(error),
            fix="The file is damaged or made up: export it again.",
        ) from error
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
