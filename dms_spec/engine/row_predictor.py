"""Binds a fitted artifact to a namespace: heads, scheduler and class probabilities."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, final

from numpy.typing import NDArray

from dms_spec.artifact import Artifact
from dms_spec.engine.fitted import FittedHeads
from dms_spec.engine.probabilities import joint_notes, joint_said, schedule_probabilities
from dms_spec.engine.scheduler import check_dtype
from dms_spec.engine.warning import quietly
from dms_spec.equations.heads import apply_heads, head_inputs, heads_of_inputs
from dms_spec.equations.namespace import Namespace
from dms_spec.interface.backend import Backend, RowPredictor
from dms_spec.types import Array, ModalityBatch, Schedule


@final
class EquationRowPredictor(RowPredictor):
    """Runs the equations of the heads around a scheduler, in the namespace of an array backend."""

    def __init__(self, backend: Backend, ns: Namespace, artifact: Artifact, device: str) -> None:
        self._backend, self._ns, self._device = backend, ns, device
        self._fitted = FittedHeads(artifact)
        with quietly():  # the same words come back as notes of the schedule
            self._scheduler = backend.scheduler(
                artifact.spec, artifact.scheduler_parameters, device=device
            )
        self._parameters = {
            # from_numpy may give a scalar an axis.
            name: ns.xp.reshape(self._moved(array), array.shape)
            for name, array in self._fitted.heads.items()
        }
        wide = "float64" in backend.capabilities.dtypes
        self._prior = self._moved(self._fitted.prior.astype("float64" if wide else "float32"))

    def predict(
        self, embeddings: Mapping[str, NDArray[Any]], present: NDArray[Any]
    ) -> tuple[Schedule, NDArray[Any]]:
        there = self._read("present", present)
        moved = {name: self._read(name, array) for name, array in embeddings.items()}
        spec, own = self._fitted.artifact.spec, self._parameters
        with self._ns.guard():
            inputs = head_inputs(self._ns, moved, there, own, modalities=spec.modalities)
            heads = heads_of_inputs(
                self._ns,
                inputs,
                there,
                own,
                modalities=spec.modalities,
                dropout=self._fitted.dropout,
                outputs=self._fitted.outputs,
            )
        result = self._scheduler(ModalityBatch(**heads, present=there))
        with self._ns.guard():
            said = joint_said(self._ns, spec, result, inputs, there, own)
            probabilities = schedule_probabilities(self._ns, spec, result, said, own, self._prior)
            notes = joint_notes(self._ns, result, said)
        back = self._backend.to_numpy
        noted = replace(result, notes=(*result.notes, *notes))
        return noted.converted(back), back(probabilities)

    def unimodal(
        self, embeddings: Mapping[str, NDArray[Any]], present: NDArray[Any]
    ) -> NDArray[Any]:
        moved = {name: self._read(name, array) for name, array in embeddings.items()}
        with self._ns.guard():
            heads = apply_heads(
                self._ns,
                moved,
                self._read("present", present),
                self._parameters,
                modalities=self._fitted.artifact.spec.modalities,
                dropout=self._fitted.dropout,
                outputs=("logits",),
            )
            return self._backend.to_numpy(self._ns.softmax(heads["logits"]))

    def _read(self, name: str, array: NDArray[Any]) -> Array:
        moved = self._moved(array)
        check_dtype(self._ns, self._backend.capabilities, name, moved)
        return moved

    def _moved(self, array: NDArray[Any]) -> Array:
        return self._backend.from_numpy(array, self._device)
