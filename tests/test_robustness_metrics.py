"""What is measured, recomputed by hand."""

from __future__ import annotations

from itertools import combinations
from math import log

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dms_spec.embeddings.calibration import expected_calibration_error
from dms_spec.errors import MissingInput, ShapeError, SpecError
from dms_spec.robustness import average, damaged_sets, expected
from dms_spec.robustness import metrics as m

P = np.array([[0.9, 0.1], [0.6, 0.4], [0.3, 0.7], [0.2, 0.8]])
Y = np.array([0, 1, 1, 0])


def test_accuracy_and_what_is_left_of_it() -> None:
    # The degradations that the DMS paper prints, to the tenth that it prints.
    for clean, noisy, printed in ((72.1, 56.7, -21.4), (73.3, 60.2, -17.9), (74.4, 67.4, -9.4)):
        value = m.degradation(clean, noisy)
        assert value is not None and round(value, 1) == printed
    retained = m.retention(74.4, 65.9)
    assert retained is not None and round(100 * retained, 1) == 88.6
    for clean, noisy in ((0.0, 0.5), (None, 0.5), (0.5, None)):
        assert m.degradation(clean, noisy) is None
        assert m.retention(clean, noisy) is None


def test_calibration_leaves_out_what_is_no_class() -> None:
    bars = m.reliability(P, Y, bins=2)
    assert bars == {"share": [0.0, 1.0], "confidence": [None, 0.75], "accuracy": [None, 0.5]}
    assert m.reliability(P, [-1] * 4, bins=2)["share"] == [0.0, 0.0]


@given(seed=st.integers(0, 1000), rows=st.integers(1, 60))
def test_reliability_is_what_the_calibration_error_sums(seed: int, rows: int) -> None:
    random = np.random.Generator(np.random.Philox(seed))
    p, y = random.dirichlet(np.ones(3), rows), random.integers(0, 3, rows)
    bars = m.reliability(p, y)
    gaps = [
        share * abs(accuracy - confidence)
        for share, confidence, accuracy in zip(
            bars["share"], bars["confidence"], bars["accuracy"], strict=True
        )
        if share and confidence is not None and accuracy is not None
    ]
    assert sum(gaps) == pytest.approx(expected_calibration_error(p, y), abs=1e-12)


def test_risk_and_coverage() -> None:
    """By confidence: right, wrong, right, wrong."""
    coverage, risk = m.risk_coverage(P, Y)
    assert coverage.tolist() == [0.25, 0.5, 0.75, 1.0]
    assert risk == pytest.approx([0, 1 / 2, 1 / 3, 2 / 4])
    assert m.area_under_risk_coverage(P, Y) == pytest.approx((0 + 1 / 2 + 1 / 3 + 1 / 2) / 4)
    assert m.area_under_risk_coverage(np.zeros((0, 2)), []) is None


@given(seed=st.integers(0, 1000))
def test_the_order_of_the_rows_does_not_matter_even_with_ties(seed: int) -> None:
    random = np.random.Generator(np.random.Philox(seed))
    p = random.integers(1, 4, (30, 3)) / 1.0
    p /= p.sum(axis=1, keepdims=True)
    y, order = random.integers(0, 3, 30), random.permutation(30)
    one, two = (m.area_under_risk_coverage(p[i], y[i]) for i in (np.arange(30), order))
    assert one == pytest.approx(two, abs=1e-12)


# ----------------------------------------------------------------------------- less and more


def test_counter_intuitive_rate_by_hand() -> None:
    """Three modalities, two samples; performance is right or wrong."""
    f = frozenset
    right = {
        f("a"): [1, 0],
        f("b"): [0, 0],
        f("ab"): [0, 1],
        f("abc"): [1, 0],
    }
    # adjacent: a < ab (1>0: one), b < ab (none), ab < abc (1>0: one); 3 pairs x 2 samples
    assert m.counter_intuitive_rate(right, "adjacent") == pytest.approx(2 / 6)
    # all adds a < abc (none) and b < abc (none)
    assert m.counter_intuitive_rate(right, "all") == pytest.approx(2 / 10)
    assert m.counter_intuitive_rate({f("a"): 0.9, f("ab"): 0.8}) == 1.0
    assert m.counter_intuitive_rate({f("a"): 0.9, f("b"): 0.8}) is None
    assert m.counter_intuitive_rate({f("a"): [], f("ab"): []}) is None
    with pytest.raises(ShapeError):
        m.counter_intuitive_rate({f("a"): [1], f("ab"): [1, 0]})
    with pytest.raises(SpecError):
        m.counter_intuitive_rate({}, "some")  # type: ignore[arg-type]


def test_losses_and_their_covariance_with_the_weights() -> None:
    unimodal = np.array([[[0.5, 0.5], [1.0, 0.0]], [[0.25, 0.75], [0.5, 0.5]]])
    got = m.losses(unimodal, [1, -1])
    assert got[0] == pytest.approx([log(2), -log(m.SMALLEST)])
    assert np.isnan(got[1]).all()
    weights = [[0.9, 0.1], [0.5, 0.5], [0.1, 0.9]]
    loss = [[1.0, 3.0], [2.0, 5.0], [3.0, np.nan]]
    active = np.array([[True, True], [True, False], [True, True]])
    parts, total = m.weight_loss_covariance(weights, loss, active)
    assert parts == pytest.approx([-(0.4 * 1 + 0.4 * 1) / 3, 0.0])
    assert total == pytest.approx(-0.8 / 3)
    assert m.weight_loss_covariance(weights, loss, ~np.ones((3, 2), bool)) == ([None, None], None)


# ------------------------------------------------------------------------------ sensor failure


def test_the_published_row_of_the_benchmark() -> None:
    """Means by number of missing modalities give CMNeXt's row of arXiv 2503.18445."""
    by_count = [66.33, 51.65, 36.10, 19.75]
    scores = {
        frozenset(damaged): by_count[size]
        for size in range(4)
        for damaged in combinations("RDEL", size)
    }
    assert average(scores, 4) == pytest.approx(37.902, abs=5e-4)
    wanted = {0.2: 54.462, 0.1: 60.412, 0.05: 63.381}
    for p, value in wanted.items():
        assert expected(scores, 4, p) == pytest.approx(value, abs=5e-4)


@given(count=st.integers(1, 5), p=st.floats(0, 0.99))
@settings(deadline=None)
def test_the_weights_of_the_sets_sum_to_one(count: int, p: float) -> None:
    names = tuple("abcde"[:count])
    sets = damaged_sets(names)
    assert len(set(sets)) == 2**count - 1 and sets[0] == ()
    scores = {frozenset(damaged): 7.0 for damaged in sets}
    assert average(scores, count) == pytest.approx(7)
    assert expected(scores, count, p) == pytest.approx(7)
    falling = {damaged: -float(len(damaged)) for damaged in scores}
    assert expected(falling, count, 0) == 0
    assert expected(falling, count, p) >= expected(falling, count, min(0.99, p + 0.005)) - 1e-12


def test_sets_that_are_missing_are_no_average() -> None:
    scores = {frozenset[str](): 1.0, frozenset("a"): 0.5}
    with pytest.raises(MissingInput, match="3 sets"):
        average(scores, 2)
    with pytest.raises(MissingInput):
        expected(scores | {frozenset("ab"): 0.1}, 2, 0.1)
    with pytest.raises(SpecError):
        expected(scores | {frozenset("b"): 0.1}, 2, 1.0)


# --------------------------------------------------------------------------- paired differences


def test_a_paired_difference_by_hand() -> None:
    """Two rows, two seeds: d = 1, 0, 0, 0, so D = 1/4 and e = 3/4, -1/4, -1/4, -1/4."""
    own, rows, seeds = [1, 0, 1, 0], [7, 9, 7, 9], [0, 0, 1, 1]
    mean, error = m.paired_difference(own, [0, 0, 1, 0], rows, seeds)
    assert mean == 0.25
    by_row = (0.5**2 + 0.5**2) / 16
    by_seed = 2 * (0.5**2 + 0.5**2) / 16
    within = (0.75**2 + 3 * 0.25**2) / 16
    assert error == pytest.approx(np.sqrt(by_row + by_seed - within))


@given(seed=st.integers(0, 10**6), seeds=st.integers(1, 4))
def test_laws_of_a_paired_difference(seed: int, seeds: int) -> None:
    """It changes its sign with the sides, ignores order, and with one seed it is the usual one."""
    random = np.random.default_rng(seed)
    own, other = random.random((2, seeds, 30)) < 0.7
    rows = random.permuted(np.tile(np.arange(50), (seeds, 1)), axis=1)[:, :30]
    which = np.repeat(np.arange(seeds), 30)
    flat = [x.ravel() for x in (own, other, rows)]
    mean, error = m.paired_difference(*flat, which)
    back = m.paired_difference(flat[1], flat[0], flat[2], which)
    assert back == pytest.approx((-mean, error))
    order = random.permutation(len(which))
    again = m.paired_difference(*(x[order] for x in flat), which[order])
    assert again == pytest.approx((mean, error))
    assert m.paired_difference(flat[0], flat[0], flat[2], which) == (0.0, 0.0)
    if seeds == 1:
        d = own[0].astype(float) - other[0]
        assert error == pytest.approx(d.std() / np.sqrt(30))


def test_the_error_is_that_of_rows_and_of_seeds() -> None:
    """Its mean square is the variance of the mean, whichever of the two the differences vary by."""
    random = np.random.default_rng(0)
    rows, which = np.tile(np.arange(200), 8), np.repeat(np.arange(8), 200)
    for by_row, by_seed in ((1.0, 0.0), (0.0, 1.0), (0.5, 0.1)):
        found = [
            m.paired_difference(
                by_row * random.normal(size=200)[rows]
                + by_seed * random.normal(size=8)[which]
                + random.normal(size=len(rows)),
                np.zeros(len(rows)),
                rows,
                which,
            )
            for _ in range(400)
        ]
        means, errors = np.array(found).T
        assert np.mean(errors**2) == pytest.approx(means.var(), rel=0.25)


def test_trials_that_do_not_match_are_refused() -> None:
    for lengths in ((0, 0, 0, 0), (2, 3, 2, 2), (2, 2, 1, 2)):
        with pytest.raises(ShapeError, match="trials"):
            m.paired_difference(*(np.zeros(n) for n in lengths))
