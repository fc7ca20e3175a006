"""Checks the laws of weights, and of the policies behind them."""

from __future__ import annotations

from random import Random

import numpy as np
from hypothesis import strategies as st

from dms_spec.conformance import oracle, strategies
from dms_spec.conformance.closeness import K, scales
from dms_spec.conformance.registry import Context, check
from dms_spec.spec import SchedulerSpec

# Two results may each be off by K eps of the scale.
_TWICE = 2 * K


@check("DMS-W-001")
def check_weights_are_not_negative(ctx: Context) -> None:
    """Weights are 0 or more."""

    @ctx.given(ctx.cases())
    def property_(case: strategies.Case) -> None:
        result = ctx.schedule(case.spec, case.arrays, case.parameters)
        ctx.expect("DMS-W-001", result.weights >= 0, "a weight is negative")


@check("DMS-W-002")
def check_weights_sum_to_one(ctx: Context) -> None:
    """The weights of a sample with something active sum to one within 4 M eps."""

    @ctx.given(ctx.cases())
    def property_(case: strategies.Case) -> None:
        result = ctx.schedule(case.spec, case.arrays, case.parameters)
        some = result.active.any(axis=1)
        total = result.weights[some].astype(np.float64).sum(axis=1)
        allowed = 4 * result.weights.shape[1] * ctx.eps
        ctx.expect("DMS-W-002", np.abs(total - 1) <= allowed, f"weights sum to {total}")


@check("DMS-W-003")
def check_the_only_one_gets_everything(ctx: Context) -> None:
    """A single active modality has weight exactly 1."""

    @ctx.given(ctx.cases())
    def property_(case: strategies.Case) -> None:
        result = ctx.schedule(case.spec, case.arrays, case.parameters)
        alone = result.active.sum(axis=1) == 1
        weight = result.weights[alone][result.active[alone]]
        ctx.expect("DMS-W-003", weight == 1, f"the only active modality has weight {weight}")


@check("DMS-W-004")
def check_order_of_modalities_does_not_matter(ctx: Context) -> None:
    """Reordered modalities have reordered weights, and the same fused value."""

    @ctx.given(ctx.cases(), st.randoms(use_true_random=False))
    def property_(case: strategies.Case, random: Random) -> None:
        order = list(range(len(case.spec.modalities)))
        random.shuffle(order)
        turned = strategies.of_modalities(case, order)
        exact = oracle.schedule(case.spec, case.arrays, case.parameters)
        scale = scales(case.spec, exact, case.arrays, case.parameters, ctx.computing)
        one = ctx.schedule(case.spec, case.arrays, case.parameters)
        other = ctx.schedule(turned.spec, turned.arrays, turned.parameters)
        with np.errstate(invalid="ignore"):
            off = np.abs(other.weights - one.weights[:, order])
        allowed = _TWICE * ctx.eps * scale["weights"][:, order]
        ctx.expect("DMS-W-004", off <= allowed, "weights do not follow the order of the modalities")
        ctx.expect("DMS-W-004", other.active == one.active[:, order], "active does not follow")


@check("DMS-W-005")
def check_samples_do_not_see_each_other(ctx: Context) -> None:
    """A sample on its own gives what it gives in a batch, and so does a batch reversed."""

    @ctx.given(ctx.cases())
    def property_(case: strategies.Case) -> None:
        exact = oracle.schedule(case.spec, case.arrays, case.parameters)
        scale = scales(case.spec, exact, case.arrays, case.parameters, ctx.computing)
        batch = ctx.schedule(case.spec, case.arrays, case.parameters)
        last = case.arrays["present"].shape[0] - 1
        rows = {
            name: array[:, last:] if name == "mc_logits" else array[last:]
            for name, array in case.arrays.items()
        }
        alone = ctx.schedule(case.spec, rows, case.parameters)
        off = np.abs(alone.weights - batch.weights[last:])
        allowed = _TWICE * ctx.eps * scale["weights"][last:]
        ctx.expect("DMS-W-005", off <= allowed, "a sample's weights depend on its batch")
        ctx.expect("DMS-W-005", alone.active == batch.active[last:], "active depends on the batch")


@check("DMS-W-006", "DMS-L-002", needs=("policy:static",))
def check_shifting_all_scores_changes_nothing(ctx: Context) -> None:
    """The same constant on every score leaves the weights alone."""

    @ctx.given(
        strategies.batches(ctx.dtype), st.sampled_from([1.0, -7.5, 100.0, 1e4]), st.integers(0, 99)
    )
    def property_(arrays: strategies.Arrays, shift: float, seed: int) -> None:
        m = arrays["present"].shape[1]
        spec = SchedulerSpec(modalities=strategies.names(m), policy="static")
        random = np.random.Generator(np.random.Philox(seed))
        bias = np.asarray(random.normal(size=m), dtype=ctx.computing)
        moved = np.asarray(bias + ctx.computing(shift), dtype=ctx.computing)
        # What the shift rounds away of the bias is not the backend's doing.
        kept = np.asarray(moved, dtype=np.float64) - shift
        result = ctx.schedule(spec, arrays, {"policy.bias": moved})
        exact = oracle.schedule(spec, arrays, {"policy.bias": kept})
        off = np.abs(result.weights - exact.weights)
        allowed = _TWICE * ctx.eps * (1 + 2 * float(np.abs(kept).max()))
        ctx.expect("DMS-W-006", off <= allowed, "weights depend on a constant in all scores")


@check("DMS-W-007", "DMS-A-008", "DMS-L-006", needs=("policy:static", "policy:modality_dropout"))
def check_equal_scores_give_equal_weights(ctx: Context) -> None:
    """Static without a bias, and modality dropout outside training, give equal weights."""

    @ctx.given(strategies.batches(ctx.dtype))
    def property_(arrays: strategies.Arrays) -> None:
        m = arrays["present"].shape[1]
        preset = SchedulerSpec.preset("static", strategies.names(m))
        active = oracle.schedule(preset, arrays).active
        count = active.sum(axis=1, keepdims=True)
        share = np.where(active, 1 / np.maximum(count, 1), 0)
        for clause, policy in (("DMS-W-007", "static"), ("DMS-L-006", "modality_dropout")):
            result = ctx.schedule(preset.replace(policy=policy), arrays)
            off = np.abs(result.weights - share)
            ctx.expect(clause, off <= ctx.eps, "equal scores give unequal weights")


@check("DMS-L-001")
def check_terms_sum_to_scores(ctx: Context) -> None:
    """Scores are the sum of the terms beside them, so an explanation adds up."""
    policies = (*strategies.POLICIES, "modality_dropout")

    @ctx.given(ctx.cases(policies=policies))
    def property_(case: strategies.Case) -> None:
        result = ctx.schedule(case.spec, case.arrays, case.parameters)
        total, size = np.zeros(result.active.shape), np.zeros(result.active.shape)
        for term in result.terms.values():
            total += term
            size += np.abs(term)
        on = result.active
        off = np.abs(result.scores[on] - total[on])
        ctx.expect("DMS-L-001", off <= _TWICE * ctx.eps * (1 + size[on]), "terms do not add up")


@check("DMS-L-003", "DMS-L-004", needs=("policy:linear",))
def check_weights_follow_signals(ctx: Context) -> None:
    """A modality that looks better, in one signal alone, never loses weight."""

    @ctx.given(
        strategies.batches(ctx.dtype, tame=True, nonfinite=False, all_present=True),
        st.sampled_from(["confidence", "uncertainty", "anchored_alignment", "energy"]),
        st.sampled_from([0.5, 1.0, 4.0]),
        st.floats(0.0, 1.0),
    )
    def property_(arrays: strategies.Arrays, name: str, coefficient: float, amount: float) -> None:
        m, d = arrays["features"].shape[1:]
        spec = SchedulerSpec(
            modalities=strategies.names(m), signals={name: {}}, coefficients={name: coefficient}
        )
        parameters = {}
        anchor = np.linspace(1.0, 2.0, d).astype(ctx.computing)
        if name == "anchored_alignment":
            parameters["signals.anchored_alignment.anchor"] = anchor
        better = {key: array.copy() for key, array in arrays.items()}
        if name == "confidence":  # sharper logits
            better["logits"][:, 0] *= 1 + amount
        elif name == "energy":  # larger logits
            better["logits"][:, 0] += amount
        elif name == "anchored_alignment":  # closer to the anchor
            better["features"][:, 0] += (4 * amount * anchor).astype(ctx.dtype)
        elif arrays["mc_logits"].shape[0] > 1:  # every pass repeats the first
            better["mc_logits"][:, :, 0] = better["mc_logits"][:1, :, 0]
        before = ctx.schedule(spec, arrays, parameters)
        after = ctx.schedule(spec, better, parameters)
        fell = before.weights[:, 0] - after.weights[:, 0]
        # Signals of this size are rounded by a few eps; half inputs are rounded before.
        unit = ctx.unit
        allowed = 64 * unit * (1 + coefficient) * (1 + np.abs(before.signals[name][:, 0]))
        ctx.expect("DMS-L-004", fell <= allowed, f"better {name}, but a lower weight")


@check("DMS-Q-007", needs=("policy:linear",))
def check_alignment_is_inert_with_two(ctx: Context) -> None:
    """With exactly two active modalities, alignment and agreement do not move the weights."""

    @ctx.given(
        strategies.batches(ctx.dtype, nonfinite=False), st.sampled_from(["alignment", "agreement"])
    )
    def property_(arrays: strategies.Arrays, name: str) -> None:
        m = max(2, arrays["present"].shape[1])
        if arrays["present"].shape[1] < m:
            return
        arrays["present"][:] = np.arange(m) < 2
        strategies.fill_absent(arrays, np.nan)
        # A third name, absent throughout, keeps the spec from being one of two modalities.
        if m == 2:
            arrays["present"] = np.pad(arrays["present"], ((0, 0), (0, 1)))
            for key in ("features", "logits", "mc_logits"):
                pad = [(0, 0)] * arrays[key].ndim
                pad[-2] = (0, 1)
                arrays[key] = np.pad(arrays[key], pad)
        spec = SchedulerSpec(
            modalities=strategies.names(arrays["present"].shape[1]),
            signals={"confidence": {}, name: {}},
            coefficients={"confidence": 1.0, name: 4.0},
        )
        on = ctx.schedule(spec, arrays)
        off = ctx.schedule(spec.replace(coefficients={"confidence": 1.0}), arrays)
        moved = np.abs(on.weights - off.weights)
        ctx.expect(
            "DMS-Q-007", moved <= 64 * ctx.eps, f"{name} moves the weights of two modalities"
        )
