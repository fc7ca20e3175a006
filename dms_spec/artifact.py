"""An artifact: a folder with a spec, its parameters, and a card. No pickle anywhere.

``config.json`` holds the format version and the spec, ``model.safetensors`` the parameters,
``README.md`` says what it is to a person.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dms_spec._version import ARTIFACT_FORMAT, PACKAGE
from dms_spec.errors import ArtifactError
from dms_spec.files import read_arrays, replacing_folder, write_arrays
from dms_spec.spec import SchedulerSpec

CONFIG, MODEL, CARD = "config.json", "model.safetensors", "README.md"

_DTYPES = ("float64", "float32", "float16")


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """A scheduler at rest.

    Attributes:
        spec: What it computes.
        parameters: Arrays by full name, such as ``policy.bias`` or
            ``signals.anchored_alignment.anchor``.
    """

    spec: SchedulerSpec
    parameters: Mapping[str, NDArray[Any]] = field(default_factory=dict)


def save_artifact(path: Path | str, artifact: Artifact, *, overwrite: bool = False) -> None:
    """Write an artifact folder, all or nothing.

    Args:
        path: The folder to make.
        artifact: What to write.
        overwrite: Replace an artifact that is there, with everything in its folder.

    Raises:
        ArtifactError: Something is at the path already (with ``overwrite``, something that is
            no artifact), or a parameter is not finite numbers.
        FileError: The folder cannot be written.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise ArtifactError(
            f"{path} exists already",
            expected="a new folder",
            fix="Choose another path, or pass overwrite=True to replace it.",
        )
    if path.exists() and not _replaceable(path):
        raise ArtifactError(
            f"{path} is not replaced",
            expected="an artifact, or an empty folder",
            got="something else, which would be lost",
            fix="Choose another path, or remove it yourself.",
        )
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
    with replacing_folder(path) as folder:
        (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        write_arrays(folder / MODEL, parameters)
        (folder / CARD).write_text(_card(artifact), encoding="utf-8")


def load_artifact(path: Path | str) -> Artifact:
    """Read an artifact folder.

    Raises:
        ArtifactError: The folder is incomplete or damaged, its format is newer than this
            package, or config and parameters do not belong together.
        FileError: ``model.safetensors`` is damaged.
        SpecError, UnknownName: The spec inside is not legal.
    """
    path = Path(path)
    try:
        config = json.loads((path / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ArtifactError(
            f"{path} is not an artifact",
            expected=f"a folder with {CONFIG}, {MODEL} and {CARD}",
            got=f"{type(error).__name__}: {error}",
            fix="Check the path; an interrupted download or copy has to be repeated.",
        ) from error
    if not isinstance(config, dict) or config.get("format") != "dms-spec":
        raise ArtifactError(f"{path / CONFIG} is not of dms-spec", expected='"format": "dms-spec"')
    version = config.get("format_version")
    if not isinstance(version, int) or not 1 <= version <= ARTIFACT_FORMAT:
        raise ArtifactError(
            f"{path} has a format that this package does not read",
            expected=f"format_version 1 to {ARTIFACT_FORMAT}",
            got=f"{version!r}, written by dms-spec {config.get('package', '?')}",
            fix="Update dms-spec.",
        )
    spec = SchedulerSpec.from_dict(config.get("spec", {}))
    parameters = read_arrays(path / MODEL)
    if _table(parameters) != config.get("parameters"):
        raise ArtifactError(
            f"{CONFIG} and {MODEL} in {path} do not belong together",
            expected=json.dumps(config.get("parameters")),
            got=json.dumps(_table(parameters)),
            fix="Both must come from one save.",
        )
    for name, array in parameters.items():
        _check_parameter(name, array)
    return Artifact(spec=spec, parameters=parameters)


def _replaceable(path: Path) -> bool:
    return (path / CONFIG).is_file() or (path.is_dir() and not any(path.iterdir()))


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
    rows = [
        f"| `{name}` | {list(array.shape)} | {array.dtype.name} |"
        for name, array in sorted(artifact.parameters.items())
    ]
    table = (
        ["| parameter | shape | dtype |", "|---|---|---|", *rows] if rows else ["No parameters."]
    )
    return "\n".join(
        [
            "# A fusion scheduler",
            "",
            f"Decides per sample how far to trust each of: {', '.join(spec.modalities)}.",
            f"Policy `{spec.policy}`, fusion `{spec.fusion}`, specification {spec.edition}.",
            "",
            "```json",
            spec.to_json(),
            "```",
            "",
            *table,
            "",
            "Written by dms-spec " + PACKAGE + ". Use it with "
            "`dms schedule IN.npz -o OUT.npz --spec THIS_FOLDER`.",
            "",
        ]
    )
