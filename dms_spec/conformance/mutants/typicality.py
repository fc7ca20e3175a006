"""Holds mutants that are wrong about typicality: where features lie, and what it costs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dms_spec.conformance.mutants.mutant import Mutant, signal
from dms_spec.equations import typicality as right
from dms_spec.equations.namespace import Namespace
from dms_spec.interface.signal import Evidence
from dms_spec.spec import SchedulerSpec
from dms_spec.types import Array, ModalityBatch, Schedule

_Values = NDArray[Any]


def _given(**changed: Callable[[Mapping[str, _Values]], _Values]) -> Any:
    """Replaces some parameters of the signal by something made of all of them."""

    def function(ns: Namespace, evidence: Evidence) -> Array:
        p = evidence.parameters
        own = {name: np.asarray(make(p), dtype=p[name].dtype) for name, make in changed.items()}
        return right.typicality(ns, evidence.with_parameters({**p, **own}))

    return function


def _farthest(ns: Namespace, evidence: Evidence) -> Array:
    """Takes the least typical over the prototypes, each by itself."""
    p = evidence.parameters
    each = [
        right.log_distance(
            ns, evidence.features, {**p, "prototypes": p["prototypes"][:, c : c + 1]}
        )
        for c in range(p["prototypes"].shape[1])
    ]
    return _cost(p, np.max(each, axis=0))


def _squared(ns: Namespace, evidence: Evidence) -> Array:
    return _cost(
        evidence.parameters, 2 * right.log_distance(ns, evidence.features, evidence.parameters)
    )


def _not_a_log(ns: Namespace, evidence: Evidence) -> Array:
    p = evidence.parameters
    with np.errstate(over="ignore"):
        return _cost(p, np.exp(right.log_distance(ns, evidence.features, p)))


def _cost(
    p: Mapping[str, _Values], distance: _Values, *, zero: bool = True, most: float = np.inf
) -> _Values:
    """What a log-distance costs: as it should be, or with one part of it wrong."""
    low, high = p["band"].T
    steepness, onset = p["loss"].T
    excess = np.maximum(distance - high, 0) + np.maximum(low - distance, 0)
    kept = np.logaddexp(-steepness * onset, 0) if zero else 0
    value = kept - np.logaddexp(steepness * (excess - onset), 0)
    return np.asarray(np.maximum(value, -most), dtype=distance.dtype)


def _costs(**wrong: Any) -> Any:
    def function(ns: Namespace, evidence: Evidence) -> Array:
        p = evidence.parameters
        return _cost(p, right.log_distance(ns, evidence.features, p), **wrong)

    return function


def _without_notes(result: Schedule, batch: ModalityBatch, spec: SchedulerSpec) -> Schedule:
    return replace(result, notes=())


def _low_as_minus_infinity(p: Mapping[str, _Values]) -> _Values:
    return np.stack([np.full_like(p["band"][:, 0], -1e4), p["band"][:, 1]], axis=1)


def _high_as_infinity(p: Mapping[str, _Values]) -> _Values:
    return np.stack([p["band"][:, 0], np.full_like(p["band"][:, 1], 1e4)], axis=1)


MUTANTS = (
    Mutant(
        name="farthest_prototype",
        summary="takes the distance from the farthest prototype",
        clause="DMS-Q-013",
        resolved=signal("typicality", _farthest),
    ),
    Mutant(
        name="first_prototype",
        summary="takes the distance from the first prototype",
        clause="DMS-Q-013",
        resolved=signal("typicality", _given(prototypes=lambda p: p["prototypes"][:, :1])),
    ),
    Mutant(
        name="outside_forgotten",
        summary="forgets what lies outside the subspace",
        clause="DMS-Q-013",
        resolved=signal("typicality", _given(outside=lambda p: 0 * p["outside"])),
    ),
    Mutant(
        name="inside_counted_twice",
        summary="takes the whole offset for what lies outside the subspace",
        clause="DMS-Q-013",
        resolved=signal("typicality", _given(deviations=lambda p: 0 * p["deviations"])),
    ),
    Mutant(
        name="not_centred",
        summary="whitens features without taking off the centre",
        clause="DMS-Q-013",
        resolved=signal("typicality", _given(center=lambda p: 0 * p["center"])),
    ),
    Mutant(
        name="low_side_ignored",
        summary="lets features be as close to a prototype as they like",
        clause="DMS-Q-013",
        resolved=signal("typicality", _given(band=_low_as_minus_infinity)),
    ),
    Mutant(
        name="high_side_ignored",
        summary="lets features be as far from every prototype as they like",
        clause="DMS-Q-013",
        resolved=signal("typicality", _given(band=_high_as_infinity)),
    ),
    Mutant(
        name="squared_distance",
        summary="takes the log of the squared distance",
        clause="DMS-Q-013",
        resolved=signal("typicality", _squared),
    ),
    Mutant(
        name="distance_without_log",
        summary="compares the distance with the band, not its logarithm",
        clause="DMS-Q-013",
        resolved=signal("typicality", _not_a_log),
    ),
    Mutant(
        name="not_relative_to_typical",
        summary="takes the log of the logistic curve, which is below 0 inside the band",
        clause="DMS-Q-013",
        resolved=signal("typicality", _costs(zero=False)),
    ),
    Mutant(
        name="loss_with_a_floor",
        summary="lets nothing lose more than a factor of a thousand",
        clause="DMS-Q-013",
        resolved=signal("typicality", _costs(most=7.0)),
    ),
    Mutant(
        name="steepness_and_onset_swapped",
        summary="takes the onset for the steepness, and the steepness for the onset",
        clause="DMS-Q-013",
        resolved=signal("typicality", _given(loss=lambda p: p["loss"][:, ::-1])),
    ),
    Mutant(
        name="silent_about_fitting",
        summary="says nothing where the parameters of typicality are missing",
        clause="DMS-Q-014",
        result=_without_notes,
    ),
)
