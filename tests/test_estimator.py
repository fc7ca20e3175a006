"""The estimator: scikit-learn's own checks, every kind of X, files, and what it says of itself."""

from __future__ import annotations

import pickle
import subprocess
import sys
import warnings
from collections.abc import Mapping
from dataclasses import fields, replace
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("sklearn")
pytest.importorskip("torch")
pytest.importorskip("tqdm")

from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, GroupKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

import dms_spec
from dms_onnx.session import Session
from dms_spec import DMSWarning, FusionClassifier, load_artifact
from dms_spec.cli import main
from dms_spec.demo.table import digits_table
from dms_spec.embeddings.settings import FitSettings
from dms_spec.errors import ArtifactError, MissingInput, ShapeError, SpecError

ROWS, WIDTHS = 90, {"image": 4, "text": 3}
BLOCKS = {"image": slice(0, 4), "text": [4, 5, 6]}
#: A fit in a few hundredths of a second, for what does not depend on what is learned.
QUICK: dict[str, Any] = {"spec": "static", "epochs": 2, "learning_rate": 0.03}

#: What cannot pass, and why.
EXPECTED_FAILURES = {
    "check_sample_weight_equivalence_on_dense_data": "rows are cut into folds, at random: where a "
    "row comes twice its copies come into folds of their own, and a row of weight 2 into one",
}


@pytest.fixture(scope="module")
def arrays() -> dict[str, Any]:
    """Two views of three classes, and rows in which one of them is missing."""
    random = np.random.default_rng(0)
    labels = np.arange(ROWS) % 3
    found: dict[str, Any] = {
        name: (random.normal(size=(ROWS, width)) + 3 * labels[:, None]).astype(np.float32)
        for name, width in WIDTHS.items()
    }
    found["image"][::9] = np.nan
    found["text"][5::9] = np.nan
    return found


@pytest.fixture(scope="module")
def labels() -> Any:
    return np.array(["ant", "bee", "cat"])[np.arange(ROWS) % 3]


@pytest.fixture(scope="module")
def fitted(arrays: dict[str, Any], labels: Any) -> FusionClassifier:
    return FusionClassifier(random_state=1).fit(arrays, labels)


def wide(arrays: Mapping[str, Any]) -> Any:
    return np.hstack([arrays[name] for name in WIDTHS])


# --------------------------------------------------------------------------------- its interface


def checked(classifier: FusionClassifier) -> dict[str, list[str]]:
    """The checks of scikit-learn by what became of them."""
    found: dict[str, list[str]] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the checks' own, and of tables made to be odd
        for result in check_estimator(
            classifier, expected_failed_checks=EXPECTED_FAILURES, on_fail=None, on_skip=None
        ):
            found.setdefault(result["status"], []).append(result["check_name"])
            if result["status"] == "failed":
                print(result["check_name"], repr(result["exception"]))
    return found


def test_scikit_learns_checks_pass() -> None:
    """All but what is listed; one more is skipped unless its environment variable is set."""
    found = checked(FusionClassifier(**QUICK))
    assert not found.get("failed")
    assert found["xfail"] == list(EXPECTED_FAILURES)
    assert set(found.get("skipped", [])) <= {
        "check_array_api_input",
        "check_sample_weights_pandas_series",  # without pandas
        "check_classifier_data_not_an_array",
    }
    assert len(found["passed"]) >= 58


@pytest.mark.slow
def test_scikit_learns_checks_pass_with_the_defaults() -> None:
    assert not checked(FusionClassifier()).get("failed")


def test_it_has_the_settings_of_a_fit_and_their_defaults() -> None:
    own = {p.name: p.default for p in signature(FusionClassifier.__init__).parameters.values()}
    theirs = {f.name: f.default for f in fields(FitSettings)}
    assert own["random_state"] == theirs.pop("seed")
    assert (own["class_weight"], theirs.pop("class_weight")) == (None, "none")
    assert {name: own[name] for name in theirs} == theirs


def test_the_front_door_stays_light() -> None:
    """Importing the package imports neither; `import *` does not either."""
    code = (
        "import sys, dms_spec; from dms_spec import *; assert 'FusionClassifier' in dir(dms_spec)"
    )
    code += "; assert not {'sklearn', 'torch', 'huggingface_hub'} & set(sys.modules)"
    code += "; from dms_spec import FusionClassifier; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


# ------------------------------------------------------------------------------- what comes in


def forms(arrays: Mapping[str, Any], labels: Any) -> dict[str, tuple[FusionClassifier, Any]]:
    """The same table in every form, and the classifier that reads it."""
    pd = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    X = wide(arrays)
    names = [f"{name}_{k}" for name, width in WIDTHS.items() for k in range(width)]
    there = {name: ~np.isnan(array[:, 0]) for name, array in arrays.items()}
    rows = {n: [None if np.isnan(row[0]) else row for row in a] for n, a in arrays.items()}
    full = {name: np.nan_to_num(array, nan=7.0) for name, array in arrays.items()}
    patterns = {"image": "image_*", "text": [f"text_{k}" for k in range(3)]}
    return {
        "arrays": (FusionClassifier(**QUICK), arrays),
        "rows that are None": (FusionClassifier(**QUICK), rows),
        "present by name": (
            FusionClassifier(**QUICK),
            full | {f"present.{name}": own for name, own in there.items()},
        ),
        "blocks": (FusionClassifier(BLOCKS, **QUICK), X),
        "a frame": (FusionClassifier(patterns, **QUICK), pd.DataFrame(X, columns=names)),
        "a frame of vectors": (FusionClassifier(**QUICK), pd.DataFrame(rows)),
    }


def test_every_form_of_the_same_table_gives_the_same_answers(
    arrays: dict[str, Any], labels: Any
) -> None:
    answers = {}
    for form, (classifier, X) in forms(arrays, labels).items():
        answers[form] = classifier.fit(X, labels).predict_proba(X)
        assert classifier.modalities_ == tuple(WIDTHS)
        assert len(classifier.notes_) == 2, "of too few epochs alone"
    first = answers.pop("arrays")
    for form, found in answers.items():
        np.testing.assert_array_equal(found, first, err_msg=form)


def test_present_says_what_is_there(fitted: FusionClassifier, arrays: dict[str, Any]) -> None:
    full = {name: np.nan_to_num(array) for name, array in arrays.items()}
    there = {name: ~np.isnan(array[:, 0]) for name, array in arrays.items()}
    stacked = np.stack(list(there.values()), axis=1)
    for present in (there, stacked):
        weights = fitted.weights(full, present=present)
        np.testing.assert_array_equal(weights, fitted.weights(arrays))
        np.testing.assert_array_equal(weights > 0, stacked)


def test_a_modality_may_lack_whole(fitted: FusionClassifier, arrays: dict[str, Any]) -> None:
    image = arrays["image"][1:9]
    with pytest.warns(DMSWarning, match="'text' is not in X"):
        given = fitted.weights({"image": image, "text": None})
    np.testing.assert_array_equal(given[:, 1], 0)


def test_what_is_weaker_is_a_warning(fitted: FusionClassifier) -> None:
    nothing = {name: np.full((2, width), np.nan) for name, width in WIDTHS.items()}
    with pytest.warns(DMSWarning, match="2 rows have nothing active"):
        fitted.predict(nothing)
    assert "2 rows have nothing active" in fitted.predictions(nothing).notes[-1]


def test_groups_weights_and_validation_reach_the_fit(arrays: dict[str, Any], labels: Any) -> None:
    weight = np.where(labels == "ant", 3.0, 1.0)
    validation = np.arange(ROWS) >= 60
    by_argument = FusionClassifier(**QUICK).fit(
        arrays, labels, groups=np.arange(ROWS) // 3, sample_weight=weight, validation=validation
    )
    columns = {"groups": np.arange(ROWS) // 3, "sample_weight": weight, "validation": validation}
    by_name = FusionClassifier(**QUICK).fit(arrays | columns | {"labels": labels})
    by_class = FusionClassifier(**QUICK, class_weight={"ant": 3.0}).fit(
        arrays, labels, groups=columns["groups"], validation=validation
    )
    plain = FusionClassifier(**QUICK).fit(arrays, labels)
    found = [c.predict_proba(arrays) for c in (by_argument, by_name, by_class, plain)]
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])
    assert not np.array_equal(found[0], found[3])
    assert by_argument.artifact_.model["data"]["validation_rows"] == 30


@pytest.mark.parametrize(
    ("modalities", "kind", "error", "message"),
    [
        ({"image": slice(0, 4), "text": [7]}, "wide", SpecError, "numbers from 0 to 6"),
        ({"image": "image_*"}, "wide", TypeError, "cannot be read as a frame"),
        (["image", "text"], "wide", SpecError, "does not say which columns"),
        (["image", "sound"], "arrays", MissingInput, "lacks modality 'sound'"),
    ],
)
def test_columns_that_are_not_there_are_named(
    arrays: dict[str, Any],
    labels: Any,
    modalities: Any,
    kind: str,
    error: type[Exception],
    message: str,
) -> None:
    X = wide(arrays) if kind == "wide" else arrays
    with pytest.raises(error, match=message):
        FusionClassifier(modalities, **QUICK).fit(X, labels)


def test_without_labels_or_columns_it_says_so(
    arrays: dict[str, Any], labels: Any, fitted: FusionClassifier
) -> None:
    with pytest.raises(ValueError, match="1d array"):
        FusionClassifier(**QUICK).fit(arrays)
    with pytest.raises(MissingInput, match="which columns are which modality"):
        fitted.predict(wide(arrays))
    with pytest.raises(ShapeError):
        fitted.predict({name: array[:, :2] for name, array in arrays.items()})
    with pytest.raises(MissingInput, match="'text' is None"):
        FusionClassifier(**QUICK).fit(arrays | {"text": None}, labels)
    with pytest.raises(SpecError, match="class_weight"):
        FusionClassifier(**QUICK, class_weight="equal").fit(arrays, labels)
    with pytest.raises(NotFittedError):
        FusionClassifier().save("nowhere")


# ------------------------------------------------------------------- what scikit-learn does with it


def test_it_works_in_scikit_learns_tools(arrays: dict[str, Any], labels: Any) -> None:
    """And none of them has to warn."""
    X = wide(arrays)
    scores = cross_val_score(FusionClassifier(BLOCKS, **QUICK), X, labels, cv=3)
    assert scores.min() > 0.8
    piped = make_pipeline(StandardScaler(), FusionClassifier(BLOCKS, **QUICK))
    name = "fusionclassifier__noise"
    search = GridSearchCV(piped, {name: [0.0, 0.4]}, cv=2).fit(X, labels)
    assert search.best_params_[name] in (0.0, 0.4)
    calibrated = CalibratedClassifierCV(FusionClassifier(BLOCKS, **QUICK), cv=2).fit(X, labels)
    np.testing.assert_allclose(calibrated.predict_proba(X).sum(axis=1), 1.0)
    copy = clone(search.best_estimator_)
    assert copy.get_params()[name] == search.best_params_[name]


def test_cross_validation_of_the_demonstrations_table_warns_of_nothing() -> None:
    """Warnings are errors here."""
    table = digits_table()
    X = np.hstack([table["pixels"], table["gradients"], table["spectrum"]])
    blocks = {"pixels": slice(0, 64), "gradients": slice(64, 96), "spectrum": slice(96, 136)}
    some = (~np.isnan(X)).any(axis=1)
    scores = cross_val_score(
        FusionClassifier(blocks, **QUICK),
        X[some],
        table["labels"][some],
        groups=table["groups"][some],
        cv=GroupKFold(3),
    )
    assert scores.min() > 0.7


# ------------------------------------------------------------------------------------- its files


def test_an_artifact_is_the_model(
    fitted: FusionClassifier, arrays: dict[str, Any], tmp_path: Path
) -> None:
    fitted.save(tmp_path / "model")
    loaded = FusionClassifier.load(tmp_path / "model")
    np.testing.assert_array_equal(loaded.predict_proba(arrays), fitted.predict_proba(arrays))
    assert loaded.classes_.tolist() == ["ant", "bee", "cat"]
    assert loaded.random_state == 1 and loaded.epochs == FitSettings.epochs
    with pytest.raises(ArtifactError):
        fitted.save(tmp_path / "model")


def test_an_artifact_knows_its_columns(arrays: dict[str, Any], labels: Any, tmp_path: Path) -> None:
    for form in ("blocks", "a frame", "a frame of vectors"):
        classifier, X = forms(arrays, labels)[form]
        classifier.fit(X, labels).save(tmp_path / form)
        loaded = FusionClassifier.load(tmp_path / form)
        np.testing.assert_array_equal(loaded.predict(X), classifier.predict(X))
        again = loaded.fit(X, labels)  # the settings are those that it was learned with
        np.testing.assert_array_equal(again.predict_proba(X), classifier.predict_proba(X))


@pytest.mark.parametrize("blocks", [3, {"image": [0]}, {"image": [0], "text": ["1"]}])
def test_a_damaged_artifact_is_refused(fitted: FusionClassifier, blocks: Any) -> None:
    model = {**fitted.artifact_.model, "blocks": blocks, "settings": [1]}
    with pytest.raises(ArtifactError, match="no usable blocks"):
        FusionClassifier.from_artifact(replace(fitted.artifact_, model=model))


def test_a_pickle_answers_alike(fitted: FusionClassifier, arrays: dict[str, Any]) -> None:
    loaded = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(loaded.predict_proba(arrays), fitted.predict_proba(arrays))


def test_the_onnx_file_is_verified_and_gives_the_same_labels(
    fitted: FusionClassifier, arrays: dict[str, Any], tmp_path: Path
) -> None:
    path = fitted.to_onnx(tmp_path)
    assert main(["verify", str(path)]) == 0
    there = np.stack([~np.isnan(array[:, 0]) for array in arrays.values()], axis=1)
    full = {name: np.nan_to_num(array) for name, array in arrays.items()}
    found = Session.load(path).run(full | {"present": there})
    own = fitted.predict(arrays)
    np.testing.assert_array_equal(fitted.classes_[found["probabilities"].argmax(axis=1)], own)


def test_an_explanation_reads_as_dms_explain_prints(
    fitted: FusionClassifier,
    arrays: dict[str, Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    fitted.save(tmp_path / "model")
    some = {name: array[:3] for name, array in arrays.items()}
    there = {f"present.{name}": ~np.isnan(array[:, 0]) for name, array in some.items()}
    np.savez(tmp_path / "some.npz", **some, **there)
    given = ["explain", str(tmp_path / "some.npz"), "--spec", str(tmp_path / "model")]
    assert main([*given, "--sample", "0", "1", "2"]) == 0
    explained = fitted.explain(some)
    assert capsys.readouterr().out.strip() == str(explained)
    assert explained[0]["modalities"][0]["state"] == "absent"


# --------------------------------------------------------------------------------------- the Hub


def test_it_goes_to_the_hub_and_comes_back(
    fitted: FusionClassifier, arrays: dict[str, Any], tmp_path: Path, monkeypatch: Any
) -> None:
    hub = pytest.importorskip("huggingface_hub")
    sent: dict[str, Any] = {}

    class Api:
        def __init__(self, token: Any = None) -> None:
            pass

        def create_repo(self, repo_id: str, **_: Any) -> Any:
            return type("Made", (), {"repo_id": repo_id})

        def upload_folder(self, folder_path: Path, **_: Any) -> str:
            sent["card"] = hub.ModelCard.load(folder_path / "README.md")
            sent["files"] = sorted(path.name for path in Path(folder_path).iterdir())
            return "an address"

    monkeypatch.setattr("huggingface_hub.hub_mixin.HfApi", Api)
    assert fitted.push_to_hub("me/digits", datasets=["me/scans"]) == "an address"
    assert sent["files"] == ["README.md", "config.json", "model.safetensors"]
    data = sent["card"].data
    assert (data.library_name, data.pipeline_tag) == ("dms-spec", "tabular-classification")
    assert data.datasets == ["me/scans"] and "accuracy" in data.metrics
    metrics = fitted.artifact_.model["metrics"]
    for result in data.eval_results:
        assert result.task_type == data.pipeline_tag and result.dataset_type == "me/scans"
        own = {"log_loss": "nll", "expected_calibration_error": "ece"}.get(
            result.metric_type, result.metric_type
        )
        assert result.metric_value == metrics[result.dataset_split]["fused"][own]
    assert len(data.eval_results) == 4 * len(metrics)

    fitted.save_pretrained(tmp_path / "model")
    fitted.save_pretrained(tmp_path / "model")  # as on the Hub, again is no mistake
    loaded = FusionClassifier.from_pretrained(tmp_path / "model")
    np.testing.assert_array_equal(loaded.predict(arrays), fitted.predict(arrays))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ArtifactError):
        fitted.save_pretrained(tmp_path / "other")
    assert (tmp_path / "other" / "config.json").read_text(encoding="utf-8") == "{}"


def test_a_card_reads_back_whatever_its_names(fitted: FusionClassifier, tmp_path: Path) -> None:
    hub, yaml = pytest.importorskip("huggingface_hub"), pytest.importorskip("yaml")
    names = ['a "quoted" name', "---", "a: b", "ünï"]
    fitted.save_pretrained(tmp_path / "model", datasets=names)
    card = hub.ModelCard.load(tmp_path / "model" / "README.md")
    assert card.data.datasets == names
    assert {result.dataset_type for result in card.data.eval_results} == {"table"}
    # What the Hub's own library writes of it is what it has read.
    text = (tmp_path / "model" / "README.md").read_text(encoding="utf-8")
    head = yaml.safe_load(text.partition("\n---\n")[0])
    assert card.data.to_dict()["model-index"] == head["model-index"]
    assert load_artifact(tmp_path / "model").model["datasets"] == names
    assert dms_spec.load_artifact is load_artifact
