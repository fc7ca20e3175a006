"""Experimental: MA-AFS, reconstructed from an abstract."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from dms_spec.equations.namespace import Namespace
from dms_spec.equations.published.common import check_range, mean_over
from dms_spec.equations.signals import confidence, cosine
from dms_spec.interface.policy import Floats, Policy, PolicyInput
from dms_spec.spec import SchedulerSpec
from dms_spec.types import Array


def ma_afs(
    ns: Namespace, given: PolicyInput, *, hidden: int = 16, temperature: float = 1.0
) -> dict[str, Array]:
    """Experimental. s = W2 relu(W1 q + b1) + b2, w = softmax(s / tau), q entropies and agreement.

    Reconstructed from the abstract of MA-AFS ("Learning to Fuse", arXiv 2506.12733). Known: a
    light network predicts the weights of each sample from the entropy of each modality and from
    their agreement. Guessed: everything else. Entropies are divided by log C, agreement is the
    mean cosine over the pairs of active modalities, the network has one hidden layer, seen as the
    whole sample at once. An absent modality has entropy 1; with fewer than two active, agreement
    is 0. Unlike the alignment of DMS, agreement can count with two modalities.

    Parameters: W1 as ``entropy_weight`` ``[M, H]`` and ``agreement_weight`` ``[H]``, b1 as
    ``hidden_bias`` ``[H]``, W2 as ``output_weight`` ``[H, M]`` and b2 as ``output_bias`` ``[M]``.
    The last two start at 0, so the weights start equal. ``hidden`` is H where learning starts.

    Raises:
        SpecError: The temperature is not positive.
    """
    del hidden
    check_range("the temperature", temperature, 1e-30, float("inf"))
    xp, p, evidence = ns.xp, given.evidence.parameters, given.evidence
    active, h = evidence.active, evidence.features
    uncertain = 1.0 - confidence(ns, evidence)
    entropies = xp.where(active, uncertain, ns.constant(1.0, uncertain))
    pairs = active[:, :, None] & active[:, None, :] & (ns.others(h)[None, :, :] > 0)
    agreement = mean_over(ns, cosine(ns, h[:, :, None, :], h[:, None, :, :]), pairs, axis=(1, 2))
    into = xp.matmul(entropies, p["entropy_weight"]) + p["hidden_bias"]
    into = into + agreement[:, None] * p["agreement_weight"]
    units = xp.maximum(into, ns.constant(0.0, into))
    scores = (xp.matmul(units, p["output_weight"]) + p["output_bias"]) / temperature
    return {"network": scores}


def _initial(
    spec: SchedulerSpec,
    sizes: Mapping[str, int],
    *,
    seed: int,
    hidden: int = 16,
    temperature: float = 1.0,
) -> dict[str, Floats]:
    del spec, temperature
    random, m = np.random.Generator(np.random.Philox(seed)), sizes["M"]
    drawn = {
        name: random.normal(size=shape) / np.sqrt(m + 1)
        for name, shape in (
            ("entropy_weight", (m, hidden)),
            ("agreement_weight", (hidden,)),
            ("hidden_bias", (hidden,)),
        )
    }
    drawn |= {"output_weight": np.zeros((hidden, m)), "output_bias": np.zeros(m)}
    return {name: array.astype(np.float32) for name, array in drawn.items()}


POLICIES: tuple[Policy, ...] = (
    Policy(
        name="ma_afs",
        function=ma_afs,
        source="experimental: reconstructed from the abstract of MA-AFS, arXiv 2506.12733",
        needs=("features", "logits"),
        parameters={
            "entropy_weight": "M h",
            "agreement_weight": "h",
            "hidden_bias": "h",
            "output_weight": "h M",
            "output_bias": "M",
        },
        initial=_initial,
    ),
)
