"""Draws fitted artifacts, and rows of embeddings for them.

Most are of numbers with few binary digits, so that every head is exact in float32, in whatever
order it is computed. What follows the heads is then compared as closely as anywhere else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dms_spec.artifact import Artifact
from dms_spec.conformance import drawing
from dms_spec.conformance.drawing import Arrays
from dms_spec.spec import SchedulerSpec

#: Twelve binary digits: more than half precision holds, or the fast modes of a GPU.
_LARGEST_WEIGHT = 4095
# Of more inputs than this, so many are not at their mean.
_WIDE, _BUSY = 40, 20


@dataclass(frozen=True, kw_only=True)
class Heads:
    """Says how large heads are.

    Attributes:
        widths: D_m of each modality.
        features: D of a projection; 0 for none.
        classes: C.
        passes: T.
        rate: Of dropout.
        short: Whether numbers have few digits.
    """

    widths: tuple[int, ...] = (3, 7, 5)
    features: int = 3
    classes: int = 4
    passes: int = 5
    rate: float = 0.5
    short: bool = True


def draw_artifact(
    random: np.random.Generator, spec: SchedulerSpec, sizes: Heads, dtype: Any, *, joint: bool
) -> Artifact:
    """Draws an artifact with heads of these sizes.

    Args:
        random: Where it is drawn from.
        spec: Of as many modalities as there are widths.
        sizes: Of the heads.
        dtype: Of every parameter.
        joint: Whether it has a joint expert.
    """
    own: Arrays = {}
    for name, width in zip(spec.modalities, sizes.widths, strict=True):
        drawn = _head(random, width, sizes)
        own |= {f"heads.{name}.{short}": array for short, array in drawn.items()}
        if joint:
            own[f"joint.{name}.weight"] = _weights(random, sizes, width, sizes.classes)
    if joint:
        own["joint.bias"] = _whole(random, 64, 64, sizes.classes)
        own["joint.share"] = np.asarray(random.choice([0.25, 0.75, 1.0]))
    if spec.fusion == "feature":
        own["head.weight"] = random.normal(size=(sizes.features, sizes.classes))
        own["head.bias"] = random.normal(size=sizes.classes)
    width = sizes.features or max(sizes.widths)
    rest = drawing.parameters(
        spec, random, width=width, classes=sizes.classes, dtype=dtype, optional=True, own=True
    )
    prior = np.exp(random.normal(size=sizes.classes))
    return Artifact(
        spec=spec,
        parameters={name: array.astype(dtype) for name, array in own.items()} | rest,
        model={
            "classes": list(range(sizes.classes)),
            "prior": (prior / prior.sum()).tolist(),
            "dropout": sizes.rate,
            "passes": sizes.passes,
        },
    )


def _head(random: np.random.Generator, width: int, sizes: Heads) -> Arrays:
    if sizes.short:
        scale = _whole(random, 3, 4, width), random.choice([0.5, 1.0, 2.0], size=width)
        tau = float(random.choice([0.5, 1.0, 2.0]))
        bias = _whole(random, 64, 64, sizes.classes)
    else:
        scale = random.normal(size=width), random.uniform(0.3, 3.0, size=width)
        tau, bias = random.uniform(0.3, 3.0), random.normal(size=sizes.classes)
    drawn = {
        "scale.zero": scale[0],
        "scale.unit": scale[1],
        "classifier.weight": _weights(random, sizes, width, sizes.classes),
        "classifier.bias": bias,
        "dropout.masks": (random.random((sizes.passes, width)) >= sizes.rate).astype(np.float64),
        "temperature": np.asarray(tau),
    }
    if sizes.features:
        drawn["projection.weight"] = _weights(random, sizes, width, sizes.features)
        drawn["projection.bias"] = _whole(random, 64, 64, sizes.features)
    return drawn


def _weights(random: np.random.Generator, sizes: Heads, *shape: int) -> NDArray[np.float64]:
    if sizes.short:
        return _whole(random, _LARGEST_WEIGHT, 8192, *shape)
    return random.normal(size=shape)


def _whole(
    random: np.random.Generator, largest: int, over: int, *shape: int
) -> NDArray[np.float64]:
    """Draws whole numbers up to a largest one, over a power of two."""
    return random.integers(-largest, largest + 1, size=shape) / over


def draw_rows(
    random: np.random.Generator, artifact: Artifact, sizes: Heads, count: int, dtype: str
) -> tuple[Arrays, NDArray[np.bool_]]:
    """Draws embeddings by modality, in a dtype, and presence: all, none, and gaps."""
    names = artifact.spec.modalities
    embeddings = {
        name: (
            _whole(random, 15, 4, count, width)
            if sizes.short
            else random.normal(size=(count, width))
        ).astype(dtype)
        for name, width in zip(names, sizes.widths, strict=True)
    }
    for name, width in zip(names, sizes.widths, strict=True):
        if sizes.short and width > _WIDE:  # so many that sums would need more digits
            idle = np.arange(width) % (width // _BUSY) != 0
            idle[-3:] = False
            zero = artifact.parameters[f"heads.{name}.scale.zero"]
            embeddings[name][:, idle] = zero[idle].astype(dtype)
    present = random.random((count, len(names))) < 0.7
    present[:1], present[1:2] = True, False
    return embeddings, present
