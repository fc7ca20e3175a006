"""Checks gradients: finite everywhere, and those of the oracle."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from dms_spec.conformance import oracle, strategies
from dms_spec.conformance.context import Arrays
from dms_spec.conformance.registry import Context, check
from dms_spec.engine.array_backend import ArrayBackend
from dms_spec.interface.backend import Differentiable
from dms_spec.spec import SchedulerSpec
from dms_spec.types import ModalityBatch

_NEEDS = ("arrays", "gradients")
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


def _gradients(ctx: Context, case: strategies.Case, direction: Arrays) -> dict[str, NDArray[Any]]:
    """Computes those of the outputs times a direction each, by each floating array of the batch."""
    backend, device = ctx.backend, ctx.device
    ctx.expect("DMS-C-001", isinstance(backend, Differentiable), "gradients are claimed, not given")
    assert isinstance(backend, ArrayBackend) and isinstance(backend, Differentiable)  # noqa: S101
    xp = backend.namespace(device).xp
    present = backend.from_numpy(case.arrays["present"], device)
    towards = {name: backend.from_numpy(array, device) for name, array in direction.items()}
    scheduler = backend.scheduler(case.spec, case.parameters, device=device)
    ctx.last = case.spec, case.arrays, case.parameters

    def function(arrays: dict[str, Any]) -> Any:
        result = scheduler(ModalityBatch(**arrays, present=present))
        fused = xp.where(xp.isfinite(result.fused), result.fused, xp.zeros_like(result.fused))
        total = xp.sum(xp.astype(fused, result.weights.dtype) * towards["fused"])
        total = total + xp.sum(result.weights * towards["weights"])
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
        "soundness": random.normal(size=(batch, modalities)).astype(ctx.computing),
    }


@st.composite
def _smooth(draw: st.DrawFn, ctx: Context) -> strategies.Case:
    """Draws a case away from every kink: ordinary numbers, two passes or more, all present."""
    case = draw(ctx.cases(tame=True, nonfinite=False, all_present=True, policies=_policies(ctx)))
    random = np.random.Generator(np.random.Philox(draw(st.integers(0, 2**32 - 1))))
    batch, modalities = case.arrays["present"].shape
    width, classes = case.arrays["features"].shape[-1], 3
    if "fusion.prior" in case.parameters:
        classes = len(case.parameters["fusion.prior"])
    shapes = {
        "features": (batch, modalities, width),
        "logits": (batch, modalities, classes),
        "mc_logits": (3, batch, modalities, classes),
    }
    arrays = {name: random.normal(size=shape).astype(ctx.dtype) for name, shape in shapes.items()}
    spec = case.spec.replace(detach_signals=False)
    return strategies.Case(
        spec=spec, arrays=arrays | {"present": case.arrays["present"]}, parameters=case.parameters
    )


def _policies(ctx: Context) -> tuple[str, ...]:
    learned = tuple(n for n in strategies.LEARNED if not ctx.lacks((f"policy:{n}",)))
    return strategies.POLICIES + learned


@check("DMS-G-003", level="gradients", needs=(*_NEEDS, "dtype:float64"), dtypes=("float64",))
def check_gradients_are_those_of_the_oracle(ctx: Context) -> None:
    """In float64, gradients equal central differences of the oracle, within their error."""

    @ctx.given(_smooth(ctx), st.integers(0, 2**32 - 1))
    def property_(case: strategies.Case, seed: int) -> None:
        direction = _direction(ctx, case, seed)
        found = _gradients(ctx, case, direction)
        random = np.random.Generator(np.random.Philox(seed))

        def value(role: str, where: tuple[int, ...], step: float) -> float:
            moved = case.arrays[role].copy()
            moved[where] += step
            exact = oracle.schedule(case.spec, case.arrays | {role: moved}, case.parameters)
            outputs = {"fused": exact.fused, "weights": exact.weights}
            if exact.soundness is not None:
                outputs["soundness"] = exact.soundness
            return float(sum((array * direction[name]).sum() for name, array in outputs.items()))

        for role in _ROLES:
            for _ in range(2):
                where = tuple(int(random.integers(size)) for size in case.arrays[role].shape)
                slopes = [
                    (value(role, where, h) - value(role, where, -h)) / (2 * h) for h in (2e-4, 1e-4)
                ]
                # Halving the step quarters the error of the differences, but for round-off.
                allowed = abs(slopes[0] - slopes[1]) + 1e-8 * (1 + abs(slopes[1]))
                off = abs(float(found[role][where]) - slopes[1])
                ctx.expect(
                    "DMS-G-003", off <= allowed, f"the gradient by {role} is off by {off:.1e}"
                )


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
        parameters = strategies.parameters(
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


@check("DMS-G-001", level="gradients", needs=_NEEDS)
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
