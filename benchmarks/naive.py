"""Holds what one would write instead: scheduling in plain torch, as the baseline of benchmarks.

Two-pass variance over whole arrays, the sum minus self for alignment, softmax and log apart,
gradients through everything. It looks for no NaN and knows no absent rows of zeros.
"""

from __future__ import annotations

import math
import tempfile
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dms_spec.spec import SchedulerSpec
from dms_spec.speed.measure import Arrays, Contender
from dms_torch import Fusion

BACKWARD = "forward and backward"


def naive(
    features: Tensor, logits: Tensor, mc_logits: Tensor, present: Tensor
) -> tuple[Tensor, Tensor]:
    """Fused features and weights of the preset ``paper``."""
    p = torch.softmax(logits, -1)
    confidence = 1 + (p * torch.log(p)).sum(-1) / math.log(logits.shape[-1])
    passes = torch.softmax(mc_logits, -1)
    uncertainty = ((passes - passes.mean(0)) ** 2).mean(0).mean(-1)
    others = features.sum(1, keepdim=True) - features
    alignment = torch.nn.functional.cosine_similarity(features, others, dim=-1)
    scores = confidence - uncertainty + alignment
    weights = torch.softmax(scores.masked_fill(~present, -torch.inf), -1)
    return (weights[..., None] * features).sum(1), weights


def torch_contenders(spec: SchedulerSpec, arrays: Arrays) -> dict[str, Contender]:
    """The naive form and `Fusion`, each eager and compiled, without gradients and with them."""
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    fusion = Fusion(spec)
    calls: dict[str, Callable[..., Any]] = {
        "torch, naive": naive,
        "torch, naive, compiled": torch.compile(naive, fullgraph=True, dynamic=True),
        "torch, Fusion": fusion,
        "torch, Fusion, compiled": torch.compile(fusion, fullgraph=True, dynamic=True),
    }
    forward = {name: Contender(_forward(call, tensors)) for name, call in calls.items()}
    backward = {
        f"{name}, with gradients": Contender(_backward(call, tensors), BACKWARD)
        for name, call in calls.items()
    }
    return forward | backward


def _forward(call: Callable[..., Any], tensors: Mapping[str, Tensor]) -> Callable[[], Any]:
    def run() -> Any:
        with torch.no_grad():
            return call(**tensors)[1].numpy()

    return run


def _backward(call: Callable[..., Any], tensors: Mapping[str, Tensor]) -> Callable[[], Any]:
    leaf = tensors["features"].clone().requires_grad_()
    inputs = dict(tensors) | {"features": leaf}

    def run() -> Any:
        leaf.grad = None
        fused, weights = call(**inputs)[:2]
        fused.square().sum().backward()
        return weights.detach().numpy()

    return run


class _Naive(torch.nn.Module):
    def forward(
        self, features: Tensor, logits: Tensor, mc_logits: Tensor, present: Tensor
    ) -> tuple[Tensor, Tensor]:
        return naive(features, logits, mc_logits, present)


def naive_model(arrays: Arrays) -> bytes:
    """The naive module as an ONNX file of torch's own exporter, with a symbolic batch."""
    few = {k: v[:, :4] if k == "mc_logits" else v[:4] for k, v in arrays.items()}
    if len(few["features"]) < 2:  # the exporter takes a size of 1 for a constant
        few = {k: v.repeat(2, 1 if k == "mc_logits" else 0) for k, v in few.items()}
    samples = torch.export.Dim("B")
    axes = {name: {1 if name == "mc_logits" else 0: samples} for name in few}
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")  # of torch's own, about its internals
        program = torch.onnx.export(
            _Naive(),
            tuple(torch.from_numpy(array) for array in few.values()),
            dynamo=True,
            dynamic_shapes=tuple(axes.values()),
            input_names=list(few),
            output_names=["fused", "weights"],
            verbose=False,
        )
        path = Path(folder) / "naive.onnx"
        program.save(path)
        return path.read_bytes()
