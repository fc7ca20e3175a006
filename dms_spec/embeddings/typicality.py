"""Fits typicality: where a modality's features lie, and what leaving that place costs.

For the host, in NumPy. The distance itself is `dms_spec.equations.typicality.log_distance`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

import numpy as np
from numpy.typing import NDArray

from dms_spec.errors import MissingInput, ShapeError, SpecError
from dms_spec.streams import row_parts

Covariance = Literal["full", "low_rank", "diagonal"]
Arrays = dict[str, NDArray[Any]]

#: How far the covariance is drawn to a multiple of the identity.
SHRINKAGE = 0.1
#: The share of validation clean samples that counts as typical, the rest half on either side.
TYPICAL = 0.98

# Enough for a covariance; eigenvectors of more would take minutes.
_MOST_ROWS = 2048
# More says nothing about where the curve bends.
_MOST_SAMPLES = 4096
# Beyond any log-distance.
_FARTHEST = 1e4
_STEEPNESS = np.geomspace(0.5, 20.0, 16)
_ONSET = np.linspace(0.0, 6.0, 31)
# Where nothing is fitted: the share of trust that is left one width of the band away from it, or
# at this log-distance from it where the band is wider.
_LEFT, _WIDEST = 0.1, 1.0


@dataclass(frozen=True)
class ClassSums:
    """Holds how many samples each class has ``[C]``, and the sum of their features ``[C, D]``."""

    counts: NDArray[np.int64]
    totals: NDArray[np.float64]

    @classmethod
    def of(cls, blocks: Iterable[NDArray[Any]], labels: NDArray[np.intp], classes: int) -> Self:
        """Sums rows that come some at a time, by their labels ``[N]`` from 0 to C - 1."""
        totals, start = None, 0
        for block in blocks:
            own = labels[start : start + len(block)]
            start += len(block)
            order = np.argsort(own, kind="stable")
            firsts = np.flatnonzero(np.diff(own[order], prepend=-1))
            if totals is None:
                totals = np.zeros((classes, block.shape[1]))
            if len(firsts):
                x = block[order].astype(np.float64)
                totals[own[order][firsts]] += np.add.reduceat(x, firsts, axis=0)
        if totals is None:
            raise MissingInput("there are no samples to sum")
        return cls(np.bincount(labels, minlength=classes), totals)


def fit_place(
    features: NDArray[Any],
    labels: NDArray[np.intp],
    *,
    covariance: Covariance = "low_rank",
    rank: int = 128,
    sums: ClassSums | None = None,
) -> Arrays:
    """Fits class means and a shrunk covariance that the classes share, of one modality.

    In ``"low_rank"`` the covariance is that within classes in the leading principal directions,
    and one variance outside them (a probabilistic PCA; Tipping and Bishop 1999); with no more
    features than ``rank`` that is the full one.

    Args:
        features: ``[N, D]``, finite, of training samples.
        labels: Class indices ``[N]``.
        covariance: Its form.
        rank: How many directions ``"low_rank"`` keeps.
        sums: Of all samples by class, where the features are those of some of them: enough for a
            covariance, and too few for means.

    Returns:
        What `log_distance` calls center [D], whitening [D, r] or [D], deviations [r], prototypes
        [c, r] and outside [], float32; c is the number of classes that occur.

    Raises:
        MissingInput: There are no samples.
        ShapeError: Sizes disagree.
        SpecError: An option is out of range.
    """
    if covariance not in get_args(Covariance) or rank < 1:
        raise SpecError(
            "there is no such covariance",
            expected=f"{' or '.join(get_args(Covariance))}, of rank 1 or more",
            got=f"{covariance!r} of rank {rank}",
        )
    if features.ndim != 2 or labels.shape != features.shape[:1]:
        raise ShapeError(
            "features and labels disagree about N",
            expected="[N, D] and [N]",
            got=f"{list(features.shape)} and {list(labels.shape)}",
        )
    if not len(features):
        raise MissingInput("there are no samples to say what is typical")
    if sums is None:
        classes, labels = np.unique(labels, return_inverse=True)
        blocks = (features[rows] for rows in row_parts(features))
        sums = ClassSums.of(blocks, labels, len(classes))
    occur = sums.counts > 0
    index = (np.cumsum(occur) - 1)[labels]
    counts, totals = sums.counts[occur], sums.totals[occur]
    center = totals.sum(axis=0) / counts.sum()
    means = totals / counts[:, None] - center
    samples, width = features.shape
    # The means take a degree of freedom for each class, from all samples together.
    freedom = max(1.0, samples * (1.0 - len(counts) / counts.sum()))
    basis = np.eye(width)
    if covariance == "low_rank" and rank < width:
        basis = _directions(features, center, rank)
    squares, left, scatter = np.zeros(width), 0.0, np.zeros((basis.shape[1],) * 2)
    for rows in row_parts(features):
        z = features[rows].astype(np.float64) - center
        within = z - means[index[rows]]
        squares += (within**2).sum(axis=0)
        if covariance != "diagonal":
            left += float((z**2).sum() - ((z @ basis) ** 2).sum())
            inside = within @ basis
            scatter += inside.T @ inside
    level = float(squares.sum() / freedom / width) or 1.0
    if covariance == "diagonal":
        variances = _shrunk(squares / freedom, level)
        whitening = 1.0 / np.sqrt(variances)
        outside, prototypes = 0.0, means * whitening
    else:
        values, vectors = np.linalg.eigh(scatter / freedom)
        variances = _shrunk(np.maximum(values, 0.0), level)
        whitening = basis @ vectors / np.sqrt(variances)
        missed = width - basis.shape[1]
        outside = 1.0 / _shrunk(max(left / samples, 0.0) / missed, level) if missed else 0.0
        prototypes = means @ whitening
    place = {
        "center": center,
        "whitening": whitening,
        "deviations": np.sqrt(variances),
        "prototypes": prototypes,
        "outside": np.array(outside),
    }
    # Features may vary so little that one over their variance is no number of float32.
    most = float(np.finfo(np.float32).max)
    return {name: array.clip(-most, most).astype(np.float32) for name, array in place.items()}


def _shrunk(variance: Any, level: float) -> Any:
    return (1.0 - SHRINKAGE) * variance + SHRINKAGE * level


def _directions(
    features: NDArray[Any], center: NDArray[np.float64], rank: int
) -> NDArray[np.float64]:
    """Finds the leading principal directions around the center, [D, r], r from one to the rank."""
    z = features[:: -(-len(features) // _MOST_ROWS)].astype(np.float64) - center
    if z.shape[1] <= len(z):
        vectors = np.linalg.eigh(z.T @ z)[1]
        return vectors[:, ::-1][:, :rank]
    values, rows = np.linalg.eigh(z @ z.T)
    values, rows = values[::-1][:rank], rows[:, ::-1][:, :rank]
    kept = values > 1e-10 * max(values[0], 1e-300)
    if not kept.any():  # nothing differs, and every direction is as good
        return np.eye(z.shape[1])[:, :1]
    found: NDArray[np.float64] = z.T @ rows[:, kept] / np.sqrt(values[kept])
    return found


def stacked(places: Sequence[Mapping[str, NDArray[Any]]], width: int) -> Arrays:
    """Stacks the places of all modalities, filled up to common sizes: the signal's parameters.

    Zeros fill features and directions, a prototype again fills prototypes: no distance changes.
    """
    rank = max(place["deviations"].shape[0] for place in places)
    count = max(place["prototypes"].shape[0] for place in places)
    diagonal = places[0]["whitening"].ndim == 1
    rank = width if diagonal else rank
    whitening = (rank,) if diagonal else (width, rank)
    shapes = {"center": (width,), "whitening": whitening, "deviations": (rank,)}
    result: dict[str, list[NDArray[Any]]] = {}
    for place in places:
        nu = place["prototypes"]
        nu = nu[np.minimum(np.arange(count), len(nu) - 1)]
        full = {name: _filled(place[name], shape) for name, shape in shapes.items()}
        full |= {"prototypes": _filled(nu, (count, rank)), "outside": place["outside"]}
        for name, array in full.items():
            result.setdefault(name, []).append(array)
    return {name: np.stack(arrays) for name, arrays in result.items()}


def _filled(array: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    missing = [(0, size - own) for size, own in zip(shape, array.shape, strict=True)]
    return np.pad(array, missing)


def fit_trust(
    clean: NDArray[Any], corrupted: NDArray[Any], likelihood: NDArray[Any], prior: NDArray[Any]
) -> Arrays:
    """Fits what a log-distance costs in trust, from samples that the modality's head never saw.

    A source that is trusted to the share s gives the label ``s p + (1 - s) prior`` (Shafer's
    discounting). s falls with the distance as the signal's logistic curve does, from 1 at what is
    typical; its steepness and onset make the labels of corrupted samples likeliest, over a grid.
    A head that is confidently wrong far out loses its trust the sooner.

    Args:
        clean: Log-distances of clean samples ``[N]``, for `fit_band`.
        corrupted: Log-distances of samples corrupted at random ``[S]``.
        likelihood: The probability that the head gives to the label of those, ``[S]``.
        prior: The frequency of that label, ``[S]``.

    Returns:
        ``band`` [2] and ``loss`` [2] (steepness and onset), float32.
    """
    low, high = fit_band(clean)
    if not len(clean):
        return _trust(low, high, _STEEPNESS[0], 0.0)
    excess = np.maximum(corrupted - high, 0.0) + np.maximum(low - corrupted, 0.0)
    beyond = np.flatnonzero(excess > 0)
    beyond = beyond[:: max(1, -(-len(beyond) // _MOST_SAMPLES))]
    e, p, known = (np.asarray(a, dtype=np.float64)[beyond] for a in (excess, likelihood, prior))
    k, h = (axis.ravel()[:, None] for axis in np.meshgrid(_STEEPNESS, _ONSET, indexing="ij"))
    share = np.exp(np.logaddexp(0.0, -k * h) - np.logaddexp(0.0, k * (e - h)))
    found = np.log(np.maximum(known + share * (p - known), 1e-12)).sum(axis=1)
    best = int(found.argmax())
    return _trust(low, high, k[best, 0], h[best, 0])


def fit_band(clean: NDArray[Any]) -> tuple[float, float]:
    """Finds between which two log-distances a sample is typical.

    Few clean samples say little about where typical ends: the band is widened on either side by
    ``2 / N`` times its width, and where that is below 1, times 1. Without any, all is typical.

    Args:
        clean: Log-distances of clean samples that the place was not fitted to, ``[N]``.
    """
    if not len(clean):
        return -_FARTHEST, _FARTHEST
    tail = (1.0 - TYPICAL) / 2.0
    low, high = np.quantile(clean, (tail, 1.0 - tail))
    margin = 2.0 / len(clean) * max(high - low, 1.0)
    return float(low - margin), float(high + margin)


def assume_trust(clean: NDArray[Any]) -> Arrays:
    """Assumes what a log-distance costs in trust, where there are no labels to fit it to.

    A tenth of the trust is left as far outside the band as the band is wide, and no farther than
    e times as far from a prototype as the band reaches. The trust falls as the signal's logistic
    curve does, with onset 0. What is within one deviation of a prototype is always typical: samples
    may be copies of each other.

    Args:
        clean: Log-distances of clean samples that the place was not fitted to, ``[N]``.

    Returns:
        As `fit_trust` does.
    """
    low, high = fit_band(np.maximum(clean, 0.0))
    steepness = np.log(2.0 / _LEFT - 1.0) / min(high - low, _WIDEST)
    return _trust(low if low > 0.0 else -_FARTHEST, high, steepness, 0.0)


def _trust(low: float, high: float, steepness: float, onset: float) -> Arrays:
    return {
        "band": np.array([low, high], dtype=np.float32),
        "loss": np.array([steepness, onset], dtype=np.float32),
    }
