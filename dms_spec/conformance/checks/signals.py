"""Compares each signal alone with the oracle, in the name of its own clause."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from dms_spec.conformance import drawing, oracle, strategies, worked_example
from dms_spec.conformance.closeness import K, scales
from dms_spec.conformance.registry import Context, check
from dms_spec.spec import SchedulerSpec


def _hold(
    ctx: Context,
    clause: str,
    name: str,
    *options: dict[str, Any],
    low: float = -np.inf,
    high: float = np.inf,
) -> None:
    """Compares one signal with the oracle, on ordinary and on hostile batches, and with its range.

    The policy weighs no signal, so that a NaN is found here and not refused as a score.
    """
    batches = st.booleans().flatmap(
        lambda tame: strategies.batches(ctx.dtype, tame=tame, nonfinite=False)
    )

    def look(arrays: strategies.Arrays, own: dict[str, Any], each: bool, seed: int) -> None:
        m, d = arrays["features"].shape[1:]
        spec = SchedulerSpec(
            modalities=strategies.names(m), policy=ctx.plain_policy(), signals={name: own}
        )
        parameters = drawing.parameters(
            spec,
            np.random.Generator(np.random.Philox(seed)),
            width=d,
            dtype=ctx.computing,
            own=each,
        )
        value = ctx.schedule(spec, arrays, parameters).signals[name]
        exact = oracle.schedule(spec, arrays, parameters)
        scale = scales(spec, exact, arrays, parameters, ctx.computing)[name]
        ctx.expect_close(clause, name, value, exact.signals[name], scale)
        inside = (value >= low) & (value <= high)
        ctx.expect(clause, inside, f"{name} is outside [{low:g}, {high:g}]")

    for own in options:  # each once, whatever is drawn
        look(worked_example.arrays(ctx.dtype), own, False, 0)
    ctx.given(batches, st.sampled_from(options), st.booleans(), st.integers(0, 99))(look)


@check("DMS-Q-001")
def check_confidence(ctx: Context) -> None:
    """Normalised confidence is the oracle's, and in [0, 1]."""
    _hold(ctx, "DMS-Q-001", "confidence", {}, {"normalize": True}, low=0, high=1)


@check("DMS-Q-002")
def check_confidence_not_normalised(ctx: Context) -> None:
    """Confidence without normalisation is one less the entropy in nats."""
    _hold(ctx, "DMS-Q-002", "confidence", {"normalize": False}, high=1)


@check("DMS-Q-003")
def check_uncertainty(ctx: Context) -> None:
    """Uncertainty is the population variance, averaged or summed over classes."""
    _hold(ctx, "DMS-Q-003", "uncertainty", {}, {"reduction": "mean"}, {"reduction": "sum"})


@check("DMS-Q-005")
def check_mutual_information(ctx: Context) -> None:
    """Mutual information is the oracle's, and never below 0."""
    _hold(ctx, "DMS-Q-005", "mutual_information", {}, low=0)


@check("DMS-Q-006")
def check_alignment(ctx: Context) -> None:
    """Alignment is the cosine with the mean of the others, whatever their sizes."""
    _hold(ctx, "DMS-Q-006", "alignment", {})
    # One so large that a sum loses the others; but its own mean is made of them alone.
    spec = SchedulerSpec(
        modalities=strategies.names(3), policy=ctx.plain_policy(), signals={"alignment": {}}
    )
    large = 1e4 if ctx.dtype == "float16" else 1e10
    features = np.array([[[0.6, 0.8], [1.0, 0.5], [0.25, -1.0]]])
    features[:, 0] *= large
    arrays: strategies.Arrays = {"features": features.astype(ctx.dtype)}
    ctx.expect_exact("DMS-Q-006", spec, arrays, {})


@check("DMS-Q-008")
def check_anchored_alignment(ctx: Context) -> None:
    """Anchored alignment is the cosine with the anchor, one for all or one for each."""
    _hold(ctx, "DMS-Q-008", "anchored_alignment", {})


@check("DMS-Q-009")
def check_agreement(ctx: Context) -> None:
    """Agreement is the oracle's, and in [0, 1]."""
    _hold(ctx, "DMS-Q-009", "agreement", {}, low=0, high=1)


@check("DMS-Q-010")
def check_energy(ctx: Context) -> None:
    """Energy is the oracle's at temperatures of 1, below and above."""
    listed = [{"temperature": t} for t in (0.5, 3, 0.07, 1.26, 17.3, 250.0, 0.004)]
    _hold(ctx, "DMS-Q-010", "energy", {}, *listed)


@check("DMS-Q-013")
def check_typicality(ctx: Context) -> None:
    """Typicality is the oracle's, and never above 0, whatever form its covariance has."""
    _hold(ctx, "DMS-Q-013", "typicality", {}, high=0)


@check("DMS-Q-013")
def check_typicality_of_places(ctx: Context) -> None:
    """Typicality is exactly 0 inside the band, and falls outside it, on either side."""

    @ctx.given(
        st.sampled_from(drawing.COVARIANCES),
        st.sampled_from([1, 2, 5, 16]),
        st.booleans(),
        st.integers(0, 2**32 - 1),
    )
    def property_(covariance: str, width: int, beside: bool, seed: int) -> None:
        random = np.random.Generator(np.random.Philox(seed))
        spec = SchedulerSpec(
            modalities=strategies.names(3), policy=ctx.plain_policy(), signals={"typicality": {}}
        )
        place = drawing.typical(random, 3, width, covariance)
        place["prototypes"] = place["prototypes"][:, :1]  # so that a step away is one outwards
        beside = beside and bool(place["outside"].any())
        cost = drawing.trust(random, 3, width)
        low, high = cost["band"].T
        beyond = [high + more for more in (0.25, 0.5, 1, 2, 4)]
        distances = np.stack([low - 2, low - 1, (low + high) / 2, *beyond])
        features = _at(place, distances, random, beside=beside)
        far = 3e4 if ctx.dtype == "float16" else 1e18
        step = features[-1:] - place["center"]
        features = np.concatenate([features, far * step / np.abs(step).max(axis=-1, keepdims=True)])
        arrays: strategies.Arrays = {"features": features.astype(ctx.dtype)}
        parameters = {
            f"signals.typicality.{name}": array.astype(ctx.computing)
            for name, array in (place | cost).items()
        }
        result = ctx.expect_exact("DMS-Q-013", spec, arrays, parameters)
        exact = oracle.schedule(spec, arrays, parameters)
        scale = scales(spec, exact, arrays, parameters, ctx.computing)["typicality"]
        value = result.signals["typicality"].astype(np.float64)
        # Where the features came to lie when they were rounded.
        where = np.array(
            [[_distance(x, parameters, m) for m, x in enumerate(h)] for h in arrays["features"]]
        )
        excess = np.maximum(where - high, 0) + np.maximum(low - where, 0)
        within = (where > low + 0.01) & (where < high - 0.01)
        ctx.expect("DMS-Q-013", value[within] == 0, "typicality is not exactly 0 inside the band")
        order = np.argsort(excess, axis=0)
        value, allowed = (
            np.take_along_axis(array, order, axis=0) for array in (value, K * ctx.eps * scale)
        )
        falls = value[1:] <= value[:-1] + allowed[1:] + allowed[:-1]
        ctx.expect("DMS-Q-013", falls, "further out is trusted more")
        most = cost["loss"][:, 0] * (excess[-1] - cost["loss"][:, 1])
        ctx.expect("DMS-Q-013", value[-1] <= -most / 2, "typicality does not fall without bound")


@check("DMS-Q-013")
def check_typicality_at_a_prototype(ctx: Context) -> None:
    """Where features are exactly a prototype, typicality is a number, and not above 0."""
    identity = np.repeat(np.eye(4)[None], 2, axis=0)
    for random, (whitening,) in ctx.grid((identity, np.ones((2, 4)))):
        place = {
            "center": random.integers(-3, 4, size=(2, 4)),
            "whitening": whitening,
            "deviations": np.ones((2, 4)),
            "prototypes": random.integers(-3, 4, size=(2, 3, 4)),
            "outside": np.zeros(2),
        } | drawing.trust(random, 2, 4)
        parameters = {
            f"signals.typicality.{name}": array.astype(ctx.computing)
            for name, array in place.items()
        }
        at = place["center"] + np.moveaxis(place["prototypes"], 1, 0)
        spec = SchedulerSpec(
            modalities=strategies.names(2), policy=ctx.plain_policy(), signals={"typicality": {}}
        )
        result = ctx.expect_exact("DMS-Q-013", spec, {"features": at.astype(ctx.dtype)}, parameters)
        value = result.signals["typicality"]
        ctx.expect("DMS-Q-013", value <= 0, "typicality is above 0", value)


def _distance(x: NDArray[Any], parameters: strategies.Arrays, m: int) -> float:
    own = {name.rpartition(".")[2]: array[m] for name, array in parameters.items()}
    return oracle.log_distance([float(a) for a in x], own)


def _at(
    place: strategies.Arrays,
    distances: NDArray[np.float64],
    random: np.random.Generator,
    *,
    beside: bool,
) -> NDArray[np.float64]:
    """Features ``[B, M, D]`` at log-distances ``[B, M]`` from the only prototype.

    They lie within the subspace, or beside it.
    """
    modalities, width = place["center"].shape
    nu, deviations = place["prototypes"][:, 0], place["deviations"]
    basis = place["whitening"]
    if basis.ndim == 2:
        basis = np.repeat(np.eye(width)[None], modalities, axis=0)
    else:
        basis = basis * deviations[:, None]
    home = np.einsum("mdr,mr->md", basis, nu * deviations)
    if beside:
        away = random.normal(size=(modalities, width))
        away -= np.einsum("mdr,mer,me->md", basis, basis, away)
        away /= np.linalg.norm(away, axis=-1, keepdims=True) * np.sqrt(place["outside"])[:, None]
    else:
        y = random.normal(size=nu.shape)
        y /= np.linalg.norm(y, axis=-1, keepdims=True)
        away = np.einsum("mdr,mr->md", basis, y * deviations)
    return np.asarray(place["center"] + home + np.exp(distances)[..., None] * away)


@check("DMS-Q-014", needs=("policy:linear",))
def check_typicality_without_parameters(ctx: Context) -> None:
    """Without its parameters typicality is 0, also where it is weighed, and a note says so."""

    @ctx.given(strategies.batches(ctx.dtype, nonfinite=False))
    def property_(arrays: strategies.Arrays) -> None:
        spec = SchedulerSpec(
            modalities=strategies.names(arrays["present"].shape[1]),
            signals={"typicality": {}},
            coefficients={"typicality": 2.0},
            fusion="probability",
        )
        own = {name: array for name, array in arrays.items() if name != "features"}
        for given in (arrays, own):  # nor does it need the features that it would have read
            result = ctx.schedule(spec, given)
            zero = result.signals["typicality"] == 0
            ctx.expect("DMS-Q-014", zero, "typicality is not 0 without parameters")
            told = any("typicality" in note for note in result.notes)
            ctx.expect("DMS-Q-014", told, "no note says that typicality is 0")


@check("DMS-Q-015")
def check_corroboration(ctx: Context) -> None:
    """Corroboration is the oracle's, lies in [1/2, 1], and is 0 for a lone modality."""
    _hold(ctx, "DMS-Q-015", "corroboration", {}, low=0, high=1)

    @ctx.given(strategies.batches(ctx.dtype, nonfinite=False))
    def property_(arrays: strategies.Arrays) -> None:
        spec = SchedulerSpec(
            modalities=strategies.names(arrays["present"].shape[1]),
            policy=ctx.plain_policy(),
            signals={"corroboration": {}},
        )
        result = ctx.schedule(spec, arrays)
        value, alone = result.signals["corroboration"], result.active.sum(axis=1) < 2
        ctx.expect("DMS-Q-015", value[alone] == 0, "corroboration of a lone modality is not 0")
        others = value[~alone][result.active[~alone]]
        ctx.expect("DMS-Q-015", others >= 0.5, "corroboration is below 1/2")


@check("DMS-N-005", needs=("dtype:float32",), dtypes=("float16", "bfloat16"))
def check_halves_are_widened_first(ctx: Context) -> None:
    """Half-precision inputs give what the same numbers give in float32."""

    @ctx.given(ctx.cases(tame=True))
    def property_(case: strategies.Case) -> None:
        wide = {
            name: array if name == "present" else array.astype(np.float32)
            for name, array in case.arrays.items()
        }
        exact = oracle.schedule(case.spec, wide, case.parameters)
        scale = scales(case.spec, exact, wide, case.parameters, ctx.computing)
        results = [
            ctx.schedule(case.spec, arrays, case.parameters) for arrays in (case.arrays, wide)
        ]
        for name in (*case.spec.signals, "weights"):
            one, other = (result.arrays()[name] for result in results)
            allowed = 2 * K * ctx.eps * scale[name]
            ctx.expect("DMS-N-005", np.abs(one - other) <= allowed, f"{name} was narrowed first")
