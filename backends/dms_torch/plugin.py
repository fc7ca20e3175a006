"""Names the PyTorch backend. Nothing here imports torch."""

from __future__ import annotations

from dms_spec.plugins import Descriptor, hookimpl


@hookimpl
def dms_register_backends() -> list[Descriptor]:
    return [
        Descriptor(
            name="torch",
            load="dms_torch.backend:TorchBackend",
            summary="PyTorch, eager and compiled, with gradients",
            requires=("torch", "ml_dtypes"),
            extra="dms-spec[torch]",
        )
    ]
