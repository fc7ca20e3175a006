"""Text and JSON from anywhere: read once, read strictly, and printed as one line."""

from __future__ import annotations

import importlib.util
import json
import os
import struct
import sys
import time
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dms_spec.artifact import Artifact, save_artifact
from dms_spec.conformance import worked_example
from dms_spec.conformance.expected import Expectation
from dms_spec.errors import FileError, SpecError, UnknownName, closest
from dms_spec.files import read_arrays
from dms_spec.markup import escape, markdown_table, shown, shown_lines, text_table
from dms_spec.robustness.store import Store, StoreLine
from dms_spec.spec import SchedulerSpec
from dms_spec.texts import DEEPEST, parse_json, read_bytes, read_json, read_text
from dms_spec.typed import read_typed, schema

ROOT = Path(__file__).resolve().parents[1]
Run = Callable[..., Any]


# ------------------------------------------------------------------------------------- the files


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX files")
def test_only_regular_files_are_read_and_nothing_waits(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    start = time.monotonic()
    for path in (tmp_path / "pipe", tmp_path, "/dev/zero", "/dev/null", tmp_path / "none", "a\0b"):
        with pytest.raises(FileError, match="cannot read"):
            read_bytes(path)
    assert time.monotonic() - start < 2


def test_a_file_has_a_size_and_an_encoding(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 100)
    assert read_text(tmp_path / "a", 100) == "x" * 100
    with pytest.raises(FileError, match="99 bytes at most"):
        read_text(tmp_path / "a", 99)
    (tmp_path / "b").write_bytes(b"\xff\xfe")
    with pytest.raises(FileError, match="UTF-8"):
        read_text(tmp_path / "b")


_BAD = {
    '{"a": 1, "a": 2}': "the key 'a' twice",
    '[{"b": {"a": 1, "a": 1}}]': "the key 'a' twice",
    "[NaN]": "NaN",
    "[-Infinity]": "-Infinity",
    "[1e999]": "infinite",
    "[123456789012345678901234567890]": "64 bits",
    "[18446744073709551616]": "64 bits",
    '["\\ud800"]': "surrogate",
    '{"\\udfff": 1}': "surrogate",
    "[" * (DEEPEST + 1) + "]" * (DEEPEST + 1): "nested deeper",
    "[" * 100_000: "nested deeper",
    '{"a":' * 100_000: "nested deeper",
    "": "JSON",
    "[1": "JSON",
}


@pytest.mark.parametrize("text", _BAD, ids=lambda text: text[:20])
def test_json_says_one_thing_only(text: str) -> None:
    with pytest.raises(FileError, match=_BAD[text]):
        parse_json(text, "it")


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text()
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(_JSON)
def test_all_other_json_is_read_as_json_reads_it(data: Any) -> None:
    for text in (
        json.dumps(data),
        json.dumps(data, ensure_ascii=False),
        json.dumps(data, indent=1),
    ):
        assert parse_json(text, "it") == json.loads(text) == data


def test_arrays_have_one_name_each(tmp_path: Path) -> None:
    with warnings.catch_warnings(), zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        warnings.simplefilter("ignore")
        np.savez(tmp_path / "one.npz", x=np.ones(2))
        with zipfile.ZipFile(tmp_path / "one.npz") as one:
            for _ in range(2):
                archive.writestr("x.npy", one.read("x.npy"))
    entry = '"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}'
    header = f"{{{entry}, {entry}}}".encode()
    (tmp_path / "a.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    for suffix in (".npz", ".safetensors"):
        with pytest.raises(FileError, match="'x' twice"):
            read_arrays(tmp_path / f"a{suffix}")


# ------------------------------------------------------------------------------------- the types


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (3, "the content of it: expected an object, got 3"),
        ({"check": "a"}, "it lacks reason"),
        ({"check": 1, "reason": "r"}, "check of it: expected a string, got 1"),
        ({"check": "a", "reason": None}, "reason of it: expected a string, got null"),
        (
            {"check": "a", "reason": "r", "lnik": ""},
            "unknown key in it 'lnik'. Did you mean 'link'?",
        ),
    ],
)
def test_a_wrong_value_is_named(data: Any, words: str) -> None:
    with pytest.raises((FileError, UnknownName)) as caught:
        read_typed(Expectation, data, "it")
    assert words in str(caught.value)


def _valid(form: dict[str, Any], data: Any) -> bool:
    """A validator for as much of JSON Schema as `dms_spec.typed.schema` writes."""
    if "enum" in form:
        return data in form["enum"]
    if "anyOf" in form:
        return any(_valid(one, data) for one in form["anyOf"])
    kinds = {
        "object": dict, "array": list | tuple, "string": str, "boolean": bool, "integer": int,
        "number": int | float, "null": type(None),
    }  # fmt: skip
    kind = form.get("type")
    if kind is None:
        return True
    if not isinstance(data, kinds[kind]) or (isinstance(data, bool) and kind != "boolean"):
        return False
    if kind == "array":
        return all(_valid(form["items"], one) for one in data)
    if kind == "object":
        own, more = form.get("properties", {}), form["additionalProperties"]
        known = all(name in data for name in form.get("required", ()))
        rest = [own.get(name, more) for name in data]
        return known and all(
            one is not False and _valid(one, value)
            for one, value in zip(rest, data.values(), strict=True)
        )
    return True


def test_the_schemas_that_ship_are_those_of_the_types() -> None:
    pytest.importorskip("torch")
    path = ROOT / "docs" / "spec" / "build_schemas.py"
    about = importlib.util.spec_from_file_location("build_schemas", path)
    assert about is not None and about.loader is not None
    module = importlib.util.module_from_spec(about)
    about.loader.exec_module(module)
    for name, text in module.build().items():
        assert (module.TARGET / name).read_text(encoding="utf-8") == text, "run make schemas"


def test_what_is_written_follows_its_schema(tmp_path: Path) -> None:
    from fuzzing import corpus

    corpus(tmp_path)
    shipped = {
        path.name.partition(".")[0]: json.loads(path.read_text(encoding="utf-8"))
        for path in (ROOT / "dms_spec" / "schemas").iterdir()
    }
    result = read_json(tmp_path / "robustness.json")
    lines = (tmp_path / "cases.jsonl").read_text(encoding="utf-8").splitlines()[1:]
    written = {
        "spec": [read_json(tmp_path / "spec.json")],
        "artifact": [read_json(tmp_path / "art" / "config.json")],
        "predictions": [read_json(tmp_path / "scored" / "_manifest.json")],
        "robustness": [result],
        "case": result["cases"],
        "store": [json.loads(line.partition(" ")[2]) for line in lines],
        "expected": [asdict(Expectation(check="a", reason="r"))],
    }
    for name, data in written.items():
        assert data and all(_valid(shipped[name], one) for one in data), name
        assert not _valid(shipped[name], {**data[0], "more": 1}), name


def test_a_changed_digit_of_a_store_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "cases.jsonl"
    store = Store(path, "run")
    store.put(("clean", 0), {"accuracy": 0.4})
    store.put(("clean", 1), {"accuracy": 0.4})
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"0.4", b"0.9", 1))
    with pytest.raises(FileError, match="not as it was written"):
        Store(path, "run")
    for strange in (b"years", b"years\n", b'{"format": 1}\n', b"\xff\n"):
        path.write_bytes(strange)
        with pytest.raises(FileError, match="cannot go on"):
            Store(path, "run")
        assert path.read_bytes() == strange
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        again = Store(path, "run")
        assert again.resumed == max(0, whole[:cut].count(b"\n") - 1)
    again.put(("clean", 1), {"accuracy": 0.4})
    assert path.read_bytes() == whole
    assert schema(StoreLine)["required"] == ["key", "value"]


# ----------------------------------------------------------------------------------- the printing


@settings(max_examples=60, deadline=None)
@given(st.text(), st.integers(1, 50))
def test_what_came_from_outside_is_one_short_line(text: str, most: int) -> None:
    line = shown(text, most)
    assert all(c.isprintable() or c in "\u200c\u200d" for c in line)
    assert len(line) <= 10 * most + 30
    assert shown(line, 10**6) == line
    if text.isprintable() and len(text) <= most:
        assert line == text


def test_no_format_is_broken_by_a_name() -> None:
    name = "a|b<i>\x1b[31m\u202e\nc"
    for text in (text_table((name,), [(name,)]), markdown_table((name,), [(name,)]), escape(name)):
        assert "\x1b" not in text and "\u202e" not in text
    (row,) = markdown_table(("x",), [(name,)]).splitlines()[2:]
    assert row == "| a\\|b&lt;i>\\x1b[31m\\u202e\\nc |"
    assert "<i>" not in escape(name)
    assert shown_lines("a\nb\x07") == "a\nb\\x07"


@pytest.mark.parametrize("verb", ["schedule", "explain"])
def test_a_million_names_give_one_line(dms: Run, tmp_path: Path, verb: str) -> None:
    names = ",".join(f"modality_{i}" for i in range(10**6))
    np.savez(tmp_path / "in.npz", allow_pickle=False, **worked_example.arrays())
    out = ("-o", tmp_path / "out.npz") if verb == "schedule" else ()
    message = dms(verb, tmp_path / "in.npz", *out, "--modalities", names).refused()
    assert len(message) < 3000
    start = time.monotonic()
    assert len(closest("x" * 50_000, names.split(","))) > 0
    assert len(str(SpecError("a", got=names))) < 1200
    assert time.monotonic() - start < 5


def test_names_of_any_kind_can_be_drawn_and_printed(
    dms: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    np.savez("in.npz", allow_pickle=False, **worked_example.arrays())
    names = ("$a_{b$", "x|y<i>&", "c\x1b[31m\u202e")
    spec = SchedulerSpec.preset("paper", names)
    save_artifact("art", Artifact(spec=spec))
    card = Path("art/README.md").read_text(encoding="utf-8")
    assert "x\\|y&lt;i>" in card and "\x1b" not in card
    for suffix in ("svg", "png"):
        outcome = dms("explain", "in.npz", "--spec", "art", "--plot", f"why.{suffix}")
        assert "\x1b" not in outcome.succeeded() and "\u202e" not in outcome.out
    picture = Path("why.svg").read_text(encoding="utf-8")
    assert "\x1b" not in picture
    for line in dms("schedule", "in.npz", "--spec", "art", "-o", "out.npz", "--json").succeeded():
        assert line.isprintable() or line == "\n"
    Path("\x1b[31mred").mkdir()
    message = dms("schedule", "in.npz", "-o", "\x1b[31mred/none/out.npz").refused()
    assert "\x1b" not in message and "\\x1b[31mred" in message
