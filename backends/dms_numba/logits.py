"""Compiles the loops over rows of logits: each row is read once from memory, then from the cache.

A kernel works on rows ``start`` to ``stop`` of flat memory and gives up the interpreter's lock, so
that threads can share the rows. A row's result depends on that row alone, so the bits are the same
for any number of threads, and wherever an array lies.

A row is usable if it has a finite maximum: no NaN, no +Inf, not -Inf alone. Of a row that is not
(for passes, not in every one), `softmax`, `entropy`, `variance` and `mutual_information` make NaN;
of any other row, none ever. So ``isfinite`` of such a result is the verdict of `finite_peaks`, and
costs no further reading.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from dms_numba.exponentials import exp, log
from dms_numba.vectors import (
    all_of,
    compiled,
    fma,
    inlined,
    lanes,
    larger,
    largest,
    load,
    prefetch,
    read,
    scratch,
    store,
    total,
    write,
)

# Far enough below 0 that its exponential is 0; 0 times it is 0, where 0 * -inf would be NaN.
_NO_MASS = -1e4

# How many rows ahead to ask for: passes of a row lie far apart, and no machine guesses the next.
_AHEAD = 2


@inlined
def _peak(flat: Any, first: Any, classes: Any) -> Any:
    """The largest number of a row; that of the others where one is NaN."""
    peak = all_of(flat, -np.inf)
    for c in range(0, classes, lanes(flat)):
        peak = larger(read(flat, first + c, classes - c, -np.inf), peak)
    return largest(peak)


@inlined
def _exponentials(
    flat: Any, first: Any, classes: Any, peak: Any, ahead: Any, buffer: Any, place: Any
) -> Any:
    """Writes exp(l - max l) and zeros up to a whole vector, and gives the sum.

    The maximum passes over NaN, and NaN reaches the sum from here: l itself is NaN, or Inf - Inf.

    Args:
        flat: The logits.
        first: Where the row begins.
        classes: Its length.
        peak: Its maximum.
        ahead: Where a row begins that is needed soon.
        buffer: To write to.
        place: Where, in the buffer.
    """
    sums = all_of(flat, 0.0)
    for c in range(0, classes, lanes(flat)):
        prefetch(flat, ahead + c)
        e = exp(read(flat, first + c, classes - c, -np.inf) - peak)
        store(buffer, place + c, e)
        sums += e
    return total(sums)


@inlined
def _padded(flat: Any, classes: Any) -> Any:
    """The length of a row in whole vectors."""
    return (classes + lanes(flat) - 1) // lanes(flat) * lanes(flat)


@compiled
def softmax(flat: Any, out: Any, classes: Any, start: Any, stop: Any) -> None:
    """softmax over rows of ``classes`` entries; ``out`` is flat as well."""
    one = flat.dtype.type(1.0)
    buffer = scratch(flat, _padded(flat, classes))
    for first in range(start * classes, stop * classes, classes):
        peak = _peak(flat, first, classes)
        share = one / _exponentials(flat, first, classes, peak, first + classes, buffer, 0)
        for c in range(0, classes, lanes(flat)):
            write(out, first + c, classes - c, load(buffer, c) * share)


@compiled
def entropy(flat: Any, mask: Any, out: Any, classes: Any, start: Any, stop: Any) -> None:
    """H = log S - sum(e^x x) / S, x = l - max l, for rows of ``classes`` entries.

    A row that is masked is not read, and NaN.
    """
    for i in range(start, stop):
        if not mask[i]:
            out[i] = np.nan
            continue
        peak = _peak(flat, i * classes, classes)
        sums, moments = all_of(flat, 0.0), all_of(flat, 0.0)
        for c in range(0, classes, lanes(flat)):
            x = read(flat, i * classes + c, classes - c, -np.inf) - peak
            x = larger(_NO_MASS, x)
            e = exp(x)
            sums += e
            moments = fma(e, x, moments)
        mass = total(sums)
        out[i] = math.log(mass) - total(moments) / mass


@compiled
def variance(
    flat: Any, mask: Any, out: Any, passes: Any, apart: Any, classes: Any, start: Any, stop: Any
) -> None:
    """Population variance over passes of softmax(l), summed over classes.

    Passes of one row lie ``apart`` entries from each other. The exponentials of a row stay in a
    buffer that fits the cache: mean and deviations come from there, and nothing cancels. A row that
    is masked is not read, and NaN.
    """
    padded = _padded(flat, classes)
    buffer = scratch(flat, passes * padded)
    shares, peaks = np.empty(passes, flat.dtype), np.empty(passes, flat.dtype)
    for i in range(start, stop):
        if mask[i]:
            _all_passes(flat, i, apart, classes, buffer, padded, shares, peaks)
            out[i] = _variance(buffer, padded, shares)
        else:
            out[i] = np.nan


@inlined
def _all_passes(
    flat: Any, i: Any, apart: Any, classes: Any, buffer: Any, padded: Any, shares: Any, peaks: Any
) -> None:
    """Writes exp(l - max l) of each pass of a row, and for each one over its sum, and max l."""
    passes = len(shares)
    for t in range(passes):
        later = t + _AHEAD
        ahead = later % passes * apart + (i + later // passes) * classes
        first = t * apart + i * classes
        peaks[t] = _peak(flat, first, classes)
        sums = _exponentials(flat, first, classes, peaks[t], ahead, buffer, t * padded)
        shares[t] = flat.dtype.type(1.0) / sums


@inlined
def _mean(buffer: Any, padded: Any, c: Any, shares: Any) -> Any:
    """The mean over passes of probabilities, for the classes from c on."""
    mean = all_of(buffer, 0.0)
    for t in range(len(shares)):
        mean = fma(load(buffer, t * padded + c), shares[t], mean)
    return mean / buffer.dtype.type(len(shares))


@inlined
def _variance(buffer: Any, padded: Any, shares: Any) -> Any:
    """Population variance of what `_all_passes` has written."""
    spread = all_of(buffer, 0.0)
    for c in range(0, padded, lanes(buffer)):
        mean, own = _mean(buffer, padded, c, shares), all_of(buffer, 0.0)
        for t in range(len(shares)):
            deviation = load(buffer, t * padded + c) * shares[t] - mean
            own = fma(deviation, deviation, own)
        spread += own
    return total(spread) / buffer.dtype.type(len(shares))


@compiled
def mutual_information(
    flat: Any,
    mask: Any,
    out: Any,
    passes: Any,
    apart: Any,
    classes: Any,
    smallest: Any,
    start: Any,
    stop: Any,
) -> None:
    """Mean over passes of KL(p || mean p), p = softmax(l). ``smallest`` is the smallest normal
    number; the rest is as in `variance`.
    """
    padded = _padded(flat, classes)
    buffer = scratch(flat, passes * padded)
    shares, peaks = np.empty(passes, flat.dtype), np.empty(passes, flat.dtype)
    logs = np.empty(passes, flat.dtype)
    for i in range(start, stop):
        if not mask[i]:
            out[i] = np.nan
            continue
        _all_passes(flat, i, apart, classes, buffer, padded, shares, peaks)
        for t in range(passes):
            logs[t] = math.log(shares[t])
        gained = all_of(flat, 0.0)
        for c in range(0, padded, lanes(flat)):
            # Where this is no log of the mean, or the log of p has its floor, p times it is 0.
            log_mean = log(larger(smallest, _mean(buffer, padded, c, shares)))
            own = all_of(flat, 0.0)
            for t in range(passes):
                first = t * apart + i * classes
                shifted = read(flat, first + c, classes - c, -np.inf) - peaks[t]
                ratio = larger(_NO_MASS, shifted) + logs[t] - log_mean
                own = fma(load(buffer, t * padded + c) * shares[t], ratio, own)
            gained += own
        found = total(gained) / flat.dtype.type(passes)
        out[i] = found if not found < 0 else found - found


@compiled
def finite_peaks(
    flat: Any, out: Any, passes: Any, apart: Any, classes: Any, start: Any, stop: Any
) -> None:
    """Whether a row has a finite maximum in every pass."""
    out[start:stop] = True
    for t in range(passes):
        for i in range(start, stop):
            out[i] &= _usable(flat, t * apart + i * classes, classes)


@inlined
def _usable(flat: Any, first: Any, classes: Any) -> Any:
    """Whether a row has a finite maximum. 0 times NaN or Inf is NaN, and is not 0."""
    peak, zeros = all_of(flat, -np.inf), all_of(flat, 0.0)
    for c in range(0, classes, lanes(flat)):
        x = read(flat, first + c, classes - c, -np.inf)
        peak = larger(x, peak)
        zeros = fma(larger(_NO_MASS, x), 0.0, zeros)
    return (total(zeros) == 0) & (largest(peak) > -np.inf)
