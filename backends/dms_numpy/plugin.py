"""Names the NumPy backend."""

from __future__ import annotations

from dms_spec.plugins import Descriptor, hookimpl


@hookimpl
def dms_register_backends() -> list[Descriptor]:
    return [
        Descriptor(
            name="numpy",
            load="dms_numpy.backend:NumpyBackend",
            summary="NumPy on the CPU: the reference",
            requires=("numpy",),
        )
    ]
