"""Turns signals into scores.

A policy returns named terms that sum to the scores, so that an explanation can say what each
term contributed without a second copy of the equation.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from dms_spec.equations.namespace import Namespace
from dms_spec.errors import DTypeError, SpecError
from dms_spec.interface.policy import Floats, Policy, PolicyInput
from dms_spec.spec import SchedulerSpec
from dms_spec.types import Array


def static(ns: Namespace, given: PolicyInput) -> dict[str, Array]:
    """w = softmax(b) over the active modalities. Without a bias ``[M]``, the weights are equal.

    Equation E12; DMS (arXiv 2506.12724), the static baseline; with a bias, the
    fixed w* of its Proposition 4.1.
    """
    bias = given.evidence.parameters.get("bias")
    if bias is None:
        return {}
    # Selected, not broadcast to a shape: that of a traced batch is not known.
    return {"bias": ns.xp.where(given.evidence.active, bias, ns.constant(0.0, bias))}


def linear(ns: Namespace, given: PolicyInput) -> dict[str, Array]:
    """s = alpha c - beta u + gamma a, over any named signals. Equation E5; DMS section 3.2.

    Coefficients are non-negative; each signal's own direction gives the sign, so that a weight
    can never fall when its modality looks better.
    """
    return {
        name: given.directions[name] * coefficient * given.signals[name]
        for name, coefficient in given.coefficients.items()
    }


def co_attention(ns: Namespace, given: PolicyInput) -> dict[str, Array]:
    """w_n = mean over active m of A_mn, A = softmax_n(q_m . k_n / sqrt d), all active n.

    Equation E13: the weights implied by one head of co-attention (ViLBERT, arXiv 1908.02265),
    averaged over queries; the DMS paper names the baseline without an equation. Parameters
    ``query`` and ``key``, ``[D, d]``; without them, the features themselves. The term is log w,
    which the softmax over modalities turns back into w.
    """
    xp = ns.xp
    h, active = given.evidence.features, given.evidence.active
    query, key = given.evidence.parameters.get("query"), given.evidence.parameters.get("key")
    q, k = (h, h) if query is None else (xp.matmul(h, query), xp.matmul(h, key))
    similarity = xp.matmul(q, xp.matrix_transpose(k)) / xp.sqrt(ns.count(q, -1))
    log_a = similarity - ns.masked_logsumexp(similarity, active[:, None, :], axis=-1)
    log_w = ns.masked_logsumexp(log_a, active[:, :, None], axis=1)[:, 0, :]
    present = xp.sum(xp.astype(active, h.dtype), axis=-1, keepdims=True)
    return {"attention": log_w - xp.log(xp.maximum(present, ns.constant(1.0, present)))}


def _initial_bias(spec: SchedulerSpec, sizes: Mapping[str, int], *, seed: int) -> dict[str, Floats]:
    """Gives zeros, with which `static` is what it is without a bias."""
    del spec, seed
    return {"bias": np.zeros(sizes["M"], dtype=np.float32)}


def _initial_attention(
    spec: SchedulerSpec, sizes: Mapping[str, int], *, seed: int
) -> dict[str, Floats]:
    """Gives identity matrices, with which `co_attention` is what it is without parameters."""
    del spec, seed
    if "D" not in sizes:
        raise SpecError("co-attention needs the width of the features to start learning")
    eye = np.eye(sizes["D"], dtype=np.float32)
    return {"query": eye, "key": eye.copy()}


def modality_dropout(ns: Namespace, given: PolicyInput, *, rate: float = 0.3) -> dict[str, Array]:
    """Gives equal weights to what is active. In training, drops modalities at random.

    DMS section 5, the modality-dropout baseline; the drawing is `modality_dropout_presence`.
    """
    del ns, given, rate  # the rate is for training_presence alone
    return {}


def modality_dropout_presence(
    present: NDArray[np.bool_], *, seed: int, rate: float = 0.3
) -> NDArray[np.bool_]:
    """Drops each present modality with probability ``rate``, and redraws rows until one is left.

    No rescaling is needed: weights renormalise over what is left. Drawn from NumPy's Philox, so
    that a seed means the same mask everywhere.

    Args:
        present: bool ``[B, M]``. Rows with nothing present stay as they are.
        seed: Seed of the Philox counter generator.
        rate: Probability of dropping, in [0, 1).

    Raises:
        DTypeError: ``present`` is not bool.
        SpecError: The rate is outside [0, 1).
    """
    present = np.asarray(present)
    if present.dtype != np.bool_:
        raise DTypeError("present has the wrong dtype", expected="bool", got=str(present.dtype))
    if not 0 <= rate < 1:
        raise SpecError("the dropout rate is out of range", expected="[0, 1)", got=str(rate))
    random = np.random.Generator(np.random.Philox(seed))
    kept = present.copy()
    redraw = present.any(axis=1)
    while redraw.any():
        draws = random.random((int(redraw.sum()), present.shape[1])) >= rate
        kept[redraw] = present[redraw] & draws
        redraw &= ~kept.any(axis=1)
    return kept


POLICIES: tuple[Policy, ...] = (
    Policy(
        name="static",
        function=static,
        source="DMS, arXiv 2506.12724, section 5 (static baseline), Proposition 4.1",
        equation="E12",
        parameters={"bias": "M"},
        parameters_optional=True,
        initial=_initial_bias,
    ),
    Policy(
        name="linear",
        function=linear,
        source="DMS, arXiv 2506.12724, section 3.2",
        equation="E5",
        uses_signals=True,
    ),
    Policy(
        name="co_attention",
        function=co_attention,
        source="ViLBERT, arXiv 1908.02265 (its co-attention); DMS section 5 (baseline)",
        equation="E13",
        needs=("features",),
        parameters={"query": "D d", "key": "D d"},
        parameters_optional=True,
        initial=_initial_attention,
    ),
    Policy(
        name="modality_dropout",
        function=modality_dropout,
        source="DMS, arXiv 2506.12724, section 5 (baseline)",
        equation="E12",
        training_presence=modality_dropout_presence,
    ),
)
