"""Each signal alone, held to the oracle in the name of its own clause."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

from dms_spec.conformance import oracle, strategies
from dms_spec.conformance.closeness import K, scales
from dms_spec.conformance.registry import Context, check
from dms_spec.spec import SchedulerSpec


def _hold(
    ctx: Context,
    clause: str,
    name: str,
    *options: dict[str, Any],
    low: float = -np.inf,
    high: float = np.inf,
) -> None:
    """Hold one signal to the oracle, on ordinary and on hostile batches, and to its range.

    The policy is one that weighs nothing: a signal that is NaN is found here, and not refused
    as a score.
    """
    batches = st.booleans().flatmap(
        lambda tame: strategies.batches(ctx.dtype, tame=tame, spoil=False)
    )

    @ctx.given(batches, st.sampled_from(options), st.booleans(), st.integers(0, 99))
    def property_(arrays: strategies.Arrays, own: dict[str, Any], each: bool, seed: int) -> None:
        m, d = arrays["features"].shape[1:]
        spec = SchedulerSpec(modalities=strategies.names(m), policy="static", signals={name: own})
        parameters = strategies.parameters(
            spec,
            np.random.Generator(np.random.Philox(seed)),
            width=d,
            dtype=ctx.computing,
            own=each,
        )
        value = ctx.schedule(spec, arrays, parameters).signals[name]
        exact = oracle.schedule(spec, arrays, parameters)
        scale = scales(spec, exact, arrays, parameters, ctx.computing)[name]
        ctx.expect_close(clause, name, value, exact.signals[name], scale)
        inside = (value >= low) & (value <= high)
        ctx.expect(clause, inside, f"{name} is outside [{low:g}, {high:g}]")


@check("DMS-Q-001")
def check_confidence(ctx: Context) -> None:
    """Normalised confidence is the oracle's, and in [0, 1]."""
    _hold(ctx, "DMS-Q-001", "confidence", {}, {"normalize": True}, low=0, high=1)


@check("DMS-Q-002")
def check_confidence_not_normalised(ctx: Context) -> None:
    """Confidence without normalisation is one less the entropy in nats."""
    _hold(ctx, "DMS-Q-002", "confidence", {"normalize": False}, high=1)


@check("DMS-Q-003")
def check_uncertainty(ctx: Context) -> None:
    """Uncertainty is the population variance, averaged or summed over classes."""
    _hold(ctx, "DMS-Q-003", "uncertainty", {}, {"reduction": "mean"}, {"reduction": "sum"})


@check("DMS-Q-005")
def check_mutual_information(ctx: Context) -> None:
    """Mutual information is the oracle's, and never below 0."""
    _hold(ctx, "DMS-Q-005", "mutual_information", {}, low=0)


@check("DMS-Q-006")
def check_alignment(ctx: Context) -> None:
    """Alignment is the cosine with the mean of the others, whatever their sizes."""
    _hold(ctx, "DMS-Q-006", "alignment", {})
    # One beside which the others drown in a sum: they are all that its own mean is made of.
    spec = SchedulerSpec(modalities=strategies.names(3), policy="static", signals={"alignment": {}})
    large = 1e4 if ctx.dtype == "float16" else 1e10
    features = np.array([[[0.6, 0.8], [1.0, 0.5], [0.25, -1.0]]])
    features[:, 0] *= large
    arrays: strategies.Arrays = {"features": features.astype(ctx.dtype)}
    ctx.expect_exact("DMS-Q-006", spec, arrays, {})


@check("DMS-Q-008")
def check_anchored_alignment(ctx: Context) -> None:
    """Anchored alignment is the cosine with the anchor, one for all or one for each."""
    _hold(ctx, "DMS-Q-008", "anchored_alignment", {})


@check("DMS-Q-009")
def check_agreement(ctx: Context) -> None:
    """Agreement is the oracle's, and in [0, 1]."""
    _hold(ctx, "DMS-Q-009", "agreement", {}, low=0, high=1)


@check("DMS-Q-010")
def check_energy(ctx: Context) -> None:
    """Energy is the oracle's at temperatures of 1, below and above."""
    _hold(ctx, "DMS-Q-010", "energy", {}, {"temperature": 0.5}, {"temperature": 3})


@check("DMS-N-005", needs=("dtype:float32",), dtypes=("float16", "bfloat16"))
def check_halves_are_widened_first(ctx: Context) -> None:
    """Half-precision inputs give what the same numbers give in float32."""

    @ctx.given(ctx.cases(tame=True))
    def property_(case: strategies.Case) -> None:
        wide = {
            name: array if name == "present" else array.astype(np.float32)
            for name, array in case.arrays.items()
        }
        exact = oracle.schedule(case.spec, wide, case.parameters)
        scale = scales(case.spec, exact, wide, case.parameters, ctx.computing)
        results = [
            ctx.schedule(case.spec, arrays, case.parameters) for arrays in (case.arrays, wide)
        ]
        for name in (*case.spec.signals, "weights"):
            one, other = (result.arrays()[name] for result in results)
            allowed = 2 * K * ctx.eps * scale[name]
            ctx.expect("DMS-N-005", np.abs(one - other) <= allowed, f"{name} was narrowed first")
