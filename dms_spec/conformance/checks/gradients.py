"""Checks gradients: finite everywhere, and those of the oracle."""

from __future__ import annotations

from typing import Any

import numpy as np
from array_api_compat import array_namespace
from hypothesis import strategies as st
from numpy.typing import NDArray

from dms_spec.conformance import drawing, oracle, strategies
from dms_spec.conformance.context import Arrays, ConformanceError
from dms_spec.conformance.registry import Context, check
from dms_spec.interface.backend import Differentiable
from dms_spec.spec import SchedulerSpec
from dms_spec.types import ModalityBatch

_NEEDS = ("gradients",)
_ROLES = ("features", "logits", "mc_logits")
_SIGNALS = (
    "confidence",
    "uncertainty",
    "mutual_information",
    "alignment",
    "agreement",
    "corroboration",
    "energy",
    "typicality",
)


#: Every signal that the oracle knows.
_EVERY = oracle.SIGNALS


def _gradients(ctx: Context, case: strategies.Case, direction: Arrays) -> dict[str, NDArray[Any]]:
    """Computes those of the outputs times a direction each, by each floating array of the batch."""
    backend, device = ctx.backend, ctx.device
    if not isinstance(backend, Differentiable):
        raise ConformanceError("DMS-C-001: gradients are claimed, but there is no way to take them")
    present = backend.from_numpy(case.arrays["present"], device)
    xp = array_namespace(present)
    towards = {name: backend.from_numpy(array, device) for name, array in direction.items()}
    scheduler = backend.scheduler(case.spec, case.parameters, device=device)
    ctx.last = case.spec, case.arrays, case.parameters

    def function(arrays: dict[str, Any]) -> Any:
        result = scheduler(ModalityBatch(**arrays, present=present))
        fused = xp.where(xp.isfinite(result.fused), result.fused, xp.zeros_like(result.fused))
        total = xp.sum(xp.astype(fused, result.weights.dtype) * towards["fused"])
        total = total + xp.sum(result.weights * towards["weights"])
        scores = xp.where(result.active, result.scores, xp.zeros_like(result.scores))
        total = total + xp.sum(scores * towards["scores"])
        if result.soundness is None:
            return total
        return total + xp.sum(result.soundness * towards["soundness"])

    arrays = {name: backend.from_numpy(case.arrays[name], device) for name in _ROLES}
    found = backend.gradients(function, arrays)
    return {name: backend.to_numpy(array) for name, array in found.items()}


def _direction(ctx: Context, case: strategies.Case, seed: int) -> Arrays:
    random = np.random.Generator(np.random.Philox(seed))
    role = "features" if case.spec.fusion == "feature" else "logits"
    batch, modalities, width = case.arrays[role].shape
    return {
        "fused": random.normal(size=(batch, width)).astype(ctx.computing),
        "weights": random.normal(size=(batch, modalities)).astype(ctx.computing),
        "scores": random.normal(size=(batch, modalities)).astype(ctx.computing),
        "soundness": random.normal(size=(batch, modalities)).astype(ctx.computing),
    }


@st.composite
def _smooth(draw: st.DrawFn, ctx: Context) -> strategies.Case:
    """Draws a case away from every kink: ordinary numbers, two passes or more, all present."""
    case = draw(ctx.cases(tame=True, nonfinite=False, all_present=True, policies=_policies(ctx)))
    random = np.random.Generator(np.random.Philox(draw(st.integers(0, 2**32 - 1))))
    batch, modalities = case.arrays["present"].shape
    width, classes = case.arrays["features"].shape[-1], int(random.choice([2, 3, 3, 11]))
    passes = int(random.choice([2, 3, 3, 9]))
    if "fusion.prior" in case.parameters:
        classes = len(case.parameters["fusion.prior"])
    shapes = {
        "features": (batch, modalities, width),
        "logits": (batch, modalities, classes),
        "mc_logits": (passes, batch, modalities, classes),
    }
    arrays = {name: random.normal(size=shape).astype(ctx.dtype) for name, shape in shapes.items()}
    spec = case.spec.replace(detach_signals=False)
    return strategies.Case(
        spec=spec, arrays=arrays | {"present": case.arrays["present"]}, parameters=case.parameters
    )


def _policies(ctx: Context) -> tuple[str, ...]:
    known = (*strategies.POLICIES, *drawing.LEARNED)
    claimed = tuple(name for name in known if not ctx.lacks((f"policy:{name}",)))
    return claimed or (ctx.plain_policy(),)


@check("DMS-G-003", level="gradients", needs=(*_NEEDS, "dtype:float64"), dtypes=("float64",))
def check_gradients_are_those_of_the_oracle(ctx: Context) -> None:
    """In float64, gradients equal central differences of the oracle, within their error."""

    @ctx.given(_smooth(ctx), st.integers(0, 2**32 - 1))
    def property_(case: strategies.Case, seed: int) -> None:
        direction = _direction(ctx, case, seed)
        found = _gradients(ctx, case, direction)
        random = np.random.Generator(np.random.Philox(seed))

        for role in _ROLES:
            for _ in range(2):
                where = tuple(int(random.integers(size)) for size in case.arrays[role].shape)
                _expect_slope(ctx, "DMS-G-003", case, direction, found[role], (role, where))


def _expect_slope(
    ctx: Context,
    clause: str,
    case: strategies.Case,
    direction: Arrays,
    found: NDArray[Any],
    place: tuple[str, tuple[int, ...]],
) -> None:
    """Compares the gradient by one entry with central differences of the oracle."""
    role, where = place
    wide = {name: array if name == "present" else array.astype(np.float64)
            for name, array in case.arrays.items()}  # fmt: skip

    def value(step: float) -> float:
        moved = wide[role].copy()
        moved[where] += step
        exact = oracle.schedule(case.spec, wide | {role: moved}, case.parameters)
        scores = np.where(exact.active, exact.scores, 0.0)
        outputs = {"fused": exact.fused, "weights": exact.weights, "scores": scores}
        if exact.soundness is not None:
            outputs["soundness"] = exact.soundness
        return float(sum((array * direction[name]).sum() for name, array in outputs.items()))

    slopes = [(value(h) - value(-h)) / (2 * h) for h in (2e-4, 1e-4)]
    # Halving the step quarters the error of the differences, but for round-off.
    allowed = abs(slopes[0] - slopes[1]) + 1e-8 * (1 + abs(slopes[1]))
    if clause == "DMS-G-004":
        allowed += 1e-4 * max(float(np.abs(found).max()), abs(slopes[1]))
    off = abs(float(found[where]) - slopes[1])
    what = f"{case.spec.policy} over {', '.join(case.spec.coefficients) or 'nothing'}"
    ctx.expect(
        clause,
        off <= allowed,
        f"the gradient by {role} of {what} is off by {off:.1e} at {list(where)}: "
        f"got {found[where]:.6g}, expected {slopes[1]:.6g}",
    )


@check(
    "DMS-G-005", "DMS-G-004", "DMS-C-001",
    level="gradients", needs=_NEEDS, dtypes=("float64", "float32"),
)  # fmt: skip
def check_gradients_of_everything(ctx: Context) -> None:
    """Gradients of every signal and every policy, with gaps, are those of the oracle."""
    weighs = [n for n in strategies.WEIGHING if not ctx.lacks((f"policy:{n}",))]
    alone = [(weighs[0], name) for name in _EVERY] if weighs else []
    others = [n for n in oracle.POLICIES if n not in weighs and not ctx.lacks((f"policy:{n}",))]
    whole = [(name, "") for name in (*weighs, *others)]
    clause = "DMS-G-005" if ctx.dtype == "float64" else "DMS-G-004"
    for random, ((policy, signal), level) in ctx.grid(alone + whole, ("probability", "feature")):
        case = _with_gaps(ctx, random, policy, signal, level)
        direction = _direction(ctx, case, int(random.integers(2**16)))
        found = _gradients(ctx, case, direction)
        for role, gradient in found.items():
            wanted, dtype = case.arrays[role].shape, case.arrays[role].dtype
            same = (gradient.shape, gradient.dtype) == (wanted, dtype)
            ctx.expect("DMS-G-005", same, f"the gradient by {role} has another shape or dtype")
            there = case.arrays["present"][..., None] & np.ones(wanted, dtype=bool)
            largest = np.where(there, np.abs(gradient), -1).argmax()
            some = np.argwhere(there)[int(random.integers(there.sum()))]
            for where in (np.unravel_index(largest, wanted), some):
                place = tuple(int(index) for index in where)
                _expect_slope(ctx, clause, case, direction, gradient, (role, place))


# Of samples, modalities, width, classes and passes.
_DIMENSIONS = ((3, 3, 7), (3, 4, 6), (3, 3, 19), (3, 3, 12), (3, 3, 7))


def _with_gaps(
    ctx: Context, random: np.random.Generator, policy: str, signal: str, level: str
) -> strategies.Case:
    """Draws ordinary numbers with gaps. Without a signal, all of them are weighed."""
    b, m, d, c, t = (int(random.choice(sizes)) for sizes in _DIMENSIONS)
    arrays: Arrays = {
        "features": random.normal(size=(b, m, d)).astype(ctx.dtype),
        "logits": random.normal(size=(b, m, c)).astype(ctx.dtype),
        "mc_logits": random.normal(size=(t, b, m, c)).astype(ctx.dtype),
    }
    arrays["present"] = random.random((b, m)) < 0.7
    arrays["present"][0], arrays["present"][1:, -1] = True, True
    strategies.fill_absent(arrays, np.nan)
    names = (signal,) if signal else _EVERY
    weighed = dict.fromkeys(names, 0.8) if policy in strategies.WEIGHING else {}
    if policy == "soundness":
        weighed, level = {"typicality": 0.8}, "evidence"
    spec = SchedulerSpec(
        modalities=strategies.names(m),
        policy=policy,
        signals={name: {} for name in names} | {name: {} for name in weighed},
        coefficients=weighed,
        fusion=level,  # type: ignore[arg-type]
        detach_signals=False,
    )
    own = drawing.parameters(
        spec, random, width=d, classes=c, dtype=ctx.computing, optional=True, own=True
    )
    return strategies.Case(spec=spec, arrays=arrays, parameters=own)


@check("DMS-G-002", level="gradients", needs=_NEEDS)
def check_gradients_are_finite(ctx: Context) -> None:
    """Gradients are finite on hostile batches, and absent modalities get none."""
    fillers = (0.0, np.nan, np.inf, -np.inf)

    @ctx.given(
        st.sampled_from(_policies(ctx)),
        st.sampled_from(["feature", "logit", "probability"]),
        st.sampled_from(fillers),
        st.integers(0, 2**32 - 1),
    )
    def property_(policy: str, fusion: str, filler: float, seed: int) -> None:
        random = np.random.Generator(np.random.Philox(seed))
        arrays: Arrays = {
            "features": random.normal(size=(4, 3, 5)).astype(ctx.dtype),
            "logits": random.normal(size=(4, 3, 4)).astype(ctx.dtype),
            "mc_logits": random.normal(size=(3, 4, 3, 4)).astype(ctx.dtype),
        }
        arrays["features"][1, 0] = 0
        arrays["logits"][1, 1] = [0.0, -np.inf, -np.inf, -np.inf]
        arrays["mc_logits"][:, 1, 1] = [0.0, -200.0, -200.0, -200.0]
        arrays["present"] = random.random((4, 3)) < 0.6
        arrays["present"][1] = True
        arrays["present"][2] = False
        strategies.fill_absent(arrays, filler)
        weighed = dict.fromkeys(_SIGNALS, 1.0) if policy in strategies.WEIGHING else {}
        if policy == "soundness":
            weighed, fusion = {"typicality": 4.0}, "evidence"
            arrays["features"][1, 2] *= 1e3  # so untypical that nothing is left of its trust
        spec = SchedulerSpec(
            modalities=strategies.names(3),
            policy=policy,
            signals={name: {} for name in _SIGNALS},
            coefficients=weighed,
            fusion=fusion,  # type: ignore[arg-type]
            detach_signals=False,
        )
        parameters = drawing.parameters(
            spec,
            random,
            width=5,
            dtype=ctx.computing,
            classes=4,
            optional=policy == "soundness" and bool(random.integers(2)),
        )
        case = strategies.Case(spec=spec, arrays=arrays, parameters=parameters)
        found = _gradients(ctx, case, _direction(ctx, case, seed))
        absent = ~arrays["present"]
        for name, gradient in found.items():
            ctx.expect("DMS-G-002", np.isfinite(gradient), f"the gradient by {name} is not finite")
            there = gradient[..., absent, :]
            ctx.expect("DMS-G-002", there == 0, f"what is absent in {name} has a gradient")


@check("DMS-G-001", level="gradients", needs=(*_NEEDS, "policy:linear"))
def check_signals_are_constants_unless_asked(ctx: Context) -> None:
    """By default nothing flows through the signals; with detach_signals=False it does."""

    @ctx.given(st.integers(0, 2**32 - 1))
    def property_(seed: int) -> None:
        random = np.random.Generator(np.random.Philox(seed))
        arrays: Arrays = {
            "features": random.normal(size=(2, 3, 4)).astype(ctx.dtype),
            "logits": random.normal(size=(2, 3, 4)).astype(ctx.dtype),
            "mc_logits": random.normal(size=(3, 2, 3, 4)).astype(ctx.dtype),
            "present": np.ones((2, 3), dtype=bool),
        }
        spec = SchedulerSpec.preset("paper", strategies.names(3))
        for detach in (True, False):
            own = spec.replace(detach_signals=detach)
            case = strategies.Case(spec=own, arrays=arrays, parameters={})
            found = _gradients(ctx, case, _direction(ctx, case, seed))
            moved = bool((found["logits"] != 0).any())
            said = "stop at" if detach else "flow through"
            ctx.expect("DMS-G-001", moved is not detach, f"gradients do not {said} the signals")
