"""CPU seconds of ``dms predict`` for a million rows, beside the matrix products that it needs.

``python benchmarks/predict.py [ROWS] [--width 512] [--classes 10 1000] [-o FOLDER]``, on one core.
Two modalities, an artifact that was fitted on a few rows of ten classes; for more its arrays are
repeated. *products*: those of the heads, the joint expert and typicality alone, by BLAS.
*Parquet*: decoding, scoring and writing, in turn. Needs ``dms-spec[sklearn,tables]``.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from sklearn.linear_model import LogisticRegression

from dms_spec.artifact import Artifact, save_artifact
from dms_spec.embeddings.predictor import BATCH_SIZE, Predictor
from dms_spec.embeddings.scoring import Scorer
from dms_spec.embeddings.sources.frame_writer import ParquetWriter, frame_of_arrays
from dms_spec.embeddings.table import Table
from dms_spec.estimator import FusionClassifier
from dms_spec.plugins import available, get_backend
from dms_spec.speed.session import save

NAMES, FEW = ("image", "text"), 10
Calls = dict[str, Callable[[], Any]]


def fitted(width: int) -> Artifact:
    """An artifact of ten classes."""
    random = np.random.default_rng(0)
    y = random.permutation(np.arange(2000) % FEW)
    x = {
        name: (random.normal(size=(FEW, width))[y] / 2 + 2 * random.normal(size=(2000, width)))
        for name in NAMES
    }
    return FusionClassifier(random_state=0).fit(x, y).artifact_


def repeated(artifact: Artifact, classes: int) -> Artifact:
    """The same with as many classes as one likes, a multiple of ten: its arrays, repeated."""
    times = classes // FEW
    parameters = {}
    for name, array in artifact.parameters.items():
        for axis in [k for k, size in enumerate(array.shape) if size == FEW]:
            array = np.repeat(array, times, axis=axis)
        parameters[name] = array / times if "prior" in name else array
    prior = np.repeat(artifact.model["prior"], times) / times
    model = {**artifact.model, "classes": list(range(classes)), "prior": prior.tolist()}
    return Artifact(spec=artifact.spec, parameters=parameters, model=model)


def products(artifact: Artifact, x: dict[str, Any]) -> None:
    """Every matrix product that a prediction needs, on as many rows at a time."""
    p, signal = artifact.parameters, "signals.typicality"
    for m, name in enumerate(NAMES):
        weights = [
            p[k] for k in (f"heads.{name}.classifier.weight", f"joint.{name}.weight") if k in p
        ]
        for start in range(0, len(x[name]), BATCH_SIZE):
            rows = x[name][start : start + BATCH_SIZE]
            for weight in weights:
                rows @ weight
            place = p[f"{signal}.whitening"][m]
            if place.ndim == 2:
                rows = rows @ place
            rows @ p[f"{signal}.prototypes"][m].T


def in_memory(artifact: Artifact, x: dict[str, Any]) -> Calls:
    """What takes arrays and gives arrays."""
    wide, classes = np.concatenate(list(x.values()), axis=1), len(artifact.model["classes"])
    y = np.arange(2 * classes) % classes
    theirs = LogisticRegression(max_iter=1).fit(wide[: len(y)], y)
    table = Table.from_arrays(x)
    calls: Calls = {
        "reading once": lambda: [array.sum() for array in x.values()],
        "products": lambda: products(artifact, x),
        "scikit-learn, concatenated": lambda: theirs.predict_proba(wide),
        "Table.from_arrays": lambda: Table.from_arrays(x),
    }
    for name in ("numpy", "numba", "torch", "onnxruntime"):
        if name in available("backend"):
            predictor = Predictor(artifact, get_backend(name))
            calls[f"Predictor, {name}"] = lambda predictor=predictor: predictor.predict(table)
    return calls


def over_parquet(artifact: Artifact, x: dict[str, Any], folder: Path) -> Calls:
    """What takes a file and gives a file, stage by stage."""
    source = folder / "rows.parquet"
    pq.write_table(frame_of_arrays(x), source, row_group_size=100_000)
    save_artifact(folder / "model", artifact)
    scorer = Scorer(artifact=folder / "model")

    def decode() -> list[Any]:
        with pq.ParquetFile(source, pre_buffer=False, buffer_size=1 << 20) as file:
            batches = file.iter_batches(BATCH_SIZE, columns=list(NAMES), use_threads=False)
            return [pa.Table.from_batches([batch]) for batch in batches]

    frames = decode()
    scored = [scorer(frame) for frame in frames]

    def write() -> None:
        with ParquetWriter(folder / "out.parquet", "dms-spec predictions", {}) as out:
            for part in scored:
                out.add(part)

    return {
        "Parquet, decode": decode,
        "Parquet, score": lambda: [scorer(frame) for frame in frames],
        "Parquet, write": write,
    }


def measured(calls: Calls, rounds: int) -> dict[str, float]:
    """The least CPU seconds of each, in turn."""
    found: dict[str, float] = {}
    for _ in range(rounds):
        for name, call in calls.items():
            start = time.process_time()
            call()
            took = time.process_time() - start
            found[name] = min(took, found.get(name, took))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rows", type=int, nargs="?", default=20_000)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--classes", type=int, nargs="+", default=[10, 1000])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("-o", "--output", type=Path, help="folder for the table")
    args = parser.parse_args()
    random, small = np.random.default_rng(1), fitted(args.width)
    x = {name: 2 * random.standard_normal((args.rows, args.width), "f4") for name in NAMES}
    table: dict[str, dict[str, Any]] = {}
    for classes in args.classes:
        artifact = repeated(small, classes)
        with tempfile.TemporaryDirectory() as folder:
            calls = in_memory(artifact, x) | over_parquet(artifact, x, Path(folder))
            for name, seconds in measured(calls, args.rounds).items():
                found = f"{1e6 * seconds / args.rows:.2f}"
                print(f"C={classes:<5} {name:<28} {found:>8} s")
                table.setdefault(name, {"": name})[f"C = {classes}"] = found
    if args.output:
        args.output.mkdir(parents=True, exist_ok=True)
        save(args.output / "predict.csv", list(table.values()))


if __name__ == "__main__":
    main()
