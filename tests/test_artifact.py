"""Artifacts: bit for bit what was saved, or refused; never a pickle, never half a folder."""

from __future__ import annotations

import json
import pickle
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from fuzzing import small_artifact
from hypothesis import given, settings
from hypothesis import strategies as st

from dms_spec import SchedulerSpec, get_backend
from dms_spec._version import ARTIFACT_FORMAT, PACKAGE
from dms_spec.artifact import Artifact, load_artifact, save_artifact
from dms_spec.conformance import closeness, oracle, strategies, worked_example
from dms_spec.errors import ArtifactError, DMSError, DMSWarning, FileError, SpecError
from dms_spec.files import read_arrays, save_arrays, write_arrays
from dms_spec.types import ModalityBatch

ROOT = Path(__file__).resolve().parents[1]
NAMES = ("image", "text", "audio")
SPEC = SchedulerSpec(
    modalities=NAMES,
    signals={"confidence": {}, "anchored_alignment": {}},
    coefficients={"confidence": 1.0, "anchored_alignment": 2.0},
)
ANCHOR = "signals.anchored_alignment.anchor"
GOOD = Artifact(spec=SPEC, parameters={ANCHOR: np.array([0.1, -0.3])})


def contents(folder: Path) -> dict[str, bytes | None]:
    """Every path below a folder, with what is in it."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    folder = tmp_path / "artifact"
    save_artifact(folder, GOOD)
    return folder


# ------------------------------------------------------------------------------------ round trip


@pytest.mark.clause("DMS-X-001", "DMS-X-002")
@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(
    case=strategies.cases("float64"),
    dtype=st.sampled_from(["float64", "float32", "float16", ">f8", ">f4"]),
    order=st.sampled_from(["C", "F"]),
)
def test_what_is_saved_is_what_is_loaded(
    tmp_path_factory: pytest.TempPathFactory, case: strategies.Case, dtype: str, order: Any
) -> None:
    """Any spec and its parameters, of any float dtype, byte order and memory layout."""
    parameters = {
        name: np.asarray(array, order=order).astype(dtype)
        for name, array in case.parameters.items()
    }
    folder = tmp_path_factory.mktemp("round") / "artifact"
    save_artifact(folder, Artifact(spec=case.spec, parameters=parameters))
    back = load_artifact(folder)
    assert back.spec == case.spec
    assert back.parameters.keys() == parameters.keys()
    for name, array in parameters.items():
        got = back.parameters[name]
        assert got.shape == array.shape
        assert got.dtype == array.dtype.newbyteorder("=")
        assert got.tobytes() == array.astype(got.dtype).tobytes()


@pytest.mark.clause("DMS-X-002")
@pytest.mark.parametrize(
    "array",
    [
        np.array(0.1),
        np.zeros((0, 3)),
        np.array([0.0, -0.0, 5e-324, 1.7e308]),
        np.arange(12.0).reshape(3, 4)[::2, ::-1],
    ],
    ids=["scalar", "empty", "extreme", "strided"],
)
def test_shapes_and_bits_survive(tmp_path: Path, array: np.ndarray) -> None:
    save_artifact(tmp_path / "a", Artifact(spec=SPEC, parameters={"policy.x": array}))
    got = load_artifact(tmp_path / "a").parameters["policy.x"]
    assert got.shape == array.shape
    assert got.tobytes() == array.tobytes()


@pytest.mark.clause("DMS-X-001")
def test_the_folder_holds_three_files(saved: Path) -> None:
    """The config with format, version, spec, shapes and dtypes; the parameters; and a card."""
    assert {path.name for path in saved.iterdir()} == {
        "config.json",
        "model.safetensors",
        "README.md",
    }
    config = json.loads((saved / "config.json").read_text(encoding="utf-8"))
    assert config["format"] == "dms-spec"
    assert config["format_version"] == ARTIFACT_FORMAT
    assert config["package"] == PACKAGE
    assert SchedulerSpec.from_dict(config["spec"]) == SPEC
    assert config["parameters"] == {ANCHOR: {"shape": [2], "dtype": "float64"}}
    tensors = safetensors.numpy.load_file(saved / "model.safetensors")
    assert tensors.keys() == {ANCHOR}
    card = (saved / "README.md").read_text(encoding="utf-8")
    for word in (*NAMES, "linear", ANCHOR, "[2]", "float64", SPEC.edition, PACKAGE):
        assert word in card


def test_a_spec_without_parameters_is_an_artifact_too(tmp_path: Path) -> None:
    spec = SchedulerSpec.preset("paper", NAMES)
    save_artifact(tmp_path / "a", Artifact(spec=spec))
    assert load_artifact(tmp_path / "a") == Artifact(spec=spec, parameters={})


@pytest.mark.clause("DMS-X-007", "DMS-Q-011")
@pytest.mark.parametrize(
    ("spec", "parameters"),
    [
        (SPEC, GOOD.parameters),
        (SchedulerSpec(modalities=NAMES, policy="static"), {"policy.bias": [0.3, -1.0, 2.0]}),
        (
            SchedulerSpec(modalities=NAMES, policy="co_attention"),
            {"policy.query": [[0.5, 1.0], [0.0, -2.0]], "policy.key": [[1.0, 0.2], [0.7, 0.0]]},
        ),
    ],
    ids=["linear", "static", "co_attention"],
)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_an_artifact_means_the_same_to_every_backend(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    spec: SchedulerSpec,
    parameters: dict[str, Any],
    dtype: str,
) -> None:
    """Saved once, run in NumPy and in a third party's backend: each close to the oracle."""
    pytest.importorskip("array_api_strict")
    monkeypatch.syspath_prepend(ROOT / "examples" / "dms-strict")
    from dms_strict.backend import StrictBackend

    arrays = {name: np.asarray(value, dtype=dtype) for name, value in parameters.items()}
    save_artifact(tmp_path / "a", Artifact(spec=spec, parameters=arrays))
    artifact = load_artifact(tmp_path / "a")
    batch = worked_example.arrays(dtype)
    exact = oracle.schedule(artifact.spec, batch, artifact.parameters)
    scale = closeness.scales(artifact.spec, exact, batch, artifact.parameters, np.dtype(dtype))
    allowed = closeness.K * np.finfo(dtype).eps * scale["weights"]
    for backend in (get_backend("numpy"), StrictBackend()):
        moved = {name: backend.from_numpy(array, "cpu") for name, array in batch.items()}
        result = backend.scheduler(artifact.spec, artifact.parameters)(ModalityBatch(**moved))
        weights = backend.to_numpy(result.weights)
        assert weights.dtype == dtype
        assert np.all(np.abs(weights - exact.weights) <= allowed)


@pytest.mark.clause("DMS-X-002")
def test_a_model_goes_with_the_parameters(tmp_path: Path) -> None:
    """Plain data, as it was; the parameters of heads are not the scheduler's."""
    heads = {"heads.image.temperature": np.array(2.0), "head.bias": np.zeros(2)}
    artifact = Artifact(
        spec=SPEC,
        parameters={**GOOD.parameters, **heads},
        model={"classes": [1, 2], "x": {"y": 0.1}},
    )
    save_artifact(tmp_path / "a", artifact)
    back = load_artifact(tmp_path / "a")
    assert back.model == artifact.model
    assert back.parameters.keys() == artifact.parameters.keys()
    assert back.scheduler_parameters.keys() == {ANCHOR}
    save_artifact(tmp_path / "b", GOOD)
    assert "model" not in json.loads((tmp_path / "b" / "config.json").read_text("utf-8"))
    assert load_artifact(tmp_path / "b").model == {}


@pytest.mark.clause("DMS-X-006")
@pytest.mark.parametrize("value", [np.zeros(2), {1, 2}, float("nan"), b"a"], ids=repr)
def test_a_model_that_is_no_plain_data_is_not_saved(tmp_path: Path, value: Any) -> None:
    with pytest.raises(ArtifactError, match="plain data"):
        save_artifact(tmp_path / "a", Artifact(spec=SPEC, model={"x": value}))
    assert contents(tmp_path) == {}


# --------------------------------------------------------------------------------------- refused


def _edit(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(config | changes), encoding="utf-8")


@pytest.mark.clause("DMS-X-003")
def test_a_newer_format_is_refused_with_its_author(saved: Path) -> None:
    _edit(saved, format_version=ARTIFACT_FORMAT + 1, package="9.8.7")
    with pytest.raises(ArtifactError) as caught:
        load_artifact(saved)
    assert "9.8.7" in str(caught.value)
    assert str(ARTIFACT_FORMAT + 1) in str(caught.value)
    assert "Update" in str(caught.value)


@pytest.mark.clause("DMS-X-003", "DMS-X-005")
@pytest.mark.parametrize(
    ("changes", "kind", "word"),
    [
        ({"format_version": "1"}, ArtifactError, "'1'"),
        ({"format_version": 0}, ArtifactError, "0"),
        ({"format_version": None}, ArtifactError, "None"),
        ({"format_version": 1.0}, ArtifactError, "1.0"),
        ({"format": "other"}, ArtifactError, "dms-spec"),
        ({"parameters": {}}, ArtifactError, "together"),
        ({"parameters": None}, ArtifactError, "parameters"),
        ({"parameters": {ANCHOR: {"shape": [3], "dtype": "float64"}}}, ArtifactError, "together"),
        ({"parameters": {ANCHOR: {"shape": [2], "dtype": "float32"}}}, ArtifactError, "together"),
        ({"parameters": {"x": {"shape": [2], "dtype": "float64"}}}, ArtifactError, "together"),
        ({"spec": {"modalities": ["a"], "polcy": "linear"}}, DMSError, "'policy'"),
        ({"model": []}, ArtifactError, "model"),
        ({"model": None}, ArtifactError, "model"),
        ({"spec": []}, ArtifactError, "object"),
        ({"spec": {}}, SpecError, "modalities"),
    ],
    ids=str,
)
def test_a_config_that_is_not_of_these_parameters_is_refused(
    saved: Path, changes: dict[str, Any], kind: type[Exception], word: str
) -> None:
    _edit(saved, **changes)
    with pytest.raises(kind) as caught:
        load_artifact(saved)
    assert word in str(caught.value)


@pytest.mark.clause("DMS-X-005")
@pytest.mark.parametrize(
    "text", ["", "{", "[]", "3", '"dms-spec"', "[" * 100_000, b"\xff\xfe"], ids=range(7)
)
def test_a_config_that_is_none_is_refused(saved: Path, text: str | bytes) -> None:
    (saved / "config.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ArtifactError, match=r"artifact|config"):
        load_artifact(saved)


@pytest.mark.clause("DMS-X-005")
@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
@pytest.mark.parametrize("what", ["missing", "a folder", "empty", "cut", "a pickle"])
def test_a_damaged_folder_is_refused(saved: Path, name: str, what: str) -> None:
    path = saved / name
    content = path.read_bytes()
    path.unlink()
    if what == "a folder":
        path.mkdir()
    elif what != "missing":
        damaged = {"empty": b"", "cut": content[:-3], "a pickle": pickle.dumps({"a": 1})}
        path.write_bytes(damaged[what])
    with pytest.raises((ArtifactError, FileError), match="artifact"):
        load_artifact(saved)


BAD_PARAMETERS = {
    "nan": np.array([1.0, np.nan]),
    "infinite": np.array([-np.inf, 1.0]),
    "integer": np.array([1, 2]),
    "bool": np.array([True, False]),
    "complex": np.array([1.0 + 0j, 2.0]),
    "text": np.array(["1", "2"]),
    "object": np.array([1.0, None], dtype=object),
    "extended": np.array([1.0, 2.0], dtype=np.clongdouble),
}


@pytest.mark.clause("DMS-X-005", "DMS-X-006")
@pytest.mark.parametrize("name", BAD_PARAMETERS)
def test_bad_parameters_are_not_saved(tmp_path: Path, name: str) -> None:
    parameters = {ANCHOR: np.ones(2), "policy.bad": BAD_PARAMETERS[name]}
    with pytest.raises(ArtifactError, match=r"'policy\.bad'"):
        save_artifact(tmp_path / "a", Artifact(spec=SPEC, parameters=parameters))
    assert contents(tmp_path) == {}


@pytest.mark.clause("DMS-X-005")
@pytest.mark.parametrize("name", ["nan", "infinite", "integer", "bool"])
def test_bad_parameters_are_not_loaded(saved: Path, name: str) -> None:
    """Also when config and file agree about them."""
    array = BAD_PARAMETERS[name]
    save_arrays(saved / "model.safetensors", {ANCHOR: array}, "model")
    _edit(saved, parameters={ANCHOR: {"shape": [2], "dtype": array.dtype.name}})
    with pytest.raises(ArtifactError, match=f"'{ANCHOR}'"):
        load_artifact(saved)


@pytest.mark.clause("DMS-X-004")
def test_no_pickle_is_written_or_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Writing and reading both formats and an artifact never gets near pickle."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a pickle was touched")

    for name in ("load", "loads", "dump", "dumps", "Unpickler", "Pickler"):
        monkeypatch.setattr(pickle, name, refuse)
    arrays = worked_example.arrays()
    for suffix in (".npz", ".safetensors"):
        write_arrays(tmp_path / f"a{suffix}", arrays)
        assert read_arrays(tmp_path / f"a{suffix}").keys() == arrays.keys()
    save_artifact(tmp_path / "a", GOOD)
    load_artifact(tmp_path / "a")
    with pytest.raises(ValueError, match="pickle"):
        write_arrays(tmp_path / "b.npz", {"a": np.array([None])})
    assert not (tmp_path / "b.npz").exists()


# ------------------------------------------------------------------------------------- overwrite


@pytest.mark.clause("DMS-X-006")
def test_an_artifact_is_replaced_only_on_request(saved: Path) -> None:
    before = contents(saved.parent)
    other = Artifact(spec=SPEC.replace(modalities=("x", "y", "z")), parameters=GOOD.parameters)
    with pytest.raises(ArtifactError, match="exists"):
        save_artifact(saved, other)
    assert contents(saved.parent) == before
    (saved / "train.npz").write_bytes(b"years")
    with pytest.warns(DMSWarning, match=r"left alone: train\.npz"):
        save_artifact(saved, other, overwrite=True)
    assert load_artifact(saved).spec == other.spec
    assert contents(saved.parent).keys() == before.keys() | {"artifact/train.npz"}
    assert (saved / "train.npz").read_bytes() == b"years"


@pytest.mark.clause("DMS-X-006")
@pytest.mark.parametrize("what", ["folder", "file"])
def test_something_else_is_never_replaced(tmp_path: Path, what: str) -> None:
    """A folder of other things, or a file, is not an old artifact, whatever was passed."""
    path = tmp_path / "thesis"
    if what == "folder":
        path.mkdir()
        (path / "chapter1.tex").write_text("years", encoding="utf-8")
    else:
        path.write_text("years", encoding="utf-8")
    before = contents(tmp_path)
    with pytest.raises(ArtifactError):
        save_artifact(path, GOOD, overwrite=True)
    assert contents(tmp_path) == before


@pytest.mark.clause("DMS-X-006")
@pytest.mark.parametrize("old", [True, False], ids=["over an old one", "new"])
@pytest.mark.parametrize("error", [OSError(28, "No space left"), KeyboardInterrupt()], ids=repr)
@pytest.mark.parametrize("moment", ["writing", "the card", "moving"])
def test_a_failure_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: bool, error: BaseException, moment: str
) -> None:
    """While the parameters or the card are written, or between the two moves at the end."""
    folder = tmp_path / "artifact"
    if old:
        save_artifact(folder, Artifact(spec=SchedulerSpec.preset("static", NAMES)))
    before = contents(tmp_path)
    failed = []

    def fail_when(condition: Callable[..., bool], real: Callable[..., Any]) -> Callable[..., Any]:
        def maybe(*args: Any, **kwargs: Any) -> Any:
            if not condition(*args):
                return real(*args, **kwargs)
            failed.append(args)
            raise error

        return maybe

    if moment == "writing":
        real = safetensors.numpy.save_file
        monkeypatch.setattr(safetensors.numpy, "save_file", fail_when(lambda *_: True, real))
    elif moment == "the card":
        monkeypatch.setattr(
            Path, "write_text", fail_when(lambda p, _: p.name == "README.md", Path.write_text)
        )
    else:
        # A new folder is moved whole; over an old one its files are, and here the second fails.
        monkeypatch.setattr(Path, "rename", fail_when(lambda p, to: p.name == "new", Path.rename))
        second = fail_when(lambda p, to: p.parent.name == "new" and "model" in p.name, Path.replace)
        monkeypatch.setattr(Path, "replace", second)
    with pytest.raises(FileError if isinstance(error, OSError) else KeyboardInterrupt):
        save_artifact(folder, GOOD, overwrite=old)
    assert len(failed) == 1
    assert contents(tmp_path) == before


@pytest.mark.clause("DMS-X-006")
def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FileError, match="file"):
        save_artifact(tmp_path / "file" / "artifact", GOOD)
    assert contents(tmp_path) == {"file": b""}


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX permissions")
def test_an_artifact_has_the_users_permissions(saved: Path, tmp_path: Path) -> None:
    """A temporary folder is private; a finished one is like any other that the user makes."""
    plain = tmp_path / "plain"
    plain.mkdir()
    (plain / "file").touch()
    assert saved.stat().st_mode == plain.stat().st_mode
    for path in saved.iterdir():
        assert path.stat().st_mode == (plain / "file").stat().st_mode


# ---------------------------------------------------------------------------------- differences


def test_the_content_hash_knows_contents_and_nothing_else(tmp_path: Path) -> None:
    artifact = small_artifact()
    save_artifact(tmp_path / "a", artifact)
    same = load_artifact(tmp_path / "a")
    order = dict(reversed(same.parameters.items()))
    assert artifact.content_hash() == same.content_hash()
    assert replace(same, parameters=order).content_hash() == artifact.content_hash()
    assert artifact.content_hash() in (tmp_path / "a" / "README.md").read_text(encoding="utf-8")
    moved = dict(same.parameters) | {"heads.a.temperature": np.array(np.nextafter(1.0, 2))}
    for other in (
        replace(same, parameters=moved),
        replace(same, model={**same.model, "dropout": 0.2}),
        replace(same, spec=same.spec.replace(strict=True)),
    ):
        assert other.content_hash() != artifact.content_hash()


def test_diff_says_what_differs(dms: Callable[..., Any], tmp_path: Path) -> None:
    artifact = small_artifact()
    moved = dict(artifact.parameters)
    moved["heads.a.classifier.bias"] = np.array([3.0, 0.0])
    model = {**artifact.model, "settings": {"heads": {"rate": 0.5}}}
    save_artifact(tmp_path / "a", artifact)
    save_artifact(tmp_path / "same", artifact)
    changed = Artifact(spec=artifact.spec.replace(strict=True), parameters=moved, model=model)
    save_artifact(tmp_path / "b", changed)
    draw = np.random.default_rng(0)
    np.savez(tmp_path / "t.npz", a=draw.normal(size=(40, 3)), b=draw.normal(size=(40, 3)))
    same = dms("diff", tmp_path / "a", tmp_path / "same", "--table", tmp_path / "t.npz")
    assert "The contents are the same" in same.succeeded() and "0 get another class" in same.out
    given = ("diff", tmp_path / "a", tmp_path / "b", "--table", tmp_path / "t.npz")
    done = dms(*given)
    assert done.code == 1 and "The contents are different." in done.out
    found = json.loads(dms(*given, "--json").out)
    assert found["hashes"] == [artifact.content_hash(), changed.content_hash()]
    assert {(one["where"], one["name"]): one["second"] for one in found["differences"]} == {
        ("spec", "strict"): True,
        ("model", "settings.heads.rate"): 0.5,
        ("parameters", "heads.a.classifier.bias"): "differs by up to 3",
    }
    assert 0 < found["predictions"]["other_labels"] <= 40
    assert found["predictions"]["largest_difference"]["probabilities"] > 0.1
    assert "is not an artifact" in dms("diff", tmp_path / "a", tmp_path).refused()
