"""Checks exports: an exporter takes what this backend holds, and verifies it."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from dms_spec.artifact import Artifact
from dms_spec.conformance import drawing, strategies
from dms_spec.conformance.context import ConformanceError
from dms_spec.conformance.registry import Context, check
from dms_spec.errors import DMSError
from dms_spec.plugins import available, get_exporter
from dms_spec.spec import PRESETS, SchedulerSpec


@check("DMS-X-008", "DMS-X-014", level="export", needs=("exporter",), dtypes=("float32",))
def check_parameters_are_exported(ctx: Context) -> None:
    """With this backend's parameters, every exporter writes what it can verify."""
    names = strategies.names(3)
    rule = SchedulerSpec.preset("paper", names)
    specs = [SchedulerSpec.preset(preset, names) for preset in PRESETS]
    specs += [rule.replace(policy=policy) for policy in drawing.LEARNED]
    specs += [
        SchedulerSpec(modalities=names, policy="co_attention"),
        SchedulerSpec(modalities=names, signals={"anchored_alignment": {}}, fusion="logit"),
        SchedulerSpec(modalities=names, policy="soundness", fusion="evidence"),
    ]
    random = np.random.Generator(np.random.Philox(7))
    for spec in specs:
        drawn = drawing.parameters(
            spec, random, width=4, classes=3, dtype=np.float32, optional=True
        )
        own = {
            name: ctx.backend.to_numpy(ctx.backend.from_numpy(array, ctx.device))
            for name, array in drawn.items()
        }
        for name in available("exporter"):
            exporter = get_exporter(name)
            with TemporaryDirectory() as folder:
                try:
                    path = exporter.export(Artifact(spec=spec, parameters=own), Path(folder))
                    exporter.verify(path)
                except DMSError as error:
                    raise ConformanceError(f"DMS-X-008: {spec.policy}, {name}: {error}") from error
