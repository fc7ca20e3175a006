"""QMF (Zhang et al., ICML 2023, arXiv 2306.02050): energies as weights, ranked by history."""

from __future__ import annotations

from math import log
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from dms_spec.equations.namespace import Namespace
from dms_spec.equations.published.common import check_axes, check_range, everything, mean_over
from dms_spec.errors import SpecError
from dms_spec.interface.policy import Policy, PolicyInput
from dms_spec.types import Array, Schedule

#: The forms of `history_ranking`.
Form = Literal["paper", "released"]

#: `qmf` takes energies below it for this number.
FLOOR = 1e-3


def qmf(
    ns: Namespace, given: PolicyInput, *, floor: float = FLOOR, detach: bool = False
) -> dict[str, Array]:
    """w_m = max(e_m, floor) / sum_n max(e_n, floor), e = log sum_k exp(l_k). Equation E31.

    QMF (arXiv 2306.02050), for fusion at level ``"logit"``: it sums ``0.1 e_m l_m``
    without dividing by the sum. Weights here lie on the simplex, so that the fused logits are
    QMF's divided by ``sum_n 0.1 e_n``. Where every energy is above the floor, that is a positive
    number of the sample: the same class is predicted; how sure the prediction is differs, and 0.1
    cancels.

    An energy can be 0 or less: that of log-probabilities is 0, that of logits far below 0 is
    negative. A negative weight would count a modality against what it says, and log 0 is no score
    (DMS-W-008): energies are held above ``floor``, which has no counterpart in QMF. At or below
    it a modality keeps that much, and no gradient; another class than QMF's may be predicted, and
    `at_the_floor` makes a note of it.

    The term is ``log max(e, floor)``. Gradients go through the energies, as in QMF's code;
    ``detach`` keeps them out, as the spec's ``detach_signals`` does for signals.

    Raises:
        SpecError: The floor is not positive.
    """
    if not 0 < floor < float("inf"):
        raise SpecError("the floor of qmf is not positive", expected="above 0", got=str(floor))
    energy = ns.logsumexp(given.evidence.logits)
    energy = ns.stop_gradient(energy) if detach else energy
    return {"energy": ns.xp.log(ns.xp.maximum(energy, ns.constant(floor, energy)))}


def at_the_floor(
    ns: Namespace, result: Schedule, *, floor: float = FLOOR, detach: bool = False
) -> tuple[str, ...]:
    """Notes where `qmf` weighs by its floor and not by energies.

    A sample with one active modality is left out: its weight is 1 whatever its energy.

    Args:
        ns: The namespace of the result's arrays.
        result: A schedule of `qmf`, with the term ``energy``.
        floor: As in `qmf`.
        detach: As in `qmf`; changes nothing here.

    Returns:
        A note if the floor holds every energy of some sample, and another if it holds some
        energies of a sample and not all.
    """
    del detach
    xp, energy = ns.xp, result.terms["energy"]
    # Round-off of log: a term this close is the floor's.
    slack = 8 * float(xp.finfo(energy.dtype).eps) * max(1.0, abs(log(floor)))
    held = result.active & (energy <= log(floor) + slack)
    several = xp.sum(xp.astype(result.active, xp.int32), axis=-1) > 1
    every = several & xp.all(held | ~result.active, axis=-1)
    some = several & ~every & xp.any(held, axis=-1)
    notes = []
    if bool(xp.any(every)):
        notes.append(
            f"policy 'qmf': in some samples every energy is at or below the floor {floor:g}, and "
            "the weights are equal; the energy of log-probabilities is 0: give raw logits"
        )
    if bool(xp.any(some)):
        notes.append(
            f"policy 'qmf': in some samples some energies are at or below the floor {floor:g}; "
            "QMF itself may predict another class there"
        )
    return tuple(notes)


def history_ranking(
    ns: Namespace,
    confidence: Array,
    history: Array,
    *,
    form: Form = "paper",
    active: Array | None = None,
) -> Array:
    """Ranks pairs of samples: one that has been predicted worse should be less confident.

    QMF (arXiv 2306.02050, section 3) after correctness ranking (Moon et al. 2020, arXiv
    2007.01458). With each sample i and its successor j in the batch (the last with the first)::

        paper      max(0, sign(c_i - c_j) (kappa_i - kappa_j) + |c_i - c_j|)
        released   max(0, sign(c_i - c_j) (kappa_i - kappa_j) - |c_i - c_j|)

    In the paper's form the confidences must lie apart by at least the difference of the past
    losses. QMF's released trainers turn the sign of correctness ranking's target around and leave
    its margin as it was: a pair in the wrong order costs nothing until it is off by more than
    that difference.

    QMF adds it, for each modality, to the cross-entropies of the fused and of every single
    prediction.

    Args:
        ns: The namespace to compute in.
        confidence: kappa, 0.1 times the energy in QMF, floating ``[B, M]``.
        history: c, past losses in [0, 1], from `LossHistory`, floating ``[B, M]`` of the same
            dtype; gets no gradient.
        form: ``"paper"`` or ``"released"``.
        active: bool ``[B, M]``; only pairs with the modality active in both count. None: all.

    Returns:
        A scalar: the sum over modalities of the mean over the pairs that count.

    Raises:
        ShapeError: Shapes disagree.
        SpecError: There is no such form.
    """
    if form not in get_args(Form):
        raise SpecError(
            "history_ranking has no such form", expected='"paper" or "released"', got=repr(form)
        )
    check_axes(confidence=(confidence, "B M"), history=(history, "B M"), active=(active, "B M"))
    xp = ns.xp
    active = everything(ns, confidence, 2) if active is None else active
    kappa, c = ns.select(active, confidence), ns.stop_gradient(ns.select(active, history))
    pairs = active & xp.roll(active, -1, axis=0)
    behind = c - xp.roll(c, -1, axis=0)
    lead = kappa - xp.roll(kappa, -1, axis=0)
    margin = xp.abs(behind) if form == "paper" else -xp.abs(behind)
    off = xp.sign(behind) * lead + margin
    return xp.sum(mean_over(ns, xp.maximum(off, ns.constant(0.0, off)), pairs, axis=0))


class LossHistory:
    """How badly each modality has predicted each training sample so far.

    Host-side, of NumPy. QMF's code keeps the sum of a sample's losses; here it is their mean,
    which ranks alike where every sample is seen equally often, and does not count an absence in
    a modality's favour.

    Args:
        samples: N, the rows of the training set.
        modalities: M.

    Raises:
        SpecError: A size is below 1.
    """

    def __init__(self, samples: int, modalities: int) -> None:
        for what, size in (("the number of samples", samples), ("that of modalities", modalities)):
            check_range(what, size, 1, float("inf"))
        self._total = np.zeros((samples, modalities))
        self._seen = np.zeros((samples, modalities))

    def update(
        self,
        rows: NDArray[np.intp],
        losses: NDArray[np.floating[Any]],
        active: NDArray[np.bool_] | None = None,
    ) -> None:
        """Adds one visit.

        Args:
            rows: The samples' numbers, int ``[B]``, each in [0, N).
            losses: Cross-entropy of each modality alone, ``[B, M]``, in nats.
            active: bool ``[B, M]``; what is not active leaves no trace. None for all.

        Raises:
            ShapeError: Shapes disagree.
        """
        check_axes(rows=(rows, "B"), losses=(losses, "B M"), active=(active, "B M"))
        there = np.ones(losses.shape, dtype=bool) if active is None else active
        np.add.at(self._total, rows, np.where(there, losses, 0.0))
        np.add.at(self._seen, rows, there)

    def of(self, rows: NDArray[np.intp]) -> NDArray[np.float64]:
        """Mean losses ``[B, M]`` in [0, 1]: 0 for the best of all samples seen, 1 for the worst.

        0 where a modality has not been seen with a sample, or all samples are alike.
        """
        seen = self._seen > 0
        mean = self._total / np.maximum(self._seen, 1)
        low = np.where(seen, mean, np.inf).min(axis=0)
        high = np.where(seen, mean, -np.inf).max(axis=0)
        varies = high > low
        scaled = (mean - np.where(varies, low, 0.0)) / np.where(varies, high - low, 1.0)
        return np.where(seen & varies, scaled, 0.0)[rows]


POLICIES: tuple[Policy, ...] = (
    Policy(
        name="qmf",
        function=qmf,
        source="QMF, arXiv 2306.02050, section 3; on the simplex, a reading of dms-spec",
        equation="E31",
        needs=("logits",),
        observe=at_the_floor,
    ),
)
