"""Holds the worked example of the specification: small enough to follow with a pencil.

Three modalities, two features, three classes, two passes; the preset ``paper``. The expected
numbers were worked out apart from this package, and the tests compare them digit by digit.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dms_spec.spec import SchedulerSpec

SPEC = SchedulerSpec.preset("paper", ("image", "text", "audio"))

_FEATURES = [[1.0, 0.0], [0.6, 0.8], [-1.0, 0.5]]
_PROBABILITIES = [[0.7, 0.2, 0.1], [0.4, 0.3, 0.3], [0.05, 0.9, 0.05]]
_PASSES = [
    [[0.6, 0.3, 0.1], [0.4, 0.3, 0.3], [0.1, 0.8, 0.1]],
    [[0.8, 0.1, 0.1], [0.4, 0.3, 0.3], [0.0, 1.0, 0.0]],
]


def arrays(dtype: str = "float64") -> dict[str, NDArray[Any]]:
    """The example's inputs: one sample with all three modalities, one with two, one with one."""

    def three(values: NDArray[Any]) -> NDArray[Any]:
        return np.repeat(values, 3, axis=-3).astype(dtype)

    with np.errstate(divide="ignore"):  # the log of a probability of 0 is -inf, and legal
        logits, mc_logits = np.log([_PROBABILITIES]), np.log(_PASSES)[:, None]
    return {
        "features": three(np.array([_FEATURES])),
        "logits": three(logits),
        "mc_logits": three(mc_logits),
        "present": np.array([[1, 1, 1], [1, 1, 0], [1, 0, 0]], dtype=bool),
    }
