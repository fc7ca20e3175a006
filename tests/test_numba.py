"""The compiled primitives compute the plain ones, whatever the memory, the values, the threads."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import array_api_compat.numpy as xp
import in_one_read
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("numba")

from dms_numba import primitives, threads
from dms_spec import ModalityBatch, SchedulerSpec
from dms_spec.engine.pipeline import compute
from dms_spec.engine.resolve import resolve
from dms_spec.engine.scheduler import compute_in_blocks
from dms_spec.equations import primitives as plain
from dms_spec.plugins import get_backend

SHAPES = st.tuples(*(st.integers(1, n) for n in (18, 5, 3, 70)))


def drawn(shape: tuple[int, ...], dtype: str, seed: int) -> np.ndarray:
    """Logits of all sizes: far apart, offset by 1e4, -inf in some places."""
    random = np.random.default_rng(seed)
    x = random.normal(size=shape) * 10.0 ** random.integers(-3, 3, (*shape[:-1], 1))
    x += random.choice([0.0, 1e4, -1e4], (*shape[:-1], 1))
    if shape[-1] > 1:
        x[..., 1:][random.random(shape)[..., 1:] < 0.1] = -np.inf
    return x.astype(dtype)


def off(found: np.ndarray, exact: np.ndarray) -> float:
    """The largest error in eps of the results' own size, or of 1 where they are smaller."""
    return float(np.max(np.abs(found - exact) / np.maximum(np.abs(exact), 1.0))) / float(
        np.finfo(found.dtype).eps
    )


@given(SHAPES, st.sampled_from(["f4", "f8"]), st.integers(0, 999))
@settings(max_examples=60, deadline=None)
def test_values_are_those_of_the_plain_forms(shape: tuple[int, ...], dtype: str, seed: int) -> None:
    x = drawn(shape, dtype, seed)
    exact = x.astype(np.longdouble)
    assert off(primitives.softmax(x), plain.softmax(xp, exact)) < 8
    assert off(primitives.variance_over_passes(x), plain.variance_over_passes(xp, exact)) < 8
    wide = get_backend("numpy").namespace("cpu")
    found = primitives.informed(x)
    size = 1 + np.log(shape[-1]) + np.log(shape[0])
    assert off(found, plain.mutual_information(wide, exact)) < 8 * size and (found >= 0).all()
    left = np.where(np.isinf(x), 0, x / 1e4).astype(dtype)
    left[0, 0] = 0
    right = left[::-1]
    found = primitives.cosine(left, right)
    assert off(found, plain.cosine(xp, left.astype(np.longdouble), right.astype(np.longdouble))) < 8
    # An entropy is a difference of parts as large as log C.
    assert off(primitives.entropy(x), plain.entropy(xp, exact)) < 8 * (1 + np.log(shape[-1]))


@given(
    st.tuples(*(st.integers(1, n) for n in (4, 5, 70))),
    st.sampled_from([0.0, 1e-44, 1e-39, 1e-30, 1.0, 1e30]),
    st.integers(0, 999),
)
@settings(max_examples=60, deadline=None)
def test_alignment_is_that_of_the_plain_form(
    shape: tuple[int, ...], size: float, seed: int
) -> None:
    """Whatever size the features have: numbers below the normal ones have a direction as well."""
    random = np.random.default_rng(seed)
    features = (random.normal(size=shape) * size).astype("f4")
    ns = get_backend("numpy").namespace("cpu")
    np.testing.assert_allclose(
        primitives.alignment(ns, features), plain.alignment(ns, features), atol=2e-6
    )


@given(SHAPES, st.sampled_from(["f4", "f8"]), st.integers(0, 999))
@settings(max_examples=60, deadline=None)
def test_what_is_usable_is_found(shape: tuple[int, ...], dtype: str, seed: int) -> None:
    random = np.random.default_rng(seed)
    values = [0.0, -0.0, 1.0, np.finfo(dtype).max, np.finfo(dtype).smallest_subnormal]
    odd = random.choice([np.nan, -np.nan, np.inf, -np.inf], shape)
    passes = np.where(random.random(shape) < 0.1, odd, random.choice(values, shape)).astype(dtype)
    passes[random.random(shape[:-1]) < 0.1] = -np.inf
    logits = passes[0]
    features = logits[..., ::-1]
    for given_ in (
        {"features": features},
        {"logits": logits},
        {"features": features, "logits": logits, "mc_logits": passes},
    ):
        np.testing.assert_array_equal(primitives.usable(**given_), plain.usable(xp, **given_))


def raw(shape: tuple[int, ...], dtype: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Logits as they come, with NaN, Inf and rows of nothing but -Inf; and a mask."""
    random = np.random.default_rng(seed)
    x = drawn(shape, dtype, seed)
    bad = random.random(shape[:-1]) < 0.2
    x[bad, random.integers(shape[-1])] = random.choice([np.nan, np.inf, -np.inf], bad.sum())
    x[random.random(shape[:-1]) < 0.1] = -np.inf
    return x, random.random(shape[1:3]) < 0.7


@given(SHAPES, st.sampled_from(["f4", "f8"]), st.integers(0, 999), st.booleans())
@settings(max_examples=60, deadline=None)
def test_statistics_tell_what_is_usable(
    shape: tuple[int, ...], dtype: str, seed: int, masked: bool
) -> None:
    """Exactly 0 where a row is not, whatever is in it; elsewhere as if it had been cleaned."""
    x, mask = raw(shape, dtype, seed)
    ns = get_backend("numpy").namespace("cpu")
    features = np.random.default_rng(seed).normal(size=x.shape[1:]).astype(dtype)
    features[~np.isfinite(x[0]) & (x[0] != -np.inf)] = np.nan
    arrays = {"entropy": x[0], "alignment": features}
    arrays |= dict.fromkeys(("variance_over_passes", "mutual_information"), x)
    for name, array in arrays.items():
        before = array.copy()
        value, ok = primitives.one_read(name)(array, mask if masked else None, array.dtype)
        exact, usable = in_one_read.statistic(ns, name, array, mask if masked else None)
        np.testing.assert_array_equal(ok, usable)
        assert not value[~ok].any() and np.array_equal(array, before, equal_nan=True)
        assert off(value, exact) < 8 * (1 + np.log(shape[-1]))


@given(SHAPES, st.sampled_from(["f4", "f8"]), st.integers(0, 999))
@settings(max_examples=60, deadline=None)
def test_what_is_absent_is_weighed_by_0(shape: tuple[int, ...], dtype: str, seed: int) -> None:
    x, active = raw(shape, dtype, seed)
    features = np.where(active[..., None] & ~np.isfinite(x[0]), 0.0, x[0]).astype(dtype)
    scores = np.where(active, drawn(active.shape, dtype, seed), np.nan).astype(dtype)
    scores[active & ~np.isfinite(scores)] = 0.0
    weights, fused = primitives.weigh(features, scores, active)
    ns = get_backend("numpy").namespace("cpu")
    exact, total = in_one_read.weigh(ns, features.astype("f8"), scores.astype("f8"), active)
    assert not weights[~active].any()
    # A weight is off by as much as its score is rounded.
    span = np.where(active, scores, -np.inf).max(axis=1, keepdims=True, initial=-1e30)
    far = 1 + np.where(exact > 0, np.abs(np.where(active, scores, span) - span), 0.0)
    eps = 8 * np.finfo(dtype).eps
    assert (np.abs(weights - exact) <= eps * exact * far + 1e-37).all()
    size = (np.abs(ns.select(active, features)) * (exact * far)[..., None]).sum(axis=1)
    assert (np.abs(fused - total) <= eps * size + 1e-37).all()


def test_a_schedule_looks_at_no_array_twice() -> None:
    """What signals read of an array tells what is usable, and no clean copy is made."""

    def select(mask: np.ndarray, values: np.ndarray) -> np.ndarray:
        assert values.ndim == 2, "an array of the batch was copied"
        return np.where(mask, values, 0)

    spec, random = SchedulerSpec.preset("paper", ("a", "b", "c")), np.random.default_rng(0)
    sizes = {"features": (9, 3, 5), "logits": (9, 3, 7), "mc_logits": (4, 9, 3, 7)}
    arrays = {name: random.normal(size=size).astype("f4") for name, size in sizes.items()}
    for k, array in enumerate(arrays.values()):
        array[..., k, 1, :] = np.nan
    batch = ModalityBatch(**arrays, present=random.random((9, 3)) < 0.7)
    numba = get_backend("numba").namespace("cpu")
    seen = compute(replace(numba, usable=None, select=select), resolve(spec), batch)
    exact = get_backend("numpy").scheduler(spec)(batch)
    np.testing.assert_array_equal(seen.active, exact.active)
    np.testing.assert_allclose(seen.fused, exact.fused, atol=1e-6)
    np.testing.assert_allclose(seen.scores, exact.scores, atol=1e-5)


@pytest.mark.parametrize(
    "rows", [slice(None), slice(3, 40), slice(40, 3, -1), slice(None, None, 3)]
)
def test_any_memory_gives_the_same_bits(rows: slice) -> None:
    x = drawn((4, 50, 3, 37), "f4", 0)
    views = (x[:, rows], x[::-1, rows], x[:, rows, ::-1, ::-2], np.asfortranarray(x)[:, rows])
    for view in views:
        copy = np.array(view, order="C")
        copy.flags.writeable = False
        for function in (primitives.variance_over_passes, primitives.entropy, primitives.softmax):
            np.testing.assert_array_equal(function(view), function(copy))
            assert view.flags.writeable


def test_bits_do_not_depend_on_where_results_lie() -> None:
    """Just behind the input, a compiler would leave a loop that reads and writes as it is."""
    x = drawn((40, 37), "f4", 0)
    arena = np.empty(3 * x.size, "f4")
    results = []
    for apart in range(0, 70, 3):
        given_, out = arena[: x.size], arena[x.size + apart : 2 * x.size + apart]
        given_[:] = x.reshape(-1)
        primitives.of_logits.softmax(primitives._read(given_), out, 37, 0, 40)
        results.append(out.copy())
    assert all(np.array_equal(results[0], other) for other in results)


def test_bits_do_not_depend_on_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads share the rows of a loop, and the blocks of a batch."""
    x = drawn((5, 301, 3, 200), "f4", 1)
    random, spec = np.random.default_rng(0), SchedulerSpec.preset("paper", ("a", "b", "c"))
    features = random.normal(size=(301, 3, 40)).astype("f4")
    batch = ModalityBatch(features=features, logits=x[0], mc_logits=x)
    # Seven blocks: passes do not count.
    ns = replace(get_backend("numba").namespace("cpu"), entries_at_once=1 << 15)
    results = []
    for count in (1, 2, 7):
        monkeypatch.setattr(threads, "threads", lambda count=count: count)
        threads._pool.cache_clear()
        schedule = compute_in_blocks(ns, resolve(spec), batch)
        results.append([primitives.variance_over_passes(x), primitives.usable(mc_logits=x)])
        results[-1] += schedule.arrays().values()
    threads._pool.cache_clear()
    for other in results[1:]:
        for one, two in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(one, two)


def test_what_fails_in_a_block_fails_in_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "threads", lambda: 2)
    with np.errstate(all="raise"):  # goes along to other threads
        assert list(threads.on_blocks(lambda k: np.geterr()["over"], range(4))) == ["raise"] * 4
    with pytest.raises(ZeroDivisionError):
        list(threads.on_blocks(lambda k: 1 // k, range(-2, 3)))


def test_callers_in_several_threads_do_not_disturb_each_other() -> None:
    batches = [drawn((5, 200, 3, 200), "f4", seed) for seed in range(6)]
    alone = [primitives.variance_over_passes(x) for x in batches]
    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(primitives.variance_over_passes, batches))
    for one, two in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one, two)


def _in_child(x: np.ndarray) -> np.ndarray:
    return primitives.variance_over_passes(x)


# Python 3.12 warns of any fork beside threads; this is the test that ours survives one.
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="needs fork")
def test_a_forked_process_goes_on() -> None:
    x = drawn((5, 301, 3, 200), "f4", 1)
    before = primitives.variance_over_passes(x)
    with multiprocessing.get_context("fork").Pool(1) as pool:
        after = pool.apply_async(_in_child, (x,)).get(timeout=60)
    np.testing.assert_array_equal(before, after)


def test_numbers_beside_a_row_are_neither_read_nor_written() -> None:
    x = drawn((3, 37, 1, 21), "f4", 0)
    around = np.full(x.size + 200, np.nan, "f4")
    inside = around[100 : 100 + x.size].reshape(x.shape)
    inside[:] = x
    out = np.full(around.shape, 7, "f4")
    primitives.of_logits.softmax(primitives._read(inside), out[100:-100], 21, 0, x.size // 21)
    np.testing.assert_array_equal(out[100:-100].reshape(x.shape), primitives.softmax(x))
    assert (out[:100] == 7).all() and (out[-100:] == 7).all()
    features = inside[0] / 1e4
    features[np.isinf(features)] = 0
    inside[0] = features
    for found, alone in (
        (primitives.entropy(inside[1:]), primitives.entropy(x[1:])),
        (primitives.variance_over_passes(inside[1:]), primitives.variance_over_passes(x[1:])),
        (primitives.aligned(inside[0])[0], primitives.aligned(features)[0]),
    ):
        np.testing.assert_array_equal(found, alone)


_ON_ANOTHER_MACHINE = """
import numpy as np
from dms_numba import primitives, threads
x = np.load("x.npy")
np.savez("out.npz", primitives.variance_over_passes(x), primitives.softmax(x[0]))
"""


@pytest.mark.parametrize("features", ["+avx,+avx2,+fma", ""])
def test_machines_with_shorter_registers_give_the_same(features: str, tmp_path: Path) -> None:
    x = drawn((4, 20, 1, 150), "f4", 3)
    np.save(tmp_path / "x.npy", x)
    machine = {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": features}
    subprocess.run(
        [sys.executable, "-c", _ON_ANOTHER_MACHINE],
        check=True,
        cwd=tmp_path,
        env=os.environ | machine,
    )
    variance, shares = np.load(tmp_path / "out.npz").values()
    np.testing.assert_allclose(variance, primitives.variance_over_passes(x), rtol=2e-6)
    np.testing.assert_allclose(shares, primitives.softmax(x[0]), rtol=1e-6)


@given(SHAPES, st.sampled_from(["f4", "f8"]), st.integers(0, 999))
@settings(max_examples=30, deadline=None)
def test_a_result_is_nan_exactly_where_its_row_is_not_usable(
    shape: tuple[int, ...], dtype: str, seed: int
) -> None:
    x, _ = raw(shape, dtype, seed)
    usable = plain.usable(xp, mc_logits=x[:1])
    np.testing.assert_array_equal(~np.isnan(primitives.entropy(x[0])), usable)
    np.testing.assert_array_equal(np.isnan(primitives.softmax(x[0])).any(axis=-1), ~usable)
    for found in (primitives.variance_over_passes(x), primitives.informed(x)):
        np.testing.assert_array_equal(~np.isnan(found), plain.usable(xp, mc_logits=x))
        assert not np.isinf(found).any()


def test_nan_stays_nan() -> None:
    x = drawn((2, 3, 2, 40), "f4", 0)
    x[0, 1, 1, 7] = np.nan
    assert np.isnan(primitives.softmax(x)[0, 1, 1]).all()
    assert np.isnan(primitives.entropy(x)[0, 1, 1]) and np.isnan(x).sum() == 1
    found = np.isnan(primitives.variance_over_passes(x))
    assert found[1, 1] and found.sum() == 1
