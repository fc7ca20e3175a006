"""Names the NumPy backend."""

from __future__ import annotations

from typing import Any

from dms_spec.plugins import Descriptor, hookimpl


def _load() -> Any:
    from dms_numpy.backend import NumpyBackend

    return NumpyBackend()


@hookimpl
def dms_register_backends() -> list[Descriptor]:
    return [
        Descriptor(
            name="numpy", load=_load, summary="NumPy on the CPU: the reference", requires=("numpy",)
        )
    ]
