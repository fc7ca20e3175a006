"""Traces, verifies, and only then writes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

import onnx

from dms_onnx.files import check_model, read_model
from dms_onnx.opsets import TRACED, check_opset
from dms_onnx.trace import check_names, input_axes, trace_predictor, trace_scheduler
from dms_onnx.verify import verify
from dms_spec.artifact import Artifact
from dms_spec.errors import SpecError, UnsupportedCapability
from dms_spec.interface.exporter import Exporter
from dms_spec.outputs import Target

#: The files of an export, and what one knows them by.
MARKS = {"model.onnx": b"dms-spec", "verification.json": b'"inputs_sha256"'}

#: The dtypes that inputs may have.
DTYPES = ("float32", "float16")


@final
class OnnxExporter(Exporter):
    """Writes one file, ``onnx/model.onnx``, with ``onnx/verification.json`` beside it.

    Its options are ``dtype``, of the inputs: float32 or float16; ``opset``, 18 to 26; and
    ``passes_axis``: 0, where ``mc_logits`` is [T, B, M, C], or 1, where it is [B, T, M, C]. A graph
    without ``mc_logits`` is the same with either.
    """

    @property
    def name(self) -> str:
        return "onnx"

    def export(
        self, artifact: Artifact, folder: Path, *, overwrite: bool = False, **options: Any
    ) -> Path:
        _check_names(options)
        folder = Path(folder) / self.name
        target = Target.of_folder(folder, MARKS, overwrite=overwrite, alone=True, inside=True)
        model, report = build(artifact, **options)
        with target.writing() as new:
            write(model, report, new)
        return folder / "model.onnx"

    def verify(self, path: Path) -> dict[str, Any]:
        return verify(read_model(Path(path)))


def build(
    artifact: Artifact, *, dtype: str = "float32", opset: int = TRACED, passes_axis: int = 0
) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """Traces a scheduler, with its heads where it has any, and verifies the graph.

    Args:
        artifact: What the graph is to compute.
        dtype: The dtype of its inputs.
        opset: The opset that it is written in.
        passes_axis: The axis of the passes in ``mc_logits``: 0, or 1 behind the samples.

    Returns:
        The model, and the report of its verification.

    Raises:
        SpecError: Two names are equal, a policy cannot be traced, or an option is not one.
        UnsupportedCapability: No graph is written for the dtype.
        VerificationError: The graph is wrong.
    """
    _check(dtype, opset, passes_axis)
    check_names(artifact)
    if artifact.has_heads:
        dtypes = dict.fromkeys(artifact.spec.modalities, dtype)
        model, notes = trace_predictor(artifact, dtypes, opset)
    else:
        inputs = input_axes(artifact, heads=False)
        dtypes = {name: "bool" if name == "present" else dtype for name in inputs}
        model, notes = trace_scheduler(artifact, dtypes, opset, passes_axis=passes_axis)
    check_model(model, "the exported graph")
    report = verify(model)
    report["notes"] = [*notes, *report["notes"]]
    return model, report


def write(model: onnx.ModelProto, report: Mapping[str, Any], paths: Mapping[str, Path]) -> None:
    """Writes a graph and the report of its verification.

    Args:
        model: The graph.
        report: What `build` gave with it.
        paths: Where, by the names of `MARKS`.
    """
    paths["model.onnx"].write_bytes(model.SerializeToString())
    text = json.dumps(report, indent=2)
    paths["verification.json"].write_text(text + "\n", encoding="utf-8")


def _check_names(options: Mapping[str, Any]) -> None:
    if unknown := options.keys() - {"dtype", "opset", "passes_axis"}:
        raise SpecError(
            "the exporter has no such option",
            expected="dtype, opset, passes_axis",
            got=", ".join(sorted(unknown)),
        )


def _check(dtype: str, opset: int, passes_axis: int) -> None:
    if dtype not in DTYPES:
        raise UnsupportedCapability(
            f"no graph is written for {dtype}",
            capability=f"dtype:{dtype}",
            expected=" or ".join(DTYPES),
            got=str(dtype),
        )
    if passes_axis not in (0, 1):
        raise SpecError(
            "the passes have no such axis",
            expected="0 for [T, B, M, C], or 1 for [B, T, M, C]",
            got=str(passes_axis),
        )
    check_opset(opset)
