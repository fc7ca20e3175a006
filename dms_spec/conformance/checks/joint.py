"""Checks the joint expert of a fitted artifact, and that what is absent gets no gradient."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dms_spec.artifact import Artifact
from dms_spec.conformance import strategies
from dms_spec.conformance.context import Arrays, ConformanceError
from dms_spec.conformance.fitted import Heads, draw_artifact, draw_rows
from dms_spec.conformance.fitted_answers import FittedCase
from dms_spec.conformance.fitted_cases import (
    FILLERS,
    NEEDS,
    SIZES,
    as_moved,
    expect_near,
    expect_probabilities,
    fitted_case,
    spec_of,
)
from dms_spec.conformance.registry import Context, check
from dms_spec.engine.array_backend import ArrayBackend
from dms_spec.equations.heads import apply_heads
from dms_spec.equations.joint import joint_logits, with_joint
from dms_spec.errors import (
    ArtifactError,
)
from dms_spec.interface.backend import Differentiable
from dms_spec.spec import SchedulerSpec
from dms_spec.types import Schedule

Floats = NDArray[np.float64]

_Values = NDArray[Any]


def _predict(
    ctx: Context, case: FittedCase, embeddings: Arrays | None = None
) -> tuple[Schedule, NDArray[Any]]:
    return ctx.rows(case.artifact).predict(embeddings or case.embeddings, case.present)


@check("DMS-D-007", "DMS-D-008", level="heads", needs=(*NEEDS, "policy:soundness"))
def check_a_joint_expert(ctx: Context) -> None:
    """A joint expert has its share of the class probabilities, and none where one is missing."""
    for random, (sizes, _) in ctx.grid(SIZES[:4], range(4)):
        spec = spec_of("soundness", "evidence", len(sizes.widths))
        case = fitted_case(ctx, random, spec, replace(sizes, features=0), count=6, joint=True)
        _, p = _predict(ctx, case)
        expect_probabilities(ctx, "DMS-D-007", case, p)
        total = p.astype(np.float64).sum(axis=1)
        close = np.abs(total - 1) <= 8 * (p.shape[1] + 5) * ctx.eps
        ctx.expect("DMS-D-007", close, f"class probabilities sum to {total}")
        own = case.artifact.parameters
        bare = {k: v for k, v in own.items() if not k.startswith("joint.")}
        silent = Artifact(spec=spec, parameters=bare, model=case.artifact.model)
        _, plain = ctx.rows(silent).predict(case.embeddings, case.present)
        missing = ~case.exact.active.all(axis=1)
        what = "class probabilities where a modality is missing, beside those without the expert"
        at = case.probability_scale[missing]
        expect_near(ctx, "DMS-D-008", p[missing], plain[missing], at, what)


@check("DMS-D-008", level="heads", needs=(*NEEDS, "policy:soundness"))
def check_a_joint_expert_that_overflows(ctx: Context) -> None:
    """Where the logits of a joint expert overflow, it says nothing."""
    for random, _ in ctx.grid(range(3)):
        spec = SchedulerSpec(modalities=strategies.names(2), policy="soundness", fusion="evidence")
        sizes = Heads(widths=(3, 4), features=0)
        case = fitted_case(ctx, random, spec, sizes, count=3, joint=True)
        own = dict(case.artifact.parameters)
        largest = float(np.finfo(ctx.computing).max)
        own["joint.m0.weight"] = np.full_like(own["joint.m0.weight"], largest)
        own["heads.m0.scale.unit"] = own["heads.m0.scale.unit"] / 4
        loud = replace(case.artifact, parameters=own)
        bare = {k: v for k, v in own.items() if not k.startswith("joint.")}
        embeddings = {name: np.abs(x) + 8 for name, x in case.embeddings.items()}
        present = np.ones_like(case.present)
        (_, p), (_, plain) = (
            ctx.rows(artifact).predict(embeddings, present)
            for artifact in (loud, replace(loud, parameters=bare))
        )
        what = "class probabilities beside an expert that overflows"
        expect_near(ctx, "DMS-D-008", p, plain, np.ones(()), what)


@check("DMS-D-010", level="heads", needs=(*NEEDS, "policy:soundness"))
def check_damaged_joint_experts_are_refused(ctx: Context) -> None:
    """A joint expert that lacks a part, does not fit, or has no share is refused."""
    random = np.random.Generator(np.random.Philox(5))
    spec = spec_of("soundness", "evidence", 3)
    whole = draw_artifact(random, spec, Heads(features=0), ctx.computing, joint=True)
    ctx.rows(whole)
    own = whole.parameters
    damage: dict[str, tuple[str, Any]] = {
        "no bias": ("joint.bias", None),
        "no share": ("joint.share", None),
        "no part for a modality": ("joint.m1.weight", None),
        "a bias of other classes": ("joint.bias", own["joint.bias"][:-1]),
        "a part of another width": ("joint.m2.weight", own["joint.m2.weight"][:-1]),
        "a share above 1": ("joint.share", np.asarray(1.25, ctx.computing)),
        "a share below 0": ("joint.share", np.asarray(-0.25, ctx.computing)),
        "two shares": ("joint.share", np.full(2, 0.5, ctx.computing)),
    }
    for what, (name, value) in damage.items():
        changed = {k: v for k, v in ({**own, name: value}).items() if v is not None}
        try:
            ctx.rows(replace(whole, parameters=changed))
        except ArtifactError:
            continue
        raise ConformanceError(f"DMS-D-010: a joint expert with {what} was not refused")


@check(
    "DMS-D-004", "DMS-D-009",
    level="heads", needs=("arrays", "gradients"), dtypes=("float64", "float32"),
)  # fmt: skip
def check_absent_embeddings_get_no_gradient(ctx: Context) -> None:
    """Absent embeddings get no gradient from heads or joint expert, and change no other."""
    for random, (joint,) in ctx.grid((False, True)):
        spec = SchedulerSpec(modalities=strategies.names(3), policy=ctx.plain_policy())
        sizes = SIZES[0]
        artifact = draw_artifact(random, spec, sizes, ctx.computing, joint=joint)
        embeddings, present = draw_rows(random, artifact, sizes, 4, ctx.dtype)
        clause = "DMS-D-009" if joint else "DMS-D-004"
        seen: dict[str, NDArray[Any]] = {}
        for filler in (0.0, *FILLERS):
            filled = {
                name: np.where(present[:, m, None], x, np.asarray(filler, x.dtype))
                for m, (name, x) in enumerate(embeddings.items())
            }
            found = _gradients(ctx, artifact, filled, present, joint=joint)
            seen = seen or found
            for m, (name, gradient) in enumerate(found.items()):
                absent = gradient[~present[:, m]]
                ctx.expect(clause, np.isfinite(gradient), f"the gradient by {name} is not finite")
                ctx.expect(clause, absent == 0, f"absent embeddings of {name} get a gradient")
                there = gradient[present[:, m]]
                ctx.expect(clause, (there != 0).any(), f"embeddings of {name} get no gradient")
                same = gradient == seen[name]
                ctx.expect(clause, same, f"{filler:g} in what is absent changes a gradient")


def _gradients(
    ctx: Context, artifact: Artifact, embeddings: Arrays, present: NDArray[np.bool_], *, joint: bool
) -> dict[str, NDArray[Any]]:
    """Of the squares of everything that comes out, by the embeddings of each modality."""
    backend = ctx.backend
    assert isinstance(backend, ArrayBackend)  # noqa: S101 - the check needs arrays
    assert isinstance(backend, Differentiable)  # noqa: S101 - and gradients
    ns, names = backend.namespace(ctx.device), artifact.spec.modalities
    xp, there = ns.xp, backend.from_numpy(present, ctx.device)
    own = {k: as_moved(ctx, ns, v) for k, v in artifact.parameters.items()}
    classes = len(artifact.model["classes"])
    shape = (len(present), classes)
    even = backend.from_numpy(np.full(shape, 1 / classes, ctx.computing), ctx.device)
    sound = backend.from_numpy(np.where(present, 0.5, 0.0).astype(ctx.computing), ctx.device)

    def function(arrays: dict[str, Any]) -> Any:
        with ns.guard():
            if joint:
                said = joint_logits(ns, arrays, there, own, modalities=names)
                mixed = with_joint(ns, even, sound, said, own["joint.share"])
                return xp.sum(mixed * mixed) + xp.sum(said * said)
            found = apply_heads(
                ns, arrays, there, own, modalities=names, dropout=float(artifact.model["dropout"])
            )
            return sum((xp.sum(array * array) for array in found.values()), xp.sum(even) * 0.0)

    moved = {k: backend.from_numpy(v, ctx.device) for k, v in embeddings.items()}
    found = backend.gradients(function, moved)
    return {name: backend.to_numpy(array) for name, array in found.items()}
