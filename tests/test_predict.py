"""`dms predict`: the same answers in every backend, for every row, however it is cut."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dms_numpy.backend import HostBackend
from dms_spec.artifact import Artifact, load_artifact, save_artifact
from dms_spec.embeddings.labels import class_indices
from dms_spec.embeddings.predictor import Predictor, evaluate
from dms_spec.embeddings.table import Table, read_table
from dms_spec.equations.namespace import Namespace
from dms_spec.errors import (
    ArtifactError,
    DMSError,
    NonFiniteInput,
    NothingPresent,
    ShapeError,
    SpecError,
    UnsupportedCapability,
)
from dms_spec.files import read_arrays, write_arrays
from dms_spec.interface.backend import Backend
from dms_spec.interface.capabilities import Capabilities
from dms_spec.plugins import get_backend
from dms_spec.spec import SchedulerSpec

Run = Callable[..., Any]

NAMES = ("a", "b", "c")
# What make_artifact leaves out of the preset robust, which the predictor says.
UNFITTED = (
    "signal 'typicality' has no parameters",
    "policy 'soundness' has no parameters",
    "fusion 'evidence' has no parameters",
)
CLASSES = ["cat", "dog", "eel", "fox"]
WIDTHS, FEATURES, PASSES = (3, 5, 2), 6, 4
SPECS = {
    "robust": SchedulerSpec.preset("robust", NAMES),
    "logit": SchedulerSpec.preset("robust", NAMES).replace(fusion="logit"),
    "paper": SchedulerSpec.preset("paper", NAMES),
    "static": SchedulerSpec.preset("static", NAMES),
}


def make_artifact(spec: SchedulerSpec, classes: list[Any] = CLASSES, **model: Any) -> Artifact:
    """Heads at random: what they predict does not matter here, and no torch is needed."""
    random = np.random.Generator(np.random.Philox(1))

    def draw(*shape: int) -> np.ndarray:
        return random.normal(size=shape).astype(np.float32)

    parameters: dict[str, np.ndarray] = {}
    for name, width in zip(NAMES, WIDTHS, strict=True):
        parameters |= {
            f"heads.{name}.scale.zero": draw(width),
            f"heads.{name}.scale.unit": np.abs(draw(width)) + 1,
            f"heads.{name}.projection.weight": draw(width, FEATURES),
            f"heads.{name}.projection.bias": draw(FEATURES),
            f"heads.{name}.classifier.weight": draw(width, len(classes)),
            f"heads.{name}.classifier.bias": draw(len(classes)),
            f"heads.{name}.temperature": np.array(1.5, dtype=np.float32),
            f"heads.{name}.dropout.masks": (draw(PASSES, width) > -1).astype(np.float32),
            f"joint.{name}.weight": draw(width, len(classes)),
        }
    parameters |= {"head.weight": draw(FEATURES, len(classes)), "head.bias": draw(len(classes))}
    parameters |= {"joint.bias": draw(len(classes)), "joint.share": np.array(0.6, np.float32)}
    prior = [0.1, 0.6, 0.2, 0.1][: len(classes)]
    good = {"classes": classes, "prior": prior, "dropout": 0.2, "passes": PASSES}
    return Artifact(spec=spec, parameters=parameters, model=good | model)


def make_arrays(rows: int = 50, dtype: str = "float32") -> dict[str, np.ndarray]:
    random = np.random.Generator(np.random.Philox(2))
    arrays = {
        name: random.normal(size=(rows, width)).astype(dtype)
        for name, width in zip(NAMES, WIDTHS, strict=True)
    }
    present = random.random((rows, 3)) > 0.3
    for m, name in enumerate(NAMES):
        arrays[name][~present[:, m]] = np.nan
    return arrays | {"present": present}


def make_table(rows: int = 50, dtype: str = "float32") -> Table:
    arrays = make_arrays(rows, dtype)
    return Table(embeddings={n: arrays[n] for n in NAMES}, present=arrays["present"])


NUMPY = get_backend("numpy")
#: The others that come with the project.
OTHERS = ("torch", "onnxruntime")


def assert_each_once(notes: list[str], *words: str | tuple[str, ...]) -> None:
    """Every word is said by one note, and no note says anything else."""
    flat = [word for part in words for word in ([part] if isinstance(part, str) else part)]
    said = [[word for word in flat if word in note] for note in notes]
    assert sorted(said) == sorted([word] for word in flat), notes


def assert_close(got: dict[str, np.ndarray], wanted: dict[str, np.ndarray], rounds: int) -> None:
    assert got.keys() == wanted.keys()
    for name, array in wanted.items():
        assert got[name].dtype == array.dtype, name
        assert got[name].shape == array.shape, name
        if array.dtype.kind == "f":
            error = np.abs(got[name] - array).max(initial=0)
            assert error <= rounds * np.finfo(array.dtype).eps, name
        else:
            assert np.array_equal(got[name], array), name


def optional(name: str) -> Backend:
    """A backend beside NumPy, or the test is left out."""
    pytest.importorskip(name)
    return get_backend(name)


@pytest.mark.clause("DMS-X-007")
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("other", OTHERS)
def test_backends_agree(other: str, name: str, dtype: str) -> None:
    artifact, table = make_artifact(SPECS[name]), make_table(dtype=dtype)
    wanted, got = Predictor(artifact, NUMPY), Predictor(artifact, optional(other))
    results = wanted.predict(table)
    assert results["weights"].dtype == ("float64" if dtype == "float64" else "float32")
    same = got.predict(table)
    assert_close(same, results, rounds=64)
    assert same.notes == results.notes
    alone, also = wanted.unimodal(table), got.unimodal(table)
    assert_close({"unimodal": also}, {"unimodal": alone}, rounds=64)
    whole, same = wanted.schedule(table), got.schedule(table)
    assert_close(
        same.arrays() | dict(same.terms) | {"scores": np.where(same.active, same.scores, 0)},
        whole.arrays() | dict(whole.terms) | {"scores": np.where(whole.active, whole.scores, 0)},
        rounds=64,
    )


@pytest.mark.clause("DMS-X-007")
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_backends_agree_on_any_table(data: st.DataObject) -> None:
    """Modalities of dtypes of their own, any of them missing, absent ones hold anything."""
    rows = data.draw(st.integers(0, 9))
    arrays = make_arrays(rows)
    arrays["present"] = np.array(
        data.draw(st.lists(st.lists(st.booleans(), min_size=3, max_size=3),
                           min_size=rows, max_size=rows)), dtype=bool,
    ).reshape(rows, 3)  # fmt: skip
    filler = data.draw(st.sampled_from([np.nan, np.inf, 1e4]))
    embeddings = {}
    for m, name in enumerate(NAMES):
        array = np.nan_to_num(arrays[name], nan=0.5)
        array[~arrays["present"][:, m]] = filler
        embeddings[name] = array.astype(data.draw(st.sampled_from(["float16", "float32"])))
    table = Table(embeddings=embeddings, present=arrays["present"])
    artifact = make_artifact(SPECS[data.draw(st.sampled_from(sorted(SPECS)))])
    wanted = Predictor(artifact, NUMPY).predict(table)
    for other in OTHERS:
        assert_close(Predictor(artifact, optional(other)).predict(table), wanted, rounds=64)


class _Narrow(HostBackend):
    """NumPy, of a library that has no float64, as JAX is by default."""

    name = "narrow"
    capabilities = Capabilities(dtypes=("float32",))

    def from_numpy(self, array: NDArray[Any], device: str) -> NDArray[Any]:
        if array.dtype == np.float64:
            raise UnsupportedCapability("there is no float64", capability="dtype:float64")
        return super().from_numpy(array, device)

    def namespace(self, device: str) -> Namespace:
        return NUMPY.namespace(device)


@pytest.mark.parametrize("name", sorted(SPECS))
def test_a_library_without_float64_predicts(name: str) -> None:
    arrays = make_arrays(7)
    arrays["present"][2] = False  # where the prior is all there is
    embeddings = {own: np.nan_to_num(arrays[own], nan=0.5).astype("float32") for own in NAMES}
    table = Table(embeddings=embeddings, present=arrays["present"])
    artifact = make_artifact(SPECS[name])
    wanted = Predictor(artifact, NUMPY).predict(table)
    assert_close(Predictor(artifact, _Narrow()).predict(table), wanted, rounds=1)


def test_the_exported_graph_is_cut_as_its_backend_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few rows at a time, or all at once: the same, and each session is made once."""
    pytest.importorskip("onnxruntime")
    from dms_onnx.session import Session
    from dms_onnxruntime import backend as module

    sizes: list[int] = []
    run = Session.run

    def counted(self: Session, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        sizes.append(len(arrays["present"]))
        return run(self, arrays)

    monkeypatch.setattr(Session, "run", counted)
    predictor = Predictor(make_artifact(SPECS["robust"]), get_backend("onnxruntime"))
    table = make_table()
    whole = predictor.predict(table)
    assert sizes == [50]
    monkeypatch.setattr(module, "_ENTRIES_AT_ONCE", 300)
    assert_close(predictor.predict(table), whole, rounds=64)
    assert len(sizes) > 3 and sum(sizes[1:]) == 50 and sizes[1] > 1
    assert len(predictor._rows._graphs._own) == 1  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", SPECS)
def test_the_graphs_run_in_place_on_tensors_as_on_cuda(name: str) -> None:
    """Every output has a shape that is known before the run: torch makes its memory."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnxruntime")
    from dms_onnx.session import Session
    from dms_onnx.trace import trace_predictor, trace_unimodal

    artifact, table = make_artifact(SPECS[name]), make_table()
    arrays = {**table.embeddings, "present": table.present}
    tensors = {key: torch.from_numpy(np.array(array)) for key, array in arrays.items()}
    dtypes = dict.fromkeys(NAMES, "float32")
    whole = trace_predictor(artifact, dtypes, whole=True)[0]
    for model in (whole, trace_unimodal(artifact, dtypes)):
        session = Session(model.SerializeToString())
        wanted, got = session.run(arrays), session.run(tensors)
        assert got.keys() == wanted.keys()
        for key, array in wanted.items():
            np.testing.assert_array_equal(got[key].numpy(), array)


@pytest.mark.parametrize("name", ["numpy", *OTHERS])
def test_every_backend_refuses_what_the_spec_refuses(name: str) -> None:
    pytest.importorskip(name)
    table = make_table()
    strict = make_artifact(SPECS["robust"].replace(strict=True))
    some = np.flatnonzero(~table.present.any(axis=1))[0]
    with pytest.raises(NothingPresent, match=f"from row {some - some % 5} on"):
        Predictor(strict, get_backend(name)).predict(table, 5)
    changed = {n: array.copy() for n, array in table.embeddings.items()}
    there = np.flatnonzero(table.present[:, 0])[:3]
    changed["a"][there] = 3e38  # finite, but not once it is standardised
    table = replace(table, embeddings=changed)
    raising = make_artifact(SPECS["robust"].replace(nonfinite="raise"))
    raising.parameters["heads.a.classifier.weight"][:] *= 100  # type: ignore[index]
    with pytest.raises(NonFiniteInput, match=f"sample {there[0]}, modality 'a'"):
        Predictor(raising, get_backend(name)).predict(table)


def test_a_backend_of_schedulers_alone_says_so() -> None:
    class Bare(Backend):
        name, capabilities = "bare", NUMPY.capabilities

        def from_numpy(self, array: Any, device: str) -> Any:
            return array

        def to_numpy(self, array: Any) -> Any:
            return array

        def _scheduler(self, spec: Any, parameters: Any, device: str) -> Any:
            raise AssertionError

    with pytest.raises(UnsupportedCapability, match=r"'bare' runs schedulers alone.*numpy"):
        Predictor(make_artifact(SPECS["robust"]), Bare())


@pytest.mark.parametrize("name", ["weights", "fused", "predicted", "typicality", "soundness"])
def test_a_modality_named_like_an_output_is_refused_by_a_graph_alone(name: str) -> None:
    pytest.importorskip("onnxruntime")
    good = make_artifact(SPECS["robust"])
    parameters = {k.replace(".a.", f".{name}."): v for k, v in good.parameters.items()}
    spec = good.spec.replace(modalities=(name, "b", "c"))
    artifact = replace(good, spec=spec, parameters=parameters)
    Predictor(artifact, NUMPY)
    with pytest.raises(SpecError, match=f"would have the name '{name}'"):
        Predictor(artifact, get_backend("onnxruntime"))


@pytest.mark.parametrize("name", SPECS)
def test_how_rows_are_cut_makes_no_difference(name: str) -> None:
    predictor, table = Predictor(make_artifact(SPECS[name]), NUMPY), make_table()
    whole = predictor.predict(table)
    for size in (1, 7, 50, 1000):
        cut = predictor.predict(table, size)
        assert_close(cut, whole, rounds=64)
        assert cut.notes == whole.notes
    assert_close(predictor.predict(table.rows(slice(20, 30))), _cut(whole, 20, 30), rounds=64)


def _cut(results: dict[str, np.ndarray], start: int, stop: int) -> dict[str, np.ndarray]:
    return {name: array[start:stop] for name, array in results.items()}


@pytest.mark.parametrize("name", SPECS)
def test_every_row_gets_probabilities_and_weights(name: str) -> None:
    """Rows sum to one; absent ones weigh 0; nothing there is the prior, and is said."""
    table = make_table()
    predictor = Predictor(make_artifact(SPECS[name]), NUMPY)
    results = predictor.predict(table)
    nothing = ~table.present.any(axis=1)
    assert nothing.any()
    assert np.abs(results["probabilities"].sum(axis=1) - 1).max() < 1e-5
    assert np.array_equal(results["active"], table.present)
    assert (results["weights"][~table.present] == 0).all()
    assert np.allclose(results["probabilities"][nothing], [0.1, 0.6, 0.2, 0.1])
    assert set(results["predicted"][nothing]) == {"dog"}
    assert set(results["predicted"]) <= set(CLASSES)
    assert any(f"{nothing.sum()} rows have nothing active" in note for note in results.notes)


@pytest.mark.parametrize("rows", [0, 1])
def test_a_table_of_hardly_any_rows(rows: int) -> None:
    for spec in SPECS.values():
        results = Predictor(make_artifact(spec), NUMPY).predict(make_table(rows))
        assert {len(array) for array in results.values()} == {rows}
        assert results["probabilities"].shape == (rows, 4)


@pytest.mark.parametrize("classes", [["no", "yes"], [-3, 1000], [False, True]])
def test_classes_come_back_as_they_were(classes: list[Any]) -> None:
    artifact = make_artifact(SPECS["robust"], classes, prior=[0.5, 0.5])
    predictor = Predictor(artifact, NUMPY)
    predicted = predictor.predict(make_table())["predicted"]
    assert set(predicted.tolist()) <= set(classes)
    assert class_indices(predictor.classes, np.array(classes)).tolist() == [0, 1]
    stranger = "maybe" if isinstance(classes[0], str) else 7
    assert class_indices(predictor.classes, np.array([stranger])).tolist() == [-1]


def test_what_is_too_far_out_is_not_active() -> None:
    """Finite, but beyond what float32 can standardise; measuring leaves the row out."""
    table = make_table()
    changed = {name: array.copy() for name, array in table.embeddings.items()}
    changed["a"][:3] = 3e38
    labels = np.array(CLASSES * 13)[:50]
    table = replace(table, embeddings=changed, labels=labels)
    artifact = make_artifact(SPECS["robust"])
    artifact.parameters["heads.a.classifier.weight"][:] *= 100  # type: ignore[index]
    results = Predictor(artifact, NUMPY).predict(table)
    assert not results["active"][:3, 0].any()
    assert np.isfinite(results["probabilities"]).all()
    metrics = evaluate(artifact, NUMPY, table)
    assert metrics["modalities"]["a"]["samples"] == table.present[3:, 0].sum()
    assert 0 <= metrics["fused"]["ece"] <= 1


# ------------------------------------------------------------------------------------- the verb


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_artifact(tmp_path / "artifact", make_artifact(SPECS["robust"]))
    write_arrays(tmp_path / "in.npz", make_arrays())
    return tmp_path


def test_the_verb_writes_what_the_library_gives(dms: Run, folder: Path) -> None:
    output = folder / "out.npz"
    outcome = dms("predict", folder / "artifact", folder / "in.npz", "-o", output)
    text = outcome.succeeded()
    wanted = Predictor(make_artifact(SPECS["robust"]), NUMPY).predict(make_table())
    got = read_arrays(output)
    own = {"soundness", "typicality"}
    assert got.keys() == {"probabilities", "predicted", "weights", "active"} | own
    for name, array in wanted.items():
        assert np.array_equal(got[name], array), name
    assert "50 rows" in text
    assert_each_once(outcome.err.splitlines(), UNFITTED, "nothing active")


@pytest.mark.parametrize("other", OTHERS)
def test_the_verb_scores_in_any_backend(dms: Run, folder: Path, other: str) -> None:
    """Equal classes, and everything else within round-off of NumPy's."""
    device = optional(other).capabilities.devices[-1]
    output = folder / "out.npz"
    arguments = ("predict", folder / "artifact", folder / "in.npz", "-o", output)
    outcome = dms(*arguments, "--backend", other, "--device", device)
    assert f"backend {other}" in outcome.succeeded()
    assert_each_once(outcome.err.splitlines(), UNFITTED, "nothing active")
    wanted = Predictor(make_artifact(SPECS["robust"]), NUMPY).predict(make_table())
    assert_close(read_arrays(output), wanted, rounds=64)


@pytest.mark.parametrize("other", OTHERS)
def test_explanations_with_heads_in_any_backend(dms: Run, folder: Path, other: str) -> None:
    optional(other)
    arguments = ("explain", folder / "in.npz", "--spec", folder / "artifact", "--json")
    wanted = json.loads(dms(*arguments).succeeded())
    got = json.loads(dms(*arguments, "--backend", other).succeeded())
    assert got.keys() == wanted.keys()
    assert got["notes"] == wanted["notes"]


def test_the_verb_measures_where_there_are_labels(dms: Run, folder: Path) -> None:
    predicted = Predictor(make_artifact(SPECS["robust"]), NUMPY).predict(make_table())["predicted"]
    predicted[:10] = "unicorn"
    np.savez(folder / "in.npz", labels=predicted, **make_arrays())
    arguments = ("predict", folder / "artifact", folder / "in.npz", "-o", folder / "o.npz")
    report = json.loads(dms(*arguments, "--json", "--batch-size", 8).succeeded())
    assert report["accuracy"] == pytest.approx(0.8)
    assert report["samples"] == 50
    assert [row["name"] for row in report["modalities"]] == list(NAMES)
    assert_each_once(report["notes"], UNFITTED, "nothing active", "not a class")


def test_safetensors_takes_integers_and_no_strings(dms: Run, folder: Path) -> None:
    arguments = ("predict", folder / "artifact", folder / "in.npz", "-o")
    assert "strings" in dms(*arguments, folder / "o.safetensors").refused()
    save_artifact(folder / "artifact", make_artifact(SPECS["robust"], [1, 2, 5, 9]), overwrite=True)
    arrays = make_arrays()
    present = arrays.pop("present")
    named = {f"present.{name}": present[:, m].copy() for m, name in enumerate(NAMES)}
    write_arrays(folder / "in.safetensors", arrays | named)
    arguments = ("predict", folder / "artifact", folder / "in.safetensors", "-o")
    dms(*arguments, folder / "o.safetensors").succeeded()
    got = read_arrays(folder / "o.safetensors")
    assert set(got["predicted"].tolist()) <= {1, 2, 5, 9}


BAD_TABLES: dict[str, tuple[dict[str, Any], str]] = {
    "misspelt": ({"a": None, "A": make_arrays()["a"]}, "'a'"),
    "none": ({"a": None, "b": None, "c": None, "d": np.zeros((50, 2))}, "a, b, c"),
    "wide": ({"a": np.zeros((50, 9))}, "'a'"),
    "ragged": ({"a": np.zeros((49, 3))}, "rows"),
    "strings": ({"a": np.full((50, 3), "x")}, "'a'"),
    "presence": ({"present": np.ones((50, 2), dtype=bool)}, "present"),
}


@pytest.mark.clause("DMS-X-006")
@pytest.mark.parametrize("case", BAD_TABLES)
def test_a_bad_table_is_one_message_and_nothing_left(dms: Run, folder: Path, case: str) -> None:
    changes, word = BAD_TABLES[case]
    arrays = {k: v for k, v in (make_arrays() | changes).items() if v is not None}
    np.savez(folder / "in.npz", **arrays)
    before = sorted(folder.iterdir())
    message = dms("predict", folder / "artifact", folder / "in.npz", "-o", folder / "o.npz")
    assert word in message.refused()
    assert sorted(folder.iterdir()) == before


@pytest.mark.parametrize(
    ("flags", "code", "word"),
    [
        (("--batch-size", 0), 2, "batch"),
        (("--device", "cuda:99"), 4, "cuda:99"),
        (("--backend", "nunpy"), 2, "'numpy'"),
    ],
    ids=str,
)
def test_bad_usage_is_refused(dms: Run, folder: Path, flags: Any, code: int, word: str) -> None:
    arguments = ("predict", folder / "artifact", folder / "in.npz", "-o", folder / "o.npz")
    assert word in dms(*arguments, *flags).refused(code)
    assert not (folder / "o.npz").exists()


def test_the_input_is_not_overwritten(dms: Run, folder: Path) -> None:
    source = folder / "in.npz"
    before = source.read_bytes()
    assert "input" in dms("predict", folder / "artifact", source, "-o", source).refused()
    assert source.read_bytes() == before


# -------------------------------------------------------------------------------------- hostile


def test_a_scheduler_alone_cannot_predict(dms: Run, folder: Path) -> None:
    save_artifact(folder / "alone", Artifact(spec=SPECS["robust"]))
    message = dms("predict", folder / "alone", folder / "in.npz", "-o", folder / "o.npz").refused()
    assert "dms schedule" in message


@pytest.mark.clause("DMS-X-005")
@pytest.mark.parametrize("spec", ["robust", "paper"])
def test_missing_or_misshapen_heads_are_refused(spec: str) -> None:
    """Whichever parameter it is that the spec reads."""
    good = make_artifact(SPECS[spec])
    predictor = Predictor(good, NUMPY)
    table = make_table(4)
    for name in good.parameters:
        for changed in (None, np.ones((2, 2, 2), np.float32)):
            parameters = {k: v for k, v in good.parameters.items() if k != name}
            if changed is not None:
                parameters[name] = changed
            bad = replace(good, parameters=parameters)
            unread = ("head.", "projection", "dropout") if spec == "robust" else ("joint.",)
            if any(part in name for part in unread):
                got = Predictor(bad, NUMPY).predict(table)
                assert_close(got, predictor.predict(table), rounds=0)
                continue
            with pytest.raises(ArtifactError, match="heads"):
                Predictor(bad, NUMPY)


@pytest.mark.clause("DMS-X-005")
@pytest.mark.parametrize(
    "changes",
    [
        {"classes": None},
        {"classes": []},
        {"classes": ["a", "a", "b", "c"]},
        {"classes": ["a", 1, 2, 3]},
        {"classes": [1.5, 2.5, 3.5, 4.5]},
        {"classes": [2**70, 1, 2, 3]},
        {"classes": [["a"], ["b"], ["c"], ["d"]]},
        {"classes": ["a", "b", "c"], "prior": [0.2, 0.3, 0.5]},
        {"prior": None},
        {"prior": [1.0]},
        {"prior": [0.5, 0.5, 0.5, 0.5]},
        {"prior": [2.0, -1.0, 0.0, 0.0]},
        {"prior": ["a", "b", "c", "d"]},
        {"dropout": 1.0},
        {"dropout": "0.2"},
        {"passes": -1},
        {"passes": True},
        {"passes": 2.0},
    ],
    ids=str,
)
def test_a_hostile_model_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    good = make_artifact(SPECS["robust"])
    save_artifact(tmp_path / "a", replace(good, model={**good.model, **changes}))
    with pytest.raises(ArtifactError):
        Predictor(load_artifact(tmp_path / "a"), NUMPY)


def test_a_table_of_other_modalities_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "t.npz", **{n: a for n, a in make_arrays().items() if n != "present"})
    table = read_table(tmp_path / "t.npz", axis=("c", "b", "a"))
    with pytest.raises(ShapeError, match="a, b, c"):
        Predictor(make_artifact(SPECS["robust"]), NUMPY).predict(table)


def test_a_zero_temperature_is_refused() -> None:
    good = make_artifact(SPECS["robust"])
    parameters = dict(good.parameters) | {"heads.b.temperature": np.array(0.0)}
    with pytest.raises(DMSError, match="temperature of 'b'"):
        Predictor(replace(good, parameters=parameters), NUMPY)


# ----------------------------------------------------------------------------------- end to end


@pytest.mark.clause("DMS-X-007")
def test_from_scans_of_digits_to_predictions(dms: Run, tmp_path: Path) -> None:
    """Real data, named classes, views missing in training and in use, three backends."""
    pytest.importorskip("torch")
    pytest.importorskip("onnxruntime")
    datasets = pytest.importorskip("sklearn.datasets")
    from dms_spec.demo.views import VIEWS

    digits = datasets.load_digits()
    random = np.random.Generator(np.random.Philox(0))
    rows = len(digits.target)
    present = random.random((rows, len(VIEWS))) > 0.2
    present[~present.any(axis=1), 0] = True
    views = {name: view(digits.images) for name, view in VIEWS.items()}
    for m, name in enumerate(views):
        views[name][~present[:, m]] = np.nan
    words = np.array([f"digit {i}" for i in range(10)])
    order = random.permutation(rows)
    arrays = views | {"present": present, "labels": words[digits.target]}
    np.savez(tmp_path / "t.npz", train=order[:1200], test=order[1200:], **arrays)
    flags = ("--epochs", 15, "--lr", 0.02)
    dms("fit", tmp_path / "t.npz", "-o", tmp_path / "a", *flags).succeeded()
    use = {name: array[order[1200:]] for name, array in arrays.items()}
    np.savez(tmp_path / "use.npz", **use)
    results = []
    for name in ("numpy", *OTHERS):
        output = tmp_path / f"{name}.npz"
        arguments = ("predict", tmp_path / "a", tmp_path / "use.npz", "-o", output)
        report = json.loads(dms(*arguments, "--backend", name, "--json").succeeded())
        results.append(read_arrays(output))
        test = load_artifact(tmp_path / "a").model["metrics"]["test"]["fused"]
        assert report["accuracy"] == pytest.approx(test["accuracy"], abs=1e-12)
        assert report["accuracy"] > 0.9
    for other in results[1:]:
        assert_close(other, results[0], rounds=64)
    assert set(results[0]["predicted"]) == set(words)


def test_a_fitted_artifact_schedules_as_well(dms: Run, folder: Path) -> None:
    """`dms schedule` uses the scheduler of an artifact and leaves its heads alone."""
    save_artifact(folder / "fitted", make_artifact(SPECS["robust"]))
    random = np.random.Generator(np.random.Philox(5))
    logits = random.normal(size=(7, 3, 4))
    write_arrays(
        folder / "batch.npz", {"logits": logits, "mc_logits": random.normal(size=(3, 7, 3, 4))}
    )
    done = dms(
        "schedule", folder / "batch.npz", "--spec", folder / "fitted", "-o", folder / "w.npz"
    )
    assert done.code == 0, done
    assert read_arrays(folder / "w.npz")["weights"].shape == (7, 3)


def test_an_output_whose_name_is_too_long_is_one_message(dms: Run, folder: Path) -> None:
    """Asking whether it is the input must not fail on it."""
    save_artifact(folder / "long", make_artifact(SPECS["robust"]))
    write_arrays(folder / "in.npz", make_arrays(3))
    name = "x" * 5000 + ".npz"
    assert dms("predict", folder / "long", folder / "in.npz", "-o", name).code == 2


# ------------------------------------------------------------------------ tables of other people


@pytest.fixture
def predict(dms: Run, folder: Path) -> Run:
    """Predicts from arrays with the artifact at random, and gives back report and stderr."""

    def run(arrays: dict[str, Any], *flags: Any, suffix: str = ".npz") -> Any:
        (folder / "o.npz").unlink(missing_ok=True)
        write_arrays(folder / f"in{suffix}", arrays)
        arguments = ("predict", folder / "artifact", folder / f"in{suffix}", "-o", folder / "o.npz")
        return dms(*arguments, *flags, "--json")

    return run


def by_name(arrays: dict[str, Any]) -> dict[str, Any]:
    present = arrays["present"]
    named = {f"present.{name}": present[:, m].copy() for m, name in enumerate(NAMES)}
    return {k: a for k, a in arrays.items() if k != "present"} | named


def test_a_table_in_another_order_is_read_right(predict: Run, folder: Path) -> None:
    """By name, or by columns in the order of the file; from safetensors, by name alone."""
    predict(make_arrays()).succeeded()
    wanted = read_arrays(folder / "o.npz")
    arrays = make_arrays()
    turned = {name: arrays[name] for name in reversed(NAMES)}
    for table, suffix in (
        (turned | {"present": arrays["present"][:, ::-1]}, ".npz"),
        (turned | by_name(make_arrays()), ".npz"),
        (by_name(make_arrays()), ".safetensors"),
    ):
        predict(table, suffix=suffix).succeeded()
        got = read_arrays(folder / "o.npz")
        assert all(np.array_equal(got[name], array) for name, array in wanted.items())
    assert "have no names" in predict(make_arrays(), suffix=".safetensors").refused()


def test_a_table_that_lacks_a_modality_is_predicted_without_it(predict: Run, folder: Path) -> None:
    arrays = by_name(make_arrays())
    without = {name: a for name, a in arrays.items() if not name.endswith("b")}
    report = json.loads(predict(without).succeeded())
    assert any("'b' is not in" in note for note in report["notes"])
    lacking = read_arrays(folder / "o.npz")
    marked = arrays | {"present.b": np.zeros(50, dtype=bool)}
    predict(marked).succeeded()
    absent = read_arrays(folder / "o.npz")
    assert all(np.array_equal(absent[name], array) for name, array in lacking.items())
    report = json.loads(predict(arrays, "--modalities", "a,c").succeeded())
    assert "array 'b' is not used" in report["notes"]
    chosen = read_arrays(folder / "o.npz")
    assert all(np.array_equal(chosen[name], array) for name, array in lacking.items())


def test_an_array_that_the_artifact_does_not_know_is_left_alone(predict: Run) -> None:
    more = {"d": np.full((50, 2), 0.3), "y": np.arange(50)[:, None]}
    report = json.loads(predict(make_arrays() | more).succeeded())
    assert report["notes"][:2] == ["array 'd' is not used", "array 'y' is not used"]
    mask = {"mask": np.ones((50, 3), dtype=bool)}
    assert "Did you mean 'present'?" in predict(make_arrays() | mask).refused()


@pytest.mark.parametrize("flag", ["a,d", "d", "a,,b", "a,a"])
def test_a_choice_of_modalities_must_be_one(predict: Run, flag: str) -> None:
    predict(make_arrays() | {"d": np.full((50, 2), 0.3)}, "--modalities", flag).refused()


ODD: dict[str, tuple[Any, str]] = {
    "integers": (np.arange(50) % 3, "accuracy is not measured: the labels are integers such as 0"),
    "other names": (np.array(["Cat"] * 50), "none of the labels is a class that was learned"),
    "a quantity": (np.linspace(0, 1, 50), "labels are not used:"),
    "many a row": (np.ones((50, 2), int), "labels are not used:"),
    "all missing": (np.full(50, np.nan), "missing in every row"),
}


@pytest.mark.parametrize("case", ODD)
def test_labels_that_cannot_be_compared_are_a_note(predict: Run, case: str) -> None:
    labels, word = ODD[case]
    report = json.loads(predict(make_arrays() | {"labels": labels}).succeeded())
    assert "accuracy" not in report
    assert any(word in note for note in report["notes"])


def test_rows_without_a_label_are_not_measured(predict: Run, folder: Path) -> None:
    predict(make_arrays()).succeeded()
    labels = read_arrays(folder / "o.npz")["predicted"].copy()
    labels[:5], labels[5:10] = "", "unicorn"
    report = json.loads(predict(make_arrays() | {"labels": labels}).succeeded())
    assert report["accuracy"] == pytest.approx(40 / 45)
    assert any("no label in 5 of 50 rows" in note for note in report["notes"])
    assert any("(5 rows)" in note for note in report["notes"])


def test_how_a_table_was_split_is_nothing_to_a_prediction(predict: Run) -> None:
    labels = np.array(CLASSES * 13)[:50]
    split = {"labels": labels, "train": np.array([0, 1]), "test": np.arange(10, 50)}
    report = json.loads(predict(make_arrays() | split).succeeded())
    assert not any("training" in note and "rows of classes" in note for note in report["notes"])
