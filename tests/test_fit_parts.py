"""The parts of `dms fit`: folds, where heads start, noise, and who has seen which row."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as settings_of
from hypothesis.strategies import floats, integers, lists

from dms_spec.embeddings.calibration import fit_temperature
from dms_spec.embeddings.table import Table
from dms_spec.errors import MissingInput
from dms_spec.spec import SchedulerSpec

torch = pytest.importorskip("torch")

from dms_torch.fit import heads as heads_module  # noqa: E402
from dms_torch.fit import initialize as start_module  # noqa: E402
from dms_torch.fit.checkpoint import Checkpoint  # noqa: E402
from dms_torch.fit.corruption import corrupted, dropped, noisy, spoilt, stream  # noqa: E402
from dms_torch.fit.folds import FOLDS, NEVER_HELD, folds, rows_of, scale_of  # noqa: E402
from dms_torch.fit.heads import Heads  # noqa: E402
from dms_torch.fit.initialize import ridge_start  # noqa: E402
from dms_torch.fit.optimize import Descent, on_device  # noqa: E402
from dms_torch.fit.policy import PolicyStage  # noqa: E402
from dms_torch.fit.settings import FitSettings  # noqa: E402
from dms_torch.fit.typicality import learn_typicality  # noqa: E402

NAMES = ("image", "text")
SPEC = SchedulerSpec.preset("robust", NAMES)
SETTINGS = FitSettings(epochs=2, passes=2, batch_size=32)


def make_table(rows: int = 200) -> Table:
    """Three classes, and one more that a single row has."""
    random = np.random.Generator(np.random.Philox(3))
    labels = np.arange(rows) % 3
    labels[17] = 8
    embeddings = {
        name: (random.normal(size=(rows, 4 + m)) + labels[:, None]).astype(np.float32)
        for m, name in enumerate(NAMES)
    }
    present = random.random((rows, 2)) > 0.15
    present[~present.any(axis=1), 0] = True
    present[17] = True
    return Table(embeddings=embeddings, present=present, labels=labels)


@pytest.fixture(scope="module")
def heads() -> Heads:
    rows = rows_of(make_table(), "cpu", stream(0, "split"), crossed=True)
    return Heads(SPEC, SETTINGS, rows, shared=False)


def in_fold(heads: Heads, fold: int) -> Any:
    return heads.rows.learn.fold == fold


# ----------------------------------------------------------------------------------------- folds


@given(labels=lists(integers(0, 6), min_size=1, max_size=80), seed=integers(0, 9))
def test_folds_are_even_over_the_classes(labels: list[int], seed: int) -> None:
    known, y = np.unique(labels, return_inverse=True)
    counts = np.bincount(y)
    if counts.max() < 2:
        with pytest.raises(MissingInput, match="too few"):
            folds(y, np.random.default_rng(seed))
        return
    fold = folds(y, np.random.default_rng(seed))
    assert np.array_equal(fold, folds(y, np.random.default_rng(seed)))
    for c in range(len(known)):
        own = fold[y == c]
        if len(own) == 1:
            assert own == NEVER_HELD
        else:
            sizes = np.bincount(own, minlength=FOLDS)  # also: never below 0
            assert len(sizes) == FOLDS
            assert sizes.max() - sizes.min() <= 1
    sizes = np.bincount(fold[fold != NEVER_HELD], minlength=FOLDS)
    assert sizes[0] == sizes.max() > 0
    assert sizes.sum() == counts[counts > 1].sum()


@pytest.mark.parametrize("crossed", [True, False])
def test_what_is_learned_from_and_what_is_held_out(crossed: bool) -> None:
    table = make_table()
    table.present[5] = False
    rows = rows_of(table, "cpu", stream(0, "split"), crossed=crossed)
    assert rows.left_out == 1 and 5 not in rows.first
    assert rows.classes.tolist() == [0, 1, 2, 8]
    assert rows.prior[3] == 1 / 199
    # The row of a class that has no other teaches, and judges nothing.
    assert (rows.learn.labels == 3).sum() == 1 and not (rows.held.labels == 3).any()
    if crossed:
        assert len(rows.learn.labels) == 199 and len(rows.held.labels) == 198
        assert (rows.held.fold == 0).sum() == len(rows.first)
    else:
        assert len(rows.learn.labels) == 199 - len(rows.first)
        assert not (rows.learn.fold == 0).any()
        assert len(rows.held.labels) == len(rows.first)


def test_scaled_rows_lie_between_0_and_1() -> None:
    """The least that an input has read is 0; an input that never varies stays where it is."""
    table = make_table()
    table.embeddings["image"][:, 1] = 7.0
    rows = rows_of(table, "cpu", stream(0, "split"), crossed=True)
    for m, name in enumerate(NAMES):
        x = rows.learn.embeddings[name][rows.learn.present[:, m]]
        assert x.min() == 0 and x.max() <= 1 + 1e-6
        least = table.embeddings[name][table.present[:, m]].min(axis=0)
        assert np.array_equal(rows.scale[f"heads.{name}.scale.zero"], least)
    assert scale_of(table, np.arange(200))["heads.image.scale.unit"][1] == 1


# ---------------------------------------------------------------------------- where heads start


@pytest.mark.parametrize("width", [5, 60])  # fewer inputs than rows, and more
def test_ridge_start_solves_the_normal_equations(width: int) -> None:
    """Centred one-hot labels on inputs that are not centred, at the best penalty and scale."""
    random = np.random.Generator(np.random.Philox(width))
    y, held_y = random.integers(0, 3, 40), random.integers(0, 3, 30)
    x = random.normal(size=(40, width)) + y[:, None]
    held = random.normal(size=(30, width)) + held_y[:, None]
    learn = random.random((40, 2)) < 0.7
    held_copy = random.integers(0, 2, 30)
    tried = []
    for penalty in start_module._PENALTIES:
        weights = []
        for own in learn.T:
            a, target = x[own], np.eye(3)[y[own]]
            n = len(a)
            left = a.T @ a / n + penalty * np.eye(width)
            weights.append(np.linalg.solve(left, a.T @ (target - target.mean(axis=0)) / n))
        logits = np.stack([held[i] @ weights[copy] for i, copy in enumerate(held_copy)])
        fitted = fit_temperature(logits, held_y)
        tried.append((fitted.nll_after, np.concatenate(weights, axis=1) / fitted.temperature))
    best = min(tried, key=lambda one: one[0])[1]
    found = ridge_start(x, y, learn, 3, held, held_y, held_copy)
    assert found.shape == (width, 6)
    assert np.abs(found - best).max() < 1e-4 * np.abs(best).max()


@pytest.mark.parametrize("what", ["zeros", "nothing held out", "no row of one copy"])
def test_ridge_start_of_nothing_says_nothing(what: str) -> None:
    random = np.random.Generator(np.random.Philox(0))
    x, y = random.normal(size=(20, 4)), np.arange(20) % 2
    learn = np.ones((20, 2), dtype=bool)
    held, held_y, copy = x[:6], y[:6], np.zeros(6, np.intp)
    if what == "zeros":
        x = np.zeros_like(x)
    elif what == "nothing held out":
        held, held_y, copy = held[:0], held_y[:0], copy[:0]
    else:
        learn[:, 1] = False
    found = ridge_start(x, y, learn, 2, held, held_y, copy)
    silent = found[:, 2:] if what == "no row of one copy" else found
    assert (silent == 0).all()
    assert np.isfinite(found).all()
    assert (found == 0).all() == (what != "no row of one copy")


# ----------------------------------------------------------------------------------------- noise


@settings_of(deadline=None)
@given(seed=integers(0, 99), share=floats(0, 1), width=integers(1, 6))
def test_corruption_changes_the_rows_that_are_hit_and_no_other(
    seed: int, share: float, width: int
) -> None:
    x = torch.rand(30, width, generator=torch.Generator().manual_seed(seed))
    hit = np.random.default_rng(seed).random(30) < share
    before = x.clone()
    one, two = (spoilt(x, hit, np.random.default_rng(seed)) for _ in range(2))
    assert torch.equal(x, before) and torch.equal(one, two)
    assert torch.isfinite(one).all() and one.dtype == x.dtype
    assert torch.equal(one[~hit], x[~hit])
    if hit.sum() > 5:
        assert not torch.equal(one, x)
        assert not torch.equal(one, spoilt(x, hit, np.random.default_rng(seed + 1)))


def test_corruption_is_of_three_kinds() -> None:
    """A quarter of the hit rows hold their own values in another order; the rest hold new ones."""
    x = torch.rand(4000, 12, generator=torch.Generator().manual_seed(0))
    changed = spoilt(x, np.ones(4000, dtype=bool), np.random.default_rng(0))
    exchanged = (changed.sort().values == x.sort().values).all(dim=1)
    assert 0.2 < exchanged.float().mean() < 0.3
    most = (changed - x)[~exchanged].abs().amax(dim=1)
    assert most.min() > 0
    # Laplace noise has outliers beyond what uniform noise of the highest level can reach.
    assert 0.001 < (most > 3.0).float().mean() < 0.2


def test_half_of_the_modalities_of_some_rows_are_corrupted() -> None:
    embeddings = {name: torch.rand(5000, 3) for name in ("a", "b")}
    changed, hit = corrupted(embeddings, np.random.default_rng(0))
    assert hit.shape == (5000, 2)
    assert abs(hit.mean() - 0.3) < 0.03
    for m, name in enumerate(embeddings):
        same = (changed[name] == embeddings[name]).all(dim=1).numpy()
        assert same[~hit[:, m]].all()
        assert not same[hit[:, m]].all()


@settings_of(deadline=None)
@given(seed=integers(0, 99), share=floats(0, 1))
def test_noise_in_training_is_bounded_and_seeded(seed: int, share: float) -> None:
    x = torch.rand(400, 3, generator=torch.Generator().manual_seed(seed))
    one, two = (noisy(x, share, np.random.default_rng(seed)) for _ in range(2))
    assert torch.equal(one, two) and torch.isfinite(one).all()
    assert (one - x).abs().max() <= 0.5 + 1e-6
    changed = (one != x).any(dim=1).float().mean()
    assert abs(changed - share) < 0.12
    assert share not in (0, 1) or abs(changed - share) < 0.01


def test_dropout_keeps_the_mean() -> None:
    x = torch.ones(2000, 5)
    kept = dropped(x, 0.25, np.random.default_rng(0))
    assert kept.unique().tolist() == [0.0, pytest.approx(1 / 0.75)]
    assert abs(kept.mean() - 1) < 0.02


def test_streams_differ_by_purpose_and_key() -> None:
    keys = [(0, "heads"), (0, "heads", 1), (0, "heads", 1, 97), (0, "policy", 1), (1, "heads")]
    drawn = [stream(*key).random(3).tolist() for key in keys]
    assert drawn == [stream(*key).random(3).tolist() for key in keys]
    assert len({tuple(one) for one in drawn}) == len(keys)


# ------------------------------------------------------------------- who has seen which row


def _gradient(heads: Heads, change: Any = None) -> Any:
    """Of one step over all rows, [D, A, C], after a change to the labels that are learned from."""
    stage = heads.stages()[0]
    part = heads.rows.learn
    if change is not None:
        part = replace(part, labels=change(part.labels.clone()))
    random = np.random.Generator(np.random.Philox(1))
    parameters = {
        name: torch.from_numpy(array.copy()).requires_grad_() for name, array in stage.start.items()
    }
    stage.loss(parameters, part, random).backward()
    gradient = parameters["heads.image.classifier.weight"].grad
    return gradient.reshape(gradient.shape[0], heads.copies, -1)


@pytest.mark.parametrize("fold", range(FOLDS))
def test_the_labels_of_a_fold_move_every_copy_but_its_own(heads: Heads, fold: int) -> None:
    def poison(labels: Any) -> Any:
        own = in_fold(heads, fold)
        labels[own] = (labels[own] + 1) % 3
        return labels

    before, after = _gradient(heads), _gradient(heads, poison)
    for copy in range(heads.copies):
        same = torch.equal(before[:, copy], after[:, copy])
        assert same == (copy == fold), copy
    assert heads.copies == FOLDS + 1  # the last has seen every row


@pytest.mark.parametrize("fold", range(FOLDS))
def test_a_copy_starts_without_its_fold(
    heads: Heads, fold: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of one penalty, and but for the scale: those two alone are chosen by all rows."""
    monkeypatch.setattr(start_module, "_PENALTIES", (1e-2,))
    own = in_fold(heads, fold)
    learn = heads.rows.learn
    labels = torch.where(own, (learn.labels + 1) % 3, learn.labels)
    embeddings = {n: torch.where(own[:, None], x + 3, x) for n, x in learn.embeddings.items()}
    poisoned = replace(heads.rows, learn=replace(learn, labels=labels, embeddings=embeddings))
    starts = []
    for rows in (heads.rows, poisoned):
        start = Heads(SPEC, SETTINGS, rows, shared=False).stages()[1].start
        weight = start["heads.text.classifier.weight"].reshape(-1, heads.copies, 4)
        starts.append(weight / np.linalg.norm(weight, axis=(0, 2), keepdims=True))
    for copy in range(heads.copies):
        off = np.abs(starts[0][:, copy] - starts[1][:, copy]).max()
        assert (off < 1e-6) == (copy == fold), (copy, off)


def test_a_row_is_calibrated_by_the_copy_that_has_not_seen_it(
    heads: Heads, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each copy says its own number, whatever the row."""
    seen = []

    def spy(logits: Any, labels: Any) -> Any:
        seen.append(logits)
        return fit_temperature(logits, labels)

    monkeypatch.setattr(heads_module, "fit_temperature", spy)
    parameters = {}
    for name, x in heads.rows.learn.embeddings.items():
        numbers = torch.arange(heads.copies, dtype=torch.float32).repeat_interleave(4)
        parameters[f"heads.{name}.classifier.weight"] = torch.zeros(x.shape[1], len(numbers))
        parameters[f"heads.{name}.classifier.bias"] = numbers
    heads.calibrate(parameters)
    held = heads.rows.held
    for m, logits in enumerate(seen):
        fold = held.fold[held.present[:, m]].numpy()
        assert np.array_equal(logits, np.repeat(fold[:, None], 4, axis=1))
    assert len(seen) == 2


def _copies(heads: Heads) -> list[dict[str, Any]]:
    learned = {name: a for stage in heads.stages() for name, a in stage.start.items()}
    calibration = heads.calibrate(on_device(learned, "cpu"))
    return [on_device(own, "cpu") for own in heads.fitted(learned, calibration, passes=2)]


@pytest.mark.parametrize("fold", [0, 3])
def test_what_is_typical_is_learned_without_the_fold(heads: Heads, fold: int) -> None:
    """A place is that of the rows which its heads have seen."""
    copies, learn = _copies(heads), heads.rows.learn
    own = in_fold(heads, fold)
    embeddings = {n: torch.where(own[:, None], x + 9, x) for n, x in learn.embeddings.items()}
    poisoned = replace(heads.rows, learn=replace(learn, embeddings=embeddings))
    before, _ = learn_typicality(heads, copies)
    after, _ = learn_typicality(Heads(SPEC, SETTINGS, poisoned, shared=False), copies)
    for name in ("center", "whitening", "deviations", "prototypes"):
        key = f"signals.typicality.{name}"
        for copy in range(heads.copies):
            same = np.array_equal(before[copy][key], after[copy][key])
            assert same == (copy == fold), (name, copy)
    for name in ("band", "loss"):  # one for all copies
        key = f"signals.typicality.{name}"
        assert all(np.array_equal(one[key], before[0][key]) for one in before)


@pytest.mark.parametrize("fold", range(FOLDS))
def test_the_policy_sees_a_row_through_the_copy_that_has_not(heads: Heads, fold: int) -> None:
    """Every other copy gives NaN, and there is none in the loss."""
    copies = _copies(heads)
    places, _ = learn_typicality(heads, copies)
    broken = [
        own if k == fold else {name: torch.full_like(t, torch.nan) for name, t in own.items()}
        for k, own in enumerate(copies)
    ]
    policy = PolicyStage(heads, broken, places, {})
    stage = policy.stage()
    parameters = on_device(stage.start, "cpu")
    random = np.random.default_rng(0)
    used = 0
    for batch in stage.batches(random):
        (own,) = batch.fold.unique().tolist()  # of one fold each
        assert own not in (0, NEVER_HELD)
        assert _sees(policy, parameters, batch, random) == (own == fold)
        used += own == fold
    assert (used > 0) == (fold != 0)
    # The first fold is the one that says when to stop.
    first = heads.rows.held.of_fold(0)
    assert _sees(policy, parameters, first, random) == (fold == 0)


def _sees(policy: PolicyStage, parameters: Any, part: Any, random: Any) -> bool:
    """Whether the heads that the policy looked through had numbers: else nothing is active."""
    return float(policy._fused_loss(parameters, part, random)) > 0


def test_every_row_that_the_policy_learns_from_is_met_once_an_epoch(heads: Heads) -> None:
    copies = _copies(heads)
    policy = PolicyStage(heads, copies, learn_typicality(heads, copies)[0], {})
    batches = list(policy.stage().batches(np.random.default_rng(0)))
    assert all(len(batch.labels) <= SETTINGS.batch_size for batch in batches)
    met = sum(len(batch.labels) for batch in batches)
    assert met == int((heads.rows.learn.fold > 0).sum())


@pytest.mark.clause("DMS-L-009")
@pytest.mark.parametrize("rate", [1e-3, 1e-2, 1e2])
def test_the_start_of_the_policy_is_a_candidate(heads: Heads, rate: float) -> None:
    """Under the corruption that it is held to, the result is never worse than the rule."""
    copies = _copies(heads)
    policy = PolicyStage(heads, copies, learn_typicality(heads, copies)[0], {})
    stage = replace(policy.stage(), rate=rate)
    rule = float(stage.held_out(on_device(stage.start, "cpu")))
    assert rule == float(stage.held_out(on_device(stage.start, "cpu")))  # the same every time
    descent = Descent(replace(SETTINGS, epochs=4), "cpu", Checkpoint(None, ""))
    found = float(stage.held_out(on_device(descent.learn(stage), "cpu")))
    assert found == descent.history["policy"]["held_out_loss"]
    assert found <= rule
    assert (found < rule) == (descent.history["policy"]["best_epoch"] > 0)
    assert (found < rule) == (rate < 1)
