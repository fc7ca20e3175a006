"""``dms schedule``: weights and fused output for a file of samples."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from dms_spec.cli.common import add_input_arguments, schedule_file, table
from dms_spec.errors import FileError

HELP = "weigh and fuse a batch of samples"


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
    from dms_spec.files import check_suffix, write_arrays

    check_suffix(args.output)  # before the work, not after it
    if _same(args.output, args.input):
        raise FileError(
            "the output is the input", got=str(args.output), fix="Choose another output file."
        )
    artifact, batch, result = schedule_file(args)
    write_arrays(args.output, result.arrays())

    samples, _ = batch.shape
    spoilt = 0 if batch.present is None else int((batch.present & ~result.active).sum())
    spoilt = spoilt or (int((~result.active).sum()) if batch.present is None else 0)
    nothing = int((~result.active.any(axis=1)).sum())
    names = artifact.spec.modalities
    active = result.active.sum(axis=0)
    # The mean over the samples in which a modality takes part; absent ones would dilute it.
    means = [
        float(result.weights[result.active[:, i], i].mean()) if active[i] else None
        for i in range(len(names))
    ]
    if args.json:
        summary = {
            "output": str(args.output),
            "backend": args.backend,
            "policy": artifact.spec.policy,
            "samples": samples,
            "samples_with_nothing_active": nothing,
            "present_but_not_finite": spoilt,
            "modalities": [
                {"name": name, "active": int(active[i]), "mean_weight_where_active": means[i]}
                for i, name in enumerate(names)
            ],
            "notes": list(result.notes),
        }
        print(json.dumps(summary, indent=2))
        return 0
    print(f"{samples} samples, policy {artifact.spec.policy}, backend {args.backend}")
    rows = [
        (name, f"{active[i]} of {samples}", "-" if means[i] is None else f"{means[i]:.3f}")
        for i, name in enumerate(names)
    ]
    print(table(("modality", "active in", "mean weight there"), rows, right=(1, 2)))
    if spoilt:
        print(f"{spoilt} entries are present but hold NaN or Inf; they count as absent")
    if nothing:
        print(f"{nothing} samples have nothing active: their weights and fused output are 0")
    for note in result.notes:
        print(f"dms: note: {note}", file=sys.stderr)
    shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in result.arrays().items())
    print(f"wrote {args.output}: {shapes}")
    return 0


def _same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:  # one of them is not there, or cannot be; whoever opens it says so
        return False
