"""Checks policies that learn: the laws of the core once more, and their own."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import strategies as st

from dms_spec.conformance import drawing, oracle, strategies
from dms_spec.conformance.context import Arrays
from dms_spec.conformance.registry import Context, check
from dms_spec.spec import SchedulerSpec

_CLAUSES = {
    "learned_linear": "DMS-L-007",
    "residual_mlp": "DMS-L-008",
    "monotone": "DMS-L-009",
}
_NEEDS = tuple(f"policy:{name}" for name in drawing.LEARNED)


@check("DMS-L-007", "DMS-L-008", "DMS-L-009", "DMS-N-001", level="learned", needs=_NEEDS)
def check_learned_policies_match_the_oracle(ctx: Context) -> None:
    """For any learned policy with any parameters, every output is close to the oracle's."""

    def property_(case: strategies.Case) -> None:
        ctx.expect_exact(_CLAUSES[case.spec.policy], case.spec, case.arrays, case.parameters)

    for policy in _CLAUSES:
        ctx.given(ctx.cases(policies=(policy,)))(property_)


@check("DMS-L-007", "DMS-L-008", "DMS-L-009", level="learned", needs=_NEEDS)
def check_learned_policies_weigh_every_signal(ctx: Context) -> None:
    """Learned policies weigh all signals at once, on ordinary numbers, where no signal is 0."""
    for seed, (policy, clause) in itertools.product(range(4), _CLAUSES.items()):
        random = np.random.Generator(np.random.Philox(seed))
        arrays: Arrays = {
            "features": random.normal(size=(2, 3, 5)).astype(ctx.dtype),
            "logits": random.normal(size=(2, 3, 4)).astype(ctx.dtype),
            "mc_logits": random.normal(size=(3, 2, 3, 4)).astype(ctx.dtype),
            "present": np.ones((2, 3), dtype=bool),
        }
        spec = SchedulerSpec(
            modalities=strategies.names(3),
            policy=policy,
            signals={name: {} for name in strategies.SIGNAL_OPTIONS},
            coefficients=dict.fromkeys(reversed(strategies.SIGNAL_OPTIONS), 1.0),
        )
        parameters = drawing.parameters(spec, random, width=5, dtype=ctx.computing)
        if seed == 3:  # coefficients that are small, and not 0
            parameters["policy.theta"] -= 10
        ctx.expect_exact(clause, spec, arrays, parameters)


@check("DMS-P-001", "DMS-W-002", "DMS-W-003", level="learned", needs=_NEEDS)
def check_learned_weights_are_weights(ctx: Context) -> None:
    """Learned weights sum to one, and are exactly 0 where inactive and 1 for the only one."""

    @ctx.given(ctx.cases(policies=drawing.LEARNED))
    def property_(case: strategies.Case) -> None:
        exact = oracle.schedule(case.spec, case.arrays, case.parameters)
        weights = ctx.schedule(case.spec, case.arrays, case.parameters).weights
        on = exact.active
        ctx.expect("DMS-P-001", weights[~on] == 0, "an inactive modality has a weight")
        ctx.expect("DMS-W-001", weights >= 0, "a weight is negative")
        alone = on.sum(axis=1) == 1
        ctx.expect(
            "DMS-W-003", weights[alone][on[alone]] == 1, "the only active modality has less than 1"
        )
        total = weights[on.any(axis=1)].astype(np.float64).sum(axis=1)
        allowed = 4 * weights.shape[1] * ctx.eps
        ctx.expect("DMS-W-002", np.abs(total - 1) <= allowed, f"weights sum to {total}")


@check("DMS-L-009", level="learned", needs=("policy:monotone",))
def check_the_monotone_policy_is_monotone(ctx: Context) -> None:
    """Whatever was learned, a better signal of a modality never lowers its weight."""

    @ctx.given(
        ctx.cases(policies=("monotone",), tame=True, nonfinite=False, all_present=True),
        st.floats(0.0, 1.0),
    )
    def property_(case: strategies.Case, amount: float) -> None:
        spec = case.spec.replace(
            signals={"energy": {}, "confidence": {}},
            coefficients={"energy": 1.0, "confidence": 1.0},
        )
        parameters = {k: v for k, v in case.parameters.items() if k.startswith("policy.")}
        for name in ("theta", "hidden_weight"):  # as many rows as there are signals now
            parameters[f"policy.{name}"] = np.resize(
                parameters[f"policy.{name}"], (2, *parameters[f"policy.{name}"].shape[1:])
            )
        better = {key: array.copy() for key, array in case.arrays.items()}
        better["logits"][:, 0] += amount  # a larger energy, the same confidence
        before = ctx.schedule(spec, case.arrays, parameters)
        after = ctx.schedule(spec, better, parameters)
        fell = before.weights[:, 0] - after.weights[:, 0]
        unit = ctx.unit
        size = (
            1
            + np.abs(before.scores).max()
            + np.abs(case.arrays["logits"][:, 0]).max(
                initial=0.0, where=np.isfinite(case.arrays["logits"][:, 0])
            )
        )
        ctx.expect("DMS-L-009", fell <= 64 * unit * size, "a better signal, but a lower weight")
