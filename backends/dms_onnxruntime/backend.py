"""Schedules by running the graph that the exporter would write."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from dms_onnx.session import cuda_works, why_no_cuda
from dms_onnx.trace import (
    check_names,
    trace_predictor,
    trace_scheduler,
    trace_unimodal,
)
from dms_onnx.wheels import conflict, installed, runtime
from dms_onnxruntime.graphs import Graph, Graphs
from dms_spec.artifact import Artifact
from dms_spec.engine.array_backend import ArrayBackend
from dms_spec.engine.fitted import FittedHeads
from dms_spec.engine.probabilities import joint_notes, joint_said
from dms_spec.engine.resolve import resolve
from dms_spec.engine.scheduler import check_batch, check_dtype, checked, in_blocks, row_blocks
from dms_spec.engine.warning import warn
from dms_spec.interface.backend import Backend, Predictive, RowPredictor, Scheduler
from dms_spec.interface.capabilities import Capabilities
from dms_spec.plugins import get_backend
from dms_spec.spec import SchedulerSpec
from dms_spec.types import TERMS, Array, ModalityBatch, Schedule

DTYPES = ("float32", "float16", "float64")

# A block whose values between two operators stay in a cache. Measured from 2^17 to 2^23: 2^20
# and 2^21 are best, and this one leaves a batch of 32 in one piece.
_ENTRIES_AT_ONCE = 1 << 21

# What else a graph gives; everything that is not here is a signal or a term.
_OUTPUTS = ("weights", "fused", "scores", "active")


@final
class OnnxRuntimeBackend(Backend, Predictive):
    """Runs ONNX Runtime on the CPU with NumPy arrays, and on CUDA with torch tensors.

    A graph is traced when a batch of new inputs and dtypes first comes, and kept.
    """

    @property
    def name(self) -> str:
        return "onnxruntime"

    @property
    def capabilities(self) -> Capabilities:
        version = ", ".join(f"{name} {number}" for name, number in installed().items())
        notes = [f"{version or runtime().__version__} runs here"]
        devices = ["cpu"]
        if not cuda_works():
            notes.append(f"no CUDA: {why_no_cuda()}")
        elif not (found := _torch_devices()):
            notes.append("CUDA works, but torch with CUDA, whose tensors it takes, is not here")
        else:
            devices += found
        if conflict():
            notes.append(conflict())
        return Capabilities(
            dtypes=DTYPES,
            devices=tuple(devices),
            # Sums on a GPU may be taken in another order from run to run.
            bitwise_deterministic=len(devices) == 1,
            notes=tuple(dict.fromkeys(notes)),
        )

    def from_numpy(self, array: NDArray[Any], device: str) -> Array:
        return _library(device).from_numpy(array, device)

    def to_numpy(self, array: Array) -> NDArray[Any]:
        return array if isinstance(array, np.ndarray) else _library("cuda").to_numpy(array)

    def _scheduler(
        self, spec: SchedulerSpec, parameters: Mapping[str, Array], device: str
    ) -> Scheduler:
        own = {name: self.to_numpy(array) for name, array in parameters.items()}
        return OnnxRuntimeScheduler(Artifact(spec=spec, parameters=own), self.capabilities, device)

    def row_predictor(self, artifact: Artifact, device: str) -> RowPredictor:
        return OnnxRuntimeRowPredictor(artifact, self.capabilities, device)


@final
class OnnxRuntimeScheduler(Scheduler):
    """Holds a spec and its graphs. It may be pickled, and used after a fork."""

    def __init__(self, artifact: Artifact, capabilities: Capabilities, device: str) -> None:
        self._artifact, self._capabilities, self._device = artifact, capabilities, device
        self._graphs = Graphs(artifact, device)
        warn(resolve(artifact.spec, artifact.parameters).notes(), stacklevel=4)

    @property
    def spec(self) -> SchedulerSpec:
        return self._artifact.spec

    def schedule(self, batch: ModalityBatch) -> Schedule:
        ns = _library(self._device).namespace(self._device)
        resolved = resolve(self.spec, self._artifact.parameters)
        check_batch(ns, resolved, self._capabilities, batch)
        at_once = _ENTRIES_AT_ONCE if self._device == "cpu" else None
        result = in_blocks(ns.xp, self._run, batch, at_once)
        return checked(ns, resolved, batch.present, result)

    def _run(self, batch: ModalityBatch) -> Schedule:
        arrays = batch.arrays()
        if batch.passes == 0:  # a graph cannot reduce over no passes; one says as little as none
            ns = _library(self._device).namespace(self._device)
            none = arrays["mc_logits"]
            arrays["mc_logits"] = ns.xp.zeros(
                (1, *none.shape[1:]), dtype=none.dtype, device=none.device
            )
        session, notes = self._graph(arrays, one_pass=batch.passes in (0, 1))
        return _schedule(session.run(arrays), notes)

    def _graph(self, arrays: Mapping[str, Array], one_pass: bool) -> Graph:
        dtypes = {name: str(array.dtype).rpartition(".")[2] for name, array in arrays.items()}
        return self._graphs.get(
            (*dtypes.items(), one_pass),
            lambda: trace_scheduler(self._artifact, dtypes, one_pass=one_pass, terms=True),
        )


@final
class OnnxRuntimeRowPredictor(RowPredictor):
    """A fitted artifact and its graphs, which hold heads, scheduler and class probabilities.

    One is traced when rows of new dtypes first come, and kept. It may be pickled, and used after
    a fork.
    """

    def __init__(self, artifact: Artifact, capabilities: Capabilities, device: str) -> None:
        self._capabilities, self._device = capabilities, device
        self._fitted = FittedHeads(artifact)
        check_names(artifact, whole=True)
        self._graphs = Graphs(artifact, device)

    def predict(
        self, embeddings: Mapping[str, NDArray[Any]], present: NDArray[Any]
    ) -> tuple[Schedule, NDArray[Any]]:
        artifact = self._fitted.artifact
        found, notes = self._run("whole", embeddings, present)
        probabilities = found.pop("probabilities")
        resolved = resolve(artifact.spec, artifact.scheduler_parameters)
        ns = _library("cpu").namespace("cpu")
        result = checked(ns, resolved, present, _schedule(found, notes))
        with ns.guard():  # no graph can say it
            said = joint_said(ns, artifact.spec, result, embeddings, present, self._fitted.heads)
            own = joint_notes(ns, result, said)
        return replace(result, notes=(*result.notes, *own)), probabilities

    def unimodal(
        self, embeddings: Mapping[str, NDArray[Any]], present: NDArray[Any]
    ) -> NDArray[Any]:
        return self._run("unimodal", embeddings, present)[0]["unimodal"]

    def _run(
        self, kind: str, embeddings: Mapping[str, NDArray[Any]], present: NDArray[Any]
    ) -> tuple[dict[str, NDArray[Any]], tuple[str, ...]]:
        """What a graph gives for the rows, a few at a time on the CPU, as NumPy arrays."""
        self._fitted.check_rows(embeddings, present)
        session, notes = self._graph(kind, embeddings, present)
        arrays, library = {**embeddings, "present": present}, _library(self._device)
        parts = [
            session.run({k: library.from_numpy(v[rows], self._device) for k, v in arrays.items()})
            for rows in self._blocks(embeddings, len(present))
        ]
        joined = {
            name: np.concatenate([library.to_numpy(part[name]) for part in parts])
            for name in parts[0]
        }
        return joined, notes

    def _blocks(self, embeddings: Mapping[str, NDArray[Any]], rows: int) -> Iterator[slice]:
        classes, fitted = len(self._fitted.classes), self._fitted
        widest = max(array.shape[1] for array in embeddings.values())
        widths = {"features": widest, "logits": classes, "mc_logits": classes * fitted.passes}
        own = sum(widths[name] for name in fitted.outputs) * len(embeddings)
        entries = rows * (own + sum(array.shape[1] for array in embeddings.values()))
        at_once = _ENTRIES_AT_ONCE if self._device == "cpu" else max(entries, 1)
        return row_blocks(rows, entries, at_once)

    def _graph(
        self, kind: str, embeddings: Mapping[str, NDArray[Any]], present: NDArray[Any]
    ) -> Graph:
        ns = _library("cpu").namespace("cpu")
        for name, array in {**embeddings, "present": present}.items():
            check_dtype(ns, self._capabilities, name, array)
        dtypes = {name: array.dtype.name for name, array in embeddings.items()}
        artifact = self._fitted.artifact
        return self._graphs.get(
            (kind, *dtypes.items()),
            lambda: (
                trace_predictor(artifact, dtypes, whole=True)
                if kind == "whole"
                else (trace_unimodal(artifact, dtypes), ())
            ),
        )


def _schedule(found: dict[str, Array], notes: tuple[str, ...]) -> Schedule:
    """The schedule in the outputs of a graph: what is no other output is a signal or a term."""
    return Schedule(
        **{name: found.pop(name) for name in _OUTPUTS},
        soundness=found.pop("soundness", None),
        terms={
            name.removeprefix(TERMS): found.pop(name)
            for name in list(found)
            if name.startswith(TERMS)
        },
        signals=found,
        notes=notes,
    )


def _library(device: str) -> ArrayBackend:
    """Names the library of the arrays: NumPy on the CPU, torch on CUDA."""
    backend = get_backend("numpy" if device == "cpu" else "torch")
    assert isinstance(backend, ArrayBackend)  # noqa: S101 - both are ours
    return backend


def _torch_devices() -> list[str]:
    try:
        return [name for name in get_backend("torch").capabilities.devices if name != "cpu"]
    except Exception:
        return []
