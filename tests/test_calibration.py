"""Temperature and ECE: what was put in comes out, and what cannot be fitted is said."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dms_spec.embeddings.calibration import (
    TEMPERATURES,
    Calibration,
    expected_calibration_error,
    fit_temperature,
)
from dms_spec.errors import (
    DMSError,
    DTypeError,
    MissingInput,
    NonFiniteInput,
    ShapeError,
    SpecError,
)

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]


def rng(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(seed))


def softmax(logits: Floats) -> Floats:
    e: Floats = np.exp(logits - logits.max(axis=-1, keepdims=True))
    e /= e.sum(axis=-1, keepdims=True)
    return e


def nll(logits: Floats, labels: Labels, temperature: float) -> float:
    x = logits / temperature
    x = x - x.max(axis=1, keepdims=True)
    return float((np.log(np.exp(x).sum(axis=1)) - x[np.arange(len(x)), labels]).mean())


def drawn(seed: int, temperature: float, samples: int, classes: int = 5) -> tuple[Floats, Labels]:
    """Logits, and labels drawn from them at a temperature."""
    random = rng(seed)
    logits = random.normal(size=(samples, classes)) * 3
    edges = softmax(logits / temperature).cumsum(axis=1)
    labels = (random.random((samples, 1)) > edges).sum(axis=1)
    return logits, np.minimum(labels, classes - 1)


@pytest.mark.parametrize("temperature", [0.2, 0.5, 1.0, 2.0, 6.0])
def test_a_known_temperature_comes_back(temperature: float) -> None:
    """Within five standard deviations of a maximum-likelihood estimate of 1 / T."""
    logits, labels = drawn(1, temperature, 20_000)
    fitted = fit_temperature(logits, labels)
    p = softmax(logits / temperature)
    information = (p * logits**2).sum(axis=1) - (p * logits).sum(axis=1) ** 2
    deviation = 1 / np.sqrt(information.sum())
    assert abs(1 / fitted.temperature - 1 / temperature) <= 5 * deviation
    assert deviation * temperature < 0.03  # so that the line above says something
    assert fitted.samples == 20_000
    assert fitted.note == ""
    if temperature != 1.0:
        assert fitted.ece_after < fitted.ece_before
        assert fitted.nll_after < fitted.nll_before
    # 20 000 samples in 15 bins: each rate is known to sqrt(p (1 - p) / n).
    assert fitted.ece_after < 15 * 0.5 / np.sqrt(20_000)


@st.composite
def tables(draw: st.DrawFn) -> tuple[Floats, Labels]:
    random = rng(draw(st.integers(0, 2**32)))
    samples, classes = draw(st.integers(1, 40)), draw(st.integers(1, 6))
    spread = draw(st.sampled_from([0.0, 1e-3, 1.0, 10.0, 1e3, 1e9, 1e18]))
    logits = random.normal(size=(samples, classes)) * spread
    labels = random.integers(0, classes, samples)
    if draw(st.booleans()):
        labels = np.where(random.random(samples) < 0.7, logits.argmax(axis=1), labels)
    return logits, labels


@pytest.mark.clause("DMS-D-006")
@given(tables())
@settings(deadline=None, max_examples=200)
def test_no_temperature_is_better_and_one_is_no_better(table: tuple[Floats, Labels]) -> None:
    logits, labels = table
    fitted = fit_temperature(logits, labels)
    low, high = TEMPERATURES
    assert low <= fitted.temperature <= high
    assert fitted.nll_after <= fitted.nll_before
    # The reported figures are those of a plain reading of the definition.
    slack = 8 * np.finfo(float).eps * (1 + np.abs(logits).max() / fitted.temperature)
    assert fitted.nll_before == pytest.approx(nll(logits, labels, 1.0), abs=slack, rel=1e-12)
    assert fitted.nll_after == pytest.approx(
        nll(logits, labels, fitted.temperature), abs=slack, rel=1e-12
    )
    assert fitted.ece_before == pytest.approx(
        expected_calibration_error(softmax(logits), labels), abs=1e-12
    )
    for other in np.geomspace(low, high, 300):
        assert fitted.nll_after <= nll(logits, labels, other) * (1 + 1e-12) + slack


@given(st.integers(0, 2**32), st.sampled_from([0.5, 2.0, 3.0]), st.sampled_from([0.0, 1e4]))
@settings(deadline=None, max_examples=30)
def test_scaled_logits_scale_the_temperature(seed: int, factor: float, offset: float) -> None:
    """And an offset of a row, which no probability sees, does nothing."""
    logits, labels = drawn(seed, 1.0, 400)
    first = fit_temperature(logits, labels)
    scaled = fit_temperature(logits * factor + offset, labels)
    # Adding 1e4 rounds each logit by up to eps * 1e4.
    allowed = 1e-9 + 100 * offset * np.finfo(float).eps
    assert scaled.temperature == pytest.approx(factor * first.temperature, rel=allowed)
    assert scaled.nll_after == pytest.approx(first.nll_after, rel=allowed)


def test_the_minimum_is_found_from_far_away() -> None:
    """Where Newton's method from 1 overshoots, or starts where the curve is flat."""
    for scale in (0.08, 0.2, 8.0, 15.0):
        logits, labels = drawn(2, 1.0, 2_000)
        expected = fit_temperature(logits, labels).temperature * scale
        fitted = fit_temperature(logits * scale, labels)
        assert fitted.temperature == pytest.approx(expected, rel=1e-9)
        assert fitted.note == ""


def test_what_cannot_be_fitted_is_said() -> None:
    labels = np.array([0, 1, 2, 0])
    right, wrong = np.eye(3)[labels], -np.eye(3)[labels]
    separable = fit_temperature(right, labels)
    assert separable.temperature == pytest.approx(TEMPERATURES[0])
    assert "separable" in separable.note
    misleading = fit_temperature(wrong, labels)
    assert misleading.temperature == pytest.approx(TEMPERATURES[1])
    assert "know nothing" in misleading.note
    for same in (np.full((4, 3), 0.1), np.zeros((4, 3)), np.ones((4, 3)) * 1e18):
        constant = fit_temperature(same, labels)
        assert constant.temperature == 1
        assert "no difference" in constant.note
        assert constant.nll_before == constant.nll_after == pytest.approx(np.log(3))
    alone = fit_temperature([[3.0], [-1e4]], [0, 0])
    assert alone.temperature == 1
    assert (alone.nll_after, alone.ece_after) == (0, 0)
    one = fit_temperature([[1.0, 2.0]], [0])
    assert one.temperature == TEMPERATURES[1]


def test_classes_may_be_ruled_out() -> None:
    """A class at -inf is as good as not there, unless it is the label."""
    logits, labels = drawn(3, 2.0, 500, classes=4)
    wide = np.concatenate([logits, np.full((500, 1), -np.inf)], axis=1)
    plain, ruled = fit_temperature(logits, labels), fit_temperature(wide, labels)
    assert ruled == plain
    corrupted = wide.copy()
    corrupted[7, labels[7]] = -np.inf
    lost = fit_temperature(corrupted, labels)
    assert lost.nll_before == lost.nll_after == np.inf
    assert "1 of 500 labels" in lost.note
    kept = np.delete(np.arange(500), 7)
    assert lost.temperature == fit_temperature(logits[kept], labels[kept]).temperature
    nothing = fit_temperature([[0.0, -np.inf]], [1])
    assert (nothing.temperature, nothing.nll_after) == (1, np.inf)


def test_half_precision_and_lists_are_fine() -> None:
    logits, labels = drawn(4, 1.5, 300)
    half = logits.astype(np.float16)
    assert fit_temperature(half, labels) == fit_temperature(half.astype(float), labels.tolist())
    assert isinstance(fit_temperature(half, labels.astype(np.uint8)), Calibration)


# --- ECE -----------------------------------------------------------------------------------------


def test_ece_by_hand() -> None:
    """Five bins; four samples; .2 and .6 lie on edges and belong to the bin below."""
    p = np.array(
        [
            [0.6, 0.2, 0.1, 0.1, 0.0],  # (.4, .6], right
            [0.1, 0.5, 0.2, 0.1, 0.1],  # (.4, .6], wrong
            [0.0, 0.0, 0.0, 0.0, 1.0],  # (.8, 1], right
            [0.2, 0.2, 0.2, 0.2, 0.2],  # (0, .2], first class, wrong
        ]
    )
    labels = [0, 0, 4, 1]
    # 2/4 |1/2 - .55| + 1/4 |1 - 1| + 1/4 |0 - .2|; the bins (.2, .4] and (.6, .8] are empty.
    assert expected_calibration_error(p, labels, bins=5) == pytest.approx(0.075, abs=1e-15)
    # One bin: |mean confidence - accuracy| = |.575 - .5|
    assert expected_calibration_error(p, labels, bins=1) == pytest.approx(0.075, abs=1e-15)
    # In ten bins .5 falls to (.4, .5] and .6 stays in (.5, .6]: .5 + .4 + 0 + .2, over 4
    assert expected_calibration_error(p, labels, bins=10) == pytest.approx(0.275, abs=1e-15)


@pytest.mark.parametrize("bins", [1, 2, 3, 15, 100])
@given(st.integers(0, 2**32), st.integers(1, 50), st.integers(1, 5))
@settings(deadline=None, max_examples=30)
def test_ece_against_a_loop(bins: int, seed: int, samples: int, classes: int) -> None:
    random = rng(seed)
    # Coarse, so that many confidences lie on an edge of some bin.
    p = random.integers(0, 5, (samples, classes)).astype(float)
    p[:, 0] += 1
    p /= p.sum(axis=1, keepdims=True)
    labels = random.integers(0, classes, samples)
    total = 0.0
    for i in range(bins):
        low, high = i / bins, (i + 1) / bins
        inside = [row for row in range(samples) if low < min(p[row].max(), 1.0) <= high]
        if inside:
            accuracy = np.mean([p[row].argmax() == labels[row] for row in inside])
            confidence = np.mean([p[row].max() for row in inside])
            total += len(inside) / samples * abs(accuracy - confidence)
    ece = expected_calibration_error(p, labels, bins=bins)
    assert ece == pytest.approx(total, abs=1e-14)
    assert 0 <= ece <= 1


def test_ece_of_the_sure_and_of_the_honest() -> None:
    assert expected_calibration_error(np.eye(3), [0, 1, 2]) == 0
    assert expected_calibration_error(np.eye(3), [1, 2, 0]) == 1
    assert expected_calibration_error(np.full((4, 2), 0.5), [0, 1, 0, 1]) == 0


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize("function", [fit_temperature, expected_calibration_error])
@pytest.mark.parametrize(
    ("kind", "scores", "labels", "word"),
    [
        (ShapeError, np.full(3, 0.5), [0, 1, 0], r"\[N, C\]"),
        (ShapeError, np.ones((3, 0)), [0, 1, 0], r"\[N, C\]"),
        (ShapeError, np.full((3, 2), 0.5), [0, 1], "disagree about N"),
        (ShapeError, np.full((3, 2), 0.5), [[0], [1], [0]], "disagree about N"),
        (ShapeError, np.full((3, 2), 0.5), [0, 2, 0], "0 to 2"),
        (ShapeError, np.full((3, 2), 0.5), [0, -1, 0], "-1 to 0"),
        (DTypeError, np.full((3, 2), 0.5), [0.0, 1.0, 0.0], "float64"),
        (DTypeError, np.full((3, 2), 0.5), [True, False, True], "bool"),
        (DTypeError, np.full((3, 2), "a"), [0, 1, 0], "<U1"),
        (MissingInput, np.ones((0, 2)), np.zeros(0, dtype=int), "no samples"),
    ],
)
def test_tables_that_do_not_fit_are_refused(
    function: Any, kind: type[DMSError], scores: Any, labels: Any, word: str
) -> None:
    with pytest.raises(kind, match=word):
        function(scores, labels)


@pytest.mark.parametrize("row", [[np.nan, 0.0], [np.inf, 0.0], [-np.inf, -np.inf]])
def test_logits_that_mean_nothing_are_refused(row: list[float]) -> None:
    with pytest.raises(NonFiniteInput, match="row 1"):
        fit_temperature([[0.0, 1.0], row], [0, 1])


@pytest.mark.parametrize("row", [[np.nan, 0.0], [3.0, -2.0], [0.5, 0.6], [np.inf, 0.0]])
def test_ece_of_what_is_no_probability_is_refused(row: list[float]) -> None:
    with pytest.raises(SpecError, match="softmax"):
        expected_calibration_error([[0.5, 0.5], row], [0, 1])
    with pytest.raises(SpecError, match="bins"):
        expected_calibration_error([[0.5, 0.5]], [0], bins=0)
