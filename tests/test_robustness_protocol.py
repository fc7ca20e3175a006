"""Measuring: what stands beside a fusion, runs that are interrupted, and the report."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dms_spec.embeddings.metrics import measured
from dms_spec.errors import (
    ArtifactError,
    DMSError,
    FileError,
    NonFiniteInput,
    ShapeError,
    SpecError,
    UnknownName,
)
from dms_spec.robustness import (
    EVERY,
    Answer,
    Progress,
    Result,
    Samples,
    average,
    corrupt,
    measure,
    merge,
    metrics,
    named,
    read_result,
    sensor_failure,
    sweep,
    write_report,
)
from dms_spec.robustness.report import FILES, findings, put_in_card, section

NAMES = ("a", "b", "c")
CLASSES = 3
CENTRES = {
    name: np.random.Generator(np.random.Philox(50 + m)).normal(size=(CLASSES, 3 + m))
    for m, name in enumerate(NAMES)
}


def make_samples(rows: int = 60, seed: int = 0, missing: float = 0.1) -> Samples:
    random = np.random.Generator(np.random.Philox(seed))
    labels = np.arange(rows) % CLASSES
    inputs = {
        n: c[labels] + 0.7 * random.normal(size=(rows, c.shape[1])) for n, c in CENTRES.items()
    }
    training = {n: c[labels] for n, c in CENTRES.items()}
    present = random.random((rows, 3)) >= missing
    return Samples.of(
        inputs, labels, training=training, present=present, prior=np.array([0.2, 0.5, 0.3])
    )


def heads(inputs: Mapping[str, Any], names: tuple[str, ...] = NAMES) -> np.ndarray:
    """Softmax of the negative squared distances to the classes' centres, [N, M, C]."""
    logits = np.stack(
        [-((inputs[n][:, None] - CENTRES[n]) ** 2).sum(axis=-1) for n in names], axis=1
    )
    p = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return p / p.sum(axis=-1, keepdims=True)


def fusion(inputs: Mapping[str, Any], present: np.ndarray) -> Answer:
    """Weights by confidence."""
    unimodal = heads(inputs)
    raw = np.where(present, unimodal.max(axis=-1) ** 4, 0)
    total = raw.sum(axis=1, keepdims=True)
    weights = raw / np.where(total > 0, total, 1)
    fused = (weights[..., None] * unimodal).sum(axis=1)
    fused = np.where(total > 0, fused, [0.2, 0.5, 0.3])
    return Answer(probabilities=fused, weights=weights, unimodal=unimodal)


def plain(inputs: Mapping[str, Any], present: np.ndarray) -> np.ndarray:
    return fusion(inputs, present).probabilities


CASES = sweep(("gaussian", "zeroed", "absent", "conflict"), seeds=(3, 4))


@pytest.fixture(scope="module")
def result() -> Result:
    return measure({"fusion": fusion}, make_samples(), CASES)


# ------------------------------------------------------------------------------- by hand


def test_everything_beside_a_fusion_is_what_it_says() -> None:
    samples = make_samples()
    (case,) = sweep(("gaussian",), seeds=(3,))[2:3]
    got = measure({"fusion": fusion}, samples, (case,)).cases[1]
    corrupted = corrupt(samples, case)
    unimodal, labels = heads(corrupted.inputs), samples.labels
    assert samples.prior is not None
    for name in ("static", "mask oracle", "a alone", "b alone", "c alone"):
        wanted = np.empty((len(samples), CLASSES))
        for i in range(len(samples)):
            use = [
                m
                for m, modality in enumerate(NAMES)
                if corrupted.present[i, m]
                and not (name == "mask oracle" and corrupted.hit[i, m])
                and name in ("static", "mask oracle", f"{modality} alone")
            ]
            wanted[i] = unimodal[i, use].mean(axis=0) if use else samples.prior
        scores = got.scores[name]
        assert scores["accuracy"] == pytest.approx((wanted.argmax(axis=1) == labels).mean())
        for metric in ("balanced_accuracy", "nll", "ece"):  # as dms fit measures them
            assert scores[metric] == pytest.approx(measured(wanted, labels)[metric])
        assert scores["aurc"] == pytest.approx(metrics.area_under_risk_coverage(wanted, labels))
    for m, name in enumerate(NAMES):  # as dms fit measures it: where it is present
        there, own = corrupted.present[:, m], got.scores[f"{name} alone"]
        right = unimodal[there, m].argmax(axis=1) == labels[there]
        assert own["accuracy_where_present"] == pytest.approx(right.mean())
        assert own["samples_where_present"] == there.sum() < len(samples)
    answer = fusion(corrupted.inputs, corrupted.present)
    assert answer.weights is not None
    own, hit, clean = got.scores["fusion"], corrupted.hit, corrupted.present & ~corrupted.hit
    assert own["weight_on_hit"] == pytest.approx(answer.weights[hit].mean())
    assert own["weight_on_clean"] == pytest.approx(answer.weights[clean].mean())
    assert own["weight: b"] == pytest.approx(answer.weights[corrupted.present[:, 1], 1].mean())
    losses = metrics.losses(unimodal, labels)
    parts, total = metrics.weight_loss_covariance(answer.weights, losses, corrupted.present)
    assert own["weight_loss_covariance"] == pytest.approx(total)
    assert own["weight_loss_covariance: c"] == pytest.approx(parts[2])
    static = got.scores["static"]["accuracy"]
    assert own["accuracy"] is not None and static is not None
    assert own["gain_over_static"] == pytest.approx(own["accuracy"] - static)


def test_degradation_is_against_the_clean_case(result: Result) -> None:
    clean = result.mean("accuracy", "fusion", "clean")
    for case in result.cases:
        noisy = case.scores["fusion"]["accuracy"]
        assert case.scores["fusion"]["degradation"] == metrics.degradation(clean, noisy)
    assert result.cases[0].corruption == "clean"
    assert result.values("degradation", "fusion", "clean") == [0.0]


def test_a_case_does_not_depend_on_the_others(result: Result) -> None:
    alone = measure({"fusion": fusion}, make_samples(), CASES[3:4])
    assert alone.cases[1] in result.cases
    assert alone.cases[0] == replace(result.cases[0], seed=alone.cases[0].seed)


def test_a_method_without_modalities_has_no_company() -> None:
    got = measure({"plain": plain}, make_samples(), CASES)
    assert got.names == ("plain",)
    assert set(got.cases[0].scores["plain"]) == {
        "accuracy", "balanced_accuracy", "nll", "ece", "aurc", "degradation", "retention",
    }  # fmt: skip
    assert got.gain("plain", "static", ("clean", 0.0, "every")) is None
    assert all("static" not in text for text in findings(got))


def test_equal_heads_have_one_company_and_others_their_own() -> None:
    def other(inputs: Mapping[str, Any], present: np.ndarray) -> Answer:
        return replace(fusion(inputs, present), unimodal=heads(inputs)[..., ::-1])

    methods = {"plain": plain, "one": fusion, "same": fusion, "other": other}
    got = measure(methods, make_samples(), sweep(("zeroed",), seeds=(0,)))
    company = [n for n in got.names if n not in methods]
    plain_names = ["static", "mask oracle", *(f"{n} alone" for n in NAMES)]
    assert company == [*plain_names, *(f"{n} of other" for n in plain_names)]
    for name in ("same", "other"):
        assert got.gain(name, "mask oracle", got.conditions[1]) is not None
    assert got.gain("other", "static", got.conditions[0]) != got.gain(
        "one", "static", got.conditions[0]
    )


def test_where_everything_is_hit_there_is_no_oracle() -> None:
    got = measure({"f": fusion}, make_samples(), sweep(("zeroed",), patterns=(EVERY,)))
    assert "mask oracle" in got.cases[0].scores and "mask oracle" not in got.cases[1].scores
    assert got.mean("accuracy", "mask oracle", "zeroed") is None
    write = section(got)
    assert "| zeroed |" in write and "| - |" in write


def test_what_draws_nothing_is_measured_once() -> None:
    cases = sweep(("zeroed", "gaussian"), patterns=(named(("a",)),), seeds=range(4))
    assert [c.seed for c in cases if c.corruption.name == "zeroed"] == [0]
    assert len(cases) == 1 + 5 * 4


def test_unknown_labels_and_no_labels_at_all() -> None:
    samples = replace(make_samples(), labels=np.full(60, -1))
    got = measure({"f": fusion}, samples, CASES[:1])
    for case in got.cases:
        own = case.scores["f"]
        assert own["accuracy"] == 0 and own["ece"] is None and own["retention"] is None
        assert own["weight_loss_covariance"] is None
    json.dumps(got.to_dict(), allow_nan=False)


# ------------------------------------------------------------------------------ sensor failure


@pytest.fixture(scope="module")
def sensors() -> Result:
    return measure({"f": fusion}, make_samples(missing=0), sensor_failure(NAMES, seeds=(0, 1)))


def test_sensor_failure_by_hand(sensors: Result) -> None:
    samples = make_samples(missing=0)
    # Told: 6 sets, untold: 6, random features: 6 x 3 x 2, noise: 3 x 2, and the clean one.
    assert len(sensors.cases) == 1 + 6 + 6 + 36 + 6
    right, told, untold = {}, {}, {}
    for mask in range(1, 8):
        available = np.array([bool(mask >> m & 1) for m in range(3)])
        names = frozenset(np.array(NAMES)[available].tolist())
        damaged = frozenset(NAMES) - names
        present = np.tile(available, (60, 1))
        hits = fusion(samples.inputs, present).probabilities.argmax(axis=1) == samples.labels
        right[names], told[damaged] = hits, float(hits.mean())
        means = {
            n: x if n in names else np.broadcast_to(samples.scales[n].mean, x.shape)
            for n, x in samples.inputs.items()
        }
        blind = fusion(means, samples.present).probabilities.argmax(axis=1)
        untold[damaged] = float((blind == samples.labels).mean())
    got = sensors.sensor_failure()
    assert got["emm_told"]["f"]["average"] == pytest.approx(average(told, 3))
    assert got["emm_untold"]["f"]["average"] == pytest.approx(average(untold, 3))
    assert got["emm_told"]["f"]["by_count"][0] == pytest.approx(told[frozenset()])
    for kind in ("all", "adjacent"):
        rate = metrics.counter_intuitive_rate(right, kind)  # type: ignore[arg-type]
        assert got["counter_intuitive_rate"]["f"][kind] == pytest.approx(rate)
    assert set(got) == {
        "emm_told", "emm_untold", "rmm 0.25", "rmm 0.5", "rmm 0.75",
        "nm 1", "nm 2", "nm 3", "counter_intuitive_rate",
    }  # fmt: skip
    assert got["nm 1"]["mask oracle"] is None


def test_some_of_the_sets_are_no_summary() -> None:
    cases = [c for c in sensor_failure(NAMES, seeds=(0,)) if c.pattern.name != "a+b"]
    got = measure({"f": fusion}, make_samples(), cases).sensor_failure()
    assert got["emm_told"] == {} and got["rmm 0.5"] == {}


# -------------------------------------------------------------------------------- interrupted


class Stop(Exception):
    pass


@pytest.mark.parametrize("after", [1, 7, len(CASES)])
def test_an_interrupted_run_goes_on(tmp_path: Path, result: Result, after: int) -> None:
    store, calls = tmp_path / "cases.jsonl", 0

    def counted(inputs: Mapping[str, Any], present: np.ndarray) -> Answer:
        nonlocal calls
        calls += 1
        return fusion(inputs, present)

    def stop(progress: Progress) -> None:
        assert progress.total == len(CASES) + 1
        if progress.done == after:
            raise Stop

    with pytest.raises(Stop):
        measure({"fusion": counted}, make_samples(), CASES, store=store, report=stop)
    with store.open("a") as file:
        file.write('{"key": ["cut sho')  # as by a kill in the middle of a line
    got = measure({"fusion": counted}, make_samples(), CASES, store=store)
    assert got == result and got.resumed == after
    assert got.to_dict() == result.to_dict()
    assert calls == len(CASES) + 1
    again = measure({"fusion": counted}, make_samples(), CASES, store=store)
    assert again == result and calls == len(CASES) + 1


def test_the_store_of_another_run_is_refused(tmp_path: Path) -> None:
    store = tmp_path / "cases.jsonl"
    samples = make_samples()
    measure({"f": fusion}, samples, CASES, store=store, identity="x")
    others: list[dict[str, Any]] = [
        {"methods": {"g": fusion}},
        {"samples": make_samples(seed=1)},
        {"samples": replace(samples, labels=samples.labels[::-1].copy())},
        {"cases": CASES[1:]},
        {"identity": "y"},
    ]
    for other in others:
        arguments = {"methods": {"f": fusion}, "samples": samples, "cases": CASES, "identity": "x"}
        with pytest.raises(ArtifactError, match="another run"):
            measure(**(arguments | other), store=store)


@pytest.mark.parametrize(
    "content", [b"nonsense\n", b"[]\n", b'{"format": "x"}\n', b"\xff\xfe\n", b"{}\n{}\n", b"1\n"]
)
def test_a_damaged_store_is_refused(tmp_path: Path, content: bytes) -> None:
    store = tmp_path / "cases.jsonl"
    store.write_bytes(content)
    with pytest.raises(FileError, match="Remove the file"):
        measure({"f": fusion}, make_samples(), CASES, store=store)
    assert store.read_bytes() == content


def test_a_store_that_was_only_begun_is_no_obstacle(tmp_path: Path, result: Result) -> None:
    store = tmp_path / "cases.jsonl"
    store.write_bytes(b'{"format"')
    assert measure({"fusion": fusion}, make_samples(), CASES, store=store) == result
    with pytest.raises(FileError, match="cannot write"):
        measure({"f": fusion}, make_samples(), CASES, store=tmp_path / "none" / "x")


# ------------------------------------------------------------------------------------ refused


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (np.full((60, 3), np.nan), NonFiniteInput),
        (np.ones((60, 3)), SpecError),
        (np.full((59, 3), 1 / 3), ShapeError),
        (np.full((60, 2), 1 / 2), ShapeError),
        (Answer(probabilities=np.full((60, 3), 1 / 3), weights=np.ones((60, 2))), ShapeError),
        (Answer(probabilities=np.full((60, 3), 1 / 3), unimodal=np.ones((60, 3, 2))), ShapeError),
        (Answer(probabilities=np.full((60, 3), 1 / 3), unimodal=np.ones((60, 3, 3))), SpecError),
    ],
)
def test_bad_answers_are_refused(answer: Any, error: type[DMSError]) -> None:
    with pytest.raises(error):
        measure({"bad": lambda *_: answer}, make_samples(), ())


def test_bad_calls_are_refused(result: Result) -> None:
    samples = make_samples()
    for name in ("static", "mask oracle", "a alone"):
        with pytest.raises(SpecError, match="baselines"):
            measure({name: fusion}, samples, ())
    with pytest.raises(SpecError, match="none"):
        measure({}, samples, ())
    with pytest.raises(SpecError, match="twice"):
        measure({"f": fusion}, samples, CASES[:1] * 2)
    with pytest.raises(UnknownName, match="fusion"):
        result.mean("accuracy", "fusio", "clean")


# ------------------------------------------------------------------------------------- results


def test_results_merge_and_come_back(result: Result) -> None:
    parts = [measure({"fusion": fusion}, make_samples(), sweep(("gaussian",), seeds=(s,)))
             for s in (3, 4)]  # fmt: skip
    both = merge(parts)
    assert both.seeds == (3, 4)
    condition = ("gaussian", 0.5, "half")
    assert both.mean("accuracy", "fusion", *condition) == result.mean(
        "accuracy", "fusion", *condition
    )
    assert len(both.values("accuracy", "fusion", "clean")) == 2
    assert Result.from_dict(json.loads(json.dumps(both.to_dict()))) == both
    with pytest.raises(SpecError, match="same cases"):
        merge(parts[:1] * 2)
    with pytest.raises(SpecError, match="methods"):
        merge([result, measure({"g": fusion}, make_samples(), ())])
    with pytest.raises(SpecError, match="nothing"):
        merge([])


def test_the_summary_is_the_mean_over_the_seeds(result: Result) -> None:
    (row,) = [
        row
        for row in result.summary()
        if (row["corruption"], row["severity"], row["method"]) == ("gaussian", 1.0, "fusion")
    ]
    values = result.values("accuracy", "fusion", "gaussian", 1.0)
    assert row["seeds"] == 2 == len(values)
    assert row["accuracy"] == pytest.approx(np.mean(values))
    assert row["accuracy_deviation"] == pytest.approx(np.std(values, ddof=1))


# ------------------------------------------------------------------------------------ the report


def test_the_report_is_whole_and_needs_no_network(tmp_path: Path, sensors: Result) -> None:
    pytest.importorskip("matplotlib")
    cases = sweep(("gaussian", "scaling", "zeroed"), seeds=(0, 1))
    result = measure({"<f>": fusion}, make_samples(missing=0), cases)
    write_report(result, tmp_path / "out", title="A & B")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == sorted(FILES)
    page = (tmp_path / "out" / "robustness.html").read_text(encoding="utf-8")
    assert page.count("data:image/svg+xml;base64,") == 4
    assert "http" not in page and "<f>" not in page and "&lt;f&gt;" in page
    assert "<h1>A &amp; B</h1>" in page
    assert read_result(tmp_path / "out" / "robustness.json") == result
    with (tmp_path / "out" / "robustness.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(list(result.rows()))
    for row in rows:
        value = result.mean(
            row["metric"], row["method"], row["corruption"], float(row["severity"]), row["pattern"]
        )
        assert (row["value"] == "") == (value is None)
    before = {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()}
    with pytest.raises(FileError, match="exists already"):
        write_report(result, tmp_path / "out")
    write_report(result, tmp_path / "out", title="A & B", overwrite=True)
    assert {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()} == before
    write_report(sensors, tmp_path / "sensors")
    assert "Sensor failure" in (tmp_path / "sensors" / "robustness.html").read_text("utf-8")


def test_many_methods_and_no_modalities_can_be_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    methods = {f"method {i}": plain for i in range(9)}
    result = measure(methods, make_samples(), sweep(("gaussian", "zeroed"), seeds=(0,)))
    write_report(result, tmp_path / "out")
    write_report(measure({"f": fusion}, make_samples(), ()), tmp_path / "clean")


def test_few_samples_are_drawn_without_lines_of_reliability(tmp_path: Path) -> None:
    """And the layout holds: matplotlib's warning would be an error here."""
    pytest.importorskip("matplotlib")
    few = make_samples(6)
    write_report(measure({"f": fusion}, few, sweep(("gaussian",), seeds=(0,))), tmp_path / "out")
    page = (tmp_path / "out" / "robustness.html").read_text(encoding="utf-8")
    assert "no bin of confidence has 10 samples" in page


def test_findings_follow_from_the_numbers(result: Result) -> None:
    texts = findings(result)
    assert len(texts) == 6
    better = [
        condition
        for condition in result.conditions
        if (gain := result.gain("fusion", "static", condition)) and gain[0] > 3 * gain[1]
    ]
    assert ("better in" in texts[0]) == bool(better)
    assert texts[2].startswith("fusion trusts what is corrupted less")
    own = result.mean("accuracy_where_present", "a alone", "clean")
    assert own is not None
    assert f"a alone is right in {100 * own:.1f} %" in texts[5]
    assert "dms fit measures the first number" in texts[5]
    complete = measure({"fusion": fusion}, make_samples(missing=0.0), CASES[:1])
    assert not any("dms fit" in text for text in findings(complete))


def test_read_result_refuses_what_is_none(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    for content, error in ((b"[]", FileError), (b"{", FileError), (b"{}", ArtifactError)):
        path.write_bytes(content)
        with pytest.raises(error):
            read_result(path)
    with pytest.raises(FileError):
        read_result(tmp_path / "none.json")


def test_a_card_keeps_what_else_it_says(tmp_path: Path, result: Result) -> None:
    card = tmp_path / "README.md"
    card.write_text("# Mine\n", encoding="utf-8")
    put_in_card(card, section(result))
    once = card.read_text(encoding="utf-8")
    assert once.startswith("# Mine\n\n<!-- dms robustness: begin -->\n## Robustness")
    card.write_text(once + "\nAfterwards.\n", encoding="utf-8")
    put_in_card(card, section(result))
    assert card.read_text(encoding="utf-8") == once + "\nAfterwards.\n"
    card.write_text(once.replace("<!-- dms robustness: end -->", ""), encoding="utf-8")
    with pytest.raises(FileError, match="not its end"):
        put_in_card(card, section(result))
    with pytest.raises(FileError):
        put_in_card(tmp_path / "none.md", "x")


@pytest.mark.parametrize(
    ("heights", "wanted"),
    [
        ([1.0, 5.0, 9.0], [1, 5, 9]),
        ([4.0, 4.0, 4.0], [3, 4, 5]),
        ([9.9, 9.9], [9, 10]),
        ([0.0, 0.0, 0.1], [0, 1, 2]),
        ([], []),
    ],
)
def test_labels_are_spread(heights: list[float], wanted: list[float]) -> None:
    from dms_spec.robustness.plots import spread

    assert spread(heights, 1.0, 0.0, 10.0) == pytest.approx(wanted)
