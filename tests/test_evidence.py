"""Fusion of evidence in float64, and what it promises where more than one schedule is compared."""

from __future__ import annotations

from typing import Any

import array_api_compat.numpy as xp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dms_spec.conformance import drawing, oracle
from dms_spec.equations.evidence import discount, log_prior, log_ratios, posterior
from dms_spec.equations.namespace import Namespace
from dms_spec.errors import SpecError
from dms_spec.plugins import get_backend
from dms_spec.spec import SchedulerSpec

NS = Namespace.of(xp, np.ndarray)
Floats = NDArray[np.float64]


def drawn(seed: int, sharp: float) -> tuple[Floats, Floats, Floats, NDArray[np.bool_]]:
    """Log-ratios, log g and log pi of one sample, and that all of it is active."""
    random = np.random.Generator(np.random.Philox(seed))
    m, c = int(random.integers(1, 7)), int(random.integers(1, 6))
    own = drawing.level(random, m, c)
    logits = random.normal(size=(1, m, c)) * sharp
    said = log_ratios(NS, logits, own["fusion.priors"])
    log_g = np.log(random.uniform(0.01, 0.99, size=(1, m)))
    prior = np.asarray(log_prior(NS, own["fusion.prior"]))
    return said, log_g, prior, np.ones((1, m), dtype=bool)


def believed(said: Floats, log_g: Floats, prior: Any, active: Any, kappa: float) -> Any:
    """P, the soundness and the weights of the sample."""
    p, log_r = posterior(NS, said, log_g, active, prior, np.full((1, 1), kappa))
    return p[0], np.exp(log_r[0]), NS.masked_softmax(log_r, active)[0]


seeds = st.integers(0, 2**32 - 1)
discounts = st.floats(0.01, 1.0)


@pytest.mark.clause("DMS-F-010")
@settings(max_examples=300, deadline=None)
@given(seeds, discounts, st.floats(0.0, 1.0), st.sampled_from([0.1, 1.0, 5.0, 50.0]))
def test_more_trust_is_never_less_belief(
    seed: int, kappa: float, more: float, sharp: float
) -> None:
    """For any kappa that is held: soundness, the weight, and the odds of what m speaks for."""
    said, log_g, prior, active = drawn(seed, sharp)
    raised = log_g.copy()
    raised[0, 0] += more * (np.log(0.999) - log_g[0, 0])
    p, r, w = believed(said, log_g, prior, active, kappa)
    q, s, v = believed(said, raised, prior, active, kappa)
    assert s[0] >= r[0] - 1e-12
    assert v[0] >= w[0] - 1e-12
    for y in range(len(p)):
        for z in range(len(p)):
            if said[0, 0, y] >= said[0, 0, z]:
                assert q[y] * p[z] >= p[y] * q[z] * (1 - 1e-9) - 1e-300


@pytest.mark.clause("DMS-F-010")
def test_through_kappa_alone_more_trust_may_be_less_belief() -> None:
    """Why the promise holds kappa: where evidence is discounted for its amount, it may fall."""
    found = False
    for seed in range(2000):
        said, log_g, prior, active = drawn(seed, 5.0)
        raised = log_g.copy()
        raised[0, 0] = np.log(np.exp(log_g[0, 0]) * 0.9 + 0.1)
        redundancy = np.asarray(2.0)
        before, after = (
            believed(said, g, prior, active, float(discount(NS, g, active, redundancy)[0, 0]))
            for g in (log_g, raised)
        )
        found = found or bool(
            after[1][0] < before[1][0] - 1e-6 or after[2][0] < before[2][0] - 1e-6
        )
    assert found


@pytest.mark.clause("DMS-F-008")
@settings(max_examples=200, deadline=None)
@given(seeds, discounts, st.sampled_from([1.0, 50.0, 1e6]))
def test_a_factor_is_bounded(seed: int, kappa: float, sharp: float) -> None:
    """No log-odds move by more than kappa times the log of a factor's range."""
    said, log_g, prior, active = drawn(seed, sharp)
    silent = said.copy()
    silent[0, 0] = 0.0
    p, *_ = believed(said, log_g, prior, active, kappa)
    q, *_ = believed(silent, log_g, prior, active, kappa)
    g, most = np.exp(log_g[0, 0]), np.exp(max(0.0, said[0, 0].max()))
    bound = kappa * np.log((1 - g + g * most) / (1 - g))
    there = (p > 0) & (q > 0)
    moved = np.log(p[there]) - np.log(q[there])
    assert np.ptp(moved) <= bound + 1e-9


def test_with_one_class_nothing_is_said() -> None:
    spec = SchedulerSpec(modalities=("a", "b"), policy="soundness", fusion="evidence")
    exact = oracle.schedule(spec, {"logits": np.array([[[3.0], [-1e4]]])})
    assert exact.fused.tolist() == [[1.0]]
    np.testing.assert_allclose(exact.soundness, 0.9, rtol=1e-12)
    np.testing.assert_allclose(exact.weights, 0.5, rtol=1e-12)


def test_on_paper() -> None:
    """Two classes, trust .9: sure of one, and unsure of the other."""
    spec = SchedulerSpec(modalities=("a", "b"), policy="soundness", fusion="evidence")
    logits = np.log(np.array([[[0.9, 0.1], [0.4, 0.6]]]))
    exact = oracle.schedule(spec, {"logits": logits})
    a, b = (
        np.array([0.1 + 0.9 * 1.8, 0.1 + 0.9 * 0.2]),
        np.array([0.1 + 0.9 * 0.8, 0.1 + 0.9 * 1.2]),
    )
    kappa = 1 / (1 + 0.2 * 0.8)
    p = (a * b) ** kappa / ((a * b) ** kappa).sum()
    r = [(p * 0.9 * q / f).sum() for q, f in (([1.8, 0.2], a), ([0.8, 1.2], b))]
    np.testing.assert_allclose(exact.fused[0], p, rtol=1e-12)
    np.testing.assert_allclose(exact.soundness[0], r, rtol=1e-12)
    np.testing.assert_allclose(exact.weights[0], np.array(r) / sum(r), rtol=1e-12)


def test_parameters_have_the_gradients_of_the_oracle() -> None:
    """Doubt, exponents and redundancy are learned: float64, against central differences."""
    torch = pytest.importorskip("torch")
    from dms_torch import Fusion

    random = np.random.Generator(np.random.Philox(5))
    spec = SchedulerSpec(
        modalities=("a", "b", "c"),
        policy="soundness",
        signals={"typicality": {}},
        coefficients={"typicality": 1.0},
        fusion="evidence",
    )
    own = drawing.parameters(spec, random, width=3, classes=4, dtype=np.float64, optional=True) | {
        "fusion.redundancy": np.asarray(0.3),
        "policy.doubt": np.asarray(-1.5),
    }
    arrays = {"features": random.normal(size=(5, 3, 3)), "logits": random.normal(size=(5, 3, 4))}
    towards = {"fused": random.normal(size=(5, 4)), "soundness": random.normal(size=(5, 3))}
    fusion = Fusion(spec, own)
    output = fusion(**{name: torch.from_numpy(array) for name, array in arrays.items()})
    sum((output[name] * torch.from_numpy(d)).sum() for name, d in towards.items()).backward()
    learned = dict(fusion.named_parameters())
    assert {name.replace("/", ".") for name in learned} == {
        "policy.doubt",
        "policy.exponent",
        "fusion.redundancy",
    }

    def value(name: str, where: tuple[int, ...], step: float) -> float:
        moved = own[name].copy()
        moved[where] += step
        exact = oracle.schedule(spec, arrays, own | {name: moved})
        return float(sum((getattr(exact, key) * d).sum() for key, d in towards.items()))

    for key, tensor in learned.items():
        name = key.replace("/", ".")
        for where in np.ndindex(own[name].shape):
            slope = (value(name, where, 1e-5) - value(name, where, -1e-5)) / 2e-5
            assert float(tensor.grad[where]) == pytest.approx(slope, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [("prior", [0.5, -0.5, 1.0]), ("prior", [0.0, 0.0, 0.0]), ("priors", [[1, 0, 0], [-1, 1, 1]])],
)
def test_what_is_no_class_frequency_is_refused(name: str, wrong: Any) -> None:
    spec = SchedulerSpec(modalities=("a", "b"), policy="soundness", fusion="evidence")
    right = {
        "policy.doubt": np.array(-2.0),
        "policy.exponent": np.zeros(2),
        "fusion.prior": np.full(3, 1 / 3),
        "fusion.priors": np.array([[0.5, 0.5, 0.0], [0.0, 0.0, 0.0]]),
        "fusion.redundancy": np.array(0.0),
    }
    get_backend("numpy").scheduler(spec, right)
    with pytest.raises(SpecError, match=rf"'fusion\.{name}' holds no class frequencies"):
        get_backend("numpy").scheduler(spec, right | {f"fusion.{name}": np.array(wrong, float)})
