"""`dms robustness`, end to end on real scans of digits."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dms_spec.artifact import Artifact, load_artifact, save_artifact
from dms_spec.cli import main
from dms_spec.embeddings.predictor import Predictor, evaluate
from dms_spec.embeddings.table import read_table
from dms_spec.files import read_arrays
from dms_spec.plugins import get_backend
from dms_spec.robustness import protocol, read_result

pytest.importorskip("matplotlib")
Run = Callable[..., Any]

FILES = ["robustness.csv", "robustness.html", "robustness.json", "robustness.md"]


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a table of four views and an artifact that was fitted to it."""
    pytest.importorskip("torch")
    datasets = pytest.importorskip("sklearn.datasets")
    from dms_spec.demo.views import VIEWS

    folder = tmp_path_factory.mktemp("digits")
    scans = datasets.load_digits()
    views = {name: view(scans.images) for name, view in VIEWS.items()}
    order = np.random.Generator(np.random.Philox(0)).permutation(len(scans.target))
    split = {"train": order[:1200], "test": order[1200:1500]}
    np.savez(folder / "t.npz", **views, **split, labels=scans.target)
    flags = ("--epochs", "15", "--lr", "0.02", "--passes", "3")
    assert main(["fit", str(folder / "t.npz"), "-o", str(folder / "model"), *flags]) == 0
    return folder


@pytest.fixture
def folder(digits: Path, tmp_path: Path) -> Iterator[Path]:
    """The same, to be written into."""
    save_artifact(tmp_path / "model", load_artifact(digits / "model"))
    (tmp_path / "t.npz").symlink_to(digits / "t.npz")
    yield tmp_path


def test_from_a_fitted_artifact_to_a_report(dms: Run, folder: Path) -> None:
    output = folder / "deep" / "out"
    outcome = dms("robustness", folder / "model", folder / "t.npz", "-o", output)
    text = outcome.succeeded()
    (note,) = outcome.err.splitlines()  # the corners of a scan are always empty
    assert note.startswith("dms: note: 3 of 64 features of 'pixels' are constant in training")
    assert sorted(p.name for p in output.iterdir()) == FILES
    assert not list(output.parent.glob("*.jsonl"))
    for word in (
        "300 samples",
        "gaussian 0.5",
        "zeroed",
        "absent",
        "conflict",
        "static",
        "mask oracle",
    ):
        assert word in text
    result = read_result(output / "robustness.json")
    assert result.seeds == (0, 1, 2, 3, 4)
    # The rows measured are the test rows, and the fusion is what dms fit measured there.
    artifact = load_artifact(folder / "model")
    fitted = artifact.model["metrics"]["test"]
    for metric in ("accuracy", "balanced_accuracy", "nll", "ece"):
        wanted = fitted["fused"][metric]
        assert result.mean(metric, "fusion", "clean") == pytest.approx(wanted, abs=1e-6)
    # Static is the mean of probabilities, at whatever level the artifact fuses.
    table = read_table(folder / "t.npz", axis=artifact.spec.modalities)
    assert table.test is not None
    assert table.labels is not None
    alone = Predictor(artifact, get_backend("numpy")).unimodal(table.rows(table.test))
    right = np.array(artifact.model["classes"])[alone.mean(axis=1).argmax(axis=1)]
    share = float((right == table.labels[table.test]).mean())
    assert result.mean("accuracy", "static", "clean") == pytest.approx(share)
    for name, own in fitted["modalities"].items():
        assert result.mean("accuracy", f"{name} alone", "clean") == pytest.approx(own["accuracy"])
    strong, uniform, oracle = (
        result.mean("accuracy", name, "gaussian", 2.0)
        for name in ("fusion", "static", "mask oracle")
    )
    assert strong is not None
    assert uniform is not None
    assert oracle is not None
    assert uniform < oracle
    assert uniform < strong
    told = result.mean("weight_on_hit", "fusion", "absent")
    assert told == 0.0
    again = dms("robustness", folder / "model", folder / "t.npz", "-o", output)
    assert "exists already" in again.refused()


def test_json_card_and_overwriting(dms: Run, folder: Path) -> None:
    arguments = ("robustness", folder / "model", folder / "t.npz", "-o", folder / "out")
    arguments += ("--corruption", "shift:1,.5", "--corruption", "zeroed", "--seeds", 2)
    report = json.loads(dms(*arguments, "--json", "--card", "--seed", 7).succeeded())
    assert sorted(report["files"]) == FILES
    assert {(r["corruption"], r["severity"]) for r in report["summary"]} == {
        ("clean", 0.0), ("shift", 1.0), ("shift", 0.5), ("zeroed", 1.0),
    }  # fmt: skip
    assert read_result(folder / "out" / "robustness.json").seeds == (7, 8)
    card = (folder / "model" / "README.md").read_text(encoding="utf-8")
    assert "\n# A fusion scheduler" in card and "## Robustness" in card
    assert card.count("shift 0.5") >= 1
    dms(*arguments, "--card", "--overwrite").succeeded()
    second = (folder / "model" / "README.md").read_text(encoding="utf-8")
    assert second.count("## Robustness") == 1
    load_artifact(folder / "model")


def test_the_sensor_protocol(dms: Run, folder: Path) -> None:
    flags = ("--protocol", "sensor", "--seeds", 1)
    text = dms("robustness", folder / "model", folder / "t.npz", "-o", folder / "o", *flags)
    for word in ("emm_told, average", "rmm 0.75, expected 0.05", "nm 3", "counter-intuitive"):
        assert word in text.succeeded()
    sets = read_result(folder / "o" / "robustness.json").sensor_failure()["emm_told"]
    counts = sets["fusion"]["by_count"]
    assert len(counts) == 4 and counts[0] > counts[3]


def test_named_modalities_are_hit(dms: Run, folder: Path) -> None:
    flags = ("--corruption", "gaussian:2", "--modalities", "pixels,spectrum", "--seeds", 1)
    outcome = dms("robustness", folder / "model", folder / "t.npz", "-o", folder / "o", *flags)
    assert "gaussian 2 on pixels+spectrum" in outcome.succeeded()
    case = read_result(folder / "o" / "robustness.json").cases[1]
    assert case.hit == 0.5
    assert case.scores["projections alone"]["degradation"] == 0.0


def test_an_interrupted_run_goes_on_to_the_same_report(
    dms: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("robustness", folder / "model", folder / "t.npz", "--seeds", 1, "-o")
    dms(*arguments, folder / "whole").succeeded()
    right, calls = protocol.corrupt, 0

    def interrupted(*given: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        return right(*given)

    monkeypatch.setattr(protocol, "corrupt", interrupted)
    assert dms(*arguments, folder / "broken").code == 130
    assert not (folder / "broken").exists()
    assert (folder / "broken.cases.jsonl").exists()
    other = dms(*arguments, folder / "broken", "--corruption", "shift")
    assert "another run" in other.refused()
    outcome = dms(*arguments, folder / "broken")
    assert outcome.succeeded()
    assert "went on after 3 finished cases" in outcome.err
    for name in FILES:
        whole, broken = ((folder / d / name).read_bytes() for d in ("whole", "broken"))
        assert whole == broken, name
    assert not (folder / "broken.cases.jsonl").exists()


def test_a_modality_alone_is_also_what_fit_measures(dms: Run, folder: Path) -> None:
    """Where some rows lack it, two numbers, and it is said which is which."""
    arrays = read_arrays(folder / "t.npz")
    arrays["present.pixels"] = np.arange(len(arrays["labels"])) % 3 > 0
    np.savez(folder / "gaps.npz", **arrays)
    flags = ("--corruption", "absent", "--seeds", 1, "-o", folder / "o")
    text = dms("robustness", folder / "model", folder / "gaps.npz", *flags).succeeded()
    artifact = load_artifact(folder / "model")
    table = read_table(folder / "gaps.npz", axis=artifact.spec.modalities)
    assert table.test is not None
    fitted = evaluate(artifact, get_backend("numpy"), table.rows(table.test))
    own = fitted["modalities"]["pixels"]
    result = read_result(folder / "o" / "robustness.json")
    where = result.mean("accuracy_where_present", "pixels alone", "clean")
    assert where == pytest.approx(own["accuracy"])
    everywhere = result.mean("accuracy", "pixels alone", "clean")
    assert everywhere is not None
    assert everywhere < own["accuracy"]
    for part in (f"{100 * own['accuracy']:.1f} %", f"the {own['samples']} samples that have it"):
        assert part in text


def test_labels_of_another_kind_are_refused_and_gaps_are_left_out(dms: Run, folder: Path) -> None:
    arrays = read_arrays(folder / "t.npz")
    output = ("--corruption", "absent", "--seeds", 1, "-o", folder / "o", "--overwrite")
    np.savez(folder / "a.npz", **arrays | {"labels": arrays["labels"].astype(str)})
    message = dms("robustness", folder / "model", folder / "a.npz", *output).refused()
    assert "strings such as" in message
    assert "integers such as 0" in message
    floats = arrays["labels"].astype(float)
    floats[arrays["test"][:10]] = np.nan
    np.savez(folder / "b.npz", **arrays | {"labels": floats})
    outcome = dms("robustness", folder / "model", folder / "b.npz", *output)
    assert "290 samples" in outcome.succeeded()
    assert "no label in 10 of" in outcome.err


def test_what_is_weak_is_said(dms: Run, folder: Path) -> None:
    """Rows without a split, a label that is no class, a constant feature, a strict spec."""
    arrays = {k: v for k, v in read_arrays(folder / "t.npz").items() if k not in ("train", "test")}
    arrays = {k: v[:100] for k, v in arrays.items()}
    arrays["labels"][:3] = 77
    np.savez(folder / "use.npz", **arrays)
    fitted = load_artifact(folder / "model")
    spec = fitted.spec.replace(strict=True)
    save_artifact(folder / "strict", replace(fitted, spec=spec))
    flags = ("--corruption", "absent", "--seeds", 1, "-o", folder / "o")
    outcome = dms("robustness", folder / "strict", folder / "use.npz", *flags)
    assert outcome.succeeded()
    for words in ("no test rows", "no training rows", "3 rows have a label", "constant", "refuses"):
        assert words in outcome.err


@pytest.mark.parametrize(
    ("flags", "code", "word"),
    [
        (("--corruption", "gausian"), 2, "'gaussian'"),
        (("--corruption", "blur"), 2, "of features"),
        (("--corruption", "gaussian:x"), 2, "not numbers"),
        (("--corruption", "gaussian:-1"), 2, "got -1"),
        (("--corruption", "zeroed", "--protocol", "quick"), 2, "exclude"),
        (("--corruption", "zeroed", "--corruption", "zeroed"), 2, "twice"),
        (("--modalities", "pixel"), 2, "'pixels'"),
        (("--modalities", "pixels", "--protocol", "sensor"), 2, "no meaning"),
        (("--seeds", 0), 2, "--seeds 0"),
        (("--seed", -1), 2, "--seed -1"),
        (("--device", "cuda:99"), 4, "cuda:99"),
        (("--backend", "nunpy"), 2, "'numpy'"),
    ],
    ids=str,
)
def test_bad_usage_is_refused(dms: Run, folder: Path, flags: Any, code: int, word: str) -> None:
    arguments = ("robustness", folder / "model", folder / "t.npz", "-o", folder / "out")
    assert word in dms(*arguments, *flags).refused(code)
    assert not (folder / "out" / "robustness.json").exists()


def test_bad_input_is_refused(dms: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = {k: v for k, v in read_arrays(folder / "t.npz").items() if k != "labels"}
    np.savez(folder / "bare.npz", **arrays)
    output = ("-o", folder / "out")
    assert "labels" in dms("robustness", folder / "model", folder / "bare.npz", *output).refused()
    spec = load_artifact(folder / "model").spec
    save_artifact(folder / "alone", Artifact(spec=spec))
    assert "heads" in dms("robustness", folder / "alone", folder / "t.npz", *output).refused()
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    missing = dms("robustness", folder / "model", folder / "t.npz", *output).refused(4)
    assert "pip install '.[robustness]'" in missing


def test_help_is_light(spawn: Run) -> None:
    code = (
        "import sys; from dms_spec.cli import main\n"
        "try: main(['robustness', '--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'matplotlib', 'tqdm', 'torch', 'sklearn', 'scipy'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    assert "--protocol" in spawn("-c", code).succeeded()
