"""Kills verbs at random moments, and says what they lost or left behind.

When the writing of outputs has changed: ``make fuzz``, or ``python tests/kills.py 60 --seed 1``.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

_FIT = ("--spec", "static", "--epochs", "40", "--patience", "40", "--passes", "0")
_ROBUST = ("--corruption", "gaussian", "--corruption", "absent", "--seeds", "2")
_EMBED = ("--text", "slow:letters", "--batch-size", "2")

#: By verb: its command, without and with an earlier output, and the names of what it writes.
VERBS: dict[str, tuple[tuple[str, ...], tuple[str, ...], str]] = {
    "schedule": (("schedule", "in.npz", "-o", "OUT.npz"), (), "OUT.npz"),
    "predict": (("predict", "art", "t.npz", "-o", "OUT.npz"), (), "OUT.npz"),
    "parts": (("predict", "art", "lake", "-o", "OUT", "--workers", "1"), (), "OUT"),
    "fit": (("fit", "t.npz", "-o", "OUT", *_FIT), ("--overwrite",), "OUT"),
    "robustness": (("robustness", "art", "t.npz", "-o", "OUT", *_ROBUST), ("--overwrite",), "OUT"),
    "embed": (("embed", "in.csv", "-o", "OUT.npz", *_EMBED), (), "OUT.npz"),
    "export": (("export", "onnx", "art", "-o", "OUT"), ("--overwrite",), "OUT/onnx"),
    "triton": (("export", "triton", "art", "-o", "OUT"), ("--overwrite",), "OUT/triton"),
}

_SLOW = """
import time
def letters(texts):
    time.sleep(0.05)
    return [[len(text), 1.0] for text in texts]
"""


def _start(command: tuple[str, ...], folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "dms_spec", *command],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def _run(command: tuple[str, ...], folder: Path) -> tuple[int, str, float]:
    start = time.monotonic()
    process = _start(command, folder)
    said, _ = process.communicate(timeout=300)
    return process.returncode, said, time.monotonic() - start


def _contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def kill(folder: Path, verb: str, draw: random.Random, seconds: float, number: int) -> list[str]:
    """Kills a verb once, and runs it again. Gives what went wrong."""
    command, again, written = VERBS[verb]
    name = f"{verb}-{number}"
    command = tuple(word.replace("OUT", name) for word in command)
    output = folder / written.replace("OUT", name)
    over = draw.random() < 0.5
    if over:
        _run(command, folder)
        command += again
    before = _contents(folder)
    process = _start(command, folder)
    time.sleep(draw.uniform(0.3, 1.05) * seconds)
    process.send_signal(draw.choice((signal.SIGKILL, signal.SIGKILL, signal.SIGTERM)))
    said, _ = process.communicate(timeout=60)
    wrong = ["a traceback"] if "Traceback" in said else []
    after = _contents(folder)
    wrong += [f"lost {path}" for path in before if path not in after]
    own = output.relative_to(folder).as_posix()
    wrong += [
        f"changed {path}"
        for path in before
        if not path.startswith(own) and before[path] != after[path]
    ]
    code, said, _ = _run(command, folder)
    if code and not over and "exists already" in said:  # it was finished before the kill
        code, said, _ = _run(command + again, folder)
    if code:
        wrong.append(f"the next run: exit {code}, {said[-300:]}")
    left = {path for path in _contents(folder) if path not in before and not path.startswith(own)}
    wrong += [f"left {path}" for path in left]
    wrong += [f"left {path}" for path in folder.rglob(".dms-spec-*")]
    return wrong


def _main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("count", type=int, nargs="?", default=60)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    draw = random.Random(args.seed)
    failed = 0
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        random_ = np.random.default_rng(0)
        labels = np.arange(200) % 2
        table = {n: random_.normal(size=(200, 3)) + labels[:, None] for n in ("a", "b")}
        np.savez(folder / "t.npz", **table, labels=labels, test=np.arange(150, 200))
        np.savez(folder / "in.npz", features=np.ones((2000, 3, 4)), logits=np.ones((2000, 3, 4)))
        (folder / "lake").mkdir()
        for k in range(9):
            rows = {name: pa.array(table[name].tolist()) for name in ("a", "b")}
            pq.write_table(pa.table(rows), folder / "lake" / f"{k}.parquet")
        (folder / "in.csv").write_text("text\n" + "some words\n" * 40, encoding="utf-8")
        (folder / "slow.py").write_text(_SLOW, encoding="utf-8")
        code, said, _ = _run(("fit", "t.npz", "-o", "art", *_FIT), folder)
        assert code == 0, said
        seconds = {
            verb: _run(tuple(w.replace("OUT", f"{verb}-0") for w in command), folder)[2]
            for verb, (command, _, _) in VERBS.items()
        }
        for number in range(1, args.count + 1):
            verb = list(VERBS)[number % len(VERBS)]
            wrong = kill(folder, verb, draw, seconds[verb], number)
            failed += bool(wrong)
            for text in wrong:
                print(f"{verb}, kill {number}: {text}")
    print(f"{args.count} kills, {failed} failed")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(_main())
