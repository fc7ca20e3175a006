"""Defines what a signal is, and what it may look at."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, TypeAlias

from dms_spec.types import Array

Statistic: TypeAlias = Literal["entropy", "variance_over_passes", "mutual_information", "alignment"]

#: The statistics that tell whether a row was usable, and the array that each is of. Each is a
#: primitive of that name. Alignment is the last: it depends on what else is active.
STATISTICS: Mapping[Statistic, str] = {
    "entropy": "logits",
    "variance_over_passes": "mc_logits",
    "mutual_information": "mc_logits",
    "alignment": "features",
}


class Later:
    """An array as it was given, of which a clean copy is made when somebody asks for it."""

    def __init__(self, given: Array, clean: Callable[[Array], Array]) -> None:
        self.given, self._clean, self._made = given, clean, None

    def __call__(self) -> Array:
        if self._made is None:
            self._made = self._clean(self.given)
        return self._made


class Evidence:
    """Holds the arrays that signals and policies may look at, in the computing dtype.

    What is not active has been replaced by 0, so that a function need not look at ``active``. An
    array that nobody looks at is never copied.

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

    def __init__(
        self,
        *,
        active: Array,
        dtype: Any,
        features: Array = None,
        logits: Array = None,
        mc_logits: Array = None,
        parameters: Mapping[str, Array] | None = None,
        statistics: Mapping[Statistic, Array] | None = None,
    ) -> None:
        self.active, self.dtype = active, dtype
        self.parameters, self._statistics = parameters or {}, statistics or {}
        self._arrays = {"features": features, "logits": logits, "mc_logits": mc_logits}

    @property
    def features(self) -> Array:
        return self._clean("features")

    @property
    def logits(self) -> Array:
        return self._clean("logits")

    @property
    def mc_logits(self) -> Array:
        return self._clean("mc_logits")

    def _clean(self, name: str) -> Array:
        held = self._arrays[name]
        return held() if isinstance(held, Later) else held

    def _given(self, name: str) -> Array:
        held = self._arrays[name]
        return held.given if isinstance(held, Later) else held

    def count(self, ns: Any, name: str, axis: int) -> Array:
        """The size of an axis of an array, to compute with, as `Namespace.count` gives it."""
        return ns.count(self._given(name), axis, self.dtype)

    def statistic(self, name: Statistic, compute: Callable[[Array], Array]) -> Array:
        """A statistic that a signal declares: known already, or computed from the clean array."""
        known = self._statistics.get(name)
        return compute(self._clean(STATISTICS[name])) if known is None else known

    def with_parameters(self, parameters: Mapping[str, Array]) -> Evidence:
        """Gives the same evidence with other parameters."""
        return Evidence(
            active=self.active,
            dtype=self.dtype,
            parameters=parameters,
            statistics=self._statistics,
            **self._arrays,
        )

    def _changed(self, change: Callable[[Any], Any], name: str, _: Array) -> Array:
        return change(self._clean(name))

    def changed(self, change: Callable[[Any], Any]) -> Evidence:
        """Gives the same evidence with everything changed; arrays when somebody asks for them."""
        arrays = {
            name: None
            if held is None
            else Later(self._given(name), partial(self._changed, change, name))
            for name, held in self._arrays.items()
        }
        return Evidence(
            active=change(self.active),
            dtype=self.dtype,
            parameters=change(self.parameters),
            statistics=change(self._statistics),
            **arrays,
        )


@dataclass(frozen=True, kw_only=True)
class Signal:
    """Describes a signal: its function, what it reads, and where it is published.

    A signal says for each sample and modality how trustworthy the modality looks.

    Attributes:
        name: What specs, outputs and reports call it.
        function: ``(namespace, evidence, **options) -> [B, M]``. Its keyword-only arguments are
            the options that a spec may set.
        needs: The arrays of the batch that it reads.
        statistics: What it reads of them by ``evidence.statistic`` alone: ``"entropy"`` of the
            logits, ``"variance_over_passes"`` and ``"mutual_information"`` of the passes,
            ``"alignment"`` of the features.
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
    statistics: tuple[Statistic, ...] = ()
    optional: bool = False
    parameters: Mapping[str, str] = field(default_factory=dict)
    parameters_optional: bool = False
    by_itself: bool = False
    cancels_with_two: bool = False
    log_trust: bool = False
