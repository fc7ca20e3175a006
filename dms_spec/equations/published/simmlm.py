"""Implements SimMLM (Li et al., ICCV 2025, arXiv 2507.19264): a gate over experts, and a ranking of
subsets.

Its mixture of the experts' outputs is fusion at level ``"logit"`` (equation E14). Gates for each
class apart, which its released code has for segmentation, are not here: weights are ``[B, M]``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dms_spec.equations.namespace import Namespace
from dms_spec.equations.published.common import check_axes, everything, mean_over
from dms_spec.errors import DTypeError, SpecError
from dms_spec.interface.policy import Floats, Policy, PolicyInput
from dms_spec.spec import SchedulerSpec
from dms_spec.types import Array

Form = Literal["paper", "released"]


def dmome(ns: Namespace, given: PolicyInput) -> dict[str, Array]:
    """g = sum_n h_n V_n + b, w = softmax(g) over the active: the gate sees all that is there.

    Equation E30; SimMLM (arXiv 2507.19264), DMoME: what is missing enters the gate as zeros and
    has a score of -inf. It is one linear gate over the concatenated features; a deeper one belongs
    in the encoders. Parameters ``gate_weight`` ``[M, D, M]`` (from which modality, from which
    feature, to whose score) and ``gate_bias`` ``[M]``. Learning starts at zeros, which give equal
    weights.
    """
    xp, p = ns.xp, given.evidence.parameters
    each = xp.matmul(given.evidence.features[:, :, None, :], p["gate_weight"])  # [B, M, 1, M]
    return {"gate": xp.sum(each, axis=1)[:, 0, :] + p["gate_bias"]}


def _initial_gate(spec: SchedulerSpec, sizes: Mapping[str, int], *, seed: int) -> dict[str, Floats]:
    """Gives zeros, with which the weights are equal, as those of `static`."""
    del spec, seed
    if "D" not in sizes:
        raise SpecError("dmome needs the width of the features to start learning")
    m, d = sizes["M"], sizes["D"]
    return {
        "gate_weight": np.zeros((m, d, m), dtype=np.float32),
        "gate_bias": np.zeros(m, dtype=np.float32),
    }


def more_vs_fewer(
    ns: Namespace,
    more: Array,
    fewer: Array,
    *,
    weight: float = 0.1,
    form: Form = "paper",
    counted: Array | None = None,
) -> dict[str, Array]:
    """MoFe: a task loss with more modalities should not exceed the one with fewer.

    SimMLM (arXiv 2507.19264), its losses, for one sample with ``l+`` and ``l-``::

        paper      l+ + l- + weight max(0, l+ - l-)
        released   (l+ + l-) / 2 + weight mean_k max(0, l+_k - l-_k)

    The released code takes the mean over both forward passes where the paper takes the sum, and
    ranks each component (a class of the Dice loss, say) by itself. Several kinds of loss are
    ranked apart there: call this once for each, and add.

    Args:
        ns: The namespace to compute in.
        more: Task losses with the larger set, floating ``[B]``, or ``[B, K]`` by component,
            whose mean is the sample's loss.
        fewer: The same with the smaller set.
        weight: lambda, 0 or more.
        form: ``"paper"`` or ``"released"``.
        counted: bool ``[B]``: the samples that count; None for all. The others may hold NaN.

    Returns:
        ``total``, ``task`` and ``ranking`` (before its weight), scalars: means over the samples.

    Raises:
        ShapeError: The losses are of different shapes.
        SpecError: The weight is negative, or there is no such form.
    """
    if weight < 0 or form not in ("paper", "released"):
        raise SpecError(
            "more_vs_fewer cannot do that",
            expected='a weight of 0 or more, form "paper" or "released"',
            got=f"weight {weight}, form {form!r}",
        )
    axes = "B" if more.ndim == 1 else "B K"
    check_axes(more=(more, axes), fewer=(fewer, axes), counted=(counted, "B"))
    xp = ns.xp
    counted = everything(ns, more, 1) if counted is None else counted
    more, fewer = ns.select(counted, more), ns.select(counted, fewer)
    if more.ndim == 2 and form == "paper":
        more, fewer = xp.mean(more, axis=-1), xp.mean(fewer, axis=-1)
    hinge = xp.maximum(more - fewer, ns.constant(0.0, more))
    both = more + fewer if form == "paper" else 0.5 * (more + fewer)
    if more.ndim == 2:
        hinge, both = xp.mean(hinge, axis=-1), xp.mean(both, axis=-1)
    task, ranking = mean_over(ns, both, counted), mean_over(ns, hinge, counted)
    return {"total": task + weight * ranking, "task": task, "ranking": ranking}


def confidence_ranking(
    ns: Namespace, more: Array, fewer: Array, *, counted: Array | None = None
) -> Array:
    """max(0, Conf(o-) - Conf(o+)), the mean over samples: a ranking that needs no label.

    CML (Ma et al., ICML 2023, arXiv 2306.01265): confidence should not rise when a modality is
    removed; SimMLM compares MoFe with it. That Conf is the largest class probability is a reading.

    Args:
        ns: The namespace to compute in.
        more: Fused logits with the larger set, floating ``[B, C]``.
        fewer: The same with the smaller set.
        counted: bool ``[B]``, as in `more_vs_fewer`.

    Returns:
        A scalar in [0, 1).

    Raises:
        ShapeError: Shapes disagree.
    """
    check_axes(more=(more, "B C"), fewer=(fewer, "B C"), counted=(counted, "B"))
    xp = ns.xp
    counted = everything(ns, more, 1) if counted is None else counted
    high, low = (
        xp.max(ns.softmax(ns.select(counted, logits)), axis=-1) for logits in (more, fewer)
    )
    return mean_over(ns, xp.maximum(low - high, ns.constant(0.0, high)), counted)


def nested_pairs(
    present: NDArray[np.bool_], *, seed: int, strategy: Literal["paper", "uniform"] = "paper"
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Draws for each sample two sets of what is present, one strictly inside the other, none empty.

    ``"uniform"`` draws every such pair alike. ``"paper"`` is the distribution of SimMLM's
    released code, which draws two sets in order, and again until one contains the other and the
    first is not everything: a pair whose larger set is everything that is present is half as
    likely as the others. Drawn from NumPy's Philox.

    Args:
        present: bool ``[B, M]``.
        seed: Of the Philox generator, 0 or more.
        strategy: ``"paper"`` or ``"uniform"``.

    Returns:
        ``(more, fewer)``, bool ``[B, M]`` each. Rows with fewer than two present have no such
        pair: both are the row itself, on which `more_vs_fewer` ranks nothing.

    Raises:
        DTypeError: ``present`` is not bool.
        ShapeError: It is not ``[B, M]``.
        SpecError: There is no such strategy.
    """
    present = np.asarray(present)
    if present.dtype != np.bool_:
        raise DTypeError("present has the wrong dtype", expected="bool", got=str(present.dtype))
    check_axes(present=(present, "B M"))
    if strategy not in ("paper", "uniform"):
        raise SpecError(
            "there is no such strategy", expected='"paper" or "uniform"', got=f"{strategy!r}"
        )
    random = np.random.Generator(np.random.Philox(seed))
    more, fewer = present.copy(), present.copy()
    redraw = present.sum(axis=1) > 1
    while redraw.any():
        # Each modality is in both sets, in the larger alone or in neither: every nested pair alike.
        state = random.integers(3, size=(int(redraw.sum()), present.shape[1]))
        coin = random.random(len(state)) < 0.5
        there = present[redraw]
        large, small = there & (state > 0), there & (state > 1)
        good = small.any(axis=1) & (large != small).any(axis=1)
        if strategy == "paper":
            good &= coin | (large != there).any(axis=1)
        rows = np.flatnonzero(redraw)[good]
        more[rows], fewer[rows] = large[good], small[good]
        redraw[rows] = False
    return more, fewer


POLICIES: tuple[Policy, ...] = (
    Policy(
        name="dmome",
        function=dmome,
        source="SimMLM, arXiv 2507.19264, its DMoME gate",
        equation="E30",
        needs=("features",),
        parameters={"gate_weight": "M D M", "gate_bias": "M"},
        initial=_initial_gate,
    ),
)
