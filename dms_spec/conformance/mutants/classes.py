"""Holds mutants that are wrong after a schedule: about class probabilities and joint experts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dms_spec.artifact import Artifact
from dms_spec.conformance.mutants.heads import changed, mutant, of_modalities
from dms_spec.conformance.mutants.mutant import Prediction, Rows, softmax
from dms_spec.engine.fitted import FittedHeads

_Values = NDArray[Any]


def _biased_alone(rows: Rows) -> _Values:
    """Gives what the bias says where a modality is absent."""
    there = np.ones_like(rows.present)
    zero = {
        name: np.where(rows.present[:, m, None], x, 0).astype(x.dtype)
        for m, (name, x) in enumerate(of_modalities(rows))
    }
    return rows.right.unimodal(zero, there)


def _logits_alone(rows: Rows) -> _Values:
    """Gives logs of probabilities for a modality by itself."""
    return np.asarray(np.log(rows.right.unimodal(rows.embeddings, rows.present)))


def _prior_forgotten(rows: Rows) -> Prediction:
    """Takes all classes to be equally likely where nothing is active."""
    result, p = rows.right.predict(rows.embeddings, rows.present)
    something = result.active.any(axis=1, keepdims=True)
    return result, np.where(something, p, 1 / p.shape[1]).astype(p.dtype)


def _not_softened(rows: Rows) -> Prediction:
    """Takes fused logits for logs of probabilities."""
    result, p = rows.right.predict(rows.embeddings, rows.present)
    if rows.artifact.spec.fusion == "logit":
        e = np.exp(result.fused)
        p = np.where(result.active.any(axis=1, keepdims=True), e, p).astype(p.dtype)
    return result, p


def _mixed(share: Callable[[_Values, float], _Values]) -> Callable[[Rows], Prediction]:
    """Mixes a joint expert in with another share."""

    def wrong(rows: Rows) -> Prediction:
        own = rows.artifact.parameters
        result, p = rows.right.predict(rows.embeddings, rows.present)
        if "joint.share" not in own or result.soundness is None:
            return result, p
        bare = {k: v for k, v in own.items() if not k.startswith("joint.")}
        silent = rows.bind(replace(rows.artifact, parameters=bare))
        _, plain = silent.predict(rows.embeddings, rows.present)
        said = np.array(own["joint.bias"], dtype=p.dtype)
        for m, (name, x) in enumerate(of_modalities(rows)):
            s = (x - own[f"heads.{name}.scale.zero"]) / own[f"heads.{name}.scale.unit"]
            s = np.where(rows.present[:, m, None], s, 0)
            said = said + s.astype(p.dtype) @ own[f"joint.{name}.weight"]
        a = share(result.soundness, float(own["joint.share"]))[:, None]
        mixed = (1 - a) * plain + a * softmax(said)
        return result, mixed.astype(p.dtype)

    return wrong


def _without_damage(artifact: Artifact) -> Artifact:
    """Leaves a joint expert out that does not fit, without a word."""
    try:
        return _checked(artifact)
    except Exception:
        bare = {k: v for k, v in artifact.parameters.items() if not k.startswith("joint.")}
        return replace(artifact, parameters=bare)


def _checked(artifact: Artifact) -> Artifact:
    FittedHeads(artifact)
    return artifact


def _share_limited(artifact: Artifact) -> Artifact:
    """Limits a share to [0, 1] instead of refusing it."""
    return changed(r"joint\.share", lambda array: np.clip(array, 0, 1))(artifact)


def _by_count(rows: Rows) -> Prediction:
    """Writes probabilities of as many rows into the same array."""
    result, p = rows.right.predict(rows.embeddings, rows.present)
    kept = rows.own.setdefault(p.shape, p)
    np.copyto(kept, p)
    return result, kept


MUTANTS = (
    mutant(
        "bias_where_absent",
        "lets the bias of an absent modality speak",
        "DMS-D-012",
        alone=_biased_alone,
    ),
    mutant(
        "logs_alone",
        "gives logs for the probabilities of one modality",
        "DMS-D-012",
        alone=_logits_alone,
    ),
    mutant(
        "prior_of_nothing_forgotten",
        "takes all classes to be equally likely where nothing is there",
        "DMS-D-011",
        rows=_prior_forgotten,
    ),
    mutant(
        "not_normalised",
        "takes exponentials of fused logits for probabilities",
        "DMS-D-011",
        rows=_not_softened,
    ),
    mutant(
        "no_bias_on_fused",
        "leaves out the bias of the classifier on fused features",
        "DMS-D-011",
        artifact=changed(r"head\.bias", np.zeros_like),
    ),
    mutant(
        "share_alone",
        "believes a joint expert by its share alone",
        "DMS-D-007",
        rows=_mixed(lambda soundness, share: np.full(len(soundness), share)),
    ),
    mutant(
        "mean_soundness",
        "believes a joint expert as far as modalities are sound on average",
        "DMS-D-008",
        rows=_mixed(lambda soundness, share: share * soundness.mean(axis=1)),
    ),
    mutant(
        "least_soundness",
        "believes a joint expert as far as the least sound modality",
        "DMS-D-007",
        rows=_mixed(lambda soundness, share: share * soundness.min(axis=1)),
    ),
    mutant(
        "damage_left_out",
        "leaves a damaged joint expert out without a word",
        "DMS-D-010",
        artifact=_without_damage,
    ),
    mutant(
        "share_limited",
        "limits the share of a joint expert to what it may be",
        "DMS-D-010",
        artifact=_share_limited,
    ),
    mutant(
        "probabilities_overwritten",
        "writes class probabilities of as many rows into the same array",
        "DMS-C-007",
        rows=_by_count,
    ),
)
