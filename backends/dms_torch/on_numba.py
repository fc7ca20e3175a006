"""Runs Numba's loops on CPU tensors, which share their memory with NumPy's arrays."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from dms_numba import primitives


def _shared(function: Callable[..., Any]) -> Callable[..., Tensor]:
    """The function on tensors: no copy goes in, and none comes out."""

    @wraps(function)
    def run(*tensors: Tensor, **named: Tensor | None) -> Tensor:
        arrays = [_array(tensor) for tensor in tensors]
        more = {name: None if t is None else _array(t) for name, t in named.items()}
        with primitives.at_most(torch.get_num_threads()):
            return torch.from_numpy(function(*arrays, **more))

    return run


def _array(tensor: Tensor) -> NDArray[Any]:
    return tensor.detach().resolve_neg().numpy()


alignment = _shared(primitives.aligned)
cosine = _shared(primitives.cosine)
entropy = _shared(primitives.entropy)
usable = _shared(primitives.usable)
variance_over_passes = _shared(primitives.variance_over_passes)
