"""From scans to batches: one classifier per view, and what becomes of it when views degrade."""

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

from dms_spec.demo.views import VIEWS, FloatArray

NAMES: tuple[str, ...] = tuple(VIEWS)
TEST_SHARE = 0.2
PASSES, DROPOUT = 10, 0.1
#: How many views of each sample are degraded.
DRAWN = max(1, len(NAMES) // 2)

BoolArray = NDArray[np.bool_]
Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True, kw_only=True)
class Condition:
    """What happens to the drawn views.

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
    """One view of one split, with the classifier that was trained on it.

    Attributes:
        test: The test split's inputs, scaled by the training split's range, [N, W].
        noise: Standard normal, [N, W]: the same draw at every noise level, so that levels
            differ in nothing but the level.
        masks: Dropout masks on the inputs, [T, W], frozen: a pass drops the same inputs of
            every sample, so that a sample's passes do not depend on who else is in the batch.
        classifier: From inputs to class scores.
    """

    test: FloatArray
    noise: FloatArray
    masks: FloatArray
    classifier: Any

    def scores(self, inputs: FloatArray) -> FloatArray:
        """Class scores: [N, W] -> [N, C]."""
        return np.asarray(self.classifier.decision_function(inputs))

    def noisy(self, sigma: float) -> FloatArray:
        """The inputs with noise of a level, [N, W]."""
        return self.test + sigma * self.noise


@dataclass(frozen=True, kw_only=True)
class Split:
    """One random split of the scans, trained, and the views to be degraded in its test part.

    Attributes:
        train: Number of scans trained on.
        labels: Digits of the test part, [N].
        views: By name, in the order of the M axis.
        drawn: True for the views that a degrading condition degrades, [N, M].
    """

    train: int
    labels: NDArray[Any]
    views: Mapping[str, View]
    drawn: BoolArray

    def degraded(self, condition: Condition) -> BoolArray:
        """The views that a condition degrades, [N, M]."""
        return self.drawn & (condition.kind != "clean")


def make_split(seed: SeedSequence) -> Split:
    """Split the scans, train one classifier per view, and draw everything that is random."""
    digits = load_digits()
    split_seed, draw_seed, *view_seeds = seed.spawn(2 + len(VIEWS))
    train, test = train_test_split(
        np.arange(len(digits.target)),
        test_size=TEST_SHARE,
        stratify=digits.target,
        random_state=int(split_seed.generate_state(1)[0]),
    )
    views = {}
    for (name, view), view_seed in zip(VIEWS.items(), view_seeds, strict=True):
        inputs = view(digits.images)
        scaler = MinMaxScaler().fit(inputs[train])
        classifier = LogisticRegression(max_iter=1000)
        classifier.fit(scaler.transform(inputs[train]), digits.target[train])
        random = Generator(Philox(view_seed))
        width = inputs.shape[1]
        views[name] = View(
            test=scaler.transform(inputs[test]),
            noise=random.standard_normal((len(test), width)),
            masks=(random.random((PASSES, width)) >= DROPOUT) / (1 - DROPOUT),
            classifier=classifier,
        )
    some = np.tile(np.arange(len(NAMES)) < DRAWN, (len(test), 1))
    drawn = Generator(Philox(draw_seed)).permuted(some, axis=1)
    return Split(train=len(train), labels=digits.target[test], views=views, drawn=drawn)


def make_batch(split: Split, condition: Condition, drawn: BoolArray) -> Arrays:
    """The test part as a scheduler reads it, with the drawn views degraded.

    Args:
        split: Where the inputs and classifiers come from.
        condition: What happens to the drawn views.
        drawn: Which they are, [N, M].

    Returns:
        ``features`` and ``logits`` [N, M, C], ``mc_logits`` [T, N, M, C], ``present`` [N, M].
    """
    logits, passes = [], []
    for hit, view in zip(drawn.T, split.views.values(), strict=True):
        spoilt = 0.0 if condition.kind == "zeroed" else view.noisy(condition.sigma)
        inputs = np.where(hit[:, None], spoilt, view.test)
        logits.append(view.scores(inputs))
        passes.append([view.scores(inputs * mask) for mask in view.masks])
    scores = np.stack(logits, axis=1)
    arrays = {
        # The views' inputs have different widths and meanings, and so can neither be stacked nor
        # compared. Class scores live in one space, where agreeing means something: they are the
        # features. Centred, for a constant added to them says nothing about the class.
        "features": scores - scores.mean(axis=-1, keepdims=True),
        "logits": scores,
        "mc_logits": np.stack(passes, axis=2),
    }
    if condition.kind == "absent":
        for array in arrays.values():
            array[..., drawn, :] = np.nan  # nobody may read what is not there
    present = ~drawn if condition.kind == "absent" else np.ones_like(drawn)
    return {name: array.astype(np.float32) for name, array in arrays.items()} | {"present": present}
