"""Times exported graphs in ONNX Runtime, against a naive export and against reading the input.

``python benchmarks/bench_onnx.py [-o results.csv]``. One thread. *stream* sums every input array
once; *naive, dynamo* is the naive module of `bench_torch` as PyTorch's own exporter writes it.
Where CUDA is, also CUDA with and without IO binding. Values are compared before timing. Then, for
each preset and dtype: time to export and verify, nodes, nodes after ONNX Runtime's optimiser, and
bytes. Needs ``dms-spec[onnxruntime,torch]`` and onnxscript.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from bench_schedule import SPEC, batch, milliseconds, save, setting
from bench_torch import naive

from dms_onnxruntime import Session
from dms_spec.artifact import Artifact
from dms_spec.conformance import oracle
from dms_spec.plugins import get_backend, get_exporter
from dms_spec.spec import PRESETS, SchedulerSpec
from dms_spec.types import ModalityBatch


class Naive(torch.nn.Module):
    def forward(
        self,
        features: torch.Tensor,
        logits: torch.Tensor,
        mc_logits: torch.Tensor,
        present: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return naive(features, logits, mc_logits, present)


def naive_model() -> bytes:
    """Exports the naive module by torch.onnx.export(dynamo=True), with a symbolic batch."""
    arrays = {name: torch.from_numpy(array) for name, array in batch(4).items()}
    b = torch.export.Dim("B")
    axes = {name: {1 if name == "mc_logits" else 0: b} for name in arrays}
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")  # of torch's own, about its internals
        program = torch.onnx.export(
            Naive(),
            tuple(arrays.values()),
            dynamo=True,
            dynamic_shapes=tuple(axes.values()),
            input_names=list(arrays),
            output_names=["fused", "weights"],
            verbose=False,
        )
        path = Path(folder) / "naive.onnx"
        program.save(path)
        return path.read_bytes()


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


def measure(size: int, seconds: float, ours: bytes, baseline: bytes) -> list[dict[str, object]]:
    arrays = batch(size)
    floats = [arrays[name] for name in ("features", "logits", "mc_logits")]
    few = {k: v[:, :2] if k == "mc_logits" else v[:2] for k, v in arrays.items()}
    exact = oracle.schedule(SPEC, few).weights
    stream = milliseconds(lambda: [array.sum() for array in floats], seconds)
    contenders: dict[str, Callable[[], dict[str, object]]] = {}
    for name, model in (("naive, dynamo", baseline), ("exported", ours)):
        session = Session(model, threads=1)
        contenders[name] = lambda session=session: session.run(arrays)
    backend = get_backend("onnxruntime")
    scheduler = backend.scheduler(SPEC)
    contenders["backend, in blocks"] = lambda: scheduler(ModalityBatch(**arrays)).arrays()
    for device in backend.capabilities.devices[1:2]:
        session = Session(ours, device)
        tensors = {name: backend.from_numpy(array, device) for name, array in arrays.items()}
        contenders[f"exported, {device}, NumPy in and out"] = lambda s=session: s.run(arrays)
        contenders[f"exported, {device}, IO binding"] = lambda s=session, t=tensors: s.run(t)
    rows = [{"B": size, "contender": "stream", "ms": stream}]
    for name, call in contenders.items():
        weights = call()["weights"]
        found = weights if isinstance(weights, np.ndarray) else weights.cpu().numpy()
        if np.abs(found[:2] - exact).max() > 1e-6:
            sys.exit(f"{name} is wrong: nothing to time")
        rows.append({"B": size, "contender": name, "ms": milliseconds(call, seconds)})
    slow = rows[1]["ms"]
    for row in rows:
        row["times_naive"] = f"{slow / row['ms']:.2f}"
        row["fraction_of_stream"] = f"{stream / row['ms']:.3f}"
        row["ms"] = f"{row['ms']:.3f}"
    return rows


def sizes() -> None:
    """Prints what an export of each preset costs and weighs."""
    names = ("image", "text", "audio")
    print(f"\n{'export':<24}{'seconds':>9}{'nodes':>7}{'optimised':>11}{'bytes':>9}")
    for preset in PRESETS:
        for dtype in ("float32", "float16"):
            artifact = Artifact(spec=SchedulerSpec.preset(preset, names))
            model, report, seconds = exported(artifact, dtype=dtype)
            counts = f"{report['nodes']:>7}{optimised_nodes(model):>11}{report['bytes']:>9}"
            print(f"{f'{preset}, {dtype}':<24}{seconds:>9.2f}{counts}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, help="CSV file for the results")
    parser.add_argument("--seconds", type=float, default=3.0, help="per measurement")
    args = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):  # one thread for the backend too, which makes its own
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    where = setting() | {"onnxruntime": onnxruntime.__version__, "torch": torch.__version__}
    print(f"paper preset, M=3 D=768 C=1000 T=10, float32, one thread; {where}")
    ours, _, _ = exported(Artifact(spec=SPEC))
    baseline = naive_model()
    print(f"naive, dynamo: {optimised_nodes(baseline)} nodes after the optimiser")
    rows = []
    for size in (1, 32, 1024):
        for row in measure(size, args.seconds, ours, baseline):
            print(
                f"B={row['B']:<5} {row['contender']:<36} {row['ms']:>9} ms  "
                f"{row['times_naive']:>5} x naive  {row['fraction_of_stream']} of stream"
            )
            rows.append(row | where)
    save(args.output, rows)
    sizes()


if __name__ == "__main__":
    main()
