"""The paper's propositions, restated so that they are exact, as numerical laws.

DMS (arXiv 2506.12724), section 4. z and the loss come from the package's equations; the bounds
are written out here. Everything is float64, and the slack allowed is round-off of the sums.
"""

from __future__ import annotations

import itertools

import array_api_compat.numpy as xp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dms_spec.equations.fusion import fuse_features
from dms_spec.equations.heads import class_scores
from dms_spec.equations.losses import consistency_loss
from dms_spec.equations.namespace import Namespace
from dms_spec.equations.published.common import cross_entropy

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
def test_p1a_prime_lipschitz_constants_enter_where_encoders_keep_zero(draw: Draw) -> None:
    """eps sum_m L_m |x_m| for encoders with f_m(0) = 0: here tanh of a linear map."""
    batch, m, d = draw.shape
    encoders = draw.random.normal(size=(m, d, 4))
    lipschitz = np.linalg.norm(encoders, ord=2, axis=(1, 2))
    x = draw.random.normal(size=(batch, m, 4)) * draw.random.lognormal(size=(batch, 1, 1))
    h = np.tanh(np.einsum("mdk,bmk->bmd", encoders, x))
    w, v = draw.weights(), draw.weights()
    eps = np.abs(w - v).max(axis=-1)
    below(norm(fuse(h, w) - fuse(h, v)), eps * (lipschitz * norm(x)).sum(axis=-1))


def test_p1a_prime_is_false_for_encoders_that_do_not_keep_zero() -> None:
    """Constant encoders have L_m = 0, and the fused vector moves all the same."""
    h = np.array([[[1.0, 0.0], [0.0, 1.0]]])
    moved = norm(fuse(h, np.array([[0.9, 0.1]])) - fuse(h, np.array([[0.5, 0.5]])))
    lipschitz, inputs = np.zeros(2), np.ones(2)
    assert moved[0] > 0.5 > 0.4 * (lipschitz * inputs).sum()


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


@given(draws, st.integers(2, 6))
def test_p1g_the_loss_moves_no_more_than_its_slope_allows(draw: Draw, classes: int) -> None:
    """|l(z) - l(z*)| <= G TV diam, for the cross-entropy of a linear head.

    Its gradient in z is W (p - e_y), and |p - e_y| <= sqrt 2: G = sqrt 2 |W|.
    """
    h, w, v = draw.features(), draw.weights(), draw.weights()
    head = {
        "head.weight": draw.random.normal(size=(draw.shape[2], classes)),
        "head.bias": draw.random.normal(size=classes),
    }
    y = draw.random.integers(classes, size=draw.shape[0])
    one, other = (
        cross_entropy(NS, class_scores(NS, fuse(h, weights), head), y) for weights in (w, v)
    )
    slope = np.sqrt(2) * np.linalg.norm(head["head.weight"], ord=2)
    below(np.abs(one - other), slope * total_variation(w, v) * diameter(h))


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
    # 1 - sum of w^2, as the sum of w_i w_j over i != j: nothing cancels where one weight is near 1.
    apart = w[:, :, None] * w[:, None, :] * ~np.eye(h.shape[1], dtype=bool)
    both = apart.sum(axis=(1, 2))
    np.testing.assert_allclose(both, 1 - (w**2).sum(axis=-1), atol=SLACK)
    below(loss, half * both)
    below(half * both, half * (1 - 1 / h.shape[1]))
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


def every_sign(n: int) -> Floats:
    """All 2^n vectors of signs, [2^n, n]."""
    return np.array(list(itertools.product((-1.0, 1.0), repeat=n)))


def complexity(outputs: Floats, sigma: Floats) -> Floats:
    """(1/n) sup_f sum_i sigma_i f(x_i) for each sigma, of a finite class, [n, K] -> [S].

    The mean over all sigma is the empirical Rademacher complexity of the class on the sample.
    """
    return (sigma @ outputs).max(axis=1) / len(outputs)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32), st.integers(2, 4), st.integers(2, 7), st.integers(1, 4))
def test_p3b_fixed_weights_mix_the_complexities(seed: int, m: int, n: int, k: int) -> None:
    """R(sum_m w_m F_m) = sum_m w_m R(F_m) <= max_m R(F_m): finite classes, all signs, exact.

    Each F_m has k functions of its modality alone; the sums are all k^m of them.
    """
    random = np.random.Generator(np.random.Philox(seed))
    functions = random.normal(size=(n, m, k))
    w = softmax(random.normal(size=(1, m)))
    choices = list(itertools.product(range(k), repeat=m))
    chosen = functions[:, np.arange(m), np.array(choices)]  # [n, k^m, m]
    fused = fuse(chosen.reshape(-1, m, 1), np.repeat(w, n * len(choices), axis=0))
    sigma = every_sign(n)
    whole = complexity(fused.reshape(n, -1), sigma).mean()
    each = np.array([complexity(functions[:, i], sigma).mean() for i in range(m)])
    np.testing.assert_allclose(whole, (w[0] * each).sum(), rtol=1e-10, atol=1e-12)
    assert whole <= each.max() + 1e-12


def test_p3b_is_false_for_weights_that_depend_on_the_input() -> None:
    """Two samples, each fused from another modality: twice the complexity of either class."""
    own = np.array([[1.0, -1.0], [1.0, -1.0]])  # both classes: the constants 1 and -1
    sigma = every_sign(2)
    assert complexity(own, sigma).mean() == 0.5
    pairs = np.array(list(itertools.product((1.0, -1.0), repeat=2)))  # a function of each class
    w = np.array([[1.0, 0.0], [0.0, 1.0]])
    fused = np.stack([fuse(np.tile(pair, (2, 1))[..., None], w)[:, 0] for pair in pairs], axis=1)
    assert complexity(fused, sigma).mean() == 1.0


class Population:
    """Finitely many points, so that every risk is exact: features, frozen weights, labels.

    The class is 200 linear heads with |v| <= 1 over fused unit vectors, so that |f(x)| <= 1.
    """

    def __init__(self, seed: int) -> None:
        self.random = np.random.Generator(np.random.Philox(seed))
        h = unit(self.random.normal(size=(500, 3, 5)))
        z = fuse(h, softmax(2 * h[..., 0]))  # a scheduler that looks at what it fuses
        heads = unit(self.random.normal(size=(200, 5))) * self.random.random((200, 1))
        self.outputs = z @ heads.T
        self.labels = np.sign(z[:, 1] + self.random.normal(size=500) / 4)

    def losses(self, slope: float) -> Floats:
        """A ramp of the margin, in [0, 1], [N, K]."""
        return np.clip(0.5 - slope * self.labels[:, None] * self.outputs, 0.0, 1.0)


def unit(x: Floats) -> Floats:
    return x / norm(x)[..., None]


@pytest.mark.parametrize(("slope", "n"), [(0.5, 30), (0.5, 200), (3.0, 200)])
def test_theorem_4_3_and_p3c_the_bound_and_how_often_it_fails(slope: float, n: int) -> None:
    """For scalar outputs and weights that were fixed before the sample was drawn.

    With probability 1 - delta, for all f at once, L the loss's slope and B = 1::

        R(f) <= Rhat(f) + 2 L R_n(F)    +   B sqrt(log(1/delta) / (2n))
        R(f) <= Rhat(f) + 2 L Rhat_n(F) + 3 B sqrt(log(2/delta) / (2n))

    Its two halves are held as well: in the mean the worst f is off by 2 L R_n(F) at most
    (symmetrisation and contraction), and it is seldom further from its mean (McDiarmid).
    """
    population = Population(n)
    losses = population.losses(slope)
    gaps, empirical = [], []
    for _ in range(400):
        sample = population.random.integers(len(losses), size=n)
        gaps.append((losses.mean(axis=0) - losses[sample].mean(axis=0)).max())
        sigma = population.random.choice([-1.0, 1.0], size=(60, n))
        empirical.append(complexity(population.outputs[sample], sigma).mean())
    gap, own = np.array(gaps), np.array(empirical)
    error = 4 * gap.std() / np.sqrt(len(gap))
    assert 0 < gap.mean() - error <= 2 * slope * own.mean()
    for delta in (0.5, 0.2, 0.05):
        tail = np.sqrt(np.log(1 / delta) / (2 * n))
        assert (gap > 2 * slope * own.mean() + tail).mean() <= delta
        assert (gap > gap.mean() + tail).mean() <= delta
        wide = 3 * np.sqrt(np.log(2 / delta) / (2 * n))
        assert (gap > 2 * slope * own + wide).mean() <= delta
    assert n < 200 or 2 * slope * own.mean() + np.sqrt(np.log(20) / (2 * n)) < 1, "says nothing"


def free_weights(h: Floats, sigma: Floats, start: Floats) -> tuple[float, Floats]:
    """(1/n) sum_i sigma_i <v, z_i> with v and every sample's weights chosen to make it large.

    In turn: the weights go to the modality that serves best, and v to the best direction. Each
    step can only raise it, so that what is reached is at least one value of the class.
    """
    v = start
    for _ in range(20):
        best = (sigma[:, None] * (h @ v)).argmax(axis=1)
        moved = sigma @ fuse(h, np.eye(h.shape[1])[best])
        v = moved / norm(moved)
    return float(norm(moved)) / len(h), v


def unit_spheres(random: np.random.Generator, n: int) -> Floats:
    """Unit vectors of three modalities in five dimensions, [n, 3, 5]."""
    return unit(random.normal(size=(n, 3, 5)))


def test_dynamic_weights_do_not_lower_the_complexity() -> None:
    """The figures of the page: linear heads |v| <= 1 over unit vectors, n = 200, D = 5, M = 3.

    Rhat_n(F) = E_sigma sup_f (1/n) sum_i sigma_i f(x_i), averaged over ten samples. Equal weights
    give 0.039, frozen weights drawn from the simplex 0.048, one modality alone 0.067; weights
    that are free for each sample at least 0.44.
    """
    random, n = np.random.Generator(np.random.Philox(0)), 200
    frozen: dict[str, list[float]] = {"equal": [], "dynamic": [], "alone": []}
    free = []
    for _ in range(10):
        h, sigma = unit_spheres(random, n), random.choice([-1.0, 1.0], size=(2000, n))
        weights = {
            "equal": np.full((n, 3), 1 / 3),
            "dynamic": random.dirichlet(np.ones(3), size=n),
            "alone": np.tile([1.0, 0.0, 0.0], (n, 1)),
        }
        for name, w in weights.items():  # the best of all heads is z's own direction
            frozen[name].append(float(norm(sigma @ fuse(h, w)).mean()) / n)
        starts = unit(random.normal(size=(10, 5, 5)))
        free += [
            max(free_weights(h, one, start)[0] for start in own)
            for one, own in zip(sigma[:10], starts, strict=True)
        ]
    assert np.mean(frozen["equal"]) == pytest.approx(0.039, abs=1e-3)
    assert np.mean(frozen["dynamic"]) == pytest.approx(0.048, abs=1e-3)
    assert np.mean(frozen["alone"]) == pytest.approx(0.067, abs=1e-3)
    assert max(np.max(values) for values in frozen.values()) <= 1 / np.sqrt(n)
    assert np.mean(free) == pytest.approx(0.44, abs=5e-3)


@pytest.mark.parametrize("n", [50, 200, 800])
def test_the_complexity_of_free_weights_does_not_fall_with_n(n: int) -> None:
    """For any one v, half the range of <v, h_m> over m: 27/70 here, however large the sample.

    The best of the three serves each sign: E_sigma max_m sigma <v, h_m> is half of the range.
    """
    random = np.random.Generator(np.random.Philox(n))
    expected = half_range(unit_spheres(random, 20_000))
    assert expected == pytest.approx(27 / 70, abs=0.004)
    h = unit_spheres(random, n)
    reached = [
        free_weights(h, random.choice([-1.0, 1.0], size=n), np.eye(5)[0])[0] for _ in range(20)
    ]
    assert np.mean(reached) >= max(half_range(h), expected)


def half_range(h: Floats) -> float:
    along = h[..., 0]
    return float((along.max(axis=1) - along.min(axis=1)).mean()) / 2


def test_the_bound_of_frozen_weights_fails_for_weights_chosen_on_the_sample() -> None:
    """Labels that are coins: every risk is 1/2, and weights that know the sample look better.

    The loss is (1 - y f(x)) / 2, of slope 1/2. Lambda R / sqrt n is more than any frozen weights
    have, and the gap is larger all the same.
    """
    random, n, delta = np.random.Generator(np.random.Philox(1)), 200, 0.05
    for _ in range(20):
        h, labels = unit_spheres(random, n), random.choice([-1.0, 1.0], size=n)
        margin, v = free_weights(h, labels, np.eye(5)[0])
        assert norm(v) == pytest.approx(1)
        gap = 0.5 - (1 - margin) / 2
        assert gap > 2 * 0.5 / np.sqrt(n) + np.sqrt(np.log(1 / delta) / (2 * n))


@pytest.mark.parametrize("m", [2, 3, 8])
def test_the_loss_is_zero_at_every_vertex(m: int) -> None:
    """Concave and zero at the vertices: this is why gradients must not push the weights."""
    h = np.random.Generator(np.random.Philox(0)).normal(size=(m, m, 4))
    np.testing.assert_array_equal(mwcl(h, np.eye(m)), np.zeros(m))
    assert (mwcl(h, np.full((m, m), 1 / m)) > 0).all()
