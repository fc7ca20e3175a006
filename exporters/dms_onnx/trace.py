"""Traces equations into a graph: the same functions, run on values that are not there yet."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import ndonnx
import numpy as np
import onnx
import onnx_ir
import spox
from ndonnx import Array
from numpy.typing import NDArray
from onnx_ir.passes import Sequential, common

from dms_onnx.lock import tracing
from dms_onnx.metadata import PASSES_AXIS, PREFIX, Parameters, parameters_hash
from dms_onnx.namespace import onnx_namespace
from dms_onnx.opsets import TRACED, converted
from dms_spec._version import PACKAGE
from dms_spec.artifact import Artifact
from dms_spec.engine.fitted import FittedHeads
from dms_spec.engine.pipeline import compute
from dms_spec.engine.probabilities import joint_said, schedule_probabilities
from dms_spec.engine.resolve import Resolved, resolve
from dms_spec.equations.heads import head_inputs, heads_of_inputs
from dms_spec.errors import DMSError, SpecError
from dms_spec.plugins.containment import described
from dms_spec.spec import SchedulerSpec
from dms_spec.types import AXES, INPUT_NAMES, TERMS, ModalityBatch


@dataclass(kw_only=True)
class _Inputs:
    """Collects the arguments of a graph. Those that are parameters become initializers."""

    arrays: dict[str, Array] = field(default_factory=dict)
    parameters: dict[str, Array] = field(default_factory=dict)

    def array(self, name: str, shape: tuple[str | int, ...], dtype: Any) -> Array:
        self.arrays[name] = ndonnx.argument(shape=shape, dtype=_dtype(dtype))
        return self.arrays[name]

    def parameter(self, name: str, value: NDArray[Any]) -> Array:
        self.parameters[name] = ndonnx.argument(shape=value.shape, dtype=_dtype(value.dtype))
        return self.parameters[name]


def output_axes(artifact: Artifact, *, heads: bool) -> dict[str, tuple[str | int, ...]]:
    """Lists the outputs of a graph by name, each with its axes, as in `input_axes`."""
    spec = artifact.spec
    square: tuple[str | int, ...] = ("B", len(spec.modalities))
    signals = dict.fromkeys(spec.signals, square)
    own = {"soundness": square} if spec.fusion == "evidence" else {}
    if heads:
        rows: dict[str, tuple[str | int, ...]] = {
            "probabilities": ("B", len(artifact.model["classes"])),
            "predicted": ("B",),
        }
        return rows | {"weights": square, "active": square} | own | signals
    axis = "D" if spec.fusion == "feature" else "C"
    width = resolve(spec, artifact.scheduler_parameters).sizes.get(axis, axis)
    plain = dict.fromkeys(("weights", "scores", "active"), square)
    return plain | {"fused": ("B", width)} | own | signals


def check_names(artifact: Artifact, *, whole: bool = False) -> None:
    """Refuses equal names: inputs, outputs and parameters of a graph need different ones.

    Args:
        artifact: What is to be traced, with its heads where it has any.
        whole: Whether the whole schedule comes out, as `trace_predictor` says.

    Raises:
        SpecError: Two things would have the same name.
    """
    spec, heads = artifact.spec, artifact.has_heads
    own = {"present", "weights", "active"}
    own |= {"probabilities", "predicted"} if heads else set(INPUT_NAMES)
    own |= {"fused", "scores"} if whole or not heads else set()
    own |= {"soundness"} if spec.fusion == "evidence" else set()
    names = [*own, *spec.signals, *artifact.parameters, *(spec.modalities if heads else ())]
    for name in names:
        if names.count(name) > 1:
            raise SpecError(
                f"two things in the graph would have the name {name!r}",
                expected="modalities and signals with other names than inputs, outputs "
                "and each other",
                fix="Rename the modality or the signal.",
            )


def scheduler_inputs(resolved: Resolved) -> tuple[str, ...]:
    """Lists the arrays that a spec reads, in the specification's order, always with presence."""
    read = resolved.reads() | {"present"}
    return tuple(name for name in INPUT_NAMES if name in read)


def input_axes(
    artifact: Artifact, *, heads: bool, passes_axis: int = 0
) -> dict[str, tuple[str | int, ...]]:
    """Lists the inputs of a graph by name, each with its axes: a number if fixed, otherwise a name.

    With heads one input for each modality, [B, D_m]; else the arrays of `scheduler_inputs`, with
    the passes of ``mc_logits`` at ``passes_axis``.
    """
    count = len(artifact.spec.modalities)
    if heads:
        axes: dict[str, tuple[str | int, ...]] = {
            name: ("B", len(artifact.parameters[f"heads.{name}.scale.zero"]))
            for name in artifact.spec.modalities
        }
        return axes | {"present": ("B", count)}
    resolved = resolve(artifact.spec, artifact.scheduler_parameters)
    return {
        name: tuple(resolved.sizes.get(axis, axis) for axis in graph_axes(name, passes_axis))
        for name in scheduler_inputs(resolved)
    }


def graph_axes(name: str, passes_axis: int) -> tuple[str, ...]:
    """Lists the axes of an array of a batch, as a graph with the passes at that axis reads it."""
    axes = AXES[name]
    return (axes[1], axes[0], *axes[2:]) if name == "mc_logits" and passes_axis == 1 else axes


def trace_scheduler(
    artifact: Artifact,
    dtypes: Mapping[str, str],
    opset: int = TRACED,
    *,
    one_pass: bool = False,
    passes_axis: int = 0,
    terms: bool = False,
) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """Traces a scheduler into a graph: a batch in, what ``dms schedule`` writes out.

    Args:
        artifact: Its heads, if it has any, are left out.
        dtypes: The dtype of each input of the graph, by name; ``present`` is bool.
        opset: One of `opsets.IR_VERSIONS`.
        one_pass: Whether T is 1, which says nothing about variance and is noted; else any.
        passes_axis: The axis of the passes in ``mc_logits``; its metadata says so where it is 1.
        terms: Whether the terms of the scores come out too, each as ``terms.<name>``.

    Returns:
        The model, and what is weaker than it looks, in words.

    Raises:
        SpecError: A policy or a signal does what no graph can hold, or the opset is not written.
    """
    values = artifact.scheduler_parameters
    inputs = _Inputs()
    with _explained(artifact.spec):
        resolved = resolve(
            artifact.spec, {name: inputs.parameter(name, v) for name, v in values.items()}
        )
        sizes = {**resolved.sizes} | ({"T": 1} if one_pass else {})
        batch = {
            name: inputs.array(
                name, tuple(sizes.get(axis, axis) for axis in graph_axes(name, passes_axis)), dtype
            )
            for name, dtype in dtypes.items()
        }
        if passes_axis == 1 and "mc_logits" in batch:
            batch["mc_logits"] = ndonnx.permute_dims(batch["mc_logits"], (1, 0, 2, 3))
        schedule = compute(onnx_namespace(), resolved, ModalityBatch(**batch))
    outputs = schedule.arrays()
    if terms:
        outputs |= {f"{TERMS}{name}": term for name, term in schedule.terms.items()}
    axes = output_axes(artifact, heads=False)
    model = _finished(artifact, inputs, outputs, axes, values, opset)
    if passes_axis == 1 and "mc_logits" in dtypes:
        model.metadata_props.add(key=f"{PREFIX}{PASSES_AXIS}", value="1")
    return model, schedule.notes


def trace_predictor(
    artifact: Artifact, dtypes: Mapping[str, str], opset: int = TRACED, *, whole: bool = False
) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """Traces a fitted artifact into a graph: embeddings in, what ``dms predict`` writes out.

    One input ``[B, D_m]`` for each modality under its name, and ``present`` [B, M]. The frozen
    dropout masks are constants of the graph, so that its uncertainty is that of every backend.

    Args:
        artifact: One with heads.
        dtypes: The dtype of each modality, by name.
        opset: One of `opsets.IR_VERSIONS`.
        whole: Whether the whole schedule comes out, terms included as ``terms.<name>``, in place
            of ``predicted``.

    Returns:
        The model, and what is weaker than it looks, in words.

    Raises:
        ArtifactError: The artifact has no usable heads.
        SpecError: A policy or a signal does what no graph can hold, or the opset is not written.
    """
    spec, fitted, inputs = artifact.spec, FittedHeads(artifact), _Inputs()
    ns = onnx_namespace()
    with _explained(spec):
        given, scaled, present, parameters = _heads(fitted, inputs, dtypes, fitted.outputs)
        own = {name: parameters[name] for name in artifact.scheduler_parameters}
        schedule = compute(ns, resolve(spec, own), ModalityBatch(**given, present=present))
        said = joint_said(ns, spec, schedule, scaled, present, parameters)
        prior = ndonnx.asarray(fitted.prior)
        probabilities = schedule_probabilities(ns, spec, schedule, said, parameters, prior)
        outputs = {"probabilities": probabilities}
        if whole:
            terms = {f"{TERMS}{name}": term for name, term in schedule.terms.items()}
            outputs |= schedule.arrays() | terms
        else:
            likeliest = ns.xp.argmax(probabilities, axis=-1)
            sound = {} if schedule.soundness is None else {"soundness": schedule.soundness}
            outputs |= {
                "predicted": ns.xp.take(ndonnx.asarray(fitted.classes), likeliest, axis=0),
                "weights": schedule.weights,
                "active": schedule.active,
                **sound,
                **schedule.signals,
            }
    axes = output_axes(artifact, heads=True)
    if whole:
        feature = spec.fusion == "feature"
        width = len(artifact.parameters["head.weight"]) if feature else len(fitted.classes)
        axes |= dict.fromkeys(("scores", *terms), axes["weights"]) | {"fused": ("B", width)}
    model = _finished(artifact, inputs, outputs, axes, artifact.parameters, opset)
    return model, schedule.notes


def trace_unimodal(artifact: Artifact, dtypes: Mapping[str, str]) -> onnx.ModelProto:
    """The class probabilities of each modality alone as a graph: ``unimodal`` [B, M, C].

    Inputs and errors are those of `trace_predictor`.
    """
    fitted, inputs = FittedHeads(artifact), _Inputs()
    with _explained(artifact.spec):
        logits = _heads(fitted, inputs, dtypes, ("logits",))[0]["logits"]
        outputs = {"unimodal": onnx_namespace().softmax(logits)}
    shape = ("B", len(artifact.spec.modalities), len(fitted.classes))
    axes: dict[str, tuple[str | int, ...]] = {"unimodal": shape}
    return _finished(artifact, inputs, outputs, axes, artifact.parameters, TRACED)


def _heads(
    fitted: FittedHeads, inputs: _Inputs, dtypes: Mapping[str, str], outputs: tuple[str, ...]
) -> tuple[dict[str, Array], dict[str, Array], Array, dict[str, Array]]:
    """What the heads give, their inputs, the presence mask, and every parameter of the artifact."""
    artifact = fitted.artifact
    embeddings = {
        name: inputs.array(name, axes, "bool" if name == "present" else dtypes[name])
        for name, axes in input_axes(artifact, heads=True).items()
    }
    present = embeddings.pop("present")
    parameters = {
        name: inputs.parameter(name, value) for name, value in artifact.parameters.items()
    }
    ns, modalities = onnx_namespace(), artifact.spec.modalities
    scaled = head_inputs(ns, embeddings, present, parameters, modalities=modalities)
    given = heads_of_inputs(
        ns,
        scaled,
        present,
        parameters,
        modalities=modalities,
        dropout=fitted.dropout,
        outputs=outputs,
    )
    return given, scaled, present, parameters


def _finished(
    artifact: Artifact,
    inputs: _Inputs,
    outputs: Mapping[str, Array],
    axes: Mapping[str, tuple[str | int, ...]],
    values: Parameters,
    opset: int,
) -> onnx.ModelProto:
    """Builds the model of a graph: parameters as initializers, tidied, with its metadata."""
    arguments = inputs.arrays | inputs.parameters
    try:
        model = spox.build(
            {name: array.unwrap_spox() for name, array in arguments.items()},
            {name: array.unwrap_spox() for name, array in outputs.items()},
        )
    except Exception as error:  # spox names values as it likes, such as Add_1_C
        raise SpecError(
            "the graph cannot be put together",
            got=f"{type(error).__name__}: {error}",
            fix="If a name is taken already, rename the modality or the signal.",
        ) from error
    model = _tidy(model)
    # Only now: tidying would drop a parameter that this spec leaves unread, and merge equal ones.
    kept = [value for value in model.graph.input if value.name in inputs.arrays]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    for name in inputs.parameters:
        model.graph.initializer.append(onnx.numpy_helper.from_array(values[name], name))
    for value in model.graph.output:
        # Inference loses a name here and there; a runtime plans memory by them.
        if value.name in axes:
            kind = value.type.tensor_type.elem_type
            value.CopyFrom(onnx.helper.make_tensor_value_info(value.name, kind, axes[value.name]))
    model.graph.name = "dms_spec"
    model.producer_name, model.producer_version = "dms-spec", PACKAGE
    model = converted(model, opset)
    onnx.helper.set_model_props(model, _metadata(artifact, values))
    return model


def _tidy(model: onnx.ModelProto) -> onnx.ModelProto:
    """Removes what tracing leaves behind: copies, equal constants, and equal values twice."""
    graph = onnx_ir.from_proto(model)
    Sequential(
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.DeduplicateInitializersPass(),
        common.CommonSubexpressionEliminationPass(),
        common.RemoveUnusedNodesPass(),
    )(graph)
    for node in list(graph.graph):
        if node.op_type == "Identity":
            _remove_copy(node)
    return onnx_ir.to_proto(graph)


def _remove_copy(node: onnx_ir.Node) -> None:
    """Removes an Identity, unless it is the second name of one value.

    onnx-ir has a pass for it, which gives two outputs that are one value the same name.
    """
    source, copy = node.inputs[0], node.outputs[0]
    if source is None or node.graph is None:
        return
    named = source.is_graph_output() or source.is_graph_input() or source.is_initializer()
    if copy.is_graph_output() and named:
        return
    name = copy.name if copy.is_graph_output() else source.name
    source.type, source.shape = copy.type or source.type, copy.shape or source.shape
    onnx_ir.convenience.replace_all_uses_with(copy, source, replace_graph_outputs=True)
    source.name = name
    node.graph.remove(node, safe=True)


def _metadata(artifact: Artifact, values: Parameters) -> dict[str, str]:
    """Writes what a person reads in a viewer, and what a verification starts from."""
    spec = artifact.spec
    metadata = {
        "package": PACKAGE,
        "edition": spec.edition,
        "modalities": ",".join(spec.modalities),
        "present": "True where a modality is there",
        "spec": json.dumps(spec.to_dict()),
        "parameters": json.dumps(sorted(values)),
        "parameters_sha256": parameters_hash(values),
    }
    if artifact.has_heads:
        model = {key: artifact.model[key] for key in ("classes", "prior", "dropout", "passes")}
        metadata["model"] = json.dumps(model)
    return {f"{PREFIX}{key}": value for key, value in metadata.items()}


def _dtype(dtype: Any) -> Any:
    return ndonnx.from_numpy_dtype(np.dtype(dtype))


@contextmanager
def _explained(spec: SchedulerSpec) -> Iterator[None]:
    """Explains what tracing raises: a plugin's function may do what no graph can hold."""
    try:
        with tracing(), warnings.catch_warnings():
            # ndonnx warns about value propagation that it skips; nothing here relies on it.
            warnings.simplefilter("ignore")
            yield
    except (DMSError, KeyboardInterrupt):
        raise
    except BaseException as error:
        raise SpecError(
            f"policy {spec.policy!r} with signals {', '.join(spec.signals) or 'none'} "
            "cannot be traced into a graph",
            got=described(error),
            fix="A policy or signal must use the namespace it is given, and look at no value.",
        ) from error
