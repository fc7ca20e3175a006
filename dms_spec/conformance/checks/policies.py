"""Compares the policies of the core with the oracle, each in the name of its own clauses."""

from __future__ import annotations

import warnings

import numpy as np
from hypothesis import strategies as st

from dms_spec.conformance import oracle, strategies, worked_example
from dms_spec.conformance.closeness import scales
from dms_spec.conformance.registry import Context, check
from dms_spec.errors import DMSWarning
from dms_spec.spec import SchedulerSpec
from dms_spec.types import ModalityBatch


def far_apart(ctx: Context, modalities: int, seed: int) -> strategies.Arrays:
    """Draws a bias for `static`: some entries are near, and some so far that weights underflow."""
    random = np.random.Generator(np.random.Philox(seed))
    far = [-1e10, -1e10, -300.0, -86.0, -70.0]
    levels = random.choice([*far, 500.0, 0.0, 0.0, 0.0, 0.0], size=modalities)
    bias = levels + random.normal(size=modalities)
    return {"policy.bias": np.asarray(bias, dtype=ctx.computing)}


@check("DMS-L-002", needs=("policy:static",))
def check_static_scores(ctx: Context) -> None:
    """The scores of static are its bias, and 0 without one."""

    @ctx.given(strategies.batches(ctx.dtype), st.booleans(), st.integers(0, 99))
    def property_(arrays: strategies.Arrays, biased: bool, seed: int) -> None:
        m = arrays["present"].shape[1]
        spec = SchedulerSpec(modalities=strategies.names(m), policy="static")
        random = np.random.Generator(np.random.Philox(seed))
        bias = np.asarray(random.normal(size=m), dtype=ctx.computing)
        result = ctx.schedule(spec, arrays, {"policy.bias": bias} if biased else {})
        wanted = np.broadcast_to(bias if biased else np.zeros_like(bias), result.active.shape)
        same = result.scores[result.active] == wanted[result.active]
        ctx.expect("DMS-L-002", same, "scores are not the bias")

    @ctx.given(strategies.batches(ctx.dtype, nonfinite=False), st.integers(0, 2**16))
    def apart(arrays: strategies.Arrays, seed: int) -> None:
        m = arrays["present"].shape[1]
        spec = SchedulerSpec(modalities=strategies.names(m), policy="static")
        ctx.expect_exact("DMS-L-002", spec, arrays, far_apart(ctx, m, seed))


@check("DMS-L-003", needs=("policy:linear",))
def check_linear_terms(ctx: Context) -> None:
    """Each coefficient gives one term: its direction times the coefficient times the signal."""

    @ctx.given(ctx.cases(policies=("linear",)))
    def property_(case: strategies.Case) -> None:
        result = ctx.schedule(case.spec, case.arrays, case.parameters)
        same = set(result.terms) == set(case.spec.coefficients)
        ctx.expect("DMS-L-003", same, "the terms are not those of the coefficients")
        for name, term in result.terms.items():
            direction = -1 if name in ("uncertainty", "mutual_information") else 1
            factor = direction * case.spec.coefficients[name]
            wanted = factor * result.signals[name].astype(np.float64)
            off = np.abs(term - wanted)
            allowed = 4 * ctx.eps * np.abs(wanted) + np.finfo(ctx.computing).tiny
            ctx.expect("DMS-L-003", off <= allowed, f"the term {name} is not {factor:g} times it")


@check("DMS-L-005", needs=("policy:co_attention",))
def check_co_attention(ctx: Context) -> None:
    """The term of co-attention is the log of the attention that a modality receives."""

    @ctx.given(ctx.cases(policies=("co_attention",)))
    def property_(case: strategies.Case) -> None:
        result = ctx.schedule(case.spec, case.arrays, case.parameters)
        exact = oracle.schedule(case.spec, case.arrays, case.parameters)
        scale = scales(case.spec, exact, case.arrays, case.parameters, ctx.computing)["scores"]
        ctx.expect(
            "DMS-L-005", set(result.terms) == {"attention"}, "the only term is not 'attention'"
        )
        term, wanted = result.terms["attention"], exact.terms["attention"]
        ctx.expect_close("DMS-L-005", "attention", term, wanted, scale)


def _published(ctx: Context, policy: str, clause: str, term: str) -> None:
    """Every output of a published method is close to the oracle's, and so is its only term."""

    @ctx.given(ctx.cases(policies=(policy,)))
    def property_(case: strategies.Case) -> None:
        result = ctx.expect_exact(clause, case.spec, case.arrays, case.parameters)
        ctx.expect(clause, set(result.terms) == {term}, f"the only term is not {term!r}")


@check("DMS-L-012", "DMS-C-005", level="learned", needs=("policy:monotone",))
def check_monotone_without_parameters(ctx: Context) -> None:
    """Without parameters monotone gives the terms and scores of linear."""

    @ctx.given(ctx.cases(policies=("monotone",)))
    def property_(case: strategies.Case) -> None:
        own = {k: v for k, v in case.parameters.items() if not k.startswith("policy.")}
        result = ctx.expect_exact("DMS-L-012", case.spec, case.arrays, own)
        same = set(result.terms) == set(case.spec.coefficients)
        ctx.expect("DMS-L-012", same, f"the terms are {', '.join(result.terms)}")
        told = any("monotone" in note for note in result.notes)
        ctx.expect("DMS-C-005", told, "no note says that monotone has no parameters")


@check("DMS-C-005", needs=("policy:linear",))
def check_every_weakness_is_noted(ctx: Context) -> None:
    """Each thing that is weaker than asked for has a note, however many there are."""
    arrays = {
        name: array[..., :2] if name == "present" else array[..., :2, :]
        for name, array in worked_example.arrays(ctx.dtype).items()
        if name != "mc_logits"
    }
    weak = ("uncertainty", "mutual_information", "typicality", "alignment", "agreement")
    spec = SchedulerSpec(
        modalities=("a", "b"), signals={n: {} for n in weak}, coefficients=dict.fromkeys(weak, 1.0)
    )
    notes = ctx.schedule(spec, arrays).notes
    for name in weak:
        told = any(name in note for note in notes)
        ctx.expect("DMS-C-005", told, f"no note says that {name} is weaker: {notes}")


@check("DMS-M-001", needs=("policy:dmome",))
def check_dmome(ctx: Context) -> None:
    """The gate of SimMLM reads what is active, and nothing else."""
    _published(ctx, "dmome", "DMS-M-001", "gate")


@check("DMS-M-002", needs=("policy:qmf",))
def check_qmf(ctx: Context) -> None:
    """The weights of QMF are its energies, above the floor."""
    _published(ctx, "qmf", "DMS-M-002", "energy")


@check("DMS-M-003", needs=("policy:tmc",))
def check_tmc(ctx: Context) -> None:
    """The weights of TMC are what its opinions commit to."""
    _published(ctx, "tmc", "DMS-M-003", "commitment")


@check("DMS-M-004", needs=("arrays", "policy:linear"))
def check_vacuity(ctx: Context) -> None:
    """Vacuity is the share without evidence, lies in [0, 1], and counts against a modality."""

    @ctx.given(strategies.batches(ctx.dtype))
    def property_(arrays: strategies.Arrays) -> None:
        spec = SchedulerSpec(
            modalities=strategies.names(arrays["present"].shape[1]),
            signals={"vacuity": {}},
            coefficients={"vacuity": 2.0},
        )
        u = ctx.expect_exact("DMS-M-004", spec, arrays, {}).signals["vacuity"]
        ctx.expect("DMS-M-004", (u >= 0) & (u <= 1), "vacuity is outside [0, 1]")


@check("DMS-P-001", "DMS-W-002", needs=("policy:static",))
def check_scores_far_apart(ctx: Context) -> None:
    """However low their scores are, active modalities get all the weight, and absent ones none."""

    @ctx.given(strategies.batches(ctx.dtype, nonfinite=False), st.integers(0, 99))
    def property_(arrays: strategies.Arrays, seed: int) -> None:
        m = arrays["present"].shape[1]
        spec = SchedulerSpec(modalities=strategies.names(m), policy="static")
        result = ctx.schedule(spec, arrays, far_apart(ctx, m, seed))
        absent = result.weights[~arrays["present"]]
        ctx.expect("DMS-P-001", absent == 0, "an absent modality has a weight")
        some = arrays["present"].any(axis=1)
        total = result.weights[some].astype(np.float64).sum(axis=1)
        allowed = 4 * m * ctx.eps
        ctx.expect("DMS-W-002", np.abs(total - 1) <= allowed, f"weights sum to {total}")


@check("DMS-W-005", needs=("policy:static",))
def check_samples_far_apart(ctx: Context) -> None:
    """A sample of low scores beside one of high scores gets what it gets alone."""
    spec = SchedulerSpec(modalities=("a", "b"), policy="static")
    arrays = {
        name: array[..., :2] if name == "present" else array[..., :2, :]
        for name, array in worked_example.arrays(ctx.dtype).items()
    }
    arrays["present"] = np.array([[True, False], [False, True], [True, True]])
    for low in (-200.0, -1e4, -1e10):
        bias = {"policy.bias": np.asarray([0.0, low], dtype=ctx.computing)}
        batch = ctx.schedule(spec, arrays, bias).weights
        for row in range(3):
            alone = {
                name: array[:, row : row + 1] if name == "mc_logits" else array[row : row + 1]
                for name, array in arrays.items()
            }
            off = np.abs(ctx.schedule(spec, alone, bias).weights - batch[row : row + 1])
            ctx.expect("DMS-W-005", off <= 4 * ctx.eps, "a sample's weights depend on its batch")


@check("DMS-Q-007", "DMS-C-005", needs=("policy:linear",))
def check_two_modalities_are_told(ctx: Context) -> None:
    """Weighing alignment or agreement of two modalities gives a warning and a note."""
    arrays = {
        name: array[..., :2] if name == "present" else array[..., :2, :]
        for name, array in worked_example.arrays(ctx.dtype).items()
    }
    moved = {name: ctx.backend.from_numpy(array, ctx.device) for name, array in arrays.items()}
    for name in ("alignment", "agreement"):
        spec = SchedulerSpec(modalities=("a", "b"), signals={name: {}}, coefficients={name: 1.0})
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            result = ctx.backend.scheduler(spec, device=ctx.device)(ModalityBatch(**moved))
        told = any(issubclass(w.category, DMSWarning) and name in str(w.message) for w in caught)
        ctx.expect("DMS-Q-007", told, f"no warning says that {name} of two modalities cancels")
        noted = any(name in note for note in result.notes)
        ctx.expect("DMS-Q-007", noted, f"no note says that {name} of two modalities cancels")
