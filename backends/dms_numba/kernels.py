"""Compiles the loops: each reads a row once from memory, and what follows from the cache.

A kernel works on rows ``start`` to ``stop`` of flat memory and gives up the interpreter's lock, so
that threads can share the rows. A row's result depends on that row alone, so the bits are the same
for any number of threads.

Sums may be reordered (``reassoc``), so that the compiler can use vectors. Nothing may assume that
there is no NaN or Inf. A loop that sums writes to no array: where two arrays lie close together,
the compiled code takes a path without vectors, and would sum in another order.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic, overload

_FAST = {"reassoc", "nsz", "contract"}
_compiled: Callable[..., Any] = njit(nogil=True, cache=True, fastmath=_FAST, error_model="numpy")


@intrinsic
def _larger(_: Any, a: Any, b: Any) -> Any:
    """The larger of two numbers, NaN if one is: a form whose loop becomes one of vectors."""

    def generate(_: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = arguments[0].type
        function = builder.module.declare_intrinsic(
            "llvm.maximum", [kind], ir.FunctionType(kind, [kind, kind])
        )
        return builder.call(function, arguments)

    return a(a, b), generate


@intrinsic
def _as_float(_: Any, bits: Any) -> Any:
    """The float32 of these bits."""

    def generate(_: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.int32), generate


def _exp(x):  # type: ignore[no-untyped-def]
    raise NotImplementedError  # compiled alone


# e^x = 2^k e^r with r in [-log(2) / 2, log(2) / 2]. The first of the two parts of log 2 has few
# bits, so that k times it is exact. The polynomial is the minimax one of degree 5 for
# (e^r - 1 - r) / r^2 (S. Moshier, Cephes, expf). Adding and subtracting 1.5 x 2^23 rounds.
_F = np.float32
_LOG2E, _HIGH, _LOW = _F(1.44269504088896341), _F(0.693359375), _F(-2.12194440e-4)
_ROUND, _SMALLEST = _F(12582912.0), _F(-87.0)
_C0, _C1, _C2, _C3, _C4, _C5 = (
    _F(c)
    for c in (
        1.9875691500e-4,
        1.3981999507e-3,
        8.3334519073e-3,
        4.1665795894e-2,
        1.6666665459e-1,
        5.0000001201e-1,
    )
)
_ZERO, _ONE, _BIAS, _SHIFT = _F(0.0), _F(1.0), np.int32(127), np.int32(23)


@njit(cache=True, fastmath={"contract"}, error_model="numpy")
def _exp32(x: Any) -> Any:
    """e^x for x up to 0, 2 units in the last place off; 0 below -87, NaN for NaN."""
    y = _SMALLEST if x < _SMALLEST else x
    k = (y * _LOG2E + _ROUND) - _ROUND
    r = y - k * _HIGH
    r = r - k * _LOW
    p = _C0
    p = p * r + _C1
    p = p * r + _C2
    p = p * r + _C3
    p = p * r + _C4
    p = p * r + _C5
    p = p * r * r + r + _ONE
    scaled = p * _as_float((np.int32(k) + _BIAS) << _SHIFT)
    return _ZERO if x < _SMALLEST else scaled


@overload(_exp)
def _(x):  # type: ignore[no-untyped-def]
    """Chooses by dtype; Numba compares the names and annotations of both signatures."""
    return (lambda x: _exp32(x)) if x == types.float32 else (lambda x: math.exp(x))


@_compiled
def _row_max(row):  # type: ignore[no-untyped-def]
    peak = row[0]
    for c in range(len(row)):
        peak = _larger(peak, row[c])
    return peak


@_compiled
def _exponentials(row, peak, out):  # type: ignore[no-untyped-def]
    """Writes exp(l - peak) and gives its sum."""
    for c in range(len(row)):
        out[c] = _exp(row[c] - peak)
    total = peak - peak
    for c in range(len(row)):
        total += out[c]
    return total


@_compiled
def softmax(flat, out, classes, start, stop):  # type: ignore[no-untyped-def]
    """softmax over rows of ``classes`` entries; ``out`` is flat as well."""
    for first in range(start * classes, stop * classes, classes):
        row, shares = flat[first : first + classes], out[first : first + classes]
        total = _exponentials(row, _row_max(row), shares)
        for c in range(classes):
            shares[c] /= total


@_compiled
def entropy(flat, out, classes, start, stop):  # type: ignore[no-untyped-def]
    """H = log S - sum(e^x x) / S, x = l - max l, for rows of ``classes`` entries."""
    # exp(-1e4) is 0, and 0 * -1e4 is 0 where 0 * -inf would be NaN.
    floor = flat.dtype.type(-1e4)
    for i in range(start, stop):
        row = flat[i * classes : (i + 1) * classes]
        peak = _row_max(row)
        total = peak - peak
        moment = total
        for c in range(classes):
            x = row[c] - peak
            x = floor if x < floor else x
            e = _exp(x)
            total += e
            moment += e * x
        out[i] = math.log(total) - moment / total


@_compiled
def variance(flat, out, passes, apart, classes, start, stop):  # type: ignore[no-untyped-def]
    """Population variance over passes of softmax(l), summed over classes.

    Passes of one row lie ``apart`` entries from each other. The exponentials of a row stay in a
    buffer that fits the cache: mean and deviations come from there, and nothing cancels.
    """
    buffer = np.empty((passes, classes), flat.dtype)
    share = np.empty(passes, flat.dtype)
    mean = np.empty(classes, flat.dtype)
    one, count = flat.dtype.type(1.0), flat.dtype.type(passes)
    for i in range(start, stop):
        mean[:] = 0.0
        for t in range(passes):
            first = t * apart + i * classes
            row, e = flat[first : first + classes], buffer[t]
            share[t] = one / _exponentials(row, _row_max(row), e)
            part = share[t] / count
            for c in range(classes):
                mean[c] += part * e[c]
        spread = share[0] - share[0]
        for t in range(passes):
            e, part = buffer[t], share[t]
            for c in range(classes):
                deviation = part * e[c] - mean[c]
                spread += deviation * deviation
        out[i] = spread / count


@_compiled
def _cosine(a, b):  # type: ignore[no-untyped-def]
    """Cosine of two vectors whose squares are in range; 0 where either is zero."""
    zero, one = a.dtype.type(0.0), a.dtype.type(1.0)
    dot, own, other = zero, zero, zero
    for d in range(len(a)):
        dot += a[d] * b[d]
        own += a[d] * a[d]
        other += b[d] * b[d]
    norms = math.sqrt(own) * math.sqrt(other)
    return min(max(dot / norms, -one), one) if norms > 0 else zero


@_compiled
def cosine(left, right, out, width, start, stop):  # type: ignore[no-untyped-def]
    """Cosine of rows of ``width`` entries."""
    for i in range(start, stop):
        first, end = i * width, (i + 1) * width
        out[i] = _cosine(left[first:end], right[first:end])


@_compiled
def _largest(row):  # type: ignore[no-untyped-def]
    peak = abs(row[0])
    for d in range(len(row)):
        peak = _larger(peak, abs(row[d]))
    return peak


@njit(cache=True, fastmath={"contract"}, error_model="numpy")
def _add(total: Any, share: Any, row: Any) -> None:
    """Adds share x row. Not reordered: a share is a quotient of what may be tiny, and p / q x h
    would become p x h / q, which is 0 where p x h underflows.
    """
    for d in range(len(row)):
        total[d] += share * row[d]


@_compiled
def alignment(  # type: ignore[no-untyped-def]
    flat, mask, out, ok, modalities, width, smallest, start, stop
):
    """Cosine of each of a sample's rows with the sum of the others, for samples start to stop.

    Each row is divided by its largest entry, or by the smallest normal number if that is larger.
    The others are added in units of the largest of their divisors, as in the plain form.
    A row that is not ok, masked or not finite, counts as zeros.
    """
    zero = flat.dtype.type(0.0)
    unit = np.empty((modalities, width), flat.dtype)
    divisors = np.empty(modalities, flat.dtype)
    others = np.empty(width, flat.dtype)
    for i in range(start, stop):
        for m in range(modalities):
            at = i * modalities + m
            row, own = flat[at * width : (at + 1) * width], unit[m]
            peak = _largest(row) if mask[at] else zero
            ok[at] = mask[at] and math.isfinite(peak)
            divisors[m] = max(peak, smallest) if ok[at] else smallest
            if ok[at]:
                for d in range(width):
                    own[d] = row[d] / divisors[m]
            else:
                own[:] = zero
        for m in range(modalities):
            largest = smallest
            for n in range(modalities):
                if n != m:
                    largest = max(largest, divisors[n])
            others[:] = 0.0
            for n in range(modalities):
                if n != m:
                    _add(others, divisors[n] / largest, unit[n])
            out[i * modalities + m] = _cosine(unit[m], others)


@_compiled
def weigh(  # type: ignore[no-untyped-def]
    flat, scores, active, weights, fused, modalities, width, start, stop
):
    """Softmax over a sample's active scores, and the sum of its rows with these weights.

    What is not active gets the weight 0, and its row is not read.
    """
    zero = flat.dtype.type(0.0)
    for i in range(start, stop):
        first = i * modalities
        peak, total = flat.dtype.type(-np.inf), zero
        for at in range(first, first + modalities):
            if active[at]:
                peak = _larger(peak, scores[at])
        for at in range(first, first + modalities):
            weights[at] = math.exp(scores[at] - peak) if active[at] else zero
            total += weights[at]
        out = fused[i * width : (i + 1) * width]
        out[:] = zero
        for at in range(first, first + modalities):
            if active[at]:
                weights[at] /= total
                _add(out, weights[at], flat[at * width : (at + 1) * width])


@_compiled
def finite(bits, out, width, infinity, start, stop):  # type: ignore[no-untyped-def]
    """Whether all numbers of a row are finite, from their bits as unsigned integers.

    Without its sign, Inf is ``infinity``; NaN has all of these bits too, and no finite number has.
    """
    for i in range(start, stop):
        row = bits[i * width : (i + 1) * width]
        largest = row[0] & infinity
        for d in range(width):
            largest = max(largest, row[d] & infinity)
        out[i] = largest != infinity


@_compiled
def finite_peaks(  # type: ignore[no-untyped-def]
    bits, signed, out, passes, apart, width, infinity, start, stop
):
    """Whether a row has in every pass no NaN, no +Inf, and not -Inf alone, from its bits.

    As signed integers, +Inf and NaN with the sign + are the largest. As unsigned ones, what has the
    sign - is larger than what has +; among these, only NaN is larger than -Inf.

    Args:
        bits: Of the numbers, as unsigned integers.
        signed: The same memory as signed integers.
        out: The verdicts.
        passes: How many there are.
        apart: How far they lie from each other, in entries.
        width: Numbers in a row.
        infinity: The bits of +Inf as a signed integer, those of -Inf as an unsigned one.
        start: The first row.
        stop: The row after the last.
    """
    plus, minus = infinity
    out[start:stop] = True
    for t in range(passes):
        for i in range(start, stop):
            first = t * apart + i * width
            row, other = bits[first : first + width], signed[first : first + width]
            top, most, some = other[0], row[0], True
            for c in range(width):
                top = max(top, other[c])
                most = max(most, row[c])
            if top < 0:  # nothing has the sign +
                least = row[0]
                for c in range(width):
                    least = min(least, row[c])
                some = least < minus
            out[i] &= (top < plus) & (most <= minus) & some
