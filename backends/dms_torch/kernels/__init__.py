"""Holds Triton's kernels of the primitives that read most, forward and backward.

Each is an operator of torch's own library, so that ``torch.compile`` and ``torch.export`` pass
through. The plain form of each is the primitive of the same name in `dms_spec.equations`. The
kernel is held to it by `tests/test_kernels.py` and by the conformance suite.
"""

from dms_torch.kernels.confidence import entropy
from dms_torch.kernels.fusion import weighted_sum
from dms_torch.kernels.others import alignment
from dms_torch.kernels.variance import variance_over_passes
from dms_torch.kernels.weights import masked_softmax


def one_read(name, tensor):
    return None


__all__ = ["alignment", "entropy", "masked_softmax", "variance_over_passes", "weighted_sum"]
