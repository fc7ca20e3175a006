"""Reads what an exported model says of itself, and checks its parameters against it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from dms_spec.errors import FileError, VerificationError
from dms_spec.texts import parse_json
from dms_spec.typed import read_list

Parameters = Mapping[str, NDArray[Any]]

#: What every key of ours in a model's metadata begins with.
PREFIX = "dms_spec."

#: The key that says where the passes of ``mc_logits`` are, if not at axis 0.
PASSES_AXIS = "passes_axis"


def parameters_hash(parameters: Parameters) -> str:
    """Computes SHA-256 over names, dtypes, shapes and bytes, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(parameters):
        array = np.ascontiguousarray(parameters[name])
        digest.update(f"{name} {array.dtype.name} {list(parameters[name].shape)}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def read_metadata(model: onnx.ModelProto) -> dict[str, str]:
    """Gives the metadata that is ours, without the prefix.

    Raises:
        FileError: The model was not exported by dms-spec, or a key stands twice.
    """
    if any(isinstance(text, bytes) for p in model.metadata_props for text in (p.key, p.value)):
        raise FileError("the model's metadata is damaged", got="bytes that are no UTF-8")
    ours = [p for p in model.metadata_props if p.key.startswith(PREFIX)]
    data = {p.key.removeprefix(PREFIX): p.value for p in ours}
    if len(data) < len(ours):
        raise FileError("the model's metadata is damaged", got="a key twice")
    if "spec" not in data:
        raise FileError(
            "the model was not exported by dms-spec",
            expected=f"metadata that begins with {PREFIX!r}",
            got=", ".join(p.key for p in model.metadata_props) or "no metadata",
        )
    return data


def read_passes_axis(data: Mapping[str, str]) -> int:
    """Gives the axis of the passes in ``mc_logits``, from the metadata without the prefix.

    Raises:
        FileError: It is neither 0 nor 1.
    """
    axis = data.get(PASSES_AXIS, "0")
    if axis not in ("0", "1"):
        raise FileError(
            "the model's metadata is damaged", expected=f"{PASSES_AXIS} 0 or 1", got=repr(axis)
        )
    return int(axis)


def read_parameters(model: onnx.ModelProto) -> dict[str, NDArray[Any]]:
    """Gives the parameters of a model, if they are those that were exported.

    Raises:
        FileError: The model was not exported by dms-spec, or its metadata is damaged.
        VerificationError: A parameter is another one, or is lost.
    """
    data = read_metadata(model)
    listed = data.get("parameters", "null")
    names = read_list(str, parse_json(listed, "the model's metadata"), "the model's metadata")
    found = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    lost = [name for name in names if name not in found]
    parameters = {name: found[name] for name in names if name in found}
    if lost or parameters_hash(parameters) != data.get("parameters_sha256"):
        raise VerificationError(
            "the parameters are not those that were exported",
            expected=f"SHA-256 {data.get('parameters_sha256')}",
            got=f"{', '.join(lost)} lost" if lost else f"SHA-256 {parameters_hash(parameters)}",
            fix="Export the scheduler again.",
        )
    return parameters
