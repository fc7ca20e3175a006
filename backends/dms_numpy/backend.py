"""Runs the equations in NumPy: the reference backend."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

import array_api_compat.numpy as xp
import numpy as np
from numpy.typing import NDArray

from dms_numpy import primitives
from dms_spec.engine.array_backend import ArrayBackend
from dms_spec.equations.namespace import Namespace
from dms_spec.interface.capabilities import Capabilities


class HostBackend(ArrayBackend):
    """Runs on the arrays of NumPy. A backend that stands on it names what it computes faster."""

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(dtypes=("float64", "float32", "float16"))

    def from_numpy(self, array: NDArray[Any], device: str) -> NDArray[Any]:
        del device
        return array

    def to_numpy(self, array: NDArray[Any]) -> NDArray[Any]:
        return array


# What every backend on NumPy computes faster.
_FASTER: dict[str, Callable[..., Any]] = {
    "clip": primitives.clip,
    "constant": primitives.constant,
    "count": primitives.count,
    "filled": primitives.filled,
    "log_distance": primitives.log_distance,
    "log_softmax": primitives.log_softmax,
    "logaddexp": primitives.logaddexp,
    "logsumexp": primitives.logsumexp,
    "masked_softmax": primitives.masked_softmax,
    "select": primitives.select,
    "softmax": primitives.softmax,
    "usable": primitives.usable,
}


def host_namespace(entries_at_once: int, **faster: Callable[..., Any]) -> Namespace:
    """Makes a namespace of NumPy, with some primitives computed by something faster."""
    return Namespace.of(
        xp,
        np.ndarray,
        guard=lambda: np.errstate(over="ignore", invalid="ignore"),
        entries_at_once=entries_at_once,
        lend=primitives.lend,
        **(_FASTER | faster),
    )


@final
class NumpyBackend(HostBackend):
    """Runs on the CPU, a few samples at a time, so that temporaries stay in the cache."""

    @property
    def name(self) -> str:
        return "numpy"

    def namespace(self, device: str) -> Namespace:
        del device
        # Measured: the best of 2^17 to 2^23 on the shapes of `dms bench`.
        return host_namespace(1 << 20, variance_over_passes=primitives.variance_over_passes)
