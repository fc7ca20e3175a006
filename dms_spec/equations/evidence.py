"""Fuses bounded evidence: what a modality says counts as far as it is sound, and no further.

With probability g_m modality m is sound, and its head's posterior is evidence; otherwise it says
nothing. So no modality can overrule the others by more than a bound, and one that contradicts them
is explained away. Everything is computed in logarithms.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import log, log1p

import numpy as np

from dms_spec.equations.learned import softplus, softplus_inverse
from dms_spec.equations.namespace import Namespace
from dms_spec.interface.policy import Floats, Policy, PolicyInput
from dms_spec.spec import SchedulerSpec
from dms_spec.types import Array

#: The parameters of the level by short name, with their axes; the full name is ``fusion.<name>``.
FUSION_PARAMETERS: Mapping[str, str] = {"prior": "C", "priors": "M C", "redundancy": ""}

#: The doubt and the redundancy of a scheduler that has not learned them.
DOUBT, REDUNDANCY = 0.1, 0.2

#: No modality is trusted beyond this doubt, so that what it says stays bounded.
LEAST_DOUBT = 1e-6

#: The log of the least ratio of a posterior to its prior: 0 in every dtype, and still a number.
LEAST_LOG_RATIO = -1e4


def soundness(ns: Namespace, given: PolicyInput) -> dict[str, Array]:
    """log g_m = log(1 - eps) + softplus(e_m) sum_j c_j x_jm: trust before anything is compared.

    The x_j are logs of trust, at most 0. Equation E23; dms-spec, clause DMS-L-010. Parameters
    ``doubt`` [], with eps = sigmoid(doubt), and ``exponent`` e ``[M]``; without them eps is .1 and
    every exponent 1. Terms: ``doubt``, and one for each coefficient.
    """
    p = given.evidence.parameters
    like = ns.xp.astype(given.evidence.active, given.evidence.dtype)
    certainty = -softplus(ns, p["doubt"]) if p else ns.constant(log1p(-DOUBT), like)
    exponent = softplus(ns, p["exponent"]) if p else ns.constant(1.0, like)
    # Selected, not broadcast to a shape: that of a traced batch is not known.
    terms = {"doubt": ns.xp.where(given.evidence.active, certainty, ns.constant(0.0, like))}
    return terms | {
        name: exponent * (coefficient * given.signals[name])
        for name, coefficient in given.coefficients.items()
    }


def fuse_evidence(
    ns: Namespace,
    logits: Array,
    log_trust: Array,
    active: Array,
    parameters: Mapping[str, Array],
) -> tuple[Array, Array]:
    """P(y) ~ pi(y) prod_m [1 - g_m + g_m p_m(y) / pi_m(y)]^kappa, and log r_m.

    r_m, the posterior soundness, is how far m was believed: the probability that m is sound, given
    what all of them say. Equations E24 and E25.

    Args:
        ns: The namespace to compute in.
        logits: ``[B, M, C]``, 0 where not active.
        log_trust: log g, ``[B, M]``; anything where not active.
        active: bool ``[B, M]``.
        parameters: ``prior`` [C], ``priors`` [M, C] and ``redundancy`` [], or none of them: then
            all classes are equally likely.

    Returns:
        P ``[B, C]``, rows summing to one, the prior where nothing is active; and log r ``[B, M]``,
        at most 0, which means nothing where not active.
    """
    log_g = bounded_trust(ns, ns.select(active, log_trust))
    said = log_ratios(ns, logits, parameters.get("priors"))
    kappa = discount(ns, log_g, active, parameters.get("redundancy"))
    return posterior(ns, said, log_g, active, log_prior(ns, parameters.get("prior")), kappa)


def bounded_trust(ns: Namespace, log_trust: Array) -> Array:
    """log g, with at least `LEAST_DOUBT` left."""
    return ns.xp.minimum(log_trust, ns.constant(log1p(-LEAST_DOUBT), log_trust))


def log_ratios(ns: Namespace, logits: Array, priors: Array | None) -> Array:
    """log p_m(y) / pi_m(y), [B, M, C]: what each modality says for or against each class.

    0, which is nothing, for a class that m has never seen (pi_m(y) = 0); p_m is the softmax over
    the others. All 0 where m rules out every class that it knows.
    """
    xp = ns.xp
    possible = logits > -float("inf")
    if priors is None:
        seen, log_prior = None, -xp.log(ns.count(logits, -1))
    else:
        seen = priors > 0
        log_prior = xp.log(xp.where(seen, priors, ns.constant(1.0, priors)))
        possible = possible & seen
    something = xp.any(possible, axis=-1)
    # A row of nothing but -inf has no softmax.
    held = ns.select(something, ns.filled(possible, logits, -float("inf")))
    least = ns.constant(LEAST_LOG_RATIO, logits)
    ratios = ns.select(something, xp.maximum(ns.log_softmax(held) - log_prior, least))
    return ratios if seen is None else ns.filled(seen, ratios, 0.0)


def discount(ns: Namespace, log_g: Array, active: Array, redundancy: Array | None) -> Array:
    """kappa = 1 / (1 + rho (n - 1)), [B, 1], with n = max(1, sum_m g_m) over what is active.

    Modalities repeat each other: n that say the same are worth less than n times one.
    """
    one = ns.constant(1.0, log_g)
    count = ns.xp.sum(ns.select(active, ns.xp.exp(log_g)), axis=-1, keepdims=True)
    rho = ns.constant(REDUNDANCY, log_g) if redundancy is None else softplus(ns, redundancy)
    return one / (one + rho * (ns.xp.maximum(count, one) - one))


def posterior(
    ns: Namespace, said: Array, log_g: Array, active: Array, log_prior: Array, kappa: Array
) -> tuple[Array, Array]:
    """The classes and the soundness given what was said: P [B, C] and log r [B, M]. E24, E25.

    Args:
        ns: The namespace to compute in.
        said: log p / pi, ``[B, M, C]``, finite.
        log_g: ``[B, M]``, below 0.
        active: bool ``[B, M]``.
        log_prior: ``[C]``, or 0 for equally likely classes; -inf where a class is impossible.
        kappa: ``[B, 1]``.
    """
    xp = ns.xp
    log_doubt = xp.log(-xp.expm1(log_g))[..., None]
    sound = log_g[..., None] + said
    factors = ns.logaddexp(log_doubt, sound)
    total = log_prior + kappa * xp.sum(ns.select(active, factors), axis=1)
    log_p = ns.log_softmax(total)
    log_r = ns.logsumexp(log_p[:, None, :] + (sound - factors))
    return xp.exp(log_p), xp.minimum(log_r, ns.constant(0.0, log_r))


def log_prior(ns: Namespace, prior: Array | None) -> Array | float:
    """log pi, -inf where it is 0; equally likely classes need none."""
    if prior is None:
        return 0.0
    possible, xp = prior > 0, ns.xp
    logs = xp.log(xp.where(possible, prior, ns.constant(1.0, prior)))
    return xp.where(possible, logs, ns.constant(-float("inf"), logs))


def _initial(spec: SchedulerSpec, sizes: Mapping[str, int], *, seed: int) -> dict[str, Floats]:
    """Gives what `soundness` is without parameters."""
    del spec, seed
    return {
        "doubt": np.asarray(log(DOUBT / (1 - DOUBT)), dtype=np.float32),
        "exponent": softplus_inverse(np.ones(sizes["M"])),
    }


POLICIES: tuple[Policy, ...] = (
    Policy(
        name="soundness",
        function=soundness,
        source="dms-spec 2026.11, DMS-L-010",
        equation="E23",
        uses_signals=True,
        log_trust=True,
        parameters={"doubt": "", "exponent": "M"},
        parameters_optional=True,
        initial=_initial,
    ),
)
