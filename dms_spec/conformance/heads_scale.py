"""Computes the scales of what heads give, and of class probabilities: float64 NumPy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dms_spec.conformance.oracle import Exact
from dms_spec.spec import SchedulerSpec

Floats = NDArray[np.float64]
Arrays = Mapping[str, NDArray[Any]]


def head_scales(parameters: Arrays, name: str, x: NDArray[Any], rate: float) -> dict[str, Floats]:
    """The scales of one modality that is present: features [B, D], logits [B, C], mc_logits
    [T, B, C].

    Args:
        parameters: Of the artifact, with a projection.
        name: The modality's.
        x: Its embeddings ``[B, D_m]``.
        rate: Of dropout.
    """
    own = {k: parameters[f"heads.{name}.{k}"].astype(np.float64) for k in _READ}
    g = (np.abs(x.astype(np.float64)) + np.abs(own["scale.zero"])) / own["scale.unit"]
    tau = float(own["temperature"])
    weight, bias = np.abs(own["classifier.weight"]), np.abs(own["classifier.bias"])
    kept = own["dropout.masks"][:, None] * g / (1 - rate)
    return {
        "features": g @ np.abs(own["projection.weight"]) + np.abs(own["projection.bias"]),
        "logits": (g @ weight + bias) / tau,
        "mc_logits": (kept @ weight + bias) / tau,
    }


_READ = (
    "scale.zero",
    "scale.unit",
    "projection.weight",
    "projection.bias",
    "classifier.weight",
    "classifier.bias",
    "dropout.masks",
    "temperature",
)


def softmax_scale(logits: Floats, scale: Floats) -> tuple[Floats, Floats]:
    """A softmax of logits that are off by a scale, and its own scale."""
    x = logits - logits.max(axis=-1, keepdims=True)
    p = np.exp(x)
    p /= p.sum(axis=-1, keepdims=True)
    carried = np.where(p > 0, p * np.where(p > 0, scale, 0.0), 0.0).sum(axis=-1, keepdims=True)
    own = 1 + np.where(p > 0, np.abs(x) + scale, 0.0) + carried
    return p, np.where(p > 0, p * own, 0.0)


def probability_scale(
    spec: SchedulerSpec, exact: Exact, fused: Floats, parameters: Arrays
) -> Floats:
    """The scale of class probabilities ``[B, C]``, given that of what was fused."""
    something = exact.active.any(axis=1, keepdims=True)
    if spec.fusion == "feature":
        weight, bias = (parameters[f"head.{k}"].astype(np.float64) for k in ("weight", "bias"))
        into = (np.abs(exact.fused) + fused) @ np.abs(weight) + np.abs(bias)
        found = softmax_scale(exact.fused @ weight + bias, into)[1]
    elif spec.fusion == "logit":
        found = softmax_scale(exact.fused, fused)[1]
    else:
        found = fused
    return np.where(something, found, 1.0)


def joint_scale(
    p: Floats, own: Floats, said: Floats, a: Floats, soundness: Floats, sound: Floats
) -> Floats:
    """The scale of (1 - a) P + a softmax(l), with logits that are exact.

    Args:
        p: P, ``[B, C]``.
        own: Its scale.
        said: l, ``[B, C]``.
        a: ``[B]``.
        soundness: r, ``[B, M]``.
        sound: Its scale.
    """
    q, q_scale = softmax_scale(said, np.ones_like(said))
    relative = np.where(soundness > 0, sound / np.where(soundness > 0, soundness, 1.0), 0.0)
    a = a[:, None]
    drift = np.where(a > 0, 1 + relative.sum(axis=1, keepdims=True), 0.0)
    return np.asarray((1 - a) * own + a * (q_scale + drift * np.abs(p - q)))
