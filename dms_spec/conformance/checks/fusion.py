"""Compares fusion at each level with the oracle, each in the name of its own clause."""

from __future__ import annotations

from typing import Literal

from hypothesis import strategies as st

from dms_spec.conformance import oracle, strategies
from dms_spec.conformance.checks.policies import far_apart
from dms_spec.conformance.closeness import scales
from dms_spec.conformance.registry import Context, check
from dms_spec.spec import SchedulerSpec

_NEEDS = ("policy:static",)


def _hold(ctx: Context, clause: str, level: Literal["feature", "logit", "probability"]) -> None:
    """Compares the fused value with the oracle's: weights far apart, and some that underflow."""
    batches = st.booleans().flatmap(lambda tame: strategies.batches(ctx.dtype, tame=tame))

    @ctx.given(batches, st.integers(0, 99))
    def property_(arrays: strategies.Arrays, seed: int) -> None:
        m = arrays["present"].shape[1]
        spec = SchedulerSpec(modalities=strategies.names(m), policy="static", fusion=level)
        bias = far_apart(ctx, m, seed)
        value = ctx.schedule(spec, arrays, bias).fused
        exact = oracle.schedule(spec, arrays, bias)
        scale = scales(spec, exact, arrays, bias, ctx.computing)["fused"]
        ctx.expect_close(clause, "fused", value, exact.fused, scale)


@check("DMS-F-001", needs=_NEEDS)
def check_feature_fusion(ctx: Context) -> None:
    """Fused features are the weighted sum of the features."""
    _hold(ctx, "DMS-F-001", "feature")


@check("DMS-F-002", needs=_NEEDS)
def check_logit_fusion(ctx: Context) -> None:
    """Fused logits are the weighted sum; -inf in one stays, however small its weight."""
    _hold(ctx, "DMS-F-002", "logit")


@check("DMS-F-003", needs=_NEEDS)
def check_probability_fusion(ctx: Context) -> None:
    """Fused probabilities are the weighted sum of the probabilities."""
    _hold(ctx, "DMS-F-003", "probability")
