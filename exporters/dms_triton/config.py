"""Writes ``config.pbtxt``: what Triton has to know of a graph, read from the graph itself."""

from __future__ import annotations

import json
from collections.abc import Sequence

import onnx

#: The first line of the file, by which an earlier export is known.
MARK = "# Written by dms-spec from the graph in 1/model.onnx"

_TYPES: dict[int, str] = {
    onnx.TensorProto.BOOL: "TYPE_BOOL",
    onnx.TensorProto.INT64: "TYPE_INT64",
    onnx.TensorProto.FLOAT16: "TYPE_FP16",
    onnx.TensorProto.FLOAT: "TYPE_FP32",
    onnx.TensorProto.DOUBLE: "TYPE_FP64",
    onnx.TensorProto.STRING: "TYPE_STRING",
}


def config(model: onnx.ModelProto, *, name: str, max_batch_size: int, labels: str = "") -> str:
    """Writes the configuration of a graph whose inputs and outputs all have the batch first.

    Args:
        model: The graph.
        name: The name of the model on the server.
        max_batch_size: The most samples that the server puts into one run.
        labels: The file with the names of the classes, if there is one.
    """
    lines = [
        MARK,
        f"name: {json.dumps(name)}",
        'backend: "onnxruntime"',
        f"max_batch_size: {max_batch_size}",
        *_tensors("input", model.graph.input),
        *_tensors("output", model.graph.output, labels),
        "dynamic_batching { }",
        "instance_group [ { kind: KIND_AUTO count: 1 } ]",
    ]
    return "\n".join(lines) + "\n"


def _tensors(side: str, values: Sequence[onnx.ValueInfoProto], labels: str = "") -> list[str]:
    lines = []
    for value in values:
        tensor = value.type.tensor_type
        batch, *axes = tensor.shape.dim
        assert batch.dim_param == "B", value.name  # noqa: S101 - the exporter sees to it
        dims = ", ".join(str(axis.dim_value or -1) for axis in axes)
        # Triton wants one axis at least, and takes it away again.
        shape = f"dims: [ {dims} ]" if axes else "dims: [ 1 ] reshape { shape: [ ] }"
        named = value.name == "probabilities" and labels
        file = f" label_filename: {json.dumps(labels)}" if named else ""
        text = json.dumps(value.name, ensure_ascii=False)
        lines.append(
            f"{side} {{ name: {text} data_type: {_TYPES[tensor.elem_type]} {shape}{file} }}"
        )
    return lines
