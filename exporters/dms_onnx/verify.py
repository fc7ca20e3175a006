"""Is a graph what it says it is, and does it compute what its spec says?

Everything that is needed lies in the file: the spec and what goes with the heads in its
metadata, the parameters as named initializers. So the same questions can be asked anywhere.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from dms_onnx import batches
from dms_onnx.opsets import IR_VERSIONS
from dms_onnx.trace import PREFIX, input_axes, output_axes, parameters_hash
from dms_onnx.truth import Truth
from dms_spec._version import PACKAGE
from dms_spec.artifact import Artifact
from dms_spec.conformance import oracle
from dms_spec.conformance.closeness import K
from dms_spec.conformance.registry import ConformanceError
from dms_spec.errors import DMSError, FileError, VerificationError
from dms_spec.spec import SchedulerSpec

Arrays = dict[str, NDArray[Any]]

_RAISE_NOTES = {
    "strict": "strict=True is left to the caller: look for rows of active without a True",
    "nonfinite": 'nonfinite="raise" is left to the caller: look for present and not active',
}


def verify(model: onnx.ModelProto) -> dict[str, Any]:
    """Hold a model to its own spec: its shape first, then its values on drawn and hostile batches.

    Returns:
        A report: versions, the inputs' hash, and the worst error of each output in each runtime,
        in eps of its scale, of which `dms_spec.conformance.closeness.K` are allowed.

    Raises:
        FileError: The model carries no spec, or one that is not legal.
        VerificationError: Anything is not as it should be.
    """
    artifact, heads = _described(model)
    _check_versions(model)
    dtype = _check_interface(model, artifact, heads)
    truth = Truth(artifact, heads=heads, dtype=dtype)
    axes, ours = input_axes(artifact, heads=heads), oracle.knows(artifact.spec)
    drawn = list(batches.draw(axes, dtype, ours=ours))
    digest = hashlib.sha256()
    errors: dict[str, dict[str, float]] = {}
    for what, arrays in drawn:
        for name in sorted(arrays):
            digest.update(np.ascontiguousarray(arrays[name]).tobytes())
        answer = truth.answer(arrays)
        for runtime in _runtimes(model):
            found = runtime.run(what, arrays)
            try:
                answer.hold(found)
            except ConformanceError as error:
                raise VerificationError(
                    f"the graph computes something else in {runtime.name}",
                    expected="what its spec says",
                    got=f"{error}, on the batch with {what}",
                    fix="Nothing was written. If the file was not changed by hand, report it.",
                ) from error
            worst = errors.setdefault(runtime.name, {})
            for name, value in answer.worst.items():
                worst[name] = max(worst.get(name, 0.0), value)
    data = model.SerializeToString()
    return {
        "format": 1,
        "edition": artifact.spec.edition,
        "policy": artifact.spec.policy,
        "dtype": dtype,
        "opset": model.opset_import[0].version,
        "ir_version": model.ir_version,
        "nodes": len(model.graph.node),
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "inputs": [_described_value(value) for value in model.graph.input],
        "outputs": [_described_value(value) for value in model.graph.output],
        "batches": len(drawn),
        "inputs_sha256": digest.hexdigest(),
        "allowed": K,
        "errors": errors,
        "notes": _notes(artifact, errors),
        "versions": {"dms-spec": PACKAGE, "python": platform.python_version()}
        | {name: _version(name) for name in ("numpy", "onnx", *_ORT)},
        "platform": platform.platform(),
    }


_ORT = ("onnxruntime", "onnxruntime-gpu")


def _notes(artifact: Artifact, errors: Mapping[str, Any]) -> list[str]:
    spec = artifact.spec
    notes = []
    if "onnxruntime" not in errors:
        notes.append("ONNX Runtime is not installed: only ONNX's reference evaluator was asked")
    if spec.strict:
        notes.append(_RAISE_NOTES["strict"])
    if spec.nonfinite == "raise":
        notes.append(_RAISE_NOTES["nonfinite"])
    return notes


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


# ------------------------------------------------------------------------------------- the file


def _described(model: onnx.ModelProto) -> tuple[Artifact, bool]:
    """The artifact that a model's metadata and initializers describe; whether it has heads."""
    data = {p.key.removeprefix(PREFIX): p.value for p in model.metadata_props}
    if "spec" not in data:
        raise FileError(
            "the model was not exported by dms-spec",
            expected=f"metadata that begins with {PREFIX!r}",
            got=", ".join(p.key for p in model.metadata_props) or "no metadata",
        )
    try:
        spec = SchedulerSpec.from_json(data["spec"])
        names = list(json.loads(data["parameters"]))
        about = json.loads(data.get("model", "{}"))
    except DMSError:
        raise
    except Exception as error:
        raise FileError("the model's metadata is damaged", got=str(error)) from error
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
    return Artifact(spec=spec, parameters=parameters, model=about), bool(about)


def _check_versions(model: onnx.ModelProto) -> None:
    opsets = [entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
    opset = opsets[0] if opsets else 0
    if opset not in IR_VERSIONS:
        known = sorted(IR_VERSIONS)
        raise VerificationError(
            f"the graph's opset is too {'new' if opset > known[-1] else 'old'}",
            expected=f"{known[0]} to {known[-1]}, which the runtimes read",
            got=str(opset),
            fix="Export it with --opset.",
        )
    if model.ir_version > IR_VERSIONS[opset]:
        raise VerificationError(
            "the graph's IR version is newer than its opset needs",
            expected=f"{IR_VERSIONS[opset]} for opset {opset}",
            got=str(model.ir_version),
            fix="A runtime that knows the opset may refuse it: export it again.",
        )


def _check_interface(model: onnx.ModelProto, artifact: Artifact, heads: bool) -> str:
    """Hold inputs and outputs to the spec; the dtype of the inputs.

    A mask that is not read and a size that is frozen are the two ways in which an export that
    "succeeded" is wrong.
    """
    inputs = {value.name: _shape(value) for value in model.graph.input}
    expected = input_axes(artifact, heads=heads)
    if inputs != expected:
        raise VerificationError(
            "the graph's inputs are not those of its spec",
            expected=_signature(expected),
            got=_signature(inputs),
            fix=_difference(expected, inputs),
        )
    outputs = {value.name: _shape(value) for value in model.graph.output}
    given = output_axes(artifact, heads=heads)
    if outputs != given:
        raise VerificationError(
            "the graph's outputs are not those of its spec",
            expected=_signature(given),
            got=_signature(outputs),
            fix=_difference(given, outputs),
        )
    read = {name for node in model.graph.node for name in node.input}
    if unread := [name for name in inputs if name not in read]:
        raise VerificationError(
            "the graph does not read all of its inputs",
            expected="every input to reach an output",
            got=f"nothing reads {', '.join(unread)}",
            fix="An input was lost when the graph was changed: export it again.",
        )
    dtypes = {value.name: _numpy(value) for value in model.graph.input}
    floats = {dtype for name, dtype in dtypes.items() if name != "present"}
    if dtypes["present"] != "bool" or not floats <= {"float16", "float32", "float64"}:
        raise VerificationError(
            "an input has the wrong dtype",
            expected="bool for present, and one floating dtype for the others",
            got=", ".join(f"{name} {dtype}" for name, dtype in dtypes.items()),
        )
    if len(floats) != 1:
        raise VerificationError("the inputs differ in dtype", got=", ".join(sorted(floats)))
    return str(floats.pop())


def _shape(value: onnx.ValueInfoProto) -> tuple[str | int, ...]:
    return tuple(
        axis.dim_param if axis.HasField("dim_param") else axis.dim_value
        for axis in value.type.tensor_type.shape.dim
    )


def _numpy(value: onnx.ValueInfoProto) -> str:
    kind = value.type.tensor_type.elem_type
    return str(onnx.helper.tensor_dtype_to_np_dtype(kind)) if kind else "none"


def _described_value(value: onnx.ValueInfoProto) -> dict[str, Any]:
    return {"name": value.name, "dtype": _numpy(value), "shape": list(_shape(value))}


def _signature(inputs: Mapping[str, tuple[str | int, ...]]) -> str:
    return "; ".join(f"{n} [{', '.join(map(str, shape))}]" for n, shape in inputs.items())


def _difference(
    expected: Mapping[str, tuple[str | int, ...]], got: Mapping[str, tuple[str | int, ...]]
) -> str:
    for name, axes in expected.items():
        if name not in got:
            return f"{name!r} was lost."
        for axis, found in zip(axes, got[name], strict=False):
            if isinstance(axis, str) and isinstance(found, int):
                return f"The size {axis} of {name!r} is frozen at {found or 'nothing'}."
    return "Export it again."


# --------------------------------------------------------------------------------- the runtimes


@dataclass(frozen=True)
class Runtime:
    """A way to run a graph: ``call`` takes the arrays by name and gives the outputs by name."""

    name: str
    call: Callable[[Arrays], Arrays]

    def run(self, what: str, arrays: Arrays) -> Arrays:
        try:
            with np.errstate(all="ignore"):
                return self.call(arrays)
        except Exception as error:
            raise VerificationError(
                f"the graph does not run in {self.name}",
                got=f"{type(error).__name__}: {error}, on the batch with {what}",
                fix="Try an older opset: --opset 18.",
            ) from error


def _runtimes(model: onnx.ModelProto) -> Iterator[Runtime]:
    """ONNX's own evaluator, and ONNX Runtime where it is installed."""
    evaluator = ReferenceEvaluator(model)
    names = [value.name for value in model.graph.output]
    yield Runtime("onnx", lambda a: dict(zip(names, evaluator.run(names, a), strict=True)))
    from dms_spec.plugins import available

    if "onnxruntime" in available("backend"):
        from dms_onnxruntime.session import Session

        yield Runtime("onnxruntime", Session(model.SerializeToString()).run)
