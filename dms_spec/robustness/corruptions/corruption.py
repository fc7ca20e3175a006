"""Defines what a corruption is, and what it may know beside the array that it corrupts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import inf, isfinite
from typing import Any, Literal, Self

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from dms_spec.errors import SpecError
from dms_spec.robustness.samples import BoolArray, Kind, Space, stream


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Holds what a corruption may know beside the array that it corrupts.

    Attributes:
        random: For this modality; anew for every call.
        labels: Index of each sample's class, ``[N]``.
        hit: bool ``[N, M]``: what the pattern says is corrupted.
        there: bool ``[N]``: where this modality is present; elsewhere the array holds nothing.
        index: Which of the M modalities this is.
        seed: To draw what concerns all modalities, with `shared`.
        name: The corruption's.
    """

    random: Generator
    labels: NDArray[np.intp]
    hit: BoolArray
    there: BoolArray
    index: int
    seed: int
    name: str

    def shared(self) -> Generator:
        """Makes random numbers that all modalities see alike."""
        return stream(self.seed, self.name)


#: From an array, a severity and the scene to a corrupted array of the same shape. What it says
#: about samples that are not hit is not used.
Function = Callable[[NDArray[Any], float, Scene], NDArray[Any]]

#: From what the pattern hits, bool ``[N, M]``, a severity and shared random numbers to what is hit.
Narrowing = Callable[[BoolArray, float, Generator], BoolArray]


@dataclass(frozen=True, kw_only=True)
class Corruption:
    """One way for a modality to go wrong.

    Attributes:
        name: Unique.
        function: What it does to one modality, of which it sees all samples.
        meaning: What that is, in a sentence.
        severities: From mild to strong, the ones to measure when nothing else is asked for.
        unit: What a severity counts, in words. It is empty if there is nothing to count; then 1
            stands for all of it.
        kind: Which modalities it applies to; ``"any"`` for all.
        space: The numbers in which it sees features.
        told: Whether the methods are told: ``present`` becomes False.
        hits: Which modalities of a sample it hits if nothing else is asked for: half of those
            that it applies to, or every one.
        narrowing: Leaves some of the hit samples out.
        clean_at: The severity at which nothing happens, if there is one.
        random: Whether it draws anything.
        least: Severities below are refused.
        most: Severities above are refused.
    """

    name: str
    function: Function
    meaning: str = ""
    severities: tuple[float, ...] = (1.0,)
    unit: str = ""
    kind: Kind | Literal["any"] = "features"
    space: Space = "range"
    told: bool = False
    hits: Literal["half", "every"] = "half"
    narrowing: Narrowing | None = None
    clean_at: float | None = None
    random: bool = True
    least: float = -inf
    most: float = inf

    def __post_init__(self) -> None:
        if not self.severities:
            raise SpecError(f"corruption {self.name!r} has no severity", expected="one or more")
        if not self.unit and not set(self.severities) <= {0.0, 1.0}:
            raise SpecError(
                f"corruption {self.name!r} has no severities",
                expected="1, or 0 for nothing",
                got=", ".join(f"{severity:g}" for severity in self.severities),
            )
        for severity in self.severities:
            if not isfinite(severity) or not self.least <= severity <= self.most:
                raise SpecError(
                    f"corruption {self.name!r} has no such severity",
                    expected=f"{self.least:g} to {self.most:g}"
                    + (f" ({self.unit})" if self.unit else ""),
                    got=f"{severity:g}",
                )

    def at(self, *severities: float) -> Self:
        """Makes the same corruption with other severities, from mild to strong.

        Raises:
            SpecError: One of them is out of range.
        """
        return replace(self, severities=tuple(float(severity) for severity in severities))


def of_share(
    name: str, function: Function, meaning: str, of: str, severities: tuple[float, ...], **more: Any
) -> Corruption:
    """Makes a corruption whose severity is a share in [0, 1]; a share of 0 is clean.

    Args:
        name: Unique.
        function: What it does to one modality.
        meaning: What that is, in a sentence.
        of: What it takes a share of, in the plural, such as ``"features"``.
        severities: From mild to strong.
        **more: Other attributes of `Corruption`.
    """
    return Corruption(
        name=name,
        function=function,
        meaning=meaning,
        severities=severities,
        unit=f"share of the {of}",
        clean_at=0.0,
        least=0.0,
        most=1.0,
        **more,
    )


def by_name(*corruptions: Corruption) -> dict[str, Corruption]:
    """Makes a table of corruptions, by name and in their order."""
    return {one.name: one for one in corruptions}
