"""Holds mutants that are wrong about signals that compare a modality with others or an anchor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dms_spec.conformance.mutants.mutant import Arrays, Mutant, primitives, signal, softmax
from dms_spec.engine.resolve import Resolved
from dms_spec.equations import signals as right
from dms_spec.equations.namespace import Namespace
from dms_spec.equations.primitives import rescaled
from dms_spec.interface.signal import Evidence
from dms_spec.spec import SchedulerSpec
from dms_spec.types import Array, ModalityBatch, Schedule

_Values = NDArray[Any]

# --------------------------------------------------------------------------------------- cosines


def _cosine(left: _Values, right_: _Values, least: float = 0.0) -> _Values:
    norms = np.linalg.norm(left, axis=-1) * np.linalg.norm(right_, axis=-1)
    dot = (left * right_).sum(axis=-1)
    if least:
        return np.asarray(dot / np.maximum(norms, norms.dtype.type(least)))
    return np.asarray(np.where(norms > 0, dot / np.where(norms > 0, norms, 1), 0))


def _scaled(features: _Values) -> _Values:
    """Scales to a size whose squares fit: each sample by one number, so that directions stay."""
    peak = np.abs(features).max(axis=(1, 2), keepdims=True)
    return np.asarray(features / np.where(peak > 0, peak, 1))


def _including_self(ns: Namespace, evidence: Evidence) -> Array:
    h = _scaled(evidence.features)
    return _cosine(h, h.sum(axis=1, keepdims=True))


def _sum_less_self(ns: Namespace, evidence: Evidence) -> Array:
    h = _scaled(evidence.features)
    return np.clip(_cosine(h, h.sum(axis=1, keepdims=True) - h), -1, 1)


def _mean_of_directions(ns: Namespace, evidence: Evidence) -> Array:
    norms = np.linalg.norm(_scaled(evidence.features), axis=-1, keepdims=True)
    unit = _scaled(evidence.features) / np.where(norms > 0, norms, 1)
    return _cosine(unit, unit.sum(axis=1, keepdims=True) - unit)


def _mean_of_cosines(ns: Namespace, evidence: Evidence) -> Array:
    h = evidence.features
    pairs = right.cosine(ns, h[:, :, None], h[:, None])
    others = ~np.eye(h.shape[1], dtype=bool) & evidence.active[:, None]
    total = np.where(others, pairs, 0).sum(axis=-1)
    return total / np.maximum(others.sum(axis=-1), 1).astype(h.dtype)


def _torch_like(ns: Namespace, evidence: Evidence) -> Array:
    h = evidence.features
    return _cosine(h, np.matmul(ns.others(h), h), least=1e-8)


def _product_first(ns: Namespace, features: _Values) -> _Values:
    """Adds others as p x h / q, which is 0 where p x h underflows; p / q x h is not."""
    unit, sizes = _unit_and_sizes(ns, features)
    return _clipped_cosine(unit, np.matmul(sizes, unit) / _largest(sizes))


def _sizes_of_the_faint(ns: Namespace, features: _Values) -> _Values:
    """Weighs the others by their sizes, but divides them by what is never that small."""
    unit, sizes = _unit_and_sizes(ns, features)
    return _clipped_cosine(unit, np.matmul(sizes / _largest(sizes), unit))


def _unit_and_sizes(ns: Namespace, features: _Values) -> tuple[_Values, _Values]:
    """Each modality in units of its size, and the sizes of its others, ``[B, M, M]``."""
    return rescaled(ns, features)[0], ns.others(features) * np.abs(features).max(axis=-1)[:, None]


def _largest(sizes: _Values) -> _Values:
    most = np.maximum(sizes.max(axis=-1, keepdims=True), np.finfo(sizes.dtype).smallest_normal)
    return np.asarray(most)


def _clipped_cosine(left: _Values, right_: _Values) -> _Values:
    return np.clip(_cosine(left, right_), -1, 1)


def _zeroed(least: float) -> Callable[[Arrays], Arrays]:
    """Takes features below some size for 0."""

    def change(arrays: Arrays) -> Arrays:
        h = arrays.get("features")
        return (
            arrays
            if h is None
            else arrays | {"features": np.where(np.abs(h) < least, np.zeros_like(h), h)}
        )

    return change


def _unguarded_cosine(left: _Values, right_: _Values) -> _Values:
    norms = np.linalg.norm(left, axis=-1) * np.linalg.norm(right_, axis=-1)
    return np.asarray((left * right_).sum(axis=-1) / norms)


def _distance(ns: Namespace, evidence: Evidence) -> Array:
    return 1 - right.alignment(ns, evidence)


def _dot_product(ns: Namespace, evidence: Evidence) -> Array:
    return (evidence.features * evidence.parameters["anchor"]).sum(axis=-1)


def _first_anchor(ns: Namespace, evidence: Evidence) -> Array:
    anchor = evidence.parameters["anchor"]
    own = {"anchor": anchor if anchor.ndim == 1 else anchor[0]}
    return right.anchored_alignment(ns, evidence.with_parameters(own))


# -------------------------------------------------------------------------------------- agreement


def _prediction_and_others(evidence: Evidence, *, absent: bool = False) -> tuple[_Values, _Values]:
    p = softmax(evidence.logits)
    if not absent:
        p = np.where(evidence.active[..., None], p, 0)
    others = 1 - np.eye(p.shape[1], dtype=p.dtype)
    count = p.shape[1] - 1 if absent else (evidence.active @ others)[..., None]
    return p, np.matmul(others, p) / np.maximum(count, 1)


def _kl(p: _Values, q: _Values) -> _Values:
    there = (p > 0) & (q > 0)
    ratio = np.where(there, p, 1) / np.where(there, q, 1)
    return np.asarray((p * np.log(ratio)).sum(axis=-1))


def _js(p: _Values, q: _Values) -> _Values:
    return np.asarray((_kl(p, (p + q) / 2) + _kl(q, (p + q) / 2)) / 2)


def _agreement(divergence: Callable[[_Values, _Values], _Values], *, absent: bool = False) -> Any:
    def function(ns: Namespace, evidence: Evidence) -> Array:
        p, q = _prediction_and_others(evidence, absent=absent)
        alone = evidence.active.sum(axis=-1, keepdims=True) < 2
        value = np.where(alone, 0, np.clip(1 - divergence(p, q), 0, 1))
        return np.asarray(value, dtype=evidence.logits.dtype)

    return function


def _lone_agrees(ns: Namespace, evidence: Evidence) -> Array:
    value = right.agreement(ns, evidence)
    alone = evidence.active.sum(axis=-1, keepdims=True) < 2
    return np.where(alone, value.dtype.type(1), value)


def _corroboration(divergence: Callable[[_Values, _Values], _Values]) -> Any:
    def function(ns: Namespace, evidence: Evidence) -> Array:
        p, q = _prediction_and_others(evidence)
        alone = evidence.active.sum(axis=-1, keepdims=True) < 2
        value = np.where(alone, 0, np.exp(-divergence(p, q)))
        return np.asarray(value, dtype=evidence.logits.dtype)

    return function


def _lone_is_corroborated(ns: Namespace, evidence: Evidence) -> Array:
    value = right.corroboration(ns, evidence)
    alone = evidence.active.sum(axis=-1, keepdims=True) < 2
    return np.where(alone, value.dtype.type(1), value)


def _silent_about_two(resolved: Resolved) -> Resolved:
    signals = [replace(s, cancels_with_two=False) for s in resolved.signals]
    return replace(resolved, signals=tuple(signals))


def _without_notes(result: Schedule, batch: ModalityBatch, spec: SchedulerSpec) -> Schedule:
    return replace(result, notes=())


_LOG_2 = float(np.log(2))

MUTANTS = (
    Mutant(
        name="self_included",
        summary="aligns with the mean of all instead of the others",
        clause="DMS-Q-006",
        resolved=signal("alignment", _including_self),
    ),
    Mutant(
        name="sum_less_self",
        summary="takes the sum of all less itself, which cancels beside a large one",
        clause="DMS-Q-006",
        resolved=signal("alignment", _sum_less_self),
    ),
    Mutant(
        name="product_first",
        summary="adds small features as p x h / q, and p x h underflows",
        clause="DMS-N-007",
        namespace=primitives(alignment=_product_first),
    ),
    Mutant(
        name="faint_misjudged",
        summary="adds features below the normal numbers with another size than theirs",
        clause="DMS-N-007",
        namespace=primitives(alignment=_sizes_of_the_faint),
    ),
    Mutant(
        name="faint_halves_zeroed",
        summary="takes features below the normal numbers of float16 for 0, before it converts them",
        clause="DMS-N-007",
        dtype="float16",
        batch=_zeroed(float(np.finfo(np.float16).smallest_normal)),
    ),
    Mutant(
        name="small_zeroed",
        summary="takes features below 1e-31, which are normal numbers, for 0",
        clause="DMS-N-007",
        batch=_zeroed(1e-31),
    ),
    Mutant(
        name="mean_of_directions",
        summary="scales features to length one before the mean",
        clause="DMS-Q-006",
        resolved=signal("alignment", _mean_of_directions),
    ),
    Mutant(
        name="mean_of_cosines",
        summary="averages cosines instead of taking the cosine with the average",
        clause="DMS-Q-006",
        resolved=signal("alignment", _mean_of_cosines),
    ),
    Mutant(
        name="clamped_norms",
        summary="clamps norms at 1e-8, which is too large for small features",
        clause="DMS-Q-006",
        resolved=signal("alignment", _torch_like),
    ),
    Mutant(
        name="zero_vector",
        summary="divides by the norm of a zero vector",
        clause="DMS-Q-006",
        namespace=primitives(cosine=_unguarded_cosine),
    ),
    Mutant(
        name="cosine_distance",
        summary="takes the cosine distance for the cosine",
        clause="DMS-Q-006",
        resolved=signal("alignment", _distance),
    ),
    Mutant(
        name="silent_about_two",
        summary="does not say that alignment of two modalities cancels",
        clause="DMS-Q-007",
        resolved=_silent_about_two,
        result=_without_notes,
    ),
    Mutant(
        name="dot_product",
        summary="takes the dot product with the anchor",
        clause="DMS-Q-008",
        resolved=signal("anchored_alignment", _dot_product),
    ),
    Mutant(
        name="first_anchor",
        summary="takes the first modality's anchor for all",
        clause="DMS-Q-008",
        resolved=signal("anchored_alignment", _first_anchor),
    ),
    Mutant(
        name="relative_entropy",
        summary="takes the Kullback-Leibler divergence for the Jensen-Shannon one",
        clause="DMS-Q-009",
        resolved=signal("agreement", _agreement(lambda p, q: _kl(p, q) / _LOG_2)),
    ),
    Mutant(
        name="agreement_in_nats",
        summary="does not divide the divergence by log 2",
        clause="DMS-Q-009",
        resolved=signal("agreement", _agreement(_js)),
    ),
    Mutant(
        name="absent_in_mean",
        summary="counts absent modalities in the mean prediction of the others",
        clause="DMS-Q-009",
        resolved=signal("agreement", _agreement(lambda p, q: _js(p, q) / _LOG_2, absent=True)),
    ),
    Mutant(
        name="lone_agrees",
        summary="lets a lone modality agree with itself",
        clause="DMS-Q-009",
        resolved=signal("agreement", _lone_agrees),
    ),
    Mutant(
        name="corroborated_backwards",
        summary="takes corroboration's divergence of the others from the middle, not of its own",
        clause="DMS-Q-015",
        resolved=signal("corroboration", _corroboration(lambda p, q: _kl(q, (p + q) / 2))),
    ),
    Mutant(
        name="corroborated_by_agreement",
        summary="takes both halves of the divergence for corroboration",
        clause="DMS-Q-015",
        resolved=signal("corroboration", _corroboration(_js)),
    ),
    Mutant(
        name="corroboration_without_middle",
        summary="takes corroboration's divergence from the others alone, which has no bound",
        clause="DMS-Q-015",
        resolved=signal("corroboration", _corroboration(_kl)),
    ),
    Mutant(
        name="lone_is_corroborated",
        summary="lets a lone modality corroborate itself",
        clause="DMS-Q-015",
        resolved=signal("corroboration", _lone_is_corroborated),
    ),
)
