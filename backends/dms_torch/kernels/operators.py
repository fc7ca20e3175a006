"""Registers functions that launch kernels as operators of torch's library."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import numpy as np
import torch
from torch.library import triton_op

from dms_torch.paths import interpreted

# Triton's interpreter replaces parts of Triton while it runs: one at a time in a process.
_INTERPRETER = threading.RLock()


@contextmanager
def _interpreting() -> Iterator[None]:
    """Lets NumPy, which computes then, meet Inf in what is not usable without a warning."""
    with _INTERPRETER, np.errstate(invalid="ignore"):
        yield


def operator(name: str) -> Callable[[Callable[..., Any]], Any]:
    """Registers a function under ``dms_torch::name``. Its kernels must be in ``wrap_triton``.

    ``torch.compile`` sees the kernels in it; ``torch.export`` keeps it as one operator. Kernels are
    launched on the device of the first tensor, whatever the current one is.
    """

    def register(function: Callable[..., Any]) -> Any:
        @wraps(function)
        def run(*given: Any) -> Any:
            device = torch.cuda.device_of(given[0])  # type: ignore[no-untyped-call]
            with _interpreting() if interpreted() else device:
                return function(*given)

        # Evaluated, because torch reads the types of arguments in the module of the wrapper.
        run.__signature__ = inspect.signature(function, eval_str=True)  # type: ignore[attr-defined]
        return triton_op(f"dms_torch::{name}", run, mutates_args=())

    return register
