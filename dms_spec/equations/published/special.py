"""log Gamma and its derivative over the array API, which has neither, for arguments of 1 or more.

Shifted up by the recurrences ``lgamma(x) = lgamma(x + 1) - log x`` and ``digamma(x) = digamma(x +
1) - 1 / x`` to x + 9, where Stirling's series (Abramowitz and Stegun 6.1.40 and 6.3.18) is cut
at an error below 1e-14.
"""

from __future__ import annotations

from math import log, pi

from dms_spec.equations.namespace import Namespace
from dms_spec.types import Array

_SHIFT = 9
# B_2k / (2 k), for k = 1 to 7.
_BERNOULLI = (1 / 12, -1 / 120, 1 / 252, -1 / 240, 1 / 132, -691 / 32760, 1 / 12)


def log_gamma(ns: Namespace, x: Array) -> Array:
    """log Gamma(x) for x >= 1, any shape, floating; its gradient is the digamma function."""
    xp = ns.xp
    z = x + float(_SHIFT)
    inverse = 1.0 / z
    series = (z - 0.5) * xp.log(z) - z + 0.5 * log(2 * pi)
    for k, b in enumerate(_BERNOULLI, start=1):
        series = series + b / (2 * k - 1) * inverse ** (2 * k - 1)
    for i in range(_SHIFT):
        series = series - xp.log(x + float(i))
    return series


def digamma(ns: Namespace, x: Array) -> Array:
    """The derivative of `log_gamma`, for x >= 1, any shape, floating."""
    z = x + float(_SHIFT)
    inverse = 1.0 / z
    series = ns.xp.log(z) - 0.5 * inverse
    for k, b in enumerate(_BERNOULLI, start=1):
        series = series - b * inverse ** (2 * k)
    for i in range(_SHIFT):
        series = series - 1.0 / (x + float(i))
    return series
