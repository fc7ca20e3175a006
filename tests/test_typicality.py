"""Typicality: the fit on the host, and what the signal makes of it."""

from __future__ import annotations

from typing import Any

import array_api_compat.numpy as xp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dms_spec.conformance import oracle
from dms_spec.embeddings.typicality import (
    SHRINKAGE,
    TYPICAL,
    assume_trust,
    fit_place,
    fit_trust,
    stacked,
)
from dms_spec.equations.namespace import Namespace
from dms_spec.equations.typicality import PLACE, TRUST, log_distance, typicality
from dms_spec.errors import MissingInput, ShapeError, SpecError
from dms_spec.interface.signal import Evidence
from dms_spec.plugins import get_backend
from dms_spec.spec import SchedulerSpec
from dms_spec.types import ModalityBatch

Floats = NDArray[Any]
NS = Namespace.of(xp, np.ndarray)
FORMS = ("full", "low_rank", "diagonal")


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(seed))


def classes_of(
    random: np.random.Generator, n: int = 600, d: int = 6, c: int = 3
) -> tuple[Floats, NDArray[np.intp]]:
    """Gaussian classes with one covariance, float32."""
    labels = random.integers(c, size=n)
    mixing = random.normal(size=(d, d)) + 2 * np.eye(d)
    means = 3 * random.normal(size=(c, d))
    x = means[labels] + random.normal(size=(n, d)) @ mixing
    return x.astype(np.float32), labels


def place_of(x: Floats, labels: NDArray[np.intp], **options: Any) -> dict[str, Floats]:
    """A fitted place, as the parameters of one modality."""
    return stacked([fit_place(x, labels, **options)], x.shape[1])


def distances(x: Floats, place: dict[str, Floats]) -> Floats:
    """Log-distances ``[N]`` of one modality's features, in float64."""
    wide = {name: array.astype(np.float64) for name, array in place.items()}
    return np.asarray(log_distance(NS, x[:, None].astype(np.float64), wide)[:, 0])


# ---------------------------------------------------------------------------------------- the fit


def pooled(x: Floats, labels: NDArray[np.intp]) -> tuple[Floats, Floats, float]:
    """Class means, the covariance within classes, and its level: the trace over D."""
    x = x.astype(np.float64)
    means = np.stack([x[labels == c].mean(axis=0) for c in np.unique(labels)])
    within = x - means[np.unique(labels, return_inverse=True)[1]]
    covariance = within.T @ within / (len(x) - len(means))
    return means, covariance, float(np.trace(covariance)) / x.shape[1]


def mahalanobis(x: Floats, means: Floats, covariance: Floats) -> Floats:
    """The log of the least Mahalanobis distance to a mean, by solving."""
    apart = x.astype(np.float64)[:, None] - means
    squares = (apart * np.linalg.solve(covariance, apart[..., None])[..., 0]).sum(axis=-1)
    return np.asarray(0.5 * np.log(squares.min(axis=1)))


@pytest.mark.parametrize("form", ["full", "diagonal", "low_rank"])
def test_distances_are_those_of_mahalanobis(form: str) -> None:
    """With a low rank that is no less than the width, the covariance is the full one."""
    x, labels = classes_of(rng())
    means, covariance, level = pooled(x, labels)
    if form == "diagonal":
        covariance = np.diag(np.diag(covariance))
    covariance = (1 - SHRINKAGE) * covariance + SHRINKAGE * level * np.eye(len(covariance))
    found = distances(x, place_of(x, labels, covariance=form, rank=6))
    np.testing.assert_allclose(found, mahalanobis(x, means, covariance), atol=1e-5)


def test_a_low_rank_has_one_variance_outside() -> None:
    """The leading directions of all samples, the covariance within classes in them, and a rest."""
    random = rng(1)
    x, labels = classes_of(random, d=12)
    x = (x * np.r_[np.full(4, 5.0), np.full(8, 0.3)]).astype(np.float32)
    place = place_of(x, labels, covariance="low_rank", rank=4)
    wide = x.astype(np.float64)
    z = wide - wide.mean(axis=0)
    basis = np.linalg.svd(z, full_matrices=False)[2][:4].T
    means, covariance, level = pooled(x, labels)
    inside = (1 - SHRINKAGE) * basis.T @ covariance @ basis + SHRINKAGE * level * np.eye(4)
    residue = z - z @ basis @ basis.T  # the projection, explicitly
    rest = (1 - SHRINKAGE) * (residue**2).sum() / len(x) / 8 + SHRINKAGE * level
    squares = np.exp(2 * mahalanobis(wide @ basis, means @ basis, inside))
    expected = 0.5 * np.log(squares + (residue**2).sum(axis=1) / rest)
    np.testing.assert_allclose(distances(x, place), expected, atol=1e-5)
    off = np.linalg.norm(x.std(axis=0)) * 100
    beside = x[:1] + off * (np.eye(12) - basis @ basis.T)[0]
    assert distances(beside, place)[0] > distances(x, place).max() + 2


def test_more_features_than_samples() -> None:
    """Directions found through the samples are those of the features: D > N."""
    random = rng(2)
    x = random.normal(size=(20, 50)).astype(np.float32)
    labels = np.arange(20) % 4
    place = place_of(x, labels, rank=30)
    basis = place["whitening"][0] * place["deviations"][0]
    rank = basis.shape[1]
    assert rank == 19
    np.testing.assert_allclose(basis.T @ basis, np.eye(rank), atol=1e-5)
    found = distances(x, place)
    assert np.isfinite(found).all()
    assert distances(random.normal(size=(20, 50)), place).mean() > found.mean()


@pytest.mark.parametrize("form", FORMS)
def test_filling_up_changes_no_distance(form: str) -> None:
    """Fewer features, classes and directions than another modality has."""
    random = rng(3)
    narrow, wide = classes_of(random, d=3, c=2), classes_of(random, d=6, c=5)
    places = [fit_place(*data, covariance=form, rank=4) for data in (narrow, wide)]  # type: ignore[arg-type]
    both = stacked(places, 6)
    for axes, name in ((text, name) for name, text in PLACE.items()):
        ranks = [len(alternative.split()) for alternative in axes.split("|")]
        assert both[name].ndim in ranks and len(both[name]) == 2
    features = np.zeros((600, 2, 6))
    features[:, 0, :3], features[:, 1] = narrow[0], wide[0]
    found = log_distance(NS, features, {k: v.astype(np.float64) for k, v in both.items()})
    for m, (x, labels) in enumerate((narrow, wide)):
        alone = distances(x, place_of(x, labels, covariance=form, rank=4))
        np.testing.assert_allclose(found[:, m], alone, rtol=1e-9, atol=1e-9)


def degenerate() -> dict[str, tuple[Floats, NDArray[np.intp]]]:
    random = rng(4)
    x, labels = classes_of(random, n=60, d=5)
    one = np.zeros(60, dtype=np.intp)
    single = labels.copy()
    single[0] = 7
    constant = x.copy()
    constant[:, 1] = 0.1
    return {
        "one class": (x, one),
        "one sample": (x[:1], one[:1]),
        "a class of one sample": (x, single),
        "every sample its own class": (x, np.arange(60)),
        "a constant feature": (constant, labels),
        "nothing but constants": (np.full((60, 5), 0.1, dtype=np.float32), labels),
        "one feature": (x[:, :1], labels),
        "fewer samples than features": (x[:3], labels[:3]),
        "equal samples": (np.repeat(x[:2], 30, axis=0), labels),
        "zeros": (np.zeros_like(x), labels),
        "magnitudes of 1e30": (x * np.float32(1e30), labels),
        "magnitudes of 1e-30": (x * np.float32(1e-30), labels),
        "far from 0": (x + np.float32(1e6), labels),
    }


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("what", list(degenerate()))
def test_a_degenerate_fit_is_finite(what: str, form: str) -> None:
    x, labels = degenerate()[what]
    for rank in (2, 128):
        place = place_of(x, labels, covariance=form, rank=rank)
        assert all(np.isfinite(array).all() for array in place.values())
        probes = np.concatenate([x, 3 * x, x + 1, np.zeros_like(x[:1]), np.full_like(x[:1], 1e30)])
        found = np.asarray(log_distance(NS, probes[:, None], place))
        assert found.dtype == np.float32 and np.isfinite(found).all()
        cost = fit_trust(found[: len(x), 0], found[:, 0], np.ones(len(found)), np.ones(len(found)))
        own = place | {name: array[None] for name, array in cost.items()}
        evidence = Evidence(
            active=np.ones((len(probes), 1), bool),
            dtype=np.float32,
            features=probes[:, None],
            parameters=own,
        )
        value = typicality(NS, evidence)
        assert np.isfinite(value).all() and (value <= 0).all()


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"covariance": "spherical"}, SpecError),
        ({"rank": 0}, SpecError),
        ({"labels": np.zeros(3, dtype=np.intp)}, ShapeError),
        ({"features": np.zeros(4)}, ShapeError),
        ({"features": np.zeros((0, 2)), "labels": np.zeros(0, dtype=np.intp)}, MissingInput),
    ],
)
def test_what_cannot_be_fitted(options: dict[str, Any], error: type[Exception]) -> None:
    arguments = {"features": np.zeros((4, 2)), "labels": np.zeros(4, dtype=np.intp)} | options
    with pytest.raises(error):
        fit_place(arguments.pop("features"), arguments.pop("labels"), **arguments)


# ------------------------------------------------------------------------------- what it costs


def test_validation_samples_are_typical() -> None:
    """About 98 % of clean samples that the fit never saw lose exactly nothing."""
    x, labels = classes_of(rng(5), n=9000, d=8)
    place = fit_place(x[:3000], labels[:3000])
    clean = distances(x[3000:6000], stacked([place], 8))
    cost = fit_trust(clean, clean[:0], clean[:0], clean[:0])
    parameters = {
        f"signals.typicality.{name}": array
        for name, array in (stacked([place], 8) | {k: v[None] for k, v in cost.items()}).items()
    }
    spec = SchedulerSpec(modalities=("a",), policy="static", signals={"typicality": {}})
    scheduler = get_backend("numpy").scheduler(spec, parameters)
    value = scheduler(ModalityBatch(features=x[6000:, None])).signals["typicality"]
    assert (value <= 0).all()
    assert (value == 0).mean() == pytest.approx(TYPICAL, abs=0.01)
    noise = scheduler(ModalityBatch(features=x[6000:, None] * np.float32(20))).signals["typicality"]
    assert (noise < 0).mean() > 0.9
    silent = np.repeat(x[:3000].mean(axis=0)[None, None], 2, axis=0)
    assert (scheduler(ModalityBatch(features=silent)).signals["typicality"] <= 0).all()


@pytest.mark.parametrize(("steepness", "onset"), [(1.0, 2.0), (4.0, 1.0), (8.0, 3.0), (2.0, 0.0)])
def test_the_curve_of_trust_is_found_again(steepness: float, onset: float) -> None:
    """From labels drawn as the model says: by the head in a share of cases, else by the prior."""
    random = rng(6)
    clean = random.uniform(-1.0, 1.0, size=4000)
    corrupted = random.uniform(1.0, 8.0, size=40_000)
    excess = corrupted - np.quantile(clean, (1 + TYPICAL) / 2)
    share = np.exp(
        np.logaddexp(0.0, -steepness * onset) - np.logaddexp(0.0, steepness * (excess - onset))
    )
    # Two classes of one half; the head is sure of the first, and right where it is to be trusted.
    right = random.random(corrupted.shape) < share * 0.99 + (1 - share) * 0.5
    likelihood = np.where(right, 0.99, 0.01)
    loss = fit_trust(clean, corrupted, likelihood, np.full(corrupted.shape, 0.5))["loss"].astype(
        np.float64
    )
    e = np.linspace(0, 6, 50)
    curves = [
        np.exp(np.logaddexp(0.0, -k * h) - np.logaddexp(0.0, k * (e - h)))
        for k, h in ((steepness, onset), loss)
    ]
    assert np.abs(curves[0] - curves[1]).max() < 0.1
    if onset:
        assert loss[1] == pytest.approx(onset, abs=0.4)
        assert np.log(loss[0] / steepness) == pytest.approx(0, abs=0.5)


def test_a_head_that_is_confidently_wrong_loses_its_trust_soonest() -> None:
    clean, corrupted = np.linspace(-1, 1, 100), np.linspace(1, 8, 1000)
    prior = np.full(1000, 0.1)
    kept = []
    for likelihood in (1e-6, 0.05, 0.9):
        cost = fit_trust(clean, corrupted, np.full(1000, likelihood), prior)
        k, h = cost["loss"].astype(np.float64)
        kept.append(np.logaddexp(0.0, -k * h) - np.logaddexp(0.0, k * (2 - h)))
    assert kept[0] <= kept[1] < kept[2]


def test_without_clean_samples_everything_is_typical() -> None:
    """Nothing is known of what is typical, so no distance costs any trust."""
    nothing = np.zeros(0)
    band = fit_trust(nothing, nothing, nothing, nothing)["band"]
    assert band[0] < -20 and band[1] > 20 and np.isfinite(band).all()
    cost = fit_trust(np.zeros(1), nothing, nothing, nothing)
    assert all(np.isfinite(array).all() and array.shape == (2,) for array in cost.values())


def trust_left(distance: float, place: dict[str, Floats], trust: dict[str, Floats]) -> float:
    """exp(t) of one feature at a log-distance from its only prototype."""
    given = {**place, **{name: array[None] for name, array in trust.items()}}
    parameters = {name: array.astype(np.float64) for name, array in given.items()}
    step = np.exp(distance) / float(parameters["whitening"][0, 0, 0])
    x = (parameters["center"] + step)[:, None]
    one = np.ones((1, 1), bool)
    evidence = Evidence(active=one, dtype=x.dtype, features=x, parameters=parameters)
    return float(np.exp(typicality(NS, evidence)[0, 0]))


@pytest.mark.parametrize(("low", "high", "reach"), [(0.5, 1.0, None), (0.5, 4.0, 1.0)])
def test_without_labels_a_tenth_of_the_trust_is_left_one_width_away(
    low: float, high: float, reach: float | None
) -> None:
    place = place_of(rng().normal(size=(50, 1)), np.zeros(50, np.intp))
    trust = assume_trust(np.linspace(low, high, 2000))
    start, end = (float(edge) for edge in trust["band"])
    width = reach or end - start
    assert trust_left(end - 0.01, place, trust) == 1.0
    assert trust_left(end + width, place, trust) == pytest.approx(0.1, rel=1e-3)
    assert trust_left(end + 2 * width, place, trust) < 0.01


def test_copies_are_typical_however_near_they_are() -> None:
    low, high = assume_trust(np.array([-40.0] * 90 + [-5.0] * 10))["band"]
    assert low < -1000
    assert 0 < high < 0.1


# ------------------------------------------------------------------------------------- the signal


def parameters_of(seed: int = 7, d: int = 4, form: str = "low_rank") -> dict[str, Floats]:
    x, labels = classes_of(rng(seed), d=d)
    place = place_of(x, labels, covariance=form, rank=2)
    cost = {"band": np.array([[-0.5, 1.0]]), "loss": np.array([[4.0, 0.5]])}
    return place | {name: array.astype(np.float32) for name, array in cost.items()}


@pytest.mark.clause("DMS-Q-013")
@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(0, 10**6), st.sampled_from(FORMS), st.integers(-30, 30))
def test_the_distance_is_the_oracles(seed: int, form: str, power: int) -> None:
    """With parameters as they are fitted, float32, on features of any size, float64."""
    own = parameters_of(form=form)
    x = rng(seed).normal(size=(3, 1, 4)) * 10.0**power
    wide = {name: array.astype(np.float64) for name, array in own.items()}
    found = log_distance(NS, x, wide)
    alone = {name: array[0] for name, array in own.items()}
    expected = [[oracle.log_distance(row[0].tolist(), alone)] for row in x]
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("power", [-15, -8, 8, 15])
def test_the_unit_of_features_does_not_matter(form: str, power: int) -> None:
    """Fitted and measured in another unit, in float32, the distances are the same."""
    x, labels = classes_of(rng(10), d=8)
    x[-1] *= 100
    unit = np.float32(10.0**power)
    one, other = (
        log_distance(NS, y[:, None], place_of(y, labels, covariance=form, rank=4))
        for y in (x, x * unit)
    )
    np.testing.assert_allclose(one, other, atol=2e-4)


def test_features_next_to_the_largest_number_stay_finite() -> None:
    own = parameters_of()
    largest = np.full((1, 1, 4), np.finfo(np.float32).max, dtype=np.float32)
    assert np.isfinite(log_distance(NS, np.concatenate([largest, -largest]), own)).all()


@pytest.mark.parametrize("name", ["band", "loss"])
def test_parameters_of_another_shape_are_refused(name: str) -> None:
    spec = SchedulerSpec(modalities=("a",), policy="static", signals={"typicality": {}})
    own = {f"signals.typicality.{key}": array for key, array in parameters_of().items()}
    get_backend("numpy").scheduler(spec, own)
    full = f"signals.typicality.{name}"
    with pytest.raises(ShapeError, match=r"\[M 2\]"):
        get_backend("numpy").scheduler(spec, own | {full: np.zeros((1, 3), dtype=np.float32)})
    with pytest.raises(SpecError, match="parameters that were not given"):
        get_backend("numpy").scheduler(spec, {k: v for k, v in own.items() if k != full})
    assert set(TRUST) == {"band", "loss"}


@pytest.mark.clause("DMS-G-002")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("form", FORMS)
def test_gradients_are_finite_everywhere(form: str, dtype: str) -> None:
    """At a prototype, at the centre, at 0, on the edge of the band, next to the largest number."""
    torch = pytest.importorskip("torch")
    own = parameters_of(form=form)
    place = {name: array[0].astype(np.float64) for name, array in own.items()}
    basis = place["whitening"] * place["deviations"]
    if form == "diagonal":
        basis = np.eye(4)
    prototypes = (place["prototypes"] * place["deviations"]) @ basis.T + place["center"]
    ordinary = rng(8).normal(size=(40, 4)) * 10.0 ** rng(9).integers(-30, 19, size=(40, 1))
    steps = prototypes[:1] + np.array([0.0, 1e-20, 1e-12, 1e-6, 1e-3])[:, None]
    largest = np.full((1, 4), 1e38)
    rows = [prototypes, place["center"][None], np.zeros((1, 4)), ordinary, steps, largest]
    x = np.concatenate(rows).astype(dtype)
    backend = get_backend("torch")
    features = torch.tensor(x[:, None], requires_grad=True)
    evidence = Evidence(
        active=torch.ones(len(x), 1, dtype=torch.bool),
        dtype=features.dtype,
        features=features,
        parameters={name: torch.tensor(array).to(features.dtype) for name, array in own.items()},
    )
    value = typicality(backend.namespace("cpu"), evidence)  # type: ignore[attr-defined]
    (gradient,) = torch.autograd.grad(value.sum(), features)
    assert torch.isfinite(value).all() and torch.isfinite(gradient).all()
    assert (gradient[-len(steps) - 1 - 40 : -len(steps) - 1] != 0).any()
