"""Draws cases for checks of heads, and says what is exact about them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dms_spec.artifact import Artifact
from dms_spec.conformance import heads_oracle, oracle, strategies
from dms_spec.conformance.closeness import K, scales
from dms_spec.conformance.context import Arrays, Context
from dms_spec.conformance.fitted import Heads, draw_artifact, draw_rows
from dms_spec.conformance.heads_scale import joint_scale, probability_scale
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


@dataclass(frozen=True, kw_only=True)
class FittedCase:
    """Holds an artifact and rows for it, and what is exact about them.

    Attributes:
        artifact: With heads.
        embeddings: By modality.
        present: bool ``[B, M]``.
        arrays: What the heads give, as a scheduler's batch.
        exact: What the scheduler gives.
        scale: Its scales, by output.
        probabilities: The class probabilities ``[B, C]``.
        probability_scale: Their scale.
    """

    artifact: Artifact
    embeddings: Arrays
    present: NDArray[np.bool_]
    arrays: Arrays
    exact: oracle.Exact
    scale: dict[str, Floats]
    probabilities: Floats
    probability_scale: Floats


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
    return solved(ctx, artifact, embeddings, present, sizes.rate)


def solved(
    ctx: Context, artifact: Artifact, embeddings: Arrays, present: NDArray[np.bool_], rate: float
) -> FittedCase:
    """Says what is exact of some rows."""
    spec, own = artifact.spec, artifact.parameters
    found = heads_oracle.heads(spec.modalities, own, embeddings, present, rate)
    arrays: Arrays = {
        name: found[name].astype(ctx.computing) for name in ("features", "logits", "mc_logits")
    } | {"present": present}
    exact = oracle.schedule(spec, arrays, own)
    scale = scales(spec, exact, arrays, own, ctx.computing)
    prior = artifact.model["prior"]
    p = np.array(heads_oracle.probabilities(spec, exact, own, prior))
    p_scale = probability_scale(spec, exact, scale["fused"], own)
    if "joint.share" in own and exact.soundness is not None:
        said = np.array(heads_oracle.joint_logits(spec.modalities, own, embeddings, present))
        pairs = zip(exact.soundness.tolist(), said.tolist(), strict=True)
        a = np.array([heads_oracle.share(r, row, own) for r, row in pairs])
        p_scale = joint_scale(p, p_scale, said, a, exact.soundness, scale["soundness"])
        q = np.array([oracle.softmax(row) for row in said.tolist()])
        p = (1 - a[:, None]) * p + a[:, None] * q
    return FittedCase(
        artifact=artifact, embeddings=embeddings, present=present, arrays=arrays, exact=exact,
        scale=scale, probabilities=p, probability_scale=p_scale + underflow(ctx),
    )  # fmt: skip


def underflow(ctx: Context) -> float:
    """What is added to every scale for what underflows: tiny over eps."""
    return float(np.finfo(ctx.computing).smallest_normal) / ctx.eps


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
