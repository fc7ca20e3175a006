"""The reference backend: the equations in NumPy."""

from __future__ import annotations

from typing import Any, final

import array_api_compat.numpy as xp
import numpy as np
from dms_spec.capabilities import Capabilities
from dms_spec.equations.namespace import Namespace
from dms_spec.interface import ArrayBackend
from numpy.typing import NDArray

from dms_numpy import primitives


@final
class NumpyBackend(ArrayBackend):
    """NumPy on the CPU, with the softmaxes blocked so that they stay in the cache."""

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
            quiet=lambda: np.errstate(over="ignore", invalid="ignore"),
            select=primitives.select,
            variance_over_passes=primitives.variance_over_passes,
        )
