"""The equations against numbers worked out by hand, and the contracts beside the numbers."""

from __future__ import annotations

import warnings
from math import log
from pathlib import Path

import array_api_compat.numpy as xp
import array_api_strict
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dms_numpy import primitives
from dms_spec.conformance import oracle, worked_example
from dms_spec.conformance.context import Context
from dms_spec.conformance.strategies import batches
from dms_spec.equations import primitives as plain_primitives
from dms_spec.equations.learned import POLICIES as LEARNED
from dms_spec.equations.losses import consistency_loss
from dms_spec.equations.namespace import Namespace
from dms_spec.equations.policies import POLICIES, modality_dropout_presence
from dms_spec.equations.signals import SIGNALS
from dms_spec.equations.typicality import SIGNALS as FITTED
from dms_spec.errors import DMSWarning, DTypeError, SpecError, UnknownName
from dms_spec.interface.signal import Evidence, Later
from dms_spec.plugins import available, get_backend
from dms_spec.spec import SchedulerSpec
from dms_spec.types import ModalityBatch, Schedule

NS = Namespace.of(xp, np.ndarray)
SPEC_PAGES = Path(__file__).resolve().parents[1] / "docs" / "spec" / "2026.11"

# The worked example, worked out apart from this package: ten decimals, and the losses to sixteen
# (with 40-digit arithmetic).
GOLDEN = {
    "confidence": [0.2701533008, 0.0088405286, 0.6410037504],
    "uncertainty": [0.0066666667, 0.0, 0.005],
    "alignment": [-0.2940858488, 0.8, -0.6],
}
GOLDEN_WEIGHTS = [
    [0.2281052807, 0.5280795964, 0.2438151229],
    [0.5633197335, 0.4366802665, 0.0],
    [1.0, 0.0, 0.0],
]
GOLDEN_FUSED = [[0.3011379157, 0.5443712386], [0.8253278934, 0.3493442132], [1.0, 0.0]]
GOLDEN_LOSS = [0.6739296910632754, 0.1967924890780852, 0.0]
DIGITS = 0.51e-10


def run(
    spec: SchedulerSpec, parameters: dict[str, np.ndarray] | None = None, **arrays: object
) -> Schedule:  # type: ignore[type-arg]
    return get_backend("numpy").scheduler(spec, parameters)(ModalityBatch(**arrays))


def outputs(source: str) -> tuple[Schedule | oracle.Exact, np.ndarray]:  # type: ignore[type-arg]
    arrays = worked_example.arrays()
    if source == "oracle":
        exact = oracle.schedule(worked_example.SPEC, arrays)
        return exact, oracle.consistency_loss(arrays["features"], exact.weights)
    result = run(worked_example.SPEC, **arrays)
    return result, consistency_loss(NS, arrays["features"], result.weights, reduction="none")


@pytest.mark.parametrize("source", ["oracle", "numpy"])
def test_the_worked_example_digit_by_digit(source: str) -> None:
    result, loss = outputs(source)
    for name, expected in GOLDEN.items():
        np.testing.assert_allclose(result.signals[name][0], expected, rtol=0, atol=DIGITS)
    np.testing.assert_allclose(result.weights, GOLDEN_WEIGHTS, rtol=0, atol=DIGITS)
    np.testing.assert_allclose(result.fused, GOLDEN_FUSED, rtol=0, atol=DIGITS)
    np.testing.assert_allclose(loss, GOLDEN_LOSS, rtol=0, atol=2e-16)


@pytest.mark.parametrize("source", ["oracle", "numpy"])
def test_the_worked_example_with_raw_confidence_and_summed_variance(source: str) -> None:
    spec = worked_example.SPEC.replace(
        signals={
            "confidence": {"normalize": False},
            "uncertainty": {"reduction": "mean"},
            "alignment": {},
        }
    )
    arrays = worked_example.arrays()
    summed = spec.replace(signals=dict(spec.signals) | {"uncertainty": {"reduction": "sum"}})
    raw, total = (
        (oracle.schedule(s, arrays) if source == "oracle" else run(s, **arrays))
        for s in (spec, summed)
    )
    c = [0.1981814475, -0.0888999753, 0.6056023086]
    np.testing.assert_allclose(raw.signals["confidence"][0], c, rtol=0, atol=DIGITS)
    w = [0.2291024727, 0.5168953702, 0.2540021570]
    np.testing.assert_allclose(raw.weights[0], w, rtol=0, atol=DIGITS)
    np.testing.assert_allclose(
        total.signals["uncertainty"][0], [0.02, 0, 0.015], rtol=0, atol=1e-12
    )


def test_normalising_confidence_only_rescales_its_coefficient() -> None:
    """softmax(alpha (1 - H/log C)) = softmax(alpha/log C (1 - H)) for equal C."""
    arrays = worked_example.arrays()
    one = SchedulerSpec(
        modalities=("a", "b", "c"), signals={"confidence": {}}, coefficients={"confidence": 2.0}
    )
    other = one.replace(
        signals={"confidence": {"normalize": False}}, coefficients={"confidence": 2.0 / log(3)}
    )
    np.testing.assert_allclose(run(one, **arrays).weights, run(other, **arrays).weights, atol=1e-15)


def test_uncertainty_of_distinct_one_hots_reaches_its_bound() -> None:
    """The sum over classes is 1 - 1/min(C, T)."""
    spec = SchedulerSpec(
        modalities=("a",), policy="static", signals={"uncertainty": {"reduction": "sum"}}
    )
    one_hots = np.where(np.eye(4, 6), 0.0, -np.inf)[:, None, None]
    result = run(spec, features=np.ones((1, 1, 2)), mc_logits=one_hots)
    np.testing.assert_allclose(result.signals["uncertainty"], 1 - 1 / 4, rtol=1e-15)


def test_mutual_information_of_distinct_one_hots_is_log_t() -> None:
    spec = SchedulerSpec(modalities=("a",), policy="static", signals={"mutual_information": {}})
    one_hots = np.where(np.eye(4, 6), 0.0, -np.inf)[:, None, None]
    result = run(spec, features=np.ones((1, 1, 2)), mc_logits=one_hots)
    np.testing.assert_allclose(result.signals["mutual_information"], log(4), rtol=1e-15)


def test_agreement_of_equal_and_of_opposite_predictions() -> None:
    spec = SchedulerSpec(modalities=("a", "b", "c"), policy="static", signals={"agreement": {}})
    logits = np.array([[[0.0, -np.inf], [0.0, -np.inf], [-np.inf, 0.0]]])
    result = run(spec, features=np.ones((1, 3, 2)), logits=logits)
    # The third says the opposite of both others. For the first, the others' mean is (1/2, 1/2).
    half = 1 - (log(4 / 3) + 0.5 * log(2 / 3) + 0.5 * log(2)) / 2 / log(2)
    np.testing.assert_allclose(result.signals["agreement"], [[half, half, 0.0]], atol=1e-15)


def test_agreement_survives_the_smallest_probability() -> None:
    """Half of the smallest subnormal is 0, and must not become a divisor."""
    spec = SchedulerSpec(modalities=("a", "b", "c"), policy="static", signals={"agreement": {}})
    logits = np.array([[[0.0, -103.5], [0.0, -np.inf], [0.0, -np.inf]]], dtype=np.float32)
    least = np.exp(logits[0, 0, 1])
    assert least > 0 and least * np.float32(0.5) == 0
    result = run(spec, features=np.ones((1, 3, 2), dtype=np.float32), logits=logits)
    np.testing.assert_allclose(result.signals["agreement"], 1.0, rtol=1e-6)


def test_corroboration_favours_the_unsure_of_two_that_disagree() -> None:
    """By hand: of (1, 0) and (1/2, 1/2), the middle is (3/4, 1/4)."""
    spec = SchedulerSpec(
        modalities=("a", "b"), signals={"corroboration": {}}, coefficients={"corroboration": 1.0}
    )
    logits = np.array([[[0.0, -np.inf], [0.0, 0.0]], [[0.0, -np.inf], [-np.inf, 0.0]]])
    result = run(spec, features=np.ones((2, 2, 1)), logits=logits)
    unsure = np.exp(-0.5 * log(2 / 3) - 0.5 * log(2))
    expected = [[3 / 4, unsure], [1 / 2, 1 / 2]]
    np.testing.assert_allclose(result.signals["corroboration"], expected, rtol=1e-15)
    assert unsure > 3 / 4


def test_energy_is_a_scaled_logsumexp() -> None:
    spec = SchedulerSpec(
        modalities=("a",), policy="static", signals={"energy": {"temperature": 2.0}}
    )
    result = run(spec, features=np.ones((1, 1, 2)), logits=np.array([[[2 * log(3), 2 * log(5)]]]))
    np.testing.assert_allclose(result.signals["energy"], 2 * log(8), rtol=1e-15)


def test_co_attention_by_hand() -> None:
    """h = (1,0), (0,1) with sqrt 2 ahead: similarities 1/sqrt2 on the diagonal, 0 beside it."""
    spec = SchedulerSpec(modalities=("a", "b", "c"), policy="co_attention")
    h = np.array([[[1.0, 0.0], [0.0, 1.0], [3.0, 3.0]]])
    result = run(spec, features=h, present=np.array([[True, True, False]]))
    np.testing.assert_allclose(result.weights, [[0.5, 0.5, 0.0]], atol=1e-15)
    query = {"policy.query": np.array([[1.0, 0], [0, 0]]), "policy.key": np.eye(2)}
    result = run(spec, query, features=h, present=np.array([[True, True, False]]))
    # Queries (1,0) and (0,0): the first attends by e^(1/sqrt2) : 1, the second evenly.
    e = np.exp(1 / np.sqrt(2))
    first = (e / (e + 1) + 0.5) / 2
    np.testing.assert_allclose(result.weights, [[first, 1 - first, 0.0]], atol=1e-15)


def test_static_with_a_bias_is_the_fixed_softmax() -> None:
    spec = SchedulerSpec(modalities=("a", "b", "c"), policy="static")
    bias = {"policy.bias": np.log([1.0, 2.0, 5.0])}
    result = run(
        spec, bias, features=np.ones((2, 3, 1)), present=np.array([[1, 1, 1], [1, 1, 0]], bool)
    )
    np.testing.assert_allclose(
        result.weights, [[1 / 8, 2 / 8, 5 / 8], [1 / 3, 2 / 3, 0]], atol=1e-15
    )


@given(
    st.integers(1, 40),
    st.integers(1, 6),
    st.floats(0, 0.95),
    st.integers(0, 2**32),
    st.sampled_from([0.0, 0.5, 1.0]),
)
@pytest.mark.clause("DMS-L-006", "DMS-R-001", "DMS-R-002")
def test_modality_dropout_drops_only_what_is_there_and_leaves_one(
    b: int, m: int, rate: float, seed: int, density: float
) -> None:
    present = np.random.default_rng(seed).random((b, m)) < density
    kept = modality_dropout_presence(present, seed=seed, rate=rate)
    assert not (kept & ~present).any()
    np.testing.assert_array_equal(kept.any(axis=1), present.any(axis=1))
    np.testing.assert_array_equal(kept, modality_dropout_presence(present, seed=seed, rate=rate))


@pytest.mark.clause("DMS-L-006", "DMS-R-002")
def test_modality_dropout_has_its_rate_and_its_generator() -> None:
    """Conditioned on one being left, each of three is kept with (1-p) / (1-p^3)."""
    kept = modality_dropout_presence(np.ones((100_000, 3), bool), seed=1, rate=0.5)
    expected = 0.5 / (1 - 0.5**3)
    spread = np.sqrt(expected * (1 - expected) / 100_000)
    assert np.abs(kept.mean(axis=0) - expected).max() < 5 * spread
    first = np.random.Generator(np.random.Philox(1)).random((100_000, 3)) >= 0.5
    left = first.any(axis=1)
    np.testing.assert_array_equal(kept[left], first[left])


def test_modality_dropout_refuses_what_is_no_rate_or_no_mask() -> None:
    for rate in (-0.1, 1.0):
        with pytest.raises(SpecError, match="rate"):
            modality_dropout_presence(np.ones((1, 2), bool), seed=0, rate=rate)
    with pytest.raises(DTypeError, match="bool"):
        modality_dropout_presence(np.ones((1, 2)), seed=0)


@pytest.mark.clause("DMS-O-003")
def test_the_consistency_loss_does_not_see_weights_that_it_may_not_push() -> None:
    """With stop_gradient standing for "frozen", moving the weights moves nothing."""
    random = np.random.Generator(np.random.Philox(0))
    h, w = random.normal(size=(4, 3, 5)), np.full((4, 3), 1 / 3)
    moved = np.array([[0.2, 0.3, 0.5]] * 4)
    frozen = Namespace.of(xp, np.ndarray, stop_gradient=lambda _: w)
    assert consistency_loss(frozen, h, moved) == consistency_loss(NS, h, w)
    pushed = consistency_loss(frozen, h, moved, detach_weights=False)
    assert pushed == consistency_loss(NS, h, moved) != consistency_loss(NS, h, w)


def test_signals_are_detached_unless_asked() -> None:
    """With a stop_gradient that keeps nothing, detached signals cannot move the weights."""
    from dms_spec.engine.pipeline import compute
    from dms_spec.engine.resolve import resolve

    spec = SchedulerSpec(
        modalities=("a", "b", "c"), signals={"confidence": {}}, coefficients={"confidence": 1.0}
    )
    forgetful = Namespace.of(xp, np.ndarray, stop_gradient=np.zeros_like)
    batch = ModalityBatch(**worked_example.arrays())
    detached = compute(forgetful, resolve(spec), batch)
    np.testing.assert_allclose(detached.weights[0], [1 / 3] * 3, rtol=1e-15)
    flowing = compute(forgetful, resolve(spec.replace(detach_signals=False)), batch)
    assert np.ptp(flowing.weights[0]) > 0.1


@given(batches("float32", tame=True, nonfinite=False))
@pytest.mark.clause("DMS-N-006")
def test_numpys_own_variance_is_the_plain_one(arrays: dict[str, np.ndarray]) -> None:  # type: ignore[type-arg]
    mc = np.where(arrays["present"][..., None], arrays["mc_logits"], 0)
    if not mc.shape[0]:
        return
    plain = plain_primitives.variance_over_passes(xp, mc)
    np.testing.assert_allclose(primitives.variance_over_passes(mc), plain, atol=1e-6)


@pytest.mark.clause("DMS-W-005")
def test_scheduling_in_blocks_changes_nothing() -> None:
    """A batch that is cut into several blocks, the last one short, gives what it gives whole."""
    from dms_spec.engine.resolve import resolve
    from dms_spec.engine.scheduler import EquationScheduler

    random = np.random.Generator(np.random.Philox(0))
    arrays = {
        "features": random.normal(size=(50, 3, 6)),
        "logits": random.normal(size=(50, 3, 5)),
        "mc_logits": random.normal(size=(4, 50, 3, 5)),
        "present": random.random((50, 3)) < 0.7,
    }
    claims = get_backend("numpy").capabilities
    whole, blocks = (
        EquationScheduler(
            Namespace.of(xp, np.ndarray, entries_at_once=entries),
            resolve(worked_example.SPEC),
            claims,
        )(ModalityBatch(**arrays))
        for entries in (None, 700)
    )
    for name, value in whole.arrays().items():
        np.testing.assert_allclose(blocks.arrays()[name], value, rtol=1e-13, atol=1e-13)
    assert set(blocks.terms) == set(whole.terms) and blocks.notes == whole.notes


def test_a_primitive_of_an_unknown_name_is_refused() -> None:
    with pytest.raises(UnknownName, match="'softmax'"):
        Namespace.of(xp, np.ndarray, sofmax=lambda x: x)


@pytest.mark.clause("DMS-Q-007", "DMS-C-005")
@pytest.mark.parametrize("name", ["alignment", "agreement"])
def test_two_modalities_are_warned_about_what_cancels(name: str) -> None:
    spec = SchedulerSpec(modalities=("image", "text"), signals={name: {}}, coefficients={name: 1.0})
    with pytest.warns(DMSWarning, match="cancels"):
        scheduler = get_backend("numpy").scheduler(spec)
    arrays = {
        name: array[..., :2, :]
        for name, array in worked_example.arrays().items()
        if name != "present"
    }
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = scheduler(ModalityBatch(**arrays))
    assert any("cancels" in note for note in result.notes)


@pytest.mark.clause("DMS-C-006")
@pytest.mark.parametrize("backend", available("backend"))
def test_arrays_of_another_library_are_refused(backend: str) -> None:
    """A list, and an array of a library that the backend does not compute in."""
    arrays: dict[str, object] = dict(worked_example.arrays())
    foreign = array_api_strict.asarray(arrays["features"])
    scheduler = get_backend(backend).scheduler(worked_example.SPEC)
    if backend != "strict":
        with pytest.raises(DTypeError, match="another library"):
            scheduler(ModalityBatch(**arrays | {"features": foreign}))
    else:
        with pytest.raises(DTypeError, match="another library"):
            scheduler(ModalityBatch(**arrays))


@pytest.mark.parametrize(
    "thing", [*SIGNALS, *FITTED, *POLICIES, *LEARNED], ids=lambda thing: thing.name
)
def test_every_equation_names_its_source(thing: object) -> None:
    assert any(word in thing.source for word in ("arXiv", "IEEE", "dms-spec 2026.11"))  # type: ignore[attr-defined]
    # The same number stands in the docstring and, as a tag, in the specification.
    number = thing.equation  # type: ignore[attr-defined]
    pages = "".join(page.read_text(encoding="utf-8") for page in SPEC_PAGES.glob("*.md"))
    assert pages.count(f"\\tag{{{number}}}") == 1
    if thing.name != "modality_dropout":  # type: ignore[attr-defined]
        assert f"quation {number}" in thing.function.__doc__  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("kind", "things"), [("signal", SIGNALS + FITTED), ("policy", POLICIES + LEARNED)]
)
def test_the_core_registers_all_it_defines(kind: str, things: tuple[object, ...]) -> None:
    names = {thing.name for thing in things}  # type: ignore[attr-defined]
    assert names <= set(available(kind))  # type: ignore[arg-type]


def test_the_variance_of_many_classes_keeps_its_digits() -> None:
    """A thousand classes of nearly equal probability do not add up a thousand roundings."""
    random = np.random.Generator(np.random.Philox(3))
    passes = np.repeat(random.normal(size=(3, 2, 3, 1)), 1025, axis=-1)
    passes[2, ..., :30] += 30.0
    spec = SchedulerSpec(
        modalities=("a", "b", "c"), policy="static", signals={"uncertainty": {}}, fusion="logit"
    )
    arrays = {"logits": passes[0].astype("f4"), "mc_logits": passes.astype("f4")}
    context = Context(backend=get_backend("numpy"), device="cpu", dtype="float32")
    context.expect_exact("DMS-Q-003", spec, arrays, {})


def test_evidence_is_cleaned_when_somebody_asks() -> None:
    """And once, whoever asks; a statistic that is known and a size need no clean copy."""
    asked = []

    def clean(array: np.ndarray) -> np.ndarray:
        asked.append(array)
        return np.where(active[..., None], array, 0).astype("f4")

    active, logits = np.array([[True, False]]), np.full((1, 2, 3), np.nan, "f2")
    logits[0, 0] = 1.0
    known = np.array([[2.0, 0.0]], "f4")
    evidence = Evidence(
        active=active,
        dtype=np.dtype("f4"),
        logits=Later(logits, clean),
        statistics={"entropy": known},
    )
    lent = evidence.with_parameters({"a": known}).changed(lambda thing: thing)
    for each in (evidence, lent):
        assert each.statistic("entropy", NS.entropy) is known
        assert each.count(NS, "logits", -1) == 3 and each.count(NS, "logits", -1).dtype == "f4"
        assert each.features is None and each.mc_logits is None
    assert not asked and lent.parameters == {"a": known}
    assert lent.logits is evidence.logits and len(asked) == 1
    np.testing.assert_array_equal(lent.logits, [[[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]]])
