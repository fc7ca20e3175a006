"""Robustness to noise, conflict, skewed classes and missing modalities, on tables of your own.

``python benchmarks/robustness/study.py FOLDER [--sets NAME ...] [--seeds N] [-o OUTPUT]``. Every
``.npz`` in the folder that is a table (one array [N, D_m] for each modality, ``labels`` [N],
perhaps ``train`` and ``test``) is measured: the protocol is in `protocol`, the methods are in
`methods`, what is measured of them in `measures`. One process of one thread for each core. What was
interrupted goes on where it stopped, from ``study.jsonl`` in the output folder. Results of the
whole study go to ``benchmarks/robustness/results``, those of a part of it to ``study-out``, if
nothing else is asked for. Needs ``dms-spec[demo,onnxruntime,torch]``.
"""

from __future__ import annotations

import os

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"  # before NumPy is imported, here and in the processes

import argparse
import csv
import json
import multiprocessing
import platform
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from measures import UNITS, Row
from methods import Fits
from page import write_page
from pairs import compare
from plots import draw
from protocol import SEEDS, SHARES, Split, split, tables
from tqdm import tqdm

from dms_spec.embeddings.settings import FitSettings
from dms_spec.embeddings.table import Table

HERE = Path(__file__).resolve().parent
RESULTS, PART = HERE / "results", Path("study-out")
FIELDS = ("set", "seed", "method", "condition", "metric", "value")

#: A version of a set, and a seed: what shares its fits, and is done by one process.
Job = tuple[str, float, int]
#: The job, the unit and the method: what is done in one piece.
Key = tuple[str, float, int, str, str]

# ----------------------------------------------------------------------------------- the processes

_state: dict[str, Any] = {}


def plan(found: dict[str, Table], seeds: int) -> dict[Job, list[Key]]:
    """By job the pieces of work, the longest jobs first."""
    names = sorted(found, key=lambda name: -len(found[name]))
    jobs = {
        (name, share, seed): [
            (name, share, seed, unit, method)
            for unit, what in UNITS.items()
            if seed < what.seeds and share in what.shares
            for method in what.methods
        ]
        for seed in range(seeds)
        for share in (1.0, *SHARES)
        for name in names
    }
    return {job: keys for job, keys in jobs.items() if keys}


def start(folder: Path, fits: Path, settings: FitSettings, queue: Any) -> None:
    """Make a process ready."""
    warnings.simplefilter("ignore")  # the notes of schedulers
    _state.update(tables=tables(folder)[0], fits=fits, settings=settings, queue=queue)


def work(keys: list[Key]) -> None:
    """Measure all that is left of one job."""
    name, share, seed = keys[0][:3]
    own: Split = split(name, _state["tables"][name], seed, share)
    fits = Fits(own, _state["fits"], _state["settings"])
    for key in keys:
        before = time.process_time()
        rows = list(UNITS[key[3]].function(key[4], fits))
        _state["queue"].put((key, rows, time.process_time() - before))


def measure(
    folder: Path, output: Path, jobs: dict[Job, list[Key]], settings: FitSettings, head: str
) -> tuple[dict[Key, list[Row]], dict[Key, float]]:
    """Every piece, from the file where it is done already: the rows, and the CPU seconds."""
    log, fits = output / "study.jsonl", output / "fits"
    if not log.exists():
        shutil.rmtree(fits, ignore_errors=True)
        log.write_text(json.dumps(head) + "\n")
    done, spent = _read(log, head)
    todo = [[key for key in keys if key not in done] for keys in jobs.values()]
    context = multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    total = sum(map(len, jobs.values()))
    with (
        log.open("a") as file,
        tqdm(total=total, initial=len(done), unit="method") as bar,
        ProcessPoolExecutor(
            os.cpu_count(), context, start, (folder, fits, settings, queue)
        ) as pool,
    ):
        running: set[Future[None]] = {pool.submit(work, keys) for keys in todo if keys}
        try:
            while running or not queue.empty():
                finished, running = wait(running, 0.2, FIRST_COMPLETED)
                while not queue.empty():
                    key, rows, seconds = queue.get()
                    done[key], spent[key] = rows, seconds
                    file.write(json.dumps([key, rows, round(seconds, 2)]) + "\n")
                    file.flush()
                    bar.set_postfix_str(f"{key[0]}, seed {key[2]}, {key[4]}")
                    bar.update()
                for future in finished:
                    future.result()
        except BaseException:  # nobody reads the queue any more
            for process in multiprocessing.active_children():
                process.terminate()
            raise
    return done, spent


def _read(log: Path, head: str) -> tuple[dict[Key, list[Row]], dict[Key, float]]:
    text = log.read_text()
    whole = text[: text.rfind("\n") + 1]
    log.write_text(whole)  # without a line that was cut short
    first, *lines = whole.splitlines()
    if json.loads(first) != head:
        sys.exit(f"{log} is of another run, or of other code: remove it to start anew")
    done: dict[Key, list[Row]] = {}
    spent: dict[Key, float] = {}
    for line in lines:
        key, rows, seconds = json.loads(line)
        done[tuple(key)], spent[tuple(key)] = rows, seconds
    return done, spent


# -------------------------------------------------------------------------------------- the record


def write(path: Path, fields: Iterable[str], rows: Iterable[Iterable[Any]]) -> None:
    """A table in CSV."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(fields)
        writer.writerows(rows)


def record(
    output: Path, found: dict[str, Table], jobs: dict[Job, list[Key]], done: dict[Key, list[Row]]
) -> None:
    """The numbers, and the comparisons of robust with each other method, row by row."""
    numbers, right, tested = [], {}, {}
    for (name, share, seed), keys in jobs.items():
        rows = split(name, found[name], seed, share).table.test
        for key in keys:
            for condition, metric, value in done[key]:
                if metric == "right":
                    right[name, key[4], condition, seed] = value
                    tested[name, condition, seed] = rows
                else:
                    number = float(f"{value:.5g}")
                    numbers.append((name, seed, key[4], condition, metric, number))
    numbers.sort(key=lambda row: (row[0], row[1]))
    write(output / "robustness.csv", FIELDS, numbers)
    write(output / "pairs.csv", *compare(right, tested))


def code() -> str:
    """A text that changes when the code does."""
    root, digest = HERE.parents[1], sha256()
    for folder in ("dms_spec", "backends", "exporters", "benchmarks/robustness"):
        for path in sorted((root / folder).rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def environment(
    found: dict[str, Table], seeds: int, settings: FitSettings, head: str
) -> dict[str, Any]:
    """Versions, machine and settings."""
    git = ["git", "-C", str(HERE)]
    commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True).stdout
    changed = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True).stdout
    packages = ("dms-spec", "numpy", "torch", "scikit-learn", "onnxruntime", "ndonnx", "matplotlib")
    looked_at = json.loads((HERE / "looked_at.json").read_text())
    return {
        "commit": commit.strip() or None,
        "changed since": bool(changed.strip()),
        "code and tables": head,
        "python": platform.python_version(),
        "versions": {name: version(name) for name in packages},
        "machine": {"cpu": _cpu(), "cores": os.cpu_count(), "system": platform.system()},
        "processes": os.cpu_count(),
        "threads of each": 1,
        "seeds": {unit: min(seeds, what.seeds) for unit, what in UNITS.items()},
        "settings of every fit": asdict(settings) | {"seed": "that of the split"},
        "tables": {
            name: {
                "rows": len(table),
                "test rows": _tested(table),
                "test": "its own" if table.test is not None else "a fifth, drawn",
                "classes": len(np.unique(table.labels)),
                "largest class": round(_largest(table), 3),
                "modalities": {key: x.shape[1] for key, x in table.embeddings.items()},
                "test rows looked at": looked_at["sets"].get(name, looked_at["others"]),
            }
            for name, table in found.items()
        },
    }


def _tested(table: Table) -> int:
    return len(table) - int(0.8 * len(table)) if table.test is None else len(table.test)


def _largest(table: Table) -> float:
    counts = np.unique(table.labels, return_counts=True)[1]
    return float(counts.max() / len(table))


def _cpu() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


# ------------------------------------------------------------------------------------- the command


def options() -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="with the tables, .npz")
    parser.add_argument("--sets", nargs="+", metavar="NAME", help="these tables alone")
    most = len(SEEDS)
    parser.add_argument(
        "--seeds", type=int, default=most, choices=range(1, most + 1), help="the first so many"
    )
    parser.add_argument("-o", "--output", type=Path, help=f"default: results, or {PART} of a part")
    return parser.parse_args()


def chosen(folder: Path, names: list[str] | None) -> dict[str, Table]:
    """The tables to measure on; says which files are none."""
    found, skipped = tables(folder)
    for name, why in skipped.items():
        if names is None or name in names:
            print(f"{name} is left out: {why}", file=sys.stderr)
    if unknown := set(names or ()) - set(found):
        sys.exit(f"no such table: {', '.join(sorted(unknown))}; there are {', '.join(found)}")
    if not found:
        sys.exit("there is no table to measure on")
    return {name: table for name, table in found.items() if names is None or name in names}


def main() -> None:
    """Measure, write the numbers, and the page."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the processes end as well
    args = options()
    found, settings = chosen(args.folder, args.sets), FitSettings()
    whole = args.sets is None and args.seeds == len(SEEDS)
    output = args.output or (RESULTS if whole else PART)
    digest = sha256(f"{code()} {settings} {args.seeds}".encode())
    for name in found:
        digest.update((args.folder / f"{name}.npz").read_bytes())
    head = digest.hexdigest()[:16]
    output.mkdir(parents=True, exist_ok=True)
    jobs = plan(found, args.seeds)
    done, spent = measure(args.folder, output, jobs, settings, head)
    record(output, found, jobs, done)
    about = environment(found, args.seeds, settings, head)
    about["CPU seconds"] = {
        unit: round(sum(s for key, s in spent.items() if key[3] == unit)) for unit in UNITS
    }
    (output / "environment.json").write_text(json.dumps(about, indent=2) + "\n")
    report(output)
    (output / "study.jsonl").unlink()
    shutil.rmtree(output / "fits", ignore_errors=True)
    print(f"wrote {output / 'README.md'}")


def report(output: Path) -> None:
    """The page and its pictures, from the numbers that were written."""
    write_page(output)
    draw(output)


if __name__ == "__main__":
    main()
