"""The study's own parts: skewed versions, conditions, comparisons in pairs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dms_spec.embeddings.table import Table
from dms_spec.robustness.metrics import paired_difference

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks" / "robustness"


@pytest.fixture(scope="module")
def study() -> Iterator[dict[str, Any]]:
    """The modules of the study, which are scripts beside each other and no package."""
    names = ("protocol", "pairs")
    sys.path.insert(0, str(FOLDER))
    try:
        yield {name: __import__(name) for name in names}
    finally:
        sys.path.remove(str(FOLDER))
        for name in names:
            del sys.modules[name]


def make_table(seed: int, classes: int, rows: int, names: tuple[str, ...] = ("a", "b")) -> Table:
    random = np.random.default_rng(seed)
    embeddings = {name: random.normal(size=(rows, 4)).astype(np.float32) for name in names}
    labels = random.permutation(np.arange(rows) % classes)
    return Table(embeddings=embeddings, present=np.ones((rows, len(names)), bool), labels=labels)


@given(
    seed=st.integers(0, 1000),
    classes=st.integers(2, 10),
    shares=st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)),
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_half_of_the_classes_keep_a_share(
    study: dict[str, Any], seed: int, classes: int, shares: tuple[float, float]
) -> None:
    table = make_table(seed, classes, 400)
    assert table.labels is not None
    split = study["protocol"].split
    whole = split("x", table, seed).table
    before: dict[str, set[int]] = {"train": set(), "test": set()}
    for share in sorted(shares):
        if share == 1:
            continue
        own = split("x", table, seed, share).table
        counts = np.zeros((2, 2, classes), dtype=int)
        for part, (which, least) in enumerate((("train", 2), ("test", 1))):
            rows, all_rows = getattr(own, which), getattr(whole, which)
            assert set(rows) <= set(all_rows)
            assert before[which] <= set(rows)
            before[which] = set(rows)
            for i, taken in enumerate((rows, all_rows)):
                counts[part, i] = np.bincount(table.labels[taken], minlength=classes)
            few = np.minimum(np.maximum(np.rint(share * counts[part, 1]), least), counts[part, 1])
            kept = counts[part, 0] == counts[part, 1]
            assert (kept | (counts[part, 0] == few)).all()
            assert (~kept).sum() <= classes // 2


def test_a_split_is_the_same_again_and_scaled_by_its_training_rows(study: dict[str, Any]) -> None:
    table = make_table(3, 4, 100)
    one, two = (study["protocol"].split("x", table, 1, 0.2) for _ in range(2))
    assert np.array_equal(one.table.train, two.table.train)
    assert np.array_equal(one.table.test, two.table.test)
    for x in one.training.embeddings.values():
        assert np.allclose(x.min(axis=0), 0) and np.allclose(x.max(axis=0), 1)
    assert not np.array_equal(one.table.test, np.sort(one.table.test))


def test_every_condition_hits_half_of_the_modalities_and_nothing_else(
    study: dict[str, Any],
) -> None:
    protocol = study["protocol"]
    own = protocol.split("x", make_table(0, 3, 150, ("a", "b", "c", "d")), 0)
    clean = protocol.trial(own, "clean")
    assert not clean.hit.any()
    for condition in (*protocol.CONDITIONS[1:], *protocol.OTHERS, protocol.TOLD):
        got, again = (protocol.trial(own, condition) for _ in range(2))
        assert np.array_equal(
            got.present, ~got.hit if condition == protocol.TOLD else clean.present
        )
        if condition != "conflict":
            assert (got.hit.sum(axis=1) == 2).all()
        for m, (name, x) in enumerate(clean.inputs.items()):
            assert np.array_equal(got.inputs[name], again.inputs[name])
            assert np.array_equal(got.inputs[name][~got.hit[:, m]], x[~got.hit[:, m]])
            assert (got.inputs[name] != x).any()


@given(right=st.lists(st.booleans(), min_size=1, max_size=40))
def test_right_and_wrong_come_back(study: dict[str, Any], right: list[bool]) -> None:
    packed, unpacked = study["pairs"].packed, study["pairs"].unpacked
    assert unpacked(packed(np.array(right)), len(right)).tolist() == right


def test_robust_is_compared_on_the_seeds_that_both_have(study: dict[str, Any]) -> None:
    random = np.random.default_rng(0)
    tested = {("x", "clean", seed): random.permutation(30)[:12] for seed in range(3)}
    own, other = random.random((2, 3, 12)) < 0.6
    pairs = study["pairs"]
    right = {
        ("x", method, "clean", seed): pairs.packed(which[seed])
        for method, which, seeds in (("robust", own, 3), ("static", other, 3), ("late", other, 1))
        for seed in range(seeds)
    }
    fields, found = pairs.compare(right, tested)
    rows = {pair[2]: dict(zip(fields, pair, strict=True)) for pair in found}
    assert set(rows) == {"static", "late"}
    for rival, seeds in (("static", 3), ("late", 1)):
        wanted = paired_difference(
            own[:seeds].ravel(),
            other[:seeds].ravel(),
            np.concatenate([tested["x", "clean", seed] for seed in range(seeds)]),
            np.repeat(np.arange(seeds), 12),
        )
        got = rows[rival]["difference"], rows[rival]["error"]
        assert (rows[rival]["seeds"], rows[rival]["trials"]) == (seeds, 12 * seeds)
        assert got == pytest.approx([100 * value for value in wanted], abs=1e-3)


def test_what_is_quoted_is_whole() -> None:
    """Every set that is quoted says over how many seeds, and whether it was looked at."""
    quoted = json.loads((FOLDER / "peers.json").read_text(encoding="utf-8"))
    looked_at = json.loads((FOLDER / "looked_at.json").read_text(encoding="utf-8"))
    assert set(quoted["sets"]) == set(quoted["seeds"]) == set(looked_at["sets"])
    for peers in quoted["sets"].values():
        assert set(peers) <= set(quoted["methods"])
