"""`dms fit`: what it learns, that it learns the same twice, and what it refuses."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dms_spec.artifact import Artifact, load_artifact, save_artifact
from dms_spec.cli import main
from dms_spec.embeddings.predictor import Predictor, evaluate
from dms_spec.embeddings.table import Table, read_table
from dms_spec.equations.typicality import PLACE, TRUST
from dms_spec.errors import ArtifactError, DMSError, FileError, SpecError
from dms_spec.plugins import get_backend
from dms_spec.spec import SchedulerSpec

torch = pytest.importorskip("torch")

from dms_torch.fit.training import FitSettings, Progress, fit  # noqa: E402

Run = Callable[..., Any]

NAMES = ("image", "text", "audio")
BAND = "signals.typicality.band"
QUICK = FitSettings(epochs=8, learning_rate=0.03, batch_size=32, width=4, passes=3)
FLAGS = ("--epochs", 8, "--lr", 0.03, "--batch-size", 32, "--width", 4, "--passes", 3)


def make_arrays(rows: int = 180, seed: int = 0, names: tuple[str, ...] = NAMES) -> dict[str, Any]:
    """Three classes, each modality a noisy look at them; some absent, their rows full of NaN."""
    random = np.random.Generator(np.random.Philox(seed))
    labels = np.arange(rows) % 3
    arrays: dict[str, Any] = {}
    for m, name in enumerate(names):
        centres = np.random.Generator(np.random.Philox(100 + m)).normal(size=(3, 5 + m))
        noise = (0.6 + 0.4 * m) * random.normal(size=(rows, 5 + m))
        arrays[name] = (10 + centres[labels] + noise).astype(np.float32)
    present = random.random((rows, len(names))) > 0.2
    present[~present.any(axis=1), 0] = True
    for m, name in enumerate(names):
        arrays[name][~present[:, m]] = np.nan
    test = np.arange(0, rows, 6) if rows > 6 else np.arange(0)
    return arrays | {"labels": labels, "present": present, "test": test}


def make_table(**changes: Any) -> Table:
    arrays = make_arrays()
    names = [n for n in arrays if n not in ("labels", "present", "test")]
    given = {
        "embeddings": {name: arrays[name] for name in names},
        **{k: arrays[k] for k in ("present", "labels", "test")},
    }
    return Table(**(given | changes))


@pytest.fixture
def train(tmp_path: Path) -> Path:
    path = tmp_path / "train.npz"
    np.savez(path, **make_arrays())
    return path


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def ranked() -> SchedulerSpec:
    """Logits, weighed by four signals: heads that share no space, and a policy with epochs."""
    weighed = {"confidence": 0.5, "uncertainty": 0.5, "corroboration": 0.5, "typicality": 1.0}
    return SchedulerSpec(
        modalities=NAMES,
        policy="monotone",
        signals={name: {} for name in weighed} | {"confidence": {"normalize": True}},
        coefficients=weighed,
        fusion="logit",
    )


def spec_of(preset: str, policy: str, **changes: Any) -> SchedulerSpec:
    spec = ranked() if preset == "ranked" else SchedulerSpec.preset(preset, NAMES)
    spec = spec.replace(policy=policy, **changes)
    return (
        spec
        if policy not in ("co_attention", "modality_dropout")
        else spec.replace(coefficients={})
    )


# ----------------------------------------------------------------------------------- end to end


def test_fit_learns_and_says_what(dms: Run, train: Path, tmp_path: Path) -> None:
    """Three files, a card with tables, a summary; better than chance by far; nothing besides."""
    outcome = dms("fit", train, "-o", tmp_path / "a", *FLAGS)
    text = outcome.succeeded()
    assert {path.name for path in tmp_path.iterdir()} == {"train.npz", "a"}
    artifact = load_artifact(tmp_path / "a")
    assert artifact.spec.policy == "soundness"
    assert artifact.spec.modalities == NAMES
    model = artifact.model
    assert model["classes"] == [0, 1, 2]
    assert model["metrics"]["test"]["samples"] == 30
    for name in ("validation", "test"):
        assert model["metrics"][name]["fused"]["accuracy"] > 0.75
        assert model["metrics"][name]["modalities"].keys() == set(NAMES)
    assert model["calibration"].keys() == set(NAMES)
    for row in model["calibration"].values():
        assert row["nll_after"] <= row["nll_before"]
    assert model["data"]["modalities"]["audio"]["width"] == 7
    card = (tmp_path / "a" / "README.md").read_text(encoding="utf-8")
    for word in (*NAMES, "Calibration", "Accuracy", "Log-loss", "static", "dms predict"):
        assert word in card
    for word in (*NAMES, "soundness", "validation", "test", "fused", "balanced", "recall: 0 "):
        assert word in text
    # Six heads of each modality: the one that is kept has learned from every training row.
    assert model["data"]["training_rows"] == 150
    assert model["data"]["validation_rows"] == model["metrics"]["validation"]["samples"] == 30
    for line in (
        "learned from 150 rows",
        "validation: 30 rows, judged by heads that have not seen",
    ):
        assert line in text


def test_the_settings_of_the_verb_are_those_of_the_library(
    train: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Defaults stand twice, so that --help need not import torch."""
    from dms_torch.fit import training

    seen: list[Any] = []

    def spy(*args: Any, **_: Any) -> None:
        seen.extend(args)
        raise SpecError("enough")

    monkeypatch.setattr(training, "fit", spy)
    assert main(["fit", str(train), "-o", str(tmp_path / "a")]) == 2
    assert seen[2] == FitSettings()


@pytest.mark.clause("DMS-X-007")
def test_a_fitted_artifact_is_a_scheduler_too() -> None:
    """Its scheduler's part runs without the heads, in every backend."""
    artifact = fit(make_table(), spec_of("ranked", "learned_linear"), QUICK).artifact
    own = artifact.scheduler_parameters
    typical = {f"signals.typicality.{name}" for name in (*PLACE, *TRUST)}
    assert set(own) == {"policy.theta", "policy.bias"} | typical
    for name in ("numpy", "torch"):
        assert get_backend(name).scheduler(artifact.spec, own).spec == artifact.spec


@pytest.mark.parametrize(
    ("preset", "policy"),
    [
        ("ranked", "linear"),
        ("ranked", "monotone"),
        ("robust", "soundness"),
        ("paper", "residual_mlp"),
        ("paper", "learned_linear"),
        ("paper", "co_attention"),
        ("paper", "modality_dropout"),
        ("static", "static"),
    ],
)
def test_every_policy_learns_what_it_can(preset: str, policy: str) -> None:
    settings = QUICK
    result = fit(make_table(), spec_of(preset, policy), settings)
    model, names = result.artifact.model, set(result.artifact.parameters)
    shared, evidence = preset in ("paper", "static"), preset == "robust"
    descends = policy in ("monotone", "residual_mlp", "learned_linear", "co_attention")
    assert any(name.startswith("policy.") for name in names) == (descends or evidence)
    assert ("head.weight" in names) == shared
    assert any("projection" in name for name in names) == shared
    assert any(name.startswith("signals.typicality.") for name in names) != shared
    assert any(name.startswith("fusion.") for name in names) == evidence
    stages = ["heads"] if shared else [f"heads of {name}" for name in NAMES]
    stages += ["regression on all inputs"]
    stages += ["trust"] if evidence else ["policy"] if descends or shared else []
    assert list(model["stages"]) == stages
    assert model["metrics"]["test"]["fused"]["accuracy"] > 0.75
    # Eight epochs are few, and where that tells it is said; nothing else is.
    few = [name for name, stage in model["stages"].items() if stage.get("limit")]
    assert [note.split(" was still")[0] for note in result.notes] == [f"the {f}" for f in few]


@pytest.mark.clause("DMS-L-009")
def test_learning_the_policy_is_never_worse_than_the_rule() -> None:
    """On validation rows, clean where nothing is corrupted: the start counts as a candidate.

    Under corruption: `test_the_start_of_the_policy_is_a_candidate` in test_fit_parts.
    """
    table, compared = make_table(), {"confidence": {}, "alignment": {}}
    changes = {"signals": compared, "coefficients": dict.fromkeys(compared, 1.0)}
    scores = [
        fit(table, spec_of("ranked", policy, **changes), QUICK).artifact.model["metrics"][
            "validation"
        ]
        for policy in ("linear", "learned_linear")
    ]
    assert scores[1]["fused"]["nll"] <= scores[0]["fused"]["nll"] + 1e-6


def test_validation_and_test_rows_teach_nothing() -> None:
    """The parameters do not change with the test rows, whatever they hold."""
    table = make_table()
    assert table.test is not None
    other = {name: array.copy() for name, array in table.embeddings.items()}
    for array in other.values():
        array[table.test] = 7.0
    spec = spec_of("ranked", "monotone")
    one = fit(table, spec, QUICK).artifact.parameters
    two = fit(make_table(embeddings=other), spec, QUICK).artifact.parameters
    assert all(np.array_equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("filler", [3e30, np.inf, 0.0])
@pytest.mark.parametrize(
    ("preset", "policy"),
    [("paper", "learned_linear"), ("ranked", "monotone"), ("robust", "soundness")],
)
def test_what_is_absent_teaches_nothing(preset: str, policy: str, filler: float) -> None:
    """NaN, Inf or anything else where a modality is absent: the same bits, also of typicality."""
    table = make_table()
    filled = {
        name: np.where(table.present[:, m, None], array, np.float32(filler))
        for m, (name, array) in enumerate(table.embeddings.items())
    }
    assert all(np.isnan(array).any() for array in table.embeddings.values())
    spec = spec_of(preset, policy)
    one = fit(table, spec, QUICK).artifact
    two = fit(make_table(embeddings=filled), spec, QUICK).artifact
    assert (BAND in one.parameters) == (preset != "paper")
    for name, array in one.parameters.items():
        assert np.isfinite(array).all(), name
        assert array.tobytes() == two.parameters[name].tobytes(), name
    assert one.model == two.model


@pytest.mark.clause("DMS-C-005")
def test_what_is_weaker_is_said_once(dms: Run, tmp_path: Path) -> None:
    """Two modalities whose alignment cancels, rows that are empty, rows that are not finite."""
    arrays = make_arrays(names=("image", "text"))
    arrays["present"][1] = False
    arrays["present"][7] = True
    arrays["image"][7] = np.inf
    arrays["text"][7] = 0
    np.savez(tmp_path / "t.npz", **arrays)
    outcome = dms("fit", tmp_path / "t.npz", "-o", tmp_path / "a", *FLAGS, "--spec", "paper")
    outcome.succeeded()
    notes = outcome.err.splitlines()
    assert len(notes) == len(set(notes))
    for word in ("'alignment'", "nothing present", "hold NaN or Inf"):
        assert sum(word in note for note in notes) == 1, notes
    assert all(note.startswith("dms: note: ") for note in notes)
    assert main(["fit", str(tmp_path / "t.npz"), "-o", str(tmp_path / "b"), "--json"]) == 0


@pytest.mark.clause("DMS-C-005")
@pytest.mark.parametrize("passes", [0, 1, 2])
def test_too_few_passes_are_said(passes: int) -> None:
    settings = FitSettings(epochs=2, passes=passes)
    result = fit(make_table(), spec_of("ranked", "linear"), settings)
    assert sum("'uncertainty'" in note for note in result.notes) == (passes < 2)
    assert ("heads.text.dropout.masks" in result.artifact.parameters) == (passes > 0)


@pytest.mark.parametrize(("preset", "learned"), [("robust", 150), ("static", 120)])
def test_the_rows_are_counted_and_what_leaves_out_their_weight_is_said(
    preset: str, learned: int
) -> None:
    """Where heads share a space, the only heads that there are have not seen validation rows."""
    table = replace(make_table(), sample_weight=np.ones(180))
    result = fit(table, SchedulerSpec.preset(preset, NAMES), QUICK)
    data = result.artifact.model["data"]
    assert sum("sample_weight" in note for note in result.notes) == (preset == "robust")
    counts = [data[f"{kind}_rows"] for kind in ("training", "validation", "test")]
    assert counts == [learned, 30, 30]
    assert data["rows"] == 180


def test_validation_figures_are_of_heads_that_have_not_seen_the_rows() -> None:
    """Labels that mean nothing: who has seen a row knows its label, who has not can only guess."""
    random = np.random.Generator(np.random.Philox(5))
    embeddings = {name: random.normal(size=(150, 300)).astype(np.float32) for name in NAMES[:2]}
    table = Table(
        embeddings=embeddings, present=np.ones((150, 2), dtype=bool), labels=np.arange(150) % 3
    )
    spec = SchedulerSpec.preset("robust", NAMES[:2])
    artifact = fit(table, spec, FitSettings(epochs=2, passes=2)).artifact
    seen = evaluate(artifact, get_backend("numpy"), table)
    validation = artifact.model["metrics"]["validation"]
    assert seen["fused"]["accuracy"] > validation["fused"]["accuracy"] + 0.3
    assert validation["fused"]["accuracy"] < 0.6
    assert validation["concatenation"]["accuracy"] < 0.6
    # And so are temperatures: the heads are not taken at their own word.
    assert all(own["nll_after"] > 1.0 for own in artifact.model["calibration"].values())


@pytest.mark.parametrize("preset", ["robust", "static"])
def test_a_modality_may_have_any_name(preset: str) -> None:
    names = ("a.b", "x.classifier.weight", "c of d")
    embeddings = dict(zip(names, make_table().embeddings.values(), strict=True))
    spec = SchedulerSpec.preset(preset, names)
    artifact = fit(make_table(embeddings=embeddings), spec, QUICK).artifact
    plain = fit(make_table(), SchedulerSpec.preset(preset, NAMES), QUICK).artifact
    assert artifact.model["metrics"]["test"]["fused"]["accuracy"] > 0.75
    renamed = {f"heads.{a}.": f"heads.{b}." for a, b in zip(NAMES, names, strict=True)}
    for name, array in plain.parameters.items():
        for a, b in renamed.items():
            if name.startswith(a):
                name = name.replace(a, b, 1)
                break
        assert artifact.parameters[name].shape == array.shape, name


# ------------------------------------------------------------------------- what robust comes to


@pytest.fixture(scope="module")
def robust() -> Artifact:
    table = make_table(**_parts(make_arrays(720)))
    settings = FitSettings(epochs=8, learning_rate=0.01, batch_size=64, passes=3)
    return fit(table, SchedulerSpec.preset("robust", NAMES), settings).artifact


def _parts(arrays: dict[str, Any]) -> dict[str, Any]:
    parts = {key: arrays[key] for key in ("labels", "present", "test")}
    return {"embeddings": {name: arrays[name] for name in NAMES}, **parts}


def _fresh() -> Table:
    table = make_table(**_parts(make_arrays(600, seed=1)))
    return table.rows(np.arange(600))


@pytest.mark.clause("DMS-Q-013")
def test_clean_rows_are_typical_and_noise_is_not(robust: Artifact) -> None:
    """Nothing is taken from 98 % of the rows that nobody has seen; most of it from noise."""
    predictor, table = Predictor(robust, get_backend("numpy")), _fresh()
    clean = predictor.predict(table)
    random = np.random.Generator(np.random.Philox(8))
    for m, name in enumerate(NAMES):
        there = table.present[:, m]
        assert 0.95 < (clean["typicality"][there, m] == 0).mean() < 1
        unit = robust.parameters[f"heads.{name}.scale.unit"]
        noise = 5 * unit * random.uniform(-1, 1, table.embeddings[name].shape)
        corrupted = dict(table.embeddings) | {
            name: (table.embeddings[name] + noise).astype(np.float32)
        }
        noisy = predictor.predict(replace(table, embeddings=corrupted))
        assert np.median(noisy["typicality"][there, m]) < -3
        assert (noisy["typicality"][there, m] < -1).mean() > 0.95
        # Where there is something to trust instead, its weight goes there.
        several = there & (table.present.sum(axis=1) > 1)
        assert (noisy["weights"] < clean["weights"])[several, m].mean() > 0.99
        assert noisy["weights"][several, m].mean() < 0.1 * clean["weights"][several, m].mean()
        others = [k for k in range(3) if k != m]
        same = noisy["typicality"][:, others] == clean["typicality"][:, others]
        assert same.all()


@pytest.mark.parametrize("name", NAMES)
def test_a_modality_that_has_gone_dead_costs_no_more_than_its_absence(
    robust: Artifact, name: str
) -> None:
    """Every input at the least that it has ever read, and nobody is told."""
    predictor, fresh = Predictor(robust, get_backend("numpy")), _fresh()
    rows = np.flatnonzero(fresh.present.sum(axis=1) > 1)
    fresh = fresh.rows(rows)
    embeddings, present = dict(fresh.embeddings), fresh.present.copy()
    zero = robust.parameters[f"heads.{name}.scale.zero"]
    embeddings[name] = np.tile(zero, (len(fresh), 1))
    present[:, NAMES.index(name)] = False
    dead, absent = (
        predictor.predict(table)["predicted"] == fresh.labels
        for table in (replace(fresh, embeddings=embeddings), replace(fresh, present=present))
    )
    assert dead.mean() > absent.mean() - 0.03


# ------------------------------------------------------------------------------------ same bits


@pytest.mark.clause("DMS-R-001", "DMS-R-002")
def test_the_same_seed_gives_the_same_bits(dms: Run, train: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        dms("fit", train, "-o", tmp_path / name, *FLAGS, "--seed", seed).succeeded()
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    one, other = (load_artifact(tmp_path / name).parameters for name in ("a", "c"))
    # Shuffling, passes, split: the band is of rows as heads see them that have not seen the rows.
    for key in ("heads.audio.classifier.weight", "policy.doubt", BAND):
        assert not np.array_equal(one[key], other[key]), key
    # The kept heads learn from all rows, however they are cut.
    assert np.array_equal(one["heads.audio.scale.zero"], other["heads.audio.scale.zero"])


@pytest.mark.clause("DMS-R-001")
def test_threads_make_no_difference() -> None:
    before, results = torch.get_num_threads(), []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        try:
            results.append(fit(make_table(), spec_of("paper", "linear"), QUICK).artifact)
            assert torch.get_num_threads() == threads
        finally:
            torch.set_num_threads(before)
    one, two = (artifact.parameters for artifact in results)
    assert all(np.array_equal(one[name], two[name]) for name in one)


class Stop(Exception):
    """What ends a run in the middle."""


def test_a_stopped_run_remembers_its_best_epoch(tmp_path: Path) -> None:
    """Stopped when the score has been rising for a while: the best lies behind it."""
    table, spec = make_table(), spec_of("paper", "linear")
    settings = FitSettings(epochs=12, learning_rate=0.5, batch_size=16, patience=12)
    whole = fit(table, spec, settings).artifact
    assert 0 < whole.model["stages"]["heads"]["best_epoch"] < 11
    path = tmp_path / "run.safetensors"

    def stop(progress: Progress) -> None:
        if (progress.stage, progress.epoch) == ("heads", 11):
            raise Stop

    with pytest.raises(Stop):
        fit(table, spec, settings, checkpoint=path, checkpoint_seconds=0, report=stop)
    rest = fit(table, spec, settings, checkpoint=path).artifact
    assert all(np.array_equal(rest.parameters[k], a) for k, a in whole.parameters.items())


@pytest.mark.parametrize(
    ("preset", "policy", "stage", "epoch", "then"),
    [
        ("paper", "learned_linear", "heads", 1, ("heads", 2)),
        ("paper", "learned_linear", "heads", 5, ("heads", 6)),
        ("paper", "learned_linear", "policy", 3, ("policy", 4)),
        ("paper", "modality_dropout", "heads", 5, ("heads", 6)),
        ("paper", "modality_dropout", "policy", 3, ("policy", 4)),
        ("ranked", "monotone", "heads of image", 1, ("heads of text", 1)),
        ("ranked", "monotone", "regression on all inputs", 1, ("policy", 1)),
        ("robust", "soundness", "heads of audio", 1, ("regression on all inputs", 1)),
        ("robust", "soundness", "trust", 1, None),
        ("ranked", "monotone", "policy", 1, ("policy", 2)),
        ("ranked", "monotone", "policy", 5, ("policy", 6)),
    ],
)
def test_a_stopped_run_goes_on_to_the_same_bits(
    tmp_path: Path, preset: str, policy: str, stage: str, epoch: int, then: Any
) -> None:
    table, spec = make_table(), spec_of(preset, policy)
    settings = FitSettings(epochs=8, learning_rate=0.03, batch_size=32, width=4, patience=8)
    whole = fit(table, spec, settings)
    path = tmp_path / "run.safetensors"

    def stop(progress: Progress) -> None:
        if (progress.stage, progress.epoch) == (stage, epoch):
            raise Stop

    with pytest.raises(Stop):
        fit(table, spec, settings, checkpoint=path, checkpoint_seconds=0, report=stop)
    assert [p.name for p in tmp_path.iterdir()] == ["run.safetensors"]
    seen: list[tuple[str, int]] = []
    rest = fit(
        table, spec, settings, checkpoint=path, report=lambda p: seen.append((p.stage, p.epoch))
    )
    assert (seen or [None])[0] == then
    assert str(epoch) in rest.resumed and stage in rest.resumed
    assert whole.resumed == ""
    assert rest.artifact.model == whole.artifact.model
    for name, array in whole.artifact.parameters.items():
        assert rest.artifact.parameters[name].tobytes() == array.tobytes(), name


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_a_killed_command_goes_on(dms: Run, train: Path, tmp_path: Path) -> None:
    """SIGKILL in the middle, the same command again: the bits of a run in one go."""
    flags = ("--epochs", 60, "--patience", 60, "--lr", 1e-3, "--spec", "static")
    dms("fit", train, "-o", tmp_path / "whole", *flags).succeeded()
    command = ("fit", train, "-o", tmp_path / "a", *flags)
    # Slowed down, and a checkpoint after each epoch.
    code = """if True:
        import sys, time
        from dms_spec.cli import main
        from dms_torch.fit.checkpoint import Checkpoint
        init, save = Checkpoint.__init__, Checkpoint.save
        Checkpoint.__init__ = lambda self, path, run, _, **rest: init(self, path, run, 0.0, **rest)
        Checkpoint.save = lambda self, state: (save(self, state), time.sleep(0.1))
        main(sys.argv[1:])
    """
    process = subprocess.Popen([sys.executable, "-c", code, *map(str, command)])
    checkpoint = tmp_path / "a.checkpoint.safetensors"
    deadline = time.monotonic() + 60
    while not checkpoint.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert checkpoint.exists() and not (tmp_path / "a").exists()
    message = dms(*command, "--seed", 1).refused()
    assert "another run" in message and str(checkpoint) in message
    outcome = dms(*command)
    outcome.succeeded()
    assert "went on from a checkpoint at stage 'heads'" in outcome.err
    assert contents(tmp_path / "a") == contents(tmp_path / "whole")
    assert not checkpoint.exists()


@pytest.mark.clause("DMS-X-004")
@pytest.mark.parametrize("what", ["cut", "empty", "of another run", "an artifact's", "a pickle"])
def test_a_checkpoint_that_is_not_whole_and_of_this_run_is_refused(
    tmp_path: Path, what: str
) -> None:
    import pickle

    table, spec = make_table(), spec_of("ranked", "linear")
    path = tmp_path / "run.safetensors"

    def stop(_: Progress) -> None:
        raise Stop

    settings = QUICK if what != "of another run" else FitSettings(seed=5)
    with pytest.raises(Stop):
        fit(table, spec, settings, checkpoint=path, checkpoint_seconds=0, report=stop)
    content = path.read_bytes()
    if what == "an artifact's":
        save_artifact(tmp_path / "a", Artifact(spec=SchedulerSpec.preset("static", NAMES)))
        content = (tmp_path / "a" / "model.safetensors").read_bytes()
    changed = {"cut": content[:-5], "empty": b"", "a pickle": pickle.dumps({"a": 1})}
    path.write_bytes(changed.get(what, content))
    before = path.read_bytes()
    kind = ArtifactError if what == "of another run" else FileError
    with pytest.raises(kind, match=r"run\.safetensors"):
        fit(table, spec, QUICK, checkpoint=path)
    assert path.read_bytes() == before


# --------------------------------------------------------------------------------------- refused

BAD_TABLES: dict[str, tuple[dict[str, Any], str]] = {
    "labels missing": ({"labels": None}, "no labels"),
    "ragged": ({"text": np.zeros((5, 3))}, "'text'"),
    "one class": ({"labels": np.zeros(180, dtype=int)}, "one class"),
    "all absent": ({"present": np.zeros((180, 3), dtype=bool)}, "nothing is present"),
    "raw": ({"image": np.zeros((180, 4, 4))}, "'image'"),
    "strings": ({"image": np.full((180, 4), "a")}, "'image'"),
    "objects": ({"image": np.full((180, 4), None)}, "pickle|allow"),
    "all apart": ({"labels": np.arange(180)}, "too few"),
    "too large": ({"image": np.full((180, 2), 1e300)}, "too large"),
}


@pytest.mark.clause("DMS-X-006")
@pytest.mark.parametrize("case", BAD_TABLES)
def test_a_bad_table_is_one_message_and_nothing_left(dms: Run, tmp_path: Path, case: str) -> None:
    changes, word = BAD_TABLES[case]
    arrays = {k: v for k, v in (make_arrays() | changes).items() if v is not None}
    np.savez(tmp_path / "bad.npz", allow_pickle=True, **arrays)
    message = dms("fit", tmp_path / "bad.npz", "-o", tmp_path / "a", *FLAGS).refused()
    assert any(part in message for part in word.split("|")), message
    assert [path.name for path in tmp_path.iterdir()] == ["bad.npz"]


def test_an_unknown_modality_is_refused(dms: Run, train: Path, tmp_path: Path) -> None:
    spec = tmp_path / "spec.json"
    spec.write_text(SchedulerSpec.preset("robust", ("image", "text")).to_json(), encoding="utf-8")
    message = dms("fit", train, "-o", tmp_path / "a", "--spec", spec).refused()
    assert "'audio'" in message


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        (("--epochs", 0), "epochs"),
        (("--patience", 0), "patience"),
        (("--batch-size", 0), "batch_size"),
        (("--lr", -1), "learning_rate"),
        (("--lr", "nan"), "learning_rate"),
        (("--dropout", 1), "dropout"),
        (("--passes", -1), "passes"),
        (("--consistency", -1), "consistency"),
        (("--noise", 1.5), "noise"),
        (("--noise", "nan"), "noise"),
        (("--pull", -1), "pull"),
        (("--pull", "inf"), "pull"),
        (("--seed", -1), "seed"),
        (("--width", 0), "width"),
        (("--spec", "robsut"), "'robust'"),
        (("--policy", "monotonous"), "'monotone'"),
        (("--spec", "static", "--policy", "monotone"), "rule to start from"),
    ],
    ids=str,
)
def test_a_bad_setting_is_refused(
    dms: Run, train: Path, tmp_path: Path, flags: Any, word: str
) -> None:
    assert word in dms("fit", train, "-o", tmp_path / "a", *flags).refused()
    assert [path.name for path in tmp_path.iterdir()] == ["train.npz"]


@pytest.mark.clause("DMS-C-003")
def test_a_device_that_is_not_there_is_refused(dms: Run, train: Path, tmp_path: Path) -> None:
    message = dms("fit", train, "-o", tmp_path / "a", "--device", "cuda:99").refused(4)
    assert "cuda:99" in message


def test_without_torch_it_says_what_to_install(
    dms: Run, train: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "dms_torch.fit.training", None)
    message = dms("fit", train, "-o", tmp_path / "a").refused(4)
    assert "pip install '.[torch]'" in message


@pytest.mark.clause("DMS-X-006")
def test_what_is_there_is_not_replaced_unasked(dms: Run, train: Path, tmp_path: Path) -> None:
    folder = tmp_path / "a"
    save_artifact(folder, Artifact(spec=SchedulerSpec.preset("static", NAMES)))
    before = contents(tmp_path)
    assert "--overwrite" in dms("fit", train, "-o", folder, *FLAGS).refused()
    assert contents(tmp_path) == before
    dms("fit", train, "-o", folder, *FLAGS, "--overwrite").succeeded()
    assert load_artifact(folder).model
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "one.tex").touch()
    dms("fit", train, "-o", tmp_path / "thesis", *FLAGS, "--overwrite").refused()
    assert [path.name for path in (tmp_path / "thesis").iterdir()] == ["one.tex"]


def test_a_spec_that_refuses_what_is_not_finite_is_obeyed(tmp_path: Path) -> None:
    arrays = make_arrays()
    arrays["present"][4] = True
    arrays["image"][4] = np.nan
    np.savez(tmp_path / "t.npz", **arrays)
    table = read_table(tmp_path / "t.npz")
    with pytest.raises(DMSError, match="'image'"):
        fit(table, spec_of("ranked", "linear", nonfinite="raise"), QUICK)


def test_json_is_the_model(dms: Run, train: Path, tmp_path: Path) -> None:
    outcome = dms("fit", train, "-o", tmp_path / "a", *FLAGS, "--json")
    report = json.loads(outcome.succeeded())
    assert report.pop("output") == str(tmp_path / "a")
    assert report == load_artifact(tmp_path / "a").model


@pytest.mark.parametrize(
    ("covariance", "rank", "axes"), [("full", 2, 3), ("low_rank", 2, 3), ("diagonal", 2, 2)]
)
def test_the_form_of_the_covariance_is_a_setting(covariance: Any, rank: int, axes: int) -> None:
    settings = replace(QUICK, covariance=covariance, rank=rank)
    parameters = fit(make_table(), spec_of("ranked", "linear"), settings).artifact.parameters
    whitening = parameters["signals.typicality.whitening"]
    assert whitening.ndim == axes
    assert (whitening.shape[-1] == rank) == (covariance == "low_rank")


def test_a_covariance_of_no_such_form_is_refused() -> None:
    with pytest.raises(SpecError, match="full or low_rank or diagonal"):
        FitSettings(covariance="spherical")  # type: ignore[arg-type]


def test_rows_without_a_label_teach_nothing() -> None:
    """Whatever stands in their place, and as if they were not there."""
    arrays = make_arrays()
    gone = np.zeros(180, dtype=bool)
    gone[3::7] = True
    texts = np.array(["a", "b", "c"])[arrays["labels"]]
    partly = Table.from_arrays(arrays | {"labels": np.where(gone, "", texts)})
    kept = Table.from_arrays(
        arrays | {"labels": texts, "train": np.setdiff1d(np.flatnonzero(~gone), arrays["test"])}
    )
    spec = SchedulerSpec.preset("static", partly.modalities)
    one, other = (fit(table, spec, QUICK).artifact for table in (partly, kept))
    assert one.model["classes"] == ["a", "b", "c"]
    assert one.parameters.keys() == other.parameters.keys()
    for name, array in one.parameters.items():
        assert np.array_equal(array, other.parameters[name]), name
    assert any("no label in 26 of 180 rows" in note for note in one.model["notes"])


def test_which_rows_have_a_label_is_part_of_the_run(tmp_path: Path) -> None:
    """A checkpoint of a table in which another row has none is of another run."""
    from dms_torch.fit.training import _fingerprint

    spec = SchedulerSpec.preset("static", NAMES)
    digests = {
        _fingerprint(make_table(labelled=known), spec, QUICK, "cpu")
        for known in (None, np.arange(180) > 0, np.arange(180) > 1)
    }
    assert len(digests) == 3


# -------------------------------------------------------------------------- tables as people have


def test_one_row_of_glitches_changes_little_and_is_said() -> None:
    table = make_table(**_parts(make_arrays(360)))
    spec = SchedulerSpec.preset("robust", NAMES)
    clean = fit(table, spec, QUICK)
    assert table.test is not None and not clean.notes
    embeddings = {name: array.copy() for name, array in table.embeddings.items()}
    embeddings["image"][1] = 1000.0
    table.present[1, 0] = True
    broken = fit(make_table(**_parts(make_arrays(360)) | {"embeddings": embeddings}), spec, QUICK)
    assert any("'image'" in note and "row 1)" in note for note in broken.notes)
    one, two = (f.artifact.model["metrics"]["test"]["fused"]["accuracy"] for f in (clean, broken))
    assert abs(one - two) <= 0.04


def test_a_class_that_a_modality_never_saw_is_not_vetoed() -> None:
    """Audio is in no training row of class 2, and in every test row of it."""
    arrays = make_arrays(720)
    arrays["test"] = np.arange(0, 720, 7)  # of all classes
    held = np.isin(np.arange(720), arrays["test"])
    arrays["present"][:] = True
    arrays["present"][(arrays["labels"] == 2) & ~held, 2] = False
    arrays |= make_full(720)
    table = make_table(**_parts(arrays))
    result = fit(table, SchedulerSpec.preset("robust", NAMES), QUICK)
    assert any("'audio' is in no training row of class 2" in note for note in result.notes)
    assert (result.artifact.parameters["fusion.priors"][2] > 0).tolist() == [True, True, False]
    recall = result.artifact.model["metrics"]["test"]["fused"]["recall"]
    assert recall[2] > 0.75


def make_full(rows: int) -> dict[str, Any]:
    """The same rows as `make_arrays`, before anything went missing."""
    labels, full = np.arange(rows) % 3, {}
    random = np.random.Generator(np.random.Philox(0))
    for m, name in enumerate(NAMES):
        centres = np.random.Generator(np.random.Philox(100 + m)).normal(size=(3, 5 + m))
        noise = (0.6 + 0.4 * m) * random.normal(size=(rows, 5 + m))
        full[name] = (10 + centres[labels] + noise).astype(np.float32)
    return full


@pytest.mark.parametrize("known", [2, 5, 20])
def test_a_modality_known_from_few_rows_costs_nothing(known: int) -> None:
    """Over six draws, against the other modality alone."""
    gains = []
    for seed in range(6):
        random = np.random.Generator(np.random.Philox(seed))
        labels = random.integers(0, 2, 420)
        embeddings = {
            name: (random.normal(size=(420, 8)) + 0.6 * labels[:, None]).astype(np.float32)
            for name in ("image", "audio")
        }
        present = np.ones((420, 2), dtype=bool)
        present[:120, 1] = False
        present[random.permutation(120)[:known], 1] = True
        table = Table(
            embeddings=embeddings, present=present, labels=labels, test=np.arange(120, 420)
        )
        artifact = fit(table, SchedulerSpec.preset("robust", ("image", "audio")), QUICK).artifact
        rows = table.rows(np.arange(120, 420))
        alone = rows.present.copy()
        alone[:, 1] = False
        predictor = Predictor(artifact, get_backend("numpy"))
        both, one = (
            float((predictor.predict(t)["predicted"] == rows.labels).mean())
            for t in (rows, replace(rows, present=alone))
        )
        gains.append(both - one)
    assert np.mean(gains) > -0.01
    assert min(gains) > -0.05


def test_subjects_are_not_learned_by_heart() -> None:
    """Labels at random by subject: with groups the held-out accuracy is that of a coin."""
    random = np.random.Generator(np.random.Philox(0))
    groups = np.repeat(np.arange(40), 10)
    labels = np.repeat(np.arange(40) % 2, 10)
    subject = np.repeat(2 * random.normal(size=(40, 30)), 10, axis=0)
    embeddings = {"eeg": (subject + 0.3 * random.normal(size=(400, 30))).astype(np.float32)}
    table = Table(embeddings=embeddings, present=np.ones((400, 1), dtype=bool), labels=labels)
    spec = SchedulerSpec.preset("robust", ("eeg",))
    told, untold = (
        fit(t, spec, QUICK).artifact.model["metrics"]["validation"]["fused"]["accuracy"]
        for t in (replace(table, groups=groups), table)
    )
    assert untold > 0.7
    assert told < 0.65


@pytest.mark.clause("DMS-X-004")
def test_a_foreign_checkpoint_goes_with_overwrite(dms: Run, train: Path, tmp_path: Path) -> None:
    table, path = make_table(), tmp_path / "a.checkpoint.safetensors"

    def stop(_: Progress) -> None:
        raise Stop

    with pytest.raises(Stop):
        fit(table, spec_of("paper", "linear"), QUICK, checkpoint=path, report=stop)
    assert "--overwrite" in dms("fit", train, "-o", tmp_path / "a", *FLAGS, "--seed", 5).refused()
    assert path.exists()
    dms("fit", train, "-o", tmp_path / "a", *FLAGS, "--seed", 5, "--overwrite").succeeded()
    assert not path.exists()
    path.write_bytes(b"a thesis")
    dms("fit", train, "-o", tmp_path / "b" / ".." / "a", *FLAGS, "--overwrite").refused()
    assert path.read_bytes() == b"a thesis"


def test_a_fit_that_cannot_be_finished_leaves_no_checkpoint(tmp_path: Path) -> None:
    present = np.ones((180, 3), dtype=bool)
    present[:, 2] = np.arange(180) == 1
    path = tmp_path / "run.safetensors"
    with pytest.raises(DMSError, match="'audio'"):
        fit(
            make_table(present=present, embeddings=make_full(180)),
            spec_of("robust", "soundness"),
            QUICK,
            checkpoint=path,
            checkpoint_seconds=0,
        )
    assert not path.exists()


def test_where_one_regression_is_better_it_is_said() -> None:
    from dms_spec.cli.fit import _comparison

    assert _comparison({"fused": {"nll": 0.3}, "concatenation": {"nll": 0.4}}) == []
    (line,) = _comparison({"fused": {"nll": 0.4}, "concatenation": {"nll": 0.3}})
    assert "better here: log-loss 0.300 against 0.400" in line
