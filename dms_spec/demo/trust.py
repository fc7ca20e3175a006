"""Learns what is typical of a view, and what it costs to be far from it, without the test part.

As in ``dms fit``, but with one validation part in place of folds, and without torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import array_api_compat.numpy as xp
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from dms_spec.demo.views import FloatArray
from dms_spec.embeddings.typicality import fit_place, fit_trust, stacked
from dms_spec.equations.evidence import DOUBT, REDUNDANCY
from dms_spec.equations.learned import softplus_inverse
from dms_spec.equations.namespace import Namespace
from dms_spec.equations.typicality import log_distance

#: How often the validation scans are corrupted anew.
DRAWS = 8
#: The least and the most noise in them, where the training range of an input is 1.
NOISE = (0.02, 3.0)

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True, kw_only=True)
class Known:
    """Holds what may be learned from, of one view.

    Attributes:
        train: Scaled inputs that the view's classifier has learned from, [N, W].
        validation: Scaled inputs that it has not seen, [H, W].
        scores: The classifier, calibrated: from inputs to class scores.
        random: Of the corruption.
    """

    train: FloatArray
    validation: FloatArray
    scores: Callable[[FloatArray], FloatArray]
    random: Generator


def fit_typicality(
    views: Sequence[Known], train: NDArray[np.intp], validation: NDArray[np.intp], width: int
) -> Arrays:
    """Fits the parameters of the signal ``typicality``, by full name.

    Args:
        views: In the order of the M axis.
        train: Labels of the scans that the classifiers have learned from, 0 to C - 1, [N].
        validation: Labels of those that they have not seen, [H].
        width: D: the views' inputs are the features, with zeros up to the widest.
    """
    places = [fit_place(view.train, train) for view in views]
    prior = np.bincount(train) / len(train)
    trusts = [
        _trust(view, place, validation, prior) for view, place in zip(views, places, strict=True)
    ]
    trust = {name: np.stack([own[name] for own in trusts]) for name in trusts[0]}
    return {
        f"signals.typicality.{name}": array
        for name, array in (stacked(places, width) | trust).items()
    }


def without_learning(labels: NDArray[np.intp], modalities: int) -> Arrays:
    """What fusion of evidence reads beside typicality: class frequencies, and trust as it starts.

    Args:
        labels: Of the scans that the classifiers have learned from, 0 to C - 1, [N].
        modalities: M.
    """
    prior = np.bincount(labels) / len(labels)
    return {
        "fusion.prior": prior,
        "fusion.priors": np.tile(prior, (modalities, 1)),
        "fusion.redundancy": softplus_inverse(np.asarray(REDUNDANCY)),
        "policy.doubt": np.asarray(np.log(DOUBT / (1 - DOUBT))),
        "policy.exponent": softplus_inverse(np.ones(modalities)),
    }


def _trust(view: Known, place: Arrays, validation: NDArray[np.intp], prior: FloatArray) -> Arrays:
    """Fits what it costs to be far from the place of one view."""
    ns, own = Namespace.of(xp, np.ndarray), stacked([place], view.train.shape[1])

    def distance(inputs: FloatArray) -> FloatArray:
        return np.asarray(log_distance(ns, inputs[:, None, :].astype(np.float32), own)[:, 0])

    labels = np.tile(validation, DRAWS)
    inputs = corrupted(np.tile(view.validation, (DRAWS, 1)), view.random)
    probabilities = ns.softmax(view.scores(inputs))
    likelihood = probabilities[np.arange(len(labels)), labels]
    return fit_trust(distance(view.validation), distance(inputs), likelihood, prior[labels])


def corrupted(inputs: FloatArray, random: Generator) -> FloatArray:
    """Corrupts rows at random, in another kind and level than any condition of the study.

    Uniform noise in half of them, its level spread evenly in the logarithm; in the others some of
    the inputs, however many, are exchanged with each other.
    """
    rows, width = inputs.shape
    low, high = np.log(NOISE)
    level = np.exp(random.uniform(low, high, (rows, 1)))
    noisy = inputs + level * random.uniform(-1, 1, (rows, width))
    hit = random.random((rows, width)) < random.random((rows, 1))
    exchanged = inputs.copy()
    for row, some in zip(exchanged, hit, strict=True):
        row[some] = random.permuted(row[some])
    return np.where(random.random((rows, 1)) < 0.5, noisy, exchanged)
