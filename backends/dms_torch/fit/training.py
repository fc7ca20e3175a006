"""Learns from a table: heads, temperatures, typicality, then what the policy has to learn."""

from __future__ import annotations

import hashlib
import json
import platform
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dms_spec._version import PACKAGE
from dms_spec.artifact import Artifact
from dms_spec.embeddings.predictor import evaluate
from dms_spec.embeddings.settings import FitSettings
from dms_spec.embeddings.table import Table, check_learnable
from dms_spec.engine.fitted import head_outputs
from dms_spec.engine.resolve import Resolved, resolve
from dms_spec.errors import DMSError, DMSWarning, SpecError
from dms_spec.markup import gigabytes
from dms_spec.plugins import get_backend
from dms_spec.scratch import Scratch
from dms_spec.spec import SchedulerSpec
from dms_spec.streams import forget, row_parts
from dms_torch.backend import TorchBackend
from dms_torch.fit.checkpoint import Arrays, Checkpoint
from dms_torch.fit.concatenation import measure_concatenation
from dms_torch.fit.corruption import stream
from dms_torch.fit.folds import Rows, rows_of
from dms_torch.fit.heads import Heads
from dms_torch.fit.optimize import Descent, Progress, on_device
from dms_torch.fit.policy import PolicyStage, at_the_rule
from dms_torch.fit.regression import joint_regression
from dms_torch.fit.trust import learn_trust
from dms_torch.fit.typicality import learn_typicality

# The arrays of a table beside its embeddings.
_COLUMNS = (
    "present",
    "labels",
    "labelled",
    "train",
    "test",
    "validation",
    "groups",
    "sample_weight",
)

__all__ = ["FitSettings", "Fitted", "Progress", "fit"]


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """Holds what was learned.

    Attributes:
        artifact: Spec, parameters, and in its model the classes, settings, calibration, metrics.
        notes: What is weaker than it looks, in words.
        resumed: Where the run went on from, in words; empty if it ran in one go.
    """

    artifact: Artifact
    notes: tuple[str, ...]
    resumed: str = ""


def fit(
    table: Table,
    spec: SchedulerSpec,
    settings: FitSettings | None = None,
    *,
    device: str | None = None,
    checkpoint: Path | None = None,
    checkpoint_seconds: float = 5.0,
    overwrite: bool = False,
    report: Callable[[Progress], None] | None = None,
    memory: int | None = None,
) -> Fitted:
    """Learns heads over frozen embeddings, and a policy over the heads.

    1. Heads: a classifier for each modality, from where ridge regression puts it, by its
       cross-entropy where the modality is present; some rows are seen through noise. Where the
       spec compares features, also projections, by the cross-entropy of one linear head that all
       modalities share, and by the consistency loss over equal weights. There it can act, since
       it must not push the scheduler's weights.
    2. One temperature for each modality, on validation rows.
    3. For the signal typicality, what is typical, and on validation rows what it costs to be far
       from it, under corruption drawn at random.
    4. Policy: its parameters, and for fusion of features a linear head over the fused ones, by
       the cross-entropy of the fused prediction. The heads stay as they are. It starts at the
       rule, a penalty keeps it near, and the start counts: on validation rows, as corrupted as
       those that it learns on, the result is never worse than the rule.

    The training rows are cut into five folds, evenly over the classes. Where features of different
    modalities are compared, nothing learns from the first fold. Elsewhere there are heads
    and places for each fold that have not learned from it, six of each in all. So every row shows
    what heads do on rows that they have not seen. The last, learned from all rows, are kept. The
    policy then learns on rows under random corruption (uniform and Laplace noise, exchanged
    inputs): on all but the first fold, which says when to stop.

    The same table, spec and settings give the same bits on the CPU, where torch runs on one
    thread meanwhile.

    Args:
        table: With labels; learned from are its `Table.training_rows`.
        spec: Its modalities are the table's.
        settings: How to learn.
        device: Of the torch backend; None for its first.
        checkpoint: A file to keep the state in, and to go on from if it is there. Remove it when
            the result is safe. None keeps none.
        checkpoint_seconds: How long to leave between two states.
        overwrite: Start anew where the checkpoint is of another run, and replace it.
        report: Called after each epoch.
        memory: Bytes of embeddings. Where the table has more, copies to work on lie in temporary
            files, and memory does not grow with the rows. The result is the same, bit for bit.
            None for no limit.

    Raises:
        MissingInput: Nothing can be learned from the table.
        SpecError, UnknownName: The spec or a setting does not fit.
        NonFiniteInput: Embeddings are not finite and the spec refuses that, or are too large.
        BackendUnavailable: The device cannot be used.
        ArtifactError, FileError: The checkpoint is of another run, or damaged.
        FileError: The disk has no room for temporary files.

    Example:
        >>> from dms_spec import SchedulerSpec, read_table
        >>> from dms_torch.fit import FitSettings, fit
        >>> table = read_table("train.npz")
        >>> spec = SchedulerSpec.preset("robust", table.modalities)
        >>> fitted = fit(table, spec, FitSettings(epochs=5))
        >>> fitted.artifact.model["classes"]
        [0, 1]
    """
    settings = settings or FitSettings()
    device = TorchBackend().check_device(device)
    if table.modalities != spec.modalities:
        raise SpecError(
            "the table and the spec name different modalities",
            expected=", ".join(spec.modalities),
            got=", ".join(table.modalities),
        )
    check_learnable(table)
    if spec.nonfinite == "raise":
        table.refuse_nonfinite()
    with _one_thread(), warnings.catch_warnings():
        # The same words come back as notes.
        warnings.simplefilter("ignore", DMSWarning)
        run = _fingerprint(table, spec, settings, device)
        store = Checkpoint(checkpoint, run, checkpoint_seconds, replace=overwrite)
        try:
            return _run(table, spec, settings, device, store, report, _scratch(table, memory))
        except DMSError:  # the same again would fail again
            store.discard()
            raise


def _scratch(table: Table, memory: int | None) -> Scratch:
    """Decides where large arrays are."""
    return Scratch(on_disk=memory is not None and embedding_bytes(table) > memory)


def embedding_bytes(table: Table) -> int:
    """Counts what the embeddings of a table take."""
    return sum(array.nbytes for array in table.embeddings.values())


def _run(
    table: Table,
    spec: SchedulerSpec,
    settings: FitSettings,
    device: str,
    store: Checkpoint,
    report: Callable[[Progress], None] | None,
    scratch: Scratch,
) -> Fitted:
    """Runs the stages in their order."""
    resolved = at_the_rule(spec, settings)._resolved
    # Heads that share a space are one whole: each fold's would have a space of its own.
    shared = resolved.shares_space()
    balanced = settings.class_weight == "balanced"
    split = stream(settings.seed, "split")
    rows = rows_of(table, device, split, crossed=not shared, balanced=balanced, scratch=scratch)
    heads = Heads(spec, settings, rows, shared=shared)
    descent = Descent(settings, device, store, report)

    learned, calibration = heads.learn(descent)
    passes = settings.passes if "mc_logits" in head_outputs(resolved, settings.passes) else 0
    fitted = heads.fitted(learned, passes=passes)
    copies = [on_device(own, device) for own in fitted]

    places: list[Arrays] = [{} for _ in copies]
    weak: list[str] = []
    if "typicality" in spec.signals:
        places, weak = learn_typicality(heads, copies)
        if table.sample_weight is not None:
            weak = [*weak, "sample_weight has no part in typicality: all rows count alike there"]

    joint: Arrays = {}
    if len(spec.modalities) > 1:
        work = partial(joint_regression, rows, settings)
        joint = descent.once("regression on all inputs", work)
    if spec.fusion == "evidence":
        own = learn_trust(heads, copies, places, learned, joint, descent)
    else:
        fused = {name: array for name, array in learned.items() if name.startswith("head.")}
        policy = PolicyStage(heads, copies, places, fused if spec.fusion == "feature" else {})
        found = descent.learn(policy.stage()) if policy.start else {}
        own = [{_artifact_name(name): array for name, array in found.items()}] * len(copies)

    # The copy that is kept, and the one that has not seen the rows that it is judged by.
    kept, unseen = (fitted[k] | places[k] | own[k] | _scales(rows) for k in (-1, 0))
    scheduler = Artifact(spec=spec, parameters=kept).scheduler_parameters
    notes = [*table.notes(), *resolve(spec, scheduler).notes(), *weak]
    notes += _unseen(learned, spec.modalities, rows)
    if scratch.on_disk:
        size = gigabytes(embedding_bytes(table))
        notes.append(f"the embeddings take {size}: copies of them lay in temporary files")
    notes += [*rows.notes, *_weaker(resolved, settings), *_unfinished(descent.history)]
    notes += [f"temperature of {n!r}: {c['note']}" for n, c in calibration.items() if c["note"]]
    model = {
        "classes": rows.classes.tolist(),
        "prior": rows.prior.tolist(),
        "dropout": settings.dropout,
        "passes": passes,
        "data": _data(table, rows),
        **({} if table.columns is None else {"columns": table.columns.to_dict()}),
        "settings": asdict(settings),
        "device": device,
        "stages": descent.history,
        "calibration": calibration,
        "notes": notes,
        "versions": {
            "dms-spec": PACKAGE,
            "python": platform.python_version(),
            "numpy": np.__version__,
            "torch": torch.__version__,
        },
    }
    artifact = Artifact(spec=spec, parameters=kept, model=model)
    judged = Artifact(spec=spec, parameters=unseen, model=model)
    model["metrics"] = _metrics(table, rows, judged, artifact, joint)
    return Fitted(artifact=artifact, notes=tuple(notes), resumed=descent.resumed)


def _metrics(
    table: Table, rows: Rows, unseen: Artifact, artifact: Artifact, joint: Arrays
) -> dict[str, Any]:
    """Measures on validation rows, and on test rows where there are any."""
    numpy, result = get_backend("numpy"), {}
    judged = [("validation", unseen, 0, rows.first)]
    if table.test is not None and len(table.test):
        judged.append(("test", artifact, rows.copies - 1, table.test))
    for name, own, copy, index in judged:
        result[name] = evaluate(own, numpy, table, index)
        if joint:
            measured = measure_concatenation(joint, copy, rows, table, index)
            result[name]["concatenation"] = measured
    return result


def _scales(rows: Rows) -> Arrays:
    return {
        f"heads.{name}.scale.{key}": getattr(scale, key)
        for name, scale in rows.scale.items()
        for key in ("zero", "unit")
    }


def _weaker(resolved: Resolved, settings: FitSettings) -> list[str]:
    """Says what the settings leave out."""
    return [
        f"signal {signal.name!r} is 0: it needs two passes or more"
        for signal in resolved.signals
        if signal.optional and "mc_logits" in signal.needs and settings.passes < 2
    ]


def _unseen(learned: Arrays, modalities: tuple[str, ...], rows: Rows) -> list[str]:
    """Classes that a modality has never been seen with, in words."""
    notes = []
    for name in modalities:
        never = learned.get(f"priors.{name}", np.ones((1, 1)))[-1] == 0
        if never.any() and not never.all():  # of a silent head another note tells
            listed = ", ".join(repr(c) for c in rows.classes[never].tolist())
            notes.append(
                f"{name!r} is in no training row of class {listed}, and says nothing about it"
            )
    return notes


def _unfinished(history: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Names stages that stopped at their limit, or never got better."""
    notes = []
    for name, stage in history.items():
        if not stage.get("converged", True):
            notes.append(f"the {name} stopped at the limit of steps, short of their optimum")
        if name == "heads" and stage["best_epoch"] == 0:
            notes.append(
                "the heads learned nothing beyond ridge regression that helps validation rows; "
                "lower the rate?"
            )
        if stage.get("limit"):
            notes.append(
                f"the {name} was still getting better after {stage['epochs']} epochs; raise epochs?"
            )
    return notes


def _data(table: Table, rows: Rows) -> dict[str, Any]:
    """Counts the training rows that the kept heads learned from, and those that judged them."""
    return {
        "rows": len(table),
        "training_rows": len(rows.learn.labels),
        "validation_rows": len(rows.first),
        "judging_rows": len(rows.validation.labels),
        "test_rows": 0 if table.test is None else len(table.test),
        "modalities": {
            name: {"width": array.shape[1], "present": int(table.present[:, m].sum())}
            for m, (name, array) in enumerate(table.embeddings.items())
        },
    }


def _artifact_name(name: str) -> str:
    return name.replace("/", ".") if name.startswith("policy/") else name


@contextmanager
def _one_thread() -> Iterator[None]:
    """Runs torch on one CPU thread, for steps that are too small to share.

    Sums are then taken in one order whatever the number of cores, and threads that wait for each
    other on a busy machine do not make it ten times slower (seen: 17 s in place of 1.7 s).
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _fingerprint(table: Table, spec: SchedulerSpec, settings: FitSettings, device: str) -> str:
    """Identifies everything that the result depends on."""
    plain = [spec.to_dict(), asdict(settings), torch.device(device).type, PACKAGE]
    digest = hashlib.sha256(json.dumps(plain, sort_keys=True).encode())
    arrays: dict[str, Any] = {
        **{f"embeddings {name}": array for name, array in table.embeddings.items()},
        **{k: getattr(table, k) for k in _COLUMNS},
    }
    for name, array in arrays.items():
        if array is not None:
            digest.update(f"{name} {array.dtype} {array.shape}".encode())
            for rows in row_parts(array):
                digest.update(np.ascontiguousarray(array[rows]).tobytes())
                forget(array)
    return digest.hexdigest()
