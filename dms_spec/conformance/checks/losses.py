"""Checks the consistency loss, for backends that are array libraries."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from dms_spec.conformance import oracle, strategies
from dms_spec.conformance.checks.policies import far_apart
from dms_spec.conformance.closeness import loss_scale
from dms_spec.conformance.context import Arrays
from dms_spec.conformance.registry import Context, check
from dms_spec.engine.array_backend import ArrayBackend
from dms_spec.equations.losses import Reduction, consistency_loss
from dms_spec.spec import SchedulerSpec


def _loss(
    ctx: Context, features: NDArray[Any], weights: NDArray[Any], reduction: Reduction
) -> NDArray[Any]:
    backend = ctx.backend
    assert isinstance(backend, ArrayBackend)  # noqa: S101 - the check needs arrays
    ns = backend.namespace(ctx.device)
    moved = [backend.from_numpy(array, ctx.device) for array in (features, weights)]
    return backend.to_numpy(consistency_loss(ns, *moved, reduction=reduction))


@check("DMS-O-001", "DMS-O-002", "DMS-O-004", needs=("arrays",))
def check_consistency_loss(ctx: Context) -> None:
    """The loss of each sample is the oracle's, and its mean leaves empty samples out."""

    @ctx.given(strategies.batches(ctx.dtype, tame=True), st.integers(0, 99))
    def property_(arrays: Arrays, seed: int) -> None:
        m = arrays["present"].shape[1]
        spec = SchedulerSpec.preset("static", strategies.names(m))
        weights = ctx.schedule(spec, arrays, far_apart(ctx, m, seed)).weights
        heard = weights[..., None] > 0
        features = np.where(heard, arrays["features"], 0).astype(ctx.computing)
        got = _loss(ctx, features, weights, "none")
        exact = oracle.consistency_loss(features, weights)
        wide = features.astype(np.float64), weights.astype(np.float64)
        scale = 4 * loss_scale(*wide) + np.finfo(ctx.computing).tiny
        ctx.expect_close("DMS-O-001", "consistency_loss", got, exact, scale)
        for filler in (np.nan, np.inf, 1e4):
            filled = np.where(heard, features, filler).astype(ctx.computing)
            same = _loss(ctx, filled, weights, "none") == got
            ctx.expect("DMS-O-004", same, f"{filler} where the weight is 0 changes the loss")
        some = (weights > 0).any(axis=1)
        mean = float(_loss(ctx, features, weights, "mean"))
        wanted = float(exact[some].mean()) if some.any() else 0.0
        ctx.expect(
            "DMS-O-002",
            abs(mean - wanted) <= 64 * ctx.eps * (scale.max(initial=0.0)),
            f"the mean loss is {mean}, not {wanted}",
        )
