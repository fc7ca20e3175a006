"""Computes views of an image: each a function of the pixels alone, [N, 8, 8] -> [N, W].

They play the modalities. Each sees something else of the same scan, each can tell digits apart,
and their widths differ, as the widths of real encoders do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[Any]

_CELLS, _BINS = 2, 8


def pixels(images: FloatArray) -> FloatArray:
    """Gives the scan itself, row by row: [N, 64]."""
    return images.reshape(len(images), -1)


def projections(images: FloatArray) -> FloatArray:
    """Gives the ink of each row and of each column: [N, 16]."""
    return np.concatenate([images.sum(axis=2), images.sum(axis=1)], axis=1)


def spectrum(images: FloatArray) -> FloatArray:
    """Gives the magnitude of the 2-D Fourier transform, blind to a circular shift: [N, 40].

    The half that a real image determines; the other half repeats it.
    """
    return np.abs(np.fft.rfft2(images)).reshape(len(images), -1)


def gradients(images: FloatArray) -> FloatArray:
    """Says how much edge there is in each of 8 directions, per quarter of the image: [N, 32]."""
    down, right = np.gradient(images, axis=(1, 2))
    turn = np.arctan2(down, right) / (2 * np.pi)  # in turns: [-1/2, 1/2]
    direction = np.floor(turn * _BINS).astype(int) % _BINS
    strength = np.hypot(down, right)
    edges = strength[..., None] * (direction[..., None] == np.arange(_BINS))
    n, height, width, _ = edges.shape
    cells = edges.reshape(n, _CELLS, height // _CELLS, _CELLS, width // _CELLS, _BINS)
    histograms: FloatArray = cells.sum(axis=(2, 4))
    return histograms.reshape(n, -1)


#: The modalities by name, in the order of the arrays' M axis.
VIEWS: dict[str, Callable[[FloatArray], FloatArray]] = {
    "pixels": pixels,
    "projections": projections,
    "spectrum": spectrum,
    "gradients": gradients,
}
