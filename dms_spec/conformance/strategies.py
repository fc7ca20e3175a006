"""Draws batches and specs with Hypothesis.

Structure and special values are drawn one by one, so that they shrink. All other numbers come from
a drawn seed, which is fast and does not hide the structure.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ParamSpec, TypeVar, cast

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from dms_spec.conformance import drawing
from dms_spec.conformance.closeness import finfo
from dms_spec.conformance.drawing import LEARNED
from dms_spec.spec import SchedulerSpec

Arrays = dict[str, NDArray[Any]]

#: Options of every signal of the core; a plugin's own signals are not drawn.
SIGNAL_OPTIONS: dict[str, list[dict[str, Any]]] = {
    "confidence": [{}, {"normalize": True}, {"normalize": False}],
    "uncertainty": [{"reduction": "mean"}, {"reduction": "sum"}],
    "mutual_information": [{}],
    "alignment": [{}],
    "anchored_alignment": [{}],
    "agreement": [{}],
    "energy": [{}, {"temperature": 0.5}],
    "corroboration": [{}],
    "typicality": [{}],
}
#: What most checks draw from: every signal but those of the last two rows. The checks of values
#: draw those, and so do their own checks. Their oracle is slow, and the more there is to draw from,
#: the less there is of each.
DRAWN = tuple(SIGNAL_OPTIONS)[:-2]

P = ParamSpec("P")
T = TypeVar("T")


def _kept(
    function: Callable[P, st.SearchStrategy[T]],
) -> Callable[P, st.SearchStrategy[T]]:
    """Makes each strategy once: to make it for every draw takes longer than to draw."""
    return cast("Callable[P, st.SearchStrategy[T]]", lru_cache(maxsize=None, typed=True)(function))


@_kept
def _one_of(*values: Any) -> st.SearchStrategy[Any]:
    return st.sampled_from(values)


_EITHER = st.booleans()
_SEED = st.integers(0, 2**32 - 1)

#: Policies that weigh signals.
WEIGHING = ("linear", *LEARNED)
#: Published methods beside DMS, which their own checks draw.
PUBLISHED = ("dmome", "qmf", "tmc")
#: What the core level draws; the rule more often than what needs no signal.
POLICIES = ("linear", "linear", "linear", "static", "co_attention", "soundness")


#: How many modalities there mostly are.
MODALITIES = (1, 2, 2, 3, 3, 4, 6, 32)


@dataclass(frozen=True, kw_only=True)
class Case:
    """Holds a spec, the arrays of a batch, and the parameters that the spec needs."""

    spec: SchedulerSpec
    arrays: Arrays
    parameters: Arrays


def names(count: int) -> tuple[str, ...]:
    """Names a number of modalities."""
    return tuple(f"m{i}" for i in range(count))


@_kept
def _some_of(among: tuple[str, ...], least: int, most: int) -> st.SearchStrategy[list[str]]:
    return st.lists(st.sampled_from(among), unique=True, min_size=least, max_size=most)


@_kept
@st.composite
def specs(
    draw: st.DrawFn,
    modalities: int,
    policies: tuple[str, ...] | None = None,
    among: tuple[str, ...] = DRAWN,
) -> SchedulerSpec:
    """Draws any spec of the core's policies and signals."""
    policy = draw(_one_of(*(policies or POLICIES)))
    if policy == "soundness":
        return draw(of_trust(modalities))
    few, many = (0, 4), (min(5, len(among)), len(among))
    chosen = draw(_some_of(tuple(sorted(among)), *draw(_one_of(few, few, few, many))))
    if policy in LEARNED and not chosen:
        chosen = ["confidence"]
    signals = {name: draw(options(name)) for name in chosen}
    # In another order than the signals, and not all of them.
    order = draw(st.permutations(chosen))
    count = len(order)
    if draw(_EITHER) and order:
        count = draw(_one_of(*range(1, count + 1)))
    weighed = {name: draw(coefficients()) for name in order[:count]}
    return SchedulerSpec(
        modalities=names(modalities),
        policy=policy,
        signals=signals,
        coefficients=weighed if policy in WEIGHING else {},
        fusion=draw(_one_of("feature", "logit", "probability")),
        detach_signals=draw(_one_of(True, True, False)),
    )


@_kept
def options(signal: str) -> st.SearchStrategy[dict[str, Any]]:
    """Draws the options of a signal: those that are listed, or any number that may be one."""
    listed = st.sampled_from(SIGNAL_OPTIONS[signal])
    if signal != "energy":
        return listed
    any_ = st.one_of(st.floats(0.05, 20.0), st.floats(1e-3, 1e3))
    return st.one_of(listed, any_.map(lambda value: {"temperature": value}))


@_kept
def coefficients() -> st.SearchStrategy[float]:
    """Draws coefficients: round ones, and those that no narrow format holds."""
    usual = st.sampled_from([0.0, 0.5, 1.0, 4.0])
    extreme = st.sampled_from([1e-12, 1e-6, 3e-5, 55.5, 300.0])
    return st.one_of(usual, st.floats(1e-3, 30.0), st.floats(1e-3, 30.0), extreme)


@_kept
def lengths(*usual: int) -> st.SearchStrategy[int]:
    """Draws the length of an axis: mostly one of these, now and then any that is not much more.

    What is wrong between two usual lengths shows in one of the many checks that draw them.
    """
    return st.sampled_from([*usual * (800 // len(usual)), *range(4, 41)])


@_kept
@st.composite
def of_trust(draw: st.DrawFn, modalities: int, level: str | None = None) -> SchedulerSpec:
    """A spec of the policy that gives logs of trust, at any level if none is named."""
    fitted = draw(_one_of(True, True, False))
    signals: dict[str, dict[str, Any]] = {"typicality": {}} if fitted else {}
    if draw(_EITHER):  # computed, and of no account
        signals["confidence"] = {}
    levels = ["evidence", "evidence", "evidence", "feature", "logit", "probability"]
    return SchedulerSpec(
        modalities=names(modalities),
        policy="soundness",
        signals=signals,
        coefficients={"typicality": 1.0 if draw(_EITHER) else draw(coefficients())}
        if fitted
        else {},
        fusion=level or draw(_one_of(*levels)),  # type: ignore[arg-type]
    )


@_kept
@st.composite
def masks(draw: st.DrawFn, samples: int, modalities: int) -> NDArray[np.bool_]:
    """Draws presence, bool ``[B, M]``: all, none, one in each sample, none in some, at random."""
    kind = draw(_one_of("all", "none", "one", "gaps", "random", "random", "most"))
    random = np.random.Generator(np.random.Philox(draw(_SEED)))
    if kind == "one":
        return np.equal(np.arange(modalities), random.integers(modalities, size=(samples, 1)))
    density = {"all": 1.0, "none": 0.0, "gaps": 0.8, "random": 0.5, "most": 0.8}[kind]
    mask = random.random((samples, modalities)) < density
    if kind == "gaps":
        mask &= random.random((samples, 1)) < 0.5
    return mask


@_kept
@st.composite
def batches(
    draw: st.DrawFn,
    dtype: str,
    *,
    modalities: int | None = None,
    tame: bool = False,
    nonfinite: bool = True,
    all_present: bool = False,
    faint: bool = False,
) -> Arrays:
    """Draws the four arrays of a batch, ordinary or hostile.

    Args:
        draw: Supplied by hypothesis.
        dtype: dtype of the floating arrays.
        modalities: M; drawn from 1 to 32 if None.
        tame: Features and logits of ordinary size, for laws that overflow would blur.
        nonfinite: Whether present modalities may hold NaN and Inf.
        all_present: Whether every modality is there.
        faint: Features of any size down to the smallest number, each row of its own.
    """
    half = dtype == "float16"
    b = draw(lengths(1, 2, 3, 4))
    m = modalities or draw(lengths(*MODALITIES))
    d, c = draw(lengths(1, 2, 5, 16)), draw(lengths(1, 2, 3, 10))
    t = draw(lengths(0, 1, 2, 3, 5))
    random = np.random.Generator(np.random.Philox(draw(_SEED)))
    powers = [0] if tame else [-4, 0, 4] if half else [-30, -20, -6, 0, 6, 18]
    power = [draw(_one_of(*powers)) for _ in range(draw(_one_of(1, 2)))]
    power = [*power, *faint_powers(dtype)] if faint else power
    features = random.normal(size=(b, m, d)) * 10.0 ** random.choice(power, size=(b, m, 1))
    shape = draw(_one_of("free", "free", "zero", "opposite", "equal"))
    if shape == "zero":
        features[:, 0] = random.choice([0.0, -0.0])
    elif shape != "free" and m > 1:
        features[:, 1] = features[:, 0] * (-1 if shape == "opposite" else 1)

    spread = draw(_one_of(0.0, 1.0, 8.0) if tame else _one_of(0.0, 1e-3, 1.0, 8.0, 60.0))
    offset = 0.0 if tame else draw(_one_of(0.0, 0.0, 1e3, -1e4, 1e4))
    logits = random.normal(size=(b, m, c)) * spread + offset
    if not tame and not half and draw(_one_of(*range(10))) == 0:
        logits = random.normal(size=(b, m, c)) * 1e18
    noise = draw(_one_of(0.0, 1e-3, 1.0, 1.0, 10.0))
    mc_logits = logits + random.normal(size=(t, b, m, c)) * noise
    if draw(_EITHER) and c > 1:  # classes that are ruled out, never all of them
        logits[random.random(logits.shape) < 0.3] = -np.inf
        mc_logits[random.random(mc_logits.shape) < 0.3] = -np.inf
        logits[..., 0] = mc_logits[..., 0] = offset

    with np.errstate(over="ignore"):
        arrays = {
            "features": features.astype(dtype),
            "logits": logits.astype(dtype),
            "mc_logits": mc_logits.astype(dtype),
        }
    arrays["present"] = np.ones((b, m), dtype=bool) if all_present else draw(masks(b, m))
    fill_absent(arrays, draw(_one_of(0.0, np.nan, np.inf, -np.inf, 1e4)))
    if nonfinite and draw(_one_of(*range(5))) == 0:
        bad_rows = random.random((b, m)) < 0.3
        role = draw(_one_of("features", "logits", "mc_logits"))
        bad = draw(_one_of(np.nan, np.inf, -np.inf))
        arrays[role][..., bad_rows, :] = bad
    return arrays


def faint_powers(dtype: str) -> list[int]:
    """Powers of ten around the smallest normal number of a dtype, down to its smallest number."""
    info = finfo(dtype)
    low, high = (int(np.log10(float(x))) for x in (info.smallest_subnormal, info.smallest_normal))
    return [low, (low + high) // 2, high - 1, high, high + 1, high + 3]


def fill_absent(arrays: Arrays, filler: float) -> None:
    """Overwrites, in place, what stands where a modality is absent."""
    absent = ~arrays["present"]
    for name in ("features", "logits", "mc_logits"):
        if name in arrays:
            arrays[name][..., absent, :] = filler


@_kept
@st.composite
def cases(draw: st.DrawFn, /, dtype: str, **options: Any) -> Case:
    """Draws a spec with a batch and parameters that fit it."""
    modalities = options.pop("modalities", None) or draw(lengths(*MODALITIES))
    policies = options.pop("policies", None)
    among, level = options.pop("among", DRAWN), options.pop("level", None)
    spec = draw(
        specs(modalities, policies, among) if level is None else of_trust(modalities, level)
    )
    # Dot products of features overflow long before the features do: attention is drawn tame.
    tame = options.pop("tame", False) or spec.policy == "co_attention"
    arrays = draw(batches(dtype, modalities=modalities, tame=tame, **options))
    d, c = arrays["features"].shape[-1], arrays["logits"].shape[-1]
    random = np.random.Generator(np.random.Philox(draw(_SEED)))
    wide = np.float64 if dtype == "float64" else np.float32
    return Case(
        spec=spec,
        arrays=arrays,
        parameters=drawing.parameters(
            spec,
            random,
            width=d,
            classes=c,
            dtype=wide,
            optional=draw(_EITHER),
            own=draw(_EITHER),
        ),
    )


def of_modalities(case: Case, kept: list[int]) -> Case:
    """The same case with some of its modalities, in the order given."""
    count = len(case.spec.modalities)
    return Case(
        spec=case.spec.replace(modalities=tuple(case.spec.modalities[k] for k in kept)),
        arrays={
            name: array[:, kept] if name == "present" else array[..., kept, :]
            for name, array in case.arrays.items()
        },
        parameters={
            name: array[kept] if per_modality(name, array, count) else array
            for name, array in case.parameters.items()
        },
    )


def per_modality(name: str, array: NDArray[Any], modalities: int) -> bool:
    """Says whether the first axis of a parameter is that of the modalities."""
    return (
        name in ("policy.bias", "policy.exponent", "fusion.priors")
        or name.startswith("signals.typicality.")
        or (name.endswith("anchor") and array.ndim == 2 and len(array) == modalities)
    )
