"""Experimental methods: reconstructed, so held to what their own docstrings say, by hand."""

from __future__ import annotations

import builtins
import itertools
from math import exp, fsum, log, sqrt
from typing import Any

import array_api_compat.numpy as xp
import numpy as np
import pytest

from dms_spec import ModalityBatch, SchedulerSpec, get_backend
from dms_spec.conformance import oracle
from dms_spec.equations.experimental import bixformer, dyncim
from dms_spec.equations.namespace import Namespace
from dms_spec.errors import BackendUnavailable, ShapeError, SpecError
from dms_spec.plugins import get_policy

NS = Namespace.of(xp, np.ndarray)
NAMES = ("image", "text", "audio")
B, M, C, D = 6, 3, 4, 5
Arrays = dict[str, np.ndarray]


def data(seed: int = 0) -> Arrays:
    random = np.random.Generator(np.random.Philox(seed))
    active = random.random((B, M)) < 0.6
    active[0], active[1] = False, True
    return {
        "features": random.normal(size=(B, M, D)),
        "logits": random.normal(size=(B, M, C)) * 2,
        "fused": random.normal(size=(B, C)) * 2,
        "labels": random.integers(C, size=B),
        "active": active,
    }


# ------------------------------------------------------------------------------------------ MA-AFS


def network(hidden: int = 4) -> Arrays:
    random = np.random.Generator(np.random.Philox(1))
    shapes = {
        "entropy_weight": (M, hidden),
        "agreement_weight": (hidden,),
        "hidden_bias": (hidden,),
        "output_weight": (hidden, M),
        "output_bias": (M,),
    }
    return {f"policy.{name}": random.normal(size=shape) for name, shape in shapes.items()}


def schedule(arrays: Arrays, parameters: Arrays, **options: Any) -> Any:
    spec = SchedulerSpec(
        modalities=NAMES, policy="ma_afs", policy_options=options, fusion="feature"
    )
    there = arrays["active"]
    batch = ModalityBatch(
        features=np.where(there[..., None], arrays["features"], np.nan),
        logits=np.where(there[..., None], arrays["logits"], np.nan),
        present=there,
    )
    return get_backend("numpy").scheduler(spec, parameters)(batch)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_ma_afs_by_hand(temperature: float) -> None:
    arrays, p = data(), network()
    result = schedule(arrays, p, temperature=temperature)
    own = {name.removeprefix("policy."): array for name, array in p.items()}
    for b in range(B):
        members = [m for m in range(M) if arrays["active"][b, m]]
        entropies = [
            oracle.entropy(oracle.softmax(arrays["logits"][b, m].tolist())) / log(C)
            if m in members
            else 1.0
            for m in range(M)
        ]
        cosines = [
            oracle.cosine(arrays["features"][b, m].tolist(), arrays["features"][b, n].tolist())
            for m, n in itertools.combinations(members, 2)
        ]
        agreement = fsum(cosines) / len(cosines) if cosines else 0.0
        units = [
            max(
                0.0,
                fsum(entropies[m] * own["entropy_weight"][m, j] for m in range(M))
                + agreement * own["agreement_weight"][j]
                + own["hidden_bias"][j],
            )
            for j in range(4)
        ]
        scores = {}
        for m in members:
            out = fsum(units[j] * own["output_weight"][j, m] for j in range(4))
            scores[m] = (out + own["output_bias"][m]) / temperature
        total = fsum(exp(s) for s in scores.values())
        wanted = [exp(scores[m]) / total if m in scores else 0.0 for m in range(M)]
        np.testing.assert_allclose(result.weights[b], wanted, rtol=1e-12)


def test_agreement_counts_with_two_modalities_in_ma_afs() -> None:
    """Where the alignment of DMS cancels: turning one vector moves the weights."""
    arrays, p = data(), network()
    arrays["active"][:] = [True, True, False]
    before = schedule(arrays, p).weights
    arrays["features"][:, 0] *= -1
    assert (np.abs(schedule(arrays, p).weights - before)[:, :2] > 1e-4).any()


def test_ma_afs_starts_uniform() -> None:
    policy = get_policy("ma_afs")
    spec = SchedulerSpec(modalities=NAMES, policy="ma_afs")
    assert policy.initial is not None
    start = policy.initial(spec, {"M": M, "K": 0}, seed=3, hidden=7)
    assert start["entropy_weight"].shape == (M, 7)
    result = schedule(data(), {f"policy.{name}": array for name, array in start.items()})
    some = result.active.sum(axis=1)
    np.testing.assert_allclose(
        result.weights[result.active], np.repeat(1 / np.maximum(some, 1), some), rtol=1e-6
    )
    assert (policy.initial(spec, {"M": M}, seed=4)["hidden_bias"] != 0).all()
    with pytest.raises(SpecError, match="temperature"):
        schedule(data(), network(), temperature=0.0)
    assert policy.source.startswith("experimental")


# ------------------------------------------------------------------------------------------ DynCIM


def test_the_metrics_of_dyncim_by_hand() -> None:
    arrays = data()
    got = dyncim.sample_metrics(
        NS, arrays["fused"], arrays["logits"], arrays["labels"], active=arrays["active"]
    )
    for b in range(B):
        members = [m for m in range(M) if arrays["active"][b, m]]
        y, pf = arrays["labels"][b], oracle.softmax(arrays["fused"][b].tolist())
        ps = [oracle.softmax(arrays["logits"][b, m].tolist()) for m in members]
        deviation = fsum([-log(pf[y]), *(-log(p[y]) for p in ps)]) / (1 + len(members))
        js = []
        for p in ps:
            middle = [(x + z) / 2 for x, z in zip(p, pf, strict=True)]
            js.append((oracle.kl(p, middle) + oracle.kl(pf, middle)) / 2)
        count = max(len(members), 1)
        stability = fsum(oracle.entropy(p) for p in ps) / log(C) / count
        np.testing.assert_allclose(got[b], [deviation, fsum(js) / count, stability], rtol=1e-11)


def test_the_metrics_of_dyncim_bear_ruled_out_classes() -> None:
    logits = np.array([[[0.0, -np.inf], [-np.inf, 0.0]]])
    got = dyncim.sample_metrics(NS, np.array([[0.0, 0.0]]), logits[:, :1], np.array([0]))
    js = (log(4 / 3) + 0.5 * log(2 / 3) + 0.5 * log(2)) / 2
    np.testing.assert_allclose(got, [[log(2) / 2, js, 0.0]], rtol=1e-12, atol=1e-15)


def test_the_curriculum_of_dyncim_by_hand() -> None:
    history = np.array([[1.0, 2.0, 0.5], [3.0, 2.0, 0.5], [2.0, 2.0, 0.8]])
    v = [sqrt(2 / 3) / 2, 0.0, sqrt(2) / 10 / 0.6]
    omega = dyncim.volatility_weights(NS, history)
    np.testing.assert_allclose(omega, np.array(v) / fsum(v), atol=1e-6)
    np.testing.assert_allclose(dyncim.volatility_weights(NS, np.ones((4, 3))), [1 / 3] * 3)
    metrics = np.array([[1.0, 5.0, 0.0], [3.0, 5.0, 1.0], [2.0, 5.0, 0.25]])
    d = dyncim.difficulty(NS, metrics, np.array([0.5, 0.2, 0.3]))
    np.testing.assert_allclose(d, [0.0, 0.8, 0.25 + 0.075])
    pi = dyncim.curriculum_weights(NS, d, temperature=0.5)
    raw = [exp(-x / 0.5) for x in d]
    np.testing.assert_allclose(pi, np.array(raw) / (fsum(raw) / 3))
    np.testing.assert_allclose(dyncim.curriculum_weights(NS, d, temperature=1e9), 1.0)
    with pytest.raises(SpecError, match="temperature"):
        dyncim.curriculum_weights(NS, d, temperature=0.0)


def test_the_balance_and_the_gate_of_dyncim_by_hand() -> None:
    g, h = np.array(1.4), np.array(0.3)
    found = dyncim.balance(NS, g, h, sharpness=2.0)
    tau = 1 / (1 + exp(-2 * (0.3 - 0.4)))
    np.testing.assert_allclose(float(found.factor), tau)
    np.testing.assert_allclose(float(found.signal), tau * 1.4 + (1 - tau) * 0.3)
    smooth = dyncim.balance(NS, g, h, smooth=np.array([1.0, 0.5]))
    np.testing.assert_allclose(float(smooth.factor), 1 / (1 + exp(-0.5)))
    arrays = data()
    direction, rates = np.arange(D) / D, np.array([0.1, 0.5, -0.2])
    there = arrays["active"]
    w = dyncim.gate(
        NS,
        np.where(there[..., None], arrays["features"], np.nan),
        found.signal,
        rates,
        direction=direction,
        strengths=(0.5, 2.0),
        active=there,
    )
    for b in range(B):
        gates = [0.0] * M
        for m in range(M):
            if there[b, m]:
                level = fsum(
                    x * a for x, a in zip(arrays["features"][b, m], direction, strict=True)
                )
                level += 0.5 * float(found.signal) + 2 * rates[m]
                gates[m] = 1 / (1 + exp(-level))
        np.testing.assert_allclose(w[b], np.array(gates) / (fsum(gates) or 1), rtol=1e-12)


# --------------------------------------------------------------------------------------- BiXFormer


def test_the_winner_learns_in_full() -> None:
    arrays = data()
    there, labels = arrays["active"], arrays["labels"]
    got = bixformer.winner_loss(
        NS, arrays["logits"], labels, arrays["features"], active=there, kappa=0.3
    )
    task, pull = [], []
    for b in range(B):
        members = [m for m in range(M) if there[b, m]]
        if not members:
            continue
        ce = {m: -log(oracle.softmax(arrays["logits"][b, m].tolist())[labels[b]]) for m in members}
        best = min(ce, key=lambda m: ce[m])
        task.append(ce[best] + 0.3 * fsum(ce[m] for m in members if m != best))
        h = arrays["features"][b]
        pull.append(fsum(float(((h[m] - h[best]) ** 2).sum()) for m in members))
    np.testing.assert_allclose(float(got["task"]), fsum(task) / len(task), rtol=1e-12)
    np.testing.assert_allclose(float(got["alignment"]), fsum(pull) / len(pull), rtol=1e-12)
    with pytest.raises(SpecError, match="kappa"):
        bixformer.winner_loss(NS, arrays["logits"], labels, arrays["features"], kappa=2)


def test_only_the_losers_are_pulled() -> None:
    torch = pytest.importorskip("torch")
    from dms_torch.published import in_torch

    logits = torch.tensor([[[3.0, 0.0], [0.0, 1.0], [-1.0, 1.0]]])
    features = torch.randn(1, 3, 2, requires_grad=True)
    loss = in_torch(bixformer.winner_loss)(logits, torch.tensor([0]), features)["alignment"]
    loss.backward()
    assert (features.grad[0, 0] == 0).all() and (features.grad[0, 1:] != 0).any()


def test_the_maximum_is_merged() -> None:
    logits = np.log(np.array([[[0.7, 0.3], [0.4, 0.6]]]))
    np.testing.assert_allclose(bixformer.max_merge(NS, logits), [[0.7, 0.6]])
    one = np.array([[False, True]])
    np.testing.assert_allclose(bixformer.max_merge(NS, logits, one), [[0.4, 0.6]])
    assert (bixformer.max_merge(NS, logits, np.array([[False, False]])) == 0).all()


def scene(queries: int = 7, segments: int = 3, pixels: int = 8, classes: int = 5) -> Arrays:
    random = np.random.Generator(np.random.Philox(2))
    return {
        "class_logits": random.normal(size=(queries, classes)),
        "mask_logits": random.normal(size=(queries, pixels)) * 2,
        "embeddings": random.normal(size=(queries, 3)),
        "labels": random.integers(classes - 1, size=segments),
        "masks": (random.random((segments, pixels)) < 0.5).astype(float),
        "modality": np.array([0, 0, 0, 1, 1, 1, 1])[:queries],
    }


def pair_parts(s: Arrays, q: int, g: int) -> tuple[list[float], float, float]:
    """Class probabilities, BCE and Dice of a query against a segment."""
    p = oracle.softmax(s["class_logits"][q].tolist())
    m = [1 / (1 + exp(-x)) for x in s["mask_logits"][q]]
    y = s["masks"][g]
    bce = -fsum(log(a) if t else log(1 - a) for a, t in zip(m, y, strict=True)) / len(m)
    both = fsum(a * t for a, t in zip(m, y, strict=True))
    return p, bce, 1 - (2 * both + 1) / (fsum(m) + fsum(y) + 1)


def cost_of(s: Arrays) -> np.ndarray:
    return bixformer.matching_cost(NS, s["class_logits"], s["mask_logits"], s["labels"], s["masks"])


def test_the_cost_of_matching_by_hand() -> None:
    s = scene()
    cost = cost_of(s)
    for q, g in itertools.product(range(7), range(3)):
        p, bce, dice = pair_parts(s, q, g)
        wanted = -2 * p[s["labels"][g]] + 5 * bce + 5 * dice
        np.testing.assert_allclose(cost[q, g], wanted, rtol=1e-10)


def test_matching_is_the_cheapest_and_every_segment_has_a_query_of_each_modality() -> None:
    s = scene()
    cost = cost_of(s)
    found = bixformer.assign(cost, s["modality"])

    def total(queries: Any) -> float:
        return fsum(float(cost[q, g]) for g, q in enumerate(queries))

    best = min(total(p) for p in itertools.permutations(range(7), 3))
    np.testing.assert_allclose(total(found.any), best)
    for number in (0, 1):
        alone = np.flatnonzero(s["modality"] == number)
        only = bixformer.assign(cost[alone], np.zeros(len(alone), dtype=int)).any
        assert best <= total(alone[only]) + 1e-12
        mine = found.own[number]
        for g in range(3):
            taken = found.any[g] if mine[g] < 0 else mine[g]
            assert s["modality"][taken] == number
        assert not set(mine[mine >= 0].tolist()) & set(found.any.tolist())
    with pytest.raises(ShapeError, match="modality"):
        bixformer.assign(cost, s["modality"][:3])


def test_with_one_modality_there_is_nothing_to_add() -> None:
    s = scene()
    found = bixformer.assign(cost_of(s), np.zeros(7, dtype=int))
    assert (found.own[0] == -1).all() and (found.any >= 0).all()
    few = bixformer.assign(cost_of(s)[:2], np.array([0, 1]))
    assert (few.any >= 0).sum() == 2, "fewer queries than segments"


def test_the_loss_of_set_matching_by_hand() -> None:
    s = scene()
    found = bixformer.assign(cost_of(s), s["modality"])
    given = [s[k] for k in ("class_logits", "mask_logits", "embeddings", "labels", "masks")]
    got = bixformer.set_matching_loss(NS, *given, found, alignment=0.5)

    def loss(q: int, g: int) -> float:
        p, bce, dice = pair_parts(s, q, g)
        return -2 * log(p[s["labels"][g]]) + 5 * bce + 5 * dice

    first = fsum(loss(q, g) for g, q in enumerate(found.any)) / 3
    own, pull = 0.0, 0.0
    used = set(found.any.tolist())
    for queries in found.own.values():
        pairs = [(q, g) for g, q in enumerate(queries.tolist()) if q >= 0]
        used |= {q for q, _ in pairs}
        own += fsum(loss(q, g) for q, g in pairs) / len(pairs) if pairs else 0.0
        for q, g in pairs:
            pull += float(((s["embeddings"][q] - s["embeddings"][found.any[g]]) ** 2).sum())
    left = [q for q in range(7) if q not in used]
    nothing = -0.1 * 2 * fsum(
        log(oracle.softmax(s["class_logits"][q].tolist())[4]) for q in left
    ) / len(left)  # fmt: skip
    for name, wanted in (
        ("any", first),
        ("own", own),
        ("no_object", nothing),
        ("alignment", pull),
        ("total", first + own + nothing + 0.5 * pull),
    ):
        np.testing.assert_allclose(float(got[name]), wanted, rtol=1e-10)
    with pytest.raises(ShapeError, match="segments"):
        bixformer.set_matching_loss(NS, *given, bixformer.Assignment(any=np.array([0]), own={}))


def test_set_matching_trains_in_torch() -> None:
    torch = pytest.importorskip("torch")
    from dms_torch.published import in_torch

    s = scene()
    t = {k: torch.from_numpy(v) for k, v in s.items()}
    learned = [t[k].requires_grad_() for k in ("class_logits", "mask_logits", "embeddings")]
    optimiser = torch.optim.SGD(learned, lr=0.2)
    totals = []
    for _ in range(20):
        optimiser.zero_grad()
        with torch.no_grad():
            cost = in_torch(bixformer.matching_cost)(
                t["class_logits"], t["mask_logits"], t["labels"], t["masks"]
            )
        found = bixformer.assign(cost.numpy(), s["modality"])
        total = in_torch(bixformer.set_matching_loss)(*learned, t["labels"], t["masks"], found)
        total["total"].backward()
        assert all(torch.isfinite(x.grad).all() for x in learned)
        optimiser.step()
        totals.append(float(total["total"].detach()))
    assert totals[-1] < 0.5 * totals[0]
    anchor = in_torch(bixformer.set_matching_loss)(*learned, t["labels"], t["masks"], found)
    (gradient,) = torch.autograd.grad(anchor["alignment"], learned[2])
    assert (gradient[found.any] == 0).all(), "the query that MAM chose is not pulled"


def test_matching_without_scipy_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def missing(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("scipy"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(BackendUnavailable, match=r"pip install .*\[matching\]"):
        bixformer.assign(np.zeros((2, 1)), np.array([0, 1]))
