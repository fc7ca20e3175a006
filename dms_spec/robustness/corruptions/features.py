"""What can happen to features: each corruption is one function of one modality's array.

A corruption of features thinks in scaled numbers: by default those in which every feature's
training range is [0, 1], so that a severity means the same for every encoder. Nothing is clipped.

Random numbers depend on the seed, the corruption and the modality, and not on the severity: the
same noise grows, the same features drop out one after the other. So two severities differ in
nothing but the severity, and a case is the same whichever others are run.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from dms_spec.errors import MissingInput
from dms_spec.robustness.corruptions.corruption import Corruption, Scene
from dms_spec.robustness.samples import BoolArray, FloatArray

# ------------------------------------------------------------------------------- what they do


def _gaussian(x: FloatArray, severity: float, scene: Scene) -> FloatArray:
    return x + severity * scene.random.standard_normal(x.shape)


def _salt_and_pepper(x: FloatArray, severity: float, scene: Scene) -> FloatArray:
    u = scene.random.random(x.shape)
    return np.where(u < severity / 2, 0.0, np.where(u >= 1 - severity / 2, 1.0, x))


def _occlusion(x: FloatArray, severity: float, scene: Scene) -> FloatArray:
    """One run of features. Longer runs contain shorter ones."""
    width = x.shape[1]
    length = round(severity * width)
    start = np.floor(scene.random.random(len(x)) * (width - length)).astype(int)[:, None]
    column = np.arange(width)
    return np.where((column >= start) & (column < start + length), 0.0, x)


def _scaling(x: FloatArray, severity: float, _: Scene) -> FloatArray:
    return x * severity


def _shift(x: FloatArray, severity: float, _: Scene) -> FloatArray:
    return x + severity


def _stuck(x: FloatArray, severity: float, _: Scene) -> FloatArray:
    return np.full_like(x, severity)


def blank(x: NDArray[Any], severity: float, scene: Scene) -> NDArray[Any]:
    """Zeros; empty strings for strings."""
    return np.zeros_like(x)


def _swap(x: NDArray[Any], severity: float, scene: Scene) -> NDArray[Any]:
    swapped: NDArray[Any] = x[donors(scene)]
    return swapped


def _share(hit: BoolArray, severity: float, random: Generator) -> BoolArray:
    """A share of the samples; a larger share contains the smaller ones."""
    return hit & _some(len(hit), severity, random)[:, None]


def _some(count: int, share: float, random: Generator) -> BoolArray:
    return random.permutation(count) < round(share * count)


# RCML: the shares of the samples, and the noise.
_NOISY, _SWAPPED, _SIGMA = 0.1, 0.4, 0.5


def _in_conflict(hit: BoolArray, random: Generator) -> tuple[BoolArray, BoolArray]:
    """Where one modality gets noise, and where one is swapped, each ``[N, M]``."""
    parts = []
    for share in (_NOISY, _SWAPPED):
        chosen = _some(len(hit), share, random)
        first = np.where(hit, random.random(hit.shape), -1.0).argmax(axis=1)
        one = np.arange(hit.shape[1]) == first[:, None]
        parts.append(hit & one & chosen[:, None])
    return parts[0], parts[1]


def _conflict(x: FloatArray, _: float, scene: Scene) -> FloatArray:
    noisy, swapped = (part[:, scene.index] for part in _in_conflict(scene.hit, scene.shared()))
    noise = _SIGMA * scene.random.standard_normal(x.shape)
    y = x + np.where(noisy[:, None], noise, 0.0)
    return np.where(swapped[:, None], x[donors(scene)], y) if swapped.any() else y


def _conflicting(hit: BoolArray, _: float, random: Generator) -> BoolArray:
    noisy, swapped = _in_conflict(hit, random)
    return noisy | swapped


def donors(scene: Scene) -> NDArray[np.intp]:
    """For each sample, one of another class in which the modality is present, ``[N]``.

    Raises:
        MissingInput: There is none.
    """
    pool = np.flatnonzero(scene.there)
    pool = pool[np.argsort(scene.labels[pool], kind="stable")]
    own = [np.searchsorted(scene.labels[pool], scene.labels, side=s) for s in ("left", "right")]
    others = len(pool) - (own[1] - own[0])
    if (others[scene.hit[:, scene.index]] == 0).any():
        raise MissingInput(
            f"{scene.name!r} finds nothing to swap with",
            expected="samples of two classes or more",
            got="one class alone has the modality",
        )
    index = np.floor(scene.random.random(len(others)) * others).astype(np.intp)
    index = np.where(index >= own[0], index + own[1] - own[0], index)
    chosen: NDArray[np.intp] = pool[np.minimum(index, len(pool) - 1)]
    return chosen


_SIZE = "where a feature's training range is 1"

#: The corruptions of features, by name.
FEATURES: dict[str, Corruption] = {
    c.name: c
    for c in (
        Corruption(
            name="gaussian",
            function=_gaussian,
            meaning="Gaussian noise is added to every feature.",
            severities=(0.1, 0.3, 0.5, 1.0, 2.0),
            unit=f"standard deviation of the noise, {_SIZE}",
            clean_at=0.0,
            least=0.0,
        ),
        Corruption(
            name="salt_and_pepper",
            function=_salt_and_pepper,
            meaning="Single features jump to the top or the bottom of their training range.",
            severities=(0.05, 0.1, 0.2, 0.5),
            unit="share of the features",
            clean_at=0.0,
            least=0.0,
            most=1.0,
        ),
        Corruption(
            name="occlusion",
            function=_occlusion,
            meaning="A run of neighbouring features is set to the bottom of the training range.",
            severities=(0.1, 0.25, 0.5, 0.75),
            unit="share of the features",
            clean_at=0.0,
            least=0.0,
            most=1.0,
        ),
        Corruption(
            name="scaling",
            function=_scaling,
            meaning="Every feature is multiplied, as by a wrong gain; its bottom stays.",
            severities=(0.5, 2.0, 4.0),
            unit="factor",
            clean_at=1.0,
            random=False,
        ),
        Corruption(
            name="shift",
            function=_shift,
            meaning="Every feature is moved by the same offset.",
            severities=(0.25, 0.5, 1.0, 2.0),
            unit=f"offset of every feature, {_SIZE}",
            clean_at=0.0,
            random=False,
        ),
        Corruption(
            name="swap",
            function=_swap,
            meaning="The modality is that of a sample of another class: it contradicts the others.",
            severities=(0.1, 0.25, 0.5, 1.0),
            unit="share of the samples",
            kind="any",
            narrowing=_share,
            clean_at=0.0,
            least=0.0,
            most=1.0,
        ),
        Corruption(
            name="conflict",
            function=_conflict,
            meaning=f"{_NOISY:.0%} of the samples get noise of deviation {_SIGMA} on one modality, "
            f"{_SWAPPED:.0%} one modality of a sample of another class (RCML, Xu et al. 2024).",
            hits="every",
            narrowing=_conflicting,
            clean_at=0.0,
        ),
        Corruption(
            name="stuck",
            function=_stuck,
            meaning="Every feature shows the same constant, as from a sensor that hangs.",
            severities=(0.5, 1.0, 2.0),
            unit=f"the constant, {_SIZE}",
            random=False,
        ),
        Corruption(
            name="zeroed",
            function=blank,
            meaning="Every feature is at the bottom of its range, and nobody is told.",
            clean_at=0.0,
            random=False,
        ),
        Corruption(
            name="absent",
            function=blank,
            meaning="The modality is missing, and the methods are told (the features are the "
            "training mean, for those who look nevertheless).",
            kind="any",
            space="standard",
            told=True,
            clean_at=0.0,
            random=False,
        ),
    )
}
