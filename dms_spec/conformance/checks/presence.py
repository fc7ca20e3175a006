"""Checks presence: absent means absent."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from dms_spec.conformance import oracle, strategies
from dms_spec.conformance.context import ConformanceError, same_bits
from dms_spec.conformance.registry import Context, check
from dms_spec.errors import NonFiniteInput, NothingPresent

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
        ctx.expect(
            "DMS-P-002",
            same_bits(*results),
            f"{one} and {other} in an absent modality give different results",
        )


@check("DMS-P-003")
def check_no_mask_means_all_present(ctx: Context) -> None:
    """Leaving out the presence mask is the same as a mask that is true throughout."""

    @ctx.given(ctx.cases(all_present=True))
    def property_(case: strategies.Case) -> None:
        bare = {name: array for name, array in case.arrays.items() if name != "present"}
        with_mask = ctx.schedule(case.spec, case.arrays, case.parameters)
        without = ctx.schedule(case.spec, bare, case.parameters)
        ctx.expect(
            "DMS-P-003", same_bits(with_mask, without), "leaving present out changes the result"
        )


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
        damaged = ctx.schedule(case.spec, arrays, case.parameters)
        ctx.expect(
            "DMS-P-004", damaged.active == exact.active, f"{kind} in {role}: active is wrong"
        )
        if not exact.active[sample, modality]:
            marked = arrays | {"present": exact.active}
            absent = ctx.schedule(case.spec, marked, case.parameters)
            ctx.expect(
                "DMS-P-005", same_bits(damaged, absent), f"{kind} in {role} changes the result"
            )

    @ctx.given(
        ctx.cases(all_present=True, nonfinite=False),
        st.sampled_from(["nan", "inf", "-inf", "row of -inf", "row of 0"]),
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
            named = any(repr(spec.modalities[m]) in str(error) for m in np.nonzero(bad)[1])
            ctx.expect("DMS-P-006", named, f"the refusal does not name the modality: {error}")
        else:
            ctx.expect("DMS-P-006", not bad.any(), "a modality that is not finite was not refused")


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
