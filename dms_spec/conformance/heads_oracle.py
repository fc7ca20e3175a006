"""Computes heads and class probabilities in float64 and plain loops, one sample at a time.

Like `oracle`, it shares no code with the equations.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import fsum, isfinite, nan, prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dms_spec.conformance.oracle import Exact, Vector, softmax
from dms_spec.spec import SchedulerSpec

Arrays = Mapping[str, NDArray[Any]]
Floats = NDArray[np.float64]

_DROPPED = 0.0


def heads(
    names: tuple[str, ...],
    parameters: Arrays,
    embeddings: Arrays,
    present: NDArray[np.bool_],
    rate: float,
) -> dict[str, Floats]:
    """Gives ``features`` [B, M, D], ``logits`` [B, M, C], ``mc_logits`` [T, B, M, C] and
    ``variance`` [B, M]: 0 where absent, and NaN where something present is not finite.
    """
    outputs = ("features", "logits", "mc_logits", "variance")
    found: dict[str, list[Any]] = {name: [] for name in outputs}
    widest = max(embeddings[name].shape[1] for name in names)
    for b in range(len(present)):
        sample = []
        for m, name in enumerate(names):
            own = _own(name, parameters)
            x = [float(a) for a in embeddings[name][b]] if present[b, m] else [_DROPPED] * 1
            sample.append(_head(x, own, rate, widest, there=bool(present[b, m])))
        for output in outputs:
            found[output].append([head[output] for head in sample])
    made = {name: np.array(rows, dtype=np.float64) for name, rows in found.items()}
    # A pass comes before the sample: [B, M, T, C] to [T, B, M, C].
    made["mc_logits"] = np.moveaxis(made["mc_logits"], 2, 0)
    return made


def _own(name: str, parameters: Arrays) -> dict[str, NDArray[Any]]:
    start = f"heads.{name}."
    return {k.removeprefix(start): v for k, v in parameters.items() if k.startswith(start)}


def _head(
    x: Vector, own: dict[str, NDArray[Any]], rate: float, widest: int, *, there: bool
) -> dict[str, Any]:
    """One modality of one sample."""
    tau = float(own["temperature"])
    weight, bias = own["classifier.weight"], own["classifier.bias"]
    projected = "projection.weight" in own
    width = own["projection.bias"].size if projected else widest
    classes, passes = len(bias), len(own["dropout.masks"])
    if not there or not all(isfinite(a) for a in x):
        value = nan if there else 0.0
        row = [value] * classes
        return {
            "features": [value] * width,
            "logits": row,
            "mc_logits": np.full((passes, classes), value),
            "variance": value,
        }
    s = [
        (a - float(zero)) / float(unit)
        for a, zero, unit in zip(x, own["scale.zero"], own["scale.unit"], strict=True)
    ]
    logits = [v / tau for v in _linear(s, weight, bias)]
    runs = [
        _linear([a * float(k) / (1 - rate) for a, k in zip(s, mask, strict=True)], weight, bias)
        for mask in own["dropout.masks"]
    ]
    features = s + [0.0] * (widest - len(s))
    if projected:
        features = _linear(s, own["projection.weight"], own["projection.bias"])
    return {
        "features": features,
        "logits": logits,
        "mc_logits": np.array([[v / tau for v in run] for run in runs]).reshape(passes, classes),
        "variance": _variance(s, weight, softmax(logits), rate, tau),
    }


def _linear(s: Vector, weight: NDArray[Any], bias: NDArray[Any]) -> Vector:
    """s W + b."""
    return [
        fsum([*(a * float(w) for a, w in zip(s, weight[:, k], strict=True)), float(bias[k])])
        for k in range(len(bias))
    ]


def _variance(s: Vector, weight: NDArray[Any], p: Vector, rate: float, tau: float) -> float:
    """E20."""
    total = []
    for a, row in zip(s, weight, strict=True):
        mean = fsum(q * float(w) for q, w in zip(p, row, strict=True))
        total += [(q * a * (float(w) - mean)) ** 2 for q, w in zip(p, row, strict=True)]
    return min(rate / (1 - rate) / tau**2 * fsum(total), 1 - 1 / len(p))


def probabilities(
    spec: SchedulerSpec, exact: Exact, parameters: Arrays, prior: Vector
) -> list[Vector]:
    """The class probabilities of each sample, without a joint expert."""
    rows = []
    for fused, active in zip(exact.fused.tolist(), exact.active, strict=True):
        if not active.any():
            rows.append(list(prior))
        elif spec.fusion == "feature":
            rows.append(softmax(_linear(fused, parameters["head.weight"], parameters["head.bias"])))
        else:
            rows.append(softmax(fused) if spec.fusion == "logit" else fused)
    return rows


def joint_logits(
    names: tuple[str, ...], parameters: Arrays, embeddings: Arrays, present: NDArray[np.bool_]
) -> list[Vector]:
    """E26, of each sample."""
    bias = parameters["joint.bias"]
    found = []
    for b in range(len(present)):
        total = [float(x) for x in bias]
        for m, name in enumerate(names):
            if present[b, m]:
                own = _own(name, parameters)
                s = (embeddings[name][b].astype(np.float64) - own["scale.zero"]) / own["scale.unit"]
                said = _linear(s.tolist(), parameters[f"joint.{name}.weight"], 0.0 * bias)
                total = [one + other for one, other in zip(total, said, strict=True)]
        found.append(total)
    return found


def share(soundness: Vector, row: Vector, parameters: Arrays) -> float:
    """How far a joint expert is believed: a of E27."""
    if not all(isfinite(x) for x in row):
        return 0.0
    return float(parameters["joint.share"]) * prod(soundness)
