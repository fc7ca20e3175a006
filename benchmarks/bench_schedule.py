"""Times scheduling, as a fraction of what the machine allows.

``python benchmarks/bench_schedule.py [-o results.csv]``. One thread, but for the contender that
says two. The baselines are in the same run: *stream* reads every input byte once (the largest
entry of each array), *exponentials* computes as many as the passes hold, in a buffer that stays in
the cache. The *limit* is the slower of the two. *plain* is NumPy without its primitives.
Correctness is checked before anything is timed.
"""

from __future__ import annotations

import os

# Before NumPy: the number of threads is read when it is imported.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[_name] = "1"

import argparse
import csv
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import patch

import array_api_compat.numpy as xp
import numpy as np

from dms_spec._version import PACKAGE
from dms_spec.conformance import oracle
from dms_spec.engine.pipeline import compute
from dms_spec.engine.resolve import resolve
from dms_spec.equations.namespace import Namespace
from dms_spec.outputs import writing_file
from dms_spec.plugins import available, get_backend
from dms_spec.spec import SchedulerSpec
from dms_spec.types import ModalityBatch

M, D, C, T = 3, 768, 1000, 10
SPEC = SchedulerSpec.preset("paper", ("image", "text", "audio"))


def batch(size: int) -> dict[str, np.ndarray]:
    random = np.random.Generator(np.random.Philox(0))

    def normal(*shape: int) -> np.ndarray:
        return random.standard_normal(shape, dtype=np.float32)

    return {
        "features": normal(size, M, D),
        "logits": normal(size, M, C) * 3,
        "mc_logits": normal(T, size, M, C) * 3,
        "present": np.ones((size, M), dtype=bool),
    }


def milliseconds(call: Callable[[], object], seconds: float) -> float:
    """Takes the best of as many runs as fit into a time, after one to warm up."""
    call()
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - start)
    return best * 1e3


def measure(size: int, seconds: float) -> Iterator[dict[str, object]]:
    arrays = batch(size)
    few = {k: v[:, :2] if k == "mc_logits" else v[:2] for k, v in arrays.items()}
    exact = oracle.schedule(SPEC, few)
    plain, resolved = Namespace.of(xp, np.ndarray), resolve(SPEC)
    numpy = get_backend("numpy").scheduler(SPEC)
    half_there = arrays | {"present": np.arange(size * M).reshape(size, M) % 2 == 0}
    floats = [arrays[name] for name in ("features", "logits", "mc_logits")]
    contenders: dict[str, Callable[[], object]] = {
        "stream": lambda: [array.max() for array in floats],
        "exponentials": exponentials(arrays["mc_logits"].size),
        "numpy": lambda: numpy(ModalityBatch(**arrays)),
        "numpy, half absent": lambda: numpy(ModalityBatch(**half_there)),
        "plain": lambda: compute(plain, resolved, ModalityBatch(**arrays)),
    }
    if "numba" in available("backend"):
        numba = get_backend("numba").scheduler(SPEC)
        contenders["numba"] = lambda: numba(ModalityBatch(**arrays))
        contenders["numba, half absent"] = lambda: numba(ModalityBatch(**half_there))
        contenders["numba, two threads"] = on_two_threads(contenders["numba"])
    for name in ("numpy", "plain", "numba"):
        if name not in contenders:
            continue
        error = np.abs(contenders[name]().weights[:2] - exact.weights).max()
        if error > 1e-6:
            sys.exit(f"{name} is wrong by {error}: nothing to time")
    times = {name: milliseconds(call, seconds) for name, call in contenders.items()}
    limit = max(times["stream"], times["exponentials"])
    for name, took in times.items():
        yield {
            "B": size,
            "contender": name,
            "ms": f"{took:.3f}",
            "fraction_of_stream": f"{times['stream'] / took:.3f}",
            "times_limit": f"{took / limit:.2f}",
        }


def exponentials(count: int) -> Callable[[], object]:
    """Computes at least as many exponentials, in a buffer that stays in the cache."""
    x = np.full(min(count, 1 << 14), -1.0, np.float32)
    out = np.empty_like(x)
    return lambda: [np.exp(x, out=out) for _ in range(-(-count // x.size))]


def on_two_threads(call: Callable[[], object]) -> Callable[[], object]:
    """The same, with two of Numba's threads while it runs."""
    from dms_numba import primitives

    def run() -> object:
        with patch.object(primitives, "threads", lambda: 2):
            return call()

    return run


def setting() -> dict[str, str]:
    """Describes where a row of results comes from."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    ).stdout.strip()
    return {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "dms_spec": PACKAGE,
        "commit": commit or "unknown",
        "machine": platform.machine(),
    }


def save(path: Path | None, rows: list[dict[str, object]]) -> None:
    """Writes the rows as CSV, if a path is given."""
    if path is None:
        return
    header = ",".join(rows[0]).encode()
    with writing_file(path, header) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    print(f"wrote {path}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, help="CSV file for the results")
    parser.add_argument("--seconds", type=float, default=3.0, help="per measurement")
    args = parser.parse_args()
    where = setting()
    rows = []
    print(f"M={M} D={D} C={C} T={T}, float32, one thread; {where}")
    for size in (1, 32, 1024):
        for row in measure(size, args.seconds):
            print(
                f"B={row['B']:<5} {row['contender']:<20} {row['ms']:>10} ms  "
                f"{row['times_limit']:>6} x limit"
            )
            rows.append(row | where)
    save(args.output, rows)


if __name__ == "__main__":
    main()
