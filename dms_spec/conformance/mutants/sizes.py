"""Holds mutants that are right for small arrays: blocks, tails, counters, narrow products."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dms_spec.conformance.mutants.mutant import Call, Mutant, fused, policy, signal
from dms_spec.equations import policies
from dms_spec.equations.namespace import Namespace
from dms_spec.errors import NonFiniteInput
from dms_spec.interface.policy import PolicyInput
from dms_spec.interface.signal import Evidence
from dms_spec.plugins import get_signal
from dms_spec.spec import SchedulerSpec
from dms_spec.types import Array, ModalityBatch, Schedule

_Values = NDArray[Any]
_Signal = Callable[..., Array]


def _of(evidence: Evidence, **arrays: Any) -> Evidence:
    """Evidence of these arrays alone."""
    return Evidence(
        active=evidence.active, dtype=evidence.dtype, parameters=evidence.parameters, **arrays
    )


def _seeing(name: str, **cut: Callable[[_Values], _Values]) -> _Signal:
    """Computes a signal from arrays that were cut."""

    def wrong(ns: Namespace, evidence: Evidence, **options: Any) -> Array:
        own = {k: change(getattr(evidence, k)) for k, change in cut.items()}
        return get_signal(name).function(ns, _of(evidence, **own), **options)

    return wrong


def _first(count: int) -> Callable[[_Values], _Values]:
    return lambda array: array[..., :count]


def _whole_blocks(size: int, least: int) -> Callable[[_Values], _Values]:
    """Leaves out the tail of arrays that are longer than some length."""

    def cut(array: _Values) -> _Values:
        length = array.shape[-1]
        return array[..., : length - length % size] if length > least else array

    return cut


def _halves_from(count: int) -> Callable[[_Values], _Values]:
    def cut(array: _Values) -> _Values:
        return array.astype("f2").astype(array.dtype) if array.shape[-1] >= count else array

    return cut


def _blocks_of_passes(ns: Namespace, evidence: Evidence) -> Array:
    """Averages what blocks of eight passes say."""
    passes = evidence.mc_logits
    parts = [passes[start : start + 8] for start in range(0, len(passes), 8)]
    found = [
        get_signal("mutual_information").function(ns, _of(evidence, mc_logits=part))
        for part in parts
        if len(part) > 1
    ]
    return np.asarray(np.mean(found, axis=0), dtype=passes.dtype)


def _fused_tail(result: Schedule, batch: ModalityBatch, spec: SchedulerSpec) -> Schedule:
    width = result.fused.shape[1]
    if width <= 32 or not width % 8:
        return result
    value = result.fused.copy()
    value[:, width - width % 8 :] = 0
    return replace(result, fused=value)


def _fused_in_halves(result: Schedule, batch: ModalityBatch, spec: SchedulerSpec) -> Schedule:
    rows = batch.features if spec.fusion == "feature" else batch.logits
    if rows.shape[-1] < 64 or spec.fusion not in ("feature", "logit"):
        return result
    narrow = result.weights.astype("f2").astype("f4")
    return fused(replace(result, weights=narrow), rows.astype("f2").astype("f4"))


def _rows_changed(change: Callable[[_Values], _Values]) -> Callable[..., Schedule]:
    def wrong(result: Schedule, batch: ModalityBatch, spec: SchedulerSpec) -> Schedule:
        return replace(result, weights=change(result.weights))

    return wrong


def _wrapped(weights: _Values) -> _Values:
    return weights[np.arange(len(weights)) % 65_536]


def _tail_repeated(size: int) -> Callable[[_Values], _Values]:
    """The last row of a tail is a copy of the row before."""

    def change(weights: _Values) -> _Values:
        if len(weights) > size and len(weights) % size:
            weights = weights.copy()
            weights[-1] = weights[-2]
        return weights

    return change


def _never_computed(weights: _Values) -> _Values:
    if len(weights) > 4096:
        weights = weights.copy()
        weights[4096:] = 0
    return weights


def _presence_of_the_first(call: Call) -> Schedule:
    """Takes the mask of the first sample for that of a whole block."""
    batch = call.batch
    if batch.present is None or batch.shape[0] <= 64:
        return call.schedule(batch)
    present = batch.present & batch.present[:1]
    return call.schedule(replace(batch, present=present))


def _bits_of_a_word(result: Schedule, batch: ModalityBatch, spec: SchedulerSpec) -> Schedule:
    """Keeps presence in the 64 bits of one number."""
    m = result.weights.shape[1]
    active = result.active[:, np.arange(m) % 64] & result.active
    weights = np.where(active, result.weights, 0)
    total = weights.sum(axis=1, keepdims=True)
    weights = (weights / np.where(total > 0, total, 1)).astype(result.weights.dtype)
    return replace(result, weights=weights)


def _narrow_attention(ns: Namespace, given: PolicyInput, **options: Any) -> Mapping[str, Array]:
    features = given.evidence.features
    if features.shape[-1] >= 128:
        features = features.astype("f2").astype(features.dtype)
    own = _of(given.evidence, features=features)
    return policies.co_attention(ns, replace(given, evidence=own), **options)


def _silent_when_large(result: Schedule, batch: ModalityBatch, spec: SchedulerSpec) -> Schedule:
    return replace(result, notes=()) if result.weights.shape[0] > 256 else result


def _index_in_the_block(call: Call) -> Schedule:
    """Says where in its block of 64 a sample is, not where in the batch."""
    try:
        return call.schedule(call.batch)
    except NonFiniteInput as error:
        said = re.sub(r"sample (\d+)", lambda m: f"sample {int(m[1]) % 64}", str(error))
        raise NonFiniteInput(said) from None


def _strict_in_the_first_block(call: Call) -> Schedule:
    if not call.spec.strict or call.batch.shape[0] <= 128:
        return call.schedule(call.batch)
    lax = call.batch
    present = np.ones(lax.shape, bool) if lax.present is None else lax.present.copy()
    present[128:] |= ~present[128:].any(axis=1, keepdims=True)
    return call.schedule(replace(lax, present=present))


_EXACT = "DMS-N-001"
_ALONE = "DMS-W-005"

MUTANTS = (
    Mutant(
        name="classes_past_1024",
        summary="computes confidence from the first 1,024 classes",
        clause=_EXACT,
        kind="size",
        resolved=signal("confidence", _seeing("confidence", logits=_first(1024))),
    ),
    Mutant(
        name="classes_past_100",
        summary="computes corroboration from the first hundred classes",
        clause=_EXACT,
        kind="size",
        resolved=signal("corroboration", _seeing("corroboration", logits=_first(100))),
    ),
    Mutant(
        name="tail_of_classes",
        summary="leaves the tail of a block of 32 classes out of energy",
        clause=_EXACT,
        kind="size",
        resolved=signal("energy", _seeing("energy", logits=_whole_blocks(32, 32))),
    ),
    Mutant(
        name="agreement_in_half",
        summary="computes agreement in half precision from 128 classes",
        clause=_EXACT,
        kind="size",
        resolved=signal("agreement", _seeing("agreement", logits=_halves_from(128))),
    ),
    Mutant(
        name="width_past_512",
        summary="aligns the first 512 entries of features",
        clause=_EXACT,
        kind="size",
        resolved=signal("alignment", _seeing("alignment", features=_first(512))),
    ),
    Mutant(
        name="tail_of_width",
        summary="leaves the tail of a block of 128 features out of alignment",
        clause=_EXACT,
        kind="size",
        resolved=signal("alignment", _seeing("alignment", features=_whole_blocks(128, 128))),
    ),
    Mutant(
        name="passes_past_16",
        summary="computes uncertainty from the first 16 passes",
        clause=_EXACT,
        kind="size",
        resolved=signal(
            "uncertainty", _seeing("uncertainty", mc_logits=lambda passes: passes[:16])
        ),
    ),
    Mutant(
        name="passes_in_blocks",
        summary="averages the mutual information of blocks of eight passes",
        clause=_EXACT,
        kind="size",
        resolved=signal("mutual_information", _blocks_of_passes),
    ),
    Mutant(
        name="fused_tail",
        summary="does not write the tail of a block of eight fused entries",
        clause=_EXACT,
        kind="size",
        result=_fused_tail,
    ),
    Mutant(
        name="half_products",
        summary="fuses in half precision from 64 entries",
        clause="DMS-C-009",
        kind="size",
        result=_fused_in_halves,
    ),
    Mutant(
        name="half_attention",
        summary="computes attention in half precision from a width of 128",
        clause=_EXACT,
        kind="size",
        resolved=policy("co_attention", _narrow_attention),
    ),
    Mutant(
        name="word_of_modalities",
        summary="keeps presence in a word of 64 bits",
        clause=_EXACT,
        kind="size",
        result=_bits_of_a_word,
    ),
    Mutant(
        name="rows_wrap",
        summary="counts rows in 16 bits",
        clause=_ALONE,
        kind="size",
        result=_rows_changed(_wrapped),
    ),
    Mutant(
        name="tail_of_32_rows",
        summary="repeats a row at the tail of a block of 32",
        clause=_ALONE,
        kind="size",
        result=_rows_changed(_tail_repeated(32)),
    ),
    Mutant(
        name="tail_of_1000_rows",
        summary="repeats a row at the tail of a block of 1,000",
        clause=_ALONE,
        kind="size",
        result=_rows_changed(_tail_repeated(1000)),
    ),
    Mutant(
        name="rows_past_4096",
        summary="never computes the rows past 4,096",
        clause=_ALONE,
        kind="size",
        result=_rows_changed(_never_computed),
    ),
    Mutant(
        name="presence_of_a_block",
        summary="in batches above 64 takes what the first sample lacks for absent",
        clause=_ALONE,
        kind="size",
        around=_presence_of_the_first,
    ),
    Mutant(
        name="silent_when_large",
        summary="leaves out the notes of batches above 256",
        clause=_ALONE,
        kind="size",
        result=_silent_when_large,
    ),
    Mutant(
        name="index_in_the_block",
        summary="names a sample by its place in its block of 64",
        clause="DMS-P-006",
        kind="size",
        around=_index_in_the_block,
    ),
    Mutant(
        name="strict_in_the_first_block",
        summary="looks for samples with nothing active among the first 128",
        clause="DMS-P-008",
        kind="size",
        around=_strict_in_the_first_block,
    ),
)
