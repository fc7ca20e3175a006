"""Holds mutants that are wrong before a schedule begins, or after it: heads and classes."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dms_spec.artifact import Artifact
from dms_spec.conformance.mutants.mutant import (
    Mutant,
    Prediction,
    Rows,
    library,
    softmax,
)
from dms_spec.engine.fitted import FittedHeads

_Values = NDArray[Any]


def _changed(pattern: str, change: Callable[[_Values], _Values]) -> Callable[[Artifact], Artifact]:
    """Reads some parameters wrongly."""

    def wrong(artifact: Artifact) -> Artifact:
        own = {
            name: change(array) if re.fullmatch(pattern, name) else array
            for name, array in artifact.parameters.items()
        }
        return replace(artifact, parameters=own)

    return wrong


def _rate(change: Callable[[float], float]) -> Callable[[Artifact], Artifact]:
    def wrong(artifact: Artifact) -> Artifact:
        rate = change(float(artifact.model["dropout"]))
        return replace(artifact, model={**artifact.model, "dropout": rate})

    return wrong


def _first_masks(artifact: Artifact) -> Artifact:
    """Uses the masks of the first modality for all that are as wide."""
    own = dict(artifact.parameters)
    first = own[f"heads.{artifact.spec.modalities[0]}.dropout.masks"]
    for name in artifact.spec.modalities:
        key = f"heads.{name}.dropout.masks"
        own[key] = np.resize(first, own[key].shape)
    return replace(artifact, parameters=own)


def _masks(artifact: Artifact, random: np.random.Generator) -> Artifact:
    """Draws masks once more."""
    rate = float(artifact.model["dropout"])
    draw = _changed(
        r".*\.masks", lambda array: (random.random(array.shape) >= rate).astype(array.dtype)
    )
    return draw(artifact)


def _new_masks(rows: Rows) -> Prediction:
    """Draws masks for every call."""
    calls = rows.own["calls"] = rows.own.get("calls", 0) + 1
    if calls == 1:
        return rows.right.predict(rows.embeddings, rows.present)
    random = np.random.Generator(np.random.Philox(calls))
    return rows.bind(_masks(rows.artifact, random)).predict(rows.embeddings, rows.present)


def _by_blocks(rows: Rows, size: int, bind: Callable[[int], Artifact]) -> Prediction:
    """Predicts blocks of rows, each with an artifact of its own."""
    parts = [
        rows.bind(bind(start)).predict(
            {name: x[start : start + size] for name, x in rows.embeddings.items()},
            rows.present[start : start + size],
        )
        for start in range(0, max(len(rows.present), 1), size)
    ]
    schedules = [part[0] for part in parts]
    first = schedules[0]

    def join(get: Callable[[Any], _Values]) -> _Values:
        return np.concatenate([get(each) for each in schedules])

    made = replace(
        first,
        weights=join(lambda s: s.weights),
        fused=join(lambda s: s.fused),
        scores=join(lambda s: s.scores),
        active=join(lambda s: s.active),
        signals={n: join(lambda s, n=n: s.signals[n]) for n in first.signals},  # type: ignore[misc]
        terms={n: join(lambda s, n=n: s.terms[n]) for n in first.terms},  # type: ignore[misc]
        soundness=None if first.soundness is None else join(lambda s: s.soundness),
    )
    return made, np.concatenate([part[1] for part in parts])


def _masks_of_a_block(rows: Rows) -> Prediction:
    """Draws masks anew for each block of 32 rows but the first."""

    def bind(start: int) -> Artifact:
        random = np.random.Generator(np.random.Philox(start))
        return _masks(rows.artifact, random) if start else rows.artifact

    return _by_blocks(rows, 32, bind)


def _block_of_rows_without_scale(rows: Rows) -> Prediction:
    """Forgets to scale the rows past 1,024."""
    plain = _changed(r".*\.scale\.zero", np.zeros_like)
    return _by_blocks(rows, 1024, lambda at: plain(rows.artifact) if at else rows.artifact)


def _filled(rows: Rows) -> Prediction:
    """Replaces what is not finite by 0."""
    filled = {name: np.where(np.isfinite(x), x, 0).astype(x.dtype) for name, x in _all(rows)}
    return rows.right.predict(filled, rows.present)


def _multiplied(rows: Rows) -> Prediction:
    """Multiplies embeddings by presence, which keeps NaN, and takes all of it for present."""
    masked = {name: x * rows.present[:, m, None] for m, (name, x) in enumerate(_all(rows))}
    finite: _Values = np.stack([np.isfinite(x).all(axis=1) for x in masked.values()], axis=1)
    result, p = rows.right.predict(rows.embeddings, rows.present)
    corrupted: _Values = np.any(~(finite | rows.present), axis=1)
    return result, np.where(corrupted[:, None], np.nan, p).astype(p.dtype)


def _all(rows: Rows) -> list[tuple[str, _Values]]:
    return list(rows.embeddings.items())


def _biased_alone(rows: Rows) -> _Values:
    """Gives what the bias says where a modality is absent."""
    there = np.ones_like(rows.present)
    zero = {
        name: np.where(rows.present[:, m, None], x, 0).astype(x.dtype)
        for m, (name, x) in enumerate(_all(rows))
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
        for m, (name, x) in enumerate(_all(rows)):
            s = (x - own[f"heads.{name}.scale.zero"]) / own[f"heads.{name}.scale.unit"]
            s = np.where(rows.present[:, m, None], s, 0)
            said = said + s.astype(p.dtype) @ own[f"joint.{name}.weight"]
        a = share(result.soundness, float(own["joint.share"]))[:, None]
        mixed = (1 - a) * plain + a * softmax(said)
        return result, mixed.astype(p.dtype)

    return wrong


def _half(left: _Values, right: _Values) -> _Values:
    """Multiplies matrices with ten digits behind the leading one."""

    def short(values: _Values) -> _Values:
        fraction, power = np.frexp(values)
        return np.ldexp(np.round(fraction * 2048) / 2048, power).astype(values.dtype)

    return np.asarray(np.matmul(short(left), short(right)))


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
    return _changed(r"joint\.share", lambda array: np.clip(array, 0, 1))(artifact)


def _narrow(count: int) -> Callable[[_Values], _Values]:
    """Drops all but the first passes."""

    def cut(masks: _Values) -> _Values:
        return masks[np.arange(len(masks)) % count] if len(masks) > count else masks

    return cut


def _by_count(rows: Rows) -> Prediction:
    """Writes probabilities of as many rows into the same array."""
    result, p = rows.right.predict(rows.embeddings, rows.present)
    kept = rows.own.setdefault(p.shape, p)
    np.copyto(kept, p)
    return result, kept


_HEAD = "DMS-D-001"


def _mutant(name: str, summary: str, clause: str, **how: Any) -> Mutant:
    return Mutant(name=name, summary=summary, clause=clause, kind="heads", **how)


MUTANTS = (
    _mutant(
        "dropout_not_scaled",
        "does not divide what is kept by 1 - q",
        _HEAD,
        artifact=_rate(lambda rate: 0.0),
    ),
    _mutant(
        "kept_for_dropped",
        "takes the rate for the share that is kept",
        _HEAD,
        artifact=_rate(lambda rate: 1 - rate if rate else 0.0),
    ),
    _mutant(
        "masks_turned",
        "keeps what a mask drops",
        _HEAD,
        artifact=_changed(r".*\.masks", lambda masks: 1 - masks),
    ),
    _mutant(
        "masks_of_the_first",
        "uses the masks of the first modality for all",
        _HEAD,
        artifact=_first_masks,
    ),
    _mutant(
        "eight_passes",
        "repeats the first eight passes in place of the others",
        _HEAD,
        artifact=_changed(r".*\.masks", _narrow(8)),
    ),
    _mutant(
        "masks_of_a_call",
        "draws dropout masks for every call",
        "DMS-D-002",
        rows=_new_masks,
    ),
    _mutant(
        "masks_of_a_block",
        "draws dropout masks for every block of 32 rows",
        "DMS-D-002",
        rows=_masks_of_a_block,
    ),
    _mutant(
        "embeddings_not_centred",
        "does not subtract the mean of the embeddings",
        _HEAD,
        artifact=_changed(r".*\.scale\.zero", np.zeros_like),
    ),
    _mutant(
        "multiplied_by_deviations",
        "multiplies by the deviations of the embeddings",
        _HEAD,
        artifact=_changed(r".*\.scale\.unit", lambda unit: 1 / unit),
    ),
    _mutant(
        "temperature_left_out",
        "leaves out the temperature of the heads",
        _HEAD,
        artifact=_changed(r".*\.temperature", np.ones_like),
    ),
    _mutant(
        "temperature_turned",
        "multiplies logits by the temperature",
        _HEAD,
        artifact=_changed(r".*\.temperature", lambda tau: 1 / tau),
    ),
    _mutant(
        "heads_in_half",
        "holds the weights of heads in half precision",
        _HEAD,
        artifact=_changed(
            r"heads\..*weight", lambda weight: weight.astype("f2").astype(weight.dtype)
        ),
    ),
    _mutant(
        "products_of_heads_in_half",
        "multiplies matrices with eleven digits",
        _HEAD,
        equations=True,
        namespace=library(matmul=_half),
    ),
    _mutant(
        "unscaled_past_1024",
        "forgets to centre the rows past 1,024",
        "DMS-W-005",
        rows=_block_of_rows_without_scale,
    ),
    _mutant(
        "filled_with_zeros",
        "replaces embeddings that are not finite by 0",
        "DMS-D-004",
        rows=_filled,
    ),
    _mutant(
        "presence_multiplied",
        "multiplies absent embeddings by 0",
        "DMS-D-004",
        rows=_multiplied,
    ),
    _mutant(
        "bias_where_absent",
        "lets the bias of an absent modality speak",
        "DMS-D-012",
        alone=_biased_alone,
    ),
    _mutant(
        "logs_alone",
        "gives logs for the probabilities of one modality",
        "DMS-D-012",
        alone=_logits_alone,
    ),
    _mutant(
        "prior_of_nothing_forgotten",
        "takes all classes to be equally likely where nothing is there",
        "DMS-D-011",
        rows=_prior_forgotten,
    ),
    _mutant(
        "not_normalised",
        "takes exponentials of fused logits for probabilities",
        "DMS-D-011",
        rows=_not_softened,
    ),
    _mutant(
        "no_bias_on_fused",
        "leaves out the bias of the classifier on fused features",
        "DMS-D-011",
        artifact=_changed(r"head\.bias", np.zeros_like),
    ),
    _mutant(
        "share_alone",
        "believes a joint expert by its share alone",
        "DMS-D-007",
        rows=_mixed(lambda soundness, share: np.full(len(soundness), share)),
    ),
    _mutant(
        "mean_soundness",
        "believes a joint expert as far as modalities are sound on average",
        "DMS-D-008",
        rows=_mixed(lambda soundness, share: share * soundness.mean(axis=1)),
    ),
    _mutant(
        "least_soundness",
        "believes a joint expert as far as the least sound modality",
        "DMS-D-007",
        rows=_mixed(lambda soundness, share: share * soundness.min(axis=1)),
    ),
    _mutant(
        "damage_left_out",
        "leaves a damaged joint expert out without a word",
        "DMS-D-010",
        artifact=_without_damage,
    ),
    _mutant(
        "share_limited",
        "limits the share of a joint expert to what it may be",
        "DMS-D-010",
        artifact=_share_limited,
    ),
    _mutant(
        "probabilities_overwritten",
        "writes class probabilities of as many rows into the same array",
        "DMS-C-007",
        rows=_by_count,
    ),
)
