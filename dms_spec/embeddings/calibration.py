"""Calibrates: one temperature per head, and how far confidence is from being right.

For the host, in NumPy and float64. What is fitted here is a number that an artifact stores;
the heads divide by it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dms_spec.errors import DTypeError, MissingInput, NonFiniteInput, ShapeError, SpecError

#: Temperatures outside this range are not fitted: they say that the validation set is separable,
#: or that the logits know nothing. They do not say how far to trust them.
TEMPERATURES = (0.05, 20.0)


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Holds a fitted temperature, and what it changed on the samples that it was fitted on.

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


def fit_temperature(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    prior: ArrayLike | None = None,
    weight: ArrayLike | None = None,
) -> Calibration:
    """Fits the temperature that makes validation labels likeliest: Guo et al. 2017 (arXiv
    1706.04599).

    In ``b = 1 / T`` the negative log-likelihood ``mean(logsumexp(b l) - b l_y)`` is convex, with
    slope ``mean(E_p l - l_y)`` and curvature ``mean(Var_p l)``: Newton's method inside a bracket
    that bisection keeps shrinking finds the one minimum. A minimum beyond `TEMPERATURES` gives
    the bound and a note; logits to which it makes no difference give 1 and a note.

    With a prior, the temperature divides what the logits say beyond it, ``l - log prior``, so that
    a head with a high temperature says what is frequent, not that all classes are alike. Each
    label then counts as drawn from the prior to the share ``100 / (100 + N^2)``: four fifths of 5
    labels, a fifth of 20, a thousandth of 300. So a head that few samples judge says little.

    Args:
        logits: ``[N, C]``, of samples that the head was not fitted on. -inf rules a class out.
        labels: Integers ``[N]`` in [0, C).
        prior: Probabilities above 0, ``[C]`` or ``[N, C]``; then every logit is finite.
        weight: How much each sample counts, ``[N]``, 0 or more, some above 0; None for all alike.

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
    rows = np.arange(len(classes))
    offset, random = np.zeros_like(scores), 0.0
    if prior is not None:
        offset = np.broadcast_to(np.log(np.asarray(prior, dtype=np.float64)), scores.shape)
        random = 100.0 / (100.0 + len(classes) ** 2)
    shifted = scores - offset
    shifted = shifted - shifted.max(axis=1, keepdims=True)  # exact for equal logits
    target = np.zeros_like(scores)
    target[rows, classes] = 1.0
    if prior is not None:
        target = (1.0 - random) * target + random * np.exp(offset)
    counts = np.ones(len(classes)) if weight is None else np.asarray(weight, dtype=np.float64)
    # No temperature saves a label that is ruled out; the others are still worth fitting.
    possible = np.isfinite(shifted[rows, classes])
    judged = _Judged(shifted[possible], offset[possible], target[possible], counts[possible])
    inverse, note = _minimum(judged)
    if not possible.all():
        lost = f"{(~possible).sum()} of {len(classes)} labels have a logit of -inf"
        note = f"{note}; {lost}" if note else lost
    if not judged.loss(inverse) < judged.loss(1.0):  # the minimum is at 1, to within round-off
        inverse = 1.0
    whole = _Judged(shifted, offset, np.eye(scores.shape[1])[classes], counts)
    return Calibration(
        temperature=1.0 / inverse,
        ece_before=expected_calibration_error(whole.probabilities(1.0), classes),
        ece_after=expected_calibration_error(whole.probabilities(inverse), classes),
        nll_before=whole.loss(1.0),
        nll_after=whole.loss(inverse),
        samples=len(classes),
        note=note,
    )


def expected_calibration_error(
    probabilities: ArrayLike, labels: ArrayLike, bins: int = 15
) -> float:
    """Computes the ECE: the gap between confidence and accuracy, averaged over bins of confidence.

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
    p, classes = _checked("probabilities", probabilities, labels)
    check_probabilities(p)
    return calibration_error(p.max(axis=1), p.argmax(axis=1) == classes, bins)


def check_probabilities(p: NDArray[Any]) -> None:
    """Checks that rows are probabilities.

    Raises:
        SpecError: They are not.
    """
    # Half precision is the coarsest that comes in: its eps is 1e-3 for each of C terms.
    sums = np.abs(p.sum(axis=1) - 1)
    if not ((p >= 0).all() and (sums <= 1e-2).all()):
        raise SpecError(
            "rows are not probabilities",
            expected="numbers of 0 or more that sum to one",
            got=f"from {p.min()} to {p.max()}, sums off by up to {sums.max()}",
            fix="Apply softmax to logits first.",
        )


def calibration_error(
    confidence: NDArray[np.floating], right: NDArray[np.bool_], bins: int = 15
) -> float:
    """Computes the same of the largest probability of each row, and whether its class is right.

    Args:
        confidence: ``[N]``, at least one.
        right: bool ``[N]``.
        bins: At least 1.

    Raises:
        SpecError: There is no bin.
    """
    if bins < 1:
        raise SpecError("there is no bin", expected="bins = 1 or more", got=str(bins))
    upper = np.arange(1, bins) / bins  # the last bin takes what round-off lifts above 1
    bin_of = np.searchsorted(upper, confidence, side="left")
    gaps = np.bincount(bin_of, weights=right - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(confidence))


@dataclass(frozen=True)
class _Judged:
    """Holds samples that judge a temperature: at ``b = 1 / T`` the logits ``offset + b shifted``.

    All are [N, C] but the weight, [N]; rows of the target sum to one.
    """

    shifted: NDArray[np.float64]
    offset: NDArray[np.float64]
    target: NDArray[np.float64]
    weight: NDArray[np.float64]

    def probabilities(self, b: float) -> NDArray[np.float64]:
        logits = self.offset + b * self.shifted
        e: NDArray[np.float64] = np.exp(logits - logits.max(axis=1, keepdims=True))
        e /= e.sum(axis=1, keepdims=True)
        return e

    def loss(self, b: float) -> float:
        """Computes the mean negative log-likelihood."""
        logits = self.offset + b * self.shifted
        logits = logits - logits.max(axis=1, keepdims=True)
        said = np.where(self.target > 0, logits, 0.0)
        losses = np.log(np.exp(logits).sum(axis=1)) - (self.target * said).sum(axis=1)
        return self._mean(losses)

    def derivatives(self, b: float) -> tuple[float, float]:
        """Computes the first and second derivative of `loss`."""
        p = self.probabilities(b)
        x = np.where(np.isneginf(self.shifted), 0.0, self.shifted)  # p is 0 there: 0 * -inf is NaN
        mean = (p * x).sum(axis=1)
        variance = (p * (x - mean[:, None]) ** 2).sum(axis=1)
        slope = self._mean(mean - (self.target * x).sum(axis=1))
        return slope, self._mean(variance)

    def _mean(self, values: NDArray[np.float64]) -> float:
        total = self.weight.sum()
        return float((self.weight * values).sum() / total) if total > 0 else 0.0


def _minimum(judged: _Judged) -> tuple[float, str]:
    """Finds the b = 1 / T in bounds that minimises the loss, and what to note about it."""
    low, high = 1.0 / TEMPERATURES[1], 1.0 / TEMPERATURES[0]
    slope, curvature = judged.derivatives(1.0)
    if slope == 0.0 and curvature == 0.0:
        return 1.0, "the temperature makes no difference to these logits"
    if judged.derivatives(low)[0] >= 0:
        return low, f"the temperature is at its bound {TEMPERATURES[1]}: the logits know nothing"
    if judged.derivatives(high)[0] <= 0:
        return high, f"the temperature is at its bound {TEMPERATURES[0]}: the samples are separable"
    b = 1.0
    for _ in range(100):  # bisection alone needs about 50
        newton = b - slope / curvature if curvature > 0 else low
        if abs(newton - b) <= 1e-12 * b:
            break
        low, high = (low, b) if slope > 0 else (b, high)
        b = newton if low < newton < high else 0.5 * (low + high)
        slope, curvature = judged.derivatives(b)
    return b, ""


def _checked(
    name: str, scores: ArrayLike, labels: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """Gives scores [N, C] in float64 and labels [N], or an error that says what is wrong."""
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
