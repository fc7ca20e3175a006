"""TMC (Han et al., ICLR 2021, arXiv 2102.02051): evidence, opinions and how they are combined.

Logits give evidence ``e_k = softplus(l_k)``, evidence a Dirichlet of ``alpha = e + 1`` and an
opinion: belief ``b_k = e_k / S`` in each class and vacuity ``u = C / S``, ``S = sum alpha``.

Dempster's combination is not a weighted sum: `dempster_shafer` is the method itself, and the
policy ``tmc`` a reading of it that a weighted sum allows.
"""

from __future__ import annotations

from dataclasses import dataclass

from dms_spec.equations.namespace import Namespace
from dms_spec.equations.published.common import (
    check_axes,
    check_range,
    everything,
    is_true_class,
    mean_over,
    softplus,
)
from dms_spec.equations.published.special import digamma, log_gamma
from dms_spec.interface.policy import Policy, PolicyInput
from dms_spec.interface.signal import Evidence, Signal
from dms_spec.types import Array


def evidence_of(ns: Namespace, logits: Array) -> Array:
    """e = softplus(l) >= 0, of any shape; 0 for a class at -inf. TMC, section 3.1."""
    return softplus(ns, logits)


def vacuity(ns: Namespace, evidence: Evidence) -> Array:
    """u = C / (C + sum_k softplus(l_k)) in [0, 1]: what no evidence speaks for. Equation E33.

    TMC (arXiv 2102.02051), section 3.1, after Jøsang's subjective logic.
    """
    logits = evidence.logits
    share = ns.xp.sum(evidence_of(ns, logits), axis=-1) / ns.count(logits, -1)
    return 1.0 / (1.0 + share)


def tmc(ns: Namespace, given: PolicyInput) -> dict[str, Array]:
    """w_m = (1 - u_m) / sum_n (1 - u_n): as much as each opinion commits itself to.

    Equation E32; a reading of TMC (arXiv 2102.02051) as a weighted sum: ``1 - u`` is the mass
    that a modality's opinion puts on classes, and a vacuous one counts for nothing, as it does in
    `dempster_shafer`. The term is ``log(1 - u) = -log(1 + C / E)``, ``E = sum_k softplus(l_k)``,
    computed from ``log E``, which is finite where E is too small or too large for a number.
    """
    xp = ns.xp
    logits = given.evidence.logits
    zero, one = ns.constant(0.0, logits), ns.constant(1.0, logits)
    # log softplus(x) = x + log(log1p(t) / t), t = e^x, where x is negative: nothing underflows.
    down = logits < 0
    t = xp.exp(xp.where(down, logits, zero))
    tiny = t < ns.constant(float(xp.finfo(t.dtype).eps), t)  # there log1p(t) / t rounds to 1
    ratio = xp.where(tiny, one, xp.log1p(t) / xp.where(tiny, one, t))
    high = softplus(ns, xp.where(down, zero, logits))
    # A class at -inf stays at -inf, without an arithmetic that would lose its gradient.
    logs = xp.where(down, logits + xp.log(ratio), xp.log(high))
    return {"commitment": -softplus(ns, xp.log(ns.count(logits, -1)) - ns.logsumexp(logs))}


@dataclass(frozen=True, kw_only=True)
class Opinion:
    """What `dempster_shafer` returns.

    Attributes:
        belief: ``[B, C]``, 0 or more.
        vacuity: ``[B]``; with the beliefs it sums to one.
        evidence: ``[B, C]``: of the Dirichlet that the opinion stands for, ``C b / u``. Grows
            like a product over modalities, and is infinite where that leaves the dtype.
    """

    belief: Array
    vacuity: Array
    evidence: Array

    @property
    def probabilities(self) -> Array:
        """The mean of that Dirichlet, ``b_k + u / C``: ``[B, C]``, rows sum to one."""
        return self.belief + self.vacuity[..., None] / self.belief.shape[-1]


def dempster_shafer(ns: Namespace, evidence: Array, active: Array | None = None) -> Opinion:
    """The opinions of all active modalities combined by Dempster's rule.

    TMC (arXiv 2102.02051), Definition 4, which combines two opinions, one after the other::

        b_k = (b1_k b2_k + b1_k u2 + b2_k u1) / (1 - conflict),   u = u1 u2 / (1 - conflict)
        conflict = sum of b1_i b2_j over i != j

    Since ``b_k + u`` multiplies before the division, the result for any number has a closed form,
    in which the order does not matter and a vacuous opinion changes nothing::

        b_k / u = prod_m (1 + e_mk / C) - 1

    Args:
        ns: The namespace to compute in.
        evidence: e, floating ``[B, M, C]``, 0 or more and finite where active.
        active: bool ``[B, M]``; what is not active has no say, whatever stands there. None: all.

    Returns:
        One opinion for each sample; with nothing active it is vacuous (u = 1).

    Raises:
        ShapeError: Shapes disagree.
    """
    check_axes(evidence=(evidence, "B M C"), active=(active, "B M"))
    xp = ns.xp
    active = everything(ns, evidence, 2) if active is None else active
    e = ns.select(active, evidence)
    classes = ns.count(e, -1)
    logs = xp.sum(xp.log1p(e / classes), axis=1)  # log (b_k / u + 1)
    # Relative to the largest: the product leaves every dtype, the beliefs do not.
    peak = ns.stop_gradient(xp.max(logs, axis=-1, keepdims=True))
    mass = xp.exp(logs - peak) * -xp.expm1(-logs)
    rest = xp.exp(-peak)
    total = xp.sum(mass, axis=-1, keepdims=True) + rest
    return Opinion(
        belief=mass / total,
        vacuity=(rest / total)[..., 0],
        evidence=classes * xp.expm1(logs),
    )


def evidential_loss(
    ns: Namespace, evidence: Array, labels: Array, *, annealing: float = 1.0
) -> Array:
    """Cross-entropy averaged over the Dirichlet, and a penalty on evidence for other classes.

    TMC (arXiv 2102.02051), section 3.3, after Sensoy et al. 2018 (arXiv 1806.01768)::

        psi(S) - psi(alpha_y) + annealing KL(Dir(alpha~) || Dir(1)),  alpha~ = y + (1 - y) alpha

    Args:
        ns: The namespace to compute in.
        evidence: Floating ``[..., C]``, 0 or more and finite.
        labels: Integers ``[...]`` in [0, C).
        annealing: lambda_t in [0, 1]; TMC lets it grow as min(1, epoch / 10) or slower.

    Returns:
        ``[...]``, in nats.

    Raises:
        SpecError: ``annealing`` is out of range.
    """
    check_range("annealing", annealing, 0, 1)
    xp = ns.xp
    own = is_true_class(ns, labels, evidence)
    zero, one = ns.constant(0.0, evidence), ns.constant(1.0, evidence)
    alpha = evidence + 1.0
    expected = digamma(ns, xp.sum(alpha, axis=-1)) - digamma(
        ns, xp.sum(xp.where(own, alpha, zero), axis=-1)
    )
    others = xp.where(own, one, alpha)
    total = xp.sum(others, axis=-1)
    divergence = (
        log_gamma(ns, total)
        - log_gamma(ns, ns.count(evidence, -1))
        - xp.sum(log_gamma(ns, others), axis=-1)
        + xp.sum((others - 1.0) * (digamma(ns, others) - digamma(ns, total)[..., None]), axis=-1)
    )
    return expected + annealing * divergence


def tmc_loss(
    ns: Namespace,
    evidence: Array,
    labels: Array,
    *,
    active: Array | None = None,
    annealing: float = 1.0,
) -> Array:
    """`evidential_loss` of the combined opinion and of each active modality. TMC, section 3.3.

    Args:
        ns: The namespace to compute in.
        evidence: ``[B, M, C]``, as in `dempster_shafer`.
        labels: Integers ``[B]`` in [0, C).
        active: bool ``[B, M]``; None for all. What is not active has neither value nor gradient.
        annealing: As in `evidential_loss`.

    Returns:
        A scalar in nats: the mean over the samples with anything active, 0 if there are none.

    Raises:
        ShapeError: Shapes disagree.
        SpecError: ``annealing`` is out of range.
    """
    check_axes(evidence=(evidence, "B M C"), labels=(labels, "B"), active=(active, "B M"))
    xp = ns.xp
    active = everything(ns, evidence, 2) if active is None else active
    e = ns.select(active, evidence)
    each = evidential_loss(ns, e, labels[:, None], annealing=annealing)
    combined = evidential_loss(
        ns, dempster_shafer(ns, e, active).evidence, labels, annealing=annealing
    )
    loss = combined + xp.sum(xp.where(active, each, ns.constant(0.0, each)), axis=-1)
    return mean_over(ns, loss, xp.any(active, axis=-1))


POLICIES: tuple[Policy, ...] = (
    Policy(
        name="tmc",
        function=tmc,
        source="TMC, arXiv 2102.02051, section 3.1; the weights are a reading of dms-spec",
        equation="E32",
        needs=("logits",),
    ),
)

SIGNALS: tuple[Signal, ...] = (
    Signal(
        name="vacuity",
        function=vacuity,
        needs=("logits",),
        direction=-1,
        source="TMC, arXiv 2102.02051, section 3.1",
        equation="E33",
        bounds="[0, 1]",
    ),
)
