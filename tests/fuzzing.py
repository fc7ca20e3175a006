"""Changes good files by their structure, and says what the program makes of them.

`tests/test_fuzz_files.py` tries a thousand in the test suite. When a reader has changed, try ten
thousand: ``make fuzz``, or ``python tests/fuzzing.py 10000 --seed 1``.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import random
import struct
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dms_spec.artifact import Artifact, load_artifact, save_artifact
from dms_spec.cli import main
from dms_spec.conformance import worked_example
from dms_spec.embeddings.origin import encoders_of
from dms_spec.encoding.journal import Batch, Journal
from dms_spec.encoding.openers import Absent
from dms_spec.errors import DMSError
from dms_spec.spec import SchedulerSpec

#: What one file may cost.
SECONDS, CHARACTERS = 10.0, 25_000

Random = random.Random


@dataclass(frozen=True)
class Good:
    """A good file, how it is changed, and what is done with it."""

    path: str
    change: Callable[[Random, bytes], bytes]
    use: Callable[[Path], object]


@dataclass(frozen=True)
class Failure:
    """A file for which the program did something else than take or refuse it."""

    kind: str
    number: int
    why: str


def fuzz(folder: Path, count: int, seed: int) -> tuple[Counter[str], list[Failure]]:
    """Tries some files.

    Returns:
        How many of each kind were tried, and the failures.
    """
    goods = corpus(folder)
    for good in goods:  # else refusing the others would prove nothing
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            result = good.use(folder / good.path)
        assert not isinstance(result, int) or result == 0, good.path
        _clear(folder)
    tried: Counter[str] = Counter()
    failures = []
    for number in range(count):
        draw = Random(f"{seed} {number}")
        good = draw.choice(goods)
        path = folder / good.path
        content = path.read_bytes()
        before = {p for p in folder.rglob("*") if not p.name.startswith("out.")}
        path.write_bytes(good.change(draw, content))
        tried[good.path] += 1
        start = time.monotonic()
        why = _tried(good.use, path)
        seconds = time.monotonic() - start
        path.write_bytes(content)
        if not why and seconds > SECONDS:
            why = f"it took {seconds:.0f} seconds"
        if {p for p in folder.rglob("*") if not p.name.startswith("out.")} != before:
            why = why or "a file is lost, or left behind"
        if why:
            failures.append(Failure(good.path, number, why))
        _clear(folder)
    return tried, failures


def _clear(folder: Path) -> None:
    for output in folder.glob("out.*"):
        output.unlink()


def _tried(use: Callable[[Path], object], path: Path) -> str:
    """What went wrong; empty if the file was taken or refused."""
    out, err = io.StringIO(), io.StringIO()
    try:
        with (
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            use(path)
    except DMSError as error:
        err.write(str(error))
    except BaseException:
        return traceback.format_exc()[-1500:]
    said = out.getvalue() + err.getvalue()
    if "Traceback" in said:
        return said[-1500:]
    if len(said) > CHARACTERS:
        return f"{len(said)} characters"
    odd = [c for c in said if not c.isprintable() and c != "\n"]
    return f"control characters {odd[:5]}" if odd else ""


def _verb(*words: str) -> Callable[[Path], object]:
    def use(path: Path) -> int:
        code = main(
            [word.replace("FILE", str(path)).replace("DIR", str(path.parent)) for word in words]
        )
        if code not in (0, 1, 2, 3, 4):
            raise AssertionError(f"exit {code}")
        return code

    return use


# ------------------------------------------------------------------------------------ the corpus


def corpus(folder: Path) -> list[Good]:
    """Writes good files into a folder, and says what is done with each."""
    from dms_spec.conformance.expected import read_expected
    from dms_spec.conformance.registry import checks
    from dms_spec.conformance.report import write_report
    from dms_spec.conformance.runner import plan, run
    from dms_spec.conformance.vectors import read_vectors
    from dms_spec.files import write_arrays
    from dms_spec.plugins import get_backend
    from dms_spec.robustness.result import Measured, read_result
    from dms_spec.robustness.store import Store

    arrays = worked_example.arrays()
    np.savez(folder / "in.npz", allow_pickle=False, **arrays)
    np.savez_compressed(folder / "zip.npz", **arrays)
    write_arrays(folder / "in.safetensors", arrays)
    (folder / "spec.json").write_text(worked_example.SPEC.to_json())
    goods = [
        Good("in.npz", _npz, _verb("schedule", "FILE", "-o", "DIR/out.npz")),
        Good("zip.npz", _npz, _verb("explain", "FILE")),
        Good("in.safetensors", _safetensors, _verb("schedule", "FILE", "-o", "DIR/out.npz")),
        Good(
            "spec.json",
            _json,
            _verb("schedule", "DIR/in.npz", "-o", "DIR/out.npz", "--spec", "FILE"),
        ),
    ]
    save_artifact(folder / "art", small_artifact())
    random_ = np.random.default_rng(0)
    table = {n: random_.normal(size=(6, 3)).astype("f4") for n in ("a", "b")}
    np.savez(folder / "t.npz", **table, labels=np.arange(6) % 2, groups=np.arange(6))
    predict = ("predict", "DIR/../art", "DIR/../t.npz", "-o", "DIR/../out.npz")
    (folder / "expected.toml").write_text(
        '[[expect]]\ncheck = "check_worked_example"\nreason = "it is so"\nlink = "x"\n'
    )
    names = [check.name for check in checks()]
    backend = get_backend("numpy")
    some = plan(backend, checks(["check_worked_example"]), dtypes=["float32"])
    write_report(
        folder / "report.json", run(backend, some, registered=len(plan(backend)), examples=2)
    )
    (folder / "vectors.json").write_bytes(
        next(
            iter(sorted(Path(read_vectors.__code__.co_filename).parent.glob("s_*.json")))
        ).read_bytes()
    )
    case = Measured(
        corruption="clean", severity=0.0, pattern="every", seed=0, hit=0.0,
        scores={"fusion": {"accuracy": 0.5, "nll": None}}, right={"fusion": "f0"},
        curves={"fusion": {"reliability": {"share": [1.0], "confidence": [0.5], "accuracy": [None]},
                           "risk_at_coverage": [0.5]}},
    )  # fmt: skip
    store = Store(folder / "cases.jsonl", "run")
    for seed in range(3):
        store.put(("clean", seed), case.to_dict())
    (folder / "robustness.json").write_text(json.dumps(_result(case)))
    goods += [
        Good("t.npz", _npz, _verb("predict", "DIR/art", "FILE", "-o", "DIR/out.npz")),
        Good("art/config.json", _json, _verb(*predict)),
        Good("art/config.json", _json, lambda path: load_artifact(path.parent)),
        Good("art/model.safetensors", _safetensors, _verb(*predict)),
        Good("expected.toml", _text, lambda path: read_expected(path, names)),
        Good("report.json", _json, _verb("report", "FILE", "-o", "DIR/out.md")),
        Good("vectors.json", _json, read_vectors),
        Good("robustness.json", _json, lambda path: _asked(read_result(path))),
        Good("cases.jsonl", _text, lambda path: Store(path, "run")),
    ]
    return goods + _of_frames(folder, table) + _of_torch(folder)


def _of_frames(folder: Path, table: dict[str, np.ndarray]) -> list[Good]:
    """The same table as columns: vectors with a gap in Arrow's formats, numbers in CSV."""
    try:
        import pyarrow as pa
        import pyarrow.csv
        import pyarrow.feather
        import pyarrow.parquet
    except ImportError:
        return []
    columns = {name: [*array.tolist()[:-1], None] for name, array in table.items()}
    frame = pa.table({**columns, "labels": [0, 1] * 3})
    pa.parquet.write_table(frame, folder / "t.parquet", row_group_size=4)
    pa.feather.write_feather(frame, folder / "t.feather")
    with pa.ipc.new_stream(folder / "t.arrow", frame.schema) as stream:
        stream.write_table(frame)
    flat = {f"{name}{k}": array[:, k] for name, array in table.items() for k in range(3)}
    pa.csv.write_csv(pa.table(flat), folder / "t.csv")
    lake, scored = folder / "lake", folder / "scored"
    lake.mkdir(exist_ok=True)
    pa.parquet.write_table(frame, lake / "0.parquet")
    command = ("predict", str(folder / "art"), str(lake), "-o", str(scored), "--workers", "1")
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        main([*command])
        main(["predict", str(folder / "art"), str(lake), "-o", str(folder / "p.parquet")])
    predict = ("predict", "DIR/art", "FILE", "-o")
    by_pattern = ("--modality", "a=a*", "--modality", "b=b*")
    return [
        Good("t.parquet", _bytes, _verb(*predict, "DIR/out.parquet")),
        Good("t.feather", _bytes, _verb(*predict, "DIR/out.npz")),
        Good("t.arrow", _bytes, _verb(*predict, "DIR/out.npz")),
        Good("scored/_manifest.json", _json, _verb(*command)),
        Good("p.parquet", _bytes, _verb("watch", "FILE", "--reference", "FILE", "--window", "2")),
        Good("t.csv", _text, _verb(*predict, "DIR/out.npz", *by_pattern)),
        *_of_words(folder),
    ]


def _of_words(folder: Path) -> list[Good]:
    """What is embedded, a run that was stopped, and what says where a table comes from."""
    words = ("--text", "text=tiny_encoders:letters", "--batch-size", "2")
    (folder / "words.csv").write_text("text,labels\na cat,0\na dog,1\n,0\nsings,1\n")
    embed = _verb("embed", "FILE", "-o", "DIR/out.npz", *words)
    embed(folder / "words.csv")
    (folder / "out.npz").rename(folder / "embedded.npz")
    with Journal(folder / "stopped", "run") as journal:
        for start in (0, 2):
            journal.add("text", start, Batch(vectors=np.ones((1, 3)), absent={1: Absent("no")}))
    return [
        Good("words.csv", _text, embed),
        Good("embedded.npz", _bytes, encoders_of),
        Good("stopped", _bytes, _went_on),
    ]


def _went_on(path: Path) -> None:
    with Journal(path, "run") as journal:
        for start in (0, 2):
            if ("text", start) in journal:
                journal.get("text", start)


def _of_torch(folder: Path) -> list[Good]:
    try:
        from dms_torch.fit.checkpoint import Checkpoint, State
    except ImportError:
        return []
    path = folder / "checkpoint.safetensors"
    arrays = {"now.w": np.ones((2, 3), np.float32), "done.x": np.ones(2)}
    state = State(
        stage="heads", epoch=3, best_epoch=2, best_score=0.5, finished={"a": {}}, arrays=arrays
    )
    Checkpoint(path, "run").save(state)
    return [Good(path.name, _safetensors, lambda path: Checkpoint(path, "run").load())]


def small_artifact() -> Artifact:
    """An artifact with heads for modalities a and b of width 3, fitted to nothing."""
    spec = SchedulerSpec.preset("static", ("a", "b")).replace(fusion="probability")
    parts = {
        "scale.zero": np.zeros(3),
        "scale.unit": np.ones(3),
        "classifier.weight": np.eye(3, 2),
        "classifier.bias": np.zeros(2),
        "temperature": np.ones(()),
    }
    heads = {f"heads.{m}.{k}": v for m in ("a", "b") for k, v in parts.items()}
    model = {"classes": [0, 1], "prior": [0.5, 0.5], "dropout": 0.1, "passes": 0}
    return Artifact(spec=spec, parameters=heads, model=model)


def _result(case: Any) -> dict[str, Any]:
    from dms_spec.robustness.result import Result

    words = {"meaning": "nothing", "unit": "", "kind": "any", "told": False}
    clean = {**words, "clean_at": 0.0, "severities": [0.0]}
    result = Result(
        modalities=("a", "b"),
        methods=("fusion",),
        samples=5,
        corruptions={"clean": clean},
        cases=(case,),
    )
    return result.to_dict() | {"title": "t", "summary": result.summary(), "findings": []}


def _asked(result: Any) -> None:
    """Asks a result what a report asks."""
    result.summary()
    result.sensor_failure()
    list(result.rows())


# ----------------------------------------------------------------------------------- the changes


def _bytes(draw: Random, content: bytes) -> bytes:
    """Turns bits, cuts, doubles or empties."""
    way = draw.randrange(5)
    at = draw.randrange(len(content) + 1)
    if way == 0:
        return content[:at]
    if way == 1:
        return content[:at] + content[at // 2 :]
    if way == 2:
        return b"" if draw.random() < 0.2 else content + bytes(draw.randrange(1, 2000))
    changed = bytearray(content)
    for _ in range(draw.randint(1, 4)):
        changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
    return bytes(changed)


_ODD = (
    None, True, False, 0, 1, -1, 2**31, 2**63, 10**40, 0.5, -0.0, 1e308, float("nan"), float("inf"),
    "", "a", "\x1b[31m", "\n", "\u202e", "\ud800", "x" * 50_000, "$a$", "<b>", "|", "../..", [], {},
    [[]], [None], {"": None}, ["a"] * 3000,
)  # fmt: skip


def _json(draw: Random, content: bytes) -> bytes:
    if draw.random() < 0.15:
        return _bytes(draw, content)
    data = json.loads(content)
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        data = _changed(draw, data)
    text = json.dumps(data)
    if draw.random() < 0.1:
        text = text.replace("{", '{"policy": 1, "format": 2, ', 1)  # a key twice
    if draw.random() < 0.03:
        text = text.replace(":", ":" + "[" * 5000, 1)
    return text.encode("utf-8", "surrogatepass")


def _changed(draw: Random, data: Any) -> Any:
    """Changes one node of a tree: another value, one more, one less, another name."""
    if isinstance(data, dict) and data and draw.random() < 0.85:
        key = draw.choice(list(data))
        way = draw.random()
        if way < 0.7:
            return data | {key: _changed(draw, data[key])}
        if way < 0.85:
            return {name: value for name, value in data.items() if name != key}
        return {
            (draw.choice(("x", "", "\x1b", key + " ")) if n == key else n): v
            for n, v in data.items()
        }
    if isinstance(data, list) and data and draw.random() < 0.85:
        at = draw.randrange(len(data))
        if draw.random() < 0.7:
            return [*data[:at], _changed(draw, data[at]), *data[at + 1 :]]
        return data[:at] if draw.random() < 0.5 else [*data, data[at]]
    return draw.choice(_ODD)


def _text(draw: Random, content: bytes) -> bytes:
    if draw.random() < 0.4:
        return _bytes(draw, content)
    lines = content.decode().split("\n")
    at = draw.randrange(len(lines))
    words = lines[at].split(" ")
    spot = draw.randrange(len(words))
    odd = draw.choice(_ODD)
    words[spot] = draw.choice((json.dumps(odd), str(odd), words[spot] * 2, ""))
    lines[at] = " ".join(words)
    return "\n".join(lines).encode("utf-8", "surrogatepass")


_DTYPES = (
    "<f8",
    "<f4",
    "<f2",
    "<i8",
    "|b1",
    "<U3",
    "|S2",
    "<c16",
    "<M8[s]",
    ">f8",
    "|V2",
    "|O",
    "x",
)
_SHAPES = (
    "()",
    "(0,)",
    "(3,)",
    "(3, 3)",
    "(3, 3, 2)",
    "(-1, 2)",
    "(4611686018427387904, 8)",
    "3",
    "",
)


def _npz(draw: Random, content: bytes) -> bytes:
    if draw.random() < 0.3:
        return _bytes(draw, content)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = [(name, archive.read(name)) for name in archive.namelist()]
    at = draw.randrange(len(members))
    name, data = members[at]
    way = draw.randrange(6)
    if way == 0:
        members[at] = (
            draw.choice((".npy", "x.npy", "\x1b.npy", "a" * 300 + ".npy", name[:-4])),
            data,
        )
    elif way == 1:
        members.append(members[draw.randrange(len(members))])
    elif way == 2:
        del members[at]
    elif way == 3:
        dtype, shape = draw.choice(_DTYPES), draw.choice(_SHAPES)
        header = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}\n"
        start = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode()
        members[at] = (name, start + data[128:])
    elif way == 4:
        members[at] = (name, _bytes(draw, data))
    else:
        array = np.load(io.BytesIO(data))
        odd = draw.choice((np.nan, np.inf, 0, 1e300))
        with np.errstate(all="ignore"):
            array = np.full(array.shape, odd).astype(draw.choice(("f8", "f4", "i8", "?")))
        buffer = io.BytesIO()
        np.save(buffer, array[:-1] if array.ndim and draw.random() < 0.3 else array)
        members[at] = (name, buffer.getvalue())
    buffer = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "w") as archive:
        warnings.simplefilter("ignore")
        for name, data in members:
            archive.writestr(name, data)
    return buffer.getvalue()


def _safetensors(draw: Random, content: bytes) -> bytes:
    if draw.random() < 0.3:
        return _bytes(draw, content)
    size = int.from_bytes(content[:8], "little")
    header, body = content[8 : 8 + size], content[8 + size :]
    changed = _json(draw, header)
    length = len(changed) if draw.random() < 0.9 else draw.choice((0, 1, 2**20, 2**40, 2**63))
    return struct.pack("<Q", length) + changed + body


def _run() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("count", type=int, nargs="?", default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory() as folder:
        start = time.monotonic()
        tried, failures = fuzz(Path(folder), args.count, args.seed)
    for failure in failures:
        print(f"--- {failure.kind}, number {failure.number}\n{failure.why}")
    print(f"{sum(tried.values())} files in {time.monotonic() - start:.0f} s: {dict(tried)}")
    print(f"{len(failures)} failed: {dict(Counter(f.kind for f in failures))}")
    return bool(failures)


if __name__ == "__main__":
    sys.exit(_run())
