"""Times `dms_torch.Fusion` on the CPU, against a naive module and against reading the input.

``python benchmarks/bench_torch.py [-o results.csv]``. One thread. *stream* sums every input array
once. *naive* is what you would write first in eager torch: two-pass variance over whole arrays, the
sum minus self for alignment, softmax and log apart, gradients through everything. It also times ten
Monte-Carlo passes of a linear head, in forwards of that head. Values are compared before timing.
"""

from __future__ import annotations

import argparse
import math
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from bench_schedule import SPEC, batch, milliseconds, save, setting
from torch import Tensor

from dms_spec.equations.heads import apply_heads, draw_masks
from dms_torch import Fusion
from dms_torch.backend import torch_namespace


def naive(
    features: Tensor, logits: Tensor, mc_logits: Tensor, present: Tensor
) -> tuple[Tensor, Tensor]:
    p = torch.softmax(logits, -1)
    confidence = 1 + (p * torch.log(p)).sum(-1) / math.log(logits.shape[-1])
    passes = torch.softmax(mc_logits, -1)
    uncertainty = ((passes - passes.mean(0)) ** 2).mean(0).mean(-1)
    others = features.sum(1, keepdim=True) - features
    alignment = torch.nn.functional.cosine_similarity(features, others, dim=-1)
    scores = confidence - uncertainty + alignment
    weights = torch.softmax(scores.masked_fill(~present, -torch.inf), -1)
    return (weights[..., None] * features).sum(1), weights


def with_backward(call: Callable[..., tuple[Tensor, ...]], arrays: dict[str, Tensor]) -> object:
    leaf = arrays["features"].detach().requires_grad_()
    return call(**arrays | {"features": leaf})[0].square().sum().backward()


def measure(size: int, seconds: float) -> list[dict[str, object]]:
    arrays = {name: torch.from_numpy(array) for name, array in batch(size).items()}
    floats = [arrays[name] for name in ("features", "logits", "mc_logits")]
    fusion = Fusion(SPEC)
    compiled = torch.compile(fusion, fullgraph=True, dynamic=True)
    contenders = {"naive": naive, "Fusion": fusion, "Fusion, compiled": compiled}
    expected = naive(**arrays)[1]
    rows: list[dict[str, object]] = []
    with torch.no_grad():
        stream = milliseconds(lambda: [array.sum() for array in floats], seconds)
        rows.append({"B": size, "contender": "stream", "what": "forward", "ms": stream})
        for name, call in contenders.items():
            if (call(**arrays)[1] - expected).abs().max() > 1e-5:
                sys.exit(f"{name} is wrong: nothing to time")
            took = milliseconds(lambda call=call: call(**arrays), seconds)
            rows.append({"B": size, "contender": name, "what": "forward", "ms": took})
    for name, call in contenders.items():
        took = milliseconds(lambda call=call: with_backward(call, arrays), seconds)
        rows.append({"B": size, "contender": name, "what": "forward + backward", "ms": took})
    baseline = {row["what"]: row["ms"] for row in rows if row["contender"] == "naive"}
    for row in rows:
        row["times_naive"] = f"{baseline[row['what']] / row['ms']:.2f}"
        row["fraction_of_stream"] = f"{stream / row['ms']:.3f}"
        row["ms"] = f"{row['ms']:.3f}"
    return rows


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

    def run(output: str) -> float:
        return milliseconds(
            lambda: apply_heads(
                ns, x, None, named, modalities=("a",), dropout=0.1, outputs=(output,)
            ),
            seconds,
        )

    with torch.no_grad():
        one, ten, closed = run("logits"), run("mc_logits"), run("variance")
    return f"C={classes}: ten passes {ten / one:.1f}, sampling-free variance {closed / one:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, help="CSV file for the results")
    parser.add_argument("--seconds", type=float, default=3.0, help="per measurement")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    rows = []
    print(f"M=3 D=768 C=1000 T=10, float32, one thread, torch {torch.__version__}")
    for size in (32, 1024):
        for row in measure(size, args.seconds):
            print(
                f"B={row['B']:<5} {row['what']:<19} {row['contender']:<17} {row['ms']:>9} ms  "
                f"{row['times_naive']:>6} x naive  {row['fraction_of_stream']} of stream"
            )
            rows.append(row | {"torch": torch.__version__} | setting())
    for classes in (10, 1000):
        print(f"a linear head, in forwards of it, {head_cost(classes, args.seconds)}")
    save(args.output, rows)


if __name__ == "__main__":
    main()
