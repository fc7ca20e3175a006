"""Holds mutants whose weights are right: terms, notes, presence, errors and claims are not."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dms_spec.conformance.mutants.mutant import Arrays, Call, Mutant
from dms_spec.errors import DMSError, NonFiniteInput
from dms_spec.spec import SchedulerSpec
from dms_spec.types import ModalityBatch, Schedule

_Values = NDArray[Any]
_Change = Callable[[Schedule, ModalityBatch, SchedulerSpec], Schedule]

# ---------------------------------------------------------------------------------------- terms


def _terms(change: Callable[[dict[str, _Values]], dict[str, _Values]], *policies: str) -> _Change:
    def wrong(result: Schedule, batch: ModalityBatch, spec: SchedulerSpec) -> Schedule:
        own = spec.policy in policies or not policies
        return replace(result, terms=change(dict(result.terms))) if own else result

    return wrong


def _turned(terms: dict[str, _Values]) -> dict[str, _Values]:
    """Gives each term the value of the next: they still sum to the scores."""
    values = list(terms.values())
    return dict(zip(terms, [*values[1:], *values[:1]], strict=True))


def _first_gets_the_last(terms: dict[str, _Values]) -> dict[str, _Values]:
    """Adds the last term to the first."""
    if len(terms) < 2:
        return terms
    first, last = next(iter(terms)), list(terms)[-1]
    return terms | {first: terms[first] + terms[last], last: terms[last] * 0}


def _last_left_out(terms: dict[str, _Values]) -> dict[str, _Values]:
    if len(terms) < 2:
        return terms
    merged = _first_gets_the_last(terms)
    return {name: merged[name] for name in list(merged)[:-1]}


def _with_zeros(terms: dict[str, _Values]) -> dict[str, _Values]:
    return terms | {"intercept": next(iter(terms.values())) * 0}


def _jitter_of_terms(call: Call) -> Schedule:
    """Shares a score among its terms in another way at each call."""
    result = call.schedule(call.batch)
    call.state["calls"] = call.state.get("calls", 0) + 1
    names = list(result.terms)
    if len(names) < 2 or call.state["calls"] % 2:
        return result
    moved = result.terms[names[0]] * np.float32(1e-6)
    terms = dict(result.terms)
    terms[names[0]] = terms[names[0]] - moved.astype(moved.dtype)
    return replace(result, terms=terms)


def _signals_swapped(result: Schedule, batch: ModalityBatch, spec: SchedulerSpec) -> Schedule:
    """Returns signals that are not weighed as zeros: nobody reads them."""
    own = {
        name: value if name in spec.coefficients else value * 0
        for name, value in result.signals.items()
    }
    return replace(result, signals=own) if spec.policy == "linear" else result


def _first_note(result: Schedule, batch: ModalityBatch, spec: SchedulerSpec) -> Schedule:
    return replace(result, notes=result.notes[:1])


# ------------------------------------------------------------------------------------- presence


def _too_large(name: str) -> Callable[[Call], Schedule]:
    """Takes finite numbers near the end of the range for not finite."""

    def around(call: Call) -> Schedule:
        arrays = call.batch.arrays()
        if name not in arrays:
            return call.schedule(call.batch)
        large = np.abs(np.where(np.isfinite(arrays[name]), arrays[name], 0)) > 1e37
        large = np.asarray(large.any(axis=-1))
        present = arrays.get("present", np.ones(call.batch.shape, bool))
        arrays["present"] = present & ~(large.any(axis=0) if name == "mc_logits" else large)
        return call.schedule(ModalityBatch(**arrays))

    return around


def _subnormal_is_nothing(call: Call) -> Schedule:
    arrays = call.batch.arrays()
    if "features" not in arrays:
        return call.schedule(call.batch)
    h = arrays["features"]
    light = (np.abs(h) < 1e-25).all(axis=-1) & (h != 0).any(axis=-1)
    present = arrays.get("present", np.ones(call.batch.shape, bool))
    return call.schedule(ModalityBatch(**arrays | {"present": present & ~light}))


def _empty(change: Callable[[Schedule], Schedule]) -> _Change:
    def wrong(result: Schedule, batch: ModalityBatch, spec: SchedulerSpec) -> Schedule:
        return result if batch.shape[0] else change(result)

    return wrong


def _flat(result: Schedule) -> Schedule:
    return replace(result, fused=result.fused[:, :0], weights=result.weights[:, :0])


def _wide(result: Schedule) -> Schedule:
    return result.converted(lambda array: np.zeros(array.shape))


def _bare(result: Schedule) -> Schedule:
    return replace(result, signals={}, terms={})


def _passes_cast(arrays: Arrays) -> Arrays:
    if "mc_logits" in arrays and arrays["mc_logits"].dtype.kind == "f":
        arrays["mc_logits"] = arrays["mc_logits"].astype("float32")
    return arrays


def _whole_passes(arrays: Arrays) -> Arrays:
    if "mc_logits" in arrays and arrays["mc_logits"].dtype.kind in "iub":
        arrays["mc_logits"] = arrays["mc_logits"].astype("float32")
    return arrays


def _bytes_are_presence(arrays: Arrays) -> Arrays:
    if "present" in arrays and arrays["present"].dtype == np.int8:
        arrays["present"] = arrays["present"] != 0
    return arrays


def _real_parts(arrays: Arrays) -> Arrays:
    if "logits" in arrays and arrays["logits"].dtype.kind == "c":
        arrays["logits"] = arrays["logits"].real.copy()
    return arrays


# --------------------------------------------------------------------------------------- errors


def _saying(kind: type[DMSError], change: Callable[[str], str]) -> Callable[[Call], Schedule]:
    def around(call: Call) -> Schedule:
        try:
            return call.schedule(call.batch)
        except kind as error:
            raise type(error)(change(str(error))) from None

    return around


def _first_sample(said: str) -> str:
    return re.sub(r"sample \d+", "sample 0", said)


def _without_sample(said: str) -> str:
    return re.sub(r"sample \d+", "some sample", said)


MUTANTS = (
    Mutant(
        name="terms_turned",
        summary="gives each term of a learned policy the name of another",
        clause="DMS-L-007",
        kind="terms and notes",
        result=_terms(_turned, "learned_linear"),
    ),
    Mutant(
        name="residual_in_a_signal",
        summary="adds what the network says to the term of a signal",
        clause="DMS-L-008",
        kind="terms and notes",
        result=_terms(_first_gets_the_last, "residual_mlp"),
    ),
    Mutant(
        name="rising_left_out",
        summary="names no term of its own for what a monotone network says",
        clause="DMS-L-009",
        kind="terms and notes",
        result=_terms(_last_left_out, "monotone"),
    ),
    Mutant(
        name="intercept_added",
        summary="adds a term of zeros",
        clause="DMS-N-001",
        kind="terms and notes",
        result=_terms(_with_zeros, "learned_linear", "monotone", "residual_mlp"),
    ),
    Mutant(
        name="terms_vary",
        summary="shares a score among its terms in another way at each call",
        clause="DMS-C-004",
        kind="terms and notes",
        around=_jitter_of_terms,
    ),
    Mutant(
        name="unweighed_is_nothing",
        summary="returns signals that are not weighed as zeros",
        clause="DMS-N-001",
        kind="terms and notes",
        result=_signals_swapped,
    ),
    Mutant(
        name="first_note",
        summary="returns the first of several notes",
        clause="DMS-C-005",
        kind="terms and notes",
        result=_first_note,
    ),
    Mutant(
        name="large_features_absent",
        summary="takes finite features above 1e37 for infinite",
        clause="DMS-P-004",
        kind="presence",
        around=_too_large("features"),
    ),
    Mutant(
        name="large_logits_absent",
        summary="takes finite logits above 1e37 for infinite",
        clause="DMS-P-004",
        kind="presence",
        around=_too_large("logits"),
    ),
    Mutant(
        name="large_passes_absent",
        summary="takes finite passes above 1e37 for infinite",
        clause="DMS-P-004",
        kind="presence",
        around=_too_large("mc_logits"),
    ),
    Mutant(
        name="light_is_absent",
        summary="takes features below 1e-25 for missing",
        clause="DMS-P-004",
        kind="presence",
        around=_subnormal_is_nothing,
    ),
    Mutant(
        name="empty_is_flat",
        summary="returns arrays of no columns for a batch of no samples",
        clause="DMS-S-007",
        kind="presence",
        result=_empty(_flat),
    ),
    Mutant(
        name="empty_is_wide",
        summary="returns float64 for a batch of no samples",
        clause="DMS-S-007",
        kind="presence",
        result=_empty(_wide),
    ),
    Mutant(
        name="empty_is_bare",
        summary="returns no signals and terms for a batch of no samples",
        clause="DMS-S-007",
        kind="presence",
        result=_empty(_bare),
    ),
    Mutant(
        name="passes_cast",
        summary="casts passes of a dtype that it does not claim",
        clause="DMS-C-002",
        kind="presence",
        batch=_passes_cast,
        claims=lambda claims: replace(claims, dtypes=("float32",)),
    ),
    Mutant(
        name="whole_passes",
        summary="takes passes of integers",
        clause="DMS-S-006",
        kind="presence",
        batch=_whole_passes,
    ),
    Mutant(
        name="real_parts",
        summary="takes the real parts of complex logits",
        clause="DMS-S-006",
        kind="presence",
        batch=_real_parts,
    ),
    Mutant(
        name="bytes_are_presence",
        summary="takes a presence of bytes",
        clause="DMS-S-005",
        kind="presence",
        batch=_bytes_are_presence,
    ),
    Mutant(
        name="first_sample_named",
        summary="names the first sample, whichever is not finite",
        clause="DMS-P-006",
        kind="errors",
        around=_saying(NonFiniteInput, _first_sample),
    ),
    Mutant(
        name="no_sample_named",
        summary="does not say which sample is not finite",
        clause="DMS-P-006",
        kind="errors",
        around=_saying(NonFiniteInput, _without_sample),
    ),
    Mutant(
        name="nothing_said",
        summary="refuses without a word",
        clause="DMS-E-001",
        kind="errors",
        around=_saying(DMSError, lambda said: ""),
    ),
    Mutant(
        name="gradients_claimed",
        summary="claims gradients, and has none",
        clause="DMS-C-001",
        kind="gradients",
        claims=lambda claims: replace(claims, gradients=True),
    ),
)
