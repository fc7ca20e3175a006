"""Learns the scores: the rule, with parameters in place of its numbers.

The DMS paper (arXiv 2506.12724) says "learnable" and no more, so these are three readings of it.
Each starts at the rule of the spec's coefficients, or next to it.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from dms_spec.equations.namespace import Namespace
from dms_spec.equations.policies import linear
from dms_spec.errors import SpecError
from dms_spec.interface.policy import Floats, Policy, PolicyInput
from dms_spec.spec import SchedulerSpec
from dms_spec.types import Array


def softplus(ns: Namespace, values: Array) -> Array:
    """log(1 + e^x): positive, and smooth everywhere."""
    return ns.xp.logaddexp(values, ns.constant(0.0, values))


def _towards_trust(given: PolicyInput) -> dict[str, Array]:
    """Each weighed signal, turned so that more is more trust."""
    return {name: given.directions[name] * given.signals[name] for name in given.coefficients}


def _learned_terms(ns: Namespace, given: PolicyInput) -> dict[str, Array]:
    """One term for each coefficient, with softplus(theta) in place of the spec's number."""
    coefficients = softplus(ns, given.evidence.parameters["theta"])
    return {
        name: coefficients[k] * signal
        for k, (name, signal) in enumerate(_towards_trust(given).items())
    }


def learned_linear(ns: Namespace, given: PolicyInput) -> dict[str, Array]:
    """s = sum_j softplus(theta_j) d_j x_j + b_m: `linear` with coefficients that are learned.

    Equation E16. Parameters ``theta`` ``[K]``, in the order of the spec's coefficients, and
    ``bias`` ``[M]``. It starts at the rule.
    """
    bias = given.evidence.parameters["bias"]
    own = ns.xp.where(given.evidence.active, bias, ns.constant(0.0, bias))
    return _learned_terms(ns, given) | {"bias": own}


def residual_mlp(ns: Namespace, given: PolicyInput, *, hidden: int = 16) -> dict[str, Array]:
    """s = rule + v . tanh(W^T y + c), one small network shared by all modalities.

    Equation E17. Parameters ``theta`` ``[K]``, ``hidden_weight`` ``[K, H]``, ``hidden_bias``
    ``[H]`` and ``output_weight`` ``[H]``, which starts at 0, and with it the policy at the rule.
    Shared, so that the order of the modalities does not matter.
    """
    del hidden  # read where learning starts; here the parameters say the size
    xp, p = ns.xp, given.evidence.parameters
    y = xp.stack(list(_towards_trust(given).values()), axis=-1)
    units = xp.tanh(xp.matmul(y, p["hidden_weight"]) + p["hidden_bias"])
    return _learned_terms(ns, given) | {"residual": xp.matmul(units, p["output_weight"])}


def monotone(ns: Namespace, given: PolicyInput, *, hidden: int = 16) -> dict[str, Array]:
    """s = rule + softplus(v) . tanh(softplus(W)^T y + c), y turned so that more is more trust.

    Equation E18; Sill 1997 (monotonic networks). Every factor on the way from a signal to the
    score is positive and tanh rises, so a modality's weight cannot fall when one of its own
    signals says that it is better, whatever is learned. Parameters as in `residual_mlp`; without
    any it is `linear`.
    """
    del hidden
    xp, p = ns.xp, given.evidence.parameters
    if not p:
        return linear(ns, given)
    y = xp.stack(list(_towards_trust(given).values()), axis=-1)
    units = xp.tanh(xp.matmul(y, softplus(ns, p["hidden_weight"])) + p["hidden_bias"])
    rising = xp.matmul(units, softplus(ns, p["output_weight"]))
    return _learned_terms(ns, given) | {"rising": rising}


def softplus_inverse(values: NDArray[np.float64]) -> Floats:
    """The x of softplus(x) = value, in the form that does not lose small values."""
    return np.asarray(values + np.log(-np.expm1(-values)), dtype=np.float32)


def _initial_theta(spec: SchedulerSpec) -> dict[str, Floats]:
    values = np.array(list(spec.coefficients.values()), dtype=np.float64)
    if not len(values) or not (values > 0).all():
        raise SpecError(
            f"policy {spec.policy!r} has no rule to start from",
            expected="at least one coefficient, each above 0",
            got=str(dict(spec.coefficients)),
            fix="Learning cannot leave a coefficient of 0. Leave the signal out instead.",
        )
    return {"theta": softplus_inverse(values)}


def _initial_linear(
    spec: SchedulerSpec, sizes: Mapping[str, int], *, seed: int
) -> dict[str, Floats]:
    del seed
    return _initial_theta(spec) | {"bias": np.zeros(sizes["M"], dtype=np.float32)}


def _initial_network(
    spec: SchedulerSpec, sizes: Mapping[str, int], *, seed: int, hidden: int = 16
) -> dict[str, Floats]:
    random = np.random.Generator(np.random.Philox(seed))
    # A softplus has no 0: the monotone one starts with about 0.0025 for each unit.
    start = -6.0 if spec.policy == "monotone" else 0.0
    return _initial_theta(spec) | {
        "hidden_weight": np.asarray(random.normal(size=(sizes["K"], hidden)), dtype=np.float32),
        "hidden_bias": np.asarray(random.normal(size=hidden), dtype=np.float32),
        "output_weight": np.full(hidden, start, dtype=np.float32),
    }


_READING = "DMS, arXiv 2506.12724 (it says learnable; a reading of dms-spec)"
_NETWORK = {"theta": "K", "hidden_weight": "K h", "hidden_bias": "h", "output_weight": "h"}

POLICIES: tuple[Policy, ...] = (
    Policy(
        name="learned_linear",
        function=learned_linear,
        source=_READING,
        equation="E16",
        uses_signals=True,
        parameters={"theta": "K", "bias": "M"},
        initial=_initial_linear,
    ),
    Policy(
        name="residual_mlp",
        function=residual_mlp,
        source=_READING,
        equation="E17",
        uses_signals=True,
        parameters=_NETWORK,
        initial=_initial_network,
    ),
    Policy(
        name="monotone",
        function=monotone,
        source="dms-spec 2026.11, DMS-L-009",
        equation="E18",
        uses_signals=True,
        parameters=_NETWORK,
        parameters_optional=True,
        initial=_initial_network,
    ),
)
