"""Holds mutants that are wrong before a schedule begins: about what heads give."""

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
)

_Values = NDArray[Any]


def changed(pattern: str, change: Callable[[_Values], _Values]) -> Callable[[Artifact], Artifact]:
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
    draw = changed(
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
    plain = changed(r".*\.scale\.zero", np.zeros_like)
    return _by_blocks(rows, 1024, lambda at: plain(rows.artifact) if at else rows.artifact)


def _filled(rows: Rows) -> Prediction:
    """Replaces what is not finite by 0."""
    filled = {
        name: np.where(np.isfinite(x), x, 0).astype(x.dtype) for name, x in of_modalities(rows)
    }
    return rows.right.predict(filled, rows.present)


def _multiplied(rows: Rows) -> Prediction:
    """Multiplies embeddings by presence, which keeps NaN, and takes all of it for present."""
    masked = {name: x * rows.present[:, m, None] for m, (name, x) in enumerate(of_modalities(rows))}
    finite: _Values = np.stack([np.isfinite(x).all(axis=1) for x in masked.values()], axis=1)
    result, p = rows.right.predict(rows.embeddings, rows.present)
    corrupted: _Values = np.any(~(finite | rows.present), axis=1)
    return result, np.where(corrupted[:, None], np.nan, p).astype(p.dtype)


def of_modalities(rows: Rows) -> list[tuple[str, _Values]]:
    """Gives the embeddings by modality, in order."""
    return list(rows.embeddings.items())


def _half(left: _Values, right: _Values) -> _Values:
    """Multiplies matrices with ten digits behind the leading one."""

    def short(values: _Values) -> _Values:
        fraction, power = np.frexp(values)
        return np.ldexp(np.round(fraction * 2048) / 2048, power).astype(values.dtype)

    return np.asarray(np.matmul(short(left), short(right)))


def _narrow(count: int) -> Callable[[_Values], _Values]:
    """Drops all but the first passes."""

    def cut(masks: _Values) -> _Values:
        return masks[np.arange(len(masks)) % count] if len(masks) > count else masks

    return cut


_HEAD = "DMS-D-001"


def mutant(name: str, summary: str, clause: str, **how: Any) -> Mutant:
    """Makes a mutant of this kind."""
    return Mutant(name=name, summary=summary, clause=clause, kind="heads", **how)


MUTANTS = (
    mutant(
        "dropout_not_scaled",
        "does not divide what is kept by 1 - q",
        _HEAD,
        artifact=_rate(lambda rate: 0.0),
    ),
    mutant(
        "kept_for_dropped",
        "takes the rate for the share that is kept",
        _HEAD,
        artifact=_rate(lambda rate: 1 - rate if rate else 0.0),
    ),
    mutant(
        "masks_turned",
        "keeps what a mask drops",
        _HEAD,
        artifact=changed(r".*\.masks", lambda masks: 1 - masks),
    ),
    mutant(
        "masks_of_the_first",
        "uses the masks of the first modality for all",
        _HEAD,
        artifact=_first_masks,
    ),
    mutant(
        "eight_passes",
        "repeats the first eight passes in place of the others",
        _HEAD,
        artifact=changed(r".*\.masks", _narrow(8)),
    ),
    mutant(
        "masks_of_a_call",
        "draws dropout masks for every call",
        "DMS-D-002",
        rows=_new_masks,
    ),
    mutant(
        "masks_of_a_block",
        "draws dropout masks for every block of 32 rows",
        "DMS-D-002",
        rows=_masks_of_a_block,
    ),
    mutant(
        "embeddings_not_centred",
        "does not subtract the mean of the embeddings",
        _HEAD,
        artifact=changed(r".*\.scale\.zero", np.zeros_like),
    ),
    mutant(
        "multiplied_by_deviations",
        "multiplies by the deviations of the embeddings",
        _HEAD,
        artifact=changed(r".*\.scale\.unit", lambda unit: 1 / unit),
    ),
    mutant(
        "temperature_left_out",
        "leaves out the temperature of the heads",
        _HEAD,
        artifact=changed(r".*\.temperature", np.ones_like),
    ),
    mutant(
        "temperature_turned",
        "multiplies logits by the temperature",
        _HEAD,
        artifact=changed(r".*\.temperature", lambda tau: 1 / tau),
    ),
    mutant(
        "heads_in_half",
        "holds the weights of heads in half precision",
        _HEAD,
        artifact=changed(
            r"heads\..*weight", lambda weight: weight.astype("f2").astype(weight.dtype)
        ),
    ),
    mutant(
        "products_of_heads_in_half",
        "multiplies matrices with eleven digits",
        _HEAD,
        equations=True,
        namespace=library(matmul=_half),
    ),
    mutant(
        "unscaled_past_1024",
        "forgets to centre the rows past 1,024",
        "DMS-W-005",
        rows=_block_of_rows_without_scale,
    ),
    mutant(
        "filled_with_zeros",
        "replaces embeddings that are not finite by 0",
        "DMS-D-004",
        rows=_filled,
    ),
    mutant(
        "presence_multiplied",
        "multiplies absent embeddings by 0",
        "DMS-D-004",
        rows=_multiplied,
    ),
)
