"""Runs the equations in NumPy, with compiled primitives where a batch is read many times."""

from __future__ import annotations

from typing import Any, final

import array_api_compat.numpy as xp
import numpy as np
from numpy.typing import NDArray

from dms_numba import primitives
from dms_numpy.primitives import lend, select
from dms_spec.engine.array_backend import ArrayBackend
from dms_spec.equations.namespace import Namespace
from dms_spec.interface.capabilities import Capabilities


@final
class NumbaBackend(ArrayBackend):
    """Runs on all cores of the CPU. The bits do not depend on how many there are.

    Compiled is what reads logits and passes, in float32 and float64. The rest is NumPy's. The first
    call compiles, which takes some seconds; the result is kept on disk.
    """

    @property
    def name(self) -> str:
        return "numba"

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(dtypes=("float64", "float32", "float16"), notes=primitives.notes())

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
            entries_at_once=1 << 22,
            lend=lend,
            select=select,
            softmax=primitives.softmax,
            cosine=primitives.cosine,
            entropy=primitives.entropy,
            usable=primitives.usable,
            variance_over_passes=primitives.variance_over_passes,
        )
