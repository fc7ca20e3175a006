"""Wrong about weights."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from dms_spec.conformance.mutants.mutant import Mutant
from dms_spec.spec import SchedulerSpec
from dms_spec.types import ModalityBatch, Schedule


def _uniform(result: Schedule, batch: ModalityBatch, spec: SchedulerSpec) -> Schedule:
    del batch, spec
    count = np.maximum(result.active.sum(axis=1, keepdims=True), 1)
    return replace(result, weights=(result.active / count).astype(result.weights.dtype))


MUTANTS = (
    Mutant(
        name="uniform",
        summary="weighs whatever is there alike",
        clause="DMS-N-001",
        result=_uniform,
    ),
)
