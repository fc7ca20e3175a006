"""Names the Numba backend. Nothing here imports numba."""

from __future__ import annotations

from dms_spec.plugins import Descriptor, hookimpl


@hookimpl
def dms_register_backends() -> list[Descriptor]:
    return [
        Descriptor(
            name="numba",
            load="dms_numba.backend:NumbaBackend",
            summary="NumPy on the CPU, with primitives that Numba compiles",
            requires=("numba",),
            extra="dms-spec[numba]",
        )
    ]
