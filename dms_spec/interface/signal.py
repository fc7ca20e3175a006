"""Defines what a signal is, and what it may look at."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from dms_spec.types import Array


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Holds the arrays that signals and policies may look at, in the computing dtype.

    What is not active has been replaced by 0, so that a function need not look at ``active``.

    Attributes:
        features: ``[B, M, D]`` or None.
        logits: ``[B, M, C]`` or None.
        mc_logits: ``[T, B, M, C]`` or None; None when there is fewer than two passes.
        active: bool ``[B, M]``: present and finite.
        dtype: The computing dtype, that of every array here but ``active``.
        parameters: The parameters that this signal or policy declared, by name.

    Example:
        >>> import numpy as np
        >>> from dms_spec import Evidence, get_backend
        >>> from dms_spec.plugins import get_signal
        >>> active, logits = np.ones((1, 2), dtype=bool), np.zeros((1, 2, 3))
        >>> evidence = Evidence(active=active, dtype=logits.dtype, logits=logits)
        >>> ns = get_backend("numpy").namespace("cpu")
        >>> get_signal("confidence").function(ns, evidence)
        array([[0., 0.]])
    """

    active: Array
    dtype: Any
    features: Array = None
    logits: Array = None
    mc_logits: Array = None
    parameters: Mapping[str, Array] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Signal:
    """Describes a signal: its function, what it reads, and where it is published.

    A signal says for each sample and modality how trustworthy the modality looks.

    Attributes:
        name: What specs, outputs and reports call it.
        function: ``(namespace, evidence, **options) -> [B, M]``. Its keyword-only arguments are
            the options that a spec may set.
        needs: The arrays of the batch that it reads.
        direction: +1 where more means more trust, -1 where more means less.
        source: Where the equation is published.
        equation: Its number in the specification, or in its source.
        bounds: The range of its values, such as ``"[0, 1]"``; with the unit where there is one.
        optional: Without its arrays it is 0 everywhere, with a note, instead of an error.
        parameters: The parameter arrays that it needs from the artifact, each with its axes,
            such as ``"D | M D"``.
        parameters_optional: Without any of them it is 0 everywhere, with a note.
        by_itself: It reads each modality's features by themselves: they need share no space.
        cancels_with_two: It is equal for both when exactly two modalities are active, so it
            cannot move their weights.
        log_trust: Its values are logs of trust, in (-inf, 0]: 0 where nothing is wrong.

    Example:
        >>> from dms_spec import Signal
        >>> def loudness(ns, evidence):
        ...     return ns.xp.mean(ns.xp.abs(evidence.features), axis=-1)
        >>> signal = Signal(
        ...     name="loudness",
        ...     function=loudness,
        ...     needs=("features",),
        ...     direction=1,
        ...     source="where it is published",
        ...     bounds="[0, inf)",
        ... )
    """

    name: str
    function: Callable[..., Array]
    needs: tuple[str, ...]
    direction: Literal[1, -1]
    source: str
    bounds: str
    equation: str = ""
    optional: bool = False
    parameters: Mapping[str, str] = field(default_factory=dict)
    parameters_optional: bool = False
    by_itself: bool = False
    cancels_with_two: bool = False
    log_trust: bool = False
