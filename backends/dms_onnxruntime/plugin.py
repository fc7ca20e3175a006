"""Names the ONNX Runtime backend. Nothing here imports onnxruntime."""

from __future__ import annotations

from dms_spec.plugins import Descriptor, hookimpl


@hookimpl
def dms_register_backends() -> list[Descriptor]:
    return [
        Descriptor(
            name="onnxruntime",
            load="dms_onnxruntime.backend:OnnxRuntimeBackend",
            summary="ONNX Runtime: runs the exported graph, on the CPU and on CUDA",
            requires=("onnxruntime|onnxruntime-gpu", "onnx", "onnx_ir", "ndonnx", "spox"),
            extra="dms-spec[onnxruntime]",
        )
    ]
