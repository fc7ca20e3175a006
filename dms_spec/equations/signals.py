"""Computes signals: how trustworthy does each modality look? One array function each, [B, M].

A signal is called with a `Namespace` and `Evidence` in which everything that is not active has
already been replaced by 0, so no equation here has to think about NaN, Inf or absence; what it
returns for an inactive modality is thrown away.
"""

from __future__ import annotations

from functools import partial
from math import log
from typing import Literal

from dms_spec.equations.namespace import Namespace
from dms_spec.equations.primitives import rescaled
from dms_spec.errors import SpecError
from dms_spec.interface.signal import Evidence, Signal
from dms_spec.types import Array


def confidence(ns: Namespace, evidence: Evidence, *, normalize: bool = True) -> Array:
    """c = 1 - H(p) / log C in [0, 1]; with ``normalize=False``, 1 - H(p) in [1 - log C, 1].

    Equation E2; DMS (arXiv 2506.12724) section 3.2. C = 1 gives 1.
    """
    xp = ns.xp
    h = evidence.statistic("entropy", ns.entropy)
    if not normalize:
        return 1.0 - h
    classes = evidence.count(ns, "logits", -1)
    # log 1 = 0: with one class H is 0 as well, and any positive divisor gives c = 1.
    largest = xp.maximum(xp.log(classes), ns.constant(0.5, h))
    return ns.clip(1.0 - h / largest, 0.0, 1.0)


def uncertainty(
    ns: Namespace, evidence: Evidence, *, reduction: Literal["mean", "sum"] = "mean"
) -> Array:
    """u = (1/C) sum_k Var_t p_k over the Monte-Carlo passes, or the sum over classes.

    Equation E3; DMS section 3.2, population variance (1/T). The mean shrinks like 1/C and says
    almost nothing for many classes; the sum lies in [0, 1 - 1/min(C, T)].
    """
    u = evidence.statistic("variance_over_passes", ns.variance_over_passes)
    return u / evidence.count(ns, "mc_logits", -1) if reduction == "mean" else u


def mutual_information(ns: Namespace, evidence: Evidence) -> Array:
    """I = H(mean_t p_t) - mean_t H(p_t) in nats, in [0, log C]: the epistemic part.

    Equation E8; Houlsby et al. 2011 (arXiv 1112.5745). Computed as the mean over passes of
    KL(p_t || mean p), which does not subtract two nearly equal entropies.
    """
    return evidence.statistic("mutual_information", partial(ns.mutual_information, ns))


def cosine(ns: Namespace, left: Array, right: Array) -> Array:
    """Cosine of the angle between vectors, over the last axis; 0 where either is zero.

    The axes before the last are broadcast.
    """
    return ns.cosine(rescaled(ns, left)[0], rescaled(ns, right)[0])


def alignment(ns: Namespace, evidence: Evidence) -> Array:
    """a_m = cos(h_m, mean of the other active h_n) in [-1, 1]; 0 when there are none.

    Equation E4; DMS section 3.2. With exactly two active it is the same number for both and
    cancels in the softmax: see `anchored_alignment`.
    """
    return evidence.statistic("alignment", partial(ns.alignment, ns))


def anchored_alignment(ns: Namespace, evidence: Evidence) -> Array:
    """a_m = cos(h_m, anchor) in [-1, 1]: agreement with something that is not another modality.

    The anchor is a parameter, ``[D]`` (one for all) or ``[M, D]`` (one each): a prototype, a
    running mean, the embedding of a query. Equation E9; dms-spec, clause DMS-Q-008, against the
    degeneracy of E4 with two modalities.
    """
    return cosine(ns, evidence.features, evidence.parameters["anchor"])


def agreement(ns: Namespace, evidence: Evidence) -> Array:
    """g_m = 1 - JS(p_m || mean of the other active p_n) / log 2 in [0, 1]; 0 with no others.

    Equation E10; Lin 1991 (Jensen-Shannon divergence). Alignment in the space of predictions, so
    it needs no common feature space. Symmetric: cancels with exactly two active.
    """
    p, q, defined = _with_others(ns, evidence)
    middle = 0.5 * (p + q)
    # Half of the smallest number above 0 is 0: such a class carries nothing.
    divergence = 0.5 * (_divergence(ns, p, middle) + _divergence(ns, q, middle))
    return ns.select(defined, ns.clip(1.0 - divergence / log(2.0), 0.0, 1.0))


def corroboration(ns: Namespace, evidence: Evidence) -> Array:
    """k_m = exp(-KL(p_m || (p_m + q_m) / 2)) in [1/2, 1], q_m the mean of the others; 0 without.

    It says how far the others support what m predicts. Equation E22; the first half of the
    divergence of E10 (Lin 1991). Two modalities do not get the same value: where they disagree,
    the surer one has more at stake and gets less.
    """
    p, q, defined = _with_others(ns, evidence)
    divergence = _divergence(ns, p, 0.5 * (p + q))
    return ns.select(defined, ns.clip(ns.xp.exp(-divergence), 0.5, 1.0))


def _with_others(ns: Namespace, evidence: Evidence) -> tuple[Array, Array, Array]:
    """p_m, the mean of the other active p_n, both [B, M, C], and where there are others."""
    xp = ns.xp
    p = ns.select(evidence.active, ns.softmax(evidence.logits))
    others = ns.others(p)
    count = xp.matmul(xp.astype(evidence.active, p.dtype), others)
    defined = count > 0
    q = xp.matmul(others, p) / xp.where(defined, count, ns.constant(1.0, count))[..., None]
    return p, q, defined


def _divergence(ns: Namespace, p: Array, q: Array) -> Array:
    """KL(p || q) over the last axis, over the classes that both have."""
    xp, one = ns.xp, ns.constant(1.0, p)
    there = (p > 0) & (q > 0)
    ratio = xp.where(there, p, one) / xp.where(there, q, one)
    return xp.sum(xp.where(there, p, ns.constant(0.0, p)) * xp.log(ratio), axis=-1)


def energy(ns: Namespace, evidence: Evidence, *, temperature: float = 1.0) -> Array:
    """e = tau log sum_k exp(l_k / tau): the negative free energy, unbounded; more is more trust.

    Equation E11; Liu et al. 2020 (arXiv 2010.03759). QMF weighs modalities by 0.1 of it.
    """
    if temperature <= 0:
        raise SpecError("the temperature of energy is not positive", got=str(temperature))
    return temperature * ns.logsumexp(evidence.logits / temperature)


SIGNALS: tuple[Signal, ...] = (
    Signal(
        name="confidence",
        function=confidence,
        needs=("logits",),
        direction=1,
        source="DMS, arXiv 2506.12724, section 3.2",
        equation="E2",
        statistics=("entropy",),
        bounds="[0, 1]; [1 - log C, 1] with normalize=False",
    ),
    Signal(
        name="uncertainty",
        function=uncertainty,
        needs=("mc_logits",),
        optional=True,
        direction=-1,
        source="DMS, arXiv 2506.12724, section 3.2",
        equation="E3",
        statistics=("variance_over_passes",),
        bounds="[0, 1/4] for the mean, [0, 1] for the sum",
    ),
    Signal(
        name="mutual_information",
        function=mutual_information,
        needs=("mc_logits",),
        statistics=("mutual_information",),
        optional=True,
        direction=-1,
        source="BALD, arXiv 1112.5745",
        equation="E8",
        bounds="[0, log C]",
    ),
    Signal(
        name="alignment",
        function=alignment,
        needs=("features",),
        direction=1,
        source="DMS, arXiv 2506.12724, section 3.2",
        equation="E4",
        statistics=("alignment",),
        bounds="[-1, 1]",
        cancels_with_two=True,
    ),
    Signal(
        name="anchored_alignment",
        function=anchored_alignment,
        needs=("features",),
        direction=1,
        source="dms-spec 2026.11, DMS-Q-008",
        equation="E9",
        bounds="[-1, 1]",
        parameters={"anchor": "D | M D"},
    ),
    Signal(
        name="agreement",
        function=agreement,
        needs=("logits",),
        direction=1,
        source="Lin 1991, IEEE Trans. Inf. Theory 37(1), 145-151",
        equation="E10",
        bounds="[0, 1]",
        cancels_with_two=True,
    ),
    Signal(
        name="corroboration",
        function=corroboration,
        needs=("logits",),
        direction=1,
        source="Lin 1991, IEEE Trans. Inf. Theory 37(1), 145-151 (half of its divergence)",
        equation="E22",
        bounds="[1/2, 1]; 0 with no others",
    ),
    Signal(
        name="energy",
        function=energy,
        needs=("logits",),
        direction=1,
        source="Liu et al. 2020, arXiv 2010.03759",
        equation="E11",
        bounds="unbounded",
    ),
)
