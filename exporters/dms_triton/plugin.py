"""Names the exporter for Triton Inference Server. Nothing here imports onnx."""

from __future__ import annotations

from dms_spec.plugins import Descriptor, hookimpl


@hookimpl
def dms_register_exporters() -> list[Descriptor]:
    return [
        Descriptor(
            name="triton",
            load="dms_triton.exporter:TritonExporter",
            summary="a model repository of Triton Inference Server around the ONNX graph",
            requires=("onnx", "onnx_ir", "ndonnx", "spox"),
            extra="dms-spec[onnx]",
        )
    ]
