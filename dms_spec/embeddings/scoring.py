"""Scores frames with a fitted artifact, Arrow in and out, for engines that cut a dataset."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from dms_spec.artifact import CONFIG, MODEL, load_artifact
from dms_spec.embeddings.origin import ENCODERS, encoders_in, others
from dms_spec.embeddings.predictor import BATCH_SIZE, Predictor
from dms_spec.embeddings.sources.columns import Columns, Taken
from dms_spec.embeddings.sources.frame_writer import frame_of_arrays
from dms_spec.embeddings.sources.frames import Frame, open_frame, pyarrow, take_of
from dms_spec.embeddings.summary import Record, Remarks, Summary
from dms_spec.embeddings.table import Table
from dms_spec.errors import MissingInput, closest
from dms_spec.plugins import get_backend


@dataclass(frozen=True, kw_only=True)
class Scorer:
    """Scores the rows of a frame, each by itself: a function that can be pickled.

    Each process loads the artifact once, and again when its files change.

    Attributes:
        artifact: The folder.
        columns: Which columns are what; those of the artifact, where it leaves them open.
        keep: Columns of the frame that are copied to the result.
        backend: Where to compute. Others agree with ``numpy`` within round-off, so a label may
            differ where two classes tie within round-off.
        device: One of its devices; None for its first.
        batch_size: Rows at a time.

    Example:
        >>> import pyarrow as pa
        >>> from dms_spec import Scorer
        >>> frame = pa.table({"image": [[0.5, 1.0, 0.0]], "text": [[1.0, 0.5]], "track": ["a"]})
        >>> Scorer(artifact="model", keep=("track",))(frame).column_names[:3]
        ['track', 'probabilities', 'predicted']
    """

    artifact: Path | str
    columns: Columns = field(default_factory=Columns)
    keep: tuple[str, ...] = ()
    backend: str = "numpy"
    device: str | None = None
    batch_size: int = BATCH_SIZE

    def __call__(self, frame: Any) -> Any:
        """Scores a frame of any library, see `dms_spec.embeddings.sources.frames.open_frame`.

        Returns:
            A ``pyarrow.Table`` with as many rows in the same order: the columns to keep, then what
            `Predictor.predict` gives. Of its metadata, ``notes`` is a list of texts in JSON, and
            ``backend`` says where it was computed.

        Raises:
            ArtifactError: The artifact is damaged.
            MissingInput, ShapeError, DTypeError, SpecError: The frame does not fit it.
        """
        scored = self.scored(frame)
        metadata = {"notes": json.dumps(self.notes(scored.record)), "backend": self.backend}
        return scored.rows.replace_schema_metadata(metadata)

    def scored(self, frame: Any) -> Scored:
        """Does the same, and leaves the counts apart, to be added to those of other rows.

        Raises:
            ArtifactError, MissingInput, ShapeError, DTypeError, SpecError: As above.
        """
        predictor, opened = self.predictor(), open_frame(frame)
        for name in self.keep:
            if name not in opened.names:
                raise MissingInput(
                    f"{opened.where} has no column {name!r}, to keep",
                    fix=closest(name, opened.names),
                )
        taken = self.taken(opened)
        axis, widths = predictor.artifact.spec.modalities, predictor.model.widths
        table = Table.from_frame(opened, taken, axis=axis, widths=widths, where=opened.where)
        summary, tables = Summary(axis), []
        encoders = encoders_in(opened.texts, taken.modalities)
        notes = dict.fromkeys(others(predictor.artifact.model.get(ENCODERS), encoders))
        for found in predictor.parts(table, self.batch_size):
            rows = slice(summary.samples, summary.samples + len(found["active"]))
            kept = {name: opened.column(name)[rows] for name in self.keep}
            tables.append(frame_of_arrays(found, kept))
            summary.add(found["active"], found["weights"])
            notes |= dict.fromkeys(found.notes)
        record = Record(
            counts=summary.counts(),
            remarks=table.remarks,
            nonfinite=dict(table.nonfinite),
            notes=tuple(notes),
        )
        return Scored(pyarrow().concat_tables(tables), record)

    def predictor(self) -> Predictor:
        """Gives what scores, loaded once in each process.

        Raises:
            ArtifactError: The artifact is damaged.
            BackendUnavailable, UnknownName, UnsupportedCapability: It cannot run there.
        """
        return _predictor(str(self.artifact), self.backend, self.device, self._stamp())

    def taken(self, frame: Frame) -> Taken:
        """Finds the columns of a frame that are scored.

        Raises:
            MissingInput, SpecError: A column is not there, or taken twice.
        """
        before = Columns.of_model(self.predictor().artifact.model)
        return take_of(frame, self.columns, before).to_predict()

    def notes(self, record: Record) -> tuple[str, ...]:
        """Says in words what was odd."""
        said = Remarks()
        said.add(record.remarks, record.nonfinite)
        nothing = self.predictor().nothing_note(record.counts.nothing)
        return (*said.notes(), *record.notes, *nothing)

    def _stamp(self) -> tuple[int, ...]:
        paths = [Path(self.artifact) / name for name in (CONFIG, MODEL)]
        return tuple(path.stat().st_mtime_ns for path in paths if path.exists())


@dataclass(frozen=True)
class Scored:
    """Holds the scores of some rows, as a ``pyarrow.Table``, and what is to be said of them."""

    rows: Any
    record: Record


@lru_cache(maxsize=4)
def _predictor(
    artifact: str, backend: str, device: str | None, stamp: tuple[int, ...]
) -> Predictor:
    return Predictor(load_artifact(artifact), get_backend(backend), device)
