"""Checks heads: what a fitted artifact makes of embeddings, from its masks to its classes."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dms_spec.artifact import Artifact
from dms_spec.conformance import heads_oracle, oracle, strategies
from dms_spec.conformance.closeness import K, scales
from dms_spec.conformance.context import Arrays, ConformanceError, everything
from dms_spec.conformance.fitted import Heads, draw_artifact, draw_rows
from dms_spec.conformance.fitted_answers import FittedCase, solved, underflow
from dms_spec.conformance.fitted_cases import (
    FILLERS,
    NEEDS,
    SIZES,
    as_moved,
    expect_near,
    expect_probabilities,
    fitted_case,
    some_policy,
    spec_of,
    specs_of,
)
from dms_spec.conformance.heads_scale import (
    head_scales,
    softmax_scale,
)
from dms_spec.conformance.registry import Context, check
from dms_spec.engine.array_backend import ArrayBackend
from dms_spec.equations.heads import apply_heads
from dms_spec.errors import (
    ArtifactError,
    DTypeError,
    NonFiniteInput,
    NothingPresent,
    ShapeError,
    UnsupportedCapability,
)
from dms_spec.spec import SchedulerSpec
from dms_spec.types import Schedule

Floats = NDArray[np.float64]
_Pair = tuple[Schedule, NDArray[Any]]

_PASSES = ("uncertainty", "mutual_information")


@check("DMS-D-001", "DMS-D-011", "DMS-D-012", "DMS-D-002", level="heads", needs=NEEDS)
def check_heads_match_the_oracle(ctx: Context) -> None:
    """From embeddings of few digits, schedules and class probabilities are the oracle's."""
    for random, (turn, sizes) in ctx.grid(range(4), SIZES):
        modalities = len(sizes.widths)
        every = list(specs_of(ctx, modalities))
        for number in range(turn, len(every), 4):
            spec = every[(number + modalities) % len(every)]
            bare = spec.fusion == "evidence" and turn % 2 == 1
            case = fitted_case(ctx, random, spec, replace(sizes, features=0) if bare else sizes)
            rows = ctx.rows(case.artifact)
            result, probabilities = rows.predict(case.embeddings, case.present)
            own = case.artifact.scheduler_parameters
            ctx.expect_result("DMS-D-001", result, spec, case.arrays, own)
            expect_probabilities(ctx, "DMS-D-011", case, probabilities)
            alone = rows.unimodal(case.embeddings, case.present)
            ctx.expect_close("DMS-D-012", "unimodal", alone, case.unimodal, case.unimodal_scale)


@check("DMS-D-001", level="heads", needs=(*NEEDS, "policy:static"))
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
        ctx.expect_close("DMS-D-001", "uncertainty", got, wanted, u + underflow(ctx.computing))


@check("DMS-D-004", level="heads", needs=NEEDS)
def check_absent_embeddings_never_matter(ctx: Context) -> None:
    """Whatever the embeddings of an absent modality hold, every output has the same bits."""
    policies = dict.fromkeys((some_policy(ctx), ctx.plain_policy()))
    for random, (filler, policy) in ctx.grid(FILLERS, policies):
        spec = spec_of(policy, "feature", 3)
        case = fitted_case(ctx, random, spec, SIZES[0], joint=spec.fusion == "evidence")
        filled = {}
        for m, (name, x) in enumerate(case.embeddings.items()):
            filled[name] = np.where(case.present[:, m, None], x, np.asarray(filler, x.dtype))
        _expect_same(ctx, "DMS-D-004", case, filled, f"{filler:g} in an absent modality")


def _expect_same(
    ctx: Context, clause: str, case: FittedCase, embeddings: Arrays, what: str
) -> None:
    """Expects what a case gives from other embeddings: bits, if determinism is claimed."""
    rows = ctx.rows(case.artifact)
    pairs = [rows.predict(each, case.present) for each in (case.embeddings, embeddings)]
    (one, p), (other, q) = pairs
    own = case.artifact.scheduler_parameters
    ctx.expect_same(clause, other, one, what, case.artifact.spec, case.arrays, own)
    expect_near(ctx, clause, q, p, case.probability_scale, f"{what}: class probabilities")
    alone = [rows.unimodal(each, case.present) for each in (case.embeddings, embeddings)]
    expect_near(ctx, clause, alone[1], alone[0], np.ones(()), f"{what}: unimodal")


@check("DMS-D-004", "DMS-P-005", level="heads", needs=NEEDS)
def check_embeddings_that_are_not_finite(ctx: Context) -> None:
    """Embeddings that are present and not finite count as absent."""
    for random, (bad, place) in ctx.grid((np.nan, np.inf, -np.inf), (-1, 0, 2)):
        spec = spec_of(some_policy(ctx), "feature", 3)
        case = fitted_case(ctx, random, spec, SIZES[0], joint=spec.fusion == "evidence")
        embeddings = {name: x.copy() for name, x in case.embeddings.items()}
        embeddings["m1"][0, place] = bad
        marked = case.present.copy()
        marked[0, 1] = False
        without = solved(case.artifact, case.embeddings, marked, ctx.computing)
        rows = ctx.rows(case.artifact)
        result, p = rows.predict(embeddings, case.present)
        absent, q = rows.predict(case.embeddings, marked)
        ctx.expect("DMS-D-004", ~result.active[0, 1], f"{bad} in embeddings counts as there")
        own = case.artifact.scheduler_parameters
        what = f"{bad} in embeddings beside a modality marked absent"
        ctx.expect_same("DMS-P-005", result, absent, what, spec, without.arrays, own)
        expect_near(ctx, "DMS-P-005", p, q, without.probability_scale, what)


_ROWS = (257, 33, 1030, 2050, 5)


@check("DMS-D-002", "DMS-W-005", "DMS-C-007", level="heads", needs=NEEDS)
def check_rows_of_embeddings_are_alike(ctx: Context) -> None:
    """A row gives what it gives alone: among many, in any order, in any call."""
    for random, (count, size) in ctx.grid(_ROWS, (0, 5)):
        sizes = SIZES[size]
        spec = spec_of(some_policy(ctx), "feature", len(sizes.widths))
        spec = spec.replace(signals={**spec.signals, "mutual_information": {}})
        case = fitted_case(ctx, random, spec, sizes, count=5, joint=spec.fusion == "evidence")
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


def _expect_kept(ctx: Context, case: FittedCase, got: _Pair, wanted: _Pair, what: str) -> None:
    """Expects a schedule and class probabilities to be those of an earlier call."""
    spec, own = case.artifact.spec, case.artifact.scheduler_parameters
    ctx.expect_same("DMS-C-007", got[0], wanted[0], what, spec, case.arrays, own)
    scale, what = case.probability_scale, f"{what}: class probabilities"
    expect_near(ctx, "DMS-C-007", got[1], wanted[1], scale, what)


@check("DMS-D-013", level="heads", needs=NEEDS)
def check_heads_that_do_not_fit_are_refused(ctx: Context) -> None:
    """Heads that lack a part or do not fit are refused, and so are embeddings of other sizes."""
    random = np.random.Generator(np.random.Philox(6))
    spec = spec_of(some_policy(ctx), "logit", 3)
    whole = draw_artifact(random, spec, SIZES[0], ctx.computing, joint=False)
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
    embeddings, present = draw_rows(random, whole, SIZES[0], 4, ctx.dtype)
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
    except (ArtifactError, ShapeError, DTypeError, UnsupportedCapability) as error:
        ctx.expect("DMS-E-001", len(str(error).split()) > 2, f"{what}: {str(error)!r}")
        return
    raise ConformanceError(f"DMS-D-013: {what} are not refused")


@check("DMS-P-006", "DMS-P-008", level="heads", needs=NEEDS)
def check_refusals_on_request_reach_the_rows(ctx: Context) -> None:
    """With nonfinite="raise" or strict, rows of embeddings are refused like any batch."""
    random = np.random.Generator(np.random.Philox(8))
    asked = (("DMS-P-006", {"nonfinite": "raise"}), ("DMS-P-008", {"strict": True}))
    for clause, changes in asked:
        spec = spec_of(some_policy(ctx), "feature", 3).replace(**changes)
        artifact = draw_artifact(random, spec, SIZES[0], ctx.computing, joint=False)
        rows = ctx.rows(artifact)
        embeddings, present = draw_rows(random, artifact, SIZES[0], 5, ctx.dtype)
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
                    {k: as_moved(ctx, ns, v) for k, v in own.items()},
                    modalities=spec.modalities,
                    dropout=rate,
                    outputs=("variance",),
                )["variance"]
            )
        scale = _variance_scale(own, spec.modalities, embeddings, exact["logits"], rate)
        scale = np.where(present, scale, 0.0) + float(np.finfo(ctx.computing).tiny)
        ctx.expect("DMS-D-005", got >= 0, "a variance is negative", got)
        ctx.expect_close("DMS-D-001", "variance", got, exact["variance"], scale)


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
