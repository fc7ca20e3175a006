"""Compares fusion of evidence with the oracle, output by output, and with its own laws."""

from __future__ import annotations

from random import Random
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from dms_spec.conformance import drawing, oracle, strategies, worked_example
from dms_spec.conformance.closeness import K, finfo, scales
from dms_spec.conformance.context import Arrays, ConformanceError
from dms_spec.conformance.registry import Context, check
from dms_spec.errors import SpecError
from dms_spec.spec import SchedulerSpec
from dms_spec.types import TERMS, Schedule

Floats = NDArray[np.float64]

_NEEDS = ("policy:soundness",)
# softplus of it is 0 to every dtype: kappa is 1, and held.
_NO_REDUNDANCY = np.asarray(-30.0)


def _cases(ctx: Context, **options: bool) -> st.SearchStrategy[strategies.Case]:
    return ctx.cases(policies=("soundness",), level="evidence", **options)


def _scales(ctx: Context, case: strategies.Case) -> tuple[oracle.Exact, Arrays]:
    exact = oracle.schedule(case.spec, case.arrays, case.parameters)
    return exact, scales(case.spec, exact, case.arrays, case.parameters, ctx.computing)


def _soundness(ctx: Context, result: Schedule) -> Floats:
    there = result.soundness is not None
    ctx.expect("DMS-F-006", there, "there is no soundness")
    return np.asarray(result.soundness, dtype=np.float64)


@check("DMS-F-005", "DMS-F-006", "DMS-F-007", "DMS-L-010", needs=_NEEDS)
def check_evidence_matches_the_oracle(ctx: Context) -> None:
    """Terms, class probabilities, soundness and weights are each close to the oracle's."""

    @ctx.given(_cases(ctx))
    def property_(case: strategies.Case) -> None:
        result = ctx.schedule(case.spec, case.arrays, case.parameters)
        exact, scale = _scales(ctx, case)
        same = list(result.terms) == ["doubt", *case.spec.coefficients]
        ctx.expect("DMS-L-010", same, f"the terms are {', '.join(result.terms)}")
        for name, term in exact.terms.items():
            own = scale[f"{TERMS}{name}"]
            ctx.expect_close("DMS-L-010", f"{TERMS}{name}", result.terms[name], term, own)
        ctx.expect_close("DMS-L-010", "scores", result.scores, exact.scores, scale["scores"])
        ctx.expect_close("DMS-F-005", "fused", result.fused, exact.fused, scale["fused"])
        sound = _soundness(ctx, result).astype(ctx.computing)
        expected = np.asarray(exact.soundness)
        ctx.expect_close("DMS-F-006", "soundness", sound, expected, scale["soundness"])
        ctx.expect_close("DMS-F-007", "weights", result.weights, exact.weights, scale["weights"])


@check("DMS-F-005", needs=_NEEDS)
def check_some_doubt_is_always_left(ctx: Context) -> None:
    """However small the doubt that was learned, one modality against two does not settle it."""
    logits = [[[50.0, -50.0], [0.0, 3.0], [0.0, 3.0]]]
    case = strategies.Case(
        spec=SchedulerSpec(modalities=strategies.names(3), policy="soundness", fusion="evidence"),
        arrays={"logits": np.asarray(logits, dtype=ctx.dtype)},
        parameters={
            "policy.doubt": np.asarray(-40.0, dtype=ctx.computing),
            "policy.exponent": np.zeros(3, dtype=ctx.computing),
        },
    )
    exact, scale = _scales(ctx, case)
    fused = ctx.schedule(case.spec, case.arrays, case.parameters).fused
    ctx.expect_close("DMS-F-005", "fused", fused, exact.fused, scale["fused"])


@check("DMS-F-005", "DMS-F-006", "DMS-L-010", needs=_NEEDS)
def check_evidence_is_of_probabilities(ctx: Context) -> None:
    """Trust and soundness lie in [0, 1], classes sum to one, and no other level has soundness."""

    @ctx.given(_cases(ctx), st.sampled_from(["feature", "logit", "probability"]))
    def property_(case: strategies.Case, other: str) -> None:
        result = ctx.schedule(case.spec, case.arrays, case.parameters)
        ctx.expect("DMS-L-010", result.scores <= 0, "a trust is above 1")
        total = result.fused[result.active.any(axis=1)].astype(np.float64).sum(axis=1)
        classes = result.fused.shape[1]
        close = np.abs(total - 1) <= 4 * classes * ctx.unit
        ctx.expect("DMS-F-005", close, f"class probabilities sum to {total}")
        sound = _soundness(ctx, result)
        ctx.expect("DMS-F-006", (sound >= 0) & (sound <= 1), "a soundness is outside [0, 1]")
        ctx.expect("DMS-F-006", sound[~result.active] == 0, "an inactive modality has a soundness")
        spec = case.spec.replace(fusion=other)
        own = {k: v for k, v in case.parameters.items() if not k.startswith("fusion.")}
        without = ctx.schedule(spec, case.arrays, own)
        ctx.expect("DMS-F-006", without.soundness is None, f"there is a soundness at level {other}")


def _range(ctx: Context, case: strategies.Case) -> tuple[Schedule, Floats, Floats]:
    """Gives a result, and the least and greatest that its exact class probabilities may be."""
    result = ctx.schedule(case.spec, case.arrays, case.parameters)
    fused = result.fused.astype(np.float64)
    slack = _slack(ctx, case, "fused")
    return result, np.maximum(fused - slack, 0), fused + slack


def _slack(ctx: Context, case: strategies.Case, name: str) -> Floats:
    """Says how far an output may be off: by closeness, and fused by its last rounding on top."""
    exact, scale = _scales(ctx, case)
    allowed = K * ctx.eps * scale[name]
    if name != "fused":
        return allowed
    return allowed + 2 * ctx.unit * exact.fused + float(finfo(ctx.dtype).smallest_subnormal)


def _saying(case: strategies.Case, logits: NDArray[Any] | float, loudest: float) -> strategies.Case:
    """Gives the case other logits of its first modality, those of its first class apart."""
    arrays = {name: array.copy() for name, array in case.arrays.items()}
    arrays["logits"][:, 0] = logits
    arrays["logits"][:, 0, 0] += loudest
    strategies.fill_absent(arrays, 0.0)
    return strategies.Case(spec=case.spec, arrays=arrays, parameters=case.parameters)


def _bound(case: strategies.Case, scores: Floats, shares: Floats) -> Floats:
    """Bounds what the first modality changes of the odds of two classes, [B, C, C]."""
    g = np.minimum(np.exp(scores.astype(np.float64)), 1 - 1e-6)
    rho = 0.2
    if "fusion.redundancy" in case.parameters:
        rho = float(np.logaddexp(case.parameters["fusion.redundancy"].astype(np.float64), 0.0))
    kappa = 1 / (1 + rho * (np.maximum(g.sum(axis=1), 1) - 1))
    odds = (g[:, 0] / (1 - g[:, 0]))[:, None, None]
    return np.asarray((1 + odds / np.minimum(shares[:, None], shares)) ** kappa[:, None, None])


@check("DMS-F-008", needs=_NEEDS)
def check_no_modality_overrules_beyond_its_bound(ctx: Context) -> None:
    """What one modality says moves no odds by more than its trust and its prior allow."""

    @ctx.given(_cases(ctx, nonfinite=False), st.sampled_from([1.0, 60.0, 1e4]))
    def property_(case: strategies.Case, loud: float) -> None:
        classes = case.arrays["logits"].shape[-1]
        priors = case.parameters.get("fusion.priors", np.full((1, classes), 1 / classes))[0]
        shares = np.where(priors > 0, priors, 1.0).astype(np.float64)
        silent, low0, high0 = _range(ctx, _saying(case, np.log(shares), 0.0))
        _, low1, high1 = _range(ctx, _saying(case, -loud, 2 * loud))
        bound = _bound(case, silent.scores, shares)
        # Half-precision logits say all but nothing.
        bound = bound * np.exp(2 * ctx.unit * np.abs(np.log(shares)).max())
        gained = low1[:, :, None] * low0[:, None] <= bound * high0[:, :, None] * high1[:, None]
        lost = low0[:, :, None] * low1[:, None] <= bound * high1[:, :, None] * high0[:, None]
        ctx.expect("DMS-F-008", gained & lost, "one modality moves the odds beyond its bound")


@check("DMS-F-009", needs=_NEEDS)
def check_an_unseen_class_is_not_spoken_of(ctx: Context) -> None:
    """The logits of classes that a modality has never seen change nothing."""

    @ctx.given(_cases(ctx, nonfinite=False), st.integers(0, 2**16))
    def property_(case: strategies.Case, seed: int) -> None:
        spec = case.spec.replace(signals={n: {} for n in case.spec.coefficients})
        m, c = case.arrays["logits"].shape[-2:]
        random = np.random.Generator(np.random.Philox(seed))
        own = drawing.level(random, m, c)
        priors = np.where(random.random((m, c)) < 0.5, 0.0, own["fusion.priors"])
        own |= {"fusion.priors": priors}
        parameters = case.parameters | {k: v.astype(ctx.computing) for k, v in own.items()}
        unseen = parameters["fusion.priors"] == 0
        # Something has to be left of a row.
        left = ~np.isneginf(np.where(unseen, -np.inf, case.arrays["logits"])).all(axis=-1)
        present = case.arrays["present"] & left

        def with_(value: float) -> Arrays:
            logits = np.where(unseen, np.asarray(value, ctx.dtype), case.arrays["logits"])
            return case.arrays | {"logits": logits, "present": present}

        first = ctx.schedule(spec, with_(0.0), parameters)
        for value in (-np.inf, 50.0, 1e4):
            other, what = with_(value), f"{value} for a class never seen"
            second = ctx.schedule(spec, other, parameters)
            ctx.expect_same("DMS-F-009", first, second, what, spec, with_(0.0), parameters)


@check("DMS-F-010", needs=_NEEDS)
def check_more_trust_is_never_less_belief(ctx: Context) -> None:
    """More trust in a modality never lowers its soundness, its weight, or the odds for its case."""

    @ctx.given(
        _cases(ctx, nonfinite=False), st.sampled_from([0.1, 1.0, 4.0]), st.integers(0, 2**16)
    )
    def property_(case: strategies.Case, amount: float, seed: int) -> None:
        spec = case.spec.replace(signals={"typicality": {}}, coefficients={"typicality": 1.0})
        parameters = drawing.parameters(
            spec,
            np.random.Generator(np.random.Philox(seed)),
            width=case.arrays["features"].shape[-1],
            classes=case.arrays["logits"].shape[-1],
            dtype=ctx.computing,
            optional=True,
        ) | {"fusion.redundancy": _NO_REDUNDANCY.astype(ctx.computing)}
        exponent = parameters["policy.exponent"].copy()
        exponent[0] -= amount  # of a signal that is at most 0
        more = parameters | {"policy.exponent": exponent}
        one, two = (
            strategies.Case(spec=spec, arrays=case.arrays, parameters=each)
            for each in (parameters, more)
        )
        before, low0, high0 = _range(ctx, one)
        after, low1, high1 = _range(ctx, two)
        _soundness(ctx, after)
        for name in ("soundness", "weights"):
            fell = getattr(before, name).astype(np.float64) - getattr(after, name)
            allowed = _slack(ctx, one, name) + _slack(ctx, two, name)
            held = fell[:, 0] <= allowed[:, 0]
            ctx.expect("DMS-F-010", held, f"more trust, but less {name}")
        said = _said(case, before.active[:, 0], parameters["fusion.priors"][0])
        for_less = said[:, :, None] <= said[:, None]  # y is spoken for no more than y'
        held = low1[:, :, None] * low0[:, None] <= high0[:, :, None] * high1[:, None]
        ctx.expect("DMS-F-010", ~for_less | held, "more trust, but worse odds for its case")


def _said(case: strategies.Case, active: NDArray[np.bool_], prior: NDArray[Any]) -> Floats:
    """Computes log q of the first modality, [B, C]."""
    rows = np.where(active[:, None], case.arrays["logits"][:, 0], 0.0)
    shares = [float(share) for share in prior]
    return np.array([oracle.log_ratios([float(x) for x in row], shares) for row in rows])


@check("DMS-F-011", "DMS-C-005", needs=_NEEDS)
def check_evidence_without_parameters(ctx: Context) -> None:
    """Without parameters all classes are equally likely, and a note says so."""

    @ctx.given(_cases(ctx))
    def property_(case: strategies.Case) -> None:
        m, c = case.arrays["logits"].shape[-2:]
        bare = {k: v for k, v in case.parameters.items() if not k.startswith("fusion.")}
        plain = ctx.schedule(case.spec, case.arrays, bare)
        told = any("fusion" in note and "equally likely" in note for note in plain.notes)
        ctx.expect("DMS-F-011", told, "no note says that classes count as equally likely")
        uniform = {
            "fusion.prior": np.full(c, 1 / c),
            "fusion.priors": np.full((m, c), 1 / c),
            "fusion.redundancy": np.asarray(np.log(np.expm1(0.2))),
        }
        given = bare | {k: v.astype(ctx.computing) for k, v in uniform.items()}
        same = ctx.schedule(case.spec, case.arrays, given)
        alone = strategies.Case(spec=case.spec, arrays=case.arrays, parameters=bare)
        for name in ("fused", "soundness", "weights"):
            off = np.abs(getattr(plain, name) - getattr(same, name).astype(np.float64))
            close = off <= 2 * _slack(ctx, alone, name)
            ctx.expect("DMS-F-011", close, f"{name} is not that of equal classes")


@check("DMS-F-012", "DMS-W-004", needs=_NEEDS)
def check_evidence_of_what_is_absent_or_reordered(ctx: Context) -> None:
    """A modality that is never there changes nothing, and order does not matter."""

    @ctx.given(_cases(ctx), st.randoms(use_true_random=False))
    def property_(case: strategies.Case, random: Random) -> None:
        order = list(range(len(case.spec.modalities)))
        random.shuffle(order)
        _hold(ctx, "DMS-W-004", case, order)
        fewer = order[: max(1, len(order) - 1)]
        present = case.arrays["present"] & np.isin(np.arange(len(order)), fewer)
        there = strategies.Case(
            spec=case.spec,
            arrays=case.arrays | {"present": present},
            parameters=case.parameters,
        )
        _hold(ctx, "DMS-F-012", there, fewer)


def _hold(ctx: Context, clause: str, case: strategies.Case, kept: list[int]) -> None:
    """Compares a case with what it gives with these modalities alone, in this order."""
    part = strategies.of_modalities(case, kept)
    one = ctx.schedule(case.spec, case.arrays, case.parameters)
    other = ctx.schedule(part.spec, part.arrays, part.parameters)
    for name in ("soundness", "weights", "fused"):
        expected, allowed = getattr(one, name).astype(np.float64), 2 * _slack(ctx, case, name)
        if name != "fused":
            expected, allowed = expected[:, kept], allowed[:, kept]
        off = np.abs(getattr(other, name) - expected)
        ctx.expect(clause, off <= allowed, f"{name} is another")


@check("DMS-L-011", needs=_NEEDS)
def check_what_is_no_trust_is_refused(ctx: Context) -> None:
    """Evidence refuses policies and signals that do not give logs of trust."""
    rule = worked_example.SPEC
    rank = rule.replace(fusion="evidence")
    weigh = SchedulerSpec(
        modalities=rule.modalities,
        policy="soundness",
        signals={"confidence": {}},
        coefficients={"confidence": 1.0},
    )
    for spec, who in ((rank, "linear"), (weigh, "confidence")):
        try:
            ctx.backend.scheduler(spec, device=ctx.device)
        except SpecError as error:
            ctx.expect("DMS-L-011", who in str(error), f"the refusal does not name {who}: {error}")
        else:
            raise ConformanceError(f"DMS-L-011: {who} was taken for a log of trust")
