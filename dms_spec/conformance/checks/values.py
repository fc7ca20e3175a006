"""Compares values with the oracle."""

from __future__ import annotations

import numpy as np

from dms_spec.conformance import strategies, worked_example
from dms_spec.conformance.context import ConformanceError
from dms_spec.conformance.registry import Context, check
from dms_spec.spec import SchedulerSpec


@check("DMS-N-001", "DMS-N-003", "DMS-F-001", "DMS-F-002", "DMS-L-003", "DMS-L-005", "DMS-Q-005")
def check_any_case_matches_the_oracle(ctx: Context) -> None:
    """For any spec and any batch, every output is close to the oracle's."""

    @ctx.given(ctx.cases(among=tuple(strategies.SIGNAL_OPTIONS)))
    def property_(case: strategies.Case) -> None:
        ctx.expect_exact("DMS-N-001", case.spec, case.arrays, case.parameters)


@check("DMS-N-007", "DMS-Q-006", "DMS-Q-008")
def check_faint_features(ctx: Context) -> None:
    """Features count however small they are; those below the normal numbers may all be 0."""
    tiny = float(np.finfo(ctx.computing).smallest_normal)

    def hold(case: strategies.Case) -> None:
        found = ctx.schedule(case.spec, case.arrays, case.parameters)
        h = case.arrays["features"]
        zeroed = case.arrays | {"features": np.where(np.abs(h) < tiny, np.zeros_like(h), h)}
        worst = dict(ctx.worst)
        try:
            ctx.expect_result("DMS-N-007", found, case.spec, case.arrays, case.parameters)
        except ConformanceError:
            if np.array_equal(h, zeroed["features"], equal_nan=True):
                raise
            ctx.worst = worst  # it is not off: it reads these features in the other way
            ctx.expect_result("DMS-N-007", found, case.spec, zeroed, case.parameters)

    spec = SchedulerSpec(
        modalities=strategies.names(3), policy=ctx.plain_policy(), signals={"alignment": {}}
    )
    same_size = np.array([[[0.6, 0.8], [1.0, 0.5], [0.25, -1.0]]])
    for sizes in (1.5, 40.0, 1e-4, (1.5, 40.0, 1e-2), (1e-2, 1e-4, 1.5)):
        sized = same_size * tiny * np.reshape(sizes, (-1, 1))
        hold(
            strategies.Case(spec=spec, arrays={"features": sized.astype(ctx.dtype)}, parameters={})
        )
    among = ("alignment", "anchored_alignment", "typicality")
    ctx.given(ctx.cases(faint=True, nonfinite=False, among=among))(hold)


@check("DMS-A-007", "DMS-Q-001", "DMS-Q-003", "DMS-Q-006", needs=("policy:linear",))
def check_paper_preset_matches_the_oracle(ctx: Context) -> None:
    """The preset of the method itself matches the oracle on any batch."""

    @ctx.given(strategies.batches(ctx.dtype))
    def property_(arrays: strategies.Arrays) -> None:
        m = arrays["present"].shape[1]
        spec = SchedulerSpec.preset("paper", strategies.names(m))
        ctx.expect_exact("DMS-A-007", spec, arrays, {})


@check("DMS-A-007", "DMS-W-002", "DMS-F-001", needs=("policy:linear",))
def check_worked_example(ctx: Context) -> None:
    """The specification's worked example matches, with three, two and one modality present."""
    ctx.expect_exact("DMS-A-007", worked_example.SPEC, worked_example.arrays(ctx.dtype), {})


@check("DMS-N-002")
def check_offset_logits(ctx: Context) -> None:
    """Logits offset by 1e4 give the signals of the logits as they were rounded."""

    @ctx.given(strategies.batches(ctx.dtype, tame=True, nonfinite=False))
    def property_(arrays: strategies.Arrays) -> None:
        m = arrays["present"].shape[1]
        moved = {**arrays}
        for name in ("logits", "mc_logits"):
            moved[name] = (arrays[name].astype(np.float64) + 1e4).astype(ctx.dtype)
        # No signal is weighed, so that an overflow is found here and not refused as a score.
        spec = SchedulerSpec(
            modalities=strategies.names(m),
            policy=ctx.plain_policy(),
            signals={
                "confidence": {},
                "uncertainty": {},
                "mutual_information": {},
                "agreement": {},
                "corroboration": {},
                "energy": {"temperature": 0.5},
            },
            fusion="probability",
        )
        ctx.expect_exact("DMS-N-002", spec, moved, {})


@check("DMS-N-004", "DMS-Q-001", "DMS-Q-009", "DMS-Q-010", "DMS-Q-015")
def check_ruled_out_classes(ctx: Context) -> None:
    """A class at -inf counts as probability 0: the same as if it were not there."""

    @ctx.given(strategies.batches(ctx.dtype, tame=True, nonfinite=False))
    def property_(arrays: strategies.Arrays) -> None:
        m = arrays["present"].shape[1]
        spec = SchedulerSpec(
            modalities=strategies.names(m),
            policy=ctx.plain_policy(),
            signals={
                "confidence": {"normalize": False},
                "uncertainty": {"reduction": "sum"},
                "mutual_information": {},
                "agreement": {},
                "corroboration": {},
                "energy": {},
            },
            fusion="probability",
        )
        wider = {**arrays}
        for name in ("logits", "mc_logits"):
            out = np.full((*arrays[name].shape[:-1], 1), -np.inf, dtype=ctx.dtype)
            wider[name] = np.concatenate([arrays[name], out], axis=-1)
        plain, padded = ctx.schedule(spec, arrays), ctx.schedule(spec, wider)
        for name, value in plain.signals.items():
            close = np.abs(padded.signals[name] - value) <= 64 * ctx.eps * (1 + np.abs(value))
            ctx.expect("DMS-N-004", close, f"{name} changes when a class is ruled out")
        ctx.expect("DMS-N-004", padded.fused[:, -1] == 0, "a class that is ruled out has a share")


@check("DMS-Q-001", "DMS-Q-002")
def check_confidence_range(ctx: Context) -> None:
    """Confidence lies in [0, 1], and one class gives 1."""

    @ctx.given(strategies.batches(ctx.dtype, nonfinite=False))
    def property_(arrays: strategies.Arrays) -> None:
        m = arrays["present"].shape[1]
        spec = SchedulerSpec(
            modalities=strategies.names(m), policy=ctx.plain_policy(), signals={"confidence": {}}
        )
        result = ctx.schedule(spec, arrays)
        c = result.signals["confidence"]
        ctx.expect("DMS-Q-001", (c >= 0) & (c <= 1), "confidence is outside [0, 1]")
        if arrays["logits"].shape[-1] == 1:
            ctx.expect("DMS-Q-001", c[result.active] == 1, "one class does not give 1")


@check("DMS-Q-003", "DMS-Q-004", needs=("policy:linear",))
def check_few_passes(ctx: Context) -> None:
    """Without two passes, the signals that need them are 0, and a note says so."""

    @ctx.given(strategies.batches(ctx.dtype, nonfinite=False))
    def property_(arrays: strategies.Arrays) -> None:
        m = arrays["present"].shape[1]
        spec = SchedulerSpec(
            modalities=strategies.names(m),
            signals={"uncertainty": {}, "mutual_information": {}},
            coefficients={"uncertainty": 1.0},
        )
        none = {name: array for name, array in arrays.items() if name != "mc_logits"}
        passes = (arrays["logits"][None], arrays["logits"][None][:0])
        for fewer in (none, *(none | {"mc_logits": few} for few in passes)):
            result = ctx.schedule(spec, fewer)
            for name, value in result.signals.items():
                ctx.expect("DMS-Q-004", value == 0, f"{name} is not 0 without passes")
                told = any(name in note for note in result.notes)
                ctx.expect("DMS-Q-004", told, f"no note says that {name} is 0")


@check("DMS-Q-003", "DMS-Q-005")
def check_equal_passes_have_no_variance(ctx: Context) -> None:
    """Passes that agree say nothing: uncertainty and mutual information vanish."""

    @ctx.given(strategies.batches(ctx.dtype, nonfinite=False))
    def property_(arrays: strategies.Arrays) -> None:
        m = arrays["present"].shape[1]
        spec = SchedulerSpec(
            modalities=strategies.names(m),
            policy=ctx.plain_policy(),
            signals={"uncertainty": {"reduction": "sum"}, "mutual_information": {}},
        )
        # Three, because a mean of four equal numbers has nothing to round.
        same = np.repeat(arrays["logits"][None], 3, axis=0)
        result = ctx.expect_exact("DMS-Q-003", spec, arrays | {"mc_logits": same}, {})
        told = result.signals["mutual_information"]
        ctx.expect("DMS-Q-005", told >= 0, "mutual information is below 0")


@check("DMS-Q-008", needs=("policy:linear",))
def check_anchored_alignment_counts_with_two(ctx: Context) -> None:
    """With two modalities the anchored form still moves the weights."""
    spec = SchedulerSpec(
        modalities=("a", "b"),
        signals={"anchored_alignment": {}},
        coefficients={"anchored_alignment": 1.0},
    )
    arrays = {"features": np.array([[[1.0, 0.0], [0.0, 1.0]]], dtype=ctx.dtype)}
    anchor = {"signals.anchored_alignment.anchor": np.array([2.0, 0.0], dtype=ctx.computing)}
    result = ctx.expect_exact("DMS-Q-008", spec, arrays, anchor)
    ctx.expect("DMS-Q-008", result.weights[0, 0] > 0.7, "the aligned modality gains no weight")


@check("DMS-F-003", "DMS-F-004")
def check_fused_is_a_mean(ctx: Context) -> None:
    """Fused features lie between the modalities' own; fused probabilities sum to one."""

    @ctx.given(ctx.cases(nonfinite=False))
    def property_(case: strategies.Case) -> None:
        spec, arrays = case.spec.replace(fusion="feature"), case.arrays
        # Those of fusion of evidence belong to no other level.
        parameters = {k: v for k, v in case.parameters.items() if not k.startswith("fusion.")}
        result = ctx.schedule(spec, arrays, parameters)
        some = result.active.any(axis=1)
        active = result.active[some][..., None]
        h = arrays["features"].astype(np.float64)[some]
        slack = 64 * ctx.unit * np.abs(np.where(active, h, 0.0)).max(axis=1, initial=1e-30)
        fused = result.fused.astype(np.float64)[some]
        low = np.where(active, h, np.inf).min(axis=1) - slack
        high = np.where(active, h, -np.inf).max(axis=1) + slack
        inside = (fused >= low) & (fused <= high)
        ctx.expect("DMS-F-004", inside, "fused features are outside the modalities' range")
        mixed = ctx.schedule(spec.replace(fusion="probability"), arrays, parameters)
        total = mixed.fused[mixed.active.any(axis=1)].astype(np.float64).sum(axis=1)
        allowed = 64 * ctx.unit
        ctx.expect("DMS-F-003", np.abs(total - 1) <= allowed, "fused probabilities do not sum to 1")
