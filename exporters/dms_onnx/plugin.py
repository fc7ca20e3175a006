"""Names the ONNX exporter. Nothing here imports onnx."""

from __future__ import annotations

from typing import Any

from dms_spec.plugins import Descriptor, hookimpl


def _load() -> Any:
    from dms_onnx.exporter import OnnxExporter

    return OnnxExporter()


@hookimpl
def dms_register_exporters() -> list[Descriptor]:
    return [
        Descriptor(
            name="onnx",
            load=_load,
            summary="ONNX, verified against the oracle before it is written",
            requires=("onnx", "onnx_ir", "ndonnx", "spox"),
            extra="dms-spec[onnx]",
        )
    ]
