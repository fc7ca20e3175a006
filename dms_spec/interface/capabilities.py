"""Says what a backend claims. It is declared once, and the conformance suite tests it."""

from __future__ import annotations

from dataclasses import dataclass

from dms_spec._version import SUPPORTED_EDITIONS


@dataclass(frozen=True, kw_only=True)
class Capabilities:
    """Lists what a backend claims to do on this machine (DMS-C-001).

    Attributes:
        dtypes: Names of the floating dtypes that it takes, such as ``"float32"``.
        devices: Names of the devices that it can use here, the default first.
        gradients: Whether gradients flow from its outputs to its inputs.
        bitwise_deterministic: Whether equal inputs give equal bits on the same machine.
        policies: Names of the policies that it runs; None means every registered one.
        precision: ``"ieee"``, or the name of a relaxed mode such as ``"tf32"``.
        editions: Editions of the specification that it follows.
        notes: What a person should know about how it runs on this machine.

    Example:
        >>> from dms_spec import Capabilities
        >>> Capabilities(dtypes=("float64", "float32")).devices
        ('cpu',)
    """

    dtypes: tuple[str, ...]
    devices: tuple[str, ...] = ("cpu",)
    gradients: bool = False
    bitwise_deterministic: bool = True
    policies: tuple[str, ...] | None = None
    precision: str = "ieee"
    editions: tuple[str, ...] = SUPPORTED_EDITIONS
    notes: tuple[str, ...] = ()
