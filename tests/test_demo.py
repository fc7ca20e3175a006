"""The demonstration: its views, its honesty, and the files that it leaves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Outcome

from dms_spec.artifact import load_artifact
from dms_spec.cli import main
from dms_spec.embeddings.table import read_table
from dms_spec.files import read_arrays
from dms_spec.plugins import get_backend

pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")
pytest.importorskip("tqdm")

from dms_spec.demo import data, picture, report, study, trust, views

FILES = {"results.json", "weights.png", "digits.npz", "robust"}
REPEATS = 2


@pytest.fixture(scope="module")
def measured() -> study.Study:
    return study.run_study(get_backend("numpy"), seed=0, repeats=REPEATS)


@pytest.fixture
def quick(measured: study.Study, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the verb find the study already done."""
    monkeypatch.setattr(study, "run_study", lambda *_: measured)


@pytest.mark.parametrize(
    ("name", "width"), [("pixels", 64), ("projections", 16), ("spectrum", 40), ("gradients", 32)]
)
def test_a_view_is_a_function_of_each_image_alone(name: str, width: int) -> None:
    view = views.VIEWS[name]
    images = np.random.default_rng(0).uniform(0, 16, (5, 8, 8))
    before = images.copy()
    whole = view(images)
    assert whole.shape == (5, width)
    assert np.array_equal(images, before)
    assert np.array_equal(whole, view(images))
    for i in range(5):
        np.testing.assert_allclose(view(images[i : i + 1])[0], whole[i], rtol=1e-12, atol=1e-12)
    assert np.ptp(whole, axis=0).min() > 0  # no input is the same for every image


def test_views_see_what_they_say() -> None:
    image = np.zeros((1, 8, 8))
    image[0, 2] = 1.0  # one horizontal stroke
    assert views.projections(image)[0].tolist() == [0, 0, 8, 0, 0, 0, 0, 0] + [1] * 8
    shifted = np.roll(image, 3, axis=1)
    np.testing.assert_allclose(views.spectrum(shifted), views.spectrum(image), atol=1e-12)
    directions = views.gradients(image).reshape(4, 8).sum(axis=0)
    assert np.flatnonzero(directions).tolist() == [2, 6]  # down into the stroke, and out of it


def test_every_view_can_tell_digits_apart(measured: study.Study) -> None:
    for name in data.NAMES:
        assert report.percent(measured.accuracy["clean"][name]) > 60
    assert report.percent(measured.accuracy["clean"]["static"]) > 90


def test_half_of_the_views_are_degraded_and_the_rest_untouched() -> None:
    split = data.make_split(np.random.SeedSequence(3))
    assert np.all(split.drawn.sum(axis=1) == data.DRAWN)
    conditions = {c.name: c for c in data.CONDITIONS}
    clean = data.make_batch(split, conditions["clean"], split.drawn & False)
    for condition in conditions.values():
        drawn = split.degraded(condition)
        arrays = data.make_batch(split, condition, drawn)
        assert arrays["mc_logits"].shape[0] == data.PASSES
        for name in ("features", "logits", "mc_logits"):
            assert arrays[name].dtype == np.float32
            kept = arrays[name][..., ~drawn, :]
            np.testing.assert_allclose(kept, clean[name][..., ~drawn, :], rtol=1e-5, atol=1e-5)
            changed = arrays[name][..., drawn, :]
            assert np.all(np.isnan(changed)) if condition.kind == "absent" else True
        assert np.array_equal(
            arrays["present"], ~drawn if condition.kind == "absent" else ~drawn | True
        )


def test_what_is_typical_is_learned_without_the_test_part(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The same seed, the same parameters; and what they are calibrated on is no test scan."""
    split = data.make_split(np.random.SeedSequence(3))
    assert split.train + split.validation + len(split.labels) == 1797
    assert (split.validation, len(split.labels)) == (288, 360)
    scaled: list[np.ndarray] = []
    corrupted = trust.corrupted

    def watched(inputs: np.ndarray, random: np.random.Generator) -> np.ndarray:
        scaled.append(inputs)
        return corrupted(inputs, random)

    monkeypatch.setattr(trust, "corrupted", watched)
    again = data.make_split(np.random.SeedSequence(3))
    for name, array in split.parameters.items():
        np.testing.assert_array_equal(again.parameters[name], array)
    for view, validation in zip(split.views.values(), scaled, strict=True):
        assert validation.shape == (trust.DRAWS * split.validation, view.test.shape[1])
        assert not {row.tobytes() for row in validation} & {row.tobytes() for row in view.test}


def test_the_corruption_learned_from_is_not_that_of_a_condition() -> None:
    random = np.random.default_rng(0)
    inputs = np.tile(np.linspace(0.1, 1.0, 40), (2000, 1))
    before = inputs.copy()
    changed = trust.corrupted(inputs, random)
    np.testing.assert_array_equal(inputs, before)
    exchanged = (np.sort(changed, axis=1) == inputs).all(axis=1)
    assert 0.4 < exchanged.mean() < 0.6
    noise = (changed - inputs)[~exchanged]
    assert np.abs(noise).max() <= trust.NOISE[1]
    level = np.abs(noise).max(axis=1)
    assert np.unique(level).size == len(level)  # no level twice, so none of a condition's
    # The largest of 40 is 1.7 deviations off where noise is uniform, 2.5 where it is Gaussian.
    assert 1.6 < np.mean(level / noise.std(axis=1)) < 1.8


def test_a_view_that_reads_zeros_speaks_for_no_class() -> None:
    split = data.make_split(np.random.SeedSequence(3))
    for view in split.views.values():
        assert not view.scores(np.zeros_like(view.test[:1])).any()


def test_absent_views_get_no_weight_and_the_oracle_no_advantage(measured: study.Study) -> None:
    told = measured.accuracy["missing (told)"]
    assert measured.weight_on_degraded["missing (told)"] == [0.0] * REPEATS
    assert told["static"] == told[study.ORACLE]
    # A view that is missing has no answer: no view alone can be right more often than it is there.
    assert max(report.percent(told[name]) for name in data.NAMES) < 60


def test_weight_leaves_a_degrading_view(measured: study.Study) -> None:
    swept = measured.sweep_weights[:, :, data.NAMES.index(study.SWEPT)].mean(axis=1)
    assert np.all(np.diff(swept) < 0)
    np.testing.assert_allclose(measured.sweep_weights.sum(axis=-1), 1, atol=1e-5)
    assert swept[0] > 1 / len(data.NAMES) > 3 * swept[-1]


def test_robust_is_worth_its_name(measured: study.Study) -> None:
    """Near the mask oracle under all conditions, and nowhere clearly behind equal weights."""
    for condition, accuracy in measured.accuracy.items():
        robust, static, oracle = (
            report.percent(accuracy[name]) for name in ("robust", "static", study.ORACLE)
        )
        assert robust > oracle - 1, condition
        assert robust > static - 0.5, condition
        if condition.startswith("noise"):
            assert robust > static + 2, condition


def test_findings_follow_the_numbers(measured: study.Study) -> None:
    accuracy = {
        "static": [0.8, 0.9, 0.85],
        "robust": [0.9, 0.99, 0.95],
        "paper": [0.7, 0.79, 0.75],
    }
    assert report.gain(accuracy, "static") == (0, 0)
    assert report.gain(accuracy, "robust")[0] == pytest.approx(9.667, abs=1e-3)
    made_up = {"clean": accuracy, "dark": {**accuracy, "robust": [0.6, 0.95, 0.85]}}
    for methods in made_up.values():
        methods[study.ORACLE] = accuracy["static"]
    changed = dict(vars(measured)) | {"accuracy": made_up}
    paper, robust, *_ = report.findings(study.Study(**changed))
    assert "worse in clean -10.3, dark -10.3" in paper
    assert "better in clean +9.7; neither in dark" in robust


def test_the_verb_from_end_to_end(
    measured: study.Study,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Nothing is replaced but the number of splits; and the same seed gives the same numbers."""
    monkeypatch.setattr(study, "REPEATS", REPEATS)
    out = tmp_path / "new" / "folder"
    assert main(["demo", "-o", str(out)]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert {path.name for path in out.iterdir()} == FILES
    for name in FILES:
        assert str(out / name) in printed.out
    assert report.results_table(measured) in printed.out
    results = json.loads((out / "results.json").read_text())
    assert results == json.loads(json.dumps(report.as_data(measured, "numpy", 0)))
    assert results["settings"]["splits"] == REPEATS
    assert (out / "weights.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.usefixtures("quick")
def test_the_files_feed_the_other_verbs(
    measured: study.Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", "-o", str(tmp_path)]) == 0
    arrays = read_arrays(tmp_path / "digits.npz")
    shape = (study.EXAMPLES, len(data.NAMES), 10)
    inputs = (*shape[:2], 64)  # those of the widest view
    assert {name: (array.shape, array.dtype) for name, array in arrays.items()} == {
        "features": (inputs, np.dtype("float32")),
        "logits": (shape, np.dtype("float32")),
        "mc_logits": ((data.PASSES, *shape), np.dtype("float32")),
        "present": (shape[:2], np.dtype("bool")),
    }
    for i, sample in enumerate(measured.samples):
        absent = [
            name for name, there in zip(data.NAMES, arrays["present"][i], strict=True) if not there
        ]
        assert absent == (list(sample.degraded) if sample.condition == "missing (told)" else [])
    artifact = load_artifact(tmp_path / "robust")
    assert artifact.spec == study.SPECS["robust"]
    assert artifact.spec.modalities == data.NAMES
    owners = {name.rpartition(".")[0] for name in artifact.parameters}
    assert owners == {"signals.typicality", "policy", "fusion"}

    commands = [
        line.split()[1:]
        for line in capsys.readouterr().out.replace("\\\n", "").splitlines()
        if line.startswith("  dms ")
    ]
    assert [command[0] for command in commands] == ["schedule", "explain"]
    for command in commands:
        assert main(command) == 0
    weights = read_arrays(tmp_path / "weights.npz")["weights"]
    np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-5)
    assert np.all(weights[~arrays["present"]] == 0)


@pytest.mark.usefixtures("quick")
def test_json_is_all_that_is_on_stdout(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "-o", str(tmp_path), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    files = printed.pop("files")
    assert set(files) == FILES
    assert printed == json.loads(Path(files["results.json"]).read_text())


@pytest.mark.usefixtures("quick")
def test_a_failure_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / "results.json").write_text("from before")
    monkeypatch.setattr(picture, "draw", fail)
    assert main(["demo", "-o", str(tmp_path)]) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]
    assert (tmp_path / "results.json").read_text() == "from before"


@pytest.mark.parametrize("where", ["file", "file/folder"])
def test_an_output_that_cannot_be_written_is_refused_before_the_work(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(study, "run_study", lambda *_: pytest.fail("the work was done"))
    (tmp_path / "file").write_text("not a folder")
    assert main(["demo", "-o", str(tmp_path / where)]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(
        f"dms: {tmp_path / where} exists" if where == "file" else "dms: cannot write"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("arguments", [["--backend", "nunpy"], ["--seed", "-1"], ["--seed", "x"]])
def test_bad_usage_is_refused(arguments: list[str], tmp_path: Path) -> None:
    try:
        code = main(["demo", "-o", str(tmp_path / "out"), *arguments])
    except SystemExit as stop:  # argparse's own way
        code = stop.code
    assert code == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("missing", ["sklearn", "matplotlib", "tqdm"])
def test_without_the_extra_it_says_what_to_install(missing: str, tmp_path: Path) -> None:
    (tmp_path / f"{missing}.py").write_text("raise ImportError('not here')")
    done = subprocess.run(
        [sys.executable, "-m", "dms_spec", "demo", "-o", str(tmp_path / "out")],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 4
    assert "pip install '.[demo]'" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_the_verb_costs_nothing_until_it_is_run() -> None:
    code = (
        "import sys, dms_spec.cli.demo\n"
        "heavy = {'sklearn', 'matplotlib', 'tqdm'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("suffix", ["npz", "safetensors", "parquet"])
def test_the_table_is_one_to_learn_from(
    suffix: str, tmp_path: Path, dms: Callable[..., Outcome]
) -> None:
    """Gaps, groups and a split, the same each time; and no writer on both sides of the split."""
    if suffix == "parquet":
        pytest.importorskip("pyarrow")
    files = [tmp_path / f"{name}.{suffix}" for name in ("one", "two")]
    for file in files:
        assert f"dms fit {file}" in dms("demo", "--table", file).succeeded()
    one, two = (read_table(file, need_labels=True) for file in files)
    assert one.notes() == ()
    assert set(one.modalities) == set(views.VIEWS)
    for name in one.modalities:
        np.testing.assert_array_equal(one.embeddings[name], two.embeddings[name])
    assert 0.85 < one.present.mean() < 0.95 and one.present.any(axis=1).all()
    assert one.test is not None and one.groups is not None
    assert 200 < len(one.test) < 300
    assert not set(one.groups[one.test]) & set(one.groups[one.training_rows()])


def test_a_table_takes_no_other_place(tmp_path: Path, dms: Callable[..., Outcome]) -> None:
    (tmp_path / "mine.npz").write_bytes(b"mine")
    dms("demo", "--table", tmp_path / "mine.npz").refused()
    assert (tmp_path / "mine.npz").read_bytes() == b"mine"
    assert "parquet" in dms("demo", "--table", tmp_path / "train.csv").refused()
