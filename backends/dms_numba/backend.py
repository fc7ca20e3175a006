"""Runs the equations in NumPy, with compiled primitives where a batch is read many times."""

from __future__ import annotations

from dataclasses import replace
from typing import final

from dms_numba import primitives
from dms_numba.threads import on_blocks
from dms_numpy.backend import HostBackend, host_namespace
from dms_spec.equations.namespace import Namespace
from dms_spec.interface.capabilities import Capabilities


def numba_namespace() -> Namespace:
    """Makes the namespace of NumPy with the compiled primitives."""
    # Measured: the best of 2^19 to 2^24, with temporaries of NumPy's and without.
    return host_namespace(
        1 << 20,
        one_read=primitives.one_read,
        over_blocks=on_blocks,
        softmax=primitives.softmax,
        alignment=primitives.alignment,
        cosine=primitives.cosine,
        entropy=primitives.entropy,
        mutual_information=primitives.mutual_information,
        usable=primitives.usable,
        variance_over_passes=primitives.variance_over_passes,
    )


@final
class NumbaBackend(HostBackend):
    """Runs on all cores of the CPU. The bits do not depend on how many there are.

    Compiled is what reads logits and passes, in float32 and float64. The rest is NumPy's. The first
    call compiles, which takes some seconds; the result is kept on disk.
    """

    @property
    def name(self) -> str:
        return "numba"

    @property
    def capabilities(self) -> Capabilities:
        return replace(super().capabilities, notes=primitives.notes())

    def namespace(self, device: str) -> Namespace:
        del device
        return numba_namespace()
