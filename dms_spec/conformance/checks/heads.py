"""Checks heads: what a fitted artifact makes of embeddings, from its masks to its classes."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dms_spec.artifact import Artifact
from dms_spec.conformance import heads_oracle, oracle, strategies
from dms_spec.conformance.closeness import K, scales
from dms_spec.conformance.context import Arrays, ConformanceError, everything
from dms_spec.conformance.fitted import Heads, draw_artifact, draw_rows
from dms_spec.conformance.heads_scale import (
    head_scales,
    joint_scale,
    probability_scale,
    softmax_scale,
)
from dms_spec.conformance.registry import Context, check
from dms_spec.engine.array_backend import ArrayBackend
from dms_spec.equations.heads import apply_heads
from dms_spec.equations.joint import joint_logits, with_joint
from dms_spec.errors import (
    ArtifactError,
    DTypeError,
    NonFiniteInput,
    NothingPresent,
    ShapeError,
)
from dms_spec.interface.backend import Differentiable
from dms_spec.spec import SchedulerSpec
from dms_spec.types import Schedule

Floats = NDArray[np.float64]
_Pair = tuple[Schedule, NDArray[Any]]

_NEEDS = ("heads",)
_FILLERS = (np.nan, np.inf, -np.inf, 1e4)
_PASSES = ("uncertainty", "mutual_information")

_SIZES = (
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
class _Case:
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


def _case(
    ctx: Context,
    random: np.random.Generator,
    spec: SchedulerSpec,
    sizes: Heads,
    *,
    count: int = 4,
    joint: bool = False,
) -> _Case:
    artifact = draw_artifact(random, spec, sizes, ctx.computing, joint=joint)
    embeddings, present = draw_rows(random, artifact, sizes, count, ctx.dtype)
    return _solved(ctx, artifact, embeddings, present, sizes.rate)


def _solved(
    ctx: Context, artifact: Artifact, embeddings: Arrays, present: NDArray[np.bool_], rate: float
) -> _Case:
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
    return _Case(
        artifact=artifact, embeddings=embeddings, present=present, arrays=arrays, exact=exact,
        scale=scale, probabilities=p, probability_scale=p_scale,
    )  # fmt: skip


def _specs(ctx: Context, modalities: int) -> Iterator[SchedulerSpec]:
    """Goes through every policy that is claimed, and the levels in turn."""
    levels = itertools.cycle(("feature", "logit", "probability"))
    for policy in oracle.POLICIES:
        if not ctx.lacks((f"policy:{policy}",)):
            yield _spec(policy, next(levels), modalities)


def _spec(policy: str, level: str, modalities: int) -> SchedulerSpec:
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


def _some_policy(ctx: Context) -> str:
    """Names a claimed policy that looks at most: evidence, signals, or nothing."""
    for policy in ("soundness", "linear"):
        if not ctx.lacks((f"policy:{policy}",)):
            return policy
    return ctx.plain_policy()


def _predict(
    ctx: Context, case: _Case, embeddings: Arrays | None = None
) -> tuple[Schedule, NDArray[Any]]:
    return ctx.rows(case.artifact).predict(embeddings or case.embeddings, case.present)


def _expect_probabilities(ctx: Context, clause: str, case: _Case, got: NDArray[Any]) -> None:
    own = case.probability_scale
    ctx.expect_close(clause, "probabilities", got, case.probabilities, own)


@check("DMS-D-001", "DMS-D-011", "DMS-D-012", "DMS-D-002", level="heads", needs=_NEEDS)
def check_heads_match_the_oracle(ctx: Context) -> None:
    """From embeddings of few digits, schedules and class probabilities are the oracle's."""
    for random, (turn, sizes) in ctx.grid(range(4), _SIZES):
        modalities = len(sizes.widths)
        every = list(_specs(ctx, modalities))
        for number in range(turn, len(every), 4):
            spec = every[(number + modalities) % len(every)]
            bare = spec.fusion == "evidence" and turn % 2 == 1
            case = _case(ctx, random, spec, replace(sizes, features=0) if bare else sizes)
            rows = ctx.rows(case.artifact)
            result, probabilities = rows.predict(case.embeddings, case.present)
            own = case.artifact.scheduler_parameters
            ctx.expect_result("DMS-D-001", result, spec, case.arrays, own)
            _expect_probabilities(ctx, "DMS-D-011", case, probabilities)
            logits = case.arrays["logits"].astype(np.float64)
            p, p_scale = softmax_scale(logits, np.zeros_like(logits))
            alone = rows.unimodal(case.embeddings, case.present)
            ctx.expect_close("DMS-D-012", "unimodal", alone, p, p_scale)


@check("DMS-D-001", level="heads", needs=(*_NEEDS, "policy:static"))
def check_heads_of_any_numbers(ctx: Context) -> None:
    """Features and logits of any numbers are close to the oracle's, and so is what passes say."""
    rates = (0.1, 0.3, 0.6)
    for random, (rate, level, turn) in ctx.grid(rates, ("feature", "logit"), range(4)):
        sizes = Heads(widths=((6, 11), (1, 12), (9, 4), (3, 8))[turn], rate=rate, short=False)
        spec = SchedulerSpec(
            modalities=strategies.names(2),
            policy="static",
            signals={"uncertainty": {"reduction": "sum"}},
            fusion=level,
        )
        artifact = draw_artifact(random, spec, sizes, ctx.computing, joint=False)
        embeddings, present = draw_rows(random, artifact, sizes, 6, ctx.dtype)
        # What is alone has weight 1, and is fused to itself.
        present[:] = np.arange(6)[:, None] % 2 == np.arange(2)
        own = artifact.parameters
        found = heads_oracle.heads(spec.modalities, own, embeddings, present, rate)
        arrays = {n: found[n] for n in ("features", "logits", "mc_logits")} | {"present": present}
        exact = oracle.schedule(spec, arrays, artifact.scheduler_parameters)
        result, _ = ctx.rows(artifact).predict(embeddings, present)
        role = "features" if level == "feature" else "logits"
        parts = [head_scales(own, name, embeddings[name], rate) for name in spec.modalities]
        pick = np.arange(6) % 2
        scale = np.stack([part[role] for part in parts], axis=1)[np.arange(6), pick]
        ctx.expect_close("DMS-D-001", role, result.fused, exact.fused, scale)
        carried = np.stack([part["mc_logits"].max(axis=-1) for part in parts], axis=-1)
        p = np.exp(found["mc_logits"] - found["mc_logits"].max(axis=-1, keepdims=True))
        p /= p.sum(axis=-1, keepdims=True)
        most = ((p + p.mean(axis=0)) * p).sum(axis=-1)
        u = scales(spec, exact, arrays, {}, ctx.computing)["uncertainty"]
        u = np.where(present, u + 4 * (most * carried).mean(axis=0), 0.0)
        got, wanted = result.signals["uncertainty"], exact.signals["uncertainty"]
        ctx.expect_close("DMS-D-001", "uncertainty", got, wanted, u + np.finfo(ctx.computing).tiny)


@check("DMS-D-004", level="heads", needs=_NEEDS)
def check_absent_embeddings_never_matter(ctx: Context) -> None:
    """Whatever the embeddings of an absent modality hold, every output has the same bits."""
    policies = dict.fromkeys((_some_policy(ctx), ctx.plain_policy()))
    for random, (filler, policy) in ctx.grid(_FILLERS, policies):
        spec = _spec(policy, "feature", 3)
        case = _case(ctx, random, spec, _SIZES[0], joint=spec.fusion == "evidence")
        filled = {}
        for m, (name, x) in enumerate(case.embeddings.items()):
            filled[name] = np.where(case.present[:, m, None], x, np.asarray(filler, x.dtype))
        _expect_same(ctx, "DMS-D-004", case, filled, f"{filler:g} in an absent modality")


def _expect_same(ctx: Context, clause: str, case: _Case, embeddings: Arrays, what: str) -> None:
    """Expects what a case gives from other embeddings: bits, if determinism is claimed."""
    rows = ctx.rows(case.artifact)
    pairs = [rows.predict(each, case.present) for each in (case.embeddings, embeddings)]
    (one, p), (other, q) = pairs
    own = case.artifact.scheduler_parameters
    ctx.expect_same(clause, other, one, what, case.artifact.spec, case.arrays, own)
    _expect_near(ctx, clause, q, p, case.probability_scale, f"{what}: class probabilities")
    alone = [rows.unimodal(each, case.present) for each in (case.embeddings, embeddings)]
    _expect_near(ctx, clause, alone[1], alone[0], np.ones(()), f"{what}: unimodal")


def _expect_near(
    ctx: Context, clause: str, got: NDArray[Any], wanted: NDArray[Any], scale: Floats, what: str
) -> None:
    ctx.expect(clause, got.shape == wanted.shape, f"{what} have another shape")
    allowed = 0.0 if not ctx.lacks(("deterministic",)) else 2 * K * ctx.eps * scale
    near = np.abs(got.astype(np.float64) - wanted.astype(np.float64)) <= allowed
    ctx.expect(clause, near, f"{what} differ", got, wanted)


@check("DMS-D-004", "DMS-P-005", level="heads", needs=_NEEDS)
def check_embeddings_that_are_not_finite(ctx: Context) -> None:
    """Embeddings that are present and not finite count as absent."""
    for random, (bad, place) in ctx.grid((np.nan, np.inf, -np.inf), (-1, 0, 2)):
        spec = _spec(_some_policy(ctx), "feature", 3)
        case = _case(ctx, random, spec, _SIZES[0], joint=spec.fusion == "evidence")
        embeddings = {name: x.copy() for name, x in case.embeddings.items()}
        embeddings["m1"][0, place] = bad
        marked = case.present.copy()
        marked[0, 1] = False
        without = _solved(
            ctx, case.artifact, case.embeddings, marked, float(case.artifact.model["dropout"])
        )
        rows = ctx.rows(case.artifact)
        result, p = rows.predict(embeddings, case.present)
        absent, q = rows.predict(case.embeddings, marked)
        ctx.expect("DMS-D-004", ~result.active[0, 1], f"{bad} in embeddings counts as there")
        own = case.artifact.scheduler_parameters
        what = f"{bad} in embeddings beside a modality marked absent"
        ctx.expect_same("DMS-P-005", result, absent, what, spec, without.arrays, own)
        _expect_near(ctx, "DMS-P-005", p, q, without.probability_scale, what)


_ROWS = (257, 33, 1030, 2050, 5)


@check("DMS-D-002", "DMS-W-005", "DMS-C-007", level="heads", needs=_NEEDS)
def check_rows_of_embeddings_are_alike(ctx: Context) -> None:
    """A row gives what it gives alone: among many, in any order, in any call."""
    for random, (count, size) in ctx.grid(_ROWS, (0, 5)):
        sizes = _SIZES[size]
        spec = _spec(_some_policy(ctx), "feature", len(sizes.widths))
        spec = spec.replace(signals={**spec.signals, "mutual_information": {}})
        case = _case(ctx, random, spec, sizes, count=5, joint=spec.fusion == "evidence")
        rows = ctx.rows(case.artifact)
        first, p = rows.predict(case.embeddings, case.present)
        kept, p_kept = first.converted(lambda array: np.array(array)), p.copy()
        order = random.permutation(np.arange(count) % 5)
        many = {name: x[order] for name, x in case.embeddings.items()}
        found, all_p = rows.predict(many, case.present[order])
        own = case.artifact.scheduler_parameters
        allowed = ctx.allowed(spec, case.arrays, own)
        one, all_ = everything(first), everything(found)
        for name, array in all_.items():
            clause = "DMS-D-002" if name in _PASSES else "DMS-W-005"
            wanted = one[name][order]
            ctx.expect(clause, array.shape == wanted.shape, f"{name} of {count} rows")
            with np.errstate(invalid="ignore"):
                off = np.abs(array.astype(np.float64) - wanted.astype(np.float64))
            near = array == wanted
            if name in allowed:
                near |= off <= allowed[name][order]
            what = f"{name} of a row among {count} differs from that of the row among 5"
            ctx.expect(clause, near, what, array, wanted)
        near = np.abs(all_p - p[order]) <= 2 * K * ctx.eps * case.probability_scale[order]
        ctx.expect("DMS-W-005", near, f"class probabilities of {count} rows", all_p, p[order])
        turned = {name: x[::-1].copy() for name, x in case.embeddings.items()}
        rows.predict(turned, case.present[::-1].copy())  # as many rows, and others
        _expect_kept(ctx, case, (first, p), (kept, p_kept), "a result that was kept")
        again = rows.predict(case.embeddings, case.present)
        _expect_kept(ctx, case, again, (kept, p_kept), "a later call")


def _expect_kept(ctx: Context, case: _Case, got: _Pair, wanted: _Pair, what: str) -> None:
    """Expects a schedule and class probabilities to be those of an earlier call."""
    spec, own = case.artifact.spec, case.artifact.scheduler_parameters
    ctx.expect_same("DMS-C-007", got[0], wanted[0], what, spec, case.arrays, own)
    scale, what = case.probability_scale, f"{what}: class probabilities"
    _expect_near(ctx, "DMS-C-007", got[1], wanted[1], scale, what)


@check("DMS-D-007", "DMS-D-008", level="heads", needs=(*_NEEDS, "policy:soundness"))
def check_a_joint_expert(ctx: Context) -> None:
    """A joint expert has its share of the class probabilities, and none where one is missing."""
    for random, (sizes, _) in ctx.grid(_SIZES[:4], range(4)):
        spec = _spec("soundness", "evidence", len(sizes.widths))
        case = _case(ctx, random, spec, replace(sizes, features=0), count=6, joint=True)
        _, p = _predict(ctx, case)
        _expect_probabilities(ctx, "DMS-D-007", case, p)
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
        _expect_near(ctx, "DMS-D-008", p[missing], plain[missing], at, what)


@check("DMS-D-008", level="heads", needs=(*_NEEDS, "policy:soundness"))
def check_a_joint_expert_that_overflows(ctx: Context) -> None:
    """Where the logits of a joint expert overflow, it says nothing."""
    for random, _ in ctx.grid(range(3)):
        spec = SchedulerSpec(modalities=strategies.names(2), policy="soundness", fusion="evidence")
        sizes = Heads(widths=(3, 4), features=0)
        case = _case(ctx, random, spec, sizes, count=3, joint=True)
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
        _expect_near(ctx, "DMS-D-008", p, plain, np.ones(()), what)


@check("DMS-D-010", level="heads", needs=(*_NEEDS, "policy:soundness"))
def check_damaged_joint_experts_are_refused(ctx: Context) -> None:
    """A joint expert that lacks a part, does not fit, or has no share is refused."""
    random = np.random.Generator(np.random.Philox(5))
    spec = _spec("soundness", "evidence", 3)
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


@check("DMS-D-013", level="heads", needs=_NEEDS)
def check_heads_that_do_not_fit_are_refused(ctx: Context) -> None:
    """Heads that lack a part or do not fit are refused, and so are embeddings of other sizes."""
    random = np.random.Generator(np.random.Philox(6))
    spec = _spec(_some_policy(ctx), "logit", 3)
    whole = draw_artifact(random, spec, _SIZES[0], ctx.computing, joint=False)
    own = whole.parameters
    damage: dict[str, tuple[str, Any]] = {
        "no temperature": ("heads.m1.temperature", None),
        "no bias": ("heads.m2.classifier.bias", None),
        "no masks": ("heads.m0.dropout.masks", None),
        "no deviations": ("heads.m0.scale.unit", None),
        "other classes": ("heads.m1.classifier.weight", own["heads.m1.classifier.weight"][:, 1:]),
        "other passes": ("heads.m1.dropout.masks", own["heads.m1.dropout.masks"][1:]),
        "another width": ("heads.m0.scale.zero", own["heads.m0.scale.zero"][1:]),
        "a temperature of 0": ("heads.m0.temperature", np.zeros((), ctx.computing)),
        "deviations below 0": ("heads.m2.scale.unit", -own["heads.m2.scale.unit"]),
    }
    for what, (name, value) in damage.items():
        changed = {k: v for k, v in ({**own, name: value}).items() if v is not None}
        _expect_refused(ctx, f"heads with {what}", partial(_bind, ctx, whole, changed))
    embeddings, present = draw_rows(random, whole, _SIZES[0], 4, ctx.dtype)
    rows = ctx.rows(whole)
    misfits = {
        "of another width": embeddings["m1"][:, 1:],
        "of one row": embeddings["m1"][:1],
        "of rank 1": embeddings["m1"][0],
        "of whole numbers": embeddings["m1"].astype("int64"),
    }
    for what, array in misfits.items():
        given = embeddings | {"m1": array}
        _expect_refused(ctx, f"embeddings {what}", partial(rows.predict, given, present))
    whole_numbers = present.astype("int64")
    _expect_refused(ctx, "presence in numbers", partial(rows.predict, embeddings, whole_numbers))


def _bind(ctx: Context, artifact: Artifact, parameters: Arrays) -> None:
    ctx.rows(replace(artifact, parameters=parameters))


def _expect_refused(ctx: Context, what: str, call: Callable[[], object]) -> None:
    """Expects an error of the specification, with words."""
    try:
        call()
    except (ArtifactError, ShapeError, DTypeError) as error:
        ctx.expect("DMS-E-001", len(str(error).split()) > 2, f"{what}: {str(error)!r}")
        return
    raise ConformanceError(f"DMS-D-013: {what} are not refused")


@check("DMS-P-006", "DMS-P-008", level="heads", needs=_NEEDS)
def check_refusals_on_request_reach_the_rows(ctx: Context) -> None:
    """With nonfinite="raise" or strict, rows of embeddings are refused like any batch."""
    random = np.random.Generator(np.random.Philox(8))
    asked = (("DMS-P-006", {"nonfinite": "raise"}), ("DMS-P-008", {"strict": True}))
    for clause, changes in asked:
        spec = _spec(_some_policy(ctx), "feature", 3).replace(**changes)
        artifact = draw_artifact(random, spec, _SIZES[0], ctx.computing, joint=False)
        rows = ctx.rows(artifact)
        embeddings, present = draw_rows(random, artifact, _SIZES[0], 5, ctx.dtype)
        present[:, 0] = True
        rows.predict(embeddings, present)
        if clause == "DMS-P-006":
            embeddings["m0"][3, 1] = np.nan
        else:
            present[3] = False
        try:
            rows.predict(embeddings, present)
        except (NonFiniteInput, NothingPresent) as error:
            named = re.search(r"(?<!\w)3(?!\w)", str(error)) is not None
            ctx.expect(clause, named, f"the refusal does not name sample 3: {error}")
        else:
            raise ConformanceError(f"{clause}: rows were not refused with {changes}")


@check("DMS-D-001", "DMS-D-005", level="heads", needs=("arrays",))
def check_sampling_free_variance(ctx: Context) -> None:
    """The variance without sampling is the oracle's, and never negative."""
    backend = ctx.backend
    assert isinstance(backend, ArrayBackend)  # noqa: S101 - the check needs arrays
    ns = backend.namespace(ctx.device)
    for random, (sure, rate, _) in ctx.grid((1.0, 40.0), (0.5, 0.1, 0.75), range(3)):
        sizes = Heads(widths=(4, 9), rate=rate, short=False)
        spec = SchedulerSpec(modalities=strategies.names(2), policy=ctx.plain_policy())
        artifact = draw_artifact(random, spec, sizes, ctx.computing, joint=False)
        embeddings, present = draw_rows(random, artifact, sizes, 4, ctx.dtype)
        own = dict(artifact.parameters)
        for name in spec.modalities:
            own[f"heads.{name}.classifier.bias"][0] += sure  # so that one class is all but certain
        exact = heads_oracle.heads(spec.modalities, own, embeddings, present, rate)
        moved = {k: ctx.backend.from_numpy(v, ctx.device) for k, v in embeddings.items()}
        with ns.guard():
            got = backend.to_numpy(
                apply_heads(
                    ns,
                    moved,
                    backend.from_numpy(present, ctx.device),
                    {k: _as_moved(ctx, ns, v) for k, v in own.items()},
                    modalities=spec.modalities,
                    dropout=rate,
                    outputs=("variance",),
                )["variance"]
            )
        scale = _variance_scale(own, spec.modalities, embeddings, exact["logits"], rate)
        scale = np.where(present, scale, 0.0) + float(np.finfo(ctx.computing).tiny)
        ctx.expect("DMS-D-005", got >= 0, "a variance is negative", got)
        ctx.expect_close("DMS-D-001", "variance", got, exact["variance"], scale)


def _as_moved(ctx: Context, ns: Any, array: NDArray[Any]) -> Any:
    """An array of the backend; some libraries give a scalar an axis."""
    return ns.xp.reshape(ctx.backend.from_numpy(array, ctx.device), array.shape)


def _variance_scale(
    own: Arrays, names: tuple[str, ...], embeddings: Arrays, logits: Floats, rate: float
) -> Floats:
    found = []
    for m, name in enumerate(names):
        head = {k.removeprefix(f"heads.{name}."): v.astype(np.float64) for k, v in own.items()}
        tau, weight = float(head["temperature"]), np.abs(head["classifier.weight"])
        x = np.abs(embeddings[name].astype(np.float64))
        g = (x + np.abs(head["scale.zero"])) / head["scale.unit"]
        p, _ = softmax_scale(logits[:, m], np.zeros_like(logits[:, m]))
        most = head_scales(own, name, embeddings[name], rate)["logits"].max(axis=-1)
        wide = weight + weight.max(axis=-1, keepdims=True)
        parts = (p[:, None] * g[:, :, None] * wide / tau) ** 2
        found.append(4 * rate / (1 - rate) * (1 + most) * parts.sum(axis=(1, 2)))
    return np.stack(found, axis=1)


@check(
    "DMS-D-004", "DMS-D-009",
    level="heads", needs=("arrays", "gradients"), dtypes=("float64", "float32"),
)  # fmt: skip
def check_absent_embeddings_get_no_gradient(ctx: Context) -> None:
    """Absent embeddings get no gradient from heads or joint expert, and change no other."""
    for random, (joint,) in ctx.grid((False, True)):
        spec = SchedulerSpec(modalities=strategies.names(3), policy=ctx.plain_policy())
        sizes = _SIZES[0]
        artifact = draw_artifact(random, spec, sizes, ctx.computing, joint=joint)
        embeddings, present = draw_rows(random, artifact, sizes, 4, ctx.dtype)
        clause = "DMS-D-009" if joint else "DMS-D-004"
        seen: dict[str, NDArray[Any]] = {}
        for filler in (0.0, *_FILLERS):
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
    own = {k: _as_moved(ctx, ns, v) for k, v in artifact.parameters.items()}
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
