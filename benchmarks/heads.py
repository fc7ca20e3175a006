"""Times ten Monte-Carlo passes of a linear head in forwards of that head, on one core.

``python benchmarks/heads.py``.
"""

from __future__ import annotations

import argparse
import os
from statistics import median

if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

import torch

from dms_spec.equations.heads import apply_heads, draw_masks
from dms_spec.speed.timing import ratios, rounds
from dms_torch.backend import torch_namespace


def head_cost(classes: int, seconds: float) -> str:
    """Times ten passes of a linear head against one forward of it, D = 768, B = 1024."""
    width, ns = 768, torch_namespace("cpu")
    generator = torch.Generator().manual_seed(0)
    parameters = {
        "scale.zero": torch.zeros(width),
        "scale.unit": torch.ones(width),
        "classifier.weight": torch.randn(width, classes, generator=generator) / width**0.5,
        "classifier.bias": torch.zeros(classes),
        "temperature": torch.ones(()),
        "dropout.masks": torch.from_numpy(draw_masks({"a": width}, 10, 0.1, 0)["a"]),
    }
    named = {f"heads.a.{name}": array for name, array in parameters.items()}
    x = {"a": torch.randn(1024, width, generator=generator)}

    def run(output: str) -> object:
        return apply_heads(ns, x, None, named, modalities=("a",), dropout=0.1, outputs=(output,))

    outputs = ("logits", "mc_logits", "variance")
    with torch.no_grad():
        times = rounds({name: lambda name=name: run(name) for name in outputs}, seconds)
    ten, closed = (median(ratios(times, name, times["logits"])) for name in outputs[1:])
    return f"C={classes}: ten passes {ten:.1f}, sampling-free variance {closed:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=3.0, help="for each measurement")
    args = parser.parse_args()
    for classes in (10, 1000):
        print(f"a linear head, in forwards of it, {head_cost(classes, args.seconds)}")


if __name__ == "__main__":
    main()
