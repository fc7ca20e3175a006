"""Holds mutants that are right for round numbers, few signals and options as they mostly are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dms_spec.conformance.mutants.mutant import Call, Mutant, policy, primitives, signal
from dms_spec.engine.resolve import Resolved
from dms_spec.equations import learned, policies
from dms_spec.equations.namespace import Namespace
from dms_spec.equations.primitives import masked_softmax
from dms_spec.interface.policy import PolicyInput
from dms_spec.interface.signal import Evidence
from dms_spec.plugins import get_signal
from dms_spec.spec import SchedulerSpec
from dms_spec.types import Array, ModalityBatch, Schedule

_Values = NDArray[Any]


def _coefficients(change: Callable[[dict[str, float]], dict[str, float]]) -> Any:
    return lambda spec: spec.replace(coefficients=change(dict(spec.coefficients)))


def _each(change: Callable[[float], float]) -> Any:
    return _coefficients(lambda own: {name: change(value) for name, value in own.items()})


def _in_half(value: float) -> float:
    return float(np.float16(value)) if value < 6e4 else value


def _paired_in_order(spec: SchedulerSpec) -> SchedulerSpec:
    """Pairs coefficients with signals by their places."""
    weighed = [name for name in spec.signals if name in spec.coefficients]
    return spec.replace(coefficients=dict(zip(weighed, spec.coefficients.values(), strict=True)))


def _four_signals(own: dict[str, float]) -> dict[str, float]:
    return {name: value if k < 4 else 0.0 for k, (name, value) in enumerate(own.items())}


def _temperature(change: Callable[[float], float]) -> Any:
    def energy(ns: Namespace, evidence: Evidence, temperature: float = 1.0) -> Array:
        return get_signal("energy").function(ns, evidence, temperature=change(temperature))

    return signal("energy", energy)


def _units(count: int, function: Callable[..., Mapping[str, Array]]) -> Any:
    """Reads some hidden units of a network."""

    def wrong(ns: Namespace, given: PolicyInput, **options: Any) -> Mapping[str, Array]:
        own = dict(given.evidence.parameters)
        if "hidden_bias" in own:
            own["hidden_weight"] = own["hidden_weight"][:, :count]
            own["hidden_bias"] = own["hidden_bias"][:count]
            own["output_weight"] = own["output_weight"][:count]
        evidence = given.evidence.with_parameters(own)
        return function(ns, replace(given, evidence=evidence), **options)

    return wrong


def _root_of_three(ns: Namespace, given: PolicyInput, **options: Any) -> Mapping[str, Array]:
    own = dict(given.evidence.parameters)
    if "query" in own:
        width = own["query"].shape[1]
        own["query"] = own["query"] * np.sqrt(width / 3).astype(own["query"].dtype)
    evidence = given.evidence.with_parameters(own)
    return policies.co_attention(ns, replace(given, evidence=evidence), **options)


def _clipped_gap(scores: _Values, active: _Values) -> _Values:
    """Keeps scores within 60 of the largest, so that no weight is tiny."""
    peak = np.where(active, scores, -np.inf).max(axis=-1, keepdims=True)
    peak = np.where(np.isfinite(peak), peak, 0).astype(scores.dtype)
    near = np.maximum(scores, peak - 60)
    return np.asarray(masked_softmax(np, near, active))


def _parameters_in_half(resolved: Resolved) -> Resolved:
    own = {
        name: array.astype("f2").astype(array.dtype) if name == "policy.bias" else array
        for name, array in resolved.parameters.items()
    }
    return replace(resolved, parameters=own)


def _passes_do_not_widen(call: Call) -> Schedule:
    """Takes the computing dtype from features and logits alone."""
    batch = call.batch
    others = [a.dtype for a in (batch.features, batch.logits) if a is not None]
    if batch.mc_logits is None or np.float64 in others or batch.mc_logits.dtype != np.float64:
        return call.schedule(batch)
    return call.schedule(replace(batch, mc_logits=batch.mc_logits.astype("f4")))


def _log_of_zero(ns: Namespace, evidence: Evidence, **options: Any) -> Array:
    """Gives no number where features are exactly a prototype."""
    value = np.asarray(get_signal("typicality").function(ns, evidence, **options))
    own = evidence.parameters
    if not own or own["whitening"].ndim != 3:
        return value
    y = np.einsum("bmd,mdr->bmr", evidence.features - own["center"], own["whitening"])
    apart = np.abs(y[:, :, None] - own["prototypes"]).max(axis=-1).min(axis=-1)
    return np.where((apart == 0) & evidence.active, np.nan, value).astype(value.dtype)


def _narrow_with_mixed(result: Schedule, batch: ModalityBatch, spec: SchedulerSpec) -> Schedule:
    """Fuses in the dtype of the passes where dtypes differ."""
    if batch.mc_logits is None or batch.features is None:
        return result
    if batch.mc_logits.dtype.itemsize >= batch.features.dtype.itemsize:
        return result
    return replace(result, fused=result.fused.astype(batch.mc_logits.dtype))


_EXACT = "DMS-N-001"

MUTANTS = (
    Mutant(
        name="coefficients_in_half",
        summary="keeps coefficients in half precision",
        clause="DMS-L-003",
        kind="numbers drawn",
        spec=_each(_in_half),
    ),
    Mutant(
        name="coefficients_rounded",
        summary="rounds coefficients to tenths",
        clause="DMS-L-003",
        kind="numbers drawn",
        spec=_each(lambda value: round(value, 1)),
    ),
    Mutant(
        name="coefficients_limited",
        summary="takes coefficients above 5 for 5",
        clause="DMS-L-003",
        kind="numbers drawn",
        spec=_each(lambda value: min(value, 5.0)),
    ),
    Mutant(
        name="paired_in_order",
        summary="pairs coefficients with signals by their places, not by their names",
        clause="DMS-L-003",
        kind="numbers drawn",
        spec=_paired_in_order,
    ),
    Mutant(
        name="four_signals",
        summary="weighs no more than four signals",
        clause="DMS-L-003",
        kind="numbers drawn",
        spec=_coefficients(_four_signals),
    ),
    Mutant(
        name="temperature_in_tenths",
        summary="rounds the temperature of energy to halves",
        clause="DMS-Q-010",
        kind="numbers drawn",
        resolved=_temperature(lambda t: max(0.5, round(2 * t) / 2)),
    ),
    Mutant(
        name="temperature_limited",
        summary="takes temperatures above 3 for 3",
        clause="DMS-Q-010",
        kind="numbers drawn",
        resolved=_temperature(lambda t: min(t, 3.0)),
    ),
    Mutant(
        name="eight_units",
        summary="reads eight hidden units of a network",
        clause="DMS-L-008",
        kind="numbers drawn",
        resolved=policy("residual_mlp", _units(8, learned.residual_mlp)),
    ),
    Mutant(
        name="three_units",
        summary="reads three hidden units of a monotone network",
        clause="DMS-L-009",
        kind="numbers drawn",
        resolved=policy("monotone", _units(3, learned.monotone)),
    ),
    Mutant(
        name="root_of_three",
        summary="divides attention by the root of three, whatever the width of queries",
        clause="DMS-L-005",
        kind="numbers drawn",
        resolved=policy("co_attention", _root_of_three),
    ),
    Mutant(
        name="gap_clipped",
        summary="lets no score be more than 60 below the largest",
        clause="DMS-L-002",
        kind="numbers drawn",
        namespace=primitives(masked_softmax=_clipped_gap),
    ),
    Mutant(
        name="bias_in_half",
        summary="keeps a bias in half precision",
        clause="DMS-L-002",
        kind="numbers drawn",
        resolved=_parameters_in_half,
    ),
    Mutant(
        name="passes_do_not_widen",
        summary="takes the computing dtype from features and logits alone",
        clause="DMS-S-002",
        kind="numbers drawn",
        dtype="float64",
        around=_passes_do_not_widen,
    ),
    Mutant(
        name="fused_as_the_passes",
        summary="returns fused in the dtype of the passes where they are narrower",
        clause="DMS-S-003",
        kind="numbers drawn",
        result=_narrow_with_mixed,
    ),
    Mutant(
        name="nothing_at_a_prototype",
        summary="gives no typicality where features are exactly a prototype",
        clause="DMS-Q-013",
        kind="numbers drawn",
        resolved=signal("typicality", _log_of_zero),
    ),
)
