"""Prints what an export of each preset and dtype costs and weighs: seconds, nodes, bytes.

``python benchmarks/exports.py``. Needs ``dms-spec[onnxruntime]``.
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path

import onnx
import onnxruntime

from dms_spec.artifact import Artifact
from dms_spec.plugins import get_exporter
from dms_spec.spec import PRESETS, SchedulerSpec


def exported(artifact: Artifact, **options: object) -> tuple[bytes, dict[str, object], float]:
    """Exports, and gives the file, its verification, and the seconds that both took."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        path = get_exporter("onnx").export(artifact, Path(folder), **options)
        seconds = time.perf_counter() - start
        report = json.loads(path.with_name("verification.json").read_text())
        return path.read_bytes(), report, seconds


def optimised_nodes(model: bytes) -> int:
    """Counts the nodes after ONNX Runtime's optimiser."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    with tempfile.TemporaryDirectory() as folder:
        options.optimized_model_filepath = str(Path(folder) / "optimised.onnx")
        onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        return len(onnx.load(options.optimized_model_filepath).graph.node)


def sizes() -> None:
    """Prints what an export of each preset costs and weighs."""
    names = ("image", "text", "audio")
    print(f"{'export':<24}{'seconds':>9}{'nodes':>7}{'optimised':>11}{'bytes':>9}")
    for preset in PRESETS:
        for dtype in ("float32", "float16"):
            artifact = Artifact(spec=SchedulerSpec.preset(preset, names))
            model, report, seconds = exported(artifact, dtype=dtype)
            counts = f"{report['nodes']:>7}{optimised_nodes(model):>11}{report['bytes']:>9}"
            print(f"{f'{preset}, {dtype}':<24}{seconds:>9.2f}{counts}")


if __name__ == "__main__":
    sizes()
