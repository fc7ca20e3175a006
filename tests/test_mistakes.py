"""Typical mistakes of a beginner, and a word that shows that the answer is of use."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dms_spec.artifact import Artifact, save_artifact
from dms_spec.cli.log import Log
from dms_spec.conformance import worked_example
from dms_spec.errors import FileError

MISTAKES = {
    "predit model train.npz -o p.npz": "Did you mean 'predict'?",
    "fit train.npz -o m --polcy soundness": "Did you mean '--policy'?",
    "demo --tabel train.npz": "Did you mean '--table'?",
    "doctor --jsn": "Did you mean '--json'?",
    "plugins lst": "Did you mean 'list'?",
    "backends numpy": "one argument too many",
    "export onx model -o e": "Did you mean 'onnx'?",
    "export model onnx -o e": "swapped",
    "predict train.npz model -o p.npz": "swapped",
    "robustness train.npz model -o r": "swapped",
    "predict model train.npz": "dms predict model train.npz -o",
    "predict model train.npz -o p.csv": ".parquet",
    "schedule train.npz -o s.npz": "holds no batch",
    "explain train.npz": "holds no batch",
    "schedule model -o s.npz": "an artifact",
    "schedule nowhere.csv -o s.npz": "nothing there",
    "explain model": "--spec model",
    "explain model train.npz": "one argument too many",
    "export onnx train.npz -o e": "is no spec",
    "predict train.npz train.npz -o p.npz": "dms fit writes one",
    "predict modle train.npz -o p.npz": "Did you mean 'model'?",
    "fit s3://bucket/train.parquet -o m": "Copy the file here",
    "fit trian.npz -o m": "Did you mean 'train.npz'?",
    "fit words.csv -o m": "--modality e5='e5_*'",
    "fit words.parquet -o m": "damaged, cut short, or of another kind",
    "fit oneclass.npz -o m": "class 0 alone",
    "schedule batch.npz -o nowhere/s.npz": "Make the folder first",
    "verify model": "dms export onnx model -o model",
    "verify train.npz": "dms export onnx model -o model",
    "report train.npz -o r.md": "dms check BACKEND --report",
    "report model/config.json -o r.md": "is no report",
    "report no.json -o r.md": "nothing there",
    "fit photos -o m": "dms embed",
    "watch train.npz --reference train.npz": "what dms predict wrote as .parquet",
    "diff model modle": "Did you mean 'model'?",
    "embed train.npz -o t.npz --text json:dumps": "a folder of images",
    "embed photos -o t.npz --text json:dumps": "of the kind that the option names",
    "check": "dms backends",
    "schedule batch.npz -o s.npz --device gpu": "dms doctor",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("mistakes")
    np.savez(path / "batch.npz", **worked_example.arrays())
    there = {"present.a": np.ones(4, dtype=bool)}
    np.savez(path / "train.npz", a=np.eye(4), labels=np.arange(4) % 2, **there)
    np.savez(path / "oneclass.npz", a=np.eye(4), labels=np.zeros(4, dtype=int))
    (path / "photos").mkdir()
    (path / "photos" / "one.png").write_text("no image", encoding="utf-8")
    (path / "words.csv").write_text("id,e5_0,e5_1\nx,0.5,1.5\n", encoding="utf-8")
    (path / "words.parquet").write_text("words", encoding="utf-8")
    save_artifact(path / "model", Artifact(spec=worked_example.SPEC))
    return path


@pytest.mark.parametrize(("command", "word"), MISTAKES.items())
def test_the_answer_to_a_mistake_helps(
    dms: Callable[..., Any], folder: Path, command: str, word: str
) -> None:
    with chdir(folder):
        done = dms(*command.split())
    assert done.code == 4 if "--device" in command else done.code == 2
    assert word in done.err.splitlines()[-1]


def test_lines_are_as_wide_as_columns_says(
    dms: Callable[..., Any], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with chdir(folder):
        whole = dms("explain", "batch.npz").succeeded()
        monkeypatch.setenv("COLUMNS", "80")
        narrow = dms("explain", "batch.npz").succeeded()
    assert max(map(len, whole.splitlines())) > 80 >= max(map(len, narrow.splitlines()))


#: Commands that print much; code in what they print stays whole.
PRINTING = (
    "plugins list",
    "schedule batch.npz -o scheduled.npz --overlng",
    "check mutant:squeezed --dtype float32 --check check_offset_logits --examples 1",
    "check --list",
    "report train.npz -o r.md",
    "predict modle train.npz -o p.npz",
)


@pytest.mark.parametrize("command", PRINTING)
def test_eighty_columns_are_enough(
    dms: Callable[..., Any], folder: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with chdir(folder):
        done = dms(*command.split())
    lines = (done.out + done.err).splitlines()
    code = ("    run_check(", "    from ")
    assert lines and [line for line in lines if len(line) > 80 and not line.startswith(code)] == []


def test_a_log_is_added_to_and_nothing_else_is(tmp_path: Path) -> None:
    path, other = tmp_path / "log.jsonl", tmp_path / "other.jsonl"
    for epoch in (1, 2):
        Log(path, "fit").write(epoch=epoch)
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2]
    other.write_text("mine", encoding="utf-8")
    with pytest.raises(FileError, match="not replaced"):
        Log(other, "fit")
    assert other.read_text(encoding="utf-8") == "mine"
