"""Defines what a policy is, and what it may look at."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from dms_spec.interface.signal import Evidence
from dms_spec.types import Array

if TYPE_CHECKING:  # listing plugins does not pay for NumPy
    import numpy as np
    from numpy.typing import NDArray

Floats: TypeAlias = "NDArray[np.float32]"
Mask: TypeAlias = "NDArray[np.bool_]"


@dataclass(frozen=True, kw_only=True)
class PolicyInput:
    """Holds what a policy computes scores from: the batch, the signals and the coefficients.

    Attributes:
        evidence: The clean batch and this policy's parameters.
        signals: Each signal of the spec, ``[B, M]`` in the computing dtype; 0 where a modality is
            not active.
        directions: +1 or -1 for each signal.
        coefficients: The spec's non-negative coefficients, by signal.

    Example:
        >>> import numpy as np
        >>> from dms_spec import Evidence, PolicyInput, get_backend
        >>> from dms_spec.plugins import get_policy
        >>> given = PolicyInput(
        ...     evidence=Evidence(active=np.ones((1, 2), dtype=bool), dtype=np.dtype(float)),
        ...     signals={"confidence": np.array([[0.5, 0.25]])},
        ...     directions={"confidence": 1},
        ...     coefficients={"confidence": 2.0},
        ... )
        >>> get_policy("linear").function(get_backend("numpy").namespace("cpu"), given)
        {'confidence': array([[1. , 0.5]])}
    """

    evidence: Evidence
    signals: Mapping[str, Array] = field(default_factory=dict)
    directions: Mapping[str, int] = field(default_factory=dict)
    coefficients: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Policy:
    """Describes a policy: its function, its parameters, and where it is published.

    A policy makes scores ``[B, M]`` of the signals; weights are the softmax of the scores.

    Attributes:
        name: What specs call it.
        function: ``(namespace, PolicyInput, **options) -> {term: [B, M]}``; the scores are the
            sum of the terms. Its keyword-only arguments are the options that a spec may set.
        source: Where the rule is published.
        equation: Its number in the specification, or in its source.
        needs: Arrays of the batch that it reads beside the signals.
        uses_signals: Whether coefficients mean anything to it.
        parameters: The parameter arrays that it needs from the artifact, each with its axes, such
            as ``"M"`` or ``"D d"``.
        parameters_optional: It can do without them, but not with some of them alone.
        training_presence: What training does to the presence mask, as
            ``(present, *, seed, **options) -> present``; None for nothing.
        initial: Where learning starts, as ``(spec, sizes, *, seed, **options) -> {name: array}``
            with the sizes of M, K and where known D and C; None where there is nothing to learn.
        observe: What it has to say about the values of a result, as
            ``(namespace, schedule, **options) -> notes``, such as a limit that was reached; None
            for nothing. It runs on the host, after the schedule: a compiled or exported graph,
            which looks at no value, does without.
        log_trust: Its scores are logs of trust, at most 0, before anything is compared: what fusion
            of evidence needs. It weighs only signals that are logs of trust.

    Example:
        >>> from dms_spec import Policy
        >>> def loudest(ns, given, *, gain: float = 1.0):
        ...     return {"loudness": gain * given.signals["loudness"]}
        >>> policy = Policy(
        ...     name="loudest", function=loudest, source="where it is published", uses_signals=True
        ... )
    """

    name: str
    function: Callable[..., Mapping[str, Array]]
    source: str
    equation: str = ""
    needs: tuple[str, ...] = ()
    uses_signals: bool = False
    parameters: Mapping[str, str] = field(default_factory=dict)
    parameters_optional: bool = False
    training_presence: Callable[..., Mask] | None = None
    initial: Callable[..., dict[str, Floats]] | None = None
    observe: Callable[..., tuple[str, ...]] | None = None
    log_trust: bool = False
