"""Outputs: all files or none, nothing of anybody else lost, and nothing left behind."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fuzzing import small_artifact

from dms_spec.artifact import Artifact, load_artifact, save_artifact
from dms_spec.conformance import worked_example
from dms_spec.errors import ArtifactError, DMSWarning, FileError
from dms_spec.files import read_arrays, write_arrays
from dms_spec.outputs import Target, writing_file
from dms_spec.spec import SchedulerSpec
from dms_spec.staging import clear_leftovers

Run = Callable[..., Any]
NAMES = ("image", "text", "audio")
ARTIFACT = Artifact(spec=SchedulerSpec.preset("static", NAMES))
OTHER = Artifact(spec=SchedulerSpec.preset("paper", NAMES))
POSIX = pytest.mark.skipif(sys.platform == "win32", reason="POSIX processes and links")


def contents(folder: Path) -> dict[str, bytes | None]:
    """Every path below a folder, hidden ones too, with what is in it."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder with the worked example in it."""
    monkeypatch.chdir(tmp_path)
    np.savez("in.npz", allow_pickle=False, **worked_example.arrays())
    return tmp_path


# ------------------------------------------------------------------------------ other people's


def everybodys(folder: Path) -> None:
    """Fills a folder with other people's files, under every name that the program writes."""
    names = [
        "config.json", "model.safetensors", "README.md", "out.npz", "out.safetensors",
        "out.parquet",
        "robustness.html", "robustness.json", "robustness.csv", "robustness.md", "results.json",
        "weights.png", "digits.npz", "why.png", "why.svg", "report.json", "report.md", "badge.svg",
        "onnx/model.onnx", "onnx/verification.json", "robust/config.json", "here.cases.jsonl",
        "triton/mine/config.pbtxt", "parts/_manifest.json", "page.html",
        "free.npz.json", "new.npz.unfinished",
        "here.checkpoint.safetensors", "thesis.tex", ".dms-spec-mine/years.txt", "empty.npz",
    ]  # fmt: skip
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"" if name == "empty.npz" else f"years of {name}".encode())
    (folder / "config.json").write_text('{"model_type": "bert"}', encoding="utf-8")


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a table, an artifact for it, and a report of the suite."""
    from dms_spec.cli import main

    folder = tmp_path_factory.mktemp("fitted")
    random = np.random.default_rng(0)
    labels = np.arange(60) % 2
    arrays = {n: random.normal(size=(60, 3)) + labels[:, None] for n in ("a", "b")}
    np.savez(folder / "t.npz", allow_pickle=False, **arrays, labels=labels)
    (folder / "words.csv").write_text("text\na cat\na dog\n", encoding="utf-8")
    save_artifact(folder / "art", small_artifact())
    columns = {name: array.tolist() for name, array in arrays.items()}
    pq.write_table(pa.table(columns), folder / "t.parquet")
    scored = ["-o", str(folder / "scored.parquet")]
    assert main(["predict", str(folder / "art"), str(folder / "t.parquet"), *scored]) == 0
    check = ("check", "numpy", "--check", "check_worked_example", "--dtype", "float32")
    assert main([*check, "--report", str(folder / "r.json")]) == 0
    return folder


FLAGS = ("--spec", "static", "--epochs", "2", "--passes", "0")
_CHECK = ("check", "numpy", "--check", "check_worked_example", "--dtype", "float32")


def verbs(fitted: Path) -> Iterator[tuple[str, ...]]:
    """Every verb that writes, to every place where something of somebody's is."""
    table, art = str(fitted / "t.npz"), str(fitted / "art")
    for out in ("out.npz", "out.safetensors", "digits.npz", "empty.npz", "model.safetensors"):
        yield "schedule", "in.npz", "-o", out
        yield "predict", art, table, "-o", out
    yield "predict", art, table, "-o", "out.parquet"
    for out in ("out.npz", "out.safetensors", "out.parquet", "free.npz", "new.npz"):
        yield "embed", str(fitted / "words.csv"), "-o", out, "--text", "tiny_encoders:letters"
    for out in (".", "parts", "robust"):
        yield "predict", art, str(fitted / "t.parquet"), "-o", out
    scored = str(fitted / "scored.parquet")
    yield "watch", scored, "--reference", scored, "--window", "9", "-o", "page.html"
    for out in (".", "robust", "onnx"):
        yield "fit", table, "-o", out, *FLAGS, "--overwrite"
    yield "fit", table, "-o", "here", *FLAGS, "--overwrite"
    robust = ("--corruption", "absent", "--seeds", "1", "--overwrite")
    yield "robustness", art, table, "-o", ".", *robust
    yield "robustness", art, table, "-o", "here", *robust
    yield "export", "onnx", "static", "--modalities", "a,b", "-o", ".", "--overwrite"
    yield (
        *("export", "triton", "static", "--modalities", "a,b"),
        *("-o", ".", "--name", "mine", "--overwrite"),
    )
    for out in ("report.json", "report.md", "badge.svg", "README.md"):
        if out != "report.json":
            yield "report", str(fitted / "r.json"), "-o", out
        yield (*_CHECK, "--report", out)
    for out in ("why.png", "why.svg", "weights.png"):
        yield "explain", "in.npz", "--plot", out
    yield "demo", "-o", "."
    for out in ("out.npz", "out.safetensors", "out.parquet"):
        yield "demo", "--table", out


def test_no_verb_loses_a_file_of_somebody_else(dms: Run, work: Path, fitted: Path) -> None:
    for library in ("matplotlib", "onnx", "torch"):
        pytest.importorskip(library)
    everybodys(work)
    before, others = contents(work), contents(fitted)
    for command in verbs(fitted):
        message = dms(*command).refused()
        assert "not replaced" in message or "cannot go on" in message or "cannot read" in message
        assert contents(work) == before, command
    assert contents(fitted) == others


def test_an_artifact_takes_no_other_output(dms: Run, work: Path, fitted: Path) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("torch")
    before = contents(fitted)
    art, table = str(fitted / "art"), str(fitted / "t.npz")
    for out in ("model.safetensors", "more.npz", "deep/er.npz"):
        for verb in (("schedule", "in.npz"), ("predict", art, table)):
            dms(*verb, "-o", f"{art}/{out}").refused()
    dms("fit", table, "-o", f"{art}/again", *FLAGS).refused()
    assert "stand in an artifact" in dms("explain", "in.npz", "--plot", f"{art}/a.png").refused()
    assert contents(fitted) == before
    dms("export", "onnx", art, "-o", art).succeeded()  # the one thing that stands in one
    dms("export", "onnx", art, "-o", art, "--overwrite").succeeded()
    (fitted / "art" / "onnx" / "mine.txt").write_text("years", encoding="utf-8")
    dms("export", "onnx", art, "-o", art, "--overwrite").succeeded()
    assert (fitted / "art" / "onnx" / "mine.txt").read_text(encoding="utf-8") == "years"


@pytest.mark.filterwarnings("always")
def test_a_training_table_in_the_artifact_stays(dms: Run, work: Path, fitted: Path) -> None:
    pytest.importorskip("torch")
    dms("fit", fitted / "t.npz", "-o", "runs/1/model", *FLAGS).succeeded()  # parents are made
    own = work / "runs" / "1" / "model"
    (own / "train.npz").write_bytes((fitted / "t.npz").read_bytes())
    outcome = dms("fit", own / "train.npz", "-o", own, *FLAGS, "--overwrite", "--seed", 5)
    outcome.succeeded()
    assert "left alone: train.npz" in outcome.err
    assert (own / "train.npz").read_bytes() == (fitted / "t.npz").read_bytes()
    os.chdir(own)
    (own / "train.npz").unlink()
    dms("fit", fitted / "t.npz", "-o", ".", *FLAGS, "--overwrite").succeeded()
    load_artifact(own)


@POSIX
def test_links_are_followed(dms: Run, work: Path) -> None:
    Path("real").mkdir()
    Path("link").symlink_to("real")
    save_artifact("link", ARTIFACT)
    assert Path("link").is_symlink() and load_artifact("real").spec == ARTIFACT.spec
    Path("later.npz").symlink_to("real.npz")
    dms("schedule", "in.npz", "-o", "later.npz").succeeded()
    assert Path("later.npz").is_symlink() and "weights" in read_arrays(Path("real.npz"))
    Path("mine.npz").write_bytes(b"years")
    Path("trap.npz").symlink_to("mine.npz")
    dms("schedule", "in.npz", "-o", "trap.npz").refused()
    assert Path("mine.npz").read_bytes() == b"years"


def test_another_kind_of_our_own_is_not_replaced(work: Path) -> None:
    write_arrays(Path("a.npz"), {"x": np.ones(2)}, "schedule")
    with pytest.raises(FileError, match="not replaced"):
        write_arrays(Path("a.npz"), {"x": np.ones(2)}, "predictions")
    save_artifact("art", ARTIFACT)
    (work / "art" / "README.md").write_text("# My own card", encoding="utf-8")
    with pytest.raises(ArtifactError, match=r"README\.md"):
        save_artifact("art", OTHER, overwrite=True)


@POSIX
def test_permissions_are_the_users_and_the_umask_is_never_touched(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = os.umask(0o027)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(os, "umask", lambda _: pytest.fail("threads share the umask"))
            write_arrays(Path("a.safetensors"), {"x": np.ones(2)})
            save_artifact("art", ARTIFACT)
    finally:
        os.umask(old)
    assert stat.S_IMODE(Path("a.safetensors").stat().st_mode) == 0o640
    assert stat.S_IMODE(Path("art").stat().st_mode) == 0o750
    assert stat.S_IMODE(Path("art/model.safetensors").stat().st_mode) == 0o640


# ------------------------------------------------------------------------------------- kills


_STEPS = ("mkdir", "chmod", "replace", "rename", "hardlink_to", "write_text")


def _names(case: str) -> tuple[str, ...]:
    """Three files among others, in two folders within theirs where they are deep."""
    return ("a", "1/b", "1/2/c") if "deep" in case else ("a", "b", "c")


def _write(case: str) -> None:
    """Writes one output: a file, an artifact, or three files among others."""
    if "file" in case:
        write_arrays(Path("out.npz"), {"new": np.ones(3)}, "schedule")
    elif "artifact" in case:
        save_artifact("art", OTHER, overwrite=True)
    else:
        target = Target.of_folder("many", dict.fromkeys(_names(case), b"ours"), overwrite=True)
        with target.writing() as new:
            for path in new.values():
                path.write_text("ours, new", encoding="utf-8")


def _prepare(case: str) -> None:
    if "over" not in case:
        return
    if "file" in case:
        write_arrays(Path("out.npz"), {"old": np.ones(3)}, "schedule")
    elif "artifact" in case:
        save_artifact("art", ARTIFACT)
    else:
        for name in _names(case):
            Path("many", name).parent.mkdir(parents=True, exist_ok=True)
            Path("many", name).write_text("ours, old", encoding="utf-8")


def _killed_at(step: int, case: str) -> bool:
    """Writes in a child that is killed before its n-th step. False if it had fewer steps."""
    left = step

    def counted(real: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **kwargs)

        return call

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # fork beside threads
        child = os.fork()
    if child == 0:
        for name in _STEPS:
            setattr(Path, name, counted(getattr(Path, name)))
        for name in ("fsync", "unlink", "rmdir"):
            setattr(os, name, counted(getattr(os, name)))
        _write(case)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


@POSIX
@pytest.mark.parametrize(
    "case",
    [f"{what}{o}" for what in ("file", "artifact", "many", "many, deep") for o in ("", ", over")],
)
def test_a_kill_at_any_step_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    """Old or new, never half; and what the killed run left goes with the next one."""
    monkeypatch.setattr(os, "fsync", lambda _: None)  # the machine stays alive
    kills = 0
    while True:
        folder = tmp_path / str(kills)
        folder.mkdir()
        monkeypatch.chdir(folder)
        _prepare(case)
        old = contents(folder)
        if not _killed_at(kills, case):
            break
        kills += 1
        found = {k: v for k, v in contents(folder).items() if ".dms-spec-" not in k}
        if "artifact" in case and found.keys() - {"art"}:
            load_artifact("art")
        elif "many" in case:
            files = {name for name, content in found.items() if content is not None}
            assert files in (set(), {f"many/{name}" for name in _names(case)})
        elif "file" in case and found:
            assert set(read_arrays(Path("out.npz"))) <= {"old", "new"}
        assert found.keys() >= old.keys()
        _write(case)
        after = contents(folder)
        assert not [name for name in after if ".dms-spec-" in name], kills
        assert after.keys() >= found.keys()
    assert kills >= 5


@POSIX
@pytest.mark.parametrize("stranger", [False, True])
def test_a_move_that_was_cut_short_is_finished(
    work: Path, monkeypatch: pytest.MonkeyPatch, stranger: bool
) -> None:
    """Killed between three moves: the next run does the rest, and not over a new file."""
    mixed = 0
    for step in range(30):
        folder = work / str(step)
        folder.mkdir()
        monkeypatch.chdir(folder)
        _prepare("many, over")
        if not _killed_at(step, "many, over"):
            break
        many = Path("many")
        if len({(many / name).read_text(encoding="utf-8") for name in "abc"}) == 1:
            continue
        mixed += 1
        if stranger:
            (many / "c").unlink()
            (many / "c").write_text("years", encoding="utf-8")
        clear_leftovers(many)
        texts = [(many / name).read_text(encoding="utf-8") for name in "abc"]
        assert texts == ["ours, new", "ours, new", "years" if stranger else "ours, new"]
        assert sorted(path.name for path in many.iterdir()) == ["a", "b", "c"]
    assert mixed == 2


def test_a_run_that_lives_is_no_leftover(work: Path) -> None:
    with writing_file("slow.npz", b"ours") as path:
        path.write_bytes(b"ours")
        write_arrays(Path("quick.npz"), {"x": np.ones(1)})
        assert path.exists()
    assert Path("slow.npz").read_bytes() == b"ours"


@pytest.mark.parametrize("case", ["many, over", "many, deep, over", "many, deep"])
def test_several_files_are_all_or_none(
    work: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    """The second of three moves fails: the first is taken back, and folders made for them go."""
    _prepare(case)
    Path("many").mkdir(exist_ok=True)
    before = contents(work)
    real = Path.replace

    def fail(self: Path, to: Path) -> Path:
        if "new" in self.parts and self.name == "b":
            raise OSError(28, "No space left on device")
        return real(self, to)

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(FileError, match="No space left"):
        _write(case)
    assert contents(work) == before


# ----------------------------------------------------------------------------- ways to end badly


# A shell may have told its children to ignore SIGHUP, as nohup does.
_SLOW = """if True:
    import signal, sys, time
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    from dms_spec import files
    from dms_spec.cli import main, schedule
    def slow(*args):
        args[0].write_bytes(b"half")
        print("writing", flush=True)
        time.sleep(30)
    schedule.array_writer = slow
    sys.exit(main(["schedule", "in.npz", "-o", "out.npz"]))
"""


@POSIX
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_cleans_up(work: Path, number: int) -> None:
    before = contents(work)
    process = subprocess.Popen(
        [sys.executable, "-c", _SLOW], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    start = time.monotonic()
    process.send_signal(number)
    _, said = process.communicate(timeout=20)
    assert time.monotonic() - start < 10
    assert process.returncode == 128 + number and said == "dms: stopped\n"
    assert contents(work) == before


@POSIX
@pytest.mark.parametrize(
    ("redirect", "words"),
    [(">&-", "standard output is closed"), ("> /dev/full", "No space left"), (">&- 2>&-", "")],
)
def test_an_output_that_takes_nothing_is_an_exit_with_a_message(
    work: Path, redirect: str, words: str
) -> None:
    command = f"{sys.executable} -m dms_spec schedule in.npz -o out.npz {redirect}"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert words in done.stderr and "Traceback" not in done.stderr and done.stdout == ""


@POSIX
def test_a_full_disk_is_an_exit_with_a_message(work: Path) -> None:
    """A limit on the size of files stands for it, also in the library of safetensors."""
    np.savez("big.npz", features=np.ones((3000, 3, 8)), logits=np.ones((3000, 3, 4)))
    before = contents(work)
    code = """if True:
        import resource, signal, sys
        from dms_spec.cli import main
        resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))
        sys.exit(main(["schedule", "big.npz", "-o", sys.argv[1]]))
    """
    for name in ("out.npz", "out.safetensors"):
        done = subprocess.run(
            [sys.executable, "-c", code, name], capture_output=True, text=True, check=False
        )
        assert done.returncode == 2, done.stderr
        assert f"cannot write {name}" in done.stderr and "Traceback" not in done.stderr
        assert contents(work) == before


def test_a_lack_of_memory_is_an_exit_with_advice(
    dms: Run, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class OutOfMemoryError(RuntimeError):
        """As torch has one."""

    for error in (MemoryError("Unable to allocate 7.45 GiB"), OutOfMemoryError("CUDA")):

        def fail(*_: object, error: Exception = error) -> None:
            raise error

        monkeypatch.setattr("dms_spec.cli.schedule.array_writer", fail)
        message = dms("schedule", "in.npz", "-o", "out.npz").refused(2)
        assert "not enough memory" in message and "--batch-size" in message


def test_other_files_of_an_artifact_are_named(work: Path) -> None:
    save_artifact("art", ARTIFACT)
    Path("art/notes.txt").write_text("years", encoding="utf-8")
    with pytest.warns(DMSWarning, match="notes.txt"):
        save_artifact("art", OTHER, overwrite=True)
    assert (
        json.loads(Path("art/config.json").read_text(encoding="utf-8"))["spec"]["policy"]
        == "linear"
    )
