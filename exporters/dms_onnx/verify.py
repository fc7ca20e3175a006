"""Verifies that a graph is what it says it is, and computes what its spec says.

Everything that is needed lies in the file: the spec and what goes with the heads in its
metadata, the parameters as named initializers. So the same questions can be asked anywhere.
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from dms_onnx import batches
from dms_onnx.metadata import PASSES_AXIS, read_metadata, read_parameters, read_passes_axis
from dms_onnx.session import Session, as_the_graph_reads
from dms_onnx.trace import input_axes, output_axes
from dms_onnx.truth import Answer, Truth
from dms_spec._version import PACKAGE
from dms_spec.artifact import Artifact
from dms_spec.conformance import oracle
from dms_spec.conformance.closeness import K
from dms_spec.conformance.context import ConformanceError
from dms_spec.embeddings.predictor import Predictor
from dms_spec.engine.resolve import resolve
from dms_spec.errors import DMSError, FileError, VerificationError
from dms_spec.plugins import available, get_backend, installed_version
from dms_spec.spec import SchedulerSpec
from dms_spec.texts import parse_json

Arrays = dict[str, NDArray[Any]]

_RAISE_NOTES = {
    "strict": "strict=True is left to the caller: look for rows of active without a True",
    "nonfinite": 'nonfinite="raise" is left to the caller: look for present and not active',
}


def verify(model: onnx.ModelProto) -> dict[str, Any]:
    """Compares a model with its own spec: its shape first, then its values on drawn and hostile
    batches.

    Returns:
        A report: versions, the inputs' hash, and the worst error of each output in each runtime,
        in eps of its scale, of which `dms_spec.conformance.closeness.K` are allowed.

    Raises:
        FileError: The model carries no spec, or one that is not legal.
        VerificationError: Anything is not as it should be.
    """
    artifact, heads = _described(model)
    passes_axis = read_passes_axis(read_metadata(model))
    dtype = _check_interface(model, artifact, heads, passes_axis)
    truth = Truth(artifact, heads=heads, dtype=dtype)
    axes, ours = input_axes(artifact, heads=heads), oracle.knows(artifact.spec)
    _check_entries("inputs", batches.entries(axes))
    drawn = list(batches.draw(axes, dtype, ours=ours))
    runtimes = list(_runtimes(model, passes_axis))
    digest = hashlib.sha256()
    errors: dict[str, dict[str, float]] = {}
    for what, arrays in drawn:
        for name in sorted(arrays):
            digest.update(np.ascontiguousarray(arrays[name]).tobytes())
        answer = _answer(truth, what, arrays)
        for runtime in runtimes:
            found = runtime.run(what, arrays)
            try:
                answer.hold(found)
            except ConformanceError as error:
                raise VerificationError(
                    f"the graph computes something else in {runtime.name}",
                    expected="what its spec says",
                    got=f"{error}, on the batch with {what}",
                    fix="The file is not to be used. If nobody changed it by hand, report it.",
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
        PASSES_AXIS: passes_axis,
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
        | {n: installed_version(n) or "not installed" for n in ("numpy", "onnx", *_ORT)},
        "platform": platform.platform(),
    }


# Hundreds of entries are usual. With this many, all batches and an evaluation that keeps what it
# computes still fit a gigabyte.
_LARGEST_BATCH = 1 << 22

_ORT = ("onnxruntime", "onnxruntime-gpu")


def _answer(truth: Truth, what: str, arrays: Arrays) -> Answer:
    try:
        return truth.answer(arrays)
    except DMSError:
        raise
    except Exception as error:  # a spec that nobody would write, such as one with 1e400 in it
        raise VerificationError(
            "what the spec says cannot be computed",
            got=f"{type(error).__name__}: {error}, on the batch with {what}",
        ) from error


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


# ------------------------------------------------------------------------------------- the file


def _described(model: onnx.ModelProto) -> tuple[Artifact, bool]:
    """Reads the artifact that a model's metadata and initializers describe, and whether it has
    heads.
    """
    data = read_metadata(model)
    try:
        spec = SchedulerSpec.from_json(data["spec"])
        about = parse_json(data.get("model", "{}"), "the model's metadata")
        if not isinstance(about, dict):
            raise TypeError("model is an object")
    except DMSError:
        raise
    except Exception as error:
        raise FileError("the model's metadata is damaged", got=str(error)) from error
    parameters = read_parameters(model)
    artifact = Artifact(spec=spec, parameters=parameters, model=about)
    _check_parts(artifact)
    return artifact, bool(about)


def _check_parts(artifact: Artifact) -> None:
    """Checks that spec, parameters and model fit, before anything is made of their sizes."""
    for name, array in artifact.parameters.items():
        good = array.dtype.name in ("float64", "float32", "float16")
        if not good or not np.isfinite(array).all():
            raise FileError(
                f"parameter {name!r} is not usable",
                expected="finite floating numbers",
                got="NaN or Inf" if good else array.dtype.name,
            )
    _check_entries("pairs of modalities", len(artifact.spec.modalities) ** 2)
    try:
        if artifact.model:
            Predictor(artifact, get_backend("numpy"))
        else:
            resolve(artifact.spec, artifact.scheduler_parameters)
    except DMSError:
        raise
    except Exception as error:
        raise FileError(
            "the model's metadata is damaged", got=f"{type(error).__name__}: {error}"
        ) from error


def _check_entries(what: str, entries: int) -> None:
    if entries > _LARGEST_BATCH:
        raise FileError(
            f"the {what} are too many to verify",
            expected=f"{_LARGEST_BATCH} entries in a batch at most",
            got=str(entries),
        )


def _check_interface(
    model: onnx.ModelProto, artifact: Artifact, heads: bool, passes_axis: int
) -> str:
    """Compares inputs and outputs with the spec, and gives the dtype of the inputs.

    A mask that is not read and a size that is frozen are the two ways in which an export that
    "succeeded" is wrong.
    """
    inputs = {value.name: _shape(value) for value in model.graph.input}
    expected = input_axes(artifact, heads=heads, passes_axis=passes_axis)
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
    for values in (model.graph.input, model.graph.output):
        names = [value.name for value in values]
        if len(set(names)) < len(names):
            raise VerificationError("a name stands twice in the interface", got=", ".join(names))
    if lost := sorted(set(inputs) - _reaching(model)):
        raise VerificationError(
            "the graph does not use all of its inputs",
            expected="every input to reach an output",
            got=f"none depends on {', '.join(lost)}",
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
    dtype = str(floats.pop())
    for value in model.graph.output:
        wanted = _output_dtype(value.name, artifact, dtype)
        if _numpy(value) != wanted:
            raise VerificationError(
                f"output {value.name!r} has the wrong dtype", expected=wanted, got=_numpy(value)
            )
    return dtype


def _reaching(model: onnx.ModelProto) -> set[str]:
    """Finds the values that some output depends on. It is not enough that a node reads an input."""
    makers = {name: node for node in model.graph.node for name in node.output}
    found: set[str] = set()
    left = [value.name for value in model.graph.output]
    while left:
        name = left.pop()
        if name not in found:
            found.add(name)
            left += makers[name].input if name in makers else ()
    return found


def _output_dtype(name: str, artifact: Artifact, dtype: str) -> str:
    """Gives the dtype as in NumPy: that of the inputs for fused, the computing one for the rest."""
    if name == "predicted":
        kind = np.array(artifact.model["classes"]).dtype
        return "object" if kind.kind == "U" else kind.name
    if name in ("active", "fused"):
        return "bool" if name == "active" else dtype
    return "float64" if dtype == "float64" else "float32"


def _shape(value: onnx.ValueInfoProto) -> tuple[str | int, ...]:
    return tuple(
        axis.dim_param if axis.HasField("dim_param") else axis.dim_value
        for axis in value.type.tensor_type.shape.dim
    )


def _numpy(value: onnx.ValueInfoProto) -> str:
    kind = value.type.tensor_type.elem_type
    try:
        return str(onnx.helper.tensor_dtype_to_np_dtype(kind))
    except KeyError:
        return f"type {kind}"


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
    """Runs a graph: ``call`` takes the arrays by name and gives the outputs by name."""

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


def _runtimes(model: onnx.ModelProto, passes_axis: int) -> Iterator[Runtime]:
    """Lists ONNX's own evaluator, and ONNX Runtime where it is installed."""
    names = [value.name for value in model.graph.output]
    try:
        evaluator = ReferenceEvaluator(model)
    except Exception as error:
        raise VerificationError(
            "ONNX's reference evaluator does not know the graph",
            got=f"{type(error).__name__}: {error}",
        ) from error

    def evaluate(arrays: Arrays) -> Arrays:
        given = as_the_graph_reads(arrays, passes_axis)
        return dict(zip(names, evaluator.run(names, given), strict=True))

    yield Runtime("onnx", evaluate)
    if "onnxruntime" in available("backend"):
        yield Runtime("onnxruntime", Session(model.SerializeToString()).run)
