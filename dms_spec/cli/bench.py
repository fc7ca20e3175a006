"""``dms bench`` times backends against what this machine allows."""

from __future__ import annotations

import argparse
import os
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from dms_spec.cli.printing import note, say, say_json, say_table
from dms_spec.cli.progress import Bar
from dms_spec.errors import BackendUnavailable, SpecError, install_hint
from dms_spec.outputs import Target
from dms_spec.speed.setting import cores

if TYPE_CHECKING:
    from dms_spec.speed.session import Measured

EXAMPLE = "dms bench --backend numpy --shape 32,2,64,10,4 --seconds 0.1"

_FIRST = ("B", "M", "D", "C", "T", "contender")
_FILES = {
    "speed.csv": ",".join(_FIRST).encode(),
    "speed.svg": b"<svg",
    "growth.csv": ",".join(("axis", "factor", *_FIRST)).encode(),
    "growth.svg": b"<svg",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--backend",
        metavar="NAME",
        action="append",
        help="what to time, such as numpy or torch:cuda, several times "
        "(default: all that run here)",
    )
    parser.add_argument("--preset", default="paper", help="what to compute (default: %(default)s)")
    parser.add_argument(
        "--shape",
        metavar="B,M,D,C,T",
        action="append",
        help="samples, modalities, width, classes and passes of a batch, several times "
        "(default: 1, 32 and 1024 samples of 3,768,1000,10)",
    )
    parser.add_argument(
        "--growth", action="store_true", help="also how the time grows with each of the five sizes"
    )
    parser.add_argument(
        "--cores",
        metavar="N",
        type=int,
        default=1,
        help="how many cores everything may use (default: %(default)s)",
    )
    parser.add_argument(
        "--seconds",
        metavar="S",
        type=float,
        default=1.0,
        help="for each backend and shape (default: %(default)s)",
    )
    parser.add_argument(
        "-o", "--output", metavar="DIR", type=Path, help="folder for tables and pictures"
    )
    parser.add_argument("--json", action="store_true", help="print JSON, for machines")


def run(args: argparse.Namespace) -> int:
    target = _target(args)
    _limit_cores(args.cores)
    # Not before: NumPy and torch count the cores when they are imported.
    harness = import_module("dms_spec.speed.session")
    with Bar() as bar:
        measured = harness.session(
            lambda shapes: bar.over(shapes, "timing", "shape", str),
            names=args.backend,
            shapes=args.shape,
            preset=args.preset,
            seconds=args.seconds,
            grow=args.growth,
        )
    if target:
        harness.write(target, measured)
    if args.json:
        say_json(
            {
                "setting": measured.setting,
                "left_out": measured.left_out,
                "rows": measured.rows,
                "growth": measured.slopes(),
            }
        )
        return 0
    for name, reason in measured.left_out.items():
        note(f"{name} is left out: {reason}")
    _print(measured)
    if target:
        say(f"wrote {', '.join(str(args.output / name) for name in target.marks)}")
    return 0


def _target(args: argparse.Namespace) -> Target | None:
    if args.output is None:
        return None
    if find_spec("matplotlib") is None:
        raise BackendUnavailable("pictures need matplotlib", fix=install_hint("dms-spec[plot]"))
    wanted = ("speed", "growth") if args.growth else ("speed",)
    marks = {name: mark for name, mark in _FILES.items() if name.startswith(wanted)}
    return Target.of_folder(args.output, marks, overwrite=True)


def _limit_cores(count: int) -> None:
    """Leaves this process so many cores, so that every library starts as many threads."""
    there = sorted(cores())
    if not 1 <= count <= len(there):
        raise SpecError(
            f"cannot time on {count} cores",
            expected=f"1 to {len(there)}, as many as this process has",
            got=str(count),
            fix="Give --cores a number in that range.",
        )
    if count == len(there):
        return
    if not hasattr(os, "sched_setaffinity"):
        raise BackendUnavailable(
            f"this system cannot keep a process to {count} of {len(there)} cores",
            expected=f"--cores {len(there)}",
            got=f"--cores {count}, on {sys.platform}",
            fix=f"Give --cores {len(there)}, or run it on Linux.",
        )
    os.sched_setaffinity(0, there[:count])


def _print(measured: Measured) -> None:
    rows, slopes = measured.rows, measured.slopes()
    say(", ".join(f"{name} {version}" for name, version in measured.setting.items()))
    say(
        "limit: the slower of stream (every input is read once) and exponentials (those of "
        "the passes, in a cache)"
    )
    say("plain: the equations in NumPy, without a backend's primitives")
    shapes = list(dict.fromkeys(tuple(row[axis] for axis in "BMDCT") for row in rows))
    for shape in shapes:
        own = [row for row in rows if tuple(row[axis] for axis in "BMDCT") == shape]
        say("\n" + " ".join(f"{axis}={size}" for axis, size in zip("BMDCT", shape, strict=True)))
        say_table(
            ("", "x limit", "ms", "20 to 80 %", "samples/s"),
            [
                (
                    row["contender"],
                    f"{row['times_limit']:.2f}",
                    f"{row['ms']:.3f}",
                    f"{row['ms_20']:.3f} to {row['ms_80']:.3f}",
                    f"{1e3 * row['B'] / row['ms']:,.0f}",
                )
                for row in own
            ],
            right=(1, 2, 3, 4),
        )
    if slopes:
        say("\ngrowth: twice the size takes 2 to the power of this times as long")
        names = list(dict.fromkeys(row["contender"] for row in slopes))
        found = {(row["contender"], row["axis"]): row["exponent"] for row in slopes}
        say_table(
            ("", *"BMDCT"),
            [(name, *(f"{found[name, axis]:.2f}" for axis in "BMDCT")) for name in names],
            right=(1, 2, 3, 4, 5),
        )
