"""Checks presence: absent means absent."""

from __future__ import annotations

import re

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from dms_spec.conformance import oracle, strategies
from dms_spec.conformance.closeness import finfo
from dms_spec.conformance.context import ConformanceError
from dms_spec.conformance.registry import Context, check
from dms_spec.errors import NonFiniteInput, NothingPresent
from dms_spec.spec import SchedulerSpec

# A whole number that stands by itself.
_NUMBER = re.compile(r"(?<![\w.])\d+(?!\w|\.\d)")

_FILLERS = (0.0, np.nan, np.inf, -np.inf, 3.0)


@check("DMS-P-001", "DMS-P-009")
def check_absent_gets_exactly_zero(ctx: Context) -> None:
    """The weight, signals and terms of an inactive modality are 0, and its score is -inf."""

    @ctx.given(ctx.cases())
    def property_(case: strategies.Case) -> None:
        result = ctx.schedule(case.spec, case.arrays, case.parameters)
        off = ~result.active
        ctx.expect("DMS-P-001", ~off[~case.arrays["present"]] == False, "an absent one is active")  # noqa: E712
        ctx.expect("DMS-P-001", result.weights[off] == 0, "an inactive modality has a weight")
        ctx.expect("DMS-P-009", np.isneginf(result.scores[off]), "its score is not -inf")
        own = {} if result.soundness is None else {"soundness": result.soundness}
        for name, value in {**result.signals, **result.terms, **own}.items():
            ctx.expect("DMS-P-009", value[off] == 0, f"its {name} is not 0")


@check("DMS-P-002")
def check_filler_never_matters(ctx: Context) -> None:
    """Whatever fills an absent modality, every output has the same bits."""

    @ctx.given(ctx.cases(), st.sampled_from(_FILLERS), st.sampled_from(_FILLERS))
    def property_(case: strategies.Case, one: float, other: float) -> None:
        results = []
        for filler in (one, other):
            arrays = {name: array.copy() for name, array in case.arrays.items()}
            strategies.fill_absent(arrays, filler)
            results.append(ctx.schedule(case.spec, arrays, case.parameters))
        what = f"{one} and {other} in an absent modality"
        first, second = results
        ctx.expect_same("DMS-P-002", first, second, what, case.spec, case.arrays, case.parameters)


@check("DMS-P-003")
def check_no_mask_means_all_present(ctx: Context) -> None:
    """Leaving out the presence mask is the same as a mask that is true throughout."""

    @ctx.given(ctx.cases(all_present=True))
    def property_(case: strategies.Case) -> None:
        bare = {name: array for name, array in case.arrays.items() if name != "present"}
        with_mask = ctx.schedule(case.spec, case.arrays, case.parameters)
        without = ctx.schedule(case.spec, bare, case.parameters)
        pair, what = (without, with_mask), "without present"
        ctx.expect_same("DMS-P-003", *pair, what, case.spec, case.arrays, case.parameters)


@check("DMS-P-004", "DMS-P-005")
def check_not_finite_counts_as_absent(ctx: Context) -> None:
    """A modality that is not finite gives the same bits as one marked absent; zeros stay usable."""

    def overwrite(case: strategies.Case, role: str, kind: str, seed: int) -> None:
        random = np.random.Generator(np.random.Philox(seed))
        arrays = {name: array.copy() for name, array in case.arrays.items()}
        b, m = arrays["present"].shape
        sample, modality = int(random.integers(b)), int(random.integers(m))
        row = arrays[role][..., sample, modality, :]
        entry = tuple(int(random.integers(size)) for size in row.shape) if row.size else None
        if entry is None:
            return
        value = float(kind.removeprefix("row of "))
        if kind.startswith("row of "):
            row[entry[:-1]] = value
        else:
            row[entry] = value
        exact = oracle.schedule(case.spec, arrays, case.parameters)
        try:
            damaged = ctx.schedule(case.spec, arrays, case.parameters)
        except NonFiniteInput as error:
            ctx.expect("DMS-P-004", False, f"{kind} in {role} is refused: {error}")
            return
        ctx.expect(
            "DMS-P-004", damaged.active == exact.active, f"{kind} in {role}: active is wrong"
        )
        if not exact.active[sample, modality]:
            marked = arrays | {"present": exact.active}
            absent = ctx.schedule(case.spec, marked, case.parameters)
            pair, what = (damaged, absent), f"{kind} in {role} beside a modality marked absent"
            ctx.expect_same("DMS-P-005", *pair, what, case.spec, marked, case.parameters)

    @ctx.given(
        ctx.cases(all_present=True, nonfinite=False),
        st.sampled_from(["nan", "inf", "-inf", "row of -inf", "row of 0", "row of -0"]),
        st.integers(0, 2**16),
    )
    def property_(case: strategies.Case, kind: str, seed: int) -> None:
        for role in ("features", "logits", "mc_logits"):
            overwrite(case, role, kind, seed)


@check("DMS-P-006")
def check_not_finite_is_refused_on_request(ctx: Context) -> None:
    """With nonfinite="raise", NaN raises in a present modality, and not in an absent one."""

    @ctx.given(ctx.cases())
    def property_(case: strategies.Case) -> None:
        spec = case.spec.replace(nonfinite="raise")
        exact = oracle.schedule(spec, case.arrays, case.parameters)
        bad = case.arrays["present"] & ~exact.active
        try:
            ctx.schedule(spec, case.arrays, case.parameters)
        except NonFiniteInput as error:
            ctx.expect("DMS-P-006", bad.any(), f"what is finite was refused: {error}")
            _expect_named(ctx, spec, bad, error)
        else:
            ctx.expect("DMS-P-006", not bad.any(), "a modality that is not finite was not refused")


def _expect_named(
    ctx: Context, spec: SchedulerSpec, bad: NDArray[np.bool_], error: Exception
) -> None:
    """Expects an error to name one of the modalities that are bad, and its sample."""
    said = str(error)
    numbers = {int(number) for number in _NUMBER.findall(said)}
    pairs = [(int(b), spec.modalities[m]) for b, m in np.argwhere(bad)]
    named = any(b in numbers and re.search(rf"\b{re.escape(m)}\b", said) for b, m in pairs)
    ctx.expect("DMS-P-006", named, f"the refusal names neither of {pairs[:4]}: {said}")


@check("DMS-P-006", "DMS-P-008", "DMS-E-001")
def check_a_sample_is_named_wherever_it_is(ctx: Context) -> None:
    """The one bad sample of a batch is found, and named, at any place."""
    names = strategies.names(3)
    for random, (count, place) in ctx.grid((300, 1030, 5, 65_600), (-1, 0.7, 1, 2)):
        row = int(place * count) if place == 0.7 else place % count
        features = random.normal(size=(count, 3, 2)).astype(ctx.dtype)
        features[row, 1, 0] = np.nan
        spec = SchedulerSpec(modalities=names, policy=ctx.plain_policy(), nonfinite="raise")
        bad = np.zeros((count, 3), dtype=bool)
        bad[row, 1] = True
        try:
            ctx.schedule(spec, {"features": features})
        except NonFiniteInput as error:
            _expect_named(ctx, spec, bad, error)
        else:
            ctx.expect("DMS-P-006", False, f"NaN in sample {row} of {count} was not refused")
        present = np.ones((count, 3), dtype=bool)
        present[row] = False
        strict = SchedulerSpec(modalities=names, policy=ctx.plain_policy(), strict=True)
        try:
            ctx.schedule(strict, {"features": features, "present": present})
        except NothingPresent as error:
            named = str(row) in _NUMBER.findall(str(error))
            ctx.expect("DMS-E-001", named, f"sample {row} is not named: {error}")
        else:
            ctx.expect("DMS-P-008", False, f"nothing in sample {row} of {count} was not refused")


@check("DMS-P-004")
def check_every_finite_number_is_usable(ctx: Context) -> None:
    """The largest and the smallest numbers of a dtype are finite, and so is what holds them."""
    info = finfo(ctx.dtype)
    numbers = [float(sign * x) for x in (info.max, info.max / 2, info.tiny) for sign in (1, -1)]

    @ctx.given(
        ctx.cases(all_present=True, nonfinite=False, tame=True),
        st.sampled_from(["features", "logits", "mc_logits"]),
        st.sampled_from(numbers),
        st.booleans(),
    )
    def property_(case: strategies.Case, role: str, number: float, whole: bool) -> None:
        # No signal: what is computed from such numbers may overflow.
        spec = SchedulerSpec(modalities=case.spec.modalities, policy=ctx.plain_policy())
        arrays = {name: array.copy() for name, array in case.arrays.items()}
        row = arrays[role][..., -1, -1, :]
        if not row.size:
            return
        if whole:
            row[...] = number
        row[..., -1] = number
        if spec.policy == "co_attention":  # its products overflow
            return
        exact = oracle.schedule(spec, arrays, {})
        result = ctx.schedule(spec, arrays)
        what = f"active is wrong beside {number:g} in {role}"
        ctx.expect("DMS-P-004", result.active == exact.active, what, result.active, exact.active)


@check("DMS-P-007", "DMS-P-008")
def check_nothing_active(ctx: Context) -> None:
    """A sample with nothing active gives zeros, or is refused with strict=True."""

    @ctx.given(ctx.cases(), st.sampled_from(_FILLERS))
    def property_(case: strategies.Case, filler: float) -> None:
        arrays = {name: array.copy() for name, array in case.arrays.items()}
        arrays["present"][0] = False
        strategies.fill_absent(arrays, filler)
        result = ctx.schedule(case.spec, arrays, case.parameters)
        ctx.expect("DMS-P-007", ~result.active[0], "something is active")
        for name, value in result.arrays().items():
            if name not in ("scores", "active"):
                ctx.expect("DMS-P-007", value[0] == 0, f"{name} is not 0 where nothing is active")
        try:
            ctx.schedule(case.spec.replace(strict=True), arrays, case.parameters)
        except NothingPresent:
            return
        raise ConformanceError("DMS-P-008: strict=True did not refuse a sample with nothing active")


@check("DMS-P-006", "DMS-P-008")
def check_what_refuses_nothing_changes_nothing(ctx: Context) -> None:
    """Where there is nothing to refuse, asking for refusals changes nothing."""

    @ctx.given(ctx.cases(nonfinite=False))
    def property_(case: strategies.Case) -> None:
        arrays = {name: array.copy() for name, array in case.arrays.items()}
        gap = ~arrays["present"].any(axis=1)
        arrays["present"][gap, 0] = True
        for name in ("features", "logits", "mc_logits"):
            arrays[name][..., gap, 0, :] = 0
        plain = ctx.schedule(case.spec, arrays, case.parameters)
        asked = ("DMS-P-006", {"nonfinite": "raise"}), ("DMS-P-008", {"strict": True})
        for clause, changes in asked:
            spec = case.spec.replace(**changes)
            try:
                result = ctx.schedule(spec, arrays, case.parameters)
            except (NonFiniteInput, NothingPresent) as error:
                ctx.expect(clause, False, f"nothing is wrong, and it is refused: {error}")
                return
            what = f"with {changes}"
            ctx.expect_same(clause, result, plain, what, spec, arrays, case.parameters)
