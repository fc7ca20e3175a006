"""Scores frames with a fitted artifact, Arrow in and out, for engines that cut a dataset."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from dms_spec.artifact import CONFIG, MODEL, load_artifact
from dms_spec.embeddings.predictor import BATCH_SIZE, Predictor
from dms_spec.embeddings.sources.columns import Columns
from dms_spec.embeddings.sources.frame_writer import frame_of_arrays
from dms_spec.embeddings.sources.frames import open_frame, take_of
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
        backend: Where to compute.
        device: One of its devices; None for its first.
        batch_size: Rows at a time.
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
            `Predictor.predict` gives. Its metadata ``notes`` is a list of texts in JSON.

        Raises:
            ArtifactError: The artifact is damaged.
            MissingInput, ShapeError, DTypeError, SpecError: The frame does not fit it.
        """
        predictor = _predictor(str(self.artifact), self.backend, self.device, self._stamp())
        opened = open_frame(frame)
        for name in self.keep:
            if name not in opened.names:
                raise MissingInput(
                    f"{opened.where} has no column {name!r}, to keep",
                    fix=closest(name, opened.names),
                )
        before = Columns.of_model(predictor.artifact.model)
        taken = take_of(opened, self.columns, before).to_predict()
        axis, widths = predictor.artifact.spec.modalities, predictor.model.widths
        table = Table.from_frame(opened, taken, axis=axis, widths=widths)
        found = predictor.predict(table, self.batch_size)
        result = frame_of_arrays(found, {name: opened.column(name) for name in self.keep})
        notes = [*table.notes(), *found.notes]
        return result.replace_schema_metadata({"notes": json.dumps(notes)})

    def _stamp(self) -> tuple[int, ...]:
        paths = [Path(self.artifact) / name for name in (CONFIG, MODEL)]
        return tuple(path.stat().st_mtime_ns for path in paths if path.exists())


@lru_cache(maxsize=4)
def _predictor(
    artifact: str, backend: str, device: str | None, stamp: tuple[int, ...]
) -> Predictor:
    return Predictor(load_artifact(artifact), get_backend(backend), device)
