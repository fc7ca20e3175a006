"""The published methods, each recomputed by hand: plain loops in float64, or published numbers."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from inspect import getmembers, isfunction
from math import exp, fsum, lgamma, log, sqrt, tanh
from types import ModuleType
from typing import Any

import array_api_compat.numpy as xp
import array_api_strict
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special as scipy_special

torch = pytest.importorskip("torch")

from dms_spec import ModalityBatch, SchedulerSpec, get_backend  # noqa: E402
from dms_spec.conformance import oracle  # noqa: E402
from dms_spec.equations.experimental import bixformer, ma_afs  # noqa: E402
from dms_spec.equations.experimental import dyncim as curriculum  # noqa: E402
from dms_spec.equations.losses import consistency_loss  # noqa: E402
from dms_spec.equations.namespace import Namespace  # noqa: E402
from dms_spec.equations.published import (  # noqa: E402
    balance,
    dyncim,
    moca,
    qmf,
    simmlm,
    special,
    tmc,
    umurl,
)
from dms_spec.errors import DTypeError, MissingInput, ShapeError, SpecError  # noqa: E402
from dms_spec.plugins import get_policy, get_signal  # noqa: E402
from dms_torch import Fusion, published  # noqa: E402
from dms_torch.backend import torch_namespace  # noqa: E402

NS = Namespace.of(xp, np.ndarray)
STRICT = Namespace.of(array_api_strict, type(array_api_strict.asarray(0)))
NAMES = ("image", "text", "audio")
Arrays = dict[str, np.ndarray]
B, M, C, D, K = 6, 3, 4, 5, 2


def data(seed: int = 0) -> Arrays:
    """A batch with gaps: in sample 0 nothing is there, in sample 1 everything."""
    random = np.random.Generator(np.random.Philox(seed))
    active = random.random((B, M)) < 0.6
    active[0], active[1] = False, True
    return {
        "features": random.normal(size=(B, M, D)),
        "others": random.normal(size=(B, M, D)),
        "logits": random.normal(size=(B, M, C)) * 2,
        "evidence": random.gamma(1.0, 3.0, size=(B, M, C)),
        "square": random.random((B, M)),
        "history": random.random((B, M)),
        "fused": random.normal(size=(B, C)) * 2,
        "fewer": random.normal(size=(B, C)) * 2,
        "losses": random.random((B, K)),
        "worse": random.random((B, K)),
        "vectors": random.normal(size=(B, D)),
        "targets": random.normal(size=(B, D)),
        "negatives": random.normal(size=(B, K, D)),
        "scores": random.random(M) + 0.1,
        "scalar": np.array(0.9),
        "labels": random.integers(C, size=B),
        "active": active,
        "counted": active.any(axis=1),
        "some": np.array([True, False, True]),
    }


Call = Callable[[Namespace, dict[str, Any]], Any]

#: Every loss and statistic, with what it reads: (function, arrays under `active`, under `counted`,
#: under `some`, and those that are always there).
CASES: dict[str, tuple[Call, str, str, str, str]] = {
    "more_vs_fewer": (
        lambda ns, a: simmlm.more_vs_fewer(
            ns, a["losses"], a["worse"], form="released", counted=a["counted"]
        ),
        "",
        "losses worse",
        "",
        "",
    ),
    "more_vs_fewer, paper": (
        lambda ns, a: simmlm.more_vs_fewer(ns, a["losses"], a["worse"], counted=a["counted"]),
        "",
        "losses worse",
        "",
        "",
    ),
    "confidence_ranking": (
        lambda ns, a: simmlm.confidence_ranking(ns, a["fused"], a["fewer"], counted=a["counted"]),
        "",
        "fused fewer",
        "",
        "",
    ),
    "history_ranking": (
        lambda ns, a: qmf.history_ranking(ns, a["square"], a["history"], active=a["active"]),
        "square",
        "",
        "",
        "history",
    ),
    "history_ranking, released": (
        lambda ns, a: qmf.history_ranking(
            ns, a["square"], a["history"], form="released", active=a["active"]
        ),
        "square",
        "",
        "",
        "history",
    ),
    "dempster_shafer": (
        lambda ns, a: tmc.dempster_shafer(ns, a["evidence"], a["active"]),
        "evidence",
        "",
        "",
        "",
    ),
    "tmc_loss": (
        lambda ns, a: tmc.tmc_loss(
            ns, a["evidence"], a["labels"], active=a["active"], annealing=0.3
        ),
        "evidence",
        "",
        "",
        "",
    ),
    "true_class_scores": (
        lambda ns, a: balance.true_class_scores(ns, a["logits"], a["labels"], active=a["active"]),
        "logits",
        "",
        "",
        "",
    ),
    "ogm_coefficients": (
        lambda ns, a: balance.ogm_coefficients(
            ns, balance.discrepancy(ns, a["scores"], counted=a["some"]), alpha=0.8
        ),
        "",
        "",
        "scores",
        "",
    ),
    "opm_scale": (
        lambda ns, a: balance.opm_scale(
            ns, balance.opm_rates(ns, balance.discrepancy(ns, a["scores"], counted=a["some"]))
        ),
        "",
        "",
        "scores",
        "",
    ),
    "geometric_mean_ratio": (
        lambda ns, a: dyncim.geometric_mean_ratio(ns, a["scalar"], a["scores"], counted=a["some"]),
        "",
        "",
        "scores",
        "scalar",
    ),
    "harmonic_improvement_rate": (
        lambda ns, a: dyncim.harmonic_improvement_rate(
            ns, a["scalar"], a["scores"], counted=a["some"]
        ),
        "",
        "",
        "scores",
        "scalar",
    ),
    "umurl_loss": (
        lambda ns, a: umurl.umurl_loss(ns, a["features"], a["others"], active=a["active"]),
        "features others",
        "",
        "",
        "",
    ),
    "contrastive_loss": (
        lambda ns, a: moca.contrastive_loss(
            ns, a["vectors"], a["targets"], a["negatives"], counted=a["counted"], temperature=0.5
        ),
        "",
        "vectors targets negatives",
        "",
        "",
    ),
    "winner_loss": (
        lambda ns, a: bixformer.winner_loss(
            ns, a["logits"], a["labels"], a["features"], active=a["active"]
        ),
        "logits features",
        "",
        "",
        "",
    ),
    "max_merge": (
        lambda ns, a: bixformer.max_merge(ns, a["logits"], a["active"]),
        "logits",
        "",
        "",
        "",
    ),
    "sample_metrics": (
        lambda ns, a: curriculum.sample_metrics(
            ns, a["fused"], a["logits"], a["labels"], active=a["active"]
        ),
        "logits",
        "",
        "",
        "fused",
    ),
    "gate": (
        lambda ns, a: curriculum.gate(
            ns,
            a["features"],
            a["scalar"],
            a["scores"],
            direction=a["vectors"][0, :],
            active=a["active"],
        ),
        "features",
        "",
        "",
        "scalar scores",
    ),
}
# Their gradient is stopped at some place, which differences do not know.
STOPPED = ("winner_loss",)


def parts(result: Any) -> list[Any]:
    """The arrays of a result."""
    if isinstance(result, dict):
        return list(result.values())
    if is_dataclass(result):
        return [getattr(result, f.name) for f in fields(result)]
    return [result]


def floats(name: str) -> list[str]:
    return " ".join(CASES[name][1:]).split()


def filled(arrays: Arrays, name: str, filler: float) -> Arrays:
    """The arrays with something else where nothing is."""
    _, active, counted, some, _ = CASES[name]
    changed = {key: array.copy() for key, array in arrays.items()}
    for keys, mask in ((active, "active"), (counted, "counted"), (some, "some")):
        for key in keys.split():
            changed[key][~arrays[mask]] = filler
    return changed


def value_of(name: str, arrays: Arrays) -> float:
    return fsum(float(np.sum(part)) for part in parts(CASES[name][0](NS, arrays)))


@pytest.mark.parametrize("name", CASES)
def test_the_same_in_every_library(name: str) -> None:
    """In array-api-strict, which has the standard and no more, and in torch."""
    call, arrays = CASES[name][0], data()
    wanted = parts(call(NS, arrays))
    strict = parts(call(STRICT, {k: array_api_strict.asarray(v) for k, v in arrays.items()}))
    ns = torch_namespace("cpu")
    tensors = parts(call(ns, {k: torch.from_numpy(np.array(v)) for k, v in arrays.items()}))
    for plain, one, other in zip(wanted, strict, tensors, strict=True):
        assert np.isfinite(plain).all()
        np.testing.assert_allclose(np.asarray(one), plain, rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(other.numpy(), plain, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", CASES)
def test_nothing_is_made_on_another_device_or_in_another_dtype(name: str) -> None:
    """On torch's device without values, whatever is made elsewhere is refused; in float32."""
    tensors = {}
    for key, array in data().items():
        tensor = torch.from_numpy(np.array(array)).to("meta")
        tensors[key] = tensor.float() if tensor.is_floating_point() else tensor
    for part in parts(CASES[name][0](torch_namespace("cpu"), tensors)):
        assert part.device.type == "meta" and part.dtype == torch.float32


@pytest.mark.parametrize("filler", [np.nan, np.inf, -1e30])
@pytest.mark.parametrize("name", CASES)
def test_what_is_absent_reaches_neither_value_nor_gradient(name: str, filler: float) -> None:
    call, arrays = CASES[name][0], data()
    changed = filled(arrays, name, filler)
    for one, other in zip(parts(call(NS, arrays)), parts(call(NS, changed)), strict=True):
        np.testing.assert_array_equal(one, other)
    tensors = {key: torch.from_numpy(np.array(array)) for key, array in changed.items()}
    for key in floats(name):
        tensors[key].requires_grad_()
    total = sum(part.sum() for part in parts(call(torch_namespace("cpu"), tensors)))
    total.backward()
    _, active, counted, some, _ = CASES[name]
    for keys, mask in ((active, "active"), (counted, "counted"), (some, "some")):
        for key in keys.split():
            gradient = tensors[key].grad
            assert torch.isfinite(gradient).all()
            assert (gradient[~tensors[mask]] == 0).all()


@pytest.mark.parametrize("name", [name for name in CASES if name not in STOPPED])
def test_gradients_are_differences(name: str) -> None:
    """Central ones, of the NumPy form."""
    call, arrays = CASES[name][0], data(1)
    tensors = {key: torch.from_numpy(np.array(array)) for key, array in arrays.items()}
    reads = [key for key in floats(name) if key != "history"]
    for key in reads:
        tensors[key].requires_grad_()
    sum(part.sum() for part in parts(call(torch_namespace("cpu"), tensors))).backward()
    random, step = np.random.Generator(np.random.Philox(2)), 1e-6
    for key in reads:
        for _ in range(4):
            where = tuple(int(random.integers(size)) for size in arrays[key].shape)
            moved = []
            for sign in (1, -1):
                changed = {k: array.copy() for k, array in arrays.items()}
                changed[key][where] += sign * step
                moved.append(value_of(name, changed))
            slope = (moved[0] - moved[1]) / (2 * step)
            found = float(tensors[key].grad[where])
            assert abs(found - slope) <= 1e-6 * (1 + abs(slope)), (key, where)


def test_everything_is_covered_and_names_its_source() -> None:
    modules: list[ModuleType] = [
        simmlm, qmf, tmc, balance, dyncim, umurl, moca, ma_afs, curriculum, bixformer,
    ]  # fmt: skip
    words = ("arXiv", "Reconstructed", "BiXFormer", "TMC")
    for module in modules:
        for name, function in getmembers(module, isfunction):
            if function.__module__ == module.__name__ and not name.startswith("_"):
                text = f"{module.__doc__} {function.__doc__}"
                assert any(word in text for word in words), name
                if "experimental" in module.__name__:
                    assert (function.__doc__ or "").startswith("Experimental."), name


# ----------------------------------------------------------------------------------------- helpers


def softmax(row: Any) -> list[float]:
    e = [exp(float(x) - float(max(row))) for x in row]
    return [x / fsum(e) for x in e]


def run(
    policy: str, arrays: dict[str, Any], parameters: dict[str, Any] | None = None, **options: Any
) -> Any:
    m = next(iter(arrays.values())).shape[1]
    spec = SchedulerSpec(
        modalities=NAMES[:m],
        policy=policy,
        policy_options=options,
        fusion="feature" if "features" in arrays and "logits" not in arrays else "logit",
    )
    prefixed = {f"policy.{name}": array for name, array in (parameters or {}).items()}
    return get_backend("numpy").scheduler(spec, prefixed)(ModalityBatch(**arrays))


# ------------------------------------------------------------------------------------------ SimMLM


@pytest.mark.clause("DMS-M-001")
def test_dmome_by_hand() -> None:
    arrays = data()
    h, there = arrays["features"], arrays["active"]
    random = np.random.Generator(np.random.Philox(3))
    weight, bias = random.normal(size=(M, D, M)), random.normal(size=M)
    batch = {
        "features": np.where(there[..., None], h, np.nan),
        "logits": arrays["logits"],
        "present": there,
    }
    result = run("dmome", batch, {"gate_weight": weight, "gate_bias": bias})
    for b in range(B):
        members = [m for m in range(M) if there[b, m]]
        g = {
            m: float(bias[m])
            + fsum(h[b, n, d] * weight[n, d, m] for n in members for d in range(D))
            for m in members
        }
        total = fsum(exp(x) for x in g.values())
        wanted = [exp(g[m]) / total if m in g else 0.0 for m in range(M)]
        np.testing.assert_allclose(result.weights[b], wanted, rtol=1e-12)
        fused = [fsum(wanted[m] * arrays["logits"][b, m, c] for m in members) for c in range(C)]
        np.testing.assert_allclose(result.fused[b], fused, rtol=1e-11, atol=1e-13)


@pytest.mark.clause("DMS-M-001")
def test_dmome_starts_uniform_and_learns() -> None:
    """It learns to follow the modality that is right, and which one it is, one feature says."""
    random = np.random.Generator(np.random.Philox(4))
    labels = torch.from_numpy(random.integers(2, size=64))
    good = torch.from_numpy(random.integers(2, size=64))
    logits = torch.zeros(64, 2, 2)
    for i in range(64):
        logits[i, good[i], labels[i]] = 3.0
        logits[i, 1 - good[i], 1 - labels[i]] = 3.0
    features = torch.zeros(64, 2, 3)
    features[:, 0, 0] = 2.0 * good - 1
    spec = SchedulerSpec(modalities=("a", "b"), policy="dmome", fusion="logit")
    fusion = Fusion(spec, width=3)
    before = fusion(features=features, logits=logits)
    torch.testing.assert_close(before.weights, torch.full((64, 2), 0.5))
    optimiser = torch.optim.Adam(fusion.parameters(), lr=0.3)
    for _ in range(40):
        optimiser.zero_grad()
        fused = fusion(features=features, logits=logits).fused
        torch.nn.functional.cross_entropy(fused, labels).backward()
        optimiser.step()
    after = fusion(features=features, logits=logits)
    assert (after.weights[torch.arange(64), good] > 0.9).all()
    with pytest.raises(SpecError, match="width"):
        Fusion(spec)


def test_a_gate_of_other_modalities_is_refused() -> None:
    """Both axes of that letter count."""
    arrays = {"features": data()["features"], "logits": data()["logits"]}
    for shape in ((M + 1, D, M), (M, D, M + 1)):
        with pytest.raises(ShapeError, match="gate_weight"):
            run("dmome", arrays, {"gate_weight": np.zeros(shape), "gate_bias": np.zeros(M)})


def test_more_vs_fewer_by_its_numbers() -> None:
    """l+ = 0.9, l- = 0.7, lambda 0.1: the paper's 1.62, the released code's 0.82."""
    more, fewer = np.array([0.9]), np.array([0.7])
    paper = simmlm.more_vs_fewer(NS, more, fewer)
    np.testing.assert_allclose([float(x) for x in paper.values()], [1.62, 1.6, 0.2])
    released = simmlm.more_vs_fewer(NS, more, fewer, form="released")
    np.testing.assert_allclose([float(x) for x in released.values()], [0.82, 0.8, 0.2])
    assert simmlm.more_vs_fewer(NS, fewer, more)["ranking"] == 0
    assert simmlm.more_vs_fewer(NS, more, more)["ranking"] == 0


def test_more_vs_fewer_ranks_components_apart_in_the_released_form() -> None:
    """One class better and one worse by as much: nothing for the sample, something apart."""
    more, fewer = np.array([[0.5, 0.1]]), np.array([[0.1, 0.5]])
    assert simmlm.more_vs_fewer(NS, more, fewer)["ranking"] == 0
    apart = simmlm.more_vs_fewer(NS, more, fewer, form="released")
    np.testing.assert_allclose(float(apart["ranking"]), 0.2)


def test_the_gradient_of_more_vs_fewer() -> None:
    """(1 + lambda h) for l+, (1 - lambda h) for l-, h whether l+ is above."""
    more = torch.tensor([0.9, 0.2], requires_grad=True)
    fewer = torch.tensor([0.7, 0.5], requires_grad=True)
    (2 * published.more_vs_fewer(more, fewer)["total"]).backward()
    torch.testing.assert_close(more.grad, torch.tensor([1.1, 1.0]))
    torch.testing.assert_close(fewer.grad, torch.tensor([0.9, 1.0]))


def test_more_vs_fewer_refuses() -> None:
    losses = np.ones(3)
    with pytest.raises(ShapeError, match="fewer"):
        simmlm.more_vs_fewer(NS, losses, np.ones(2))
    with pytest.raises(SpecError, match="form"):
        simmlm.more_vs_fewer(NS, losses, losses, form="other")  # type: ignore[arg-type]
    with pytest.raises(SpecError, match="weight"):
        simmlm.more_vs_fewer(NS, losses, losses, weight=-1)


def test_confidence_ranking_by_hand() -> None:
    arrays = data()
    got = simmlm.confidence_ranking(NS, arrays["fused"], arrays["fewer"])
    pairs = zip(arrays["fused"], arrays["fewer"], strict=True)
    hinges = [max(0.0, max(softmax(low)) - max(softmax(high))) for high, low in pairs]
    np.testing.assert_allclose(float(got), fsum(hinges) / B, rtol=1e-12)
    assert got > 0


def pair_distribution(strategy: str, m: int = 4) -> dict[tuple[int, int], float]:
    """By the words: of ordered pairs of dropped sets (paper), of all nested pairs (uniform)."""
    everything = 2**m - 1
    sets = range(everything)  # dropped modalities, never all of them
    counts: dict[tuple[int, int], float] = {}
    for one, other in itertools.product(sets, sets):
        strict = one != other and (one & other in (one, other))
        if not strict or (strategy == "paper" and one == 0):
            continue
        small, large = sorted((one, other), key=lambda s: bin(s).count("1"))
        key = (everything - small, everything - large)  # kept: more, fewer
        counts[key] = counts.get(key, 0.0) + 1
    total = sum(counts.values())
    return {key: count / total for key, count in counts.items()}


@pytest.mark.parametrize("strategy", ["paper", "uniform"])
def test_nested_pairs_have_their_distribution(strategy: str) -> None:
    rows = 40_000
    more, fewer = simmlm.nested_pairs(np.ones((rows, 4), bool), seed=1, strategy=strategy)
    assert (fewer <= more).all() and (fewer != more).any(axis=1).all() and fewer.any(axis=1).all()
    powers = 2 ** np.arange(4)
    keys, found = np.unique(np.stack([more @ powers, fewer @ powers]), axis=1, return_counts=True)
    wanted = pair_distribution(strategy)
    assert {tuple(k) for k in keys.T.tolist()} == set(wanted)
    for key, count in zip(keys.T.tolist(), found, strict=True):
        p = wanted[tuple(key)]
        assert abs(count / rows - p) < 5 * sqrt(p * (1 - p) / rows)


def test_the_marginals_of_the_released_sampler() -> None:
    """Of all subsets drawn: the full one 0.082, one dropped 0.0757, two 0.0523, three 0.0755."""
    marginal = dict.fromkeys(range(1, 16), 0.0)
    for pair, p in pair_distribution("paper").items():
        for subset in pair:
            marginal[subset] += p / 2
    for kept, wanted in ((15, 0.082), (7, 0.0757), (3, 0.0523), (1, 0.0755)):
        assert abs(marginal[kept] - wanted) < 1e-3


def test_nested_pairs_keep_to_what_is_present() -> None:
    present = np.array([[1, 1, 0, 1], [1, 0, 0, 0], [0, 0, 0, 0]] * 100, dtype=bool)
    more, fewer = simmlm.nested_pairs(present, seed=2)
    assert (more <= present).all() and (fewer <= more).all()
    alone = present.sum(axis=1) < 2
    np.testing.assert_array_equal(more[alone], present[alone])
    np.testing.assert_array_equal(fewer[alone], present[alone])
    again = simmlm.nested_pairs(present, seed=2)
    np.testing.assert_array_equal(again[0], more)
    np.testing.assert_array_equal(again[1], fewer)
    assert (simmlm.nested_pairs(present, seed=3)[1] != fewer).any()
    with pytest.raises(DTypeError, match="bool"):
        simmlm.nested_pairs(present.astype(int), seed=0)  # type: ignore[arg-type]
    with pytest.raises(SpecError, match="strategy"):
        simmlm.nested_pairs(present, seed=0, strategy="other")  # type: ignore[arg-type]
    with pytest.raises(ShapeError, match="present"):
        simmlm.nested_pairs(present[0], seed=0)


# --------------------------------------------------------------------------------------------- QMF


@pytest.mark.clause("DMS-M-002")
def test_qmf_predicts_what_its_unnormalised_sum_predicts() -> None:
    arrays = data(5)
    logits, there = arrays["logits"] + 1.0, arrays["active"]
    result = run("qmf", {"logits": np.where(there[..., None], logits, np.nan), "present": there})
    for b in range(B):
        members = [m for m in range(M) if there[b, m]]
        conf = {m: 0.1 * log(fsum(exp(x) for x in logits[b, m])) for m in members}
        assert all(c > 0 for c in conf.values())
        own = [fsum(conf[m] * logits[b, m, c] for m in members) for c in range(C)]
        total = fsum(conf.values())
        weights = [conf[m] / total if m in conf else 0.0 for m in range(M)]
        np.testing.assert_allclose(result.weights[b], weights, rtol=1e-12)
        if members:
            np.testing.assert_allclose(result.fused[b], np.array(own) / total, rtol=1e-11)
            assert np.argmax(own) == np.argmax(result.fused[b])


@pytest.mark.clause("DMS-M-002")
def test_qmf_holds_energies_above_its_floor() -> None:
    """An energy of 2 log 2, one of 0 and one far below: the last two get the floor."""
    logits = np.array([[[log(2), log(2)], [-log(2), -log(2)], [-50.0, -60.0]]])
    result = run("qmf", {"logits": logits}, floor=0.5)
    energy = log(4)
    total = energy + 1.0
    np.testing.assert_allclose(result.weights, [[energy / total, 0.5 / total, 0.5 / total]])
    low = run("qmf", {"logits": logits - 100})
    np.testing.assert_allclose(low.weights, [[1 / 3] * 3])
    for floor in (0.0, -1.0, float("nan")):
        with pytest.raises(SpecError, match="floor"):
            run("qmf", {"logits": logits}, floor=floor)


def qmf_itself(logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """QMF's own sum, 0.1 e_m l_m over all m, without a floor and without dividing; energies."""
    energy = np.log(np.exp(logits).sum(axis=-1))
    return (0.1 * energy[..., None] * logits).sum(axis=1), energy


@settings(deadline=None)
@given(st.integers(0, 2**32), st.integers(2, 6), st.integers(2, 8), st.floats(-6, 6))
def test_qmf_predicts_qmfs_class_where_every_energy_is_above_the_floor(
    seed: int, m: int, c: int, offset: float
) -> None:
    """What is fused is QMF's sum divided by a positive number; and a note says where it is not."""
    random = np.random.Generator(np.random.Philox(seed))
    logits = random.normal(size=(40, m, c)) * 3 + offset
    own, energy = qmf_itself(logits)
    spec = SchedulerSpec(modalities=tuple("abcdef")[:m], policy="qmf", fusion="logit")
    result = get_backend("numpy").scheduler(spec)(ModalityBatch(logits=logits))
    above = (energy > qmf.FLOOR).all(axis=1)
    total = 0.1 * energy.sum(axis=1, keepdims=True)
    scale = 1 + np.abs(logits[above]).max(initial=0)
    np.testing.assert_allclose(
        result.fused[above], (own / total)[above], rtol=1e-9, atol=1e-12 * scale
    )
    every = (energy <= qmf.FLOOR).all(axis=1)
    np.testing.assert_allclose(result.weights[every], 1 / m)
    noted = [any(word in note for note in result.notes) for word in ("every", "some energies")]
    assert noted == [every.any(), (~above & ~every).any()]


def test_how_often_qmfs_floor_changes_the_class() -> None:
    """The guide's figures: logits of mean -2 and deviation 2, 3 modalities, 4 classes."""
    random = np.random.Generator(np.random.Philox(0))
    logits = random.normal(size=(20_000, 3, 4)) * 2 - 2
    own, energy = qmf_itself(logits)
    predicted = run("qmf", {"logits": logits}).fused.argmax(axis=1)
    under, other = (energy <= qmf.FLOOR).any(axis=1), own.argmax(axis=1) != predicted
    assert not other[~under].any()
    assert under.mean() == pytest.approx(0.75, abs=0.005)
    assert other[under].mean() == pytest.approx(0.29, abs=0.005)


@pytest.mark.parametrize("name", ["numpy", "torch", "onnxruntime"])
def test_log_probabilities_give_qmf_nothing_to_weigh_by_and_a_note_says_so(name: str) -> None:
    """Their energy is 0: every weight is that of the floor, in every backend and in `Fusion`."""
    pytest.importorskip(name)
    logits = data()["logits"]
    log_p = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    spec = SchedulerSpec(modalities=NAMES, policy="qmf", fusion="logit")
    backend = get_backend(name)
    for dtype in ("float32", "float64"):
        batch = ModalityBatch(logits=backend.from_numpy(log_p.astype(dtype), "cpu"))
        result = backend.scheduler(spec)(batch)
        np.testing.assert_allclose(backend.to_numpy(result.weights), 1 / 3, rtol=1e-5)
        (note,) = result.notes
        assert "weights are equal" in note and "raw logits" in note
    raw = ModalityBatch(logits=backend.from_numpy(logits + 5, "cpu"))
    assert backend.scheduler(spec)(raw).notes == ()
    if name == "torch":
        (note,) = Fusion(spec)(logits=torch.from_numpy(log_p)).notes
        assert "raw logits" in note


def test_one_active_modality_is_not_held_back_by_the_floor() -> None:
    """Its weight is 1 with any energy, and nothing is to be said."""
    logits = np.full((2, 3, 4), -9.0)
    present = np.array([[True, False, False], [False, False, False]])
    assert run("qmf", {"logits": logits, "present": present}).notes == ()
    present[1, :2] = True
    assert len(run("qmf", {"logits": logits, "present": present}).notes) == 1


@pytest.mark.parametrize("detach", [False, True])
def test_gradients_go_through_the_energies_of_qmf_unless_asked(detach: bool) -> None:
    spec = SchedulerSpec(
        modalities=("a", "b"), policy="qmf", policy_options={"detach": detach}, fusion="logit"
    )
    logits = torch.randn(3, 2, 4, dtype=torch.float64, requires_grad=True)
    weights = Fusion(spec)(logits=logits).weights
    assert weights.requires_grad != detach
    if not detach:
        assert torch.autograd.gradcheck(lambda x: Fusion(spec)(logits=x).weights, (logits + 2,))


@pytest.mark.parametrize(("form", "sense"), [("paper", 1), ("released", -1)])
def test_history_ranking_by_hand(form: qmf.Form, sense: int) -> None:
    """The margin is asked for in the paper's form, and given away in the released one."""
    arrays = data()
    kappa, c, there = arrays["square"], arrays["history"], arrays["active"]
    wanted = 0.0
    for m in range(M):
        losses = []
        for i in range(B):
            j = (i + 1) % B
            if there[i, m] and there[j, m]:
                sign = 1 if c[i, m] > c[j, m] else -1
                margin = sense * abs(c[i, m] - c[j, m])
                losses.append(max(0.0, sign * (kappa[i, m] - kappa[j, m]) + margin))
        wanted += fsum(losses) / len(losses) if losses else 0.0
    assert wanted > 0
    got = qmf.history_ranking(NS, kappa, c, form=form, active=there)
    np.testing.assert_allclose(float(got), wanted, rtol=1e-12)
    even = qmf.history_ranking(NS, kappa, np.full_like(c, 0.5), form=form)
    assert even == 0, "samples of equal history are not ranked"
    # Confidence that falls as history rises, by at least as much: nothing left to say.
    assert qmf.history_ranking(NS, -2 * c, c, form=form) == 0


def test_history_ranking_of_two_samples() -> None:
    """Two samples of past losses 0.9 and 0.4; their pair counts in both orders."""
    c = np.array([[0.9], [0.4]])
    wrong = np.array([[0.3], [0.1]])  # the worse one is more confident, by 0.2
    right = np.array([[0.1], [0.4]])  # the better one is, by 0.3
    assert float(qmf.history_ranking(NS, wrong, c)) == pytest.approx(0.7)
    assert float(qmf.history_ranking(NS, right, c)) == pytest.approx(0.2)
    assert float(qmf.history_ranking(NS, wrong, c, form="released")) == 0
    assert float(qmf.history_ranking(NS, right, c, form="released")) == 0
    assert float(qmf.history_ranking(NS, 4 * wrong, c, form="released")) == pytest.approx(0.3)
    with pytest.raises(SpecError, match="form"):
        qmf.history_ranking(NS, wrong, c, form="published")  # type: ignore[arg-type]


def test_the_released_history_ranking_is_torchs_margin_loss() -> None:
    """As QMF's trainers put it together: the successor's confidence moved, the target negated."""
    arrays = data(3)
    kappa, c = (torch.from_numpy(arrays[key]) for key in ("square", "history"))
    wanted = 0.0
    for m in range(M):
        target = (c[:, m] - c[:, m].roll(-1)).sign()
        other = kappa[:, m].roll(-1) + (c[:, m] - c[:, m].roll(-1)).abs() / target
        wanted += float(torch.nn.MarginRankingLoss()(kappa[:, m], other, -target))
    got = published.history_ranking(kappa, c, form="released")
    assert float(got) == pytest.approx(wanted, rel=1e-12)


def test_history_by_hand() -> None:
    history = qmf.LossHistory(4, 2)
    history.update(np.array([0, 1]), np.array([[1.0, 2.0], [3.0, np.nan]]),
                   np.array([[True, True], [True, False]]))  # fmt: skip
    history.update(np.array([0, 2]), np.array([[2.0, 4.0], [5.0, 1.0]]))
    # Means: 1.5, 3, 5 for the first modality; 3, -, 1 for the second.
    np.testing.assert_allclose(
        history.of(np.array([0, 1, 2, 3])),
        [[0.0, 1.0], [1.5 / 3.5, 0.0], [1.0, 0.0], [0.0, 0.0]],
    )
    assert (qmf.LossHistory(2, 1).of(np.array([0, 1])) == 0).all()
    with pytest.raises(SpecError, match="samples"):
        qmf.LossHistory(0, 1)
    with pytest.raises(ShapeError, match="losses"):
        history.update(np.array([0]), np.ones((2, 2)))


# --------------------------------------------------------------------------------------------- TMC


def dempster(one: dict[frozenset[int], float], other: dict[frozenset[int], float]) -> Any:
    """Dempster's rule on sets of classes, as it stands in any textbook."""
    mass: dict[frozenset[int], float] = {}
    for (a, x), (b, y) in itertools.product(one.items(), other.items()):
        if a & b:
            mass[a & b] = mass.get(a & b, 0.0) + x * y
    total = fsum(mass.values())
    return {key: x / total for key, x in mass.items()}


def test_dempster_shafer_by_the_rule_itself() -> None:
    arrays = data()
    e, there = arrays["evidence"], arrays["active"]
    opinion = tmc.dempster_shafer(NS, np.where(there[..., None], e, np.nan), there)
    every = frozenset(range(C))
    for b in range(B):
        combined = {every: 1.0}
        for m in range(M):
            if there[b, m]:
                strength = C + fsum(e[b, m])
                mass = {frozenset([k]): e[b, m, k] / strength for k in range(C)}
                combined = dempster(combined, mass | {every: C / strength})
        belief = [combined.get(frozenset([k]), 0.0) for k in range(C)]
        np.testing.assert_allclose(opinion.belief[b], belief, rtol=1e-12)
        np.testing.assert_allclose(opinion.vacuity[b], combined[every], rtol=1e-12)
        np.testing.assert_allclose(
            opinion.evidence[b], [C * x / combined[every] for x in belief], rtol=1e-11
        )
    np.testing.assert_allclose(opinion.probabilities.sum(axis=1), 1.0, rtol=1e-14)
    assert opinion.vacuity[0] == 1 and (opinion.belief[0] == 0).all()


def test_dempster_shafer_does_not_care_about_order_nor_about_the_vacuous() -> None:
    e = data()["evidence"]
    one, other = (tmc.dempster_shafer(NS, x) for x in (e, e[:, ::-1]))
    np.testing.assert_allclose(one.belief, other.belief, rtol=1e-13)
    more = np.concatenate([e, np.zeros((B, 1, C))], axis=1)
    np.testing.assert_allclose(tmc.dempster_shafer(NS, more).belief, one.belief, rtol=1e-14)


def test_dempster_shafer_of_much_evidence_stays_finite() -> None:
    e = np.full((1, 40, 3), 1e9, dtype=np.float32)
    e[..., 0] *= 2
    with np.errstate(over="ignore"):
        opinion = tmc.dempster_shafer(NS, e)
    np.testing.assert_allclose(opinion.belief, [[1, 0, 0]], atol=1e-6)
    assert opinion.vacuity == 0 and np.isfinite(opinion.probabilities).all()


@pytest.mark.clause("DMS-M-004")
def test_vacuity_by_hand() -> None:
    """Logits at 0 give log 2 for each class: u = 1 / (1 + log 2); -inf gives nothing."""
    logits = np.array([[[0.0, 0.0, 0.0], [0.0, -np.inf, -np.inf], [-np.inf, 50.0, 0.0]]])
    spec = SchedulerSpec(modalities=NAMES, policy="static", signals={"vacuity": {}}, fusion="logit")
    u = get_backend("numpy").scheduler(spec)(ModalityBatch(logits=logits)).signals["vacuity"]
    wanted = [1 / (1 + log(2)), 3 / (3 + log(2)), 3 / (3 + 50 + log(2))]
    np.testing.assert_allclose(u, [wanted], rtol=1e-14)
    assert get_signal("vacuity").direction == -1


@pytest.mark.clause("DMS-M-003")
def test_tmc_weighs_by_what_opinions_commit() -> None:
    arrays = data()
    logits, there = arrays["logits"], arrays["active"]
    result = run("tmc", {"logits": np.where(there[..., None], logits, np.nan), "present": there})
    for b in range(B):
        evidence = [fsum(log(1 + exp(x)) for x in logits[b, m]) for m in range(M)]
        mass = [e / (C + e) if there[b, m] else 0.0 for m, e in enumerate(evidence)]
        total = fsum(mass) or 1.0
        np.testing.assert_allclose(result.weights[b], [x / total for x in mass], rtol=1e-12)


@pytest.mark.clause("DMS-M-003")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_tmc_ranks_what_underflows_and_what_overflows(dtype: str) -> None:
    """Evidence of e^-5000 and of 1e30: scores are finite, and equal ones share."""
    low = np.array([[[-5000.0, -5001], [-5000, -5001], [-5000 - log(3), -5001 - log(3)]]], dtype)
    np.testing.assert_allclose(run("tmc", {"logits": low}).weights, [[3 / 7, 3 / 7, 1 / 7]], 1e-3)
    high = np.array([[[1e30, 0.0], [1e30, -np.inf], [-5000, -np.inf]]], dtype)
    np.testing.assert_allclose(run("tmc", {"logits": high}).weights, [[0.5, 0.5, 0]], atol=1e-6)


def test_gradients_of_tmc_at_its_edges() -> None:
    spec = SchedulerSpec(modalities=NAMES, policy="tmc", fusion="logit")
    for row in ([0.0, 0.0], [-5000.0, -5001.0], [3e5, -3e5], [0.0, -torch.inf], [-20.0, -37.0]):
        logits = torch.tensor([[row, [1.0, 2.0], [-1.0, 0.5]]], requires_grad=True)
        Fusion(spec)(logits=logits).weights[0, 1].backward()
        assert torch.isfinite(logits.grad).all(), row
    for scale in (1.0, 10.0, 30.0):
        logits = scale * torch.randn(2, 3, 4, dtype=torch.float64)
        check = logits.requires_grad_()
        assert torch.autograd.gradcheck(lambda x: Fusion(spec)(logits=x).weights, (check,))


def test_log_gamma_and_digamma() -> None:
    x = np.concatenate([[1.0, 2.0], np.geomspace(1, 1e6, 200)])
    ours, exact = special.log_gamma(NS, x), scipy_special.gammaln(x)
    np.testing.assert_allclose(ours, exact, rtol=3e-14, atol=3e-14)
    np.testing.assert_allclose(special.digamma(NS, x), scipy_special.psi(x), rtol=2e-14, atol=2e-14)
    narrow = special.digamma(NS, x.astype(np.float32))
    assert narrow.dtype == np.float32
    np.testing.assert_allclose(narrow, scipy_special.psi(x), rtol=3e-6, atol=3e-6)


def by_hand_evidential(e: Any, y: int, annealing: float) -> float:
    alpha = [float(x) + 1 for x in e]
    psi = scipy_special.psi
    expected = float(psi(fsum(alpha)) - psi(alpha[y]))
    other = [1.0 if k == y else a for k, a in enumerate(alpha)]
    total = fsum(other)
    divergence = lgamma(total) - lgamma(len(other)) - fsum(lgamma(a) for a in other)
    divergence += fsum((a - 1) * float(psi(a) - psi(total)) for a in other)
    return expected + annealing * divergence


def test_the_loss_of_tmc_by_hand() -> None:
    arrays = data()
    e, labels, there = arrays["evidence"], arrays["labels"], arrays["active"]
    combined = tmc.dempster_shafer(NS, e, there).evidence
    totals = []
    for b in range(B):
        members = [m for m in range(M) if there[b, m]]
        if members:
            y = int(labels[b])
            parts = [by_hand_evidential(combined[b], y, 0.3)]
            totals.append(fsum(parts + [by_hand_evidential(e[b, m], y, 0.3) for m in members]))
    got = tmc.tmc_loss(NS, e, labels, active=there, annealing=0.3)
    np.testing.assert_allclose(float(got), fsum(totals) / len(totals), rtol=1e-12)
    nothing = tmc.tmc_loss(NS, e, labels, active=np.zeros_like(there))
    assert nothing == 0
    with pytest.raises(SpecError, match="annealing"):
        tmc.tmc_loss(NS, e, labels, annealing=1.5)


def test_the_loss_of_tmc_is_an_expectation_over_its_dirichlet() -> None:
    """By drawing: E[-log p_y], and the divergence from the uniform Dirichlet."""
    e, random = np.array([2.0, 0.5, 4.0]), np.random.Generator(np.random.Philox(6))
    p = random.dirichlet(e + 1, size=200_000)
    without = float(tmc.evidential_loss(NS, e, np.array(1), annealing=0.0))
    np.testing.assert_allclose(without, -np.log(p[:, 1]).mean(), rtol=0.01)
    other = np.array([3.0, 1.0, 5.0])
    p = random.dirichlet(other, size=200_000)
    density = lgamma(9.0) - lgamma(3.0) - lgamma(5.0) + (np.log(p) * (other - 1)).sum(axis=1)
    pull = float(tmc.evidential_loss(NS, e, np.array(1))) - without
    np.testing.assert_allclose(pull, (density - lgamma(3.0)).mean(), rtol=0.01)


# ------------------------------------------------------------------------------------- OGM and OPM


def test_ogm_and_opm_by_their_numbers() -> None:
    rho = balance.discrepancy(NS, np.array([24.0, 16.0]))
    np.testing.assert_allclose(rho, [1.5, 2 / 3])
    for alpha, k in ((0.1, 0.851115), (0.3, 0.578101), (0.8, 0.166345), (1.0, 0.094852)):
        found = balance.ogm_coefficients(NS, rho, alpha=alpha)
        np.testing.assert_allclose(found, [k, 1.0], atol=5e-7)
    q = balance.opm_rates(NS, rho)
    np.testing.assert_allclose(q, [0.6155292893, 0], atol=5e-11)
    np.testing.assert_allclose(float(balance.opm_scale(NS, q)), 1.4445953855, atol=5e-11)
    assert balance.opm_rates(NS, np.array([30.0]), base=0.9, slope=5.0) == 1


def test_true_class_scores_by_hand() -> None:
    arrays = data()
    there = arrays["active"]
    got = balance.true_class_scores(NS, arrays["logits"], arrays["labels"], active=there)
    for m in range(M):
        own = [
            softmax(arrays["logits"][b, m])[arrays["labels"][b]] for b in range(B) if there[b, m]
        ]
        np.testing.assert_allclose(got[m], fsum(own) / len(own), rtol=1e-12)


def test_the_ratio_for_more_than_two_is_to_the_mean_of_the_others() -> None:
    s = np.array([0.6, 0.2, 0.4])
    np.testing.assert_allclose(balance.discrepancy(NS, s), [2.0, 0.4, 1.0])
    counted = np.array([True, False, True])
    np.testing.assert_allclose(balance.discrepancy(NS, s, counted=counted), [1.5, 1.0, 2 / 3])
    alone = np.array([True, False, False])
    np.testing.assert_allclose(balance.discrepancy(NS, s, counted=alone), [1, 1, 1])
    far = balance.discrepancy(NS, np.array([0.5, 0.0]))
    assert np.isfinite(far).all() and far[1] == 0
    assert (balance.ogm_coefficients(NS, far) >= 0).all()
    with pytest.raises(SpecError, match="alpha"):
        balance.ogm_coefficients(NS, s, alpha=-1)
    for options in ({"base": 2.0}, {"slope": -1.0}):
        with pytest.raises(SpecError, match="out of range"):
            balance.opm_rates(NS, s, **options)


def test_the_formulas_of_opm_between_their_ends() -> None:
    for rho in (1.01, 1.5, 3.0):
        q = float(balance.opm_rates(NS, np.array([rho]), base=0.4, slope=0.5)[0])
        np.testing.assert_allclose(q, 0.4 * (1 + 0.5 * tanh(rho - 1)), rtol=1e-12)


# ------------------------------------------------------------------------------------------ DynCIM


def test_gmr_and_hmir_by_hand() -> None:
    phi, own = np.array(0.8), np.array([0.5, 0.7, 0.4])
    g = dyncim.geometric_mean_ratio(NS, phi, own)
    np.testing.assert_allclose(float(g), (0.8 / 0.5 * 0.8 / 0.7 * 0.8 / 0.4) ** (1 / 3))
    rates = [0.3 / 0.5, 0.1 / 0.7, 0.4 / 0.4]
    np.testing.assert_allclose(dyncim.improvement_rates(NS, phi, own), rates)
    h = float(dyncim.harmonic_improvement_rate(NS, phi, own))
    np.testing.assert_allclose(h, 3 / fsum(1 / r for r in rates))
    # Harmonic, geometric, arithmetic; and no more than M times the smallest.
    assert h <= np.prod(rates) ** (1 / 3) <= fsum(rates) / 3
    assert h <= 3 * min(rates)
    scaled = dyncim.geometric_mean_ratio(NS, 0.3 * phi, 0.3 * own)
    np.testing.assert_allclose(scaled, g)
    some = np.array([True, False, True])
    np.testing.assert_allclose(
        float(dyncim.harmonic_improvement_rate(NS, phi, own, counted=some)), 2 / (1 / 0.6 + 1)
    )


def test_gmr_and_hmir_at_their_edges() -> None:
    phi = np.array(0.5)
    worse = dyncim.harmonic_improvement_rate(NS, phi, np.array([0.9, 0.1]))
    np.testing.assert_allclose(float(worse), 2 / (1e6 + 1 / 4), rtol=1e-9)
    nothing = np.array([False, False])
    assert dyncim.geometric_mean_ratio(NS, phi, np.ones(2), counted=nothing) == 1
    assert dyncim.harmonic_improvement_rate(NS, phi, np.ones(2), counted=nothing) == 0
    assert np.isfinite(dyncim.geometric_mean_ratio(NS, phi, np.array([0.0, 0.5])))
    with pytest.raises(SpecError, match="floor"):
        dyncim.harmonic_improvement_rate(NS, phi, np.ones(2), floor=0.0)


# ------------------------------------------------------------------------------------------ UmURL


def test_umurl_by_hand() -> None:
    arrays = data()
    z, u, there = arrays["features"], arrays["others"], arrays["active"]
    intra, inter = [], []
    for b in range(B):
        members = [m for m in range(M) if there[b, m]]
        if not members:
            continue
        mean = [fsum(z[b, m, d] for m in members) / len(members) for d in range(D)]
        intra.append(fsum((z[b, m, d] - u[b, m, d]) ** 2 for m in members for d in range(D)) / D)
        inter.append(fsum((z[b, m, d] - mean[d]) ** 2 for m in members for d in range(D)) / D)
    got = umurl.umurl_loss(NS, z, u, active=there)
    np.testing.assert_allclose(float(got["intra"]), fsum(intra) / len(intra), rtol=1e-12)
    np.testing.assert_allclose(float(got["inter"]), fsum(inter) / len(inter), rtol=1e-12)
    spread = 0.0
    for array in (z, u):
        for m in range(M):
            spread += by_hand_spread(array[there[:, m], m])
    np.testing.assert_allclose(float(got["variance_covariance"]), spread, rtol=1e-11)
    total = 5 * (got["intra"] + got["inter"]) + spread
    np.testing.assert_allclose(float(got["total"]), total, rtol=1e-12)


def by_hand_spread(z: np.ndarray) -> float:
    n, width = z.shape
    mean = [fsum(z[:, d]) / n for d in range(width)]
    covariance = [
        [
            fsum((z[i, a] - mean[a]) * (z[i, b] - mean[b]) for i in range(n)) / (n - 1)
            for b in range(width)
        ]
        for a in range(width)
    ]
    hinge = fsum(max(0.0, 1 - sqrt(covariance[d][d] + 1e-4)) for d in range(width)) / width
    off = fsum(covariance[a][b] ** 2 for a in range(width) for b in range(width) if a != b)
    return 5 * hinge + off / width


def test_the_inter_modal_loss_is_the_consistency_loss() -> None:
    """(M / D) MWCL with uniform weights."""
    z = data()["features"]
    mwcl = consistency_loss(NS, z, np.full((B, M), 1 / M))
    np.testing.assert_allclose(
        float(umurl.inter_consistency(NS, z)), float(mwcl) * M / D, rtol=1e-13
    )


def test_variance_and_covariance_at_their_ends() -> None:
    constant = umurl.variance_covariance(NS, np.ones((8, 3)))
    np.testing.assert_allclose(float(constant), 4.95, rtol=1e-12)
    white = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]], dtype=float)
    assert umurl.variance_covariance(NS, white) == 0
    assert umurl.variance_covariance(NS, 100 * white) == 0
    np.testing.assert_allclose(float(umurl.variance_covariance(NS, np.ones((1, 3)))), 4.95)
    same = data()["features"]
    assert umurl.umurl_loss(NS, same, same)["intra"] == 0
    z = torch.ones(4, 3, requires_grad=True)
    published.in_torch(umurl.variance_covariance)(z).backward()
    assert torch.isfinite(z.grad).all()


# -------------------------------------------------------------------------------------------- MoCa


def cosine(x: Any, y: Any) -> float:
    size = sqrt(fsum(a * a for a in x) * fsum(b * b for b in y))
    return fsum(a * b for a, b in zip(x, y, strict=True)) / size if size else 0.0


@pytest.mark.parametrize("hard", [True, False])
def test_the_contrastive_loss_by_hand(hard: bool) -> None:
    arrays = data()
    q, t, n, some = (arrays[k] for k in ("vectors", "targets", "negatives", "counted"))
    some = some & (np.arange(B) != 3)
    tau, losses = 0.03, []
    rows = [i for i in range(B) if some[i]]
    for i in rows:
        others = [cosine(q[i], t[j]) / tau for j in rows]
        others += [cosine(q[i], n[i, k]) / tau for k in range(K)] if hard else []
        losses.append(oracle.log_sum_exp(others) - cosine(q[i], t[i]) / tau)
    got = moca.contrastive_loss(NS, q, t, n if hard else None, counted=some)
    np.testing.assert_allclose(float(got), fsum(losses) / len(losses), rtol=1e-12)


def test_the_contrastive_loss_at_its_edges() -> None:
    """One sample without negatives has nothing to tell apart; zero vectors are no trap."""
    one = np.ones((1, 3))
    assert moca.contrastive_loss(NS, one, one) == 0
    assert moca.contrastive_loss(NS, one, one, counted=np.array([False])) == 0
    queries = torch.zeros(3, 4, requires_grad=True)
    targets = torch.cat([torch.zeros(1, 4), torch.full((2, 4), 1e30)]).requires_grad_()
    loss = published.contrastive_loss(queries, targets)
    torch.testing.assert_close(loss, torch.tensor(log(3.0)))
    loss.backward()
    assert torch.isfinite(queries.grad).all() and torch.isfinite(targets.grad).all()
    with pytest.raises(SpecError, match="temperature"):
        moca.contrastive_loss(NS, one, one, temperature=0.0)
    with pytest.raises(ShapeError, match="targets"):
        moca.contrastive_loss(NS, one, np.ones((2, 3)))


# ------------------------------------------------------------------------------------------- torch


def test_equations_in_torch_compute_halves_in_float32() -> None:
    arrays = data()
    logits = torch.from_numpy(arrays["logits"]).half()
    labels = torch.from_numpy(arrays["labels"])
    wide = published.true_class_scores(logits.float(), labels)
    for context in (
        torch.autocast("cpu", dtype=torch.bfloat16),
        torch.autocast("cpu", enabled=False),
    ):
        with context:
            found = published.true_class_scores(logits, labels)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, wide, rtol=0, atol=0)
    with pytest.raises(MissingInput, match="tensor"):
        published.in_torch(special.digamma)(arrays["scores"])
    assert published.tmc_loss.__doc__ == tmc.tmc_loss.__doc__


@pytest.mark.parametrize("name", ["dmome", "qmf", "tmc"])
def test_gradients_of_the_policies_are_those_of_the_oracle(name: str) -> None:
    arrays = data(7)
    random = np.random.Generator(np.random.Philox(8))
    spec = SchedulerSpec(modalities=NAMES, policy=name, fusion="logit")
    declared = {"gate_weight": (M, D, M), "gate_bias": (M,)} if name == "dmome" else {}
    parameters = {f"policy.{k}": random.normal(size=shape) for k, shape in declared.items()}
    batch = {
        "features": arrays["features"],
        "logits": arrays["logits"] + 3,
        "present": arrays["active"],
    }
    tensors = {key: torch.from_numpy(array) for key, array in batch.items()}
    for key in ("features", "logits"):
        tensors[key] = tensors[key].clone().requires_grad_()
    direction = random.normal(size=(B, M))
    output = Fusion(spec, parameters)(**tensors)
    (output.weights * torch.from_numpy(direction)).sum().backward()
    for key in ("features", "logits"):
        gradient = tensors[key].grad
        gradient = torch.zeros_like(tensors[key]) if gradient is None else gradient
        for _ in range(6):
            where = tuple(int(random.integers(size)) for size in batch[key].shape)
            values = []
            for sign in (1, -1):
                moved = {k: array.copy() for k, array in batch.items()}
                moved[key][where] += sign * 1e-5
                exact = oracle.schedule(spec, moved, parameters)
                values.append(float((exact.weights * direction).sum()))
            slope = (values[0] - values[1]) / 2e-5
            assert abs(float(gradient[where]) - slope) < 1e-7 * (1 + abs(slope))


def test_policies_and_signals_say_where_they_are_from() -> None:
    for name in ("dmome", "qmf", "tmc"):
        policy = get_policy(name)
        assert "arXiv" in policy.source and f"quation {policy.equation}" in policy.function.__doc__
    assert "experimental" in get_policy("ma_afs").source
    assert "quation E33" in get_signal("vacuity").function.__doc__


@pytest.mark.parametrize("policy", ["dmome", "qmf", "tmc", "ma_afs"])
def test_policies_are_fitted_to_a_table(policy: str) -> None:
    """One modality shows the label, one is noise; both have gaps. What can be learned is."""
    from dms_spec.embeddings.table import Table
    from dms_torch.fit import FitSettings, fit

    random, rows = np.random.Generator(np.random.Philox(9)), 240
    labels = random.integers(3, size=rows)
    clear = np.eye(3)[labels] * 4 + random.normal(size=(rows, 3))
    embeddings = {"a": clear.astype(np.float32), "b": random.normal(size=(rows, 5), scale=2)}
    present = random.random((rows, 2)) < 0.9
    present[:, 0] |= ~present[:, 1]
    table = Table(embeddings=embeddings, present=present, labels=labels)
    spec = SchedulerSpec(modalities=("a", "b"), policy=policy, fusion="logit")
    settings = FitSettings(epochs=15, width=4, batch_size=32, learning_rate=0.05)
    artifact = fit(table, spec, settings).artifact
    own = {name.removeprefix("policy.") for name in artifact.parameters if "policy." in name}
    assert own == set(get_policy(policy).parameters)
    held = artifact.model["metrics"]["validation"]["fused"]
    assert held["accuracy"] > 0.75
