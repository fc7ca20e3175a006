"""The command line where all is well: what it writes, what it prints, and where."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dms_spec import __dms_spec_version__, __version__
from dms_spec.artifact import Artifact, save_artifact
from dms_spec.cli import main
from dms_spec.colours import GREY
from dms_spec.conformance import worked_example
from dms_spec.embeddings.typicality import fit_place, stacked
from dms_spec.errors import DMSWarning
from dms_spec.files import read_arrays, write_arrays
from dms_spec.plugins import get_backend
from dms_spec.spec import PRESETS, SchedulerSpec
from dms_spec.types import ModalityBatch

Arrays = dict[str, np.ndarray]
Run = Callable[..., Any]

GOOD: Arrays = worked_example.arrays()
NAMES = ("image", "text", "audio")


def schedule(spec: SchedulerSpec, arrays: Arrays, **parameters: np.ndarray) -> Arrays:
    """What the library gives, without a command line."""
    with warnings.catch_warnings():  # the same words are notes of the result
        warnings.simplefilter("ignore", DMSWarning)
        scheduler = get_backend("numpy").scheduler(spec, parameters)
    return scheduler(ModalityBatch(**arrays)).arrays()


def assert_equal(got: Arrays, wanted: Arrays) -> None:
    assert got.keys() == wanted.keys()
    for name, array in wanted.items():
        assert got[name].dtype == array.dtype, name
        assert np.array_equal(got[name], array), name


def hostile() -> Arrays:
    """Four samples: all there, one holds NaN, one there alone, nothing there."""
    arrays = {
        name: np.repeat(GOOD[name][..., :1, :, :], 4, axis=-3)
        for name in ("features", "logits", "mc_logits")
    }
    arrays["present"] = np.array([[1, 1, 1], [1, 1, 1], [0, 1, 0], [0, 0, 0]], dtype=bool)
    arrays["features"][1, 2, 0] = np.nan
    return arrays


# -------------------------------------------------------------------------------------- schedule


@pytest.mark.clause("DMS-I-001", "DMS-I-004")
def test_schedule_writes_the_worked_example(dms: Run, example: Path, tmp_path: Path) -> None:
    """Every output under its name, a row for each row of the input, the numbers on paper."""
    output = tmp_path / "out.npz"
    outcome = dms("schedule", example, "-o", output, "--modalities", "image,text,audio")
    text = outcome.succeeded()
    assert outcome.err == ""
    got = read_arrays(output)
    signals = {"confidence", "uncertainty", "alignment"}
    assert got.keys() == {"weights", "fused", "scores", "active"} | signals
    assert {array.shape for name, array in got.items() if name != "fused"} == {(3, 3)}
    assert got["fused"].shape == (3, 2)
    weights = [
        [0.2281052807, 0.5280795964, 0.2438151229],
        [0.5633197335, 0.4366802665, 0],
        [1, 0, 0],
    ]
    fused = [[0.3011379157, 0.5443712386], [0.8253278934, 0.3493442132], [1, 0]]
    assert np.abs(got["weights"] - weights).max() < 1e-10  # as many digits as are written here
    assert np.abs(got["fused"] - fused).max() < 1e-10
    assert np.array_equal(got["active"], GOOD["present"])
    assert np.array_equal(np.isneginf(got["scores"]), ~GOOD["present"])
    for word in (*NAMES, "2 of 3", str(output), *got):
        assert word in text


@pytest.mark.clause("DMS-I-004")
@pytest.mark.parametrize("output", [".npz", ".safetensors"])
@pytest.mark.parametrize("source", [".npz", ".safetensors"])
def test_both_formats_hold_the_same(dms: Run, tmp_path: Path, source: str, output: str) -> None:
    path, result = tmp_path / f"in{source}", tmp_path / f"out{output}"
    write_arrays(path, GOOD)
    dms("schedule", path, "-o", result).succeeded()
    assert_equal(read_arrays(result), schedule(worked_example.SPEC, GOOD))


@pytest.mark.clause("DMS-I-004")
@pytest.mark.parametrize("preset", PRESETS)
def test_presets_are_what_the_library_gives(dms: Run, example: Path, preset: str) -> None:
    output = example.parent / "out.npz"
    dms("schedule", example, "-o", output, "--spec", preset).succeeded()
    assert_equal(read_arrays(output), schedule(SchedulerSpec.preset(preset, NAMES), GOOD))


def test_robust_without_an_artifact_says_what_it_lacks(dms: Run, example: Path) -> None:
    done = dms("schedule", example, "-o", example.parent / "out.npz", "--spec", "robust")
    done.succeeded()
    notes = [line for line in done.err.splitlines() if line.startswith("dms: note: ")]
    assert len(notes) == 3
    assert "signal 'typicality' has no parameters and is 0" in notes[0]
    assert "policy 'soundness' has no parameters and is the rule" in notes[1]
    assert "fusion 'evidence' has no parameters and takes all classes to be equally" in notes[2]
    found = read_arrays(example.parent / "out.npz")
    assert not found["typicality"].any()
    assert found["soundness"].shape == found["weights"].shape


def test_a_json_file_is_a_spec(dms: Run, example: Path, tmp_path: Path) -> None:
    spec = SchedulerSpec(
        modalities=NAMES,
        signals={"energy": {"temperature": 0.5}, "agreement": {}},
        coefficients={"agreement": 2.0},
        fusion="logit",
    )
    path, output = tmp_path / "spec.json", tmp_path / "out.npz"
    path.write_text(spec.to_json(), encoding="utf-8")
    assert "audio" in dms("schedule", example, "-o", output, "--spec", path).succeeded()
    assert_equal(read_arrays(output), schedule(spec, GOOD))


def test_an_artifact_is_a_spec_with_parameters(dms: Run, example: Path, tmp_path: Path) -> None:
    """The parameters count: other ones give other weights."""
    spec = SchedulerSpec(modalities=NAMES, policy="static")
    outputs = []
    for number, bias in enumerate(([0.0, 1.0, 2.0], [2.0, 0.0, 0.0])):
        folder, output = tmp_path / f"artifact{number}", tmp_path / f"out{number}.npz"
        save_artifact(folder, Artifact(spec=spec, parameters={"policy.bias": np.array(bias)}))
        dms("schedule", example, "-o", output, "--spec", folder).succeeded()
        outputs.append(read_arrays(output))
        wanted = schedule(spec, GOOD, **{"policy.bias": np.array(bias)})
        assert_equal(outputs[-1], wanted)
    assert not np.array_equal(outputs[0]["weights"], outputs[1]["weights"])


@pytest.mark.clause("DMS-C-005")
def test_json_is_all_there_is_on_stdout(dms: Run, tmp_path: Path) -> None:
    """Numbers for machines on stdout, also when there are notes; notes are within."""
    arrays = hostile() | {"mc_logits": hostile()["mc_logits"][:1], "comment": np.array(["why"])}
    path, output = tmp_path / "in.npz", tmp_path / "out.npz"
    np.savez(path, **arrays)
    outcome = dms("schedule", path, "-o", output, "--modalities", ",".join(NAMES), "--json")
    report = json.loads(outcome.succeeded())
    got = read_arrays(output)
    assert report["samples"] == 4
    assert report["samples_with_nothing_active"] == 1
    assert report["present_but_not_finite"] == 1
    assert report["backend"] == "numpy"
    assert report["policy"] == "linear"
    assert report["output"] == str(output)
    assert [row["name"] for row in report["modalities"]] == list(NAMES)
    assert [row["active"] for row in report["modalities"]] == [2, 3, 1]
    for m, row in enumerate(report["modalities"]):
        mean = got["weights"][got["active"][:, m], m].mean()
        assert row["mean_weight_where_active"] == pytest.approx(mean, abs=1e-15)
    assert any("uncertainty" in note for note in report["notes"])
    assert [line for line in outcome.err.splitlines() if "comment" not in line] == []


def test_what_the_user_should_know_is_printed(dms: Run, tmp_path: Path) -> None:
    """Spoilt entries, rows of zeros and modalities that never take part are pointed out."""
    arrays = hostile()
    arrays["present"][:, 0] = False
    path = tmp_path / "in.npz"
    np.savez(path, **arrays)
    text = dms("schedule", path, "-o", tmp_path / "out.npz").succeeded()
    assert "1 entries are present but hold NaN" in text
    assert "1 samples have nothing active" in text
    assert any(line.split() == ["modality_1", "0", "of", "4", "-"] for line in text.splitlines())


def test_without_presence_all_count_as_present(dms: Run, tmp_path: Path) -> None:
    arrays = {name: array for name, array in hostile().items() if name != "present"}
    path = tmp_path / "in.npz"
    np.savez(path, **arrays)
    report = json.loads(dms("schedule", path, "-o", tmp_path / "out.npz", "--json").succeeded())
    assert report["present_but_not_finite"] == 1
    assert [row["active"] for row in report["modalities"]] == [4, 4, 3]


@pytest.mark.clause("DMS-C-005", "DMS-Q-004", "DMS-Q-007")
@pytest.mark.parametrize("verb", ["schedule", "explain"])
@pytest.mark.parametrize("case", ["two modalities", "one pass", "no passes"])
def test_what_is_weaker_than_asked_for_is_said_once(
    dms: Run, tmp_path: Path, verb: str, case: str
) -> None:
    """A note on stderr for the reader, the same in the JSON for the machine."""
    arrays = dict(GOOD)
    word = "uncertainty"
    if case == "two modalities":
        word = "alignment"
        arrays = {k: v[:, :2] if k == "present" else v[..., :2, :] for k, v in GOOD.items()}
    elif case == "one pass":
        arrays["mc_logits"] = GOOD["mc_logits"][:1]
    else:
        del arrays["mc_logits"]
    path = tmp_path / "in.npz"
    np.savez(path, **arrays)
    args = (verb, path, *(("-o", tmp_path / "out.npz") if verb == "schedule" else ()))
    outcome = dms(*args)
    outcome.succeeded()
    (note,) = outcome.err.splitlines()
    assert note.startswith("dms: note: ")
    assert f"'{word}'" in note
    outcome = dms(*args, "--json")
    (same,) = json.loads(outcome.succeeded())["notes"]
    assert note.endswith(same)
    assert outcome.err == ""


def test_an_old_output_is_replaced(dms: Run, example: Path) -> None:
    output = example.parent / "out.npz"
    output.write_bytes(b"a thesis")
    assert "not replaced" in dms("schedule", example, "-o", output).refused()
    assert output.read_bytes() == b"a thesis"
    output.unlink()
    write_arrays(output, {"old": np.ones(1)}, "schedule")
    dms("schedule", example, "-o", output).succeeded()
    assert "weights" in read_arrays(output)
    assert set(example.parent.iterdir()) == {example, output}


def test_no_samples_give_no_samples(dms: Run, tmp_path: Path) -> None:
    path = tmp_path / "in.npz"
    np.savez(path, **{k: v[:, :0] if k == "mc_logits" else v[:0] for k, v in GOOD.items()})
    dms("schedule", path, "-o", tmp_path / "out.npz").succeeded()
    assert {len(array) for array in read_arrays(tmp_path / "out.npz").values()} == {0}
    assert "-1" not in dms("explain", path).refused(2)


# --------------------------------------------------------------------------------------- explain


@pytest.fixture
def four(tmp_path: Path) -> Path:
    """The four samples of `hostile`, as a file."""
    path = tmp_path / "four.npz"
    np.savez(path, **hostile())
    return path


def test_explain_adds_up(dms: Run, four: Path) -> None:
    """Terms sum to the score, contributions to what sets it apart; softmax gives weights."""
    args = ("explain", four, "--sample", 1, 0, "--modalities", ",".join(NAMES), "--json")
    report = json.loads(dms(*args).succeeded())
    wanted = schedule(worked_example.SPEC, hostile())
    assert [sample["sample"] for sample in report["samples"]] == [1, 0]
    for sample in report["samples"]:
        i = sample["sample"]
        active = [m for m in sample["modalities"] if m["state"] == "active"]
        assert len(active) == sample["active"] == wanted["active"][i].sum()
        scores = np.array([m["score"] for m in active])
        eps = np.finfo(np.float64).eps
        for entry, mean in zip(active, np.full(len(active), scores.mean()), strict=True):
            m = NAMES.index(entry["name"])
            assert entry["weight"] == wanted["weights"][i, m]
            assert entry["score"] == wanted["scores"][i, m]
            assert entry["signals"] == {s: wanted[s][i, m] for s in worked_example.SPEC.signals}
            # A handful of numbers below 1, added in another order.
            assert abs(sum(entry["terms"].values()) - entry["score"]) <= 4 * eps
            assert abs(sum(entry["contributions"].values()) - (entry["score"] - mean)) <= 8 * eps
        weights = np.exp(scores) / np.exp(scores).sum()
        assert np.abs(weights - [m["weight"] for m in active]).max() <= 8 * eps


def test_explain_says_why_a_modality_takes_no_part(dms: Run, four: Path) -> None:
    """Not finite, absent and alone are told apart, in words and in JSON."""
    args = ("explain", four, "--modalities", ",".join(NAMES), "--sample", 0, 1, 2, 3)
    samples = json.loads(dms(*args, "--json").succeeded())["samples"]
    states = [[m["state"] for m in sample["modalities"]] for sample in samples]
    assert states == [
        ["active"] * 3,
        ["active", "active", "not finite"],
        ["absent", "active", "absent"],
        ["absent"] * 3,
    ]
    assert [sample["equal_share"] for sample in samples] == [1 / 3, 1 / 2, 1, 0]
    for sample in samples:
        for entry in sample["modalities"]:
            assert (entry["weight"] > 0) == (entry["state"] == "active")
            assert ("score" in entry) == (entry["state"] == "active")

    text = dms(*args).succeeded()
    blocks = dict(zip(range(4), text.split("\n\n"), strict=True))
    assert all(block.startswith(f"sample {i}:") for i, block in blocks.items())
    reasons = {
        (i, line.split(":")[0].removeprefix("- ")): line
        for i, block in blocks.items()
        for line in block.splitlines()
        if line.startswith("- ")
    }
    assert reasons.keys() == {(i, name) for i in range(4) for name in NAMES}
    assert "NaN" in reasons[1, "audio"]
    assert "absent" in reasons[2, "image"]
    assert "only one" in reasons[2, "text"]
    assert all("absent" in reasons[3, name] for name in NAMES)
    assert "alignment +" in reasons[0, "text"]
    assert "alignment -" in reasons[0, "audio"]


def test_explain_names_the_strongest_reason_first(dms: Run, four: Path) -> None:
    line = next(
        line for line in dms("explain", four).succeeded().splitlines() if "- modality_2" in line
    )
    sizes = [float(number) for number in re.findall(r" [+-]([\d.]+)", line)]
    assert len(sizes) == 3
    assert sizes == sorted(sizes, reverse=True)


@pytest.fixture
def fitted(tmp_path: Path) -> Path:
    """An artifact with heads, as `dms fit` writes it: two classes, told apart by one input."""
    names, wide = ("image", "text"), {"image": 3, "text": 2}
    places, parameters = [], {}
    random = np.random.default_rng(0)
    for name in names:
        labels = np.repeat([0, 1], 50)
        inputs = random.normal(size=(100, wide[name])) / 10
        inputs[:, 0] += labels
        places.append(fit_place(inputs, labels))
        weight = np.zeros((wide[name], 2), np.float32)
        weight[0] = -4, 4
        own = {
            "scale.zero": np.zeros(wide[name], np.float32),
            "scale.unit": np.ones(wide[name], np.float32),
            "classifier.weight": weight,
            "classifier.bias": np.zeros(2, np.float32),
            "temperature": np.array(1.0, np.float32),
        }
        parameters |= {f"heads.{name}.{short}": array for short, array in own.items()}
    trust = {"band": np.array([[-3.0, 1.5]] * 2), "loss": np.array([[4.0, 0.5]] * 2)}
    learned = stacked(places, 3) | {k: v.astype(np.float32) for k, v in trust.items()}
    parameters |= {f"signals.typicality.{short}": array for short, array in learned.items()}
    spec = SchedulerSpec(
        modalities=names,
        signals={"confidence": {}, "typicality": {}},
        coefficients={"confidence": 1.0, "typicality": 1.0},
        fusion="probability",
    )
    model = {"classes": ["no", "yes"], "prior": [0.5, 0.5], "dropout": 0.0, "passes": 0}
    save_artifact(tmp_path / "fitted", Artifact(spec=spec, parameters=parameters, model=model))
    return tmp_path / "fitted"


def test_explain_takes_a_table_for_an_artifact_with_heads(
    dms: Run, fitted: Path, tmp_path: Path
) -> None:
    """It explains the weights of `dms predict`, and says what typicality found."""
    image, text = np.zeros((4, 3), np.float32), np.ones((4, 2), np.float32)
    text[:, 1] = 0
    image[1] = 5.0, -9.0, 7.0  # as sure as can be, and far out
    image[2] = np.nan
    present = np.array([[1, 1], [1, 1], [1, 1], [0, 1]], dtype=bool)
    table = tmp_path / "table.npz"
    np.savez(table, image=image, text=text, present=present)
    dms("predict", fitted, table, "-o", tmp_path / "out.npz").succeeded()
    predicted = read_arrays(tmp_path / "out.npz")
    args = ("explain", table, "--spec", fitted, "--sample", 1, 0, 3, 2)
    done = dms(*args, "--json")
    report = json.loads(done.succeeded())
    assert [sample["sample"] for sample in report["samples"]] == [1, 0, 3, 2]
    for sample in report["samples"]:
        i = sample["sample"]
        weights = [entry["weight"] for entry in sample["modalities"]]
        assert weights == predicted["weights"][i].tolist()
        for m, entry in enumerate(sample["modalities"]):
            assert (entry["state"] == "active") == predicted["active"][i, m]
            if "signals" in entry:
                assert entry["signals"]["typicality"] == predicted["typicality"][i, m]
    assert any("NaN" in note for note in report["notes"])

    done = dms(*args)
    far, near, *_ = done.succeeded().split("\n\n")
    reason = "(unlike what its head has learned from, which leaves less than 1 % of its trust)"
    assert far.count(reason) == 1
    assert reason in next(line for line in far.splitlines() if line.startswith("- image"))
    assert "unlike" not in near
    assert "0 to 3" in dms("explain", table, "--spec", fitted, "--sample", 4).refused(2)


def test_explain_takes_a_batch_for_an_artifact_with_heads(
    dms: Run, fitted: Path, tmp_path: Path
) -> None:
    batch = {"features": np.zeros((1, 2, 3), np.float32), "logits": np.eye(2)[None].astype("f")}
    write_arrays(tmp_path / "batch.npz", batch)
    assert "- text: " in dms("explain", tmp_path / "batch.npz", "--spec", fitted).succeeded()


def test_explain_names_what_a_table_lacks(dms: Run, fitted: Path, tmp_path: Path) -> None:
    write_arrays(tmp_path / "half.npz", {"image": np.zeros((1, 3), np.float32)})
    outcome = dms("explain", tmp_path / "half.npz", "--spec", fitted)
    assert outcome.code == 0 and "'text' is not in" in outcome.err
    assert "absent in all rows" in outcome.err


def test_explain_says_how_far_evidence_was_believed(dms: Run, four: Path) -> None:
    """What was said, trust before and soundness after; an absent modality says nothing."""
    names = ",".join(NAMES)
    args = ("explain", four, "--spec", "robust", "--modalities", names, "--sample", 0, 1, 2, 3)
    text = dms(*args).succeeded()
    assert "prior  fused" in text
    assert max(map(len, text.splitlines())) <= 80
    samples = json.loads(dms(*args, "--json").succeeded())["samples"]
    for sample in samples:
        for entry in sample["modalities"]:
            active = entry["state"] == "active"
            assert active == ("soundness" in entry) == ("says" in entry)
            if active:
                assert entry["trust"] == pytest.approx(0.9)
                assert entry["times_prior"] == pytest.approx(3 * entry["probability"], rel=1e-5)
        shares = [row["fused"] for row in sample["classes"]]
        assert shares == sorted(shares, reverse=True)
    words = [line for line in text.splitlines() if line.startswith("- audio")]
    assert "believed to" in words[0]
    assert "NaN or Inf" in words[1]
    assert "absent" in words[2] and "absent" in words[3]


def test_explain_where_nothing_tells_modalities_apart(dms: Run, four: Path) -> None:
    text = dms("explain", four, "--spec", "static").succeeded()
    assert text.count("equal share") == 3


@pytest.mark.clause("DMS-I-002")
@pytest.mark.parametrize("sample", [4, -1, 10**30])
def test_a_sample_that_is_not_there_is_refused(dms: Run, four: Path, sample: int) -> None:
    message = dms("explain", four, "--sample", 0, sample).refused(2)
    assert str(sample) in message
    assert "0 to 3" in message


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_explain_draws(dms: Run, four: Path, suffix: str) -> None:
    """A picture beside the text, for every kind of sample, and nothing else in the folder."""
    pytest.importorskip("matplotlib")
    path = four.parent / f"why.{suffix}"
    text = dms("explain", four, "--sample", 0, 1, 2, 3, "--plot", path).succeeded()
    assert str(path) in text
    assert set(four.parent.iterdir()) == {four, path}
    start = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[suffix]
    assert path.read_bytes().startswith(start)


def test_the_picture_shows_terms_and_weights(dms: Run, four: Path) -> None:
    """It grows with the samples, and has the colours of three terms and of the weights."""
    image = pytest.importorskip("matplotlib.image")
    pictures = []
    for samples in ((0,), (0, 1, 2, 3)):
        path = four.parent / "why.png"
        dms("explain", four, "--sample", *samples, "--plot", path).succeeded()
        red, green, blue = (
            (image.imread(path)[..., :3] * 255).round().astype(int).transpose(2, 0, 1)
        )
        pictures.append((red << 16) + (green << 8) + blue)
    assert pictures[1].shape[0] > 2 * pictures[0].shape[0]
    for picture in pictures:
        colours, counts = np.unique(picture, return_counts=True)
        common = set(colours[counts > 200].tolist())
        shades = {level * 0x010101 for level in range(256)}
        assert len(common - shades) >= 3
        assert int(GREY.removeprefix("#"), 16) in common


@pytest.mark.clause("DMS-I-001")
def test_a_picture_without_matplotlib_names_the_extra(
    dms: Run, four: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("matplotlib", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, name, None)
    message = dms("explain", four, "--plot", four.parent / "why.png").refused(4)
    assert "pip install '.[plot]'" in message
    assert list(four.parent.iterdir()) == [four]


# -------------------------------------------------------------------------- what there is, and how


def test_backends_lists_live_capabilities(dms: Run) -> None:
    rows = {row["name"]: row for row in json.loads(dms("backends", "--json").succeeded())}
    claims = get_backend("numpy").capabilities
    assert rows["numpy"]["status"] == "ok"
    assert rows["numpy"]["devices"] == list(claims.devices)
    assert rows["numpy"]["dtypes"] == list(claims.dtypes)
    assert rows["numpy"]["gradients"] is claims.gradients
    text = dms("backends").succeeded()
    for name in rows:
        assert any(line.startswith(name) for line in text.splitlines())


def test_plugins_lists_everything_that_is_registered(dms: Run) -> None:
    rows = json.loads(dms("plugins", "list", "--json").succeeded())
    names = {(row["kind"], row["name"]) for row in rows if row["status"] == "ok"}
    for wanted in (("backend", "numpy"), ("policy", "linear"), ("signal", "alignment")):
        assert wanted in names
    text = dms("plugins", "list").succeeded()
    for kind, name in names:
        assert any(line.split()[:2] == [kind, name] for line in text.splitlines())


@pytest.mark.clause("DMS-I-001")
def test_doctor_finds_all_well(dms: Run) -> None:
    """Every dtype that a backend claims is run and compared with the oracle."""
    report = json.loads(dms("doctor", "--json").succeeded())
    assert report["dms-spec"] == __version__
    assert report["edition"] == __dms_spec_version__
    assert report["packages"]["numpy"] == np.__version__
    assert report["plugins_with_problems"] == []
    ran = {run["dtype"] for run in report["runs"] if run["backend"] == "numpy"}
    assert ran == set(get_backend("numpy").capabilities.dtypes)
    assert {run["verdict"] for run in report["runs"]} == {"ok"}
    text = dms("doctor").succeeded()
    assert text.count("numpy") >= len(ran)
    assert __version__ in text


@pytest.mark.clause("DMS-I-001")
def test_doctor_finds_wrong_results(dms: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A backend whose variance is off by one percent: exit 3, and which it is."""
    from dms_numpy import primitives

    right = primitives.variance_over_passes
    monkeypatch.setattr(primitives, "variance_over_passes", lambda mc: right(mc) * 1.01)
    outcome = dms("doctor", "--json")
    assert outcome.code == 3
    verdicts = {(r["backend"], r["verdict"]) for r in json.loads(outcome.out)["runs"]}
    assert ("numpy", "wrong") in verdicts
    assert ("numpy", "ok") not in verdicts


@pytest.mark.clause("DMS-I-001")
def test_doctor_reports_what_fails_to_run(dms: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a backend throws: a verdict with its words and exit 4, not the end of the report."""
    from dms_numpy import primitives

    def broken(_: object) -> None:
        raise ZeroDivisionError("no passes today")

    monkeypatch.setattr(primitives, "variance_over_passes", broken)
    outcome = dms("doctor", "--json")
    assert outcome.code == 4
    runs = [r for r in json.loads(outcome.out)["runs"] if r["backend"] == "numpy"]
    assert {r["verdict"] for r in runs} == {"failed"}
    assert all("no passes today" in r["error"] for r in runs)


# ----------------------------------------------------------------------------------- the process


@pytest.mark.clause("DMS-I-001", "DMS-I-003")
def test_version_and_help(dms: Run, spawn: Run) -> None:
    version = spawn("-m", "dms_spec", "--version")
    assert version.succeeded() == f"dms-spec {__version__}, specification {__dms_spec_version__}\n"
    text = dms("--help").succeeded()
    for verb in ("schedule", "explain", "demo", "backends", "plugins", "doctor"):
        assert verb in text
        assert dms(verb, "--help").succeeded()


def test_the_installed_command_is_this_one() -> None:
    (entry,) = entry_points(group="console_scripts", name="dms")
    assert entry.load() is main


@pytest.mark.clause("DMS-I-001", "DMS-I-002")
@pytest.mark.parametrize(
    ("args", "word"),
    [
        ((), "VERB"),
        (("shedule",), "schedule"),
        (("schedule",), "IN"),
        (("schedule", "in.npz"), "--output"),
        (("schedule", "in.npz", "-o", "out.npz", "--sample", "1"), "--sample"),
        (("explain", "in.npz", "--sample", "one"), "'one'"),
        (("plugins",), "ACTION"),
    ],
    ids=" ".join,
)
def test_bad_usage_is_exit_2(dms: Run, args: tuple[str, ...], word: str) -> None:
    outcome = dms(*args)
    assert outcome.code == 2
    assert outcome.out == ""
    assert outcome.err.startswith("usage: dms")
    assert word in outcome.err.splitlines()[-1]


@pytest.mark.clause("DMS-I-005")
@pytest.mark.parametrize("verb", ["schedule", "explain", "doctor", "backends"])
def test_stderr_is_silent_when_nobody_watches(spawn: Run, example: Path, verb: str) -> None:
    """Not a terminal: no progress, no warnings, and the result on stdout."""
    args = {"schedule": (example, "-o", example.parent / "out.npz"), "explain": (example,)}
    outcome = spawn("-m", "dms_spec", verb, *args.get(verb, ()))
    assert outcome.succeeded()
    assert outcome.err == ""


@pytest.mark.parametrize(
    "size",
    [
        pytest.param(400, id="long"),
        pytest.param(1, id="short"),
    ],
)
def test_a_reader_that_goes_away_is_no_error(example: Path, size: int) -> None:
    """As in ``dms explain ... | head -1``: exit 0 and no traceback, however much was written."""
    reading, writing = os.pipe()
    os.close(reading)
    samples = map(str, [0] * size)
    done = subprocess.run(
        [sys.executable, "-m", "dms_spec", "explain", str(example), "--json", "--sample", *samples],
        stdout=writing,
        stderr=subprocess.PIPE,
        env={k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"},
        text=True,
        check=False,
    )
    os.close(writing)
    assert done.stderr == ""
    assert done.returncode == 0


def test_a_defect_shows_its_traceback_and_is_no_verdict(
    example: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """An error that nobody foresaw: exit 70, not 1, which says "not conformant"."""
    monkeypatch.setattr("dms_spec.cli.schedule.array_writer", lambda *_: 1 / 0)
    assert main(["schedule", str(example), "-o", str(tmp_path / "out.npz")]) == 70
    said = capsys.readouterr().err
    assert "Traceback" in said and "ZeroDivisionError" in said and "report it" in said


def test_bfloat16_in_and_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where a backend has it: read from safetensors, written to safetensors, refused by .npz."""
    pytest.importorskip("torch")
    ml_dtypes = pytest.importorskip("ml_dtypes")
    arrays = worked_example.arrays("bfloat16")
    write_arrays(tmp_path / "in.safetensors", arrays)
    run = ["schedule", str(tmp_path / "in.safetensors"), "--backend", "torch", "-o"]
    assert main([*run, str(tmp_path / "out.safetensors")]) == 0
    out = read_arrays(tmp_path / "out.safetensors")
    assert out["fused"].dtype == ml_dtypes.bfloat16 and out["weights"].dtype == np.float32
    assert main([*run, str(tmp_path / "out.npz")]) == 2
    assert ".safetensors" in capsys.readouterr().err
    assert not (tmp_path / "out.npz").exists()


def test_a_plugin_does_not_end_the_program(
    dms: Run, example: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ends(*_: object, **__: object) -> None:
        raise SystemExit(0)

    monkeypatch.setattr(type(get_backend("numpy")), "scheduler", ends)
    said = dms("schedule", example, "-o", tmp_path / "out.npz").refused(4)
    assert "a plugin tried to end the program: SystemExit(0)" in said
    assert not (tmp_path / "out.npz").exists()
