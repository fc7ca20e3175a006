"""``dms schedule`` computes weights and fused output for a file of samples."""

from __future__ import annotations

import argparse
from pathlib import Path

from dms_spec.cli.common import (
    add_input_arguments,
    modality_table,
    output_target,
    schedule_parts,
)
from dms_spec.cli.printing import note, say, say_json
from dms_spec.embeddings.summary import Summary
from dms_spec.files import array_writer

_KIND = "schedule"


EXAMPLE = "dms schedule batch.npz -o scheduled.npz"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_input_arguments(parser)
    parser.add_argument(
        "-o",
        "--output",
        metavar="OUT",
        type=Path,
        required=True,
        help=".npz or .safetensors for weights, fused, scores, active and each signal",
    )


def run(args: argparse.Namespace) -> int:

    target = output_target(args.output, args.input, _KIND)
    artifact, batch, parts = schedule_parts(args)
    summary, nonfinite, start = Summary(artifact.spec.modalities), 0, 0
    notes: dict[str, None] = {}
    with target.writing() as new, array_writer(next(iter(new.values())), _KIND) as out:
        for part in parts:
            out.append(part.arrays())
            summary.add(part.active, part.weights)
            rows = slice(start, start := start + len(part.active))
            there = True if batch.present is None else batch.present[rows]
            nonfinite += int((there & ~part.active).sum())
            notes |= dict.fromkeys(part.notes)
    samples, nothing, modalities = summary.samples, summary.nothing, summary.rows()
    if args.json:
        data = {
            "output": str(args.output),
            "backend": args.backend,
            "policy": artifact.spec.policy,
            "samples": samples,
            "samples_with_nothing_active": nothing,
            "present_but_not_finite": nonfinite,
            "modalities": modalities,
            "notes": list(notes),
        }
        say_json(data)
        return 0
    say(f"{samples} samples, policy {artifact.spec.policy}, backend {args.backend}")
    say(modality_table(modalities, samples))
    if nonfinite:
        say(f"{nonfinite} entries are present but hold NaN or Inf; they count as absent")
    if nothing:
        say(f"{nothing} samples have nothing active: their weights and fused output are 0")
    for text in notes:
        note(text)
    shapes = ", ".join(f"{name} {shape}" for name, shape in out.shapes().items())
    say(f"wrote {args.output}: {shapes}")
    return 0
