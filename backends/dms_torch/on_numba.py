"""Runs Numba's loops on CPU tensors, which share their memory with NumPy's arrays."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from functools import wraps
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from dms_numba import primitives, threads
from dms_numba.backend import numba_namespace
from dms_spec.equations.namespace import Twin


def _shared(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function on tensors: no copy goes in, and none comes out."""

    @wraps(function)
    def run(*given: Tensor | None, **named: Tensor | None) -> Any:
        arrays = [_array(tensor) for tensor in given]
        more = {name: _array(tensor) for name, tensor in named.items()}
        with threads.at_most(torch.get_num_threads()):
            found = function(*arrays, **more)
        if isinstance(found, tuple):
            return tuple(torch.from_numpy(array) for array in found)
        return torch.from_numpy(found)

    return run


def _array(tensor: Tensor | None) -> NDArray[Any] | None:
    return None if tensor is None else tensor.detach().resolve_neg().numpy()


_telling = {name: _shared(form) for name, form in primitives.TELLING.items()}
_weigh = _shared(primitives.weigh)

alignment = _shared(lambda features: primitives.aligned(features)[0])
cosine = _shared(primitives.cosine)
entropy = _shared(primitives.entropy)
usable = _shared(primitives.usable)
variance_over_passes = _shared(primitives.variance_over_passes)


def one_read(name: str) -> Callable[..., Any]:
    """The form of a primitive that reads a tensor once, as `Namespace` says."""
    if name == "weigh":
        return lambda h, scores, active: _weigh(h.to(scores.dtype), scores, active)
    return lambda tensor, mask, dtype: _telling[name](tensor.to(dtype), mask)


def _guard() -> AbstractContextManager[Any]:
    """Numba's guard, with as many threads as torch may take."""
    stack = ExitStack()
    stack.enter_context(_NUMBA.guard())
    stack.enter_context(threads.at_most(torch.get_num_threads()))
    return stack


def _back(array: NDArray[Any]) -> Tensor:
    return torch.from_numpy(array if array.flags.writeable else array.copy())


_NUMBA = numba_namespace()

#: Numba's backend on the memory of CPU tensors.
TWIN = Twin(ns=replace(_NUMBA, guard=_guard), there=_array, back=_back)
