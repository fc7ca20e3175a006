"""What a form that reads an array once must compute, in plain primitives."""

from __future__ import annotations

from typing import Any

from dms_spec.equations.namespace import Namespace
from dms_spec.interface.signal import STATISTICS
from dms_spec.types import Array


def statistic(ns: Namespace, name: str, array: Array, mask: Array | None) -> tuple[Array, Array]:
    """The statistic of what is usable, and what that is."""
    ok = ns.usable(**{STATISTICS[name]: array})
    ok = ok if mask is None else ok & mask
    clean = ns.select(ok, array)
    function: Any = getattr(ns, name)
    value = function(ns, clean) if name in ("alignment", "mutual_information") else function(clean)
    return ns.select(ok, value), ok


def weigh(ns: Namespace, features: Array, scores: Array, active: Array) -> tuple[Array, Array]:
    """Weights, and the weighted sum of what is active."""
    weights = ns.masked_softmax(scores, active)
    return weights, ns.weighted_sum(ns.select(active, features), weights)
