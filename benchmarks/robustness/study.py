"""Robustness to noise, conflict and missing modalities, on tables of your own.

``python benchmarks/robustness/study.py FOLDER [-o benchmarks/robustness/results] [--quick]``.
Every ``.npz`` in the folder that is a table (one array [N, D_m] for each modality, ``labels`` [N],
perhaps ``train`` and ``test``) is measured: the protocol is in `protocol`, the methods in
`methods`. Two processes of one thread each. What was interrupted goes on where it stopped, from
``study.jsonl`` in the output folder. ``--quick`` takes the first table, one seed and ten epochs, to
see that it runs. Needs ``dms-spec[demo,onnxruntime,torch]``.
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
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from methods import Fits, Method, method
from plots import draw
from protocol import CONDITIONS, NOISE, SEEDS, TOLD, Split, Trial, alone, split, tables, trial
from sklearn.linear_model import LogisticRegression
from tables import write_tables
from tqdm import tqdm

from dms_onnxruntime import Session
from dms_spec.embeddings.table import Table
from dms_spec.plugins import get_exporter
from dms_spec.robustness import average, damaged_sets, expected, metrics
from dms_torch.fit.settings import FitSettings

#: Measured on everything.
MAIN = (
    "robust",
    "static",
    "oracle",
    "static_logit",
    "entropy",
    "entropy_logit",
    "dms_rule",
    "dms_rule_sum",
    "learned_dms",
    "qmf",
    "tmc",
    "dempster_shafer",
    "dms_paper",
    "co_attention",
    "modality_dropout",
    "dmome",
    "ma_afs",
)
#: What the parts of a method are worth, with the first seeds alone.
PARTS = (
    "robust - confidence",
    "robust - uncertainty",
    "robust - corroboration",
    "robust - typicality",
    "robust, not learned",
    "robust, probabilities",
    "robust, full covariance",
    "robust, diagonal covariance",
    "dms_rule, alpha 0",
    "dms_rule, beta 0",
    "dms_rule, gamma 0",
    "static, PCA",
    "dms_rule, PCA",
    "robust, PCA",
)
#: Measured with every set of modalities missing, with the first seeds alone.
MISSING = ("static", "robust", "robust, presence drawn", "dmome", "dmome, MoFe")
FIRST_SEEDS = 1
#: Measured with each modality alone corrupted, as in the DMS paper's table of noise.
ONE_BY_ONE = ("static", "co_attention", "modality_dropout", "dms_rule_sum", "robust")

#: The defaults of ``dms fit``, and what --quick takes.
DEFAULTS, QUICK = FitSettings(), FitSettings(epochs=10)

HERE = Path(__file__).resolve().parent
FIELDS = ("set", "seed", "method", "condition", "metric", "value")

#: Condition, metric, value.
Row = tuple[str, str, float]


# ------------------------------------------------------------------------------------- measuring


def accuracies(name: str, fits: Fits) -> Iterator[Row]:
    """Accuracy in every condition, calibration, and how weights go with losses."""
    own, ask = fits.split, method(name, fits)
    conditions = [*CONDITIONS, TOLD]
    if name in ONE_BY_ONE:
        conditions += alone(own.table.modalities)
    errors = {}
    for condition in conditions:
        answer = ask(trial(own, condition))
        p, y = answer.probabilities, own.labels
        yield condition, "accuracy", 100 * _number(metrics.accuracy(p, y))
        if condition == "clean" or condition in NOISE:
            errors[condition] = _number(metrics.calibration_error(p, y))
        if condition in ("clean", "sigma 1") and answer.weights is not None and name in MAIN:
            assert answer.unimodal is not None and answer.active is not None
            losses = metrics.losses(answer.unimodal, y)
            total = metrics.weight_loss_covariance(answer.weights, losses, answer.active)[1]
            yield condition, "weight-loss covariance", _number(total)
    yield "clean", "ece", errors["clean"]
    yield "noisy", "ece", float(np.mean([errors[condition] for condition in NOISE]))


def missing(name: str, fits: Fits) -> Iterator[Row]:
    """Every set of modalities missing, told or not: the sensor-failure protocol's EMM."""
    own, ask = fits.split, method(name, fits)
    names, given = own.table.modalities, trial(fits.split, "clean")
    mean = {key: x.mean(axis=0) for key, x in own.training.embeddings.items()}
    for told in (True, False):
        right = {}
        for damaged in damaged_sets(names):
            gone = np.isin(names, damaged)
            inputs = {
                key: np.broadcast_to(mean[key], x.shape) if key in damaged else x
                for key, x in given.inputs.items()
            }
            present = given.present & ~(gone & told)
            answer = ask(Trial(inputs=inputs, present=present, hit=np.zeros_like(present)))
            right[frozenset(damaged)] = metrics.correct(answer.probabilities, own.labels)
        scores = {key: 100 * float(value.mean()) for key, value in right.items()}
        condition = "missing, told" if told else "missing, untold"
        yield condition, "accuracy", average(scores, len(names))
        yield condition, "expected accuracy, p 0.2", expected(scores, len(names), 0.2)
        available = {frozenset(names) - key: value for key, value in right.items()}
        for pairs in ("all", "adjacent"):
            rate = metrics.counter_intuitive_rate(available, pairs)
            yield condition, f"counter-intuitive rate, {pairs}", 100 * _number(rate)


def exported(name: str, fits: Fits) -> Iterator[Row]:
    """The exported graph in ONNX Runtime beside NumPy, on every condition."""
    ask: Method = method(name, fits)
    with tempfile.TemporaryDirectory() as folder:
        path = get_exporter("onnx").export(ask.predictor.artifact, Path(folder))
        session = Session.load(path, threads=1)
    for condition in (*CONDITIONS, TOLD):
        given = trial(fits.split, condition)
        p = ask(given).probabilities
        q = session.run({**given.inputs, "present": given.present})["probabilities"]
        same = p.argmax(axis=1) == q.argmax(axis=1)
        yield condition, "onnx: share of equal predictions", float(same.mean())
        yield condition, "onnx: largest difference", float(np.abs(p - q).max())


def seconds(name: str, fits: Fits) -> Iterator[Row]:
    """CPU seconds of a fit, and of two things to measure it by; one thread."""
    table = fits.split.training
    yield "fit", "CPU seconds", _number(fits(name).model["cpu_seconds"])
    yield "fit, heads alone", "CPU seconds", _number(fits("heads alone").model["cpu_seconds"])
    start = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that 1000 steps were not enough
        for x in table.embeddings.values():
            LogisticRegression(max_iter=1000).fit(x, table.labels)
    yield "fit, scikit-learn", "CPU seconds", time.process_time() - start


def _number(value: float | None) -> float:
    assert value is not None
    return float(value)


#: By name: what is measured of which methods, and with how many seeds.
UNITS: dict[str, tuple[Callable[[str, Fits], Iterator[Row]], tuple[str, ...], int]] = {
    "accuracy": (accuracies, MAIN, len(SEEDS)),
    "parts": (accuracies, PARTS, FIRST_SEEDS),
    "missing": (missing, MISSING, FIRST_SEEDS),
    "onnx": (exported, ("robust",), 1),
    "seconds": (seconds, ("robust",), 1),
}

# ----------------------------------------------------------------------------------- the processes

#: Set, seed, unit and method: what is done in one piece.
Key = tuple[str, int, str, str]
_state: dict[str, Any] = {}


def plan(names: list[str], seeds: tuple[int, ...]) -> dict[tuple[str, int], list[Key]]:
    """By set and seed, which share their fits, the pieces of work."""
    return {
        (name, seed): [
            (name, seed, unit, one)
            for unit, (_, methods, most) in UNITS.items()
            if seed < most
            for one in methods
        ]
        for seed in seeds
        for name in names
    }


def start(folder: Path, fits: Path, settings: FitSettings, queue: Any) -> None:
    """Make a process ready."""
    warnings.simplefilter("ignore")  # the notes of schedulers
    _state.update(tables=tables(folder)[0], fits=fits, settings=settings, queue=queue)


def work(keys: list[Key]) -> None:
    """Measure all that is left of one set and seed."""
    name, seed = keys[0][:2]
    own: Split = split(name, _state["tables"][name], seed)
    fits = Fits(own, _state["fits"], _state["settings"])
    for key in keys:
        function = UNITS[key[2]][0]
        _state["queue"].put((key, list(function(key[3], fits))))


def measure(
    folder: Path,
    output: Path,
    keys: dict[tuple[str, int], list[Key]],
    settings: FitSettings,
    head: str,
) -> dict[Key, list[Row]]:
    """Every piece, from the file where it is done already; the rows by piece."""
    log, fits = output / "study.jsonl", output / "fits"
    if not log.exists():
        shutil.rmtree(fits, ignore_errors=True)
        log.write_text(json.dumps(head) + "\n")
    done = _read(log, head)
    todo = [[key for key in own if key not in done] for own in keys.values()]
    context = multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    total = sum(map(len, keys.values()))
    with (
        log.open("a") as file,
        tqdm(total=total, initial=len(done), unit="method") as bar,
        ProcessPoolExecutor(2, context, start, (folder, fits, settings, queue)) as pool,
    ):
        running: set[Future[None]] = {pool.submit(work, own) for own in todo if own}
        try:
            while running or not queue.empty():
                finished, running = wait(running, 0.2, FIRST_COMPLETED)
                while not queue.empty():
                    key, rows = queue.get()
                    done[key] = rows
                    file.write(json.dumps([key, rows]) + "\n")
                    file.flush()
                    bar.set_postfix_str(f"{key[0]}, seed {key[1]}")
                    bar.update()
                for future in finished:
                    future.result()
        except BaseException:  # nobody reads the queue any more
            for process in multiprocessing.active_children():
                process.terminate()
            raise
    return done


def _read(log: Path, head: str) -> dict[Key, list[Row]]:
    text = log.read_text()
    whole = text[: text.rfind("\n") + 1]
    log.write_text(whole)  # without a line that was cut short
    first, *lines = whole.splitlines()
    if json.loads(first) != head:
        sys.exit(f"{log} is of another run, or of other code: remove it to start anew")
    done: dict[Key, list[Row]] = {}
    for line in lines:
        key, rows = json.loads(line)
        done[tuple(key)] = rows
    return done


# -------------------------------------------------------------------------------------- the record


def code() -> str:
    """A text that changes when the code does."""
    root, digest = HERE.parents[1], sha256()
    for folder in ("dms_spec", "backends", "exporters", "benchmarks/robustness"):
        for path in sorted((root / folder).rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def environment(found: dict[str, Table], settings: FitSettings, head: str) -> dict[str, Any]:
    """Versions, machine and settings."""
    git = ["git", "-C", str(HERE)]
    commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True).stdout
    changed = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True).stdout
    packages = ("dms-spec", "numpy", "torch", "scikit-learn", "onnxruntime", "ndonnx", "matplotlib")
    return {
        "commit": commit.strip() or None,
        "changed since": bool(changed.strip()),
        "code and tables": head,
        "python": platform.python_version(),
        "versions": {name: version(name) for name in packages},
        "machine": {"cpu": _cpu(), "cores": os.cpu_count(), "system": platform.system()},
        "processes": 2,
        "threads of each": 1,
        "settings of every fit": asdict(settings) | {"seed": "that of the split"},
        "tables": {
            name: {
                "rows": len(table),
                "test": "its own" if table.test is not None else "a fifth, drawn",
                "classes": len(np.unique(table.labels)),
                "modalities": {key: x.shape[1] for key, x in table.embeddings.items()},
            }
            for name, table in found.items()
        },
    }


def _cpu() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="with the tables, .npz")
    parser.add_argument("-o", "--output", type=Path, default=HERE / "results")
    parser.add_argument(
        "--quick", action="store_true", help="the first table, one seed, ten epochs"
    )
    args = parser.parse_args()
    found, skipped = tables(args.folder)
    for name, why in skipped.items():
        print(f"{name} is left out: {why}", file=sys.stderr)
    if not found:
        sys.exit("there is no table to measure on")
    names, seeds, settings = list(found), SEEDS, DEFAULTS
    if args.quick:
        names, seeds, settings = names[:1], seeds[:1], QUICK
    digest = sha256(f"{code()} {settings}".encode())
    for name in names:
        digest.update((args.folder / f"{name}.npz").read_bytes())
    head = digest.hexdigest()[:16]
    args.output.mkdir(parents=True, exist_ok=True)
    keys = plan(names, seeds)
    done = measure(args.folder, args.output, keys, settings, head)
    rows = [
        (*key[:2], key[3], condition, metric, float(f"{value:.6g}"))
        for own in keys.values()
        for key in own
        for condition, metric, value in done[key]
    ]
    rows.sort(key=lambda row: row[:2])
    with (args.output / "robustness.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(FIELDS)
        writer.writerows(rows)
    about = environment({name: found[name] for name in names}, settings, head)
    text = json.dumps(about, indent=2)
    (args.output / "environment.json").write_text(text + "\n")
    report(args.output)
    (args.output / "study.jsonl").unlink()
    shutil.rmtree(args.output / "fits", ignore_errors=True)
    print(f"wrote {args.output / 'README.md'}")


def report(output: Path) -> None:
    """Tables and plots from the numbers that were written."""
    write_tables(output)
    draw(output)


if __name__ == "__main__":
    main()
