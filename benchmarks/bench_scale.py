"""Rows per second, CPU seconds and peak memory of ``dms predict`` over Parquet, by workers.

``python benchmarks/bench_scale.py 1000000 --workers 1 2`` makes the rows once, two modalities 64
wide, and scores them. A machine that does other work makes rows per second too low; CPU seconds
say what the work takes.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

WIDTH, CLASSES, GROUP, FILE = 64, 5, 100_000, 500_000
NAMES = ("image", "text")


def frame(start: int, rows: int, centres: np.ndarray) -> pa.Table:
    """Rows of five classes with noise, a tenth of each modality missing; the same for a start."""
    draw = np.random.Generator(np.random.Philox(start))
    labels = draw.integers(0, CLASSES, rows)
    columns = {"id": pa.array(np.arange(start, start + rows))}
    for m, name in enumerate(NAMES):
        values = draw.standard_normal((rows, WIDTH), dtype=np.float32) + centres[m, labels]
        missing = pa.array(draw.random(rows) < 0.1)
        columns[name] = pa.FixedSizeListArray.from_arrays(
            pa.array(values.ravel()), WIDTH, mask=missing
        )
    return pa.table(columns | {"labels": pa.array(labels)})


def prepare(folder: Path, rows: int) -> None:
    """Writes the rows, and an artifact that was fitted on 5000 others."""
    centres = np.random.default_rng(0).normal(size=(2, CLASSES, WIDTH)).astype("f4") * 0.3
    if not (folder / "art").exists():
        folder.mkdir(parents=True, exist_ok=True)
        pq.write_table(frame(10**12, 5000, centres), folder / "train.parquet")
        dms("fit", folder / "train.parquet", "-o", folder / "art", "--id", "id")
    data = folder / f"data-{rows}"
    if data.exists():
        return
    new = folder / "new"
    new.mkdir(exist_ok=True)
    for number, start in enumerate(range(0, rows, FILE)):
        with pq.ParquetWriter(new / f"{number:03}.parquet", frame(0, 0, centres).schema) as out:
            for group in range(start, min(start + FILE, rows), GROUP):
                out.write_table(frame(group, min(GROUP, rows - group), centres))
    new.rename(data)


def dms(*words: object) -> None:
    subprocess.run([sys.executable, "-m", "dms_spec", *map(str, words)], check=True)


def measure(folder: Path, rows: int, workers: int, backend: list[str]) -> dict[str, float]:
    """Scores the rows in a process of its own, so that its peak memory is its own."""
    out = folder / f"out-{workers}"
    shutil.rmtree(out, ignore_errors=True)
    start, art, data = time.monotonic(), folder / "art", folder / f"data-{rows}"
    words = ["predict", art, data, "-o", out, "--workers", workers, *backend]
    process = subprocess.Popen([sys.executable, "-m", "dms_spec", *map(str, words)])
    # What it and its workers used, and no other child, such as the one that fitted.
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    wall, cpu = time.monotonic() - start, used.ru_utime + used.ru_stime
    if process.returncode:
        raise SystemExit(process.returncode)
    return {
        "rows": rows,
        "workers": workers,
        "wall_s": round(wall, 1),
        "cpu_s": round(cpu, 1),
        "rows_per_s": round(rows / wall),
        "rows_per_cpu_s": round(rows / cpu),
        # The largest of its processes.
        "peak_mib": round(used.ru_maxrss / 1024),
        "input_mb": round(sum(p.stat().st_size for p in data.iterdir()) / 1e6),
        "output_mb": round(sum(p.stat().st_size for p in out.iterdir()) / 1e6),
    }


def stages(folder: Path, rows: int, backend: str) -> dict[str, float]:
    """CPU seconds of each stage for a million rows, in this process, one after the other."""
    from dms_spec.bulk.places import Place
    from dms_spec.embeddings.scoring import Scorer
    from dms_spec.embeddings.sources.frame_writer import ParquetWriter
    from dms_spec.embeddings.sources.frames import open_frame
    from dms_spec.embeddings.table import Table

    scorer = Scorer(artifact=folder / "art", keep=("id",), backend=backend)
    predictor = scorer.predictor()
    source = Place.of(str(folder / f"data-{rows}" / "000.parquet"))
    taken = scorer.taken(open_frame(pq.read_schema(source.path).empty_table()))
    known = {"axis": predictor.artifact.spec.modalities, "widths": predictor.model.widths}
    clock = {}

    def timed(name: str, work: Callable[[], Any]) -> Any:
        start = time.process_time()
        found = work()
        clock[name] = time.process_time() - start
        return found

    with source.parquet() as file:
        names = list(dict.fromkeys(["id", *taken.names()]))
        batches = timed("decode", lambda: list(file.iter_batches(1024, columns=names)))
    frames = [open_frame(pa.Table.from_batches([batch])) for batch in batches]
    tables = timed("convert", lambda: [Table.from_frame(f, taken, **known) for f in frames])
    predictor.predict(tables[0])
    timed("compute", lambda: [predictor.predict(table) for table in tables])
    whole = timed("all of it, but reading and writing", lambda: [scorer(f) for f in frames])
    path = folder / "stages.parquet"

    def write() -> None:
        with ParquetWriter(path, "dms-spec predictions", {}) as out:
            for part in whole:
                out.add(part)

    timed("write", write)
    timed("checksum", Place.of(str(path)).checksum)
    count = sum(map(len, tables))
    return {name: round(1e6 * seconds / count, 2) for name, seconds in clock.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", type=int)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--folder", type=Path, default=Path("scale-out"))
    parser.add_argument("--backend", default=None)
    parser.add_argument("--stages", action="store_true", help="CPU seconds for a million rows")
    args = parser.parse_args()
    prepare(args.folder, args.rows)
    if args.stages:
        print(json.dumps(stages(args.folder, args.rows, args.backend or "numpy")))
        return
    backend = ["--backend", args.backend] if args.backend else []
    for workers in args.workers:
        print(json.dumps(measure(args.folder, args.rows, workers, backend)), flush=True)


if __name__ == "__main__":
    main()
