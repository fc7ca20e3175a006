"""Wrong about who is there."""

from __future__ import annotations

import numpy as np

from dms_spec.conformance.mutants.mutant import Arrays, Mutant


def _everyone(arrays: Arrays) -> Arrays:
    arrays["present"] = np.ones_like(arrays["present"])
    for name in ("features", "logits", "mc_logits"):
        if name in arrays:
            arrays[name] = np.nan_to_num(arrays[name], neginf=-1e4, posinf=1e4)
    return arrays


MUTANTS = (
    Mutant(
        name="absent_counted",
        summary="ignores presence, and takes zeros for what is missing",
        clause="DMS-P-001",
        batch=_everyone,
    ),
)
