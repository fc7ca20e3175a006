"""Registers functions that launch kernels as operators of torch's library."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable
from functools import wraps
from typing import Any

from torch.library import triton_op

from dms_torch.paths import interpreted

# Triton's interpreter replaces parts of Triton while it runs: one at a time in a process.
_INTERPRETER = threading.RLock()


def operator(name: str) -> Callable[[Callable[..., Any]], Any]:
    """Registers a function under ``dms_torch::name``. Its kernels must be in ``wrap_triton``.

    ``torch.compile`` sees the kernels in it; ``torch.export`` keeps it as one operator.
    """

    def register(function: Callable[..., Any]) -> Any:
        return triton_op(f"dms_torch::{name}", _alone(function), mutates_args=())

    return register


def _alone(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function itself; interpreted, it runs in one thread at a time."""
    if not interpreted():
        return function

    @wraps(function)
    def run(*arguments: Any) -> Any:
        with _INTERPRETER:
            return function(*arguments)

    # Evaluated, because torch reads the types of arguments in the module of the wrapper.
    run.__signature__ = inspect.signature(function, eval_str=True)  # type: ignore[attr-defined]
    return run
