"""Compiles the loops over features: a sample is read once from memory, then from the cache.

As in `dms_numba.logits`, a kernel works on samples or rows ``start`` to ``stop`` of flat memory,
and what comes out depends on that sample or row alone.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from dms_numba.vectors import (
    all_of,
    compiled,
    fma,
    inlined,
    lanes,
    larger,
    largest,
    load,
    read,
    scratch,
    size,
    store,
    total,
    write,
)


@compiled
def finite(flat: Any, out: Any, width: Any, start: Any, stop: Any) -> None:
    """Whether all numbers of a row are finite: 0 times NaN or Inf is NaN, and is not 0."""
    for i in range(start, stop):
        zeros = all_of(flat, 0.0)
        for d in range(0, width, lanes(flat)):
            zeros = fma(read(flat, i * width + d, width - d, 0.0), 0.0, zeros)
        out[i] = total(zeros) == 0


@compiled
def cosine(left: Any, right: Any, out: Any, width: Any, start: Any, stop: Any) -> None:
    """Cosine of rows of ``width`` entries, whose squares are in range."""
    for i in range(start, stop):
        dot, own, other = all_of(left, 0.0), all_of(left, 0.0), all_of(left, 0.0)
        for d in range(0, width, lanes(left)):
            a = read(left, i * width + d, width - d, 0.0)
            b = read(right, i * width + d, width - d, 0.0)
            dot, own, other = fma(a, b, dot), fma(a, a, own), fma(b, b, other)
        out[i] = _cosine(total(dot), total(own), total(other), left.dtype.type(1.0))


@inlined
def _cosine(dot: Any, own: Any, other: Any, one: Any) -> Any:
    """Cosine from a product and two squared lengths; 0 where a length is 0."""
    norms = math.sqrt(own) * math.sqrt(other)
    return min(max(dot / norms, -one), one) if norms > 0 else one - one


@compiled
def alignment(
    flat: Any,
    mask: Any,
    out: Any,
    ok: Any,
    modalities: Any,
    width: Any,
    smallest: Any,
    start: Any,
    stop: Any,
) -> None:
    """Cosine of each of a sample's rows with the sum of the others, for samples start to stop.

    Each row is divided by its largest entry, or by ``smallest``, the smallest normal number, if
    that is larger. The others are added in units of the largest of their divisors, as in the plain
    form. A row that is not ok, masked or not finite, counts as zeros.
    """
    padded = (width + lanes(flat) - 1) // lanes(flat) * lanes(flat)
    units = scratch(flat, modalities * padded)
    divisors, shares = np.empty(modalities, flat.dtype), np.empty(modalities, flat.dtype)
    for first in range(start * modalities, stop * modalities, modalities):
        for m in range(modalities):
            peak = _peak(flat, (first + m) * width, width)
            ok[first + m] = mask[first + m] and peak == peak
            divisors[m] = max(peak, smallest) if ok[first + m] else smallest
            if ok[first + m]:
                scale = flat.dtype.type(1.0) / divisors[m]
                for d in range(0, width, lanes(flat)):
                    row = read(flat, (first + m) * width + d, width - d, 0.0)
                    store(units, m * padded + d, row * scale)
            else:
                units[m * padded : (m + 1) * padded] = 0.0
        for m in range(modalities):
            _share(divisors, m, smallest, shares)
            out[first + m] = _with_others(units, padded, m, shares)


@inlined
def _peak(flat: Any, first: Any, width: Any) -> Any:
    """The largest of a row's absolute values; NaN if it is not finite throughout."""
    peaks, zeros = all_of(flat, 0.0), all_of(flat, 0.0)
    for d in range(0, width, lanes(flat)):
        row = read(flat, first + d, width - d, 0.0)
        peaks = larger(size(row), peaks)
        zeros = fma(row, 0.0, zeros)
    return largest(peaks) + total(zeros)


@inlined
def _share(divisors: Any, own: Any, smallest: Any, shares: Any) -> None:
    """Writes each row's divisor over the largest of all but one row, whose own share is 0."""
    most = smallest
    for n in range(len(divisors)):
        if n != own:
            most = max(most, divisors[n])
    for n in range(len(divisors)):
        shares[n] = divisors[n] / most if n != own else smallest - smallest


@inlined
def _with_others(units: Any, padded: Any, own: Any, shares: Any) -> Any:
    """Cosine of one row with the sum of all rows, each times its share."""
    dot, square, others = all_of(units, 0.0), all_of(units, 0.0), all_of(units, 0.0)
    for d in range(0, padded, lanes(units)):
        row, other = load(units, own * padded + d), all_of(units, 0.0)
        for n in range(len(shares)):
            other = fma(load(units, n * padded + d), shares[n], other)
        dot, square, others = fma(row, other, dot), fma(row, row, square), fma(other, other, others)
    return _cosine(total(dot), total(square), total(others), units.dtype.type(1.0))


@compiled
def weigh(
    flat: Any,
    scores: Any,
    active: Any,
    weights: Any,
    fused: Any,
    modalities: Any,
    width: Any,
    start: Any,
    stop: Any,
) -> None:
    """Softmax over a sample's active scores, and the sum of its rows with these weights.

    What is not active gets the weight 0, and its row is not read.
    """
    rows = np.empty(modalities, np.intp)
    for i in range(start, stop):
        count = _weights(scores, active, weights, i * modalities, modalities, rows)
        for d in range(0, width, lanes(flat)):
            vector = all_of(flat, 0.0)
            for row in rows[:count]:
                vector = fma(read(flat, row * width + d, width - d, 0.0), weights[row], vector)
            write(fused, i * width + d, width - d, vector)


@inlined
def _weights(scores: Any, active: Any, weights: Any, first: Any, modalities: Any, rows: Any) -> Any:
    """Writes the weights of a sample and which of its rows are active, and says how many are."""
    zero, count = weights.dtype.type(0.0), 0
    peak, mass = weights.dtype.type(-np.inf), zero
    for k in range(first, first + modalities):
        if active[k]:
            peak = max(peak, scores[k])
            rows[count] = k
            count += 1
    for k in range(first, first + modalities):
        weights[k] = math.exp(scores[k] - peak) if active[k] else zero
        mass += weights[k]
    for row in rows[:count]:
        weights[row] /= mass
    return count
