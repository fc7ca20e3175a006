"""Corrupts raw inputs: images, texts and audio, before any encoder.

Images are ``[N, H, W]`` or ``[N, H, W, C]``, texts arrays of strings ``[N]``, audio ``[N, S]`` or
``[N, S, channels]``. The dtype stays: integers are rounded and limited to what the dtype can store,
as a camera or a sound card does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dms_spec.errors import ShapeError
from dms_spec.robustness.corruptions.corruption import Corruption, Scene, by_name, of_share
from dms_spec.robustness.samples import FloatArray

# --------------------------------------------------------------------------------------- images


def _blur(x: NDArray[Any], severity: float, scene: Scene) -> NDArray[Any]:
    """Blurs rows, then columns, by a Gaussian cut at 4 deviations; borders repeat themselves."""
    _check_rank("images", x, (3, 4), "[N, H, W] or [N, H, W, C]")
    reach = max(1, round(4 * severity))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / severity) ** 2)
    kernel /= kernel.sum()
    result = x.copy()
    for i in np.flatnonzero(_rows(scene)):  # one at a time: floats are 8 times as large
        image = x[i].astype(np.float64)
        for axis in (0, 1):
            image = _convolved(image, kernel, axis)
        result[i] = _as(image, x.dtype)
    return result


def _convolved(image: FloatArray, kernel: FloatArray, axis: int) -> FloatArray:
    reach, length = len(kernel) // 2, image.shape[axis]
    around = [(reach, reach) if a == axis else (0, 0) for a in range(image.ndim)]
    padded = np.moveaxis(np.pad(image, around, mode="edge"), axis, 0)
    total = np.zeros_like(np.moveaxis(image, axis, 0))
    for offset, weight in enumerate(kernel):
        total += weight * padded[offset : offset + length]
    return np.moveaxis(total, 0, axis)


def _rectangle(x: NDArray[Any], severity: float, scene: Scene) -> NDArray[Any]:
    """Draws a black rectangle of the image's proportions. Larger ones contain smaller ones."""
    _check_rank("images", x, (3, 4), "[N, H, W] or [N, H, W, C]")
    inside = np.ones(x.shape[:3], dtype=bool)
    for axis, size in enumerate(x.shape[1:3]):
        length = round(np.sqrt(severity) * size)
        start = np.floor(scene.random.random(len(x)) * (size - length)).astype(int)[:, None]
        place = np.arange(size)
        covered = (place >= start) & (place < start + length)
        inside &= covered[:, :, None] if axis == 0 else covered[:, None, :]
    return np.where(inside.reshape(inside.shape + (1,) * (x.ndim - 3)), x.dtype.type(0), x)


# ---------------------------------------------------------------------------------------- texts

_KEYBOARD = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
#: The keys to the left and to the right, and those nearest above and below.
_NEIGHBOURS = {
    key: "".join(
        row[i + step]
        for row, steps in (
            (_KEYBOARD[r], (-1, 1)),
            *((_KEYBOARD[other], (0,)) for other in (r - 1, r + 1) if 0 <= other < 3),
        )
        for step in steps
        if 0 <= i + step < len(row)
    )
    for r, keys in enumerate(_KEYBOARD)
    for i, key in enumerate(keys)
}


def _typing(text: str, share: float, random: np.random.Generator) -> str:
    """Leaves out a character, types it twice, swaps it with the next, or hits a key beside it."""
    u, kinds, keys = random.random((3, len(text)))
    typed: list[str] = []
    i = 0
    while i < len(text):
        character = text[i]
        if u[i] >= share:
            typed.append(character)
        elif kinds[i] < 0.25:
            pass
        elif kinds[i] < 0.5:
            typed.append(2 * character)
        elif kinds[i] < 0.75 and i + 1 < len(text):
            typed += [text[i + 1], character]
            i += 1
        else:
            beside = _NEIGHBOURS.get(character.lower(), character)
            other = beside[int(keys[i] * len(beside))]
            typed.append(other.upper() if character.isupper() else other)
        i += 1
    return "".join(typed)


def _mask_words(text: str, share: float, random: np.random.Generator) -> str:
    words = text.split(" ")
    u = random.random(len(words))
    return " ".join(
        "[MASK]" if word and draw < share else word for word, draw in zip(words, u, strict=True)
    )


def _mask_characters(text: str, share: float, random: np.random.Generator) -> str:
    u = random.random(len(text))
    return "".join(
        "*" if not character.isspace() and draw < share else character
        for character, draw in zip(text, u, strict=True)
    )


def _on_texts(
    change: Callable[[str, float, np.random.Generator], str],
) -> Callable[[NDArray[Any], float, Scene], NDArray[Any]]:
    """Makes a function of an array of strings from that of one string."""

    def function(x: NDArray[Any], severity: float, scene: Scene) -> NDArray[Any]:
        if x.ndim != 1 or x.dtype.kind != "U":
            got = f"{x.dtype} {list(x.shape)}"
            raise ShapeError("texts have the wrong shape", expected="strings [N]", got=got)
        texts = x.tolist()
        for i in np.flatnonzero(_rows(scene)):
            texts[i] = change(texts[i], severity, scene.random)
        return np.array(texts)

    return function


# ---------------------------------------------------------------------------------------- audio


def _white_noise(x: NDArray[Any], severity: float, scene: Scene) -> NDArray[Any]:
    """Adds noise with the waveform's power, less the ratio in decibels; silence stays."""
    _check_rank("audio", x, (2, 3), "[N, S] or [N, S, channels]")
    wave = x.astype(np.float64)
    axes = tuple(range(1, x.ndim))
    power = np.mean(wave**2, axis=axes, keepdims=True) * 10 ** (-severity / 10)
    return _as(wave + np.sqrt(power) * scene.random.standard_normal(x.shape), x.dtype)


def _clipping(x: NDArray[Any], severity: float, _: Scene) -> NDArray[Any]:
    """Limits to the quantile of the waveform's own loudness that a share of it exceeds."""
    _check_rank("audio", x, (2, 3), "[N, S] or [N, S, channels]")
    wave = x.astype(np.float64)
    axes = tuple(range(1, x.ndim))
    most = np.quantile(np.abs(wave), 1 - severity, axis=axes, keepdims=True)
    return _as(np.clip(wave, -most, most), x.dtype)


def _rows(scene: Scene) -> NDArray[np.bool_]:
    rows: NDArray[np.bool_] = scene.hit[:, scene.index] & scene.there
    return rows


def _as(x: FloatArray, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Converts to a dtype; integers are rounded and limited to what it can store."""
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        x = np.clip(np.rint(x), limits.min, limits.max)
    return x.astype(dtype)


def _check_rank(what: str, x: NDArray[Any], ranks: tuple[int, ...], expected: str) -> None:
    if x.ndim not in ranks:
        raise ShapeError(f"{what} have the wrong shape", expected=expected, got=str(list(x.shape)))


#: The corruptions of raw inputs, by name.
RAW: dict[str, Corruption] = by_name(
    Corruption(
        name="blur",
        function=_blur,
        meaning="Images are blurred by a Gaussian.",
        severities=(1.0, 2.0, 4.0, 8.0),
        unit="standard deviation in pixels",
        kind="image",
        clean_at=0.0,
        random=False,
        least=0.0,
    ),
    of_share(
        "image_occlusion",
        _rectangle,
        "A rectangle of the image is black.",
        of="area",
        severities=(0.1, 0.25, 0.5, 0.75),
        kind="image",
    ),
    of_share(
        "typing",
        _on_texts(_typing),
        "Characters are left out, typed twice, swapped, or the key beside is hit.",
        of="characters",
        severities=(0.05, 0.1, 0.2, 0.4),
        kind="text",
    ),
    of_share(
        "word_masking",
        _on_texts(_mask_words),
        "Words are replaced by [MASK].",
        of="words",
        severities=(0.1, 0.25, 0.5, 0.75),
        kind="text",
    ),
    of_share(
        "character_masking",
        _on_texts(_mask_characters),
        "Characters are replaced by *.",
        of="characters",
        severities=(0.1, 0.25, 0.5, 0.75),
        kind="text",
    ),
    Corruption(
        name="audio_noise",
        function=_white_noise,
        meaning="White noise is added to the waveform.",
        severities=(20.0, 10.0, 5.0, 0.0, -5.0),
        unit="signal to noise in dB",
        kind="audio",
    ),
    of_share(
        "audio_clipping",
        _clipping,
        "The loudest parts of the waveform are cut off.",
        of="waveform that is cut",
        severities=(0.01, 0.05, 0.2, 0.5),
        kind="audio",
        random=False,
    ),
)
