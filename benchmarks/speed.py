"""Times everything that schedules on a CPU, beside what one would write instead.

``python benchmarks/speed.py [-o FOLDER]``: what `dms bench` times, with the naive forms of
`naive.py`, on one core; the backends on two; the growth with each size. It writes the tables and
pictures of the page on speed. Needs ``dms-spec[numba,onnxruntime,plot,torch]`` and onnxscript.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

# Before NumPy and torch, which count the cores when they are imported.
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

from naive import naive_model, torch_contenders

from dms_onnxruntime import Session
from dms_spec.plugins import get_backend
from dms_spec.speed import growth
from dms_spec.speed.drawing import draw_growth, draw_ratios
from dms_spec.speed.measure import (
    LARGE,
    PLAIN,
    SHAPES,
    Contender,
    backends,
    measure,
    plain,
    spec_for,
    usable_backends,
)
from dms_spec.speed.session import save
from dms_spec.speed.setting import setting
from dms_spec.speed.shapes import Shape
from dms_spec.types import ModalityBatch

Row = dict[str, Any]


def timed(shape: Shape, seconds: float, *, compiled: bool = True) -> list[Row]:
    """Times all contenders on one shape."""
    spec, arrays = spec_for("paper", shape), shape.arrays()
    names, _ = usable_backends()
    ours = backends(names, spec, arrays) | {PLAIN: plain(spec, arrays)}
    session = Session(naive_model(arrays), threads=1)
    others = torch_contenders(spec, arrays)
    if not compiled:
        others = {name: one for name, one in others.items() if "compiled" not in name}
    others["naive, dynamo export"] = Contender(lambda: session.run(arrays)["weights"])
    return measure(shape, spec, arrays, ours | others, seconds)


def grown(seconds: float) -> list[Row]:
    """Times the backends on every size of every axis."""
    names, _ = usable_backends()

    def one(shape: Shape) -> list[Row]:
        spec, arrays = spec_for("paper", shape), shape.arrays()
        return measure(shape, spec, arrays, backends(names, spec, arrays), seconds)

    return list(growth.rows({shape: one(shape) for shape in growth.shapes()}))


def extra_memory(passes: int) -> dict[str, float]:
    """Bytes that a schedule needs beside its inputs, as a share of them: NumPy's arrays alone."""
    shape = Shape(LARGE.samples, LARGE.modalities, LARGE.width, LARGE.classes, passes)
    spec, arrays = spec_for("paper", shape), shape.arrays()
    batch = ModalityBatch(**arrays)
    found = {}
    for name in ("numpy", "numba"):
        scheduler = get_backend(name).scheduler(spec)
        scheduler(batch)
        tracemalloc.start()
        scheduler(batch)
        found[name] = tracemalloc.get_traced_memory()[1] / sum(a.nbytes for a in arrays.values())
        tracemalloc.stop()
    return found


def on_two_cores(seconds: float) -> list[Row]:
    """Runs `dms bench` on two cores, in a process of its own."""
    command = [sys.executable, "-m", "dms_spec", "bench", "--cores", "2", "--json"]
    own = [
        f"--seconds={seconds}",
        *(f"--shape={','.join(map(str, s.sizes().values()))}" for s in SHAPES),
    ]
    # This process keeps to one core, and what it starts would too.
    done = subprocess.run(
        [*command, *own], check=True, preexec_fn=_all_cores, stdout=subprocess.PIPE, text=True
    )
    rows: list[Row] = json.loads(done.stdout)["rows"]
    return rows


def _all_cores() -> None:
    os.sched_setaffinity(0, range(os.cpu_count() or 1))


def table(rows: list[Row], two: list[Row]) -> list[Row]:
    """Makes the table of the page: a line for each contender, multiples of the limit."""
    batches = [shape.samples for shape in SHAPES]
    found: dict[str, Row] = {}
    for row in rows:
        line = found.setdefault(row["contender"], {"": row["contender"]})
        line[f"B = {row['B']}"] = f"{row['times_limit']:.2f}"
    one = {(row["contender"], int(row["B"])): row["ms"] for row in rows}
    naive = {b: one["torch, naive", b] for b in batches}
    both = {row["contender"]: float(row["ms"]) for row in two if int(row["B"]) == batches[-1]}
    for name, line in found.items():
        last = batches[-1]
        line["naive eager takes"] = f"{naive[last] / one[name, last]:.1f} x"
        line["two cores"] = f"{one[name, last] / both[name]:.2f} x" if name in both else ""
    return list(found.values())


def exponents(growing: list[Row]) -> list[Row]:
    """A line for each contender, a column for each axis."""
    found: dict[str, Row] = {}
    for row in growth.slopes(growing):
        line = found.setdefault(row["contender"], {"": row["contender"]})
        line[row["axis"]] = f"{row['exponent']:.2f}"
    return list(found.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, help="folder for tables and pictures")
    parser.add_argument("--seconds", type=float, default=2.0, help="for each contender and shape")
    args = parser.parse_args()
    rows = [row for shape in SHAPES for row in timed(shape, args.seconds)]
    for row in rows:
        times = f"{row['ms']:>10.3f} ms {row['times_limit']:>7.2f} x limit"
        print(f"B={row['B']:<5} {row['contender']:<36} {times}")
    growing = grown(args.seconds / 4)
    for row in growth.slopes(growing):
        print(f"{row['axis']} {row['contender']:<14} exponent {row['exponent']:.2f}")
    memory = [{"T": passes} | extra_memory(passes) for passes in (2, 4, 8, 16)]
    for line in memory:
        print(f"T={line['T']}: {line['numpy']:.3f} in NumPy, {line['numba']:.3f} in Numba")
    if args.output is None:
        return
    args.output.mkdir(parents=True, exist_ok=True)
    two = on_two_cores(args.seconds)
    save(args.output / "speed.csv", [row | setting() for row in rows])
    save(args.output / "growth.csv", growing)
    save(args.output / "exponents.csv", exponents(growing))
    save(args.output / "memory.csv", memory)
    save(args.output / "table.csv", table(rows, two))
    ours = {*usable_backends()[0], PLAIN, "torch, naive", "naive, dynamo export"}
    (args.output / "speed.svg").write_bytes(
        draw_ratios([r for r in rows if r["contender"] in ours])
    )
    (args.output / "growth.svg").write_bytes(draw_growth(growing))


if __name__ == "__main__":
    main()
