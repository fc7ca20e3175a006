"""Runs the equations in NumPy: the reference backend."""

from __future__ import annotations

from typing import Any, final

import array_api_compat.numpy as xp
import numpy as np
from numpy.typing import NDArray

from dms_numpy import primitives
from dms_spec.engine.array_backend import ArrayBackend
from dms_spec.equations.namespace import Namespace
from dms_spec.interface.capabilities import Capabilities


@final
class NumpyBackend(ArrayBackend):
    """Runs on the CPU, a few samples at a time, so that temporaries stay in the cache."""

    @property
    def name(self) -> str:
        return "numpy"

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(dtypes=("float64", "float32", "float16"))

    def from_numpy(self, array: NDArray[Any], device: str) -> NDArray[Any]:
        del device
        return array

    def to_numpy(self, array: NDArray[Any]) -> NDArray[Any]:
        return array

    def namespace(self, device: str) -> Namespace:
        del device
        return Namespace.of(
            xp,
            np.ndarray,
            guard=lambda: np.errstate(over="ignore", invalid="ignore"),
            # Measured: the best of 2^17 to 2^23 on the shapes of benchmarks/bench_schedule.py.
            entries_at_once=1 << 20,
            lend=primitives.lend,
            select=primitives.select,
            variance_over_passes=primitives.variance_over_passes,
        )
