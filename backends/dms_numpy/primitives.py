"""Primitives that NumPy does faster than the plain composition: same values, less memory traffic."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

# Entries per block: a block and its temporaries fit a core's second-level cache.
_BLOCK = 1 << 16


def select(mask: NDArray[np.bool_], values: NDArray[Any]) -> NDArray[Any]:
    """The values where the mask holds, 0 elsewhere; without a copy when it holds everywhere."""
    if mask.all():
        return values
    return np.where(mask[..., None] if values.ndim > mask.ndim else mask, values, 0)


def variance_over_passes(mc_logits: NDArray[Any]) -> NDArray[Any]:
    """Population variance over T of softmax(l), summed over classes: [T, B, M, C] -> [B, M].

    The plain form walks the whole array six times through memory. Here a block of samples goes
    through all steps at once, in place.
    """
    passes, batch, modalities, classes = mc_logits.shape
    result = np.empty((batch, modalities), dtype=mc_logits.dtype)
    step = max(1, _BLOCK // (passes * modalities * classes))
    for start in range(0, batch, step):
        block = mc_logits[:, start : start + step]
        p = block - block.max(axis=-1, keepdims=True)
        np.exp(p, out=p)
        p /= p.sum(axis=-1, keepdims=True)
        p -= p.mean(axis=0, keepdims=True)
        p *= p
        result[start : start + step] = p.mean(axis=0).sum(axis=-1)
    return result
