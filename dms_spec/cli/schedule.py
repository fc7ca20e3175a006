"""``dms schedule`` computes weights and fused output for a file of samples."""

from __future__ import annotations

import argparse
from pathlib import Path

from dms_spec.cli.common import (
    add_input_arguments,
    modality_summary,
    modality_table,
    output_target,
    schedule_file,
)
from dms_spec.cli.printing import note, say, say_json
from dms_spec.files import save_arrays

_KIND = "schedule"


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
    artifact, batch, result = schedule_file(args)
    with target.writing() as new:
        save_arrays(next(iter(new.values())), result.arrays(), _KIND)

    samples, _ = batch.shape
    there = True if batch.present is None else batch.present
    nonfinite = int((there & ~result.active).sum())
    nothing = int((~result.active.any(axis=1)).sum())
    modalities = modality_summary(artifact.spec.modalities, result.active, result.weights)
    if args.json:
        summary = {
            "output": str(args.output),
            "backend": args.backend,
            "policy": artifact.spec.policy,
            "samples": samples,
            "samples_with_nothing_active": nothing,
            "present_but_not_finite": nonfinite,
            "modalities": modalities,
            "notes": list(result.notes),
        }
        say_json(summary)
        return 0
    say(f"{samples} samples, policy {artifact.spec.policy}, backend {args.backend}")
    say(modality_table(modalities, samples))
    if nonfinite:
        say(f"{nonfinite} entries are present but hold NaN or Inf; they count as absent")
    if nothing:
        say(f"{nothing} samples have nothing active: their weights and fused output are 0")
    for text in result.notes:
        note(text)
    shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in result.arrays().items())
    say(f"wrote {args.output}: {shapes}")
    return 0
