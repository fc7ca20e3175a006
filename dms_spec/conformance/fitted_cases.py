"""Draws cases for checks of heads."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dms_spec.conformance import oracle, strategies
from dms_spec.conformance.closeness import K
from dms_spec.conformance.context import Context
from dms_spec.conformance.fitted import Heads, draw_artifact, draw_rows
from dms_spec.conformance.fitted_answers import FittedCase, solved
from dms_spec.spec import SchedulerSpec

Floats = NDArray[np.float64]

#: What a backend has to claim.
NEEDS = ("heads",)
#: What absent embeddings may hold.
FILLERS = (np.nan, np.inf, -np.inf, 1e4)

#: The sizes of heads that are tried.
SIZES = (
    Heads(),
    Heads(widths=(9, 1, 4), rate=0.75, passes=3, classes=2),
    Heads(widths=(6,), features=2, passes=2, classes=5),
    Heads(widths=(2, 8), rate=0.0, passes=4, classes=3),
    Heads(widths=(5, 3, 3, 2), passes=0),
    Heads(widths=(33, 4), rate=0.75, passes=17, classes=9, features=6),
    Heads(widths=(300, 5), passes=34, features=19),
    Heads(widths=(3, 4), passes=2, classes=130, features=70),
)


def fitted_case(
    ctx: Context,
    random: np.random.Generator,
    spec: SchedulerSpec,
    sizes: Heads,
    *,
    count: int = 4,
    joint: bool = False,
) -> FittedCase:
    """Draws an artifact for a spec, and rows for it."""
    artifact = draw_artifact(random, spec, sizes, ctx.computing, joint=joint)
    embeddings, present = draw_rows(random, artifact, sizes, count, ctx.dtype)
    return solved(artifact, embeddings, present, ctx.computing)


def specs_of(ctx: Context, modalities: int) -> Iterator[SchedulerSpec]:
    """Goes through every policy that is claimed, and the levels in turn."""
    levels = itertools.cycle(("feature", "logit", "probability"))
    for policy in oracle.POLICIES:
        if not ctx.lacks((f"policy:{policy}",)):
            yield spec_of(policy, next(levels), modalities)


def spec_of(policy: str, level: str, modalities: int) -> SchedulerSpec:
    """A spec of a policy that reads every signal; trust has a level of its own."""
    trusts = policy == "soundness"
    weighed = strategies.DRAWN if policy in strategies.WEIGHING else ()
    weighed = ("typicality",) if trusts else weighed
    read = ("typicality", "confidence", "uncertainty") if trusts else strategies.SIGNAL_OPTIONS
    return SchedulerSpec(
        modalities=strategies.names(modalities),
        policy=policy,
        signals={name: {} for name in read},
        coefficients=dict.fromkeys(weighed, 0.7),
        fusion="evidence" if trusts else level,  # type: ignore[arg-type]
    )


def some_policy(ctx: Context) -> str:
    """Names a claimed policy that looks at most: evidence, signals, or nothing."""
    for policy in ("soundness", "linear"):
        if not ctx.lacks((f"policy:{policy}",)):
            return policy
    return ctx.plain_policy()


def expect_near(
    ctx: Context, clause: str, got: NDArray[Any], wanted: NDArray[Any], scale: Floats, what: str
) -> None:
    """Expects equal bits, if determinism is claimed, or else closeness."""
    ctx.expect(clause, got.shape == wanted.shape, f"{what} have another shape")
    allowed = 0.0 if not ctx.lacks(("deterministic",)) else 2 * K * ctx.eps * scale
    near = np.abs(got.astype(np.float64) - wanted.astype(np.float64)) <= allowed
    ctx.expect(clause, near, f"{what} differ", got, wanted)


def as_moved(ctx: Context, ns: Any, array: NDArray[Any]) -> Any:
    """An array of the backend; some libraries give a scalar an axis."""
    return ns.xp.reshape(ctx.backend.from_numpy(array, ctx.device), array.shape)


def expect_probabilities(ctx: Context, clause: str, case: FittedCase, got: NDArray[Any]) -> None:
    """Expects the class probabilities of a case."""
    own = case.probability_scale
    ctx.expect_close(clause, "probabilities", got, case.probabilities, own)
