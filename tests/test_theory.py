"""The paper's propositions, restated so that they are exact, as numerical laws.

DMS (arXiv 2506.12724), section 4. z and the loss come from the package's equations; the bounds
are written out here. Everything is float64, and the slack allowed is round-off of the sums.
"""

from __future__ import annotations

import array_api_compat.numpy as xp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dms_spec.equations.fusion import fuse_features
from dms_spec.equations.losses import consistency_loss
from dms_spec.equations.namespace import Namespace

NS = Namespace.of(xp, np.ndarray)
Floats = NDArray[np.float64]
SLACK = 1e-12


class Draw:
    """Random features and simplex weights of a drawn size; one row per trial."""

    def __init__(self, seed: int, m: int, d: int, spread: float) -> None:
        self.random = np.random.Generator(np.random.Philox(seed))
        self.shape = (64, m, d)
        self.spread = spread

    def features(self) -> Floats:
        return self.random.normal(size=self.shape) * self.random.lognormal(size=(64, 1, 1))

    def scores(self) -> Floats:
        return self.random.normal(size=self.shape[:2]) * self.spread

    def weights(self) -> Floats:
        return softmax(self.scores())


draws = st.builds(
    Draw, st.integers(0, 2**32), st.integers(2, 8), st.integers(1, 12), st.sampled_from([0.1, 1, 6])
)


def softmax(scores: Floats) -> Floats:
    return NS.masked_softmax(scores, np.ones(scores.shape, dtype=bool))


def fuse(h: Floats, w: Floats) -> Floats:
    return fuse_features(NS, h, w)


def mwcl(h: Floats, w: Floats) -> Floats:
    return consistency_loss(NS, h, w, reduction="none")


def norm(x: Floats) -> Floats:
    return np.linalg.norm(x, axis=-1)


def diameter(h: Floats) -> Floats:
    return norm(h[:, :, None] - h[:, None]).max(axis=(1, 2))


def total_variation(w: Floats, v: Floats) -> Floats:
    return np.abs(w - v).sum(axis=-1) / 2


def below(small: Floats, large: Floats) -> None:
    excess = small - large - SLACK * (1 + np.abs(large))
    assert (excess <= 0).all(), f"violated by {excess.max()}"


@given(draws)
def test_p1a_fusion_moves_no_more_than_the_weights_do(draw: Draw) -> None:
    h, w, v = draw.features(), draw.weights(), draw.weights()
    eps = np.abs(w - v).max(axis=-1)
    below(norm(fuse(h, w) - fuse(h, v)), eps * norm(h).sum(axis=-1))
    below(eps * norm(h).sum(axis=-1), h.shape[1] * eps * norm(h).max(axis=-1))


@given(draws)
def test_p1b_total_variation_times_diameter(draw: Draw) -> None:
    h, w, v = draw.features(), draw.weights(), draw.weights()
    moved, bound = norm(fuse(h, w) - fuse(h, v)), total_variation(w, v) * diameter(h)
    below(moved, bound)
    if h.shape[1] == 2:  # an equality with two modalities
        np.testing.assert_allclose(moved, bound, rtol=1e-10, atol=1e-12)
    below(total_variation(w, v), h.shape[1] / 2 * np.abs(w - v).max(axis=-1))


@given(draws)
def test_p1c_inputs_and_weights_move_together(draw: Draw) -> None:
    """Encoders are linear maps, whose Lipschitz constant is their spectral norm."""
    batch, m, d = draw.shape
    encoders = draw.random.normal(size=(m, d, 4))
    lipschitz = np.linalg.norm(encoders, ord=2, axis=(1, 2))
    x, y = draw.random.normal(size=(2, batch, m, 4))
    h, g = (np.einsum("mdk,bmk->bmd", encoders, inputs) for inputs in (x, y))
    w, v = draw.weights(), draw.weights()
    below(
        norm(fuse(h, w) - fuse(g, v)),
        (w * lipschitz * norm(x - y)).sum(axis=-1) + total_variation(w, v) * diameter(g),
    )


@given(draws)
def test_p1d_softmax_is_lipschitz(draw: Draw) -> None:
    s, t = draw.scores(), draw.scores()
    w, v, gap = softmax(s), softmax(t), s - t
    below(np.abs(w - v).sum(axis=-1), np.abs(gap).max(axis=-1))
    below(norm(w - v), norm(gap) / 2)
    below(total_variation(w, v), np.tanh((gap.max(axis=-1) - gap.min(axis=-1)) / 4))


@given(draws, st.tuples(*[st.sampled_from([0.0, 0.5, 2.0])] * 3))
def test_p1e_signals_move_the_fused_value_by_their_coefficients(
    draw: Draw, coefficients: tuple[float, float, float]
) -> None:
    h = draw.features()
    one, other = draw.random.random(size=(2, 3, *draw.shape[:2]))
    signs = np.array([1, -1, 1]) * coefficients
    s, t = (np.einsum("k,kbm->bm", signs, signals) for signals in (one, other))
    moved = norm(fuse(h, softmax(s)) - fuse(h, softmax(t)))
    below(moved, np.abs(s - t).max(axis=-1) * diameter(h) / 2)
    by_signal = np.einsum("k,kbm->bm", coefficients, np.abs(one - other))
    below(np.abs(s - t), by_signal)


@given(draws)
def test_p1f_no_weight_falls_below_the_floor(draw: Draw) -> None:
    """And with the paper's signals, the floor depends on the coefficients alone."""
    alpha, beta, gamma = draw.random.random(3) * 4
    c, a = draw.random.random(draw.shape[:2]), draw.random.uniform(-1, 1, draw.shape[:2])
    u = draw.random.random(draw.shape[:2]) / 4
    s = alpha * c - beta * u + gamma * a
    spread = s.max(axis=-1, keepdims=True) - s.min(axis=-1, keepdims=True)
    m = s.shape[1]
    below(1 / (1 + (m - 1) * np.exp(spread)), softmax(s))
    below(spread, np.full_like(spread, alpha + beta / 4 + 2 * gamma))


@given(draws)
def test_p2a_p2b_the_loss_is_a_variance(draw: Draw) -> None:
    h, w = draw.features(), draw.weights()
    loss = mwcl(h, w)
    scale = (w * norm(h) ** 2).sum(axis=-1)
    np.testing.assert_array_less(
        np.abs(loss - (scale - norm(fuse(h, w)) ** 2)), SLACK * (1 + scale)
    )
    pairs = norm(h[:, :, None] - h[:, None]) ** 2
    np.testing.assert_array_less(
        np.abs(loss - np.einsum("bm,bn,bmn->b", w, w, pairs) / 2), SLACK * (1 + scale)
    )


@given(draws)
def test_p2c_the_fused_vector_is_the_unique_minimiser(draw: Draw) -> None:
    h, w = draw.features(), draw.weights()
    v = draw.random.normal(size=(draw.shape[0], draw.shape[2]))
    around = (w * norm(h - v[:, None]) ** 2).sum(axis=-1)
    exact = mwcl(h, w) + norm(v - fuse(h, w)) ** 2
    np.testing.assert_array_less(np.abs(around - exact), SLACK * (1 + around))


@given(draws)
def test_p2d_bounds_of_the_loss(draw: Draw) -> None:
    h, w = draw.features(), draw.weights()
    loss, half = mwcl(h, w), diameter(h) ** 2 / 2
    below(-loss, np.zeros_like(loss))
    below(loss, half * (1 - (w**2).sum(axis=-1)))
    below(half * (1 - (w**2).sum(axis=-1)), half * (1 - 1 / h.shape[1]))
    same = np.repeat(h[:, :1], h.shape[1], axis=1)
    np.testing.assert_allclose(mwcl(same, w), 0, atol=1e-20 * (1 + norm(h).max() ** 2) * 1e6)


@given(draws)
def test_p2e_p2f_trusted_modalities_stay_close(draw: Draw) -> None:
    h, w = draw.features(), draw.weights()
    z, loss = fuse(h, w), mwcl(h, w)[:, None]
    distance = norm(h - z[:, None])
    below(distance**2, (1 - w) / w * loss)
    below((w * distance).sum(axis=-1), np.sqrt(loss[:, 0]))
    below(norm(z), (w * norm(h)).sum(axis=-1))


@given(draws, st.floats(0, 1), st.floats(-4, 4))
def test_p2g_concave_in_weights_translation_and_scale(draw: Draw, t: float, s: float) -> None:
    h, w, v = draw.features(), draw.weights(), draw.weights()
    between = mwcl(h, t * w + (1 - t) * v)
    below(t * mwcl(h, w) + (1 - t) * mwcl(h, v), between)
    moved = h + draw.random.normal(size=(draw.shape[0], 1, draw.shape[2]))
    size = 1 + norm(h).max() ** 2
    np.testing.assert_allclose(mwcl(moved, w), mwcl(h, w), rtol=1e-9, atol=1e-10 * size)
    np.testing.assert_allclose(mwcl(s * h, w), s**2 * mwcl(h, w), rtol=1e-9, atol=1e-12 * size)


@settings(max_examples=20)
@given(st.integers(0, 2**32), st.integers(2, 5), st.sampled_from([20, 200]))
def test_p3a_rademacher_complexity_of_a_linear_head(seed: int, m: int, n: int) -> None:
    """Theorem 4.3 for |g| <= Lambda over frozen encoders and weights, by Monte Carlo.

    (Lambda/n) E|sum sigma_i z_i| <= (Lambda/n) sqrt(sum |z_i|^2) <= Lambda R / sqrt n. The
    estimate may exceed its expectation by chance: four standard errors are allowed.
    """
    random = np.random.Generator(np.random.Philox(seed))
    bound, radius = 1.5, 2.0
    h = random.normal(size=(n, m, 5))
    h *= radius * random.random((n, m, 1)) / norm(h)[..., None]
    z = fuse(h, softmax(random.normal(size=(n, m))))
    sigma = random.choice([-1.0, 1.0], size=(4000, n))
    lengths = bound / n * norm(sigma @ z)
    second = bound / n * np.sqrt((norm(z) ** 2).sum())
    assert lengths.mean() - 4 * lengths.std() / np.sqrt(len(lengths)) <= second
    assert second <= bound * radius / np.sqrt(n) * (1 + 1e-12)
    # The bound is not vacuous: Khinchine's inequality gives the mean at least 1/sqrt 2 of it.
    assert lengths.mean() + 4 * lengths.std() / np.sqrt(len(lengths)) >= second / np.sqrt(2)


@pytest.mark.parametrize("m", [2, 3, 8])
def test_the_loss_is_zero_at_every_vertex(m: int) -> None:
    """Concave and zero at the vertices: this is why gradients must not push the weights."""
    h = np.random.Generator(np.random.Philox(0)).normal(size=(m, m, 4))
    np.testing.assert_array_equal(mwcl(h, np.eye(m)), np.zeros(m))
    assert (mwcl(h, np.full((m, m), 1 / m)) > 0).all()
