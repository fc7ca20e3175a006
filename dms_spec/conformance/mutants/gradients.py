"""Holds mutants that are wrong about gradients and losses: one primitive of theirs is wrong.

Those that need gradients are made from the torch backend, and listed where torch is installed.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from dms_spec.conformance.mutants.mutant import Mutant, library, primitives, signal
from dms_spec.equations.namespace import Namespace
from dms_spec.interface.signal import Evidence
from dms_spec.plugins import available, get_signal
from dms_spec.types import Array


def _times_mask(mask: Array, values: Array) -> Array:
    mask = mask[..., None] if values.ndim > mask.ndim else mask
    return values * mask.astype(values.dtype)


def _square_of_deviation(ns: Namespace) -> Namespace:
    """The root of a variance of 0 has an infinite slope, and 0 times that is NaN."""

    def variance(passes: Array) -> Array:
        xp, p = ns.xp, ns.softmax(passes)
        deviation = p - xp.mean(p, axis=0, keepdims=True)
        root = xp.sqrt(xp.mean(deviation * deviation, axis=0))
        return xp.sum(root * root, axis=-1)

    return replace(ns, variance_over_passes=variance)


def _every_sample(ns: Namespace) -> Namespace:
    """Is wrong in the loss alone, which asks for each sample whether anything is weighed."""

    def some(mask: Array, **how: Any) -> Array:
        return ns.xp.any(mask, **how) | (how == {"axis": -1})

    return library(any=some)(ns)


def _from_plain_mean(ns: Namespace) -> Namespace:
    """Takes the mean of what is there for the fused value."""
    xp = ns.xp

    def weighted_sum(values: Array, weights: Array) -> Array:
        some = xp.astype(weights > 0, weights.dtype)
        count = xp.sum(some, axis=-1, keepdims=True)
        return ns.weighted_sum(values, some / xp.where(count > 0, count, xp.ones_like(count)))

    return replace(ns, weighted_sum=weighted_sum)


def _unguarded_cosine(ns: Namespace) -> Namespace:
    def cosine(left: Array, right: Array) -> Array:
        xp = ns.xp
        norms = xp.sqrt(xp.sum(left * left, axis=-1)) * xp.sqrt(xp.sum(right * right, axis=-1))
        value = xp.sum(left * right, axis=-1) / norms
        return xp.where(norms > 0, value, xp.zeros_like(value))

    return replace(ns, cosine=cosine)


def _plain_entropy(ns: Namespace) -> Namespace:
    def entropy(logits: Array) -> Array:
        xp, p = ns.xp, ns.softmax(logits)
        return -xp.sum(xp.where(p > 0, p * xp.log(p), xp.zeros_like(p)), axis=-1)

    return replace(ns, entropy=entropy)


def _detached(name: str) -> Any:
    """Replaces a primitive by one without gradient: a missing gradient, not one of a wrong sign."""

    def change(ns: Namespace) -> Namespace:
        right = getattr(ns, name)
        return primitives(**{name: lambda *arrays: right(*(a.detach() for a in arrays))})(ns)

    return change


def _constant_norms(ns: Namespace) -> Namespace:
    """Treats norms as constants: the gradient along a vector is no longer 0."""

    def cosine(left: Array, right: Array) -> Array:
        xp = ns.xp
        norms = xp.linalg.vector_norm(left, axis=-1) * xp.linalg.vector_norm(right, axis=-1)
        some = xp.where(norms > 0, norms, xp.ones_like(norms)).detach()
        return xp.sum(left * right, axis=-1) / some

    return replace(ns, cosine=cosine)


_LOSSES = (
    Mutant(
        name="loss_nan_times_zero",
        summary="multiplies features by a weight of 0 in the loss: NaN x 0 is NaN",
        clause="DMS-O-004",
        equations=True,
        namespace=primitives(select=_times_mask),
    ),
    Mutant(
        name="loss_from_plain_mean",
        summary="takes deviations from the plain mean in the loss",
        clause="DMS-O-001",
        equations=True,
        namespace=_from_plain_mean,
    ),
    Mutant(
        name="empty_in_mean",
        summary="counts samples with nothing there in the mean of the loss",
        clause="DMS-O-002",
        equations=True,
        namespace=_every_sample,
    ),
)

_TORCH = (
    Mutant(
        name="never_detached",
        summary="lets gradients through the signals, whatever the spec says",
        clause="DMS-G-001",
        base="torch",
        equations=True,
        namespace=primitives(stop_gradient=lambda values: values),
    ),
    Mutant(
        name="always_detached",
        summary="stops gradients at the entropy, whatever the spec says",
        clause="DMS-G-001",
        base="torch",
        equations=True,
        namespace=_detached("entropy"),
    ),
    Mutant(
        name="norm_of_zero",
        summary="selects after dividing by a norm of 0: the value is right, its gradient NaN",
        clause="DMS-G-002",
        base="torch",
        equations=True,
        namespace=_unguarded_cosine,
    ),
    Mutant(
        name="log_of_zero",
        summary="selects after the log of 0: the value is right, its gradient NaN",
        clause="DMS-G-002",
        base="torch",
        equations=True,
        namespace=_plain_entropy,
    ),
    Mutant(
        name="root_of_zero",
        summary="squares a standard deviation of 0: the value is right, its gradient NaN",
        clause="DMS-G-002",
        base="torch",
        equations=True,
        namespace=_square_of_deviation,
    ),
    Mutant(
        name="weights_detached",
        summary="treats weights as constants",
        clause="DMS-G-003",
        dtype="float64",
        base="torch",
        equations=True,
        namespace=_detached("masked_softmax"),
    ),
    Mutant(
        name="norms_detached",
        summary="treats the norms in a cosine as constants",
        clause="DMS-G-003",
        dtype="float64",
        base="torch",
        equations=True,
        namespace=_constant_norms,
    ),
)


_Gradients = dict[str, Array]


def _in_half(gradients: _Gradients) -> _Gradients:
    """Accumulates gradients of float32 in half precision."""
    return {
        name: array.half().to(array.dtype) if "float32" in str(array.dtype) else array
        for name, array in gradients.items()
    }


def _none(gradients: _Gradients) -> _Gradients:
    return {name: array * 0 for name, array in gradients.items()}


def _none_by(role: str) -> Any:
    return lambda found: {k: a * 0 if k == role else a for k, a in found.items()}


def _first_pass_alone(gradients: _Gradients) -> _Gradients:
    found = dict(gradients)
    found["mc_logits"] = found["mc_logits"].clone()
    found["mc_logits"][1:] = 0
    return found


def _not_through_gaps(ns: Namespace) -> Namespace:
    """Stops gradients at arrays of which something is absent."""

    def select(mask: Array, values: Array) -> Array:
        found = ns.select(mask, values)
        return found if bool(ns.xp.all(mask)) else found.detach()

    return replace(ns, select=select)


def _constant(name: str) -> Any:
    """Treats one signal as a constant."""

    def constant(ns: Namespace, evidence: Evidence, **options: Any) -> Array:
        return get_signal(name).function(ns, evidence, **options).detach()

    return signal(name, constant)


def _wrong(name: str, summary: str, *, dtype: str = "float64", **how: Any) -> Mutant:
    clause = "DMS-G-005" if dtype == "float64" else "DMS-G-004"
    return Mutant(
        name=name,
        summary=summary,
        clause=clause,
        kind="gradients",
        dtype=dtype,
        base="torch",
        **how,
    )


_MORE = (
    _wrong("gradients_of_nothing", "returns gradients of 0", gradients=_none),
    _wrong("gradients_in_half", "takes gradients in half precision where float32 came in",
           dtype="float32", gradients=_in_half),
    _wrong("gradients_lost_in_single", "returns gradients of 0 by the passes in float32",
           dtype="float32", gradients=_none_by("mc_logits")),
    _wrong("first_pass_learns", "sends the gradient to the first pass alone",
           gradients=_first_pass_alone),
    _wrong("gaps_stop_gradients", "stops gradients where something is absent",
           namespace=_not_through_gaps),
    _wrong("corroboration_constant", "treats corroboration as a constant",
           resolved=_constant("corroboration")),
    _wrong("typicality_constant", "treats typicality as a constant",
           resolved=_constant("typicality")),
    _wrong("vacuity_constant", "treats vacuity as a constant",
           resolved=_constant("vacuity")),
    _wrong("energy_constant_in_single", "treats energy as a constant", dtype="float32",
           resolved=_constant("energy")),
)  # fmt: skip

_GRADIENTS = (*_TORCH, *_MORE)

MUTANTS = (*_LOSSES, *(_GRADIENTS if "torch" in available("backend") else ()))
