"""Rows per second and peak memory of ``dms predict`` and of engines, by processes, start-up apart.

``python benchmarks/bench_engines.py 2000000 --prepare`` makes rows and artifact, where torch is.
Then, in the environment of ``make test-ray``, the same without ``--prepare`` measures. An engine
that is not installed is left out, and named.

Each run scores few rows twice, and then all. What the last takes beyond the second is scoring
alone: processes have started. Cases take turns, so that a machine that does other work hits all of
them alike; the table holds medians. CPU seconds are for a million rows. The engine ``actors`` is
Ray's, with rows in its memory before and after: reading and writing are left out.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import threading
import time
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dms_spec import Scorer

FEW = 10_000
#: By engine: the package, and how many processes are tried. Daft takes threads as it likes.
ENGINES: dict[str, tuple[str, tuple[int, ...]]] = {
    "dms": ("dms_spec", (1, 2)),
    "ray": ("ray", (1, 2)),
    "actors": ("ray", (1, 2)),
    "dask": ("distributed", (1, 2)),
    "spark": ("pyspark", (1, 2)),
    "daft": ("daft", (1,)),
}


# ------------------------------------------------------------ the blocks of docs/guide/engines.md


def dms(artifact: Path, workers: int) -> Any:
    def score(data: Path, out: Path) -> None:
        words = ["predict", artifact, data, "-o", out, "--keep", "id", "--workers", workers]
        command = [sys.executable, "-m", "dms_spec", *map(str, words)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

    return score


def ray(artifact: Path, workers: int, *, read_and_write: bool = True) -> Any:
    import ray

    from dms_spec.bulk.ray_data import score_dataset

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False

    def score(data: Path, out: Path) -> float:
        dataset = ray.data.read_parquet(str(data))
        dataset = dataset if read_and_write else dataset.materialize()
        start = time.monotonic()
        scored = score_dataset(dataset, artifact, keep=["id"], actors=workers)
        scored = scored if read_and_write else scored.materialize()
        scoring = time.monotonic() - start
        scored.write_parquet(str(out))
        return time.monotonic() - start if read_and_write else scoring

    return score


def actors(artifact: Path, workers: int) -> Any:
    return ray(artifact, workers, read_and_write=False)


def score_file(scorer: Scorer, path: Path, folder: Path) -> None:
    """Scores a file by its row groups: a whole one would take as much memory as it has rows."""
    with pq.ParquetFile(path) as file:
        for k in range(file.num_row_groups):
            pq.write_table(scorer(file.read_row_group(k)), folder / f"{path.stem}-{k}.parquet")


def dask(artifact: Path, workers: int) -> Any:
    import dask
    from distributed import Client

    scorer = Scorer(artifact=artifact, keep=("id",))
    client = Client(n_workers=workers, threads_per_worker=1, dashboard_address=None)

    def score(data: Path, out: Path) -> None:
        out.mkdir()
        files = sorted(data.glob("*.parquet"))
        client.gather(client.compute([dask.delayed(score_file)(scorer, f, out) for f in files]))

    return score


def spark(artifact: Path, workers: int) -> Any:
    from pyspark.sql import SparkSession

    os.environ |= {"PYSPARK_PYTHON": sys.executable, "SPARK_LOCAL_IP": "127.0.0.1"}
    scorer = Scorer(artifact=artifact, keep=("id",))

    def scored(batches: Any) -> Any:
        for batch in batches:
            yield from scorer(batch).select(["id", "predicted"]).to_batches()

    session = SparkSession.builder.master(f"local[{workers}]").getOrCreate()

    def score(data: Path, out: Path) -> None:
        frame = session.read.parquet(str(data)).select("id", "image", "text")
        frame.mapInArrow(scored, "id long, predicted long").write.parquet(str(out))

    return score


def daft(artifact: Path, workers: int) -> Any:
    import daft

    scorer = Scorer(artifact=artifact)

    @daft.udf(return_dtype=daft.DataType.int64())
    def predicted(image: Any, text: Any) -> Any:
        table = pa.table({"image": image.to_arrow(), "text": text.to_arrow()})
        return scorer(table)["predicted"].combine_chunks()

    def score(data: Path, out: Path) -> None:
        frame = daft.read_parquet(f"{data}/*.parquet")
        frame = frame.select("id", predicted(frame["image"], frame["text"]).alias("predicted"))
        frame.write_parquet(str(out))

    return score


# -------------------------------------------------------------------------------------- measuring


def prepare(folder: Path, rows: int) -> None:
    """Makes the rows of bench_scale.py, with lists of any length: what every pyarrow reads."""
    import bench_scale

    bench_scale.prepare(folder, rows)
    new = folder / f"lists-{rows}"
    if new.exists():
        return
    new.mkdir()
    for path in sorted((folder / f"data-{rows}").iterdir()):
        with pq.ParquetFile(path) as file:
            names = bench_scale.NAMES
            fields = [
                pa.field(f.name, pa.list_(pa.float32())) if f.name in names else f
                for f in file.schema_arrow
            ]
            with pq.ParquetWriter(new / path.name, pa.schema(fields)) as out:
                for k in range(file.num_row_groups):
                    out.write_table(file.read_row_group(k).cast(pa.schema(fields)))


class Watch(threading.Thread):
    """Looks ten times a second at this process and at all that it has started.

    Attributes:
        peak: The largest memory of any of them, in bytes, and its name. What processes share is
            left out: Ray's store, and libraries.
    """

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._cpu: dict[int, float] = {}
        self.peak = 0, ""

    @property
    def cpu(self) -> float:
        """CPU seconds of all of them, of those that have ended too."""
        return sum(self._cpu.values())

    def run(self) -> None:
        import psutil

        root = psutil.Process()
        while True:
            for one in [root, *root.children(recursive=True)]:
                with suppress(psutil.Error), one.oneshot():  # it may have ended
                    self._cpu[one.pid] = sum(one.cpu_times()[:2])
                    memory = one.memory_info()
                    self.peak = max(self.peak, (memory.rss - memory.shared, one.name()))
            time.sleep(0.1)


def run(engine: str, workers: int, folder: Path, rows: int) -> dict[str, Any]:
    """Starts an engine, scores few rows twice and then all; what is said leaves out the start."""
    watch = Watch()
    watch.start()
    begun = time.monotonic()
    score = globals()[engine]((folder / "art").resolve(), workers)
    seconds, cpu = [], []
    for count in (FEW, FEW, rows):
        out = folder.resolve() / f"engine-{count}"
        shutil.rmtree(out, ignore_errors=True)
        start, before = time.monotonic(), watch.cpu
        took = score((folder / f"lists-{count}").resolve(), out)
        seconds.append(time.monotonic() - start if took is None else took)
        time.sleep(0.2)
        cpu.append(watch.cpu - before)
        if len(seconds) == 1:
            until_first = time.monotonic() - begun
        ids = pq.read_table(out, columns=["id"])["id"].unique()
        assert len(ids) == count == pq.read_table(out, columns=["id"]).num_rows
    return {
        "start_s": round(until_first, 2),
        "few_s": round(seconds[1], 2),
        "all_s": round(seconds[2], 2),
        "rows_per_s": round((rows - FEW) / (seconds[2] - seconds[1])),
        "cpu_s_per_million": round(1e6 * (cpu[2] - cpu[1]) / (rows - FEW), 1),
        "peak_mib": round(watch.peak[0] / 2**20),
        "peak_of": watch.peak[1],
    }


def measure(engine: str, workers: int, folder: Path, rows: int) -> dict[str, Any]:
    """Runs a case in a process of its own."""
    words = [str(rows), "--folder", str(folder), "--run", engine, str(workers)]
    command = [sys.executable, __file__, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{engine} with {workers}: {done.stderr}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def table(found: dict[tuple[str, int], list[dict[str, Any]]]) -> str:
    """Writes medians over the rounds, and how much faster two processes are than one."""
    head = "engine", "processes", "start, s", "rows per second", "times one", "CPU s", "peak, MiB"
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for (engine, workers), runs in found.items():
        start, speed, cpu, peak = (
            statistics.median(run[key] for run in runs)
            for key in ("start_s", "rows_per_s", "cpu_s_per_million", "peak_mib")
        )
        alone = statistics.median(run["rows_per_s"] for run in found[engine, 1])
        lines.append(
            f"| {engine} | {workers} | {start:.1f} | {speed:,.0f} | {speed / alone:.2f} "
            f"| {cpu:.1f} | {peak:,.0f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", type=int)
    parser.add_argument("--engines", nargs="+", default=list(ENGINES), choices=list(ENGINES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path("scale-out"))
    parser.add_argument("--prepare", action="store_true", help="make rows and artifact")
    parser.add_argument("--run", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run:
        print(json.dumps(run(args.run[0], int(args.run[1]), args.folder, args.rows)))
        return
    for count in (FEW, args.rows):
        if args.prepare:
            prepare(args.folder, count)
        elif not (args.folder / f"lists-{count}").exists():
            raise SystemExit("first the same with --prepare, where torch is")
    if args.prepare:
        return
    cases = []
    for engine in args.engines:
        package, workers = ENGINES[engine]
        if find_spec(package) is None:
            print(f"{engine} is left out: {package} is not installed", flush=True)
        else:
            cases += [(engine, count) for count in workers]
    found: dict[tuple[str, int], list[dict[str, Any]]] = {case: [] for case in cases}
    for _ in range(args.rounds):
        for case in cases:
            measured = measure(*case, args.folder, args.rows)
            found[case].append(measured)
            print(json.dumps({"engine": case[0], "processes": case[1]} | measured), flush=True)
    print(table(found))


if __name__ == "__main__":
    main()
