"""Says what is exact of rows of embeddings under a fitted artifact."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dms_spec.artifact import Artifact
from dms_spec.conformance import heads_oracle, oracle
from dms_spec.conformance.closeness import scales
from dms_spec.conformance.heads_scale import joint_scale, probability_scale, softmax_scale

Arrays = dict[str, NDArray[Any]]
Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class FittedCase:
    """Holds an artifact and rows for it, and what is exact about them.

    Attributes:
        artifact: With heads.
        embeddings: By modality.
        present: bool ``[B, M]``.
        arrays: What the heads give, as a scheduler's batch.
        exact: What the scheduler gives.
        scale: Its scales, by output.
        probabilities: The class probabilities ``[B, C]``.
        probability_scale: Their scale.
        unimodal: Those of each modality by itself ``[B, M, C]``.
        unimodal_scale: Their scale.
    """

    artifact: Artifact
    embeddings: Arrays
    present: NDArray[np.bool_]
    arrays: Arrays
    exact: oracle.Exact
    scale: dict[str, Floats]
    probabilities: Floats
    probability_scale: Floats
    unimodal: Floats
    unimodal_scale: Floats


def solved(
    artifact: Artifact, embeddings: Arrays, present: NDArray[np.bool_], computing: Any
) -> FittedCase:
    """Says what is exact of some rows, in a computing dtype that holds what the heads give."""
    spec, own = artifact.spec, artifact.parameters
    rate = float(artifact.model["dropout"])
    found = heads_oracle.heads(spec.modalities, own, embeddings, present, rate)
    arrays: Arrays = {
        name: found[name].astype(computing) for name in ("features", "logits", "mc_logits")
    } | {"present": present}
    exact = oracle.schedule(spec, arrays, own)
    scale = scales(spec, exact, arrays, own, computing)
    prior = artifact.model["prior"]
    p = np.array(heads_oracle.probabilities(spec, exact, own, prior))
    p_scale = probability_scale(spec, exact, scale["fused"], own)
    if "joint.share" in own and exact.soundness is not None:
        said = np.array(heads_oracle.joint_logits(spec.modalities, own, embeddings, present))
        pairs = zip(exact.soundness.tolist(), said.tolist(), strict=True)
        a = np.array([heads_oracle.share(r, row, own) for r, row in pairs])
        p_scale = joint_scale(p, p_scale, said, a, exact.soundness, scale["soundness"])
        q = np.array([oracle.softmax(row) for row in said.tolist()])
        p = (1 - a[:, None]) * p + a[:, None] * q
    alone, alone_scale = softmax_scale(found["logits"], np.zeros_like(found["logits"]))
    floor = underflow(computing)
    return FittedCase(
        artifact=artifact, embeddings=embeddings, present=present, arrays=arrays, exact=exact,
        scale=scale, probabilities=p, probability_scale=p_scale + floor, unimodal=alone,
        unimodal_scale=alone_scale + floor,
    )  # fmt: skip


def underflow(computing: Any) -> float:
    """What is added to every scale for what underflows: tiny over eps."""
    info = np.finfo(computing)
    return float(info.smallest_normal) / float(info.eps)
