"""Predicts from a table with a fitted artifact: rows in batches, classes, notes, metrics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dms_spec.artifact import Artifact
from dms_spec.embeddings.labels import class_indices
from dms_spec.embeddings.metrics import Answers
from dms_spec.embeddings.table import Table
from dms_spec.engine.fitted import FittedHeads
from dms_spec.errors import DMSError, MissingInput, ShapeError, UnsupportedCapability
from dms_spec.interface.backend import Backend, Predictive
from dms_spec.types import Schedule

#: Rows at a time: enough for wide products, little enough to stay small with many passes.
BATCH_SIZE = 1024


class Predictions(dict[str, NDArray[Any]]):
    """Holds what a predictor says of a table: arrays by name, and notes.

    Attributes:
        notes: Everything that was weaker than asked for, in words.

    Example:
        >>> from dms_spec import Predictor, get_backend, load_artifact, read_table
        >>> predictor = Predictor(load_artifact("model"), get_backend("numpy"))
        >>> found = predictor.predict(read_table("train.npz"))
        >>> "predicted" in found, found.notes
        (True, ())
    """

    def __init__(self, arrays: Mapping[str, NDArray[Any]], notes: tuple[str, ...] = ()) -> None:
        super().__init__(arrays)
        self.notes = notes


class Predictor:
    """A fitted artifact bound to a backend. Threads may share it.

    Args:
        artifact: With heads and a model, as ``dms fit`` writes it.
        backend: One that runs the heads too, as every array backend does, and onnxruntime.
        device: One of its devices; None for its first.

    Raises:
        ArtifactError: The artifact has no heads, or its model does not fit its parameters.
        UnsupportedCapability: The backend runs schedules alone.
        BackendUnavailable: The device cannot be used.

    Example:
        >>> from dms_spec import Predictor, get_backend, load_artifact, read_table
        >>> predictor = Predictor(load_artifact("model"), get_backend("numpy"))
        >>> found = predictor.predict(read_table("train.npz"))
        >>> found["probabilities"].shape, found["weights"].shape
        ((60, 2), (60, 2))
    """

    def __init__(self, artifact: Artifact, backend: Backend, device: str | None = None) -> None:
        if not isinstance(backend, Predictive):
            raise UnsupportedCapability(
                f"backend {backend.name!r} runs schedulers alone, and no heads",
                capability="heads",
                expected="a backend that is also a dms_spec.Predictive, as every ArrayBackend is",
                fix="Use another backend, such as numpy; or run its heads elsewhere, and "
                "`dms schedule` here.",
            )
        self.artifact = artifact
        #: What the artifact's model says, checked.
        self.model = FittedHeads(artifact)
        self._rows = backend.row_predictor(artifact, backend.check_device(device))

    @property
    def classes(self) -> NDArray[Any]:
        """The labels' own values ``[C]``, in the order of the probabilities."""
        return self.model.classes

    def predict(self, table: Table, batch_size: int = BATCH_SIZE) -> Predictions:
        """Scores every row of a table, some rows at a time.

        A row in which nothing is active gets the class frequencies of the training rows, which
        is all that is known about it, and the likeliest class; its ``active`` is all False and
        its weights are 0. A note says how many there were.

        Returns:
            ``probabilities`` [N, C], ``predicted`` [N] in the labels' own values, ``weights`` and
            ``active`` [N, M], each signal under its name, [N, M], and at fusion of evidence
            ``soundness`` [N, M].

        Raises:
            ShapeError: The table has other modalities or widths than the artifact.
            NonFiniteInput, NothingPresent: As the spec asks.
        """
        parts = list(self.parts(table, batch_size))
        arrays = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        notes = dict.fromkeys(note for part in parts for note in part.notes)
        nothing = int((~arrays["active"].any(axis=1)).sum())
        return Predictions(arrays, (*notes, *self.nothing_note(nothing)))

    def parts(self, table: Table, batch_size: int = BATCH_SIZE) -> Iterator[Predictions]:
        """Gives what `predict` gives, some rows at a time and in their order: at least one part.

        Raises:
            ShapeError, NonFiniteInput, NothingPresent: As in `predict`.
        """
        if batch_size < 1:
            raise ShapeError(
                "the batch size is out of range", expected="1 row or more", got=str(batch_size)
            )
        self._check_table(table)
        for rows in _slices(len(table), batch_size):
            part = table.rows(rows)
            try:
                found = self._predict(part)
            except DMSError as error:  # its sample is counted from the first of these rows
                if len(table) > batch_size:
                    error.args = (f"from row {rows.start} on: {error}",)
                raise
            for name, array in found.items():
                if len(array) != len(part):
                    raise ShapeError(
                        f"{name} has another number of rows than the table",
                        expected=str(len(part)),
                        got=str(len(array)),
                    )
            yield found

    def nothing_note(self, rows: int) -> tuple[str, ...]:
        """Says what became of the rows in which nothing is active; empty if there are none."""
        if not rows:
            return ()
        note = "{} rows have nothing active: their probabilities are the class frequencies "
        note += "in training, their class {!r}"
        return (note.format(rows, self.model.usual),)

    def schedule(self, table: Table) -> Schedule:
        """Computes the whole schedule behind `predict`, with scores and terms, as NumPy arrays.

        Raises:
            ShapeError, NonFiniteInput, NothingPresent: As in `predict`.
        """
        self._check_table(table)
        return self._rows.predict(table.embeddings, table.present)[0]

    def unimodal(self, table: Table, batch_size: int = BATCH_SIZE) -> NDArray[Any]:
        """Predicts class probabilities of each modality alone, [N, M, C]; equal where absent."""
        parts = (table.rows(rows) for rows in _slices(len(table), batch_size))
        return np.concatenate([self._rows.unimodal(p.embeddings, p.present) for p in parts])

    def _predict(self, table: Table) -> Predictions:
        """Computes the results for one batch."""
        result, probabilities = self._rows.predict(table.embeddings, table.present)
        own = {} if result.soundness is None else {"soundness": result.soundness}
        arrays = {
            "probabilities": probabilities,
            "predicted": self.model.classes[probabilities.argmax(axis=1)],
            "weights": result.weights,
            "active": result.active,
            **own,
            **result.signals,
        }
        return Predictions(arrays, result.notes)

    def _check_table(self, table: Table) -> None:
        spec = self.artifact.spec
        if table.modalities != spec.modalities:
            raise ShapeError(
                "the table has other modalities than the artifact",
                expected=", ".join(spec.modalities),
                got=", ".join(table.modalities),
                fix="Read it with read_table(path, axis=spec.modalities).",
            )
        for name, width in self.model.widths.items():
            if (found := table.embeddings[name].shape[1]) != width:
                raise ShapeError(
                    f"modality {name!r} has another width than the one that was learned from",
                    expected=f"[N, {width}]",
                    got=f"[N, {found}]",
                    fix="Give embeddings of the encoder that was used for the fit.",
                )
        if spec.nonfinite == "raise":
            table.refuse_nonfinite()


def _slices(rows: int, size: int) -> Iterator[slice]:
    """At least one, so that no rows give arrays without rows."""
    for start in range(0, max(rows, 1), size):
        yield slice(start, min(start + size, rows))


# --------------------------------------------------------------------------------------- metrics


def evaluate(
    artifact: Artifact,
    backend: Backend,
    table: Table,
    index: NDArray[np.intp] | None = None,
) -> dict[str, Any]:
    """Measures accuracy and calibration on a table with labels: fused, static, each alone.

    Rows are read some at a time: the table need not fit into memory. A label that is not a class of
    the artifact counts as wrong; for calibration and likelihood its row is left out. A modality
    alone is measured where it is present.

    Args:
        artifact: With heads and a model.
        backend: That runs it.
        table: With labels.
        index: Which rows of it; None for all.

    Returns:
        ``samples``, and ``fused``, ``static`` (equal weights for what is active) and ``modalities``
        by name, each with what `measured` says.
    """
    if table.labels is None:
        raise MissingInput("there are no labels to measure by")
    spec = artifact.spec
    scheduler = Predictor(artifact, backend)
    uniform = spec.replace(
        policy="static",
        policy_options={},
        signals={},
        coefficients={},
        strict=False,
        # Evidence weighs by trust alone: without any, what is left is the mean.
        fusion="probability" if spec.fusion == "evidence" else spec.fusion,
    )
    heads = {k: v for k, v in artifact.parameters.items() if k not in artifact.scheduler_parameters}
    static = Predictor(Artifact(spec=uniform, parameters=heads, model=artifact.model), backend)
    names = ("fused", "static", *spec.modalities)
    kept: dict[str, list[Answers]] = {name: [] for name in names}
    heard: list[NDArray[np.bool_]] = []
    for part in table.parts(index):
        assert part.labels is not None  # noqa: S101 - narrows the type
        targets = class_indices(scheduler.classes, part.labels)
        alone = scheduler.unimodal(part)
        heard.append(part.present & np.isfinite(alone).all(axis=2))
        alone = np.where(heard[-1][..., None], alone, 1.0 / alone.shape[2])
        found = [scheduler.predict(part)["probabilities"], static.predict(part)["probabilities"]]
        for name, p in zip(names, [*found, *alone.swapaxes(0, 1)], strict=True):
            kept[name].append(Answers.of(p, targets))
    answers = {name: Answers.joined(parts) for name, parts in kept.items()}
    weight = table.sample_weight
    if weight is not None and index is not None:
        weight = weight[index]
    modalities = {}
    for name, there in zip(spec.modalities, np.concatenate(heard).T, strict=True):
        own = answers[name].rows(there).measured(None if weight is None else weight[there])
        modalities[name] = {"samples": int(there.sum()), **own}
    return {
        "samples": len(answers["fused"].targets),
        "fused": answers["fused"].measured(weight),
        "static": answers["static"].measured(weight),
        "modalities": modalities,
    }
