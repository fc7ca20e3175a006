"""Names the PyTorch backend. Nothing here imports torch."""

from __future__ import annotations

from typing import Any

from dms_spec.plugins import Descriptor, hookimpl


def _load() -> Any:
    from dms_torch.backend import TorchBackend

    return TorchBackend()


@hookimpl
def dms_register_backends() -> list[Descriptor]:
    return [
        Descriptor(
            name="torch",
            load=_load,
            summary="PyTorch, eager and compiled, with gradients",
            requires=("torch", "ml_dtypes"),
            extra="dms-spec[torch]",
        )
    ]
