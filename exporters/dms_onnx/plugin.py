"""Names the ONNX exporter. Nothing here imports onnx."""

from __future__ import annotations

from dms_spec.plugins import Descriptor, hookimpl


@hookimpl
def dms_register_exporters() -> list[Descriptor]:
    return [
        Descriptor(
            name="onnx",
            load="dms_onnx.exporter:OnnxExporter",
            summary="ONNX, verified against the oracle before it is written",
            requires=("onnx", "onnx_ir", "ndonnx", "spox"),
            extra="dms-spec[onnx]",
        )
    ]
