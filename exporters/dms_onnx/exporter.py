"""Traces, verifies, and only then writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, final

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

    Its options are ``dtype``, of the inputs: float32 or float16; and ``opset``, 18 to 26.
    """

    @property
    def name(self) -> str:
        return "onnx"

    def export(
        self, artifact: Artifact, folder: Path, *, overwrite: bool = False, **options: Any
    ) -> Path:
        dtype, opset = _checked(**options)
        folder = Path(folder) / self.name
        target = Target.of_folder(folder, MARKS, overwrite=overwrite, alone=True, inside=True)
        check_names(artifact)
        if artifact.has_heads:
            dtypes = dict.fromkeys(artifact.spec.modalities, dtype)
            model, notes = trace_predictor(artifact, dtypes, opset)
        else:
            inputs = input_axes(artifact, heads=False)
            dtypes = {name: "bool" if name == "present" else dtype for name in inputs}
            model, notes = trace_scheduler(artifact, dtypes, opset)
        check_model(model, "the exported graph")
        report = verify(model)
        report["notes"] = [*notes, *report["notes"]]
        with target.writing() as new:
            new["model.onnx"].write_bytes(model.SerializeToString())
            text = json.dumps(report, indent=2)
            new["verification.json"].write_text(text + "\n", encoding="utf-8")
        return folder / "model.onnx"

    def verify(self, path: Path) -> dict[str, Any]:
        return verify(read_model(Path(path)))


def _checked(*, dtype: str = "float32", opset: int = TRACED, **unknown: Any) -> tuple[str, int]:
    if unknown:
        raise SpecError(
            "the exporter has no such option", expected="dtype, opset", got=", ".join(unknown)
        )
    if dtype not in DTYPES:
        raise UnsupportedCapability(
            f"no graph is written for {dtype}",
            capability=f"dtype:{dtype}",
            expected=" or ".join(DTYPES),
            got=str(dtype),
        )
    check_opset(opset)
    return dtype, opset
