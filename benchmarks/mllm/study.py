"""The experiments of the DMS paper in miniature, inside two tiny multimodal language models.

``python benchmarks/mllm/study.py [--seeds N] [--processes N] [-o OUTPUT] [--redraw]``. Scenes are
in `scenes`, backbones in `models`, methods in `schedulers`, what is done with one seed in `trial`.
One process of one thread for each core. What was interrupted goes on where it stopped, from
``mini.jsonl`` in the output folder. Results of all seeds go to ``benchmarks/mllm/results``, those
of fewer to ``mini-out``, if nothing else is asked for. Needs
``dms-spec[demo,torch,transformers]`` and sacrebleu.
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
import subprocess
import sys
import time
import warnings
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from page import write_page
from plots import draw
from tqdm import tqdm
from trial import PLANS, Row, run_trial

HERE = Path(__file__).resolve().parent
RESULTS, PART = HERE / "results", Path("mini-out")
FIELDS = ("backbone", "seed", "method", "condition", "metric", "value")
SEEDS = 5

#: A backbone, a seed, its rows, and the CPU seconds that they took.
Done = tuple[str, int, list[Row], float]


def start() -> None:
    """Make a process ready."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # the notes of schedulers, and of libraries


def work(backbone: str, seed: int) -> Done:
    """One backbone with one seed."""
    return (backbone, seed, *run_trial(backbone, seed))


def measure(jobs: list[tuple[str, int]], log: Path, head: str, processes: int) -> list[Done]:
    """Every job, from the file where it is done already."""
    done = _read(log, head)
    known = {(backbone, seed) for backbone, seed, *_ in done}
    todo = [job for job in jobs if job not in known]
    context = multiprocessing.get_context("spawn")
    with log.open("a") as file, ProcessPoolExecutor(processes, context, start) as pool:
        futures = [pool.submit(work, *job) for job in todo]
        for future in tqdm(as_completed(futures), total=len(todo), unit="backbone and seed"):
            done.append(future.result())
            file.write(json.dumps(done[-1]) + "\n")
            file.flush()
    return sorted((d for d in done if tuple(d[:2]) in jobs), key=lambda d: jobs.index((d[0], d[1])))


def _read(log: Path, head: str) -> list[Done]:
    if not log.exists():
        log.write_text(json.dumps(head) + "\n")
        return []
    text = log.read_text()
    whole = text[: text.rfind("\n") + 1]
    log.write_text(whole)  # without a line that was cut short
    first, *lines = whole.splitlines()
    if json.loads(first) != head:
        sys.exit(f"{log} is of other code: remove it to start anew")
    return [tuple(json.loads(line)) for line in lines]


def code() -> str:
    """A text that changes when the code does that numbers depend on."""
    root, digest = HERE.parents[1], sha256()
    for folder in ("dms_spec", "backends", "benchmarks/mllm"):
        for path in sorted((root / folder).rglob("*.py")):
            if path.parent != HERE or path.name not in ("page.py", "tables.py", "plots.py"):
                digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def environment(done: list[Done], seconds: float, head: str) -> dict[str, Any]:
    """Versions, machine and settings."""
    git = ["git", "-C", str(HERE)]
    commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True).stdout
    packages = ("dms-spec", "numpy", "torch", "transformers", "scikit-learn", "sacrebleu")
    return {
        "commit": commit.strip() or None,
        "code": head,
        "python": platform.python_version(),
        "versions": {name: version(name) for name in packages},
        "machine": {"cpu": _cpu(), "cores": os.cpu_count(), "system": platform.system()},
        "seeds": {name: sorted({s for b, s, *_ in done if b == name}) for name in PLANS},
        "plans": {name: asdict(plan) for name, plan in PLANS.items()},
        "CPU seconds": {name: round(sum(d[3] for d in done if d[0] == name)) for name in PLANS},
        "seconds of the last call": round(seconds),
    }


def _cpu() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def record(output: Path, done: list[Done]) -> None:
    """The numbers, in CSV."""
    with (output / "mini.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(FIELDS)
        for backbone, seed, rows, _ in done:
            for method, condition, metric, value in rows:
                writer.writerow([backbone, seed, method, condition, metric, f"{value:.5g}"])


def main() -> None:
    """Measure, write the numbers, the page and its picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    choices = range(1, SEEDS + 1)
    parser.add_argument("--seeds", type=int, default=SEEDS, choices=choices, help="so many")
    parser.add_argument("-o", "--output", type=Path, help=f"default: results, or {PART} of a part")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="default: the cores")
    parser.add_argument("--redraw", action="store_true", help="the page again, of the numbers")
    args = parser.parse_args()
    output = args.output or (RESULTS if args.seeds == SEEDS else PART)
    output.mkdir(parents=True, exist_ok=True)
    if not args.redraw:
        jobs = [(backbone, seed) for seed in range(args.seeds) for backbone in PLANS]
        log, head, before = output / "mini.jsonl", code(), time.monotonic()
        done = measure(jobs, log, head, args.processes)
        record(output, done)
        about = environment(done, time.monotonic() - before, head)
        (output / "environment.json").write_text(json.dumps(about, indent=2) + "\n")
        log.unlink()
    write_page(output)
    draw(output)
    print(f"wrote {output / 'README.md'}")


if __name__ == "__main__":
    main()
