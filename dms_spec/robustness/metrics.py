"""Computes what is measured. Where there is nothing to measure, it is None, never NaN."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dms_spec.errors import ShapeError, SpecError
from dms_spec.robustness.samples import FloatArray

#: No probability is below this in a loss: the smallest normal float32, 87 nats.
SMALLEST = float(np.finfo(np.float32).tiny)


def correct(probabilities: ArrayLike, labels: ArrayLike) -> NDArray[np.bool_]:
    """Finds where the likeliest class is the label: ``[N, C]``, ``[N]`` -> bool ``[N]``.

    The first of equals counts; a label of -1 is never right.
    """
    hits: NDArray[np.bool_] = np.asarray(probabilities).argmax(axis=1) == np.asarray(labels)
    return hits


def paired_difference(
    own: ArrayLike, other: ArrayLike, rows: ArrayLike, seeds: ArrayLike
) -> tuple[float, float]:
    """Mean difference of two methods on the same trials, and its error over rows and seeds.

    A trial is one row of a table, measured with one seed, which may choose the split, the fit and
    the corruption. With the difference d of a trial, its mean D over all T trials, and e = d - D:

        V_row  = sum over rows of (sum of e over the row's trials)^2 / T^2
        V_seed = S / (S - 1) sum over seeds of (sum of e over the seed's trials)^2 / T^2
        V_both = sum of e^2 / T^2

        standard error = sqrt(V_row + max(0, V_seed - V_both))

    V_row is what the choice of rows brings: a row that several seeds test counts once.
    V_seed - V_both is what the choice of seeds adds to that: 0 with one seed, and cut off at 0,
    because with few seeds it falls below by chance. This is the variance under two-way clustering
    of Cameron, Gelbach and Miller 2011 (J. Business and Economic Statistics 29).

    Args:
        own: Scores of one method, ``[T]``, such as right or wrong.
        other: Scores of the other, ``[T]``.
        rows: Which row each trial measures, ``[T]``.
        seeds: Which seed, ``[T]``.

    Raises:
        ShapeError: The lengths differ, or there is no trial.
    """
    a, b = np.asarray(own, dtype=np.float64), np.asarray(other, dtype=np.float64)
    row, seed = np.asarray(rows), np.asarray(seeds)
    if not len(a) or not a.shape == b.shape == row.shape == seed.shape:
        raise ShapeError(
            "trials do not match",
            expected="scores, rows and seeds of one or more trials, [T]",
            got=", ".join(str(list(x.shape)) for x in (a, b, row, seed)),
        )
    mean = float((a - b).mean())
    e = a - b - mean
    by_row, by_seed = (_squared_sums(e, key) for key in (row, seed))
    count = len(np.unique(seed))
    extra = by_seed * count / (count - 1) - float((e**2).sum()) if count > 1 else 0.0
    return mean, float(np.sqrt(by_row + max(0.0, extra))) / len(a)


def _squared_sums(e: FloatArray, groups: NDArray[Any]) -> float:
    _, group = np.unique(groups, return_inverse=True)
    return float((np.bincount(group, weights=e) ** 2).sum())


def degradation(clean: float | None, noisy: float | None) -> float | None:
    """Computes ``100 (noisy - clean) / clean``, in percent of the clean accuracy.

    As the DMS paper (arXiv 2506.12724) defines it. None if either is None, or clean is 0.
    """
    kept = retention(clean, noisy)
    return None if kept is None else 100 * (kept - 1)


def retention(clean: float | None, noisy: float | None) -> float | None:
    """Computes ``noisy / clean`` (arXiv 2506.12724). None if either is None, or clean is 0."""
    if clean is None or noisy is None or clean == 0:
        return None
    return noisy / clean


def reliability(
    probabilities: ArrayLike, labels: ArrayLike, bins: int = 15
) -> dict[str, list[float | None]]:
    """Compares confidence with accuracy, over bins of confidence of equal width.

    The bins, and which sample is in which, are those of the expected calibration error.

    Returns:
        ``share`` of the samples, ``confidence`` and ``accuracy`` of each bin; the latter two are
        None where a bin is empty.
    """
    p, y = _known(probabilities, labels)
    confidence, right = p.max(axis=1, initial=0.0), correct(p, y)
    bin_of = np.searchsorted(np.arange(1, bins) / bins, confidence, side="left")
    count = np.bincount(bin_of, minlength=bins)
    sums = [np.bincount(bin_of, weights=w, minlength=bins) for w in (confidence, right)]
    means = [
        [float(s / n) if n else None for s, n in zip(part, count, strict=True)] for part in sums
    ]
    return {
        "share": [float(n / max(1, len(y))) for n in count],
        "confidence": means[0],
        "accuracy": means[1],
    }


def risk_coverage(
    probabilities: ArrayLike, labels: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Computes the share of errors among the most confident samples, by how many answer.

    The confidence is the largest probability. Samples of equal confidence come in no order: each
    of them counts as their mean error. El-Yaniv and Wiener 2010 (JMLR 11); Geifman and El-Yaniv
    2017 (arXiv 1705.08500).

    Returns:
        Coverage ``k / N`` and risk for k = 1 to N, each ``[N]``.
    """
    p = np.asarray(probabilities, dtype=np.float64)
    wrong = 1.0 - correct(p, labels)
    confidence = p.max(axis=1, initial=0.0)
    order = np.argsort(-confidence, kind="stable")
    _, group = np.unique(-confidence[order], return_inverse=True)
    shared = np.bincount(group, weights=wrong[order]) / np.maximum(np.bincount(group), 1)
    k = np.arange(1, len(wrong) + 1)
    return k / max(1, len(k)), np.cumsum(shared[group]) / k


def area_under_risk_coverage(probabilities: ArrayLike, labels: ArrayLike) -> float | None:
    """Computes AURC, the mean of the risk over all coverages. 0 is best; None without samples.

    Geifman et al. 2019 (arXiv 1805.08206).
    """
    _, risk = risk_coverage(probabilities, labels)
    return float(risk.mean()) if len(risk) else None


def counter_intuitive_rate(
    performance: Mapping[frozenset[str], ArrayLike], pairs: Literal["all", "adjacent"] = "all"
) -> float | None:
    """Computes how often less is more: the share of (sample, S, S') with S inside S' where S does
    better.

    After SimMLM (arXiv 2507.19264), which does not say whether all nested pairs of subsets count,
    or only those that differ by one modality: hence ``pairs``.

    Args:
        performance: By subset of the modalities that are *available*, the performance on each
            sample, ``[N]`` (such as right or wrong), or one number for all.
        pairs: Which pairs of nested subsets count.

    Returns:
        A number in [0, 1]; None if no two subsets are nested, or there are no samples.

    Raises:
        ShapeError: The numbers of samples differ.
        SpecError: ``pairs`` is neither.
    """
    if pairs not in ("all", "adjacent"):
        raise SpecError("pairs is unknown", expected="'all' or 'adjacent'", got=repr(pairs))
    values = {
        key: np.atleast_1d(np.asarray(value, dtype=np.float64))
        for key, value in performance.items()
    }
    if len({len(value) for value in values.values()}) > 1:
        raise ShapeError("subsets were measured on different numbers of samples")
    worse = count = 0
    for one, other in combinations(values, 2):
        small, large = (one, other) if len(one) < len(other) else (other, one)
        if small < large and (pairs == "all" or len(large) == len(small) + 1):
            worse += int((values[small] > values[large]).sum())
            count += len(values[small])
    return worse / count if count else None


def losses(unimodal: ArrayLike, labels: ArrayLike) -> FloatArray:
    """Computes the negative log-likelihood of the label under each modality alone, in nats.

    ``[N, M, C]``, ``[N]`` -> ``[N, M]``; at most 87; NaN where the label is not a class.
    """
    p, y = np.asarray(unimodal, dtype=np.float64), np.asarray(labels)
    own = np.take_along_axis(p, np.maximum(y, 0)[:, None, None], axis=2)[..., 0]
    result: FloatArray = np.where((y >= 0)[:, None], -np.log(np.maximum(own, SMALLEST)), np.nan)
    return result


def weight_loss_covariance(
    weights: ArrayLike, losses: ArrayLike, active: ArrayLike
) -> tuple[list[float | None], float | None]:
    """Computes the covariance of each modality's weight and own loss. Below 0, the weights help.

    The term by which a dynamic fusion generalises better than a static one of the same mean
    weights: Zhang et al. 2023, "Provable Dynamic Fusion for Low-Quality Multimodal Data" (arXiv
    2306.02050). Population covariance over the samples in which the modality is active.

    Args:
        weights: ``[N, M]``.
        losses: ``[N, M]``; where not finite, the sample is left out.
        active: bool ``[N, M]``.

    Returns:
        By modality, None where it is never active; and their sum, None if there is none.
    """
    w, loss = np.asarray(weights, dtype=np.float64), np.asarray(losses, dtype=np.float64)
    use = np.asarray(active) & np.isfinite(loss)
    parts: list[float | None] = []
    for m in range(w.shape[1]):
        rows = use[:, m]
        x, y = w[rows, m], loss[rows, m]
        parts.append(float(((x - x.mean()) * (y - y.mean())).mean()) if rows.any() else None)
    there = [part for part in parts if part is not None]
    return parts, sum(there) if there else None


def _known(probabilities: ArrayLike, labels: ArrayLike) -> tuple[NDArray[np.float64], NDArray[Any]]:
    y = np.asarray(labels)
    return np.asarray(probabilities, dtype=np.float64)[y >= 0], y[y >= 0]
