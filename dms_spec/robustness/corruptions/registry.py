"""Lists every corruption there is, by name."""

from __future__ import annotations

from collections.abc import Iterable

from dms_spec.errors import unknown
from dms_spec.robustness.corruptions.corruption import Corruption
from dms_spec.robustness.corruptions.features import FEATURES
from dms_spec.robustness.corruptions.raw import RAW

#: Of features and of raw inputs.
CORRUPTIONS: dict[str, Corruption] = FEATURES | RAW


def corruption(name: str | Corruption) -> Corruption:
    """Looks up a corruption of features or raw inputs; one that is given is given back.

    Raises:
        UnknownName: There is none; the message names the closest.

    Example:
        >>> from dms_spec.robustness import corruption
        >>> corruption("zeroed").meaning
        'Every feature is at the bottom of its range, and the methods are not told.'
    """
    if isinstance(name, Corruption):
        return name
    if name not in CORRUPTIONS:
        raise unknown("corruption", name, CORRUPTIONS)
    return CORRUPTIONS[name]


def corruptions(names: Iterable[str | Corruption]) -> tuple[Corruption, ...]:
    """Looks up several of them."""
    return tuple(corruption(name) for name in names)
