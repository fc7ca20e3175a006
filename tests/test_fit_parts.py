"""The parts of `dms fit`: folds, where heads start, noise, and who has seen which row."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as settings_of
from hypothesis.strategies import floats, integers, lists, tuples

from dms_spec.embeddings.calibration import fit_temperature
from dms_spec.embeddings.table import Table
from dms_spec.errors import MissingInput
from dms_spec.spec import SchedulerSpec

torch = pytest.importorskip("torch")

from dms_spec.embeddings.settings import FitSettings  # noqa: E402
from dms_torch.fit import initialize as initialize_module  # noqa: E402
from dms_torch.fit import regression as regression_module  # noqa: E402
from dms_torch.fit.checkpoint import Checkpoint  # noqa: E402
from dms_torch.fit.corruption import corrupted, corrupted_rows, dropped, noisy, stream  # noqa: E402
from dms_torch.fit.folds import FOLDS, IN_NO_FOLD, folds, rows_of  # noqa: E402
from dms_torch.fit.heads import Heads  # noqa: E402
from dms_torch.fit.initialize import ridge_start  # noqa: E402
from dms_torch.fit.logistic import LogisticPath  # noqa: E402
from dms_torch.fit.optimize import Descent, on_device  # noqa: E402
from dms_torch.fit.policy import PolicyStage  # noqa: E402
from dms_torch.fit.regression import joint_regression, regression  # noqa: E402
from dms_torch.fit.typicality import learn_typicality  # noqa: E402

NAMES = ("image", "text")
SPEC = SchedulerSpec(
    modalities=NAMES,
    policy="monotone",
    signals={"confidence": {"normalize": True}, "typicality": {}},
    coefficients={"confidence": 0.5, "typicality": 1.0},
    fusion="logit",
)
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
            assert own == IN_NO_FOLD
        else:
            sizes = np.bincount(own, minlength=FOLDS)  # also: never below 0
            assert len(sizes) == FOLDS
            assert sizes.max() - sizes.min() <= 1
    sizes = np.bincount(fold[fold != IN_NO_FOLD], minlength=FOLDS)
    assert sizes[0] == sizes.max() > 0
    assert sizes.sum() == counts[counts > 1].sum()


@pytest.mark.parametrize("crossed", [True, False])
def test_what_is_learned_from_and_what_judges(crossed: bool) -> None:
    table = make_table()
    table.present[5] = False
    rows = rows_of(table, "cpu", stream(0, "split"), crossed=crossed)
    assert rows.notes == ("1 training rows have nothing present; they are left out",)
    assert 5 not in rows.first
    assert rows.classes.tolist() == [0, 1, 2, 8]
    assert rows.prior[3] == 1 / 199
    # The row of a class that has no other teaches, and judges nothing.
    assert (rows.learn.labels == 3).sum() == 1 and not (rows.validation.labels == 3).any()
    if crossed:
        assert len(rows.learn.labels) == 199 and len(rows.validation.labels) == 198
        assert (rows.validation.fold == 0).sum() == len(rows.first)
    else:
        assert len(rows.learn.labels) == 199 - len(rows.first)
        assert not (rows.learn.fold == 0).any()
        assert len(rows.validation.labels) == len(rows.first)


def test_scaled_rows_lie_between_0_and_1() -> None:
    """The least that an input has read is 0; an input that never varies stays where it is."""
    table = make_table()
    table.embeddings["image"][:, 1] = 7.0
    rows = rows_of(table, "cpu", stream(0, "split"), crossed=True)
    for m, name in enumerate(NAMES):
        x = rows.learn.embeddings[name][rows.learn.present[:, m]]
        assert x.min() == 0 and x.max() <= 1 + 1e-6
        least = table.embeddings[name][table.present[:, m]].min(axis=0)
        assert np.array_equal(rows.scale[name].zero, least)
    assert rows.scale["image"].unit[1] == 1


@given(
    rows=lists(tuples(integers(0, 11), integers(0, 2)), min_size=2, max_size=60),
    seed=integers(0, 9),
)
def test_a_group_is_in_one_fold(rows: list[tuple[int, int]], seed: int) -> None:
    groups, labels = (np.array(column) for column in zip(*rows, strict=True))
    y = np.unique(labels, return_inverse=True)[1]
    shared = [c for c in np.unique(y) if len(np.unique(groups[y == c])) > 1]
    alone = {g for c in np.unique(y) if c not in shared for g in groups[y == c]}
    if set(groups) <= alone:
        with pytest.raises(MissingInput, match="two groups"):
            folds(y, np.random.default_rng(seed), groups)
        return
    fold = folds(y, np.random.default_rng(seed), groups)
    for group in np.unique(groups):
        own = np.unique(fold[groups == group])
        assert len(own) == 1
        # A class that one group has to itself is taught by it, and judged by nobody.
        assert (own[0] == IN_NO_FOLD) == (group in alone)
    sizes = np.bincount(fold[fold >= 0], minlength=FOLDS)
    assert sizes[0] == sizes.max() > 0


def test_folds_of_groups_are_even_over_the_classes() -> None:
    random = np.random.default_rng(0)
    groups = np.repeat(np.arange(60), 5)
    labels = np.repeat(random.integers(0, 3, 60), 5)
    fold = folds(labels, random, groups)
    for c in range(3):
        sizes = np.bincount(fold[labels == c], minlength=FOLDS)
        assert sizes.max() - sizes.min() <= 5


def test_validation_rows_judge_and_are_not_learned_from() -> None:
    table = replace(make_table(), validation=np.arange(0, 200, 4))
    assert table.labels is not None
    table.labels[4] = 99  # no training row has it
    rows = rows_of(table, "cpu", stream(0, "split"), crossed=True)
    assert not rows.crossed and rows.copies == 1
    assert len(rows.learn.labels) == 150 and (rows.learn.fold == IN_NO_FOLD).all()
    assert len(rows.validation.labels) == 49 and (rows.validation.fold == 0).all()
    assert [note for note in rows.notes if "no training row has (99)" in note]
    changed = {name: x.copy() for name, x in table.embeddings.items()}
    for x in changed.values():
        x[table.validation] = 5.0
    other = rows_of(replace(table, embeddings=changed), "cpu", stream(0, "split"), crossed=True)
    assert all(torch.equal(x, other.learn.embeddings[n]) for n, x in rows.learn.embeddings.items())


def test_weights_count_rows_and_classes() -> None:
    """A row of weight 2 is two rows; balanced, all classes are as frequent."""
    table = make_table()
    weight = np.where(np.arange(200) % 2, 2.0, 1.0)
    rows = rows_of(replace(table, sample_weight=weight), "cpu", stream(0, "split"), crossed=True)
    assert float(rows.learn.weight.mean()) == pytest.approx(1.0)
    assert float(rows.learn.weight[1] / rows.learn.weight[0]) == pytest.approx(2.0)
    even = rows_of(table, "cpu", stream(0, "split"), crossed=True, balanced=True)
    assert even.prior == pytest.approx(np.full(4, 0.25))
    _, record = regression("image", even, SETTINGS)
    assert record["converged"]


def test_a_modality_of_one_row_is_refused() -> None:
    table = make_table()
    table.present[:, 1] = np.arange(200) == 3
    with pytest.raises(MissingInput, match="too few") as error:
        rows_of(table, "cpu", stream(0, "split"), crossed=True)
    assert "'text'" in str(error.value)


@pytest.mark.parametrize("value", [1000.0, -999.0, 1e30])
def test_rows_full_of_glitches_count_as_absent(value: float) -> None:
    table = make_table(400)
    table.present[:, 0] = True
    hit = np.arange(400) % 10 < 3
    table.embeddings["image"][hit] = value
    rows = rows_of(table, "cpu", stream(0, "split"), crossed=True)
    assert np.array_equal(rows.learn.present[:, 0].numpy(), ~hit)
    (note,) = (note for note in rows.notes if "'image'" in note)
    assert "120 training rows (row 0, 1, 2, 10, 11, ...)" in note
    clean = rows_of(table.rows(np.flatnonzero(~hit)), "cpu", stream(0, "split"), crossed=True)
    assert np.array_equal(rows.scale["image"].unit, clean.scale["image"].unit)


@pytest.mark.parametrize(("size", "offset"), [(1e-42, 0.0), (1.0, 3e7)])
def test_inputs_that_float32_cannot_tell_apart_count_as_constant(
    size: float, offset: float
) -> None:
    table = make_table(400)
    plain = table.embeddings["image"]
    few = (offset + size * plain[:, :2]).astype(np.float32)
    table.embeddings["image"] = np.concatenate([few, plain[:, 2:]], axis=1)
    rows = rows_of(table, "cpu", stream(0, "split"), crossed=True)
    (note,) = rows.notes
    assert f"2 of {plain.shape[1]} inputs of 'image' vary by less than float32 tells apart" in note
    assert rows.scale["image"].faint.tolist() == [True, True] + [False] * (plain.shape[1] - 2)
    there = rows.learn.present[:, 0]
    assert rows.learn.embeddings["image"][there, :2].abs().max() < 1e-3 * max(1.0, offset)


# ------------------------------------------------------------------------------ where heads are


@pytest.mark.parametrize("width", [5, 60])  # fewer inputs than rows, and more
def test_ridge_start_solves_the_normal_equations(width: int) -> None:
    """Centred one-hot labels on inputs that are not centred, at the best penalty and scale."""
    random = np.random.Generator(np.random.Philox(width))
    y, validation_y = random.integers(0, 3, 40), random.integers(0, 3, 30)
    x = random.normal(size=(40, width)) + y[:, None]
    validation = random.normal(size=(30, width)) + validation_y[:, None]
    target = np.eye(3)[y] - np.eye(3)[y].mean(axis=0)
    tried = []
    for penalty in initialize_module._PENALTIES:
        weight = np.linalg.solve(x.T @ x / 40 + penalty * np.eye(width), x.T @ target / 40)
        fitted = fit_temperature(validation @ weight, validation_y)
        tried.append((fitted.nll_after, weight / fitted.temperature))
    best = min(tried, key=lambda one: one[0])[1]
    found = ridge_start(x, y, 3, validation, validation_y)
    assert found.shape == (width, 3)
    assert np.abs(found - best).max() < 1e-4 * np.abs(best).max()


@pytest.mark.parametrize("what", ["zeros", "nothing to choose by"])
def test_ridge_start_of_nothing_says_nothing(what: str) -> None:
    random = np.random.Generator(np.random.Philox(0))
    x, y = random.normal(size=(20, 4)), np.arange(20) % 2
    validation, validation_y = x[:6], y[:6]
    if what == "zeros":
        x = np.zeros_like(x)
    else:
        validation, validation_y = validation[:0], validation_y[:0]
    assert (ridge_start(x, y, 2, validation, validation_y) == 0).all()


@pytest.mark.parametrize("width", [3, 50])  # fewer inputs than rows, and more
@pytest.mark.parametrize("penalty", [1.0, 1e-2, 1e-4])
def test_logistic_regression_is_at_its_optimum(width: int, penalty: float) -> None:
    """The gradient vanishes at what it finds, for each regression by itself, rows weighed."""
    random = np.random.Generator(np.random.Philox(width))
    x = torch.from_numpy(random.random((40, width)))
    labels = torch.from_numpy(np.arange(40) % 3)
    weight = torch.from_numpy(random.random((40, 2)) * (random.random((40, 2)) < 0.8))
    path = LogisticPath([x], labels, weight, 3)
    for earlier in (10.0, penalty):
        found = path.solve(earlier)
    assert found[2]
    for copy in range(2):
        w = found[0][copy].clone().requires_grad_()
        free = (found[1][copy] - path.log_prior[copy]).clone().requires_grad_()
        logits = path.log_prior[copy] + x @ w + free
        each = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
        loss = (each * weight[:, copy]).sum() / weight[:, copy].sum()
        (loss + penalty / 2 * (w.square().sum() + free.square().sum())).backward()
        assert w.grad is not None and free.grad is not None
        assert max(float(w.grad.abs().max()), float(free.grad.abs().max())) < 2e-4


def test_a_skewed_class_is_ranked_as_it_is() -> None:
    """One positive in ten: the ranking of a plain logistic regression, not the reverse."""
    random = np.random.Generator(np.random.Philox(4))
    labels = (np.arange(600) % 10 == 0).astype(np.intp)
    image = random.normal(size=(600, 6)) + 0.9 * labels[:, None]
    table = Table(
        embeddings={"image": image.astype(np.float32)},
        present=np.ones((600, 1), dtype=bool),
        labels=labels,
    )
    rows = rows_of(table, "cpu", stream(0, "split"), crossed=True)
    found, _ = regression("image", rows, SETTINGS)
    logits = rows.learn.embeddings["image"].numpy() @ found["heads.image.classifier.weight"]
    logits = (logits + found["heads.image.classifier.bias"]).reshape(600, FOLDS + 1, 2)
    score = logits[np.arange(600), rows.learn.fold, 1] - logits[np.arange(600), rows.learn.fold, 0]
    above = score[labels == 1][:, None] > score[labels == 0]
    assert above.mean() > 0.9
    # Its level is right, too: as many positives as there are.
    assert (1 / (1 + np.exp(-score))).mean() == pytest.approx(0.1, abs=0.02)


def test_a_class_that_a_modality_never_saw_is_marked() -> None:
    table = make_table()
    assert table.labels is not None
    table.present[table.labels == 2, 1] = False
    table.present[:, 0] = True
    rows = rows_of(table, "cpu", stream(0, "split"), crossed=True)
    priors = regression("text", rows, SETTINGS)[0]["priors.text"]
    assert (priors[:, 2] == 0).all() and (priors[:, :2] > 0).all()


def test_a_head_that_no_row_judges_says_what_is_frequent() -> None:
    table = make_table()
    table.present[:, 0] = True
    fold = rows_of(table, "cpu", stream(0, "split"), crossed=True).learn.fold.numpy()
    table.present[:, 1] = fold == IN_NO_FOLD
    table.present[5, 1] = True
    rows = rows_of(table, "cpu", stream(0, "split"), crossed=True)
    rows.validation.present[:, 1] = False
    found, record = regression("text", rows, SETTINGS)
    assert record["penalty"] is None and "no validation row" in record["calibration"]["note"]
    assert (found["heads.text.classifier.weight"] == 0).all()
    assert np.allclose(np.exp(found["heads.text.classifier.bias"][:4]), rows.prior)


# ----------------------------------------------------------------------------------------- noise


@settings_of(deadline=None)
@given(seed=integers(0, 99), share=floats(0, 1), width=integers(1, 6))
def test_corruption_changes_the_rows_that_are_hit_and_no_other(
    seed: int, share: float, width: int
) -> None:
    x = torch.rand(30, width, generator=torch.Generator().manual_seed(seed))
    hit = np.random.default_rng(seed).random(30) < share
    before = x.clone()
    one, two = (corrupted_rows(x, hit, np.random.default_rng(seed)) for _ in range(2))
    assert torch.equal(x, before) and torch.equal(one, two)
    assert torch.isfinite(one).all() and one.dtype == x.dtype
    assert torch.equal(one[~hit], x[~hit])
    if hit.sum() > 5:
        assert not torch.equal(one, x)
        assert not torch.equal(one, corrupted_rows(x, hit, np.random.default_rng(seed + 1)))


def test_corruption_is_of_three_kinds() -> None:
    """A quarter of the hit rows hold their own values in another order; the rest hold new ones."""
    x = torch.rand(4000, 12, generator=torch.Generator().manual_seed(0))
    changed = corrupted_rows(x, np.ones(4000, dtype=bool), np.random.default_rng(0))
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


@pytest.mark.parametrize("fold", range(FOLDS))
@pytest.mark.parametrize("of", ["image", "all"])
def test_a_copy_learns_nothing_from_its_fold(
    heads: Heads, fold: int, of: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At one penalty; that and the temperature alone are chosen by all rows."""
    monkeypatch.setattr(regression_module, "_PENALTIES", (1e-2,))
    monkeypatch.setattr(regression_module, "fit_temperature", _no_temperature)
    learn, own = heads.rows.learn, in_fold(heads, fold)
    labels = torch.where(own, (learn.labels + 1) % 3, learn.labels)
    found = []
    for given_labels in (learn.labels, labels):
        rows = replace(heads.rows, learn=replace(learn, labels=given_labels))
        if of == "all":
            found.append(np.moveaxis(joint_regression(rows, SETTINGS)[0]["weight"], 0, 1))
        else:
            weight = regression(of, rows, SETTINGS)[0][f"heads.{of}.classifier.weight"]
            found.append(weight.reshape(-1, rows.copies, 4))
    for copy in range(heads.rows.copies):
        off = np.abs(found[0][:, copy] - found[1][:, copy]).max()
        assert (off < 1e-3) == (copy == fold), (copy, off)
    assert heads.rows.copies == FOLDS + 1  # the last has seen every row


def _no_temperature(logits: Any, labels: Any, **rest: Any) -> Any:
    return replace(fit_temperature(logits, labels, **rest), temperature=1.0)


def test_a_row_is_judged_by_the_copy_that_has_not_seen_it(
    heads: Heads, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each copy says its own number, whatever the row."""
    seen = []

    def spy(logits: Any, labels: Any, **rest: Any) -> Any:
        seen.append(logits)
        return fit_temperature(logits, labels, **rest)

    def numbers(path: LogisticPath, _: float, *, rough: bool = False) -> Any:
        weight, bias = torch.zeros(heads.rows.copies, 4, 4), path.log_prior * 0
        return weight.double(), bias + torch.arange(len(bias))[:, None], True

    monkeypatch.setattr(regression_module, "fit_temperature", spy)
    monkeypatch.setattr(LogisticPath, "solve", numbers)
    regression("image", heads.rows, SETTINGS)
    validation = heads.rows.validation
    fold = validation.fold[validation.present[:, 0]].numpy()
    assert all(np.array_equal(logits, np.repeat(fold[:, None], 4, axis=1)) for logits in seen)


def _copies(heads: Heads) -> list[dict[str, Any]]:
    learned, _ = heads.learn(Descent(SETTINGS, "cpu", Checkpoint(None, "")))
    return [on_device(own, "cpu") for own in heads.fitted(learned, passes=2)]


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
        for copy in range(heads.rows.copies):
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
        assert own not in (0, IN_NO_FOLD)
        assert _sees(policy, parameters, batch, random) == (own == fold)
        used += own == fold
    assert (used > 0) == (fold != 0)
    # The first fold is the one that says when to stop.
    first = heads.rows.validation.of_fold(0)
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
    """Under the corruption that it is judged by, the result is never worse than the rule."""
    copies = _copies(heads)
    policy = PolicyStage(heads, copies, learn_typicality(heads, copies)[0], {})
    stage = replace(policy.stage(), rate=rate)
    rule = float(stage.validation(on_device(stage.start, "cpu")))
    assert rule == float(stage.validation(on_device(stage.start, "cpu")))  # the same every time
    descent = Descent(replace(SETTINGS, epochs=4), "cpu", Checkpoint(None, ""))
    found = float(stage.validation(on_device(descent.learn(stage), "cpu")))
    assert found == descent.history["policy"]["validation_loss"]
    assert found <= rule
    assert (found < rule) == (descent.history["policy"]["best_epoch"] > 0)
    assert (found < rule) == (rate < 1)
