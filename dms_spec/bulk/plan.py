"""Plans which rows go into which part, and says what has changed since an earlier plan."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from dms_spec._version import PACKAGE
from dms_spec.bulk.places import Place
from dms_spec.embeddings.scoring import Scorer
from dms_spec.embeddings.sources.frames import open_frame
from dms_spec.errors import FileError, MissingInput, closest

#: Row groups of a file that follow each other are one part, until it has as many rows.
ROWS = 100_000


@dataclass(frozen=True, kw_only=True)
class Input:
    """Says what one file was when the plan was made.

    Attributes:
        path: As it was given.
        bytes: Its size.
        modified: When it was written, in nanoseconds; None where nobody knows.
        footer: The SHA-256 of its footer.
        rows: N.
    """

    path: str
    bytes: int
    modified: int | None
    footer: str
    rows: int


@dataclass(frozen=True, kw_only=True)
class Part:
    """Says which rows one part holds.

    Attributes:
        name: Of its file.
        path: Of its input.
        row_groups: The first, and the one after the last.
        rows: How many.
    """

    name: str
    path: str
    row_groups: tuple[int, int]
    rows: int


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Says what is to be done: the same plan gives the same bytes.

    Attributes:
        package: The version of dms-spec.
        artifact: The hash of what it holds.
        options: What was asked for, as plain data.
        inputs: The files, in their order.
        parts: The parts, in the order of the rows.
    """

    package: str
    artifact: str
    options: Mapping[str, Any]
    inputs: tuple[Input, ...]
    parts: tuple[Part, ...]

    @property
    def rows(self) -> int:
        """N, over all inputs."""
        return sum(part.rows for part in self.parts)

    def to_dict(self) -> dict[str, Any]:
        """Gives plain data for JSON."""
        return asdict(self)

    def key(self) -> str:
        """Gives a hash that each part keeps, so that one knows which plan it belongs to."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()

    def changes(self, before: Plan) -> list[str]:
        """Says in words what is not as it was in an earlier plan."""
        found = []
        if self.artifact != before.artifact:
            found.append("another artifact")
        if self.package != before.package:
            found.append(f"dms-spec {before.package} before, {self.package} now")
        for name in sorted({*self.options, *before.options}):
            old, new = before.options.get(name), self.options.get(name)
            if json.dumps(old) != json.dumps(new):
                found.append(f"{name} {json.dumps(old)} before, {json.dumps(new)} now")
        old_inputs = {one.path: one for one in before.inputs}
        new_inputs = {one.path: one for one in self.inputs}
        found += [f"{path} is gone" for path in old_inputs if path not in new_inputs]
        found += [f"{path} is new" for path in new_inputs if path not in old_inputs]
        for path in new_inputs:
            if path in old_inputs and new_inputs[path] != old_inputs[path]:
                found.append(f"{path} was written again")
        if not found and self.parts != before.parts:
            found.append("the inputs in another order")
        return found


def make_plan(scorer: Scorer, files: Sequence[Place]) -> tuple[Plan, Scorer]:
    """Plans the parts of some files of Parquet.

    Args:
        scorer: What scores; the column that names the rows in its artifact is kept as well.
        files: Where the rows are, in their order.

    Returns:
        The plan, and the scorer with all the columns that it keeps.

    Raises:
        FileError: A file is damaged, given twice, or has other columns than the first.
        MissingInput, SpecError: A column is not there, or taken twice.
    """
    path, times = Counter(place.path for place in files).most_common(1)[0]
    if times > 1:
        raise FileError(f"{path} is given twice", expected="each file once")
    inputs, parts, first = [], [], None
    for place in files:
        with place.parquet() as file:
            schema, metadata = file.schema_arrow, file.metadata
            sizes = [metadata.row_group(k).num_rows for k in range(metadata.num_row_groups)]
        names = _needed(schema, scorer, place.given)
        kinds = {name: str(schema.field(name).type) for name in names}
        if first is None:
            first, scorer = kinds, _keeping(scorer, schema, place.given)
        if kinds != first:
            raise FileError(
                f"{place.given} differs from {files[0].given} in its columns",
                expected=_listed(first, kinds),
                got=_listed(kinds, first),
                fix="Write the files alike, or score them one by one.",
            )
        size, footer = place.footer()
        inputs.append(
            Input(
                path=place.given,
                bytes=size,
                modified=place.modified(),
                footer=footer,
                rows=metadata.num_rows,
            )
        )
        for start, stop in cut(sizes, ROWS):
            rows = sum(sizes[start:stop])
            parts.append((place.given, (start, stop), rows))
    named = [
        Part(name=f"part-{k:05}.parquet", path=path, row_groups=groups, rows=rows)
        for k, (path, groups, rows) in enumerate(parts)
    ]
    options = {
        "backend": scorer.backend,
        "device": scorer.device,
        "batch_size": scorer.batch_size,
        "keep": list(scorer.keep),
        "columns": scorer.columns.to_dict(),
    }
    plan = Plan(
        package=PACKAGE,
        artifact=scorer.predictor().artifact.content_hash(),
        options=options,
        inputs=tuple(inputs),
        parts=tuple(named),
    )
    return plan, scorer


def cut(sizes: Sequence[int], least: int) -> list[tuple[int, int]]:
    """Joins row groups that follow each other until they have enough rows; at least one part.

    Args:
        sizes: The rows of each row group.
        least: How many rows are enough.
    """
    found, start, rows = [], 0, 0
    for k, size in enumerate(sizes):
        rows += size
        if rows >= least:
            found.append((start, k + 1))
            start, rows = k + 1, 0
    if start < len(sizes) or not found:
        found.append((start, len(sizes)))
    return found


def _needed(schema: Any, scorer: Scorer, where: str) -> list[str]:
    """Names the columns that are read of a file."""
    taken = scorer.taken(open_frame(schema.empty_table(), where))
    for name in scorer.keep:
        if name not in schema.names:
            raise MissingInput(
                f"{where} has no column {name!r}, to keep", fix=closest(name, schema.names)
            )
    return list(dict.fromkeys([*scorer.keep, *taken.names()]))


def _keeping(scorer: Scorer, schema: Any, where: str) -> Scorer:
    name = scorer.taken(open_frame(schema.empty_table(), where)).id
    keep = scorer.keep if name is None else (name, *scorer.keep)
    return replace(scorer, keep=tuple(dict.fromkeys(keep)))


def _listed(kinds: Mapping[str, str], others: Mapping[str, str]) -> str:
    """Names the columns that the others lack, or have of another type."""
    own = [f"{name} {kind}" for name, kind in kinds.items() if others.get(name) != kind]
    return ", ".join(own) or "no more columns"
