"""Measures how well a fusion works when its inputs go wrong, and whether its weights help.

A run is *methods* × *cases* on *samples*::

    samples = Samples.of({"image": x, "text": t}, y, training={"image": x0, "text": t0})
    result = measure({"mine": method}, samples, sweep(("gaussian", "zeroed")))
    result.mean("accuracy", "mine", "gaussian", 0.5)
    write_report(result, "out")

``dms robustness`` does this for a fitted artifact.
"""

from __future__ import annotations

from dms_spec.robustness.corruptions.corruption import Corruption, Scene
from dms_spec.robustness.corruptions.registry import corruption
from dms_spec.robustness.methods import Answer, Method, of_predictor
from dms_spec.robustness.patterns import (
    EVERY,
    HALF,
    Case,
    Pattern,
    average,
    damaged_sets,
    expected,
    named,
    sensor_failure,
    sweep,
)
from dms_spec.robustness.protocol import Corrupted, Progress, corrupt, measure
from dms_spec.robustness.report import write_report
from dms_spec.robustness.result import Measured, Result, merge, read_result
from dms_spec.robustness.samples import Samples, Scale

__all__ = [
    "EVERY",
    "HALF",
    "Answer",
    "Case",
    "Corrupted",
    "Corruption",
    "Measured",
    "Method",
    "Pattern",
    "Progress",
    "Result",
    "Samples",
    "Scale",
    "Scene",
    "average",
    "corrupt",
    "corruption",
    "damaged_sets",
    "expected",
    "measure",
    "merge",
    "named",
    "of_predictor",
    "read_result",
    "sensor_failure",
    "sweep",
    "write_report",
]
