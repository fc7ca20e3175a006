"""Learns from a table of embeddings: ``fit`` learns heads, typicality and a policy.

`training` holds the order of it all. What is learned from stands in `folds` and `part`, what is
random in `corruption`, heads in `heads` and `initialize`, typicality in `typicality`, the policy
in `policy`, epochs and stopping in `optimize`, the state of a stopped run in `checkpoint`.
"""

from dms_spec.embeddings.settings import FitSettings
from dms_torch.fit.training import Fitted, Progress, fit

__all__ = ["FitSettings", "Fitted", "Progress", "fit"]
