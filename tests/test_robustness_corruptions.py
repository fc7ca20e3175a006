"""Corruptions: they change what they say they change, alike every time, and nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dms_spec.errors import DMSError, MissingInput, ShapeError, SpecError, UnknownName
from dms_spec.robustness import (
    EVERY,
    HALF,
    Case,
    Corruption,
    Pattern,
    Samples,
    corrupt,
    corruption,
    named,
    sensor_failure,
    sweep,
)
from dms_spec.robustness.corruptions.corruption import of_share
from dms_spec.robustness.corruptions.features import FEATURES
from dms_spec.robustness.corruptions.raw import RAW
from dms_spec.robustness.patterns import SENSORS
from dms_spec.robustness.samples import Scale, stream

NAMES = ("a", "b", "c", "d")
ALL = FEATURES | SENSORS


def make_samples(
    seed: int = 0, rows: int = 40, dtype: str = "float32", missing: float = 0.2, count: int = 4
) -> Samples:
    random = np.random.Generator(np.random.Philox(seed))
    names = NAMES[:count]
    inputs = {
        name: (3 + (2 + m) * random.normal(size=(rows, 3 + 2 * m))).astype(dtype)
        for m, name in enumerate(names)
    }
    present = random.random((rows, count)) >= missing
    for m, name in enumerate(names):
        inputs[name][~present[:, m]] = np.nan
    training = {name: 3 + 2 * random.normal(size=(30, x.shape[1])) for name, x in inputs.items()}
    return Samples.of(inputs, np.arange(rows) % 3, training=training, present=present)


def case_of(name: str, severity: float | None = None, seed: int = 0, **pattern: Any) -> Case:
    what = ALL[name]
    own = HALF if what.hits == "half" else EVERY
    return Case(
        corruption=what,
        severity=what.severities[-1] if severity is None else severity,
        pattern=Pattern(name="own", **pattern) if pattern else own,
        seed=seed,
    )


def same(x: np.ndarray, y: np.ndarray) -> bool:
    return x.dtype == y.dtype and x.tobytes() == y.tobytes()


# ------------------------------------------------------------------------------------ the laws


@given(
    name=st.sampled_from(sorted(ALL)),
    seed=st.integers(0, 2**40),
    missing=st.sampled_from([0.0, 0.4]),
    count=st.integers(1, 4),
    data=st.data(),
)
@settings(max_examples=150, deadline=None)
def test_only_what_is_hit_changes(
    name: str, seed: int, missing: float, count: int, data: st.DataObject
) -> None:
    """Bit for bit; presence only if the methods are told; the arrays given are not written to."""
    samples = make_samples(seed % 97, missing=missing, count=count)
    before = {k: x.copy() for k, x in samples.inputs.items()}
    what = ALL[name]
    severity = data.draw(st.sampled_from(what.severities))
    case = case_of(name, severity, seed)
    got = corrupt(samples, case)
    assert not (got.hit & ~samples.present).any()
    for m, modality in enumerate(samples.modalities):
        x, y = samples.inputs[modality], got.inputs[modality]
        assert same(x, before[modality])
        assert same(x[~got.hit[:, m]], y[~got.hit[:, m]])
        assert x.shape == y.shape
        assert np.isfinite(y[got.hit[:, m]]).all()
    wanted = samples.present & ~got.hit if what.told else samples.present
    assert np.array_equal(got.present, wanted)
    if what.hits == "half" and what.narrowing is None and not missing:
        assert (got.hit.sum(axis=1) == max(1, count // 2)).all()
    again = corrupt(samples, case)
    assert all(same(got.inputs[k], again.inputs[k]) for k in samples.modalities)
    assert np.array_equal(got.hit, again.hit)


@pytest.mark.parametrize("name", [n for n, c in ALL.items() if c.clean_at is not None])
def test_nothing_happens_where_the_severity_says_so(name: str) -> None:
    samples = make_samples()
    got = corrupt(samples, case_of(name, ALL[name].clean_at))
    assert all(same(got.inputs[k], samples.inputs[k]) for k in samples.modalities)
    assert np.array_equal(got.present, samples.present)
    assert not got.hit.any()


@pytest.mark.parametrize("name", [n for n, c in ALL.items() if c.random])
def test_another_seed_is_another_corruption(name: str) -> None:
    samples = make_samples()
    one, two = (corrupt(samples, case_of(name, seed=seed)) for seed in (1, 2))
    assert any(not same(one.inputs[k], two.inputs[k]) for k in samples.modalities)


def test_all_corruptions_of_a_seed_hit_the_same() -> None:
    samples = make_samples()
    hits = [corrupt(samples, case_of(n, seed=5)).hit for n in ("gaussian", "zeroed", "absent")]
    assert all(np.array_equal(hits[0], hit) for hit in hits)


def test_a_modality_has_noise_of_its_own_whichever_others_there_are() -> None:
    samples = make_samples(missing=0)
    both = corrupt(samples, case_of("gaussian", 0.5, modalities=("a", "b")))
    alone = corrupt(samples, case_of("gaussian", 0.5, modalities=("b",)))
    assert same(both.inputs["b"], alone.inputs["b"])


def test_streams_depend_on_every_word() -> None:
    draws = {stream(s, *w).random() for s in (0, 1) for w in ((), ("a",), ("a", "b"), ("ab",))}
    assert len(draws) == 8


# ------------------------------------------------------------------------------- what each does


def scaled(samples: Samples, name: str, x: np.ndarray, space: Any = "range") -> np.ndarray:
    return samples.scales[name].enter(x, space)


def test_the_scale_is_that_of_the_training_rows() -> None:
    scale = Scale.of(np.array([[1.0, 5.0, 2.0], [3.0, 5.0, 6.0]]))
    x = np.array([[3.0, 6.0, 8.0]])
    assert scale.enter(x, "range").tolist() == [[1.0, 1.0, 1.5]]
    assert scale.enter(x, "standard").tolist() == [[1.0, 1.0, 2.0]]
    assert scale.leave(scale.enter(x, "standard"), "standard").tolist() == x.tolist()
    assert scale.constant == 1


def change_of(samples: Samples, name: str, severity: float, seed: int = 0) -> np.ndarray:
    """What a corruption adds to modality b, in scaled features."""
    got = corrupt(samples, case_of(name, severity, seed, modalities=("b",)))
    return scaled(samples, "b", got.inputs["b"]) - scaled(samples, "b", samples.inputs["b"])


@given(
    name=st.sampled_from(["gaussian", "correlated", "shift", "drift"]),
    severities=st.tuples(st.floats(0.01, 10), st.floats(0.01, 10)),
    seed=st.integers(0, 10**6),
)
@settings(max_examples=40, deadline=None)
def test_what_is_added_is_in_proportion_to_the_severity(
    name: str, severities: tuple[float, float], seed: int
) -> None:
    samples = make_samples(missing=0, dtype="float64")
    one, two = (change_of(samples, name, s, seed) / s for s in severities)
    assert np.allclose(one, two, atol=1e-9)


@pytest.mark.parametrize("name", ["gaussian", "correlated"])
def test_the_severity_of_noise_is_its_deviation(name: str) -> None:
    samples = make_samples(missing=0, dtype="float64", rows=600)
    change = change_of(samples, name, 0.5)
    assert abs(change.std() / 0.5 - 1) < 0.1
    rank = np.linalg.matrix_rank(change, tol=1e-6)
    assert rank == (1 if name == "correlated" else change.shape[1])


def test_fixed_values_are_where_they_belong() -> None:
    samples = make_samples(missing=0, dtype="float64")
    x = scaled(samples, "c", samples.inputs["c"])

    def changed(name: str, severity: float) -> np.ndarray:
        got = corrupt(samples, case_of(name, severity, modalities=("c",)))
        return scaled(samples, "c", got.inputs["c"])

    assert np.allclose(changed("zeroed", 1), 0)
    assert np.allclose(changed("stuck", 0.5), 0.5)
    assert np.allclose(changed("scaling", 4), 4 * x)
    assert np.allclose(changed("shift", 0.25), x + 0.25)
    assert np.allclose(changed("drift", 2.0), x + np.linspace(0, 2, len(x))[:, None])
    for name in ("absent", "stuck_at_mean", "emm_told", "emm_untold"):
        got = corrupt(samples, case_of(name, 1, modalities=("c",)))
        assert np.allclose(got.inputs["c"], samples.scales["c"].mean)
    got = corrupt(samples, case_of("sign_flip", modalities=("c",)))
    standard = scaled(samples, "c", samples.inputs["c"], "standard")
    assert np.allclose(scaled(samples, "c", got.inputs["c"], "standard"), -standard)


@pytest.mark.parametrize("name", ["salt_and_pepper", "occlusion", "rmm"])
def test_more_contains_less(name: str) -> None:
    """What a mild severity corrupts, a strong one corrupts alike."""
    samples = make_samples(missing=0, rows=300, dtype="float64")
    before = None
    for severity in (0.1, 0.3, 0.6, 0.9):
        got = corrupt(samples, case_of(name, severity, modalities=("d",)))
        changed = got.inputs["d"] != samples.inputs["d"]
        assert abs(changed.mean() - severity) < 0.08
        if before is not None:
            assert changed[before[0]].all()
            assert np.array_equal(got.inputs["d"][before[0]], before[1][before[0]])
        before = changed, got.inputs["d"]


@given(seed=st.integers(0, 10**6), shares=st.tuples(st.floats(0, 1), st.floats(0, 1)))
@settings(max_examples=40, deadline=None)
def test_dead_features_are_dead_in_every_sample(seed: int, shares: tuple[float, float]) -> None:
    samples = make_samples(seed % 31, missing=0, dtype="float64")
    before = np.zeros(9, dtype=bool)
    for share in sorted(shares):
        got = corrupt(samples, case_of("dead", share, seed, modalities=("d",)))
        changed = got.inputs["d"] != samples.inputs["d"]
        dead = changed.all(axis=0)
        assert np.array_equal(changed, np.tile(dead, (40, 1)))
        assert dead.sum() == round(share * 9)
        assert np.allclose(scaled(samples, "d", got.inputs["d"])[:, dead], 0)
        assert (before <= dead).all()
        before = dead


@given(seed=st.integers(0, 10**6))
@settings(max_examples=30, deadline=None)
def test_permuted_features_are_in_one_other_order(seed: int) -> None:
    samples = make_samples(seed % 31, missing=0, dtype="float64")
    got = corrupt(samples, case_of("permuted", seed=seed, modalities=("d",)))
    x, y = (scaled(samples, "d", z["d"]) for z in (samples.inputs, got.inputs))
    order = np.abs(y[0] - x[0][:, None]).argmin(axis=0)
    assert sorted(order) == list(range(9))
    assert (order != np.arange(9)).all()
    assert np.allclose(y, x[:, order])


@given(levels=st.integers(2, 20), seed=st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_quantised_features_are_at_the_nearest_level(levels: int, seed: int) -> None:
    samples = make_samples(seed % 31, missing=0, dtype="float64")
    got = corrupt(samples, case_of("quantised", levels, seed, modalities=("d",)))
    x, y = (scaled(samples, "d", z["d"]) for z in (samples.inputs, got.inputs))
    steps = y * (levels - 1)
    assert np.allclose(steps, np.rint(steps))
    assert np.abs(y - x).max() <= 0.5 / (levels - 1) + 1e-9


def test_occlusion_is_one_run() -> None:
    samples = make_samples(missing=0, dtype="float64")
    got = corrupt(samples, case_of("occlusion", 0.5, modalities=("d",)))
    gone = got.inputs["d"] != samples.inputs["d"]
    assert (gone.sum(axis=1) == round(0.5 * 9)).all()
    assert (np.abs(np.diff(gone.astype(int), axis=1)).sum(axis=1) <= 2).all()


def test_salt_is_the_top_and_pepper_the_bottom() -> None:
    samples = make_samples(missing=0, rows=400, dtype="float64")
    got = corrupt(samples, case_of("salt_and_pepper", 0.4, modalities=("d",)))
    changed = got.inputs["d"] != samples.inputs["d"]
    values = scaled(samples, "d", got.inputs["d"])[changed].round(9)
    assert set(values.tolist()) == {0.0, 1.0}
    assert abs(values.mean() - 0.5) < 0.05


@given(
    name=st.sampled_from(["swap", "swap_same_class"]),
    seed=st.integers(0, 10**6),
    missing=st.sampled_from([0.0, 0.5]),
)
@settings(max_examples=60, deadline=None)
def test_a_swap_brings_another_sample_that_is_there(name: str, seed: int, missing: float) -> None:
    """Of another class, or of the same one; one that is alone in its class stays as it is."""
    samples = make_samples(seed % 31, missing=missing)
    got = corrupt(samples, case_of(name, 1.0, seed))
    for m, modality in enumerate(samples.modalities):
        pool = np.flatnonzero(samples.present[:, m])
        for i in np.flatnonzero(got.hit[:, m]):
            close = np.abs(samples.inputs[modality][pool] - got.inputs[modality][i]).max(axis=1)
            donor = pool[close.argmin()]
            assert close.min() < 1e-5
            same_class = samples.labels[pool] == samples.labels[i]
            assert (samples.labels[donor] == samples.labels[i]) == (name == "swap_same_class")
            assert (donor == i) == (name == "swap_same_class" and same_class.sum() == 1)


def test_every_other_sample_of_the_class_can_be_the_donor() -> None:
    labels = np.array([0, 1, 0, 0, 1])
    samples = Samples.of({"a": np.arange(5.0)[:, None]}, labels, training={"a": [[0.0], [1.0]]})
    found: dict[int, set[int]] = {i: set() for i in range(5)}
    for seed in range(60):
        got = corrupt(samples, case_of("swap_same_class", seed=seed))
        for i in range(5):
            found[i].add(round(float(got.inputs["a"][i, 0])))
    assert found == {0: {2, 3}, 1: {4}, 2: {0, 3}, 3: {0, 2}, 4: {1}}


@pytest.mark.parametrize("name", ["swap", "swap_same_class"])
def test_a_share_of_the_samples_is_swapped(name: str) -> None:
    samples = make_samples(missing=0)
    rows = [corrupt(samples, case_of(name, s)).hit.any(axis=1) for s in (0.25, 0.5)]
    assert [int(r.sum()) for r in rows] == [10, 20]
    assert (rows[0] <= rows[1]).all()


def test_conflict_is_that_of_rcml() -> None:
    """A tenth noisy, four tenths swapped, one modality each."""
    samples = make_samples(missing=0, rows=1000, dtype="float64")
    got = corrupt(samples, case_of("conflict"))
    per_sample = got.hit.sum(axis=1)
    assert per_sample.max() <= 2
    assert 450 <= (per_sample > 0).sum() <= 500
    swapped = 0
    for m, name in enumerate(samples.modalities):
        rows = {x.round(6).tobytes() for x in samples.inputs[name]}
        changed = got.inputs[name][got.hit[:, m]]
        swapped += sum(x.round(6).tobytes() in rows for x in changed)
    assert swapped == 400
    assert int(got.hit.sum()) in range(480, 501)


def test_sensor_noise_has_its_levels() -> None:
    samples = make_samples(missing=0, rows=2000, dtype="float64")
    for level, (density, deviation) in {1: (0.05, 0.1), 2: (0.1, 0.2), 3: (0.2, 0.5)}.items():
        got = corrupt(samples, case_of("nm", level, modalities=("d",)))
        x, y = (scaled(samples, "d", z["d"], "standard") for z in (samples.inputs, got.inputs))
        change = y - x
        jumps = np.abs(change) > 6 * deviation
        noise = change[~jumps]
        assert abs(noise.std() / deviation - 1) < 0.1 + density
        assert 0.5 * density < jumps.mean() < 1.2 * density


def test_half_precision_does_not_overflow() -> None:
    samples = make_samples(missing=0, dtype="float16")
    got = corrupt(samples, case_of("gaussian", 1e6, modalities=("a",)))
    assert got.inputs["a"].dtype == np.float32 and got.inputs["b"].dtype == np.float16
    assert np.isfinite(got.inputs["a"]).all()


def test_what_overflows_is_said() -> None:
    samples = make_samples(missing=0)
    got = corrupt(samples, case_of("scaling", 1e39, modalities=("a",)))
    assert "range of float32" in got.notes[0]


# ------------------------------------------------------------------------------------ raw inputs


def raw_samples(**inputs: Any) -> Samples:
    kinds = {name: name.partition("_")[0] for name in inputs}
    rows = len(next(iter(inputs.values())))
    return Samples.of(inputs, np.arange(rows) % 2, kinds=kinds)  # type: ignore[arg-type]


def raw_case(name: str, severity: float, seed: int = 0) -> Case:
    return Case(corruption=RAW[name], severity=severity, pattern=HALF, seed=seed)


IMAGES = np.random.Generator(np.random.Philox(0)).integers(0, 256, (6, 12, 10, 3)).astype(np.uint8)
TEXTS = np.array(["the quick brown fox jumps over the lazy dog", "Sphinx of black quartz", "", "a"])


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize("colour", [True, False])
def test_blur(dtype: str, colour: bool) -> None:
    images = (IMAGES if colour else IMAGES[..., 0]).astype(dtype)
    got = corrupt(raw_samples(image=images), raw_case("blur", 2.0)).inputs["image"]
    assert got.dtype == images.dtype and got.shape == images.shape
    assert got.std() < 0.5 * images.std()
    flat = np.full_like(images, 200)
    blurred = corrupt(raw_samples(image=flat), raw_case("blur", 3.0)).inputs["image"]
    assert np.allclose(blurred, 200, rtol=1e-6)


def test_blur_is_a_gaussian() -> None:
    image = np.zeros((2, 41, 41))
    image[:, 20, 20] = 1.0
    got = corrupt(raw_samples(image=image), raw_case("blur", 2.0)).inputs["image"][0]
    place = np.arange(41) - 20
    assert got.sum() == pytest.approx(1)
    assert np.sqrt((got.sum(axis=0) * place**2).sum()) == pytest.approx(2.0, abs=0.01)
    assert got[20, 22] / got[20, 20] == pytest.approx(np.exp(-0.5))


def test_a_rectangle_is_black_and_larger_ones_contain_it() -> None:
    samples = raw_samples(image=np.maximum(IMAGES, 1))
    before = np.zeros(IMAGES.shape[:3], dtype=bool)
    for share in (0.1, 0.25, 0.5, 1.0):
        got = corrupt(samples, raw_case("image_occlusion", share)).inputs["image"]
        black = (got == 0).all(axis=-1)
        assert got.dtype == np.uint8
        assert np.abs(black.mean(axis=(1, 2)) - share).max() < 0.08
        assert (before <= black).all()
        before = black


@pytest.mark.parametrize("name", ["typing", "word_masking", "character_masking"])
def test_texts(name: str) -> None:
    samples = raw_samples(text=TEXTS)
    mild, strong = (corrupt(samples, raw_case(name, s)).inputs["text"] for s in (0.05, 0.9))
    assert mild.dtype.kind == "U" and mild.shape == TEXTS.shape
    assert strong[0] != TEXTS[0] and strong[2] == ""
    whole = corrupt(samples, raw_case(name, 1.0)).inputs["text"]
    if name == "word_masking":
        assert whole[1] == "[MASK] [MASK] [MASK] [MASK]"
    if name == "character_masking":
        assert whole[1] == "****** ** ***** ******"
    assert np.array_equal(corrupt(samples, raw_case(name, 0.9)).inputs["text"], strong)


def test_typing_errors_are_as_many_as_asked_for() -> None:
    text = np.array(["abcdefghijklmnopqrstuvwxyz" * 100] * 2)
    got = corrupt(raw_samples(text=text), raw_case("typing", 0.1)).inputs["text"][0]
    kept = sum(len(part) for part in got.split("ab"))
    assert got != text[0] and abs(len(got) - 2600) < 100 and kept > 0


@pytest.mark.parametrize("dtype", ["int16", "float32"])
def test_audio(dtype: str) -> None:
    time = np.arange(8000) / 8000
    wave = (1e4 * np.sin(2 * np.pi * 440 * time)).astype(dtype)
    waves = np.stack([wave, wave * 0])
    samples = raw_samples(audio=waves)
    noisy = corrupt(samples, raw_case("audio_noise", 10.0)).inputs["audio"].astype(float)
    noise = noisy - waves
    assert 10 * np.log10((waves[0].astype(float) ** 2).mean() / (noise[0] ** 2).mean()) == (
        pytest.approx(10, abs=0.3)
    )
    assert (noise[1] == 0).all()
    cut = corrupt(samples, raw_case("audio_clipping", 0.2)).inputs["audio"]
    assert cut.dtype == waves.dtype
    loud = np.abs(cut[0].astype(float))
    assert (loud >= loud.max() - 1).mean() == pytest.approx(0.2, abs=0.01)


def test_loud_noise_does_not_wrap() -> None:
    waves = np.full((2, 100), 30000, dtype=np.int16)
    got = corrupt(raw_samples(audio=waves), raw_case("audio_noise", -20.0)).inputs["audio"]
    assert {got.max(), got.min()} == {32767, -32768}


def test_a_corruption_hits_the_kinds_that_it_is_for() -> None:
    inputs = {"image": IMAGES[:4], "text": TEXTS}
    samples = raw_samples(**inputs)
    got = corrupt(samples, raw_case("blur", 2.0))
    assert got.hit.tolist() == [[True, False]] * 4
    assert np.array_equal(got.inputs["text"], TEXTS)
    both = Case(corruption=FEATURES["absent"], severity=1.0, pattern=EVERY, seed=0)
    gone = corrupt(samples, both)
    assert set(gone.inputs["text"]) == {""} and not gone.inputs["image"].any()
    swapped = corrupt(samples, Case(corruption=FEATURES["swap"], severity=1, pattern=EVERY, seed=0))
    assert set(swapped.inputs["text"]) <= set(TEXTS)


# --------------------------------------------------------------------------------------- refused


def test_refusals() -> None:
    samples = make_samples()
    with pytest.raises(UnknownName, match="gaussian"):
        corruption("gausian")
    for name, severity in (
        ("gaussian", -1.0),
        ("swap", 1.5),
        ("zeroed", 0.5),
        ("sign_flip", -1.0),
        ("quantised", 1.0),
        ("dead", 1.1),
        ("gaussian", np.nan),
    ):
        with pytest.raises(SpecError, match=name):
            corruption(name).at(severity)
    with pytest.raises(SpecError, match="no severity"):
        corruption("gaussian").at()
    with pytest.raises(SpecError, match="kind 'image'"):
        corrupt(samples, raw_case("blur", 1.0))
    with pytest.raises(UnknownName, match="'e'"):
        corrupt(samples, case_of("gaussian", 1.0, modalities=("e",)))
    with pytest.raises(SpecError, match="hits nothing"):
        corrupt(
            raw_samples(image=IMAGES[:4], text=TEXTS),
            Case(corruption=RAW["blur"], severity=1.0, pattern=named(("text",)), seed=0),
        )
    lonely = Samples.of({"a": np.eye(3)}, np.zeros(3, int))
    with pytest.raises(MissingInput, match="two classes"):
        corrupt(lonely, case_of("swap"))
    with pytest.raises(SpecError, match="seeds"):
        sweep(("gaussian",), seeds=())
    with pytest.raises(SpecError, match="10 or fewer"):
        sensor_failure(tuple("abcdefghijk"))


@pytest.mark.parametrize(
    ("inputs", "changes"),
    [
        ({"a": np.eye(3)}, {"labels": [0.5, 1, 2]}),
        ({"a": np.eye(3)}, {"labels": [0, 1]}),
        ({"a": np.eye(3)}, {"present": np.ones((3, 2), bool)}),
        ({"a": np.eye(3)}, {"present": np.ones((3, 1))}),
        ({"a": np.eye(3)}, {"training": {"a": np.eye(2)}}),
        ({"a": np.eye(3)}, {"training": {}}),
        ({"a": np.eye(3)}, {"training": {"a": np.full((2, 3), np.nan)}}),
        ({"a": np.eye(3)}, {"kinds": {"b": "image"}}),
        ({"a": np.eye(3)}, {"kinds": {"a": "smell"}}),
        ({"a": np.array([None] * 3)}, {}),
        ({"a": np.array(["x"] * 3)}, {}),
        ({}, {}),
        ({"a": np.zeros((0, 3))}, {"labels": np.zeros(0, int)}),
    ],
)
def test_bad_samples_are_refused(inputs: Any, changes: dict[str, Any]) -> None:
    arguments = {"labels": [0, 1, 2]} | changes
    with pytest.raises(DMSError):
        Samples.of(inputs, **arguments)


def test_what_is_weak_is_noted() -> None:
    x = np.array([[1.0, 2.0], [1.0, 3.0]])
    notes = Samples.of({"a": x}, [0, -1]).notes
    assert any("rows measured" in note for note in notes)
    assert any("1 of 2 features of 'a' are constant" in note for note in notes)
    assert any("1 rows have a label that is not a class" in note for note in notes)
    assert Samples.of({"a": x}, [0, 1], training={"a": np.eye(2)}).notes == ()


def test_a_corruption_of_ones_own() -> None:
    mine = Corruption(
        name="mine", function=lambda x, severity, _: x * 0 + severity, unit="units", random=False
    )
    samples = make_samples(missing=0, dtype="float64")
    (case,) = sweep((mine.at(0.5),), patterns=(named("a"),))
    assert np.allclose(scaled(samples, "a", corrupt(samples, case).inputs["a"]), 0.5)


def test_a_share_is_in_zero_to_one_and_nothing_is_clean() -> None:
    mine = of_share("mine", lambda x, *_: x, "Nothing.", of="rows", severities=(0.5,))
    for one in (mine, FEATURES["dead"], FEATURES["swap"], RAW["typing"], SENSORS["rmm"]):
        assert (one.least, one.most, one.clean_at) == (0.0, 1.0, 0.0)
        assert one.unit.startswith("share of the ")
        with pytest.raises(SpecError, match="0 to 1"):
            one.at(1.5)


def test_a_function_of_another_shape_is_refused() -> None:
    bad = Corruption(name="bad", function=lambda x, *_: x[:-1], unit="units")
    with pytest.raises(ShapeError, match="bad"):
        corrupt(make_samples(), sweep((bad,), seeds=(0,))[0])
