"""Computes in NumPy what the plain primitives compute, with less memory traffic."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dms_spec.equations.namespace import Lent, never


def select(mask: NDArray[np.bool_], values: NDArray[Any]) -> NDArray[Any]:
    """The values where the mask holds, 0 elsewhere; without a copy when it holds everywhere."""
    if mask.all():
        return values
    return np.where(mask[..., None] if values.ndim > mask.ndim else mask, values, 0)


def lend(array: NDArray[Any]) -> Lent:
    """A view that cannot be written to."""
    view = array.view()
    view.flags.writeable = False
    return view, never


def variance_over_passes(mc_logits: NDArray[Any]) -> NDArray[Any]:
    """Population variance over T of softmax(l), summed over classes: [T, B, M, C] -> [B, M].

    The plain form in one buffer, with the sums over classes left to BLAS.
    """
    p = mc_logits - mc_logits.max(axis=-1, keepdims=True)
    np.exp(p, out=p)
    p /= np.matmul(p, np.ones(p.shape[-1], dtype=p.dtype))[..., None]
    p -= p.mean(axis=0)
    # Of BLAS: einsum adds one by one, and a thousand equal classes then lose a digit.
    return np.asarray(np.vecdot(p, p).mean(axis=0))
