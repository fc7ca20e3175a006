"""CPU seconds by stage and peak memory of ``dms fit`` on Parquet.

``python benchmarks/bench_fit.py 200000 --width 64 --classes 5`` makes the rows, two modalities of
which a tenth is missing, and learns from them in a process of its own.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

NAMES, GROUP, LATENT = ("image", "text"), 8192, 64

_FIT = "dms_torch.fit."
#: What is measured: a stage by the function that does it, without those inside that are here too.
STAGES = (
    ("read", "dms_spec.cli.fit", "read_table"),
    ("fingerprint", f"{_FIT}training", "_fingerprint"),
    ("scales", f"{_FIT}folds", "fit_scale"),
    ("folds and scaled rows", f"{_FIT}training", "rows_of"),
    ("eigenbasis", f"{_FIT}logistic", "LogisticPath.__init__"),
    ("L-BFGS of heads and regression", f"{_FIT}logistic", "LogisticPath.solve"),
    ("judging penalties", f"{_FIT}regression", "_Judge.__call__"),
    ("typicality", f"{_FIT}training", "learn_typicality"),
    ("trust", f"{_FIT}training", "learn_trust"),
    ("metrics", f"{_FIT}training", "_metrics"),
    ("the rest of the fit", f"{_FIT}training", "fit"),
)


def write(path: Path, rows: int, width: int, classes: int, seed: int) -> None:
    """Writes classes with noise: what differs between them lies in a few directions."""
    draw = np.random.default_rng(seed)
    latent = min(width, LATENT)
    centres = draw.normal(size=(2, classes, latent)) * 2.2 / np.sqrt(latent)
    mixing = draw.normal(size=(2, latent, width)) / np.sqrt(latent)
    vectors = pa.list_(pa.float32(), width)
    fields = dict.fromkeys(NAMES, vectors) | {"labels": pa.int64(), "split": pa.string()}
    with pq.ParquetWriter(path, pa.schema(list(fields.items()))) as out:
        for start in range(0, rows, GROUP):
            size = min(GROUP, rows - start)
            labels = draw.integers(classes, size=size)
            columns: dict[str, Any] = {"labels": labels}
            for m, name in enumerate(NAMES):
                x = (centres[m, labels] + draw.normal(size=(size, latent))) @ mixing[m]
                x = (x + 0.1 * draw.normal(size=x.shape)).astype(np.float32)
                x[draw.random(size) < 0.1] = np.nan  # counts as absent
                columns[name] = pa.FixedSizeListArray.from_arrays(x.ravel(), width)
            columns["split"] = np.where(draw.random(size) < 0.1, "test", "train")
            out.write_table(pa.table(columns).select(list(fields)))


class Watch:
    """Counts the CPU seconds of functions, each without those that it calls."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._inner: list[float] = []

    def wrap(self, stage: str, module: str, name: str) -> None:
        """Replaces a function, or a method, by one that is watched."""
        owner: Any = importlib.import_module(module)
        *path, last = name.split(".")
        for part in path:
            owner = getattr(owner, part)
        setattr(owner, last, self._watched(stage, getattr(owner, last)))

    def _watched(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def watched(*given: Any, **named: Any) -> Any:
            start = time.process_time()
            self._inner.append(0.0)
            try:
                return function(*given, **named)
            finally:
                spent = time.process_time() - start
                own = spent - self._inner.pop()
                self.seconds[stage] = self.seconds.get(stage, 0.0) + own
                if self._inner:
                    self._inner[-1] += spent

        return watched


def learn(words: list[str]) -> None:
    """Runs ``dms fit`` here, and prints what it took as JSON."""
    from dms_spec.cli import main

    watch = Watch()
    for stage in STAGES:
        watch.wrap(*stage)
    assert main(words) == 0
    print(
        json.dumps(
            {
                "cpu_s": round(time.process_time(), 1),
                "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10,
                "stages": {name: round(own, 1) for name, own in watch.seconds.items()},
            }
        )
    )


def run() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", type=int)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--classes", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--memory", default="50MB", help="that of dms fit (default: %(default)s)")
    parser.add_argument("--folder", type=Path, default=Path("fit-out"))
    args = parser.parse_args()
    args.folder.mkdir(exist_ok=True)
    name = f"{args.rows}x{args.width}c{args.classes}s{args.seed}"
    table = args.folder / f"{name}.parquet"
    if not table.exists():
        write(table, args.rows, args.width, args.classes, args.seed)
    words = f"fit {table} -o {args.folder / name} --overwrite --split split --memory {args.memory}"
    # A process of its own: peak memory is its own then.
    subprocess.run([sys.executable, __file__, "--learn", *words.split()], check=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--learn"]:
        learn(sys.argv[2:])
    else:
        run()
