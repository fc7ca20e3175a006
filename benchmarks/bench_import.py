"""Times ``import dms_spec`` as a multiple of ``import numpy``, in fresh processes.

``python benchmarks/bench_import.py``. Each line is the time of a fresh interpreter, less its start.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys

STATEMENTS = {
    "numpy": "import numpy",
    "dms_spec": "import dms_spec",
    "dms_spec, used": "import dms_spec; dms_spec.get_backend('numpy').scheduler("
    "dms_spec.SchedulerSpec.preset('static', ('a',)))",
}
_TIMED = "import time; start = time.perf_counter(); {}; print(time.perf_counter() - start)"


def seconds(statement: str, runs: int) -> float:
    """Takes the median time of a statement over fresh processes."""
    command = [sys.executable, "-c", _TIMED.format(statement)]

    def once() -> float:
        return float(subprocess.run(command, capture_output=True, check=True, text=True).stdout)

    once()
    return statistics.median(once() for _ in range(runs))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=21, help="fresh processes for each line")
    runs = parser.parse_args().runs
    took = {name: seconds(statement, runs) for name, statement in STATEMENTS.items()}
    for name, value in took.items():
        print(f"{name:<16} {value * 1e3:8.1f} ms   {value / took['numpy']:.2f} x import numpy")


if __name__ == "__main__":
    main()
