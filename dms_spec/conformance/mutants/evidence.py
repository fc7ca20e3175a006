"""Holds mutants that are wrong about fusion of evidence: what is said, and how it is trusted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dms_spec.conformance.mutants.mutant import Call, Mutant, policy
from dms_spec.equations import evidence as right
from dms_spec.equations.namespace import Namespace
from dms_spec.interface.policy import PolicyInput
from dms_spec.plugins import get_backend
from dms_spec.spec import SchedulerSpec
from dms_spec.types import Array, ModalityBatch, Schedule

_Values = NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class _Level:
    """Holds the level in pieces, each of which may be wrong.

    Attributes:
        logits: ``[B, M, C]``, 0 where not active.
        active: bool ``[B, M]``.
        log_g: ``[B, M]``, what would be there of an absent modality included.
        parameters: Those of the level, by short name.
    """

    ns: Namespace
    logits: _Values
    active: _Values
    log_g: _Values
    parameters: Mapping[str, _Values]

    def said(self) -> _Values:
        return np.asarray(right.log_ratios(self.ns, self.logits, self.parameters.get("priors")))

    def kappa(self, active: _Values | None = None, log_g: _Values | None = None) -> _Values:
        redundancy = self.parameters.get("redundancy")
        active = self.active if active is None else active
        log_g = self.log_g if log_g is None else log_g
        return np.asarray(right.discount(self.ns, log_g, active, redundancy))

    def log_prior(self) -> Any:
        return right.log_prior(self.ns, self.parameters.get("prior"))


_Piece = Callable[[_Level], Any]


def _level(
    *,
    least_doubt: bool = True,
    said: _Piece = _Level.said,
    kappa: _Piece = _Level.kappa,
    log_prior: _Piece = _Level.log_prior,
    result: Callable[[Schedule, _Level], Schedule] | None = None,
) -> Callable[[Call], Schedule]:
    """Builds a schedule whose level has other pieces, or whose result is changed."""

    def around(call: Call) -> Schedule:
        found = call.schedule(call.batch)
        if call.spec.fusion != "evidence":
            return found
        dtype = found.weights.dtype
        logits = np.where(found.active[..., None], call.batch.logits, 0).astype(dtype)
        own = {k.removeprefix("fusion."): v for k, v in call.parameters.items() if "fusion." in k}
        doubt = found.terms["doubt"].max(initial=-np.inf)
        scores = np.where(found.active, found.scores, doubt).astype(dtype)
        ns = get_backend("numpy").namespace("cpu")  # type: ignore[attr-defined]
        level = _Level(
            ns=ns,
            logits=logits,
            active=found.active,
            log_g=right.bounded_trust(ns, scores) if least_doubt else np.minimum(scores, -1e-30),
            parameters={name: array.astype(dtype) for name, array in own.items()},
        )
        if result is not None:
            return result(found, level)
        p, log_r = right.posterior(
            ns, said(level), level.log_g, level.active, log_prior(level), kappa(level)
        )
        return _put(found, p, log_r, level)

    return around


def _put(found: Schedule, p: _Values, log_r: _Values, level: _Level) -> Schedule:
    something = level.active.any(axis=1, keepdims=True)
    return replace(
        found,
        fused=np.where(something, p, 0).astype(found.fused.dtype),
        soundness=np.where(level.active, np.exp(log_r), 0).astype(log_r.dtype),
        weights=level.ns.masked_softmax(log_r, level.active),
    )


# ---------------------------------------------------------------------------------- what is said


def _prior_left_in(level: _Level) -> _Values:
    return np.asarray(np.maximum(level.ns.log_softmax(level.logits), np.float32(-1e4)))


def _one_prior(level: _Level) -> _Values:
    prior = level.parameters.get("prior")
    priors = None if prior is None else np.broadcast_to(prior, level.logits.shape[1:])
    return np.asarray(right.log_ratios(level.ns, level.logits, priors))


def _unseen_in_softmax(level: _Level) -> _Values:
    priors = level.parameters.get("priors")
    if priors is None:
        return level.said()
    logs = np.log(np.where(priors > 0, priors, 1))
    whole = np.maximum(level.ns.log_softmax(level.logits) - logs, np.float32(-1e4))
    return np.where(priors > 0, whole, 0).astype(level.logits.dtype)


def _unseen_ruled_out(level: _Level) -> _Values:
    priors = level.parameters.get("priors")
    said = level.said()
    return said if priors is None else np.where(priors > 0, said, -1e4).astype(said.dtype)


# ------------------------------------------------------------------------------ how far it counts


def _count_of_active(level: _Level) -> _Values:
    return level.kappa(log_g=np.zeros_like(level.log_g))


def _absent_counted(level: _Level) -> _Values:
    return level.kappa(active=np.ones_like(level.active))


def _no_redundancy(level: _Level) -> _Values:
    return np.ones_like(level.kappa())


def _no_redundancy_unless_fitted(level: _Level) -> _Values:
    return level.kappa() if level.parameters else np.ones_like(level.kappa())


def _mean_over_modalities(level: _Level) -> _Values:
    return np.full_like(level.kappa(), 1 / level.active.shape[1])


# --------------------------------------------------------------------------- what is made of it


def _unbounded(found: Schedule, level: _Level) -> Schedule:
    """Takes trust for an exponent: p^g has no bound."""
    g = np.where(level.active, np.exp(level.log_g), 0)[..., None]
    total = level.log_prior() + level.kappa() * (g * level.said()).sum(axis=1)
    p = level.ns.softmax(total)
    something = level.active.any(axis=1, keepdims=True)
    return replace(found, fused=np.where(something, p, 0).astype(found.fused.dtype))


def _soundness_of_likeliest(found: Schedule, level: _Level) -> Schedule:
    sound = level.log_g[..., None] + level.said()
    h = np.exp(sound - np.logaddexp(np.log(-np.expm1(level.log_g))[..., None], sound))
    top = found.fused.astype(np.float64).argmax(axis=1)
    own = h[np.arange(len(top)), :, top]
    return replace(found, soundness=np.where(level.active, own, 0).astype(h.dtype))


def _weights_from_numbers(found: Schedule, level: _Level) -> Schedule:
    """Leaves logarithms too early, so that small weights are gone."""
    total = found.soundness.sum(axis=1, keepdims=True)
    return replace(found, weights=found.soundness / np.where(total > 0, total, total.dtype.type(1)))


def _gain(found: Schedule, level: _Level) -> Schedule:
    log_r = np.log(np.maximum(found.soundness, np.finfo(found.soundness.dtype).tiny))
    return replace(found, weights=level.ns.masked_softmax(log_r - level.log_g, level.active))


def _soundness_everywhere(result: Schedule, batch: ModalityBatch, spec: SchedulerSpec) -> Schedule:
    if result.soundness is not None or spec.policy != "soundness":
        return result
    return replace(result, soundness=np.exp(result.scores))


def _without_notes(result: Schedule, batch: ModalityBatch, spec: SchedulerSpec) -> Schedule:
    return replace(result, notes=())


# -------------------------------------------------------------------------------------- the policy


def _policy(**changes: Callable[[Mapping[str, _Values]], _Values]) -> Any:
    """Replaces some parameters of the policy, where it has any."""

    def function(ns: Namespace, given: PolicyInput) -> Mapping[str, Array]:
        own = given.evidence.parameters
        if not own:
            return right.soundness(ns, given)
        made = {name: np.asarray(make(own), own[name].dtype) for name, make in changes.items()}
        evidence = given.evidence.with_parameters({**own, **made})
        return right.soundness(ns, replace(given, evidence=evidence))

    return policy("soundness", function)


def _softplus_inverse(value: _Values) -> _Values:
    return np.log(np.expm1(np.maximum(value, 1e-6)))


def _beyond_doubt(ns: Namespace, given: PolicyInput) -> Mapping[str, Array]:
    terms = dict(right.soundness(ns, given))
    return terms | {"doubt": 0 * terms["doubt"]}


def _ranks_as_trust(spec: SchedulerSpec) -> SchedulerSpec:
    wrong = spec.fusion == "evidence" and spec.policy != "soundness"
    return spec.replace(fusion="probability") if wrong else spec


def _any_signal_as_trust(spec: SchedulerSpec) -> SchedulerSpec:
    if spec.policy != "soundness":
        return spec
    return spec.replace(coefficients={k: v for k, v in spec.coefficients.items() if "typ" in k})


MUTANTS = (
    Mutant(
        name="exponent_as_it_is",
        summary="takes a modality's exponent of trust without softplus",
        clause="DMS-L-010",
        resolved=_policy(exponent=lambda p: _softplus_inverse(np.abs(p["exponent"]))),
    ),
    Mutant(
        name="one_exponent",
        summary="takes the first modality's exponent of trust for all",
        clause="DMS-L-010",
        resolved=_policy(exponent=lambda p: np.full_like(p["exponent"], p["exponent"][0])),
    ),
    Mutant(
        name="doubt_as_trust",
        summary="takes the doubt for the trust that it leaves",
        clause="DMS-L-010",
        resolved=_policy(doubt=lambda p: -p["doubt"]),
    ),
    Mutant(
        name="beyond_doubt",
        summary="forgets the doubt that is left of every modality",
        clause="DMS-L-010",
        resolved=policy("soundness", _beyond_doubt),
    ),
    Mutant(
        name="ranks_as_trust",
        summary="fuses evidence under a policy that only ranks, instead of refusing",
        clause="DMS-L-011",
        spec=_ranks_as_trust,
    ),
    Mutant(
        name="any_signal_as_trust",
        summary="drops the coefficient of a signal that is no log of trust, instead of refusing",
        clause="DMS-L-011",
        spec=_any_signal_as_trust,
    ),
    Mutant(
        name="prior_left_in",
        summary="takes a head's posterior for evidence without taking the prior out",
        clause="DMS-F-005",
        around=_level(said=_prior_left_in),
    ),
    Mutant(
        name="one_prior",
        summary="takes the prior of all rows out of each head, not that of the head's own rows",
        clause="DMS-F-005",
        around=_level(said=_one_prior),
    ),
    Mutant(
        name="prior_forgotten",
        summary="puts no prior back after taking it out of every head",
        clause="DMS-F-005",
        around=_level(log_prior=lambda level: 0.0),
    ),
    Mutant(
        name="no_redundancy",
        summary="counts modalities that repeat each other in full",
        clause="DMS-F-005",
        around=_level(kappa=_no_redundancy),
    ),
    Mutant(
        name="count_of_active",
        summary="discounts by the number of active modalities, not by their summed trust",
        clause="DMS-F-005",
        around=_level(kappa=_count_of_active),
    ),
    Mutant(
        name="unseen_ruled_out",
        summary="lets a modality rule out a class that it has never seen",
        clause="DMS-F-005",
        around=_level(said=_unseen_ruled_out),
    ),
    Mutant(
        name="no_least_doubt",
        summary="trusts a modality without any doubt where a doubt underflows",
        clause="DMS-F-005",
        dtype="float64",
        around=_level(least_doubt=False),
    ),
    Mutant(
        name="trust_for_soundness",
        summary="returns the trust before anything was compared as the soundness",
        clause="DMS-F-006",
        around=_level(
            result=lambda found, level: replace(
                found, soundness=np.where(level.active, np.exp(level.log_g), 0)
            )
        ),
    ),
    Mutant(
        name="soundness_of_likeliest",
        summary="takes the soundness at the likeliest class, not its mean over classes",
        clause="DMS-F-006",
        around=_level(result=_soundness_of_likeliest),
    ),
    Mutant(
        name="soundness_shared",
        summary="returns the weights as the soundness",
        clause="DMS-F-006",
        around=_level(result=lambda found, level: replace(found, soundness=found.weights)),
    ),
    Mutant(
        name="soundness_everywhere",
        summary="returns a soundness at levels that have none",
        clause="DMS-F-006",
        result=_soundness_everywhere,
    ),
    Mutant(
        name="weights_of_trust",
        summary="weighs by trust before anything was compared",
        clause="DMS-F-007",
        around=_level(
            result=lambda found, level: replace(
                found, weights=level.ns.masked_softmax(level.log_g, level.active)
            )
        ),
    ),
    Mutant(
        name="weights_from_numbers",
        summary="divides soundness as numbers, which underflow, not as logarithms",
        clause="DMS-F-007",
        around=_level(result=_weights_from_numbers),
    ),
    Mutant(
        name="trust_as_exponent",
        summary="raises each posterior to its trust, so that one modality overrules all",
        clause="DMS-F-008",
        around=_level(result=_unbounded),
    ),
    Mutant(
        name="unseen_in_softmax",
        summary="lets a class that a modality has never seen take a share of its softmax",
        clause="DMS-F-009",
        around=_level(said=_unseen_in_softmax),
    ),
    Mutant(
        name="weights_of_gain",
        summary="weighs by how far soundness exceeds trust, which falls as trust rises",
        clause="DMS-F-010",
        around=_level(result=_gain),
    ),
    Mutant(
        name="silent_about_classes",
        summary="does not say that classes count as equally likely for want of parameters",
        clause="DMS-F-011",
        result=_without_notes,
    ),
    Mutant(
        name="no_redundancy_unless_fitted",
        summary="without parameters counts modalities that repeat each other in full",
        clause="DMS-F-011",
        around=_level(kappa=_no_redundancy_unless_fitted),
    ),
    Mutant(
        name="absent_is_redundant",
        summary="counts absent modalities among those that repeat each other",
        clause="DMS-F-012",
        around=_level(kappa=_absent_counted),
    ),
    Mutant(
        name="mean_over_modalities",
        summary="averages evidence over all modalities, absent ones included",
        clause="DMS-F-012",
        around=_level(kappa=_mean_over_modalities),
    ),
)
