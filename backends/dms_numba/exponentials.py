"""Computes exponentials and logarithms of vectors, in float32 and float64.

After a change here, delete ``__pycache__``: see `dms_numba.vectors`.
"""

from __future__ import annotations

from typing import Any

from numba import types
from numba.extending import overload

from dms_numba.vectors import fma, larger, polynomial, power, times_power, where_less


def exp(x: Any) -> Any:
    """e^x for x up to 0, .7 eps off; 0 below -87 or, in float64, -708. NaN stays NaN."""
    raise NotImplementedError  # compiled alone


def log(x: Any) -> Any:
    """log x of a normal number above 0, 2 eps off; anything of another one."""
    raise NotImplementedError


# e^x = 2^k e^r with r in [-log(2) / 2, log(2) / 2]. Adding 1.5 x 2^23 or 2^52 rounds to k. The
# first of the two parts of log 2 has few bits, so that k times it is exact. The polynomial is the
# minimax one of the form 1 + r + r^2 q(r) for the relative error, .05 or .03 units of rounding off.
_CONSTANTS = {
    types.float32: (
        -87.0,
        1.5 * 2**23,
        0.693359375,
        -2.12194440e-4,
        (
            0.0013814598527600118,
            0.0083687168776980998,
            0.041668388046206197,
            0.16666520631748298,
            0.49999993447804618,
            1.0,
            1.0,
        ),
    ),
    types.float64: (
        -708.0,
        1.5 * 2**52,
        6.93147180369123816490e-01,
        1.90821492927058770002e-10,
        (
            2.5000060053638221e-8,
            2.7630248423996362e-7,
            2.755758637826493e-6,
            2.4801493098786526e-5,
            0.00019841269506574314,
            0.0013888888943630218,
            0.0083333333334944634,
            0.041666666666530158,
            0.16666666666666413,
            0.50000000000000106,
            1.0,
            1.0,
        ),
    ),
}
_LOG2E = 1.4426950408889634


@overload(exp, jit_options={"forceinline": True, "error_model": "numpy"})
def _(x: Any) -> Any:
    least, rounding, high, low, coefficients = _CONSTANTS[x.dtype]

    def compute(x: Any) -> Any:
        shifted = fma(larger(least, x), _LOG2E, rounding)
        k = shifted - rounding
        r = fma(k, -low, fma(k, -high, larger(least, x)))
        return where_less(x, least, 0.0, times_power(polynomial(r, coefficients), shifted))

    return compute


# log x = k log 2 + log f, x = 2^k f, f in [sqrt(1/2), sqrt(2)]. With z = (f - 1) / (f + 1), at most
# .172, log f is 2 z (1 + z^2 / 3 + z^4 / 5 + ...), of which so many terms are taken that the first
# left out is below a tenth of rounding.
_TERMS = {types.float32: 5, types.float64: 11}


@overload(log, jit_options={"forceinline": True, "error_model": "numpy"})
def _(x: Any) -> Any:
    _, rounding, high, low, _ = _CONSTANTS[x.dtype]
    coefficients = tuple(1 / (2 * n + 1) for n in reversed(range(_TERMS[x.dtype])))

    def compute(x: Any) -> Any:
        k = power(x)
        f = times_power(x, rounding - k)
        z = (f - 1.0) / (f + 1.0)
        return fma(k, high, fma(k, low, 2.0 * z * polynomial(z * z, coefficients)))

    return compute
