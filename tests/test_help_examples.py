"""Each help ends with an example, and it runs as it stands, on the demo's table."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("PIL")
pytest.importorskip("matplotlib")
pytest.importorskip("onnx")
pytest.importorskip("pyarrow")
pytest.importorskip("sklearn")
pytest.importorskip("soundfile")
pytest.importorskip("transformers")

import tiny_encoders

from dms_spec import SchedulerSpec
from dms_spec.cli import VERBS, main, parser
from dms_spec.conformance import worked_example
from dms_torch.fit import training

Run = Callable[..., Any]
EXAMPLES = {verb: import_module(f"dms_spec.cli.{verb}").EXAMPLE for verb in VERBS}
#: In an order in which each finds the files that it needs.
CHEAP = (
    *("demo", "fit", "predict", "watch", "diff", "explain", "robustness", "export", "verify"),
    *("schedule", "embed", "report", "backends", "plugins", "bench"),
)
#: They take long, and other tests run them: here they are only read.
LONG = ("check", "doctor")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what no example makes: a batch, photos, an encoder, and a short report."""
    monkeypatch.chdir(tmp_path)
    np.savez("batch.npz", allow_pickle=False, **worked_example.arrays())
    tiny_encoders.write_files(Path("photos"))
    tiny_encoders.save_vit(Path("vit"))
    short = ("--check", "check_worked_example", "--dtype", "float32")
    assert main(["check", "numpy", *short, "--report", "numpy.json"]) == 0
    return tmp_path


def test_every_verb_has_an_example_here() -> None:
    assert sorted((*CHEAP, *LONG)) == sorted(VERBS)


@pytest.mark.parametrize("verb", [*CHEAP, *LONG])
def test_the_help_ends_with_an_example_that_can_be_read(dms: Run, verb: str) -> None:
    program, *words = shlex.split(EXAMPLES[verb])
    assert (program, words[0]) == ("dms", verb)
    assert parser([verb]).parse_args(words).verb == verb
    assert dms(verb, "--help").out.endswith(f"\nexample:\n  {EXAMPLES[verb]}\n")


def test_the_examples_run(dms: Run, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`fit` gets a spec and rows that are quick, since nothing depends on how well it learns."""
    fit = training.fit

    def quickly(table: Any, spec: SchedulerSpec, chosen: Any, **more: Any) -> Any:
        quick = replace(chosen, epochs=2, passes=0)
        static = SchedulerSpec.preset("static", spec.modalities)
        return fit(table, static, quick, **more)

    monkeypatch.setattr(training, "fit", quickly)
    for verb in CHEAP:
        dms(*shlex.split(EXAMPLES[verb])[1:]).succeeded()
        if verb == "demo":  # a quarter of it, but a window of dms watch has a thousand rows
            few = {name: array[::4] for name, array in np.load("train.npz").items()}
            Path("train.npz").rename("whole.npz")
            np.savez("train.npz", **few)
            np.savez("test.npz", **few)
        if verb == "fit":  # what two of the examples compare
            for name in ("healthy.parquet", "today.parquet"):
                dms("predict", "model", "whole.npz", "-o", name).succeeded()
            for name in ("model-monday", "model-tuesday"):
                shutil.copytree("model", name)
