"""Makes batches of scans: one classifier per view, and what becomes of it when views degrade."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.random import Generator, Philox, SeedSequence
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import MinMaxScaler

from dms_spec.demo.trust import Arrays, Known, fit_typicality, without_learning
from dms_spec.demo.views import VIEWS, FloatArray
from dms_spec.embeddings.calibration import fit_temperature

NAMES: tuple[str, ...] = tuple(VIEWS)
#: Of all scans those to test on, and of the rest those that say how far to trust a view.
TEST_SHARE, VALIDATION_SHARE = 0.2, 0.2
PASSES, DROPOUT = 10, 0.1
#: How many views of each sample are degraded.
DRAWN = max(1, len(NAMES) // 2)

BoolArray = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Condition:
    """Says what happens to the drawn views.

    Attributes:
        name: What tables call it.
        kind: ``"clean"``: nothing; ``"noise"``: Gaussian noise on the scaled inputs;
            ``"absent"``: nothing there, and ``present`` says so; ``"zeroed"``: inputs 0, and
            nobody is told.
        sigma: The noise's standard deviation, where the training range of an input is 1.
    """

    name: str
    kind: Literal["clean", "noise", "absent", "zeroed"]
    sigma: float = 0.0


CONDITIONS: tuple[Condition, ...] = (
    Condition(name="clean", kind="clean"),
    Condition(name="noise 0.5", kind="noise", sigma=0.5),
    Condition(name="noise 1", kind="noise", sigma=1.0),
    Condition(name="noise 2", kind="noise", sigma=2.0),
    Condition(name="missing (told)", kind="absent"),
    Condition(name="missing (untold)", kind="zeroed"),
)


@dataclass(frozen=True, kw_only=True)
class View:
    """Holds one view of one split, with the classifier that was trained on it.

    Attributes:
        test: The test split's inputs, scaled by the training split's range, [N, W].
        noise: Standard normal, [N, W]: the same draw at every noise level, so that levels
            differ in nothing but the level.
        masks: Dropout masks on the inputs, [T, W], frozen: a pass drops the same inputs of
            every sample, so that a sample's passes do not depend on who else is in the batch.
        classifier: From inputs to class scores.
        temperature: What to divide them by.
    """

    test: FloatArray
    noise: FloatArray
    masks: FloatArray
    classifier: Any
    temperature: float

    def scores(self, inputs: FloatArray) -> FloatArray:
        """Computes class scores: [N, W] -> [N, C]."""
        return np.asarray(self.classifier.decision_function(inputs)) / self.temperature

    def noisy(self, sigma: float) -> FloatArray:
        """Adds noise of a level to the inputs, [N, W]."""
        return self.test + sigma * self.noise


@dataclass(frozen=True, kw_only=True)
class Split:
    """Holds one random split of the scans, trained, and the views to be degraded in its test part.

    Attributes:
        train: Number of scans trained on.
        validation: Number of validation scans, to calibrate the classifiers and typicality.
        labels: Digits of the test part, [N].
        views: By name, in the order of the M axis.
        drawn: True for the views that a degrading condition degrades, [N, M].
        parameters: Of the preset `robust`, by full name.
    """

    train: int
    validation: int
    labels: NDArray[Any]
    views: Mapping[str, View]
    drawn: BoolArray
    parameters: Arrays

    def degraded(self, condition: Condition) -> BoolArray:
        """Finds the views that a condition degrades, [N, M]."""
        return self.drawn & (condition.kind != "clean")


def make_split(seed: SeedSequence) -> Split:
    """Splits the scans, trains one classifier per view, and draws everything that is random."""
    digits = load_digits()
    split_seed, validation_seed, draw_seed, *view_seeds = seed.spawn(3 + len(VIEWS))
    rest, test = _parts(np.arange(len(digits.target)), digits.target, TEST_SHARE, split_seed)
    train, validation = _parts(rest, digits.target, VALIDATION_SHARE, validation_seed)
    views, known = {}, []
    for (name, view), view_seed in zip(VIEWS.items(), view_seeds, strict=True):
        inputs = view(digits.images)
        # From the bottom of each range and without an intercept. A dead view reads the least that
        # it can: its scores are then 0, and it supports no class.
        inputs = MinMaxScaler().fit(inputs[train]).transform(inputs)
        classifier = LogisticRegression(max_iter=1000, fit_intercept=False)
        classifier.fit(inputs[train], digits.target[train])
        validation_scores = classifier.decision_function(inputs[validation])
        random = Generator(Philox(view_seed))
        width = inputs.shape[1]
        views[name] = View(
            test=inputs[test],
            noise=random.standard_normal((len(test), width)),
            masks=(random.random((PASSES, width)) >= DROPOUT) / (1 - DROPOUT),
            classifier=classifier,
            temperature=fit_temperature(validation_scores, digits.target[validation]).temperature,
        )
        known.append(
            Known(
                train=inputs[train],
                validation=inputs[validation],
                scores=views[name].scores,
                random=random,
            )
        )
    some = np.tile(np.arange(len(NAMES)) < DRAWN, (len(test), 1))
    return Split(
        train=len(train),
        validation=len(validation),
        labels=digits.target[test],
        views=views,
        drawn=Generator(Philox(draw_seed)).permuted(some, axis=1),
        parameters=fit_typicality(
            known, digits.target[train], digits.target[validation], _width(views)
        )
        | without_learning(digits.target[train], len(views)),
    )


def _parts(
    rows: NDArray[Any], labels: NDArray[Any], share: float, seed: SeedSequence
) -> list[NDArray[Any]]:
    """Cuts the rows in two parts, evenly over the classes; the second has the share."""
    parts: list[NDArray[Any]] = train_test_split(
        rows,
        test_size=share,
        stratify=labels[rows],
        random_state=int(seed.generate_state(1)[0]),
    )
    return parts


def _width(views: Mapping[str, View]) -> int:
    return max(int(view.test.shape[1]) for view in views.values())


def make_batch(split: Split, condition: Condition, drawn: BoolArray) -> Arrays:
    """Gives the test part as a scheduler reads it, with the drawn views degraded.

    Args:
        split: Where the inputs and classifiers come from.
        condition: What happens to the drawn views.
        drawn: Which they are, [N, M].

    Returns:
        ``features`` [N, M, D], which are the views' inputs with zeros up to the widest,
        ``logits`` [N, M, C], ``mc_logits`` [T, N, M, C], ``present`` [N, M].
    """
    features, logits, passes = [], [], []
    width = _width(split.views)
    for hit, view in zip(drawn.T, split.views.values(), strict=True):
        changed = 0.0 if condition.kind == "zeroed" else view.noisy(condition.sigma)
        inputs = np.where(hit[:, None], changed, view.test)
        features.append(np.pad(inputs, ((0, 0), (0, width - inputs.shape[1]))))
        logits.append(view.scores(inputs))
        passes.append([view.scores(inputs * mask) for mask in view.masks])
    arrays = {
        "features": np.stack(features, axis=1),
        "logits": np.stack(logits, axis=1),
        "mc_logits": np.stack(passes, axis=2),
    }
    if condition.kind == "absent":
        for array in arrays.values():
            array[..., drawn, :] = np.nan  # nobody may read what is not there
    present = ~drawn if condition.kind == "absent" else np.ones_like(drawn)
    return {name: array.astype(np.float32) for name, array in arrays.items()} | {"present": present}


def comparable(arrays: Arrays) -> Arrays:
    """Gives the batch features that can be compared across views, for a spec that compares.

    The views' inputs differ in meaning. Class scores live in one space, where agreeing means
    something; centred, for a constant added to them says nothing about the class.
    """
    scores = arrays["logits"]
    return arrays | {"features": scores - scores.mean(axis=-1, keepdims=True)}
