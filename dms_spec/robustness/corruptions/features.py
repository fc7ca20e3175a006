"""Corrupts features: each corruption is one function of one modality's array.

A corruption of features sees scaled numbers. By default every feature's training range is [0, 1],
so that a severity means the same for every encoder. Nothing is clipped.

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
from dms_spec.robustness.corruptions.corruption import Corruption, Scene, by_name, of_share
from dms_spec.robustness.samples import BoolArray, FloatArray

# ------------------------------------------------------------------------------- what they do


def _gaussian(x: FloatArray, severity: float, scene: Scene) -> FloatArray:
    return x + severity * scene.random.standard_normal(x.shape)


def _correlated(x: FloatArray, severity: float, scene: Scene) -> FloatArray:
    """Draws one factor for each sample, times one loading for each feature (of mean square 1)."""
    factor = scene.random.standard_normal((len(x), 1))
    loading = scene.random.standard_normal(x.shape[1])
    noise: FloatArray = factor * (loading / np.sqrt(np.mean(loading**2)))
    return x + severity * noise


def _salt_and_pepper(x: FloatArray, severity: float, scene: Scene) -> FloatArray:
    u = scene.random.random(x.shape)
    return np.where(u < severity / 2, 0.0, np.where(u >= 1 - severity / 2, 1.0, x))


def _occlusion(x: FloatArray, severity: float, scene: Scene) -> FloatArray:
    """Hits one run of features. Longer runs contain shorter ones."""
    width = x.shape[1]
    length = round(severity * width)
    start = np.floor(scene.random.random(len(x)) * (width - length)).astype(int)[:, None]
    column = np.arange(width)
    return np.where((column >= start) & (column < start + length), 0.0, x)


def _dead(x: FloatArray, severity: float, scene: Scene) -> FloatArray:
    """Hits the same features in every sample. A larger share contains the smaller ones."""
    return np.where(_some(x.shape[1], severity, scene.random), 0.0, x)


def _permuted(x: FloatArray, severity: float, scene: Scene) -> FloatArray:
    """One cycle through all features, for all samples: none stays in its place."""
    cycle = scene.random.permutation(x.shape[1])
    y = np.empty_like(x)
    y[:, cycle] = x[:, np.roll(cycle, 1)]
    return y


def _quantised(x: FloatArray, levels: float, _: Scene) -> FloatArray:
    """Rounds to the nearest of so many levels, from 0 to 1 and at equal steps outside."""
    return np.rint(x * (levels - 1)) / (levels - 1)


def _scaling(x: FloatArray, severity: float, _: Scene) -> FloatArray:
    return x * severity


def _shift(x: FloatArray, severity: float, _: Scene) -> FloatArray:
    return x + severity


def _drift(x: FloatArray, severity: float, _: Scene) -> FloatArray:
    """Grows from nothing in the first row to all of it in the last, in even steps."""
    return x + severity * np.linspace(0.0, 1.0, len(x))[:, None]


def _sign_flip(x: FloatArray, _: float, __: Scene) -> FloatArray:
    return -x


def _stuck(x: FloatArray, severity: float, _: Scene) -> FloatArray:
    return np.full_like(x, severity)


def blank(x: NDArray[Any], severity: float, scene: Scene) -> NDArray[Any]:
    """Gives zeros, and empty strings for strings."""
    return np.zeros_like(x)


def _swap(x: NDArray[Any], severity: float, scene: Scene) -> NDArray[Any]:
    swapped: NDArray[Any] = x[donors(scene)]
    return swapped


def _swap_same_class(x: NDArray[Any], severity: float, scene: Scene) -> NDArray[Any]:
    swapped: NDArray[Any] = x[donors(scene, same_class=True)]
    return swapped


def _share(hit: BoolArray, severity: float, random: Generator) -> BoolArray:
    """Draws a share of the samples; a larger share contains the smaller ones."""
    return hit & _some(len(hit), severity, random)[:, None]


def _some(count: int, share: float, random: Generator) -> BoolArray:
    return random.permutation(count) < round(share * count)


# RCML: the shares of the samples, and the noise.
_NOISY, _SWAPPED, _SIGMA = 0.1, 0.4, 0.5


def _in_conflict(hit: BoolArray, random: Generator) -> tuple[BoolArray, BoolArray]:
    """Draws where one modality gets noise, and where one is swapped, each ``[N, M]``."""
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


def donors(scene: Scene, *, same_class: bool = False) -> NDArray[np.intp]:
    """Draws for each sample another one in which the modality is present, ``[N]``.

    It is of another class, or of the same one. A sample that is alone in its class is its own donor
    there: it stays as it is.

    Raises:
        MissingInput: There is none of another class.
    """
    pool = np.flatnonzero(scene.there)
    pool = pool[np.argsort(scene.labels[pool], kind="stable")]
    first, last = (np.searchsorted(scene.labels[pool], scene.labels, s) for s in ("left", "right"))
    u = scene.random.random(len(scene.labels))
    if same_class:
        # Some steps on from the sample itself, around the circle of its class.
        place = np.full(len(u), -1)
        place[pool] = np.arange(len(pool))
        size = last - first
        step = 1 + np.floor(u * np.maximum(size - 1, 1)).astype(np.intp)
        index = first + (place - first + step) % np.maximum(size, 1)
    else:
        others = len(pool) - (last - first)
        if (others[scene.hit[:, scene.index]] == 0).any():
            raise MissingInput(
                f"{scene.name!r} finds nothing to swap with",
                expected="samples of two classes or more",
                got="one class alone has the modality",
            )
        index = np.floor(u * others).astype(np.intp)
        index = np.where(index >= first, index + last - first, index)
    chosen: NDArray[np.intp] = pool[np.minimum(index, len(pool) - 1)]
    return chosen


_SIZE = "where a feature's training range is 1"

#: The corruptions of features, by name.
FEATURES: dict[str, Corruption] = by_name(
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
        name="correlated",
        function=_correlated,
        meaning="Noise that all features share is added: one random factor for each sample.",
        severities=(0.1, 0.3, 0.5, 1.0, 2.0),
        unit=f"standard deviation of the noise, {_SIZE}",
        clean_at=0.0,
        least=0.0,
    ),
    of_share(
        "salt_and_pepper",
        _salt_and_pepper,
        "Single features jump to the top or the bottom of their training range.",
        of="features",
        severities=(0.05, 0.1, 0.2, 0.5),
    ),
    of_share(
        "occlusion",
        _occlusion,
        "A run of neighbouring features is set to the bottom of the training range.",
        of="features",
        severities=(0.1, 0.25, 0.5, 0.75),
    ),
    of_share(
        "dead",
        _dead,
        "Some features are at the bottom of the training range, the same in every sample.",
        of="features",
        severities=(0.25, 0.5, 0.75),
    ),
    Corruption(
        name="permuted",
        function=_permuted,
        meaning="The features are in another order, the same in every sample.",
        clean_at=0.0,
    ),
    Corruption(
        name="quantised",
        function=_quantised,
        meaning="Every feature is rounded to a few levels.",
        severities=(9.0, 5.0, 3.0, 2.0),
        unit="number of levels in a feature's training range",
        random=False,
        least=2.0,
    ),
    Corruption(
        name="scaling",
        function=_scaling,
        meaning="Every feature is multiplied, as by a wrong gain; its bottom stays.",
        severities=(0.1, 0.5, 2.0, 4.0, 10.0),
        unit="factor",
        clean_at=1.0,
        random=False,
    ),
    Corruption(
        name="sign_flip",
        function=_sign_flip,
        meaning="Every feature is mirrored at its training mean.",
        space="standard",
        clean_at=0.0,
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
        name="drift",
        function=_drift,
        meaning="Every feature is moved by an offset that grows from row to row.",
        severities=(0.25, 0.5, 1.0, 2.0),
        unit=f"offset in the last row, {_SIZE}",
        clean_at=0.0,
        random=False,
    ),
    of_share(
        "swap",
        _swap,
        "The modality is that of a sample of another class: it contradicts the others.",
        of="samples",
        severities=(0.1, 0.25, 0.5, 1.0),
        kind="any",
        narrowing=_share,
    ),
    of_share(
        "swap_same_class",
        _swap_same_class,
        "The modality is that of another sample of the same class.",
        of="samples",
        severities=(0.1, 0.25, 0.5, 1.0),
        kind="any",
        narrowing=_share,
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
        name="stuck_at_mean",
        function=blank,
        meaning="Every feature shows its training mean, and the methods are not told.",
        space="standard",
        clean_at=0.0,
        random=False,
    ),
    Corruption(
        name="zeroed",
        function=blank,
        meaning="Every feature is at the bottom of its range, and the methods are not told.",
        clean_at=0.0,
        random=False,
    ),
    Corruption(
        name="absent",
        function=blank,
        meaning="The modality is missing, and the methods are told (the features are the "
        "training mean, for methods that read them nevertheless).",
        kind="any",
        space="standard",
        told=True,
        clean_at=0.0,
        random=False,
    ),
)
