"""From a table to predictions: the heads, the scheduler and the classes of a fitted artifact."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from math import isfinite
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dms_spec.artifact import Artifact
from dms_spec.embeddings.calibration import expected_calibration_error
from dms_spec.embeddings.table import Table
from dms_spec.engine.array_backend import ArrayBackend
from dms_spec.engine.resolve import Resolved, resolve
from dms_spec.equations.heads import apply_heads, class_probabilities
from dms_spec.errors import (
    ArtifactError,
    DMSError,
    DMSWarning,
    MissingInput,
    ShapeError,
    SpecError,
    UnsupportedCapability,
)
from dms_spec.interface.backend import Backend
from dms_spec.types import Array, ModalityBatch, Schedule

Arrays = dict[str, NDArray[Any]]

#: Rows at a time: enough for wide products, little enough to stay small with many passes.
BATCH_SIZE = 1024


def head_outputs(resolved: Resolved, passes: int) -> tuple[str, ...]:
    """What the heads must compute for a spec, out of `HEAD_OUTPUTS`, in their order.

    Without passes there are no ``mc_logits``; a signal that would read them is 0 and says so.
    """
    read = resolved.reads()
    if passes == 0:
        read.discard("mc_logits")
    return tuple(name for name in ("features", "logits", "mc_logits") if name in read)


class Predictor:
    """A fitted artifact bound to a backend.

    Args:
        artifact: With heads and a model, as ``dms fit`` writes it.
        backend: An array backend: the heads are computed in its namespace.
        device: One of its devices; None for its first.

    Raises:
        ArtifactError: The artifact has no heads, or its model does not fit its parameters.
        UnsupportedCapability: The backend runs schedules alone.
        BackendUnavailable: The device cannot be used.
    """

    def __init__(self, artifact: Artifact, backend: Backend, device: str | None = None) -> None:
        if not isinstance(backend, ArrayBackend):
            raise UnsupportedCapability(
                f"backend {backend.name!r} cannot compute heads",
                capability="heads",
                expected="a backend that is an array library, such as numpy",
            )
        self.artifact, self._backend = artifact, backend
        self._device = backend.check_device(device)
        self._ns = backend.namespace(self._device)
        #: What the artifact's model says, checked.
        self.model = Model(artifact)
        spec = artifact.spec
        own = artifact.scheduler_parameters
        with warnings.catch_warnings():
            # The same words come back as notes of the schedule.
            warnings.simplefilter("ignore", DMSWarning)
            self._scheduler = backend.scheduler(spec, own, device=self._device)
        resolved = resolve(spec, own)
        self._outputs = head_outputs(resolved, self.model.passes)
        self._parameters = {
            # from_numpy may give a scalar an axis.
            name: self._ns.xp.reshape(backend.from_numpy(array, self._device), array.shape)
            for name, array in artifact.parameters.items()
            if name not in own
        }
        self._prior = backend.from_numpy(self.model.prior, self._device)
        self._check_parameters(resolved)
        #: Everything that was weaker than asked for, in words; known after `predict`.
        self.notes: tuple[str, ...] = ()

    @property
    def classes(self) -> NDArray[Any]:
        """The labels' own values ``[C]``, in the order of the probabilities."""
        return self.model.classes

    def predict(self, table: Table, batch_size: int = BATCH_SIZE) -> Arrays:
        """Score every row of a table, some rows at a time.

        A row in which nothing is active gets the class frequencies of the training rows, which
        is all that is known about it, and the likeliest class; its ``active`` is all False and
        its weights are 0. `notes` says how many there were.

        Returns:
            ``probabilities`` [N, C], ``predicted`` [N] in the labels' own values, ``weights`` and
            ``active`` [N, M], and each signal under its name, [N, M].

        Raises:
            ShapeError: The table has other modalities or widths than the artifact.
            NonFiniteInput, NothingPresent: As the spec asks.
        """
        if batch_size < 1:
            raise ShapeError("there is no batch", expected="1 row or more", got=str(batch_size))
        self._check_table(table)
        self.notes = ()
        parts = []
        for rows in _slices(len(table), batch_size):
            try:
                parts.append(self._predict(table.rows(rows)))
            except DMSError as error:  # its sample is counted from the first of these rows
                if len(table) > batch_size:
                    error.args = (f"from row {rows.start} on: {error}",)
                raise
        results = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        for name, array in results.items():
            if len(array) != len(table):
                raise ShapeError(
                    f"{name} has another number of rows than the table",
                    expected=str(len(table)),
                    got=str(len(array)),
                )
        nothing = int((~results["active"].any(axis=1)).sum())
        if nothing:
            note = "{} rows have nothing active: their probabilities are the class frequencies "
            note += "in training, their class {!r}"
            self.notes += (note.format(nothing, self.model.usual),)
        return results

    def schedule(self, table: Table) -> Schedule:
        """The whole schedule behind `predict`, with scores and terms, as NumPy arrays, in one go.

        Raises:
            ShapeError, NonFiniteInput, NothingPresent: As in `predict`.
        """
        self._check_table(table)
        return self._schedule(table).converted(self._backend.to_numpy)

    def unimodal(self, table: Table, batch_size: int = BATCH_SIZE) -> NDArray[Any]:
        """Class probabilities of each modality by itself, [N, M, C]; uniform where it is absent."""
        parts = []
        for rows in _slices(len(table), batch_size):
            logits = self._heads(table.rows(rows), ("logits",))["logits"]
            with self._ns.guard():
                parts.append(self._backend.to_numpy(self._ns.softmax(logits)))
        return np.concatenate(parts)

    def _heads(self, table: Table, outputs: tuple[str, ...]) -> dict[str, Array]:
        move = self._backend.from_numpy
        with self._ns.guard():
            return apply_heads(
                self._ns,
                {name: move(array, self._device) for name, array in table.embeddings.items()},
                move(table.present, self._device),
                self._parameters,
                modalities=self.artifact.spec.modalities,
                dropout=self.model.dropout,
                outputs=outputs,
            )

    def _schedule(self, table: Table) -> Schedule:
        present = self._backend.from_numpy(table.present, self._device)
        return self._scheduler(ModalityBatch(**self._heads(table, self._outputs), present=present))

    def _predict(self, table: Table) -> Arrays:
        """The results for one batch."""
        back = self._backend.to_numpy
        result = self._schedule(table)
        self.notes = tuple(dict.fromkeys(self.notes + result.notes))
        with self._ns.guard():
            probabilities = back(
                class_probabilities(
                    self._ns,
                    result.fused,
                    result.active,
                    level=self.artifact.spec.fusion,
                    parameters=self._parameters,
                    prior=self._prior,
                )
            )
        return {
            "probabilities": probabilities,
            "predicted": self.model.classes[probabilities.argmax(axis=1)],
            "weights": back(result.weights),
            "active": back(result.active),
            **{name: back(array) for name, array in result.signals.items()},
        }

    def _check_table(self, table: Table) -> None:
        spec = self.artifact.spec
        if table.modalities != spec.modalities:
            raise ShapeError(
                "the table has other modalities than the artifact",
                expected=", ".join(spec.modalities),
                got=", ".join(table.modalities),
                fix="Read it with read_table(path, spec.modalities).",
            )
        if spec.nonfinite == "raise":
            table.refuse_spoilt()

    def _check_parameters(self, resolved: Resolved) -> None:
        """Hold heads, head and model to each other, on a table without rows."""
        embeddings = {}
        for name in self.artifact.spec.modalities:
            shape = np.shape(self.artifact.parameters.get(f"heads.{name}.scale.zero", ()))
            embeddings[name] = np.zeros((0, *(shape or (1,))), np.float32)
        empty = Table(embeddings=embeddings, present=np.zeros((0, len(embeddings)), dtype=bool))
        try:
            for name in self.artifact.spec.modalities:
                for short in ("scale.unit", "temperature"):
                    values = self.artifact.parameters.get(f"heads.{name}.{short}")
                    if values is not None and not (values > 0).all():
                        raise ShapeError(f"{short} of {name!r} is not above 0")
            first = f"heads.{self.artifact.spec.modalities[0]}.projection.weight"
            if resolved.shares_space() and first not in self._parameters:
                raise SpecError(
                    "features of different modalities are compared, and there is no projection "
                    f"into a common space: the heads lack {first!r}"
                )
            logits = self._heads(empty, (*self._outputs, "logits"))["logits"]
            if int(logits.shape[-1]) != len(self.classes):
                raise ShapeError(
                    "the classifiers do not fit the classes",
                    expected=f"C = {len(self.classes)}",
                    got=f"C = {logits.shape[-1]}",
                )
            if self.artifact.spec.fusion == "feature":
                self._check_head()
        except DMSError as error:
            raise ArtifactError(
                "the artifact has no usable heads",
                got=str(error),
                fix="Fit one with `dms fit`; a scheduler alone is for `dms schedule`.",
            ) from error

    def _check_head(self) -> None:
        width = self._parameters[f"heads.{self.artifact.spec.modalities[0]}.projection.bias"]
        expected = {
            "head.weight": (int(width.shape[0]), len(self.classes)),
            "head.bias": (len(self.classes),),
        }
        for name, shape in expected.items():
            got = tuple(self._parameters[name].shape) if name in self._parameters else "none"
            if got != shape:
                raise ShapeError(f"{name} does not fit", expected=str(shape), got=str(got))


class Model:
    """What a predictor reads of an artifact's model, checked: it may come from anywhere."""

    def __init__(self, artifact: Artifact) -> None:
        model = artifact.model
        if not model:
            raise ArtifactError(
                "the artifact has no heads",
                expected="one that was written by `dms fit`",
                got="a scheduler alone",
                fix="Use it with `dms schedule`, on features and logits of your own.",
            )
        classes: Any = model.get("classes")
        prior: Any = model.get("prior")
        if not isinstance(classes, list) or not classes or not _plain(classes):
            raise _unusable("classes", "a list of integers or of strings, each once", classes)
        numbers = isinstance(prior, list) and all(_number(p) and p >= 0 for p in prior)
        if not numbers or len(prior) != len(classes) or abs(sum(prior) - 1) > 1e-6:
            raise _unusable("prior", f"{len(classes)} numbers that sum to one", prior)
        dropout: Any = model.get("dropout")
        passes: Any = model.get("passes")
        if not _number(dropout) or not 0 <= dropout < 1:
            raise _unusable("dropout", "a number in [0, 1)", dropout)
        if not isinstance(passes, int) or isinstance(passes, bool) or passes < 0:
            raise _unusable("passes", "an integer, 0 or more", passes)
        self.classes = np.array(classes)
        self.prior = np.array(prior)
        self.dropout, self.passes = float(dropout), passes
        self.usual = classes[int(self.prior.argmax())]


def _plain(classes: list[Any]) -> bool:
    kind = type(classes[0])
    same = kind in (int, bool, str) and all(type(c) is kind for c in classes)
    return same and len(set(classes)) == len(classes) and np.array(classes).dtype != object


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)


def _unusable(name: str, expected: str, got: object) -> ArtifactError:
    return ArtifactError(
        f"the artifact's model has no usable {name}", expected=expected, got=repr(got)[:80]
    )


def _slices(rows: int, size: int) -> Iterator[slice]:
    """At least one, so that no rows give arrays without rows."""
    for start in range(0, max(rows, 1), size):
        yield slice(start, min(start + size, rows))


# --------------------------------------------------------------------------------------- metrics


def evaluate(artifact: Artifact, backend: Backend, table: Table) -> dict[str, Any]:
    """Accuracy and calibration on a table with labels: fused, uniformly fused, each alone.

    A label that is no class of the artifact counts as wrong; for calibration and likelihood its
    row is left out. A modality alone is measured where it is present.

    Returns:
        ``samples``, and ``fused``, ``static`` (uniform over what is active) and ``modalities`` by
        name, each with ``accuracy`` and ``ece``; plain numbers, None where there is nothing to
        measure.
    """
    if table.labels is None:
        raise MissingInput("there are no labels to measure by")
    spec = artifact.spec
    scheduler = Predictor(artifact, backend)
    uniform = spec.replace(
        policy="static", policy_options={}, signals={}, coefficients={}, strict=False
    )
    heads = {k: v for k, v in artifact.parameters.items() if k not in artifact.scheduler_parameters}
    static = Predictor(Artifact(spec=uniform, parameters=heads, model=artifact.model), backend)
    targets = class_indices(scheduler.classes, table.labels)
    probabilities = scheduler.unimodal(table)
    alone = {}
    for m, name in enumerate(spec.modalities):
        there = table.present[:, m] & np.isfinite(probabilities[:, m]).all(axis=1)
        own = _measured(probabilities[there, m], targets[there])
        alone[name] = {"samples": int(there.sum()), **own}
    return {
        "samples": len(table),
        "fused": _measured(scheduler.predict(table)["probabilities"], targets),
        "static": _measured(static.predict(table)["probabilities"], targets),
        "modalities": alone,
    }


def class_indices(classes: NDArray[Any], labels: NDArray[Any]) -> NDArray[np.intp]:
    """The index of each label in the sorted classes, -1 for one that is no class."""
    if (classes.dtype.kind == "U") != (labels.dtype.kind == "U"):
        return np.full(len(labels), -1, dtype=np.intp)
    index = np.searchsorted(classes, labels).clip(max=len(classes) - 1)
    return np.where(classes[index] == labels, index, -1)


def _measured(probabilities: NDArray[Any], targets: NDArray[np.intp]) -> Mapping[str, Any]:
    if not len(targets):
        return {"accuracy": None, "ece": None, "nll": None}
    known = targets >= 0
    result: dict[str, Any] = {
        "accuracy": float((probabilities.argmax(axis=1) == targets).mean()),
        "ece": None,
        "nll": None,
    }
    if known.any():
        p, y = probabilities[known].astype(np.float64), targets[known]
        result["ece"] = expected_calibration_error(p, y)
        likelihood = np.maximum(p[np.arange(len(y)), y], np.finfo(np.float32).tiny)
        result["nll"] = float(-np.log(likelihood).mean())
    return result
