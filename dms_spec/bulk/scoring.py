"""Scores files of Parquet part by part, goes on where a run was stopped, and keeps a manifest."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from typing import Self

from dms_spec.bulk.manifest import MANIFEST, MANIFEST_MARK, MARK, Finished, Manifest
from dms_spec.bulk.parts import Job, read_part, score_part
from dms_spec.bulk.places import Folder, Place
from dms_spec.bulk.plan import Part, Plan, make_plan
from dms_spec.bulk.workers import run_jobs
from dms_spec.embeddings.scoring import Scorer
from dms_spec.embeddings.summary import Tally
from dms_spec.errors import FileError
from dms_spec.texts import parse_json
from dms_spec.typed import read_typed


class Bulk:
    """Scores many files into one folder. Make it with `planned`, and run it.

    Attributes:
        scorer: What scores.
        plan: What is to be done.
        finished: By name, the parts that are there.
        damaged: The names of parts that are there and cannot be read: they are scored again.
    """

    def __init__(self, scorer: Scorer, plan: Plan, files: Sequence[Place], folder: Folder) -> None:
        self.scorer, self.plan, self._folder = scorer, plan, folder
        self._files = {place.given: place for place in files}
        self.finished: dict[str, Finished] = {}
        self.damaged: list[str] = []

    @classmethod
    def planned(cls, scorer: Scorer, files: Sequence[Place], folder: Folder) -> Self:
        """Plans the parts, compares with an earlier plan, and finds what it has finished.

        Raises:
            FileError: A file cannot be read; the folder holds something else, or was begun with
                another artifact, other inputs or other options.
            MissingInput, ShapeError, DTypeError, SpecError: The columns do not fit.
        """
        plan, scorer = make_plan(scorer, files)
        bulk = cls(scorer, plan, files, folder)
        marks = {part.name: MARK.encode() for part in plan.parts}
        folder.check({MANIFEST: MANIFEST_MARK, **marks})
        manifest = folder.place.within(MANIFEST)
        if manifest.exists():
            bulk._compare(manifest)
            bulk._find_finished()
        elif strange := [name for name in folder.names() if name.startswith("part-")]:
            raise FileError(
                f"{folder.place.given} has parts and no {MANIFEST}",
                expected="a new folder, or an earlier run with what it wrote first",
                got=strange[0],
                fix="Choose another folder, or remove this one.",
            )
        else:
            bulk._write(Manifest(manifest=MARK, plan=plan))
        return bulk

    @property
    def rows_done(self) -> int:
        """How many rows are in the parts that are there."""
        return sum(part.rows for part in self.plan.parts if part.name in self.finished)

    def run(self, workers: int) -> Iterator[Part]:
        """Scores the parts that are not there, and gives each as it is finished.

        Raises:
            DMSError: A part cannot be scored. What was finished stays.
        """
        jobs = [Job(part) for part in self.plan.parts if part.name not in self.finished]
        inputs = {one.path: one for one in self.plan.inputs}
        work = partial(
            score_part, self.scorer, self.plan.artifact, self.plan.key(), inputs, self._files,
            self._folder,
        )  # fmt: skip
        try:
            for job, found in run_jobs(work, jobs, workers):
                self.finished[job.part.name] = found
                yield job.part
        finally:
            self._folder.clear()
        self._write(self.manifest())

    def manifest(self) -> Manifest:
        """Sums up what all parts say.

        Raises:
            FileError: There are other rows than in the inputs.
        """
        tally = Tally(self.scorer.predictor().artifact.spec.modalities)
        parts = []
        for part in self.plan.parts:
            found = self.finished[part.name]
            tally.add(found.record)
            rows, said = found.record.counts.rows, {"bytes": found.bytes, "sha256": found.sha256}
            parts.append({"name": part.name, "rows": rows, **said})
        summary, wanted = tally.summary, sum(one.rows for one in self.plan.inputs)
        if summary.samples != wanted:
            raise FileError(
                f"{self._folder.place.given} has other rows than the inputs",
                expected=str(wanted),
                got=str(summary.samples),
            )
        return Manifest(
            manifest=MARK,
            plan=self.plan,
            rows=summary.samples,
            rows_with_nothing_active=summary.nothing,
            modalities=tuple(summary.rows()),
            notes=self.scorer.notes(tally.record()),
            parts=tuple(parts),
        )

    def _compare(self, place: Place) -> None:
        given = self._folder.place.given
        before = read_typed(Manifest, parse_json(place.text(), place.given), place.given)
        if changes := self.plan.changes(before.plan):
            raise FileError(
                f"{given} was begun with something else",
                expected="the same artifact, inputs and options, to go on",
                got="; ".join(changes),
                fix="Choose another folder, or remove this one.",
            )

    def _find_finished(self) -> None:
        """Finds whole parts of this plan. One that is damaged is scored again."""
        for part in self.plan.parts:
            place = self._folder.place.within(part.name)
            if not place.exists():
                continue
            try:
                self.finished[part.name] = read_part(place, self.plan.key(), part.rows)
            except FileError:
                self.damaged.append(part.name)

    def _write(self, manifest: Manifest) -> None:
        text = json.dumps(asdict(manifest), indent=2, allow_nan=False) + "\n"
        with self._folder.writing(MANIFEST, MANIFEST_MARK) as path:
            path.write_text(text, encoding="utf-8")
