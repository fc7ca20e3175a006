"""Scores many files of Parquet into a folder of parts, for ``dms predict``."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from time import monotonic
from typing import Any

from dms_spec.bulk.manifest import MANIFEST, Manifest
from dms_spec.bulk.places import Folder, Place, is_uri
from dms_spec.bulk.scoring import Bulk
from dms_spec.cli.common import columns_of, modality_table, names_of
from dms_spec.cli.printing import note, say, say_json
from dms_spec.cli.progress import Bar
from dms_spec.embeddings.scoring import Scorer
from dms_spec.errors import SpecError
from dms_spec.markup import counted
from dms_spec.outputs import check_not_input
from dms_spec.speed.setting import cores


def is_folder(output: str) -> bool:
    """Says whether an output is a folder: a path without a suffix, or one that ends so."""
    return is_uri(output) or output.endswith(("/", os.sep)) or not Path(output).suffix


def run_parts(args: argparse.Namespace) -> int:
    """Runs the verb.

    Raises:
        FileError, SpecError: An option or a place does not fit.
    """
    for name in ("modalities", "label"):
        if getattr(args, name) is not None:
            raise SpecError(
                f"--{name} is for one table and one output file",
                expected="--modality NAME=COL to choose columns"
                if name == "modalities"
                else "no labels: accuracy is not measured in parts",
            )
    workers = _workers(args)
    files = [file for text in args.input for file in Place.of(text).files()]
    folder = Folder(Place.of(args.output))
    for file in files:
        if folder.here and not is_uri(file.given):
            check_not_input(Path(args.output) / "part", Path(file.given).parent)
    scorer = Scorer(
        artifact=args.artifact,
        columns=columns_of(args),
        keep=names_of(args.keep) or (),
        backend=args.backend,
        device=args.device,
        batch_size=args.batch_size,
    )
    bulk = Bulk.planned(scorer, files, folder)
    before, started = len(bulk.finished), monotonic()
    with Bar() as bar:
        bar.begin("scoring", bulk.plan.rows, "row", bulk.rows_done)
        fresh = 0
        for part in bulk.run(workers):
            fresh += part.rows
            left = bulk.plan.rows - bulk.rows_done
            bar.step(_pace(fresh, left, monotonic() - started), part.rows)
    for name in bulk.damaged:
        note(f"{name} was damaged, and was scored again")
    _tell(args, bulk, bulk.manifest(), before)
    return 0


def _workers(args: argparse.Namespace) -> int:
    """How many processes to start: as many as cores, and one on an accelerator."""
    if args.workers is None:
        return 1 if args.device else len(cores())
    if args.workers < 1:
        raise SpecError("there is no worker", expected="--workers 1 or more", got=str(args.workers))
    return int(args.workers)


def _pace(rows: int, left: int, seconds: float) -> str:
    """Says how fast it goes, and how long it will take."""
    speed = rows / max(seconds, 1e-9)
    minutes, rest = divmod(round(left / max(speed, 1e-9)), 60)
    return f"{speed:,.0f} rows/s, {minutes} min {rest:02} s left"


def _tell(args: argparse.Namespace, bulk: Bulk, manifest: Manifest, before: int) -> None:
    output = Place.of(args.output).given
    policy = bulk.scorer.predictor().artifact.spec.policy
    if args.json:
        summary: dict[str, Any] = {
            "output": output,
            "backend": bulk.scorer.backend,
            "policy": policy,
            "samples": manifest.rows,
            "samples_with_nothing_active": manifest.rows_with_nothing_active,
            "modalities": manifest.modalities,
            "notes": manifest.notes,
            "parts": len(manifest.parts),
            "parts_finished_before": before,
        }
        say_json(summary)
        return
    say(f"{manifest.rows} rows, policy {policy}, backend {bulk.scorer.backend}")
    say(modality_table([dict(row) for row in manifest.modalities], manifest.rows or 0))
    for text in manifest.notes:
        note(text)
    earlier = f", {before} of them by an earlier run" if before else ""
    say(f"wrote {output}: {counted(len(manifest.parts), 'part')}{earlier}, and {MANIFEST}")
