"""Holds mutants that are wrong about policies that learn."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from dms_spec.conformance.mutants.mutant import Mutant, library, policy
from dms_spec.engine.resolve import Resolved
from dms_spec.equations import learned as right
from dms_spec.equations.namespace import Namespace
from dms_spec.interface.policy import PolicyInput
from dms_spec.types import Array

_Policy = Callable[..., Mapping[str, Array]]


def _library_of(function: _Policy, **functions: Callable[..., Array]) -> _Policy:
    """Replaces some functions of the library that a policy computes with."""
    patch = library(**functions)
    return lambda ns, given, **options: function(patch(ns), given, **options)


def _undirected(function: _Policy) -> _Policy:
    def wrong(ns: Namespace, given: PolicyInput, **options: Any) -> Mapping[str, Array]:
        return function(ns, replace(given, directions=dict.fromkeys(given.directions, 1)))

    return wrong


def _without(function: _Policy, *names: str) -> _Policy:
    """Reads some parameters of a policy as zeros."""

    def wrong(ns: Namespace, given: PolicyInput, **options: Any) -> Mapping[str, Array]:
        own = {
            name: value * 0 if name in names else value
            for name, value in given.evidence.parameters.items()
        }
        return function(ns, replace(given, evidence=given.evidence.with_parameters(own)))

    return wrong


def _free_inside(ns: Namespace, given: PolicyInput, *, hidden: int = 16) -> Mapping[str, Array]:
    p = given.evidence.parameters
    terms = dict(right.monotone(ns, given))
    y = np.stack([given.directions[n] * given.signals[n] for n in given.coefficients], axis=-1)
    units = np.tanh(y @ p["hidden_weight"] + p["hidden_bias"])
    return terms | {"rising": units @ np.logaddexp(p["output_weight"], 0)}


def _alphabetical(resolved: Resolved) -> Resolved:
    names = list(resolved.spec.coefficients)
    if "policy.theta" not in resolved.parameters:
        return resolved
    order = [sorted(names).index(name) for name in names]
    theta = resolved.parameters["policy.theta"][order]
    return replace(resolved, parameters={**resolved.parameters, "policy.theta": theta})


def _transposed(resolved: Resolved) -> Resolved:
    own = dict(resolved.parameters)
    for name in ("policy.query", "policy.key"):
        if name in own:
            own[name] = own[name].T.reshape(own[name].shape)
    return replace(resolved, parameters=own)


MUTANTS = (
    Mutant(
        name="softplus_forgotten",
        summary="takes theta for the coefficient itself",
        clause="DMS-L-007",
        resolved=policy(
            "learned_linear", _library_of(right.learned_linear, logaddexp=lambda x, zero: x)
        ),
    ),
    Mutant(
        name="exponential_coefficients",
        summary="takes exp(theta) for softplus(theta)",
        clause="DMS-L-007",
        resolved=policy(
            "learned_linear",
            _library_of(right.learned_linear, logaddexp=lambda x, zero: np.exp(x)),
        ),
    ),
    Mutant(
        name="theta_alphabetical",
        summary="reads theta in the alphabetical order of the signals",
        clause="DMS-L-007",
        resolved=_alphabetical,
    ),
    Mutant(
        name="learned_bias_ignored",
        summary="drops the bias of each modality",
        clause="DMS-L-007",
        resolved=policy("learned_linear", _without(right.learned_linear, "bias")),
    ),
    Mutant(
        name="direction_forgotten",
        summary="gives the network signals as they are, not turned towards trust",
        clause="DMS-L-008",
        resolved=policy("residual_mlp", _undirected(right.residual_mlp)),
    ),
    Mutant(
        name="relu",
        summary="takes a ReLU for tanh",
        clause="DMS-L-008",
        resolved=policy(
            "residual_mlp", _library_of(right.residual_mlp, tanh=lambda x: np.maximum(x, 0))
        ),
    ),
    Mutant(
        name="hidden_bias_ignored",
        summary="drops the bias of the hidden units",
        clause="DMS-L-008",
        resolved=policy("residual_mlp", _without(right.residual_mlp, "hidden_bias")),
    ),
    Mutant(
        name="free_signs",
        summary="leaves the signs inside the monotone network free",
        clause="DMS-L-009",
        resolved=policy("monotone", _free_inside),
    ),
    Mutant(
        name="read_transposed",
        summary="reads matrices of parameters in the other library's layout",
        clause="DMS-X-007",
        resolved=_transposed,
    ),
)
