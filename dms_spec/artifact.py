"""Reads and writes artifacts: a folder with a spec, its parameters, and a card. No pickle anywhere.

``config.json`` holds the format version and the spec, ``model.safetensors`` the parameters,
``README.md`` says what it is to a person.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dms_spec._version import ARTIFACT_FORMAT, PACKAGE
from dms_spec.errors import ArtifactError, DMSWarning, FileError, UnknownName, nearest_path
from dms_spec.files import array_mark, read_arrays, save_arrays
from dms_spec.markup import markdown_table, percent, plain_markdown
from dms_spec.outputs import ARTIFACT, Target
from dms_spec.spec import SchedulerSpec
from dms_spec.texts import read_json
from dms_spec.typed import read_typed

CONFIG, MODEL, CARD = "config.json", "model.safetensors", "README.md"

#: What a card says of its origin.
CARD_MARK = b"Written by dms-spec"

_KIND = "model"
_MARKS = {CONFIG: ARTIFACT[1], MODEL: array_mark(MODEL, _KIND), CARD: CARD_MARK}

#: What the tables of a card measure: as a fit calls it, and as the Hub does.
_HUB_METRICS = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced_accuracy",
    "nll": "log_loss",
    "ece": "expected_calibration_error",
}
_HUB_TASK = "tabular-classification"

_DTYPES = ("float64", "float32", "float16")
_HEADS = ("heads.", "head.", "joint.")


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """Holds a scheduler as it is stored: its spec, its parameters, and its heads if it has any.

    Attributes:
        spec: What it computes.
        parameters: Finite arrays by full name, such as ``policy.bias`` or
            ``signals.anchored_alignment.anchor``; those of heads are ``heads.<modality>.<name>``,
            and ``head.<name>`` for what stands on the fused features.
        model: What goes with the heads, as plain data for JSON: classes, settings, metrics. Empty
            for a scheduler alone.

    Example:
        >>> from dms_spec import load_artifact
        >>> artifact = load_artifact("model")
        >>> artifact.spec.policy, artifact.has_heads, artifact.model["classes"]
        ('soundness', True, [0, 1])
    """

    spec: SchedulerSpec
    parameters: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    model: Mapping[str, Any] = field(default_factory=dict)

    @property
    def has_heads(self) -> bool:
        """Whether embeddings go in, and not a batch."""
        return any(name.startswith("heads.") for name in self.parameters)

    @property
    def scheduler_parameters(self) -> dict[str, NDArray[Any]]:
        """The parameters without those of the heads: what `Backend.scheduler` takes.

        Everything else stays, so that a name that nobody owns is still refused there.
        """
        return {
            name: array for name, array in self.parameters.items() if not name.startswith(_HEADS)
        }

    def content_hash(self) -> str:
        """Gives the SHA-256 of what it holds: equal for equal contents, however they were saved."""
        texts = [json.dumps(self.spec.to_dict(), sort_keys=True)]
        texts += [json.dumps(dict(self.model), sort_keys=True)]
        parts = [text.encode() for text in texts]
        for name, array in sorted(self.parameters.items()):
            parts += [json.dumps([name, array.dtype.name, list(array.shape)]).encode()]
            parts += [np.ascontiguousarray(array).tobytes()]
        lengths = json.dumps([len(part) for part in parts]).encode()
        return hashlib.sha256(b"".join([lengths, *parts])).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Described:
    """Says what a parameter is, as a config lists it."""

    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True, kw_only=True)
class Config:
    """Holds what ``config.json`` of an artifact says."""

    format: str
    format_version: int
    package: str
    spec: Mapping[str, Any]
    parameters: Mapping[str, Described]
    model: Mapping[str, Any] = field(default_factory=dict)


def save_artifact(path: Path | str, artifact: Artifact, *, overwrite: bool = False) -> None:
    """Writes an artifact folder: all of it, or nothing.

    Args:
        path: The folder to make.
        artifact: What to write.
        overwrite: Replace an artifact that is there. Other files of its folder stay, with a
            warning.

    Raises:
        ArtifactError: Something is at the path already (with ``overwrite``, something that is
            no artifact), a parameter is not finite numbers, or the model is not plain data.
        FileError: The folder cannot be written.

    Example:
        >>> from dms_spec import Artifact, SchedulerSpec, load_artifact, save_artifact
        >>> spec = SchedulerSpec.preset("paper", ("image", "text", "audio"))
        >>> save_artifact("mine", Artifact(spec=spec))
        >>> load_artifact("mine").spec == spec
        True
    """
    target = artifact_target(path, overwrite=overwrite)
    parameters = {name: np.asarray(array) for name, array in artifact.parameters.items()}
    for name, array in parameters.items():
        _check_parameter(name, array)
    config = {
        "format": "dms-spec",
        "format_version": ARTIFACT_FORMAT,
        "package": PACKAGE,
        "spec": artifact.spec.to_dict(),
        "parameters": _table(parameters),
    }
    if artifact.model:
        config["model"] = dict(artifact.model)
    try:
        text = json.dumps(config, indent=2, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ArtifactError(
            "the spec or the model is not plain data", expected="JSON", got=str(error)
        ) from error
    with target.writing() as new:
        new[CONFIG].write_text(text + "\n", encoding="utf-8")
        save_arrays(new[MODEL], parameters, _KIND)
        new[CARD].write_text(_card(artifact), encoding="utf-8")
    if others := target.others():
        warnings.warn(
            f"{path} holds more than the artifact, which was left alone: {', '.join(others)}. "
            "An export of an earlier artifact is out of date.",
            DMSWarning,
            stacklevel=2,
        )


def artifact_target(path: Path | str, *, overwrite: bool = False) -> Target:
    """Gives the target of `save_artifact`, checked before the work is done.

    Raises:
        ArtifactError: Something is there; with ``overwrite``, something that is not an artifact.
        FileError: The folder cannot be written.
    """
    return Target.of_folder(path, _MARKS, overwrite=overwrite, alone=True, error=ArtifactError)


def load_artifact(path: Path | str) -> Artifact:
    """Reads an artifact folder.

    Raises:
        ArtifactError: The folder is incomplete or damaged, its format is newer than this
            package, or config and parameters do not belong together.
        FileError: ``model.safetensors`` is damaged.
        SpecError, UnknownName: The spec inside is not legal.

    Example:
        >>> from dms_spec import load_artifact
        >>> load_artifact("model").spec.modalities
        ('image', 'text')
    """
    path = Path(path)
    try:
        data = read_json(path / CONFIG)
    except FileError as error:
        raise ArtifactError(
            f"{path} is not an artifact",
            expected=f"a folder with {CONFIG}, {MODEL} and {CARD}",
            got="a file" if path.is_file() else error.got,
            fix="dms fit writes one from a table of embeddings."
            if path.is_file()
            else nearest_path(path)
            or "Check the path; an interrupted download or copy has to be repeated.",
        ) from error
    if not isinstance(data, dict) or data.get("format") != "dms-spec":
        raise ArtifactError(f"{path / CONFIG} is not of dms-spec", expected='"format": "dms-spec"')
    version = data.get("format_version")
    if type(version) is not int or not 1 <= version <= ARTIFACT_FORMAT:
        raise ArtifactError(
            f"{path} has a format that this package does not read",
            expected=f"format_version 1 to {ARTIFACT_FORMAT}",
            got=f"{version!r}, written by dms-spec {data.get('package', '?')}",
            fix="Update dms-spec.",
        )
    try:
        config = read_typed(Config, data, str(path / CONFIG))
    except (FileError, UnknownName) as error:
        raise ArtifactError(error.what, expected=error.expected, got=error.got) from error
    spec = SchedulerSpec.from_dict(config.spec)
    parameters = read_arrays(path / MODEL)
    if _table(parameters) != data["parameters"]:
        raise ArtifactError(
            f"{CONFIG} and {MODEL} in {path} do not belong together",
            expected=json.dumps(data["parameters"]),
            got=json.dumps(_table(parameters)),
            fix="Both must come from one save.",
        )
    for name, array in parameters.items():
        _check_parameter(name, array)
    return Artifact(spec=spec, parameters=parameters, model=config.model)


def _table(parameters: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    return {
        name: {"shape": list(array.shape), "dtype": array.dtype.name}
        for name, array in sorted(parameters.items())
    }


def _check_parameter(name: str, array: NDArray[Any]) -> None:
    good = array.dtype.name in _DTYPES
    if not good or not np.isfinite(array).all():
        raise ArtifactError(
            f"parameter {name!r} is not usable",
            expected=f"finite numbers of dtype {' or '.join(_DTYPES)}",
            got="NaN or Inf" if good else array.dtype.name,
        )


def _card(artifact: Artifact) -> str:
    spec = artifact.spec
    parameters = [
        (f"`{name}`", str(list(array.shape)), array.dtype.name)
        for name, array in sorted(artifact.parameters.items())
    ]
    names = plain_markdown(", ".join(spec.modalities))
    use = "dms schedule IN.npz -o OUT.npz --spec THIS_FOLDER"
    if artifact.model:
        use = "dms predict THIS_FOLDER IN.npz -o OUT.npz"
    return "\n".join(
        [
            *_metadata(spec, artifact.model),
            "# A fusion scheduler",
            "",
            f"Decides per sample how far to trust each of: {names}.",
            f"Policy `{spec.policy}`, fusion `{spec.fusion}`, specification {spec.edition}.",
            "",
            *(_model_card(artifact.model) if artifact.model else ()),
            "```json",
            spec.to_json(),
            "```",
            "",
            markdown_table(("parameter", "shape", "dtype"), parameters)
            if parameters
            else "No parameters.",
            "",
            f"Written by dms-spec {PACKAGE}. Use it with `{use}`.",
            f"Its content has the SHA-256 `{artifact.content_hash()}`, which `dms diff` compares.",
            "",
        ]
    )


def _metadata(spec: SchedulerSpec, model: Mapping[str, Any]) -> list[str]:
    """Writes the head of a card, which the Hugging Face Hub reads as YAML.

    Source: https://huggingface.co/docs/hub/model-cards
    """
    fields: dict[str, Any] = {
        "library_name": "dms-spec",
        "tags": ["multimodal", "fusion", "missing-modality"],
    }
    if model:
        fields |= {"pipeline_tag": _HUB_TASK}
    if datasets := [str(name) for name in model.get("datasets") or ()]:
        fields |= {"datasets": datasets}
    if metrics := model.get("metrics"):
        name = f"fusion of {', '.join(spec.modalities)}"
        results = [_hub_result(split, own["fused"], datasets) for split, own in metrics.items()]
        fields |= {"metrics": [*_HUB_METRICS.values()]}
        fields |= {"model-index": [{"name": name, "results": results}]}
    # JSON is YAML, whatever stands in a name.
    return ["---", *(f"{name}: {json.dumps(value)}" for name, value in fields.items()), "---", ""]


def _hub_result(split: str, measured: Mapping[str, Any], datasets: Sequence[str]) -> dict[str, Any]:
    """Writes what was measured on some rows as an entry of the Hub's ``model-index``.

    Source: ``huggingface_hub.EvalResult``.
    """
    # One name on the Hub says where the rows are from; several, or none, do not.
    known = {"name": datasets[0], "type": datasets[0]} if len(datasets) == 1 else _OWN_TABLE
    return {
        "task": {"type": _HUB_TASK},
        "dataset": known | {"split": split},
        "metrics": [
            {"type": kind, "value": measured[key], "name": f"{kind.replace('_', ' ')}, {split}"}
            for key, kind in _HUB_METRICS.items()
            if measured.get(key) is not None
        ],
    }


_OWN_TABLE = {"name": "the table that it was fitted on", "type": "table"}


def _model_card(model: Mapping[str, Any]) -> list[str]:
    """Writes what a fit said about itself, as tables, and leaves out what is not there."""
    data, metrics, notes = (model.get(key) or {} for key in ("data", "metrics", "notes"))
    lines: list[str] = []
    rows: list[tuple[Any, ...]]
    if data:
        counts = [
            f"{data[key]} {key.replace('_', ' ')}"
            for key in ("training_rows", "validation_rows", "test_rows")
        ]
        rows = [(n, row["width"], row["present"]) for n, row in data["modalities"].items()]
        lines += ["## Data", "", f"{data['rows']} rows: {', '.join(counts)}.", ""]
        lines += [markdown_table(("modality", "width", "present in rows"), rows), ""]
    if metrics:
        lines += ["## Measured", ""]
        for name, own in metrics.items():
            lines += [_measured_card(name.replace("_", " "), own), ""]
        lines += ["The validation rows are judged by heads that have not seen them, but helped to"]
        lines += ["choose settings. The test rows, if there are any, give the fair figures.", ""]
    if model.get("calibration"):
        rows = [
            (name, *(_digits(row.get(k)) for k in ("temperature", "ece_before", "ece_after")))
            for name, row in model["calibration"].items()
        ]
        header = ("modality", "temperature", "ECE before", "ECE after")
        lines += [
            "## Calibration",
            "",
            "On rows that the heads had not seen.",
            "",
            markdown_table(header, rows),
            "",
        ]
    if notes:
        lines += ["## Notes", "", *(f"- {plain_markdown(note)}" for note in notes), ""]
    return lines


def _measured_card(title: str, measured: Mapping[str, Any]) -> str:
    """What was measured on one set of rows, a line for each way to predict."""
    ways = {"fused": measured["fused"], "static": measured["static"]}
    ways |= {f"{name} alone": own for name, own in measured["modalities"].items()}
    if "concatenation" in measured:
        ways["one regression on all inputs"] = measured["concatenation"]
    rows = [
        (
            name,
            percent(own["accuracy"]),
            percent(own.get("balanced_accuracy")),
            _digits(own.get("nll")),
            _digits(own.get("ece")),
        )
        for name, own in ways.items()
    ]
    header = (f"On {title} rows", "Accuracy", "Balanced", "Log-loss", "ECE")
    return markdown_table(header, rows)


def _digits(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
