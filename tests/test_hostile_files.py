"""Hostile input: one message, the right exit code, no traceback, and nothing left behind."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import pickle
import struct
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from dms_spec.cli import main
from dms_spec.conformance import worked_example
from dms_spec.files import read_arrays, write_arrays
from dms_spec.spec import SchedulerSpec
from dms_spec.streams import Writer

Arrays = dict[str, np.ndarray]
Run = Callable[..., Any]

GOOD: Arrays = worked_example.arrays()


def npz(**changes: Any) -> bytes:
    """The worked example with some arrays changed (None: left out), as an .npz file."""
    arrays = {k: v for k, v in (GOOD | changes).items() if v is not None}
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def archive(**members: bytes) -> bytes:
    """A zip archive with these members, named .npy."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, content in members.items():
            file.writestr(f"{name}.npy", content)
    return buffer.getvalue()


def npy(shape: str, dtype: str = "<f8") -> bytes:
    """A .npy file that claims a shape, with hardly any data."""
    header = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}"
    header = header.ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + b"\0" * 64


def tensors(header: object, body: bytes = b"") -> bytes:
    """A .safetensors file with any header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def tensor(dtype: str, shape: list[int], size: int) -> bytes:
    """A .safetensors file of one array that claims a dtype and a shape."""
    entry = {"dtype": dtype, "shape": shape, "data_offsets": [0, size]}
    return tensors({"features": entry}, b"\0" * size)


def _single(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def _flipped(content: bytes, marker: bytes) -> bytes:
    """Content with one bit turned where a marker starts."""
    at = content.index(marker)
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


def _old() -> bytes:
    """What an earlier `dms schedule` has written: it may be replaced, and must not be lost."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "old.npz")
        write_arrays(path, {"weights": np.ones((1, 1))}, "schedule")
        return path.read_bytes()


OLD = _old()

_THREE = np.arange(18.0).reshape(3, 3, 2)
_PICKLED = pickle.dumps({"features": [1.0]})
_OBJECTS = np.array([[[1.0, None]]], dtype=object)

# name of the file -> its content, and words that its message has to have
HOSTILE: dict[str, tuple[bytes, list[str]]] = {
    "empty.npz": (b"", ["archive"]),
    "text.npz": (b"features,logits\n1,2\n" * 9, ["archive"]),
    "pickle.npz": (_PICKLED, ["archive"]),
    "single.npz": (_single(_THREE), [".npy"]),
    "headless.npz": (npz()[2000:], ["archive"]),
    "corrupt.npz": (_flipped(npz(), GOOD["features"].tobytes()), ["CRC"]),
    "no_members.npz": (archive(), ["features", "logits"]),
    "not_arrays.npz": (archive(features=b"hello"), ["features"]),
    "objects.npz": (npz(features=_OBJECTS), ["'features'", "Python objects"]),
    "rank2.npz": (npz(features=_THREE[0]), ["features", "[B, M, D]", "2 axes"]),
    "rank4.npz": (npz(features=_THREE[None]), ["features", "[B, M, D]", "4 axes"]),
    "scalar.npz": (npz(features=np.float64(1)), ["features", "0 axes"]),
    "samples.npz": (npz(logits=GOOD["logits"][:2]), ["logits", "features", "B = 2"]),
    "modalities.npz": (npz(present=GOOD["present"][:, :2]), ["present", "M = 2"]),
    "classes.npz": (npz(mc_logits=GOOD["mc_logits"][..., :2]), ["mc_logits", "C = 2"]),
    "no_width.npz": (npz(features=_THREE[..., :0]), ["features", "axis D"]),
    "no_features.npz": (npz(features=None), ["features", "fusion"]),
    "no_logits.npz": (npz(logits=None, mc_logits=None), ["logits", "confidence"]),
    "strings.npz": (npz(features=np.full((3, 3, 2), "0.5")), ["features", "<U3"]),
    "bytes.npz": (npz(features=np.full((3, 3, 2), b"0.5")), ["features", "S3"]),
    "dates.npz": (npz(features=np.zeros((3, 3, 2), "M8[s]")), ["features", "datetime64"]),
    "records.npz": (npz(features=np.zeros((3, 3, 2), "f8,f8")), ["features", "f0"]),
    "complex.npz": (npz(features=_THREE + 1j), ["features", "complex128"]),
    "integers.npz": (npz(features=_THREE.astype(int)), ["features", "int64"]),
    "float_presence.npz": (npz(present=GOOD["present"] * 0.5), ["present", "bool", "float64"]),
    "int_presence.npz": (npz(present=GOOD["present"].astype(int)), ["present", "bool", "int64"]),
    "str_presence.npz": (npz(present=GOOD["present"].astype(str)), ["present", "bool"]),
    "misspelt.npz": (npz(featurs=_THREE), ["'featurs'", "'features'"]),
    "plural.npz": (npz(presents=GOOD["present"], present=None), ["'presents'", "'present'"]),
    "negative.npz": (archive(features=npy("(-3, 3, 2)")), ["negative.npz"]),
    "overflow.npz": (archive(features=npy(f"({2**62}, 8, 2)")), ["overflow.npz"]),
    "no_shape.npz": (archive(features=npy("(3, 3")), ["no_shape.npz"]),
    "code.npz": (archive(features=npy("__import__('os').abort()")), ["code.npz"]),
    "no_dtype.npz": (archive(features=npy("(1, 1, 1)", "spam")), ["no_dtype.npz"]),
    "short.npz": (archive(features=npy("(3, 3, 20)")), ["short.npz"]),
    "empty.safetensors": (b"", ["empty.safetensors"]),
    "garbage.safetensors": (b"\x07garbage" * 40, ["garbage.safetensors"]),
    "pickle.safetensors": (_PICKLED, ["pickle.safetensors"]),
    "zip.safetensors": (npz(), ["zip.safetensors"]),
    "huge_header.safetensors": (struct.pack("<Q", 2**62) + b"{}", ["huge_header"]),
    "long_header.safetensors": (struct.pack("<Q", 500) + b"{}", ["long_header"]),
    "bad_json.safetensors": (tensors(b"{" * 64), ["bad_json"]),
    "list.safetensors": (tensors([1, 2]), ["list.safetensors"]),
    "no_arrays.safetensors": (tensors({}), ["features", "logits"]),
    "huge_claim.safetensors": (tensor("F32", [2**40, 3, 2], 24), ["huge_claim"]),
    "overflow.safetensors": (tensor("F32", [2**62, 8, 2], 0), ["overflow"]),
    "outside.safetensors": (
        tensors({"features": {"dtype": "F32", "shape": [1, 1, 2], "data_offsets": [0, 8]}}),
        ["outside"],
    ),
    "bfloat16.safetensors": (tensor("BF16", [1, 1, 1], 2), ["features"]),
    "float8.safetensors": (tensor("F8_E4M3", [1, 1, 1], 1), ["'features'", "F8_E4M3"]),
    "integers.safetensors": (
        safetensors.numpy.save(GOOD | {"features": _THREE.astype(int)}),
        ["features", "int64"],
    ),
    "rank2.safetensors": (
        safetensors.numpy.save(GOOD | {"logits": _THREE[0]}),
        ["logits", "[B, M, C]"],
    ),
    "features.csv": (b"1,2,3", [".csv", ".npz", ".safetensors"]),
    "features": (b"1,2,3", ["no suffix", ".npz"]),
    "UPPER.NPZ": (npz(), [".NPZ", ".npz"]),
}
if np.dtype(np.longdouble).itemsize > 8:
    HOSTILE["long.npz"] = (npz(features=_THREE.astype(np.longdouble)), ["features", "float"])


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def contents(folder: Path) -> dict[str, bytes | None]:
    """Every path below a folder, hidden ones too, with what is in it."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


# --------------------------------------------------------------------------------------- reading


@pytest.mark.clause(
    "DMS-I-001", "DMS-I-002", "DMS-I-006", "DMS-X-004", "DMS-S-004", "DMS-S-005", "DMS-S-006"
)
@pytest.mark.parametrize("verb", ["schedule", "explain"])
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused(dms: Run, work: Path, verb: str, name: str) -> None:
    """Exit 2, one message with the words that help, the old output untouched, nothing new."""
    content, words = HOSTILE[name]
    Path(name).write_bytes(content)
    Path("out.npz").write_bytes(OLD)
    before = contents(work)
    message = dms(verb, name, *(("-o", "out.npz") if verb == "schedule" else ())).refused(2)
    for word in words:
        assert word in message
    assert "allow_pickle=" not in message or "allow_pickle=False" in message
    assert contents(work) == before


@pytest.mark.clause("DMS-I-002", "DMS-E-001")
@pytest.mark.parametrize("backend", ["numpy", "strict"])
@pytest.mark.parametrize("name", ["strings.npz", "complex.npz", "dates.npz", "float_presence.npz"])
def test_no_backend_answers_a_hostile_dtype_in_its_own_way(
    dms: Run, work: Path, backend: str, name: str
) -> None:
    if backend == "strict":
        pytest.importorskip("dms_strict")
    Path(name).write_bytes(HOSTILE[name][0])
    message = dms("schedule", name, "-o", "out.npz", "--backend", backend).refused(2)
    assert HOSTILE[name][1][0] in message
    assert contents(work).keys() == {name}


@pytest.mark.clause("DMS-I-002")
@pytest.mark.parametrize("verb", ["schedule", "explain"])
@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
@pytest.mark.parametrize("what", ["nothing", "folder", "fifo", "dangling", "long", "below a file"])
def test_a_path_that_is_no_file_is_refused(
    dms: Run, work: Path, verb: str, suffix: str, what: str
) -> None:
    """Also where there is an output already to compare the input with."""
    path = Path(f"input{suffix}")
    if what == "folder":
        path.mkdir()
    elif what == "fifo":
        os.mkfifo(path)
    elif what == "dangling":
        path.symlink_to("nowhere")
    elif what == "long":
        path = Path("x" * 400 + suffix)
    elif what == "below a file":
        Path("file").touch()
        path = Path("file") / path
    Path("out.npz").write_bytes(OLD)
    before = contents(work)
    args = ("-o", "out.npz") if verb == "schedule" else ()
    assert str(path) in dms(verb, path, *args).refused(2)
    assert contents(work) == before


@pytest.mark.clause("DMS-I-002")
def test_every_cut_of_an_archive_is_refused(dms: Run, work: Path) -> None:
    content = npz()
    step = len(content) // 61
    for length in {*range(0, len(content), step), *(len(content) - k for k in (1, 2, 21, 22, 23))}:
        Path("cut.npz").write_bytes(content[:length])
        assert "cut.npz" in dms("schedule", "cut.npz", "-o", "out.npz").refused(2)
    assert contents(work).keys() == {"cut.npz"}


@pytest.mark.clause("DMS-I-002")
def test_every_cut_of_safetensors_is_refused(dms: Run, work: Path) -> None:
    content = safetensors.numpy.save(GOOD)
    for length in {*range(0, len(content), 17), len(content) - 1}:
        Path("cut.safetensors").write_bytes(content[:length])
        assert "cut" in dms("schedule", "cut.safetensors", "-o", "out.npz").refused(2)
    assert contents(work).keys() == {"cut.safetensors"}


@pytest.mark.clause("DMS-I-001", "DMS-I-002")
@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(
    suffix=st.sampled_from([".npz", ".safetensors"]),
    spots=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), max_size=4),
)
def test_damaged_bytes_are_refused_or_harmless(suffix: str, spots: list[tuple[float, int]]) -> None:
    """Whatever bytes are damaged: a result with exit 0 or one message with exit 2, nothing else."""
    content = bytearray(npz() if suffix == ".npz" else safetensors.numpy.save(GOOD))
    for place, change in spots:
        content[int(place * len(content))] ^= change
    with tempfile.TemporaryDirectory() as folder:
        path, output = Path(folder, f"in{suffix}"), Path(folder, "out.npz")
        path.write_bytes(content)
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(["schedule", str(path), "-o", str(output)])
        lines = [x for x in err.getvalue().splitlines() if not x.startswith("dms: note: ")]
        if code == 0:
            assert output.exists()
            assert not lines
        else:
            assert code == 2
            assert out.getvalue() == ""
            assert lines[0].startswith("dms: ")
            assert not any(line.startswith(("Traceback", "  File")) for line in lines)
            assert list(Path(folder).iterdir()) == [path]


@pytest.mark.clause("DMS-I-002")
@pytest.mark.parametrize("count", [2**40, 10**10, 2 * 10**8], ids=["8TiB", "80GB", "1.6GB"])
def test_a_huge_claim_costs_no_memory(spawn: Run, work: Path, count: int) -> None:
    """A header of a hundred bytes must not make the reader touch gigabytes."""
    status = Path("/proc/self/status")
    if not status.is_file():
        pytest.skip("the peak of memory is read from /proc")
    Path("claim.npz").write_bytes(archive(features=npy(f"({count}, 1, 1)")))
    code = """
        import re
        from dms_spec.cli import main
        code = main(["schedule", "claim.npz", "-o", "out.npz"])
        print(re.search(r"VmHWM:\\s*(\\d+) kB", open("/proc/self/status").read())[1])
        raise SystemExit(code)
        """
    outcome = spawn("-c", dedent(code), cwd=work)
    assert outcome.code == 2, outcome.err
    assert outcome.err.startswith("dms: ")
    assert "Traceback" not in outcome.err
    assert int(outcome.out) < 400_000
    assert contents(work).keys() == {"claim.npz"}


@pytest.mark.clause("DMS-I-006")
def test_an_array_that_nobody_reads_is_named(dms: Run, work: Path) -> None:
    """A name far from any input is a note on stderr, and the result is the same."""
    extra = np.array(["x", "y", "z"])
    Path("plain.npz").write_bytes(npz())
    Path("extra.npz").write_bytes(npz(zygotes=extra, quux=extra))
    dms("schedule", "plain.npz", "-o", "a.npz").succeeded()
    outcome = dms("schedule", "extra.npz", "-o", "b.npz")
    outcome.succeeded()
    notes = outcome.err.splitlines()
    assert len(notes) == 2
    assert all(note.startswith("dms: note: ") for note in notes)
    assert "'zygotes'" in notes[0]
    assert "'quux'" in notes[1]
    a, b = read_arrays(Path("a.npz")), read_arrays(Path("b.npz"))
    assert a.keys() == b.keys()
    assert all(np.array_equal(a[name], b[name]) for name in a)


def test_the_byte_order_of_a_file_does_not_matter(dms: Run, work: Path) -> None:
    """A file from a machine of the other byte order holds numbers like any other."""
    swapped = {name: array.astype(array.dtype.newbyteorder(">")) for name, array in GOOD.items()}
    Path("big.npz").write_bytes(npz(**swapped))
    Path("little.npz").write_bytes(npz())
    for name in ("big", "little"):
        dms("schedule", f"{name}.npz", "-o", f"{name}-out.npz").succeeded()
    big, little = read_arrays(Path("big-out.npz")), read_arrays(Path("little-out.npz"))
    assert all(np.array_equal(big[name], little[name]) for name in little)


# --------------------------------------------------------------------------------------- writing


@pytest.mark.clause("DMS-I-002", "DMS-X-006")
@pytest.mark.parametrize(
    ("output", "word"),
    [
        ("out.csv", ".csv"),
        ("out", "no suffix"),
        ("missing/out.npz", "missing"),
        ("in.npz/out.npz", "in.npz"),
        ("/proc/out.npz", "/proc"),
        ("folder.npz", "folder.npz"),
        ("x" * 300 + ".npz", "name too long"),
        ("in.npz", "input"),
        ("./sub/../in.npz", "input"),
        ("link.npz", "input"),
    ],
)
def test_an_output_that_cannot_be_is_refused(dms: Run, work: Path, output: str, word: str) -> None:
    """Unknown format, no folder, a file for a folder, a folder for a file, the input itself."""
    Path("in.npz").write_bytes(npz())
    Path("folder.npz").mkdir()
    Path("sub").mkdir()
    Path("link.npz").symlink_to("in.npz")
    before = contents(work)
    message = dms("schedule", "in.npz", "-o", output).refused(2)
    assert word in message
    assert contents(work) == before


def test_the_name_of_the_output_is_looked_at_before_the_work(dms: Run, work: Path) -> None:
    """Nobody waits for a result that cannot be written: the input was not even opened."""
    assert ".csv" in dms("schedule", "missing.npz", "-o", "out.csv").refused(2)
    assert ".jpg" in dms("explain", "missing.npz", "--plot", "why.jpg").refused(2)


@pytest.mark.clause("DMS-I-002", "DMS-X-006")
@pytest.mark.parametrize(
    ("picture", "word"),
    [("why.jpg", ".jpg"), ("why", "no suffix"), ("missing/why.png", "missing")],
)
def test_a_picture_that_cannot_be_is_refused(dms: Run, work: Path, picture: str, word: str) -> None:
    pytest.importorskip("matplotlib")
    Path("in.npz").write_bytes(npz())
    assert word in dms("explain", "in.npz", "--plot", picture).refused(2)
    assert contents(work).keys() == {"in.npz"}


@pytest.mark.clause("DMS-I-002", "DMS-X-006")
@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
@pytest.mark.parametrize("old", [True, False], ids=["over an old file", "new"])
@pytest.mark.parametrize(
    ("error", "code"),
    [(OSError(errno.ENOSPC, "No space left on device"), 2), (KeyboardInterrupt(), 130)],
    ids=["disk full", "interrupted"],
)
def test_a_failure_while_writing_leaves_what_was_there(
    dms: Run,
    work: Path,
    monkeypatch: pytest.MonkeyPatch,
    suffix: str,
    old: bool,
    error: BaseException,
    code: int,
) -> None:
    """The disk fills, or the user stops it, when half the output is written."""
    Path("in.npz").write_bytes(npz())
    output = Path(f"out{suffix}")
    if old:
        write_arrays(output, GOOD, "schedule")
    halves = []

    def half(writer: Writer) -> None:
        halves.append(writer._path.write_bytes(b"half"))
        raise error

    before = contents(work)
    monkeypatch.setattr(Writer, "_write", half)
    message = dms("schedule", "in.npz", "-o", output).refused(code)
    assert halves == [4]
    assert contents(work) == before
    if code == 2:
        assert "No space left" in message


@pytest.mark.clause("DMS-X-006")
def test_output_has_the_users_permissions(dms: Run, work: Path) -> None:
    """A temporary file is private; a finished one is like any other that the user writes."""
    Path("in.npz").write_bytes(npz())
    dms("schedule", "in.npz", "-o", "out.npz").succeeded()
    assert Path("out.npz").stat().st_mode == Path("in.npz").stat().st_mode


# ------------------------------------------------------------------------------------- spec files


def spec(**changes: Any) -> str:
    """A good spec as JSON, with some fields changed."""
    return json.dumps(worked_example.SPEC.to_dict() | changes)


_DEEP = "[" * 100_000
_NAMES = ["image", "text", "audio"]

# id -> (text of the file, words of the message)
SPECS: dict[str, tuple[str, list[str]]] = {
    "empty": ("", ["JSON"]),
    "not JSON": ("{modalities: [a]}", ["JSON"]),
    "cut": (spec()[:-3], ["JSON"]),
    "a list": ("[1, 2]", ["object"]),
    "a number": ("3", ["object"]),
    "null": ("null", ["object"]),
    "no names": ("{}", ["modalities"]),
    "unknown key": (spec(polcy="linear"), ["'polcy'", "'policy'"]),
    "names as text": (spec(modalities="image"), ["modalities", "list"]),
    "names as numbers": (spec(modalities=[1, 2, 3]), ["modalities"]),
    "no modality": (spec(modalities=[]), ["modalities"]),
    "names twice": (spec(modalities=["a", "a", "b"]), ["modalities", "once"]),
    "fewer names": (spec(modalities=["a", "b"]), ["M = 2", "M = 3"]),
    "policy as number": (spec(policy=1), ["policy", "string"]),
    "unknown policy": (spec(policy="linaer"), ["'linaer'", "'linear'"]),
    "policy without use": (spec(policy="static"), ["coefficients", "'static'"]),
    "unknown policy option": (spec(policy_options={"rate": 1}), ["'rate'"]),
    "signals as list": (spec(signals=["confidence"]), ["signals", "object"]),
    "options as list": (spec(signals={"confidence": []}), ["confidence", "object"]),
    "unknown signal": (spec(signals={"confidance": {}}, coefficients={}), ["'confidence'"]),
    "unknown option": (
        spec(signals={"confidence": {"normalise": True}}, coefficients={}),
        ["'normalise'", "'normalize'"],
    ),
    "option of another kind": (
        spec(signals={"confidence": {"normalize": "yes"}}, coefficients={}),
        ["'normalize'", "'yes'"],
    ),
    "unknown reduction": (
        spec(signals={"uncertainty": {"reduction": "max"}}, coefficients={}),
        ["'reduction'", "'mean'", "'sum'", "'max'"],
    ),
    "coefficient below 0": (spec(coefficients={"confidence": -1}), ["'confidence'", "-1"]),
    "coefficient NaN": (spec(coefficients={"confidence": float("nan")}), ["NaN"]),
    "coefficient Inf": (spec(coefficients={"confidence": 1e400}), ["Infinity"]),
    "coefficient as text": (spec(coefficients={"confidence": "1"}), ["'confidence'", "'1'"]),
    "coefficient as bool": (spec(coefficients={"confidence": True}), ["'confidence'", "True"]),
    "coefficient of no signal": (spec(coefficients={"agreement": 1}), ["'agreement'"]),
    "unknown fusion": (spec(fusion="features"), ["fusion", "'feature'"]),
    "fusion as list": (spec(fusion=["feature"]), ["fusion"]),
    "unknown nonfinite": (spec(nonfinite="ignore"), ["nonfinite", "'mask'"]),
    "strict as number": (spec(strict=1), ["strict", "true or false"]),
    "unknown edition": (spec(edition="1999.01"), ["edition", "'1999.01'"]),
    "needs parameters": (
        spec(signals={"anchored_alignment": {}}, coefficients={}),
        ["signals.anchored_alignment.anchor", "artifact"],
    ),
}


@pytest.mark.clause("DMS-I-002", "DMS-A-001", "DMS-A-003", "DMS-A-005", "DMS-A-006", "DMS-V-001")
@pytest.mark.parametrize("verb", ["schedule", "explain"])
@pytest.mark.parametrize("name", SPECS)
def test_a_hostile_spec_is_refused(dms: Run, work: Path, verb: str, name: str) -> None:
    text, words = SPECS[name]
    Path("in.npz").write_bytes(npz())
    Path("spec.json").write_text(text, encoding="utf-8")
    before = contents(work)
    args = ("-o", "out.npz") if verb == "schedule" else ()
    message = dms(verb, "in.npz", "--spec", "spec.json", *args).refused(2)
    for word in words:
        assert word in message
    assert contents(work) == before


@pytest.mark.clause("DMS-I-002")
@pytest.mark.parametrize(
    "text",
    [
        pytest.param(_DEEP, id="deep"),
        pytest.param(
            spec(coefficients={"confidence": 10**400}),
            id="a whole number beyond float",
        ),
    ],
)
def test_json_that_python_chokes_on_is_refused(dms: Run, work: Path, text: str) -> None:
    Path("in.npz").write_bytes(npz())
    Path("spec.json").write_text(text, encoding="utf-8")
    dms("schedule", "in.npz", "--spec", "spec.json", "-o", "out.npz").refused(2)


@pytest.mark.clause("DMS-I-002", "DMS-A-003")
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("papre", ["'papre'", "'paper'"]),
        ("missing.json", ["missing.json", "paper", "artifact"]),
        ("binary.json", ["binary.json"]),
        ("folder", ["folder", "config.json"]),
        (spec(modalities=["m" * 300, "b", "c"]), ["name too long"]),
    ],
    ids=["preset", "missing", "binary", "folder", "inline"],
)
def test_a_spec_that_is_none_is_refused(dms: Run, work: Path, name: str, words: list[str]) -> None:
    """Misspelt presets, missing or binary files, folders that hold no artifact, inline JSON."""
    Path("in.npz").write_bytes(npz())
    Path("binary.json").write_bytes(b"\xff\xfe\x00")
    Path("folder").mkdir()
    before = contents(work)
    message = dms("schedule", "in.npz", "--spec", name, "-o", "out.npz").refused(2)
    for word in words:
        assert word in message
    assert contents(work) == before


@pytest.mark.clause("DMS-I-002")
@pytest.mark.parametrize(
    ("args", "word"),
    [
        (("--modalities", "a,b"), "M = 2"),
        (("--modalities", "a,a,b"), "once"),
        (("--modalities", "a,,b"), "modalities"),
        (("--modalities", "a,b,c", "--spec", "spec.json"), "--modalities"),
        (("--backend", "nunpy"), "'numpy'"),
    ],
    ids=" ".join,
)
def test_arguments_that_contradict_are_refused(
    dms: Run, work: Path, args: tuple[str, ...], word: str
) -> None:
    Path("in.npz").write_bytes(npz())
    Path("spec.json").write_text(spec(), encoding="utf-8")
    assert word in dms("schedule", "in.npz", "-o", "out.npz", *args).refused(2)
    assert "out.npz" not in contents(work)


@pytest.mark.clause("DMS-I-001", "DMS-C-003")
@pytest.mark.parametrize("device", ["cuda", "cuda:0", "CPU", ""])
def test_a_device_that_is_not_there_is_refused(dms: Run, work: Path, device: str) -> None:
    """Exit 4, and never another device instead."""
    Path("in.npz").write_bytes(npz())
    message = dms("schedule", "in.npz", "-o", "out.npz", "--device", device).refused(4)
    assert repr(device) in message
    assert "cpu" in message
    assert contents(work).keys() == {"in.npz"}


@pytest.mark.clause("DMS-I-002", "DMS-P-006", "DMS-P-008")
@pytest.mark.parametrize(
    ("changes", "present", "words"),
    [
        ({"nonfinite": "raise"}, [[1, 1, 1], [1, 1, 0], [1, 0, 1]], ["sample 2", "'audio'"]),
        ({"strict": True}, [[1, 1, 1], [0, 0, 0], [1, 0, 0]], ["sample 1"]),
    ],
    ids=["nonfinite", "strict"],
)
def test_values_that_the_spec_forbids_are_refused(
    dms: Run, work: Path, changes: dict[str, Any], present: list[list[int]], words: list[str]
) -> None:
    """With the sample, and the modality where there is one, and no output."""
    features = GOOD["features"].copy()
    features[2, 2] = np.nan
    Path("in.npz").write_bytes(npz(features=features, present=np.array(present, dtype=bool)))
    Path("spec.json").write_text(spec(**changes), encoding="utf-8")
    before = contents(work)
    message = dms("schedule", "in.npz", "--spec", "spec.json", "-o", "out.npz").refused(2)
    for word in words:
        assert word in message
    assert contents(work) == before


# ------------------------------------------------------------------------------------ artifacts


def _artifact(folder: Path, spec: SchedulerSpec, **parameters: np.ndarray) -> Path:
    from dms_spec.artifact import Artifact, save_artifact

    named = {name.replace("__", "."): array for name, array in parameters.items()}
    save_artifact(folder, Artifact(spec=spec, parameters=named))
    return folder


@pytest.mark.clause("DMS-I-002", "DMS-X-005")
@pytest.mark.parametrize(
    ("policy", "signals", "parameters", "words"),
    [
        (
            "linear",
            {"anchored_alignment": {}},
            {"signals__anchored_alignment__anchor": np.ones(7)},
            ["anchor", "D = 7", "D = 2"],
        ),
        ("static", {}, {"policy__bais": np.ones(3)}, ["'policy.bais'", "'policy.bias'"]),
        pytest.param(
            "static", {}, {"policy__bias": np.ones(2)}, ["bias"],
        ),
        pytest.param(
            "static", {}, {"policy__bias": np.ones((3, 3))}, ["bias"],
        ),
        pytest.param(
            "co_attention", {}, {"policy__query": np.ones((5, 2)), "policy__key": np.ones((5, 2))},
            ["query"],
        ),
        pytest.param(
            "co_attention", {}, {"policy__query": np.ones((2, 4))}, ["query"],
        ),
    ],
    ids=["anchor", "unknown", "bias", "bias of rank 2", "query and key", "query alone"],
)  # fmt: skip
def test_parameters_that_do_not_fit_the_batch_are_refused(
    dms: Run,
    work: Path,
    policy: str,
    signals: dict[str, Any],
    parameters: Arrays,
    words: list[str],
) -> None:
    Path("in.npz").write_bytes(npz())
    modalities = tuple(_NAMES)
    made = SchedulerSpec(modalities=modalities, policy=policy, signals=signals)
    folder = _artifact(Path("artifact"), made, **parameters)
    message = dms("schedule", "in.npz", "--spec", folder, "-o", "out.npz").refused(2)
    for word in words:
        assert word in message
    assert not Path("out.npz").exists()
