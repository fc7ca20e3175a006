"""Reads an ``.onnx`` file that may come from anywhere.

What we write is one file, without data outside it, functions, or domains other than ONNX's.
Anything else is refused before a runtime sees it.
"""

from __future__ import annotations

from math import prod
from pathlib import Path

import onnx

from dms_onnx.opsets import check_versions
from dms_spec.errors import FileError
from dms_spec.texts import read_bytes

# Far more than any scheduler; a protobuf cannot be larger than 2 GiB in any case.
_LARGEST = 1 << 30

# The most entries of one value of a graph whose size is fixed in the file.
_LARGEST_VALUE = 1 << 28


def read_model(path: Path) -> onnx.ModelProto:
    """Reads the model of a file.

    Raises:
        FileError: The file is missing, damaged, not an ONNX model, or not one of ours.
        VerificationError: Its opset or its IR version is not one that we write.
    """
    try:
        model = onnx.load_model_from_string(read_bytes(path, _LARGEST))
    except FileError:
        raise
    except Exception as error:  # protobuf has its own, and not one of them is a ValueError
        raise FileError(
            f"cannot read {path}",
            expected="an ONNX model",
            got=f"{type(error).__name__}: {error}",
            fix="The file is missing, damaged or cut short: export it again.",
        ) from error
    check_model(model, str(path))
    return model


def check_model(model: onnx.ModelProto, name: str) -> None:
    """Refuses a model that is not one of ours, before a runtime sees it.

    Raises:
        FileError: It has what no export has, is damaged, or is no valid ONNX.
        VerificationError: Its opset or its IR version is not one that we write.
    """
    if not model.HasField("graph") or not model.opset_import:  # such as one of no bytes at all
        raise FileError(
            f"{name} is not an ONNX model",
            expected="a graph, and the opset that it is in",
            fix="The file is damaged or cut short: export it again.",
        )
    _refuse_foreign(name, model)
    for tensor in (*model.graph.initializer, *_constants(model.graph)):
        _check_tensor(name, tensor)
    check_versions(model)
    try:
        onnx.checker.check_model(model, full_check=True)
        _refuse_bombs(name, model)
    except FileError:
        raise
    except Exception as error:
        raise FileError(
            f"{name} is not a valid ONNX model", got=str(error).strip(), fix="Export it again."
        ) from error


def _refuse_foreign(path: str, model: onnx.ModelProto) -> None:
    outside = [
        tensor.name
        for tensor in (*model.graph.initializer, *_constants(model.graph))
        if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data
    ]
    domains = {node.domain for node in model.graph.node} | {o.domain for o in model.opset_import}
    attributes = [(node, a) for node in model.graph.node for a in node.attribute]
    parts = {
        "data in other files": outside,
        "functions": [function.name for function in model.functions],
        "operators of other domains": sorted(domains - {"", "ai.onnx"}),
        "sparse tensors": [
            *(tensor.values.name or "one" for tensor in model.graph.sparse_initializer),
            *(n.op_type for n, a in attributes if a.HasField("sparse_tensor") or a.sparse_tensors),
        ],
        "subgraphs": [n.op_type for n, a in attributes if a.HasField("g") or a.graphs],
        "graphs for training": ["training_info" for _ in model.training_info],
    }
    for what, names in parts.items():
        if names:
            raise FileError(
                f"{path} has {what}, which no export of dms-spec has",
                got=", ".join(names[:5]),
                fix="Nothing was read from it. Export the scheduler again with `dms export onnx`.",
            )


def _constants(graph: onnx.GraphProto) -> list[onnx.TensorProto]:
    attributes = [a for node in graph.node for a in node.attribute]
    return [t for a in attributes for t in (*([a.t] if a.HasField("t") else []), *a.tensors)]


def _check_tensor(path: str, tensor: onnx.TensorProto) -> None:
    """Compares the bytes of a tensor with its shape, since a shape alone costs nothing."""
    try:
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
        expected = prod(tensor.dims) * dtype.itemsize
        got = len(tensor.raw_data)
        if not tensor.raw_data:  # small ones may be written as numbers
            got = onnx.numpy_helper.to_array(tensor).nbytes if expected <= _LARGEST else 0
    except Exception as error:
        raise FileError(
            f"{path} has a damaged tensor {tensor.name!r}", got=str(error), fix="Export it again."
        ) from error
    if got != expected or min(tensor.dims, default=0) < 0:
        raise FileError(
            f"tensor {tensor.name!r} in {path} does not have the size of its shape",
            expected=f"{expected} bytes for {list(tensor.dims)}",
            got=f"{got} bytes",
            fix="The file is damaged or made up: export it again.",
        )


def _refuse_bombs(path: str, model: onnx.ModelProto) -> None:
    """Refuses a graph in which a few bytes ask for terabytes, as an Expand may.

    It sees what the file alone fixes. It does not propagate data, which would make some of the
    values.
    """
    inferred = onnx.shape_inference.infer_shapes(model).graph
    for value in (*inferred.input, *inferred.value_info, *inferred.output):
        sizes = [axis.dim_value for axis in value.type.tensor_type.shape.dim if axis.dim_value]
        if prod(sizes) > _LARGEST_VALUE:
            raise FileError(
                f"{path} holds a value that no scheduler needs",
                expected=f"{_LARGEST_VALUE} entries at most",
                got=f"{value.name!r} of {' x '.join(map(str, sizes))}",
                fix="The file is damaged or made up: export it again.",
            )
