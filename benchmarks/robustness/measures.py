"""What is measured of a method on one split: pieces of work, each of one method.

A measurement is condition, metric and value. ``right`` is the one metric that is no number: which
test rows are right, as bits in hexadecimal digits, for comparisons row by row.
"""

from __future__ import annotations

import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from methods import LESS, REGRESSIONS, Fits, method, scheduled
from numpy.typing import NDArray
from pairs import packed
from protocol import CONDITIONS, NOISE, OTHERS, SEEDS, SHARES, TOLD, Trial, alone
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from dms_onnxruntime import Session
from dms_spec.embeddings.calibration import expected_calibration_error
from dms_spec.plugins import get_exporter
from dms_spec.robustness import Answer, average, damaged_sets, expected, metrics

#: Condition, metric, value.
Row = tuple[str, str, float | str]

#: Measured on everything with all seeds: robust, what weighs the same heads, the regressions.
MAIN = (
    "robust",
    "static",
    "oracle",
    *REGRESSIONS,
    "static_logit",
    "entropy",
    "entropy_logit",
    "dms_rule",
    "dms_rule_sum",
    "qmf",
    "tmc",
    "dempster_shafer",
)
#: With fits of their own, with the first seeds alone.
OWN = (
    "learned_dms",
    "dms_paper",
    "co_attention",
    "modality_dropout",
    "dmome",
    "ma_afs",
)
#: Forms of robust that learn less, with all seeds: they take no fit.
FORMS = tuple(LESS)
#: What the parts of a method are worth, with the first seeds alone.
PARTS = (
    "robust, full covariance",
    "robust, diagonal covariance",
    "dms_rule, alpha 0",
    "dms_rule, beta 0",
    "dms_rule, gamma 0",
    "static, PCA",
    "dms_rule, PCA",
    "robust, PCA",
)
#: Measured with every set of modalities missing, with the first seeds alone.
MISSING = ("static", "robust", "robust, presence drawn", "dmome", "dmome, MoFe")
#: Measured with each modality alone corrupted, as in the DMS paper's table of noise.
ONE_BY_ONE = ("static", "co_attention", "modality_dropout", "dms_rule_sum", "robust")
#: Measured on the skewed versions.
SKEWED = ("robust", "static", *REGRESSIONS, *FORMS)


def accuracies(name: str, fits: Fits) -> Iterator[Row]:
    """Accuracy and calibration in every condition, and how weights go with losses."""
    own, ask = fits.split, method(name, fits)
    conditions = [*CONDITIONS, *OTHERS, TOLD]
    if name in ONE_BY_ONE:
        conditions += alone(own.table.modalities)
    found: dict[str, dict[str, float]] = {}
    for condition in conditions:
        answer = ask(fits.trial(condition))
        found[condition] = scores(answer.probabilities, own.labels)
        yield condition, "accuracy", found[condition]["accuracy"]
        yield condition, "right", packed(metrics.correct(answer.probabilities, own.labels))
        if condition in ("clean", "sigma 1"):
            yield from _covariance(condition, answer, own.labels)
    for metric, value in found["clean"].items():
        if metric != "accuracy":
            yield "clean", metric, value
    for several, names in (("noisy", NOISE), ("other", tuple(OTHERS))):
        for metric in ("accuracy", "log-loss", "ece"):
            yield several, metric, float(np.mean([found[name][metric] for name in names]))


def skewed(name: str, fits: Fits) -> Iterator[Row]:
    """Every score on the test rows of a skewed version, where nothing is corrupted."""
    own, condition = fits.split, skew(fits.split.share)
    p = method(name, fits)(fits.trial("clean")).probabilities
    for metric, value in scores(p, own.labels).items():
        yield condition, metric, value
    yield condition, "right", packed(metrics.correct(p, own.labels))


def skew(share: float) -> str:
    """What a skewed version is called among the conditions."""
    return f"half of the classes at {100 * share:g} %"


def scores(p: NDArray[Any], y: NDArray[np.intp]) -> dict[str, float]:
    """Accuracy and balanced accuracy in %, log-loss in nats, ECE of 15 bins, AUC."""
    right, known = metrics.correct(p, y), y >= 0
    recalls = [right[y == one].mean() for one in np.unique(y)]
    return {
        "accuracy": 100 * float(right.mean()),
        "balanced": 100 * float(np.mean(recalls)),
        "log-loss": float(metrics.losses(p[known][:, None], y[known]).mean()),
        "ece": expected_calibration_error(p[known], y[known]),
        "auc": auc(p, y),
    }


def auc(p: NDArray[Any], y: NDArray[np.intp]) -> float:
    """Area under the ROC curve: each class against the rest, the mean over the classes there."""
    there = [c for c in np.unique(y) if 0 < (y == c).mean() < 1 and c >= 0]
    return float(np.mean([roc_auc_score(y == c, p[:, c]) for c in there]))


def _covariance(condition: str, answer: Answer, y: NDArray[np.intp]) -> Iterator[Row]:
    if answer.weights is None or answer.unimodal is None or answer.active is None:
        return
    losses = metrics.losses(answer.unimodal, y)
    total = metrics.weight_loss_covariance(answer.weights, losses, answer.active)[1]
    yield condition, "weight-loss covariance", _number(total)


def missing(name: str, fits: Fits) -> Iterator[Row]:
    """Every set of modalities missing, told or not: the sensor-failure protocol's EMM."""
    own, ask = fits.split, method(name, fits)
    names, given = own.table.modalities, fits.trial("clean")
    mean = {key: x.mean(axis=0) for key, x in own.training.embeddings.items()}
    for told in (True, False):
        right = {}
        for damaged in damaged_sets(names):
            gone = np.isin(names, damaged)
            inputs = {
                key: np.broadcast_to(mean[key], x.shape) if key in damaged else x
                for key, x in given.inputs.items()
            }
            present = given.present & ~(gone & told)
            answer = ask(Trial(inputs=inputs, present=present, hit=np.zeros_like(present)))
            right[frozenset(damaged)] = metrics.correct(answer.probabilities, own.labels)
        results = {key: 100 * float(value.mean()) for key, value in right.items()}
        condition = "missing, told" if told else "missing, untold"
        yield condition, "accuracy", average(results, len(names))
        yield condition, "expected accuracy, p 0.2", expected(results, len(names), 0.2)
        available = {frozenset(names) - key: value for key, value in right.items()}
        for pairs in ("all", "adjacent"):
            rate = metrics.counter_intuitive_rate(available, pairs)
            yield condition, f"counter-intuitive rate, {pairs}", 100 * _number(rate)


def runtimes(name: str, fits: Fits) -> Iterator[Row]:
    """Torch, and the exported graph in ONNX Runtime, beside NumPy, on every condition."""
    ask, torch = (scheduled(name, fits, backend) for backend in ("numpy", "torch"))
    with tempfile.TemporaryDirectory() as folder:
        path = get_exporter("onnx").export(ask.predictor.artifact, Path(folder))
        session = Session.load(path, threads=1)
    for condition in (*CONDITIONS, *OTHERS, TOLD):
        given = fits.trial(condition)
        p = ask(given).probabilities
        graph = session.run({**given.inputs, "present": given.present})["probabilities"]
        for where, q in (("onnx", graph), ("torch", torch(given).probabilities)):
            same = p.argmax(axis=1) == q.argmax(axis=1)
            yield condition, f"{where}: share of equal labels", float(same.mean())
            yield condition, f"{where}: largest difference", float(np.abs(p - q).max())


def seconds(name: str, fits: Fits) -> Iterator[Row]:
    """CPU seconds of a fit, and of two things to measure it by; one thread."""
    table = fits.split.training
    yield "fit", "CPU seconds", _number(fits(name).model["cpu_seconds"])
    yield "fit, heads alone", "CPU seconds", _number(fits("heads alone").model["cpu_seconds"])
    start = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that 1000 steps were not enough
        for x in table.embeddings.values():
            LogisticRegression(max_iter=1000).fit(x, table.labels)
    yield "fit, scikit-learn", "CPU seconds", time.process_time() - start


def _number(value: float | None) -> float:
    assert value is not None
    return float(value)


@dataclass(frozen=True, kw_only=True)
class Unit:
    """What is measured of which methods, on which versions of a set, with how many seeds."""

    function: Callable[[str, Fits], Iterator[Row]]
    methods: tuple[str, ...]
    seeds: int
    shares: tuple[float, ...] = (1.0,)


UNITS = {
    "accuracy": Unit(function=accuracies, methods=(*MAIN, *FORMS), seeds=len(SEEDS)),
    "runtimes": Unit(function=runtimes, methods=("robust",), seeds=len(SEEDS)),
    "skewed": Unit(function=skewed, methods=SKEWED, seeds=3, shares=SHARES),
    "own": Unit(function=accuracies, methods=OWN, seeds=1),
    "parts": Unit(function=accuracies, methods=PARTS, seeds=1),
    "missing": Unit(function=missing, methods=MISSING, seeds=1),
    "seconds": Unit(function=seconds, methods=("robust",), seeds=1),
}
