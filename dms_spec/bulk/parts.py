"""Scores one part, and reads what a part says of itself."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from dms_spec.bulk.manifest import MARK, Finished
from dms_spec.bulk.places import Folder, Place
from dms_spec.bulk.plan import Input, Part
from dms_spec.embeddings.scoring import Scorer
from dms_spec.embeddings.sources.frame_writer import ParquetWriter
from dms_spec.embeddings.sources.frames import open_frame, pyarrow
from dms_spec.embeddings.summary import Record, Tally
from dms_spec.errors import FileError, counting_from
from dms_spec.texts import parse_json
from dms_spec.typed import read_typed


@dataclass(frozen=True)
class Job:
    """Holds one part to score, and names it in messages."""

    part: Part

    def __str__(self) -> str:
        first, stop = self.part.row_groups
        groups = f"row group {first}" if stop - first < 2 else f"row groups {first} to {stop - 1}"
        return f"{self.part.path}, {groups}"


def read_part(place: Place, key: str, rows: int) -> Finished:
    """Reads what a part says of itself, and its checksum.

    Raises:
        FileError: It is damaged, or of another plan.
    """
    with place.parquet() as file:
        texts = file.metadata.metadata or {}
        found = file.metadata.num_rows
        kept = {name.decode(): text.decode() for name, text in texts.items()}
    if kept.get("plan") != key or found != rows:
        raise FileError(f"{place.given} is of another run", expected=f"{rows} rows of this one")
    record = read_typed(Record, parse_json(kept["record"], place.given), place.given)
    size, sha256 = place.checksum()
    return Finished(record=record, bytes=size, sha256=sha256)


def score_part(
    scorer: Scorer,
    artifact: str,
    key: str,
    inputs: Mapping[str, Input],
    files: Mapping[str, Place],
    folder: Folder,
    job: Job,
) -> Finished:
    """Scores one part, and puts it into the folder: all of it, or nothing.

    Args:
        scorer: What scores.
        artifact: The hash of what its artifact held when the plan was made.
        key: Of the plan.
        inputs: By path, what the files were then.
        files: By path, where they are.
        folder: Where the part goes.
        job: The part.

    Raises:
        FileError: The artifact or the input was written again, or rows are lost.
        DMSError: As `Scorer` does.
    """
    part, source = job.part, files[job.part.path]
    predictor = scorer.predictor()
    _check_unchanged(scorer, artifact, source, inputs[part.path])
    tally = Tally(predictor.artifact.spec.modalities)
    texts = {
        "classes": json.dumps(predictor.classes.tolist()),
        "modalities": json.dumps(predictor.artifact.spec.modalities),
        "plan": key,
    }
    with (
        folder.writing(part.name, MARK.encode()) as path,
        ParquetWriter(path, MARK, texts) as out,
    ):
        for frame in _frames(source, scorer, part):
            with counting_from(tally.summary.samples):
                scored = scorer.scored(frame)
            out.add(scored.rows)
            tally.add(scored.record)
        if tally.summary.samples != part.rows:
            found = str(tally.summary.samples)
            raise FileError("rows are lost", expected=f"{part.rows} rows", got=found)
        out.metadata["record"] = json.dumps(asdict(tally.record()), allow_nan=False)
    return read_part(folder.place.within(part.name), key, part.rows)


def _check_unchanged(scorer: Scorer, artifact: str, source: Place, before: Input) -> None:
    """Refuses an artifact or an input that is not what it was when the plan was made."""
    if scorer.predictor().artifact.content_hash() != artifact:
        raise FileError(f"{scorer.artifact} was written again during the run")
    if source.footer() != (before.bytes, before.footer):
        raise FileError(f"{source.given} was written again during the run")


def _frames(source: Place, scorer: Scorer, part: Part) -> Iterator[Any]:
    """Reads the rows of a part, some at a time; at least one frame."""
    pa = pyarrow()
    with source.parquet() as file:
        empty = open_frame(file.schema_arrow.empty_table(), source.given)
        columns = list(dict.fromkeys([*scorer.keep, *scorer.taken(empty).names()]))
        batches = file.iter_batches(
            scorer.batch_size,
            row_groups=list(range(*part.row_groups)),
            columns=columns,
            use_threads=False,
        )
        found = False
        for batch in batches:
            found = True
            table = pa.Table.from_batches([batch]).select(columns)
            yield open_frame(table, source.given)
        if not found:
            yield open_frame(file.schema_arrow.empty_table().select(columns), source.given)
