"""Calibration: one temperature per head, and how far confidence is from being right.

For the host, in NumPy and float64. What is fitted here is a number that an artifact stores;
the heads divide by it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dms_spec.errors import DTypeError, MissingInput, NonFiniteInput, ShapeError, SpecError

#: Temperatures outside this range are not fitted: they say that the held-out set is separable,
#: or that the logits know nothing, and not how far to trust them.
TEMPERATURES = (0.05, 20.0)


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """A fitted temperature, and what it changed on the samples that it was fitted on.

    Attributes:
        temperature: What to divide the logits by, within `TEMPERATURES`.
        ece_before: Expected calibration error at temperature 1.
        ece_after: The same at the fitted temperature.
        nll_before: Mean negative log-likelihood at temperature 1, in nats.
        nll_after: The same at the fitted temperature; never above ``nll_before``.
        samples: How many samples it was fitted on.
        note: What is weaker than it looks, in words; empty when nothing is.
    """

    temperature: float
    ece_before: float
    ece_after: float
    nll_before: float
    nll_after: float
    samples: int
    note: str = ""


def fit_temperature(logits: ArrayLike, labels: ArrayLike) -> Calibration:
    """The temperature that makes held-out labels likeliest: Guo et al. 2017 (arXiv 1706.04599).

    In ``b = 1 / T`` the negative log-likelihood ``mean(logsumexp(b l) - b l_y)`` is convex, with
    slope ``mean(E_p l - l_y)`` and curvature ``mean(Var_p l)``: Newton's method inside a bracket
    that bisection keeps shrinking finds the one minimum. A minimum beyond `TEMPERATURES` gives
    the bound and a note; logits to which it makes no difference give 1 and a note.

    Args:
        logits: ``[N, C]``, of samples that the head was not fitted on. -inf rules a class out.
        labels: Integers ``[N]`` in [0, C).

    Raises:
        ShapeError: Sizes disagree, or a label is not a class.
        DTypeError: The labels are not integers, or the logits not numbers.
        MissingInput: There are no samples.
        NonFiniteInput: A logit is NaN or +Inf, or a row is nothing but -Inf.
    """
    scores, classes = _checked("logits", logits, labels)
    peak = scores.max(axis=1, keepdims=True)
    if not np.isfinite(peak).all():
        row = int(np.argmin(np.isfinite(peak[:, 0])))
        raise NonFiniteInput(
            "a row of logits is not usable",
            expected="no NaN, no +Inf, and something above -Inf",
            got=f"a largest logit of {peak[row, 0]} in row {row}",
            fix="Leave out the samples in which the modality is absent.",
        )
    shifted = scores - peak  # exact for equal logits, and nothing overflows
    rows = np.arange(len(classes))
    # No temperature saves a label that is ruled out; the others are still worth fitting.
    possible = np.isfinite(shifted[rows, classes])
    inverse, note = _minimum(shifted[possible], classes[possible])
    if not possible.all():
        lost = f"{(~possible).sum()} of {len(classes)} labels have a logit of -inf"
        note = f"{note}; {lost}" if note else lost
    before, after = (_nll(shifted[possible], classes[possible], b) for b in (1.0, inverse))
    if not after < before:  # the minimum is at 1, to within round-off
        inverse = 1.0
    return Calibration(
        temperature=1.0 / inverse,
        ece_before=expected_calibration_error(_softmax(shifted), classes),
        ece_after=expected_calibration_error(_softmax(shifted * inverse), classes),
        nll_before=_nll(shifted, classes, 1.0),
        nll_after=_nll(shifted, classes, inverse),
        samples=len(classes),
        note=note,
    )


def expected_calibration_error(
    probabilities: ArrayLike, labels: ArrayLike, bins: int = 15
) -> float:
    """ECE: the gap between confidence and accuracy, averaged over bins of confidence.

    ``sum_i n_i / N * |accuracy_i - confidence_i|`` over ``bins`` bins of equal width, bin i being
    ``((i - 1) / bins, i / bins]``; an empty bin adds nothing. The confidence is the largest
    probability, the prediction its first class. Naeini et al. 2015 (AAAI); Guo et al. 2017.

    Args:
        probabilities: ``[N, C]``; rows sum to one.
        labels: Integers ``[N]`` in [0, C).
        bins: At least 1.

    Returns:
        A number in [0, 1].

    Raises:
        ShapeError: Sizes disagree, or a label is not a class.
        DTypeError: The labels are not integers, or the probabilities not numbers.
        MissingInput: There are no samples.
        SpecError: There is no bin, or the rows are not probabilities.
    """
    if bins < 1:
        raise SpecError("there is no bin", expected="bins = 1 or more", got=str(bins))
    p, classes = _checked("probabilities", probabilities, labels)
    # Half precision is the coarsest that comes in: its eps is 1e-3 for each of C terms.
    sums = np.abs(p.sum(axis=1) - 1)
    if not ((p >= 0).all() and (sums <= 1e-2).all()):
        raise SpecError(
            "rows are not probabilities",
            expected="numbers of 0 or more that sum to one",
            got=f"from {p.min()} to {p.max()}, sums off by up to {sums.max()}",
            fix="Apply softmax to logits first.",
        )
    confidence, right = p.max(axis=1), p.argmax(axis=1) == classes
    upper = np.arange(1, bins) / bins  # the last bin takes what round-off lifts above 1
    bin_of = np.searchsorted(upper, confidence, side="left")
    gaps = np.bincount(bin_of, weights=right - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(classes))


def _minimum(shifted: NDArray[np.float64], labels: NDArray[np.intp]) -> tuple[float, str]:
    """The b = 1 / T in bounds that minimises the mean NLL, and what to note about it."""
    low, high = 1.0 / TEMPERATURES[1], 1.0 / TEMPERATURES[0]
    slope, curvature = _derivatives(shifted, labels, 1.0)
    if slope == 0.0 and curvature == 0.0:
        return 1.0, "the temperature makes no difference to these logits"
    if _derivatives(shifted, labels, low)[0] >= 0:
        return low, f"the temperature is at its bound {TEMPERATURES[1]}: the logits know nothing"
    if _derivatives(shifted, labels, high)[0] <= 0:
        return high, f"the temperature is at its bound {TEMPERATURES[0]}: the samples are separable"
    b = 1.0
    for _ in range(100):  # bisection alone needs about 50
        newton = b - slope / curvature if curvature > 0 else low
        if abs(newton - b) <= 1e-12 * b:
            break
        low, high = (low, b) if slope > 0 else (b, high)
        b = newton if low < newton < high else 0.5 * (low + high)
        slope, curvature = _derivatives(shifted, labels, b)
    return b, ""


def _derivatives(
    shifted: NDArray[np.float64], labels: NDArray[np.intp], b: float
) -> tuple[float, float]:
    """First and second derivative in b of the mean NLL at inverse temperature b."""
    if not len(labels):
        return 0.0, 0.0
    p = _softmax(shifted * b)
    x = np.where(np.isneginf(shifted), 0.0, shifted)  # p is 0 there, and 0 * -inf is NaN
    mean = (p * x).sum(axis=1)
    variance = (p * (x - mean[:, None]) ** 2).sum(axis=1)
    return float((mean - x[np.arange(len(labels)), labels]).mean()), float(variance.mean())


def _nll(shifted: NDArray[np.float64], labels: NDArray[np.intp], b: float) -> float:
    x = shifted * b
    losses = np.log(np.exp(x).sum(axis=1)) - x[np.arange(len(labels)), labels]
    return float(losses.sum() / max(1, len(labels)))


def _softmax(shifted: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of rows whose largest entry is 0."""
    e: NDArray[np.float64] = np.exp(shifted)
    e /= e.sum(axis=1, keepdims=True)
    return e


def _checked(
    name: str, scores: ArrayLike, labels: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """Scores [N, C] in float64 and labels [N], or an error that says what is wrong."""
    s: NDArray[Any] = np.asarray(scores)
    y: NDArray[Any] = np.asarray(labels)
    if s.ndim != 2 or s.shape[1] == 0:
        raise ShapeError(f"{name} have the wrong shape", expected="[N, C]", got=str(list(s.shape)))
    if y.shape != s.shape[:1]:
        raise ShapeError(
            f"labels and {name} disagree about N",
            expected=f"labels [{s.shape[0]}]",
            got=str(list(y.shape)),
            fix="One label for each row.",
        )
    if not len(y):
        raise MissingInput("there are no samples", expected="at least one", got="0")
    if s.dtype.kind not in "fiu":
        raise DTypeError(f"{name} have the wrong dtype", expected="numbers", got=str(s.dtype))
    if y.dtype.kind not in "iu":
        raise DTypeError("labels have the wrong dtype", expected="integers", got=str(y.dtype))
    if y.min() < 0 or y.max() >= s.shape[1]:
        raise ShapeError(
            f"labels and {name} disagree about C",
            expected=f"labels from 0 to {s.shape[1] - 1}",
            got=f"{y.min()} to {y.max()}",
            fix="Number the classes from 0 in the order of the columns.",
        )
    return s.astype(np.float64), y.astype(np.intp)
