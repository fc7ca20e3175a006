"""Holds Triton's kernels of the primitives that read most, forward and backward.

Each is an operator of torch's own library, so that ``torch.compile`` and ``torch.export`` pass
through. The plain form of each is the primitive of the same name in `dms_spec.equations`. The
kernel is held to it by `tests/test_kernels.py` and by the conformance suite.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dms_torch.kernels import confidence, others, variance
from dms_torch.kernels.confidence import entropy
from dms_torch.kernels.fusion import weighted_sum
from dms_torch.kernels.layout import computing
from dms_torch.kernels.others import alignment
from dms_torch.kernels.variance import variance_over_passes
from dms_torch.kernels.weighing import weigh
from dms_torch.kernels.weights import masked_softmax
from dms_torch.paths import interpreted

__all__ = [
    "alignment",
    "entropy",
    "masked_softmax",
    "one_read",
    "variance_over_passes",
    "weigh",
    "weighted_sum",
]

_TELLING = {
    "entropy": confidence.with_parts,
    "variance_over_passes": variance.with_parts,
    "alignment": others.with_parts,
}


def one_read(name: str) -> Callable[..., Any]:
    """The form of a primitive that reads a tensor once, as `Namespace` says. Half precision too."""
    if name == "weigh":
        return weigh

    def form(tensor: Tensor, mask: Tensor | None, dtype: torch.dtype) -> Any:
        # Triton's interpreter (3.7.1) takes bfloat16 below the normal numbers for other numbers.
        lost = interpreted() and tensor.dtype == torch.bfloat16
        given = tensor.to(dtype) if lost or computing(tensor) != dtype else tensor
        return _TELLING[name](given, mask)[:2]

    return form
