"""``dms explain`` says why each modality of a sample got its weight."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dms_spec.artifact import Artifact
from dms_spec.cli.common import (
    add_columns,
    add_input_arguments,
    check_input,
    columns_of,
    read_spec,
    schedule_file,
)
from dms_spec.cli.explain_plot import check_plot, draw
from dms_spec.cli.printing import note, say, say_json, width
from dms_spec.embeddings.explanation import Explanations, explain, explain_table
from dms_spec.embeddings.hearing import hear
from dms_spec.embeddings.origin import other_encoders
from dms_spec.embeddings.predictor import Predictor
from dms_spec.embeddings.sources.columns import Columns
from dms_spec.embeddings.table import read_table
from dms_spec.errors import ShapeError
from dms_spec.files import SUFFIXES, read_arrays
from dms_spec.plugins import get_backend

EXAMPLE = "dms explain train.npz --spec model --sample 0 7"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_input_arguments(parser)
    parser.epilog = (
        "With an artifact of dms fit as S, IN may be a table of embeddings, as dms predict takes."
    )
    add_columns(parser)
    parser.add_argument(
        "--sample",
        type=int,
        nargs="+",
        default=[0],
        metavar="I",
        help="row or rows to explain, counted from 0 (default: 0)",
    )
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw a picture as well")


def run(args: argparse.Namespace) -> int:
    if args.plot is not None:
        check_plot(args.plot)
    check_input(args)
    artifact = _with_heads(args)
    policy, explained, notes = _of_batch(args) if artifact is None else _of_table(args, artifact)
    if args.plot is not None:
        draw(args.plot, explained)
    if args.json:
        report = {"policy": policy, "notes": notes, "samples": explained}
        say_json(report)
        return 0
    say(explained.text(width()))
    for text in notes:
        note(text)
    if args.plot is not None:
        say(f"\nwrote {args.plot}")
    return 0


_Explained = tuple[str, Explanations, list[str]]


def _of_batch(args: argparse.Namespace) -> _Explained:
    artifact, batch, result = schedule_file(args)
    spec = artifact.spec
    _check_samples(args.sample, batch.shape[0])
    explained = [explain(row, spec.modalities, batch.present, result) for row in args.sample]
    if spec.fusion == "evidence":
        classes = range(result.fused.shape[-1])
        explained = [
            hear(
                sample,
                batch.logits[sample["sample"]],
                {"fused": result.fused[sample["sample"]]},
                artifact.scheduler_parameters,
                classes,
            )
            for sample in explained
        ]
    return spec.policy, Explanations(explained), list(result.notes)


def _of_table(args: argparse.Namespace, artifact: Artifact) -> _Explained:
    """Schedules a table in place of a batch, by the heads of an artifact."""
    spec, columns = artifact.spec, columns_of(args)
    predictor = Predictor(artifact, get_backend(args.backend), args.device)
    embeddings = read_table(
        args.input,
        columns=columns,
        before=Columns.of_model(artifact.model),
        axis=spec.modalities,
        widths=predictor.model.widths,
        strict_labels=False,
    )
    _check_samples(args.sample, len(embeddings))
    rows = embeddings.rows(np.array(args.sample))
    explained, notes = explain_table(predictor, rows)
    for one, sample in zip(explained, args.sample, strict=True):
        one["sample"] = sample
    others = other_encoders(artifact.model, args.input, columns)
    return spec.policy, explained, [*others, *rows.notes(), *notes]


def _with_heads(args: argparse.Namespace) -> Artifact | None:
    """Gives the artifact if it has heads and the input has embeddings for them."""
    if not Path(args.spec).is_dir():
        return None
    artifact = read_spec(args.spec, args.modalities)
    if not artifact.has_heads:
        return None
    if args.input.suffix not in SUFFIXES:  # a batch is no frame, and no folder
        return artifact
    names = set(read_arrays(args.input, wanted=lambda *_: False))
    batch = names & {"features", "logits"} and not names >= set(artifact.spec.modalities)
    return None if batch else artifact


def _check_samples(wanted: Sequence[int], samples: int) -> None:
    for sample in wanted:
        if not 0 <= sample < samples:
            raise ShapeError(
                "there is no such sample",
                expected=f"0 to {samples - 1}" if samples else "a batch that has samples",
                got=str(sample),
            )
