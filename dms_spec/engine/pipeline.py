"""Runs the pipeline: batch -> active -> signals -> terms -> scores -> weights and fused.

`compute` is pure and looks at no value, so that it can be traced, compiled and differentiated.
What only a host can do, refusing bad input and looking at results, is in `scheduler`.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import replace
from functools import reduce

from dms_spec.engine.resolve import Resolved
from dms_spec.equations.evidence import fuse_evidence
from dms_spec.equations.fusion import fuse_features, fuse_logits, fuse_probabilities
from dms_spec.equations.namespace import Namespace
from dms_spec.errors import DTypeError, ShapeError
from dms_spec.interface.policy import PolicyInput
from dms_spec.interface.signal import Evidence
from dms_spec.types import Array, ModalityBatch, Schedule


def compute(ns: Namespace, resolved: Resolved, batch: ModalityBatch) -> Schedule:
    """Computes one schedule in the namespace's library. Every array must already be legal.

    Half precision is computed in float32; float64 anywhere makes it float64 throughout. Weights,
    scores and signals come out in the computing dtype, fused in that of what was summed.
    """
    evidence = _evidence(ns, batch)
    active, dtype = evidence.active, evidence.dtype
    nothing = ns.xp.zeros_like(active, dtype=dtype)
    signals, notes = {}, list(resolved.notes())
    for signal in resolved.signals:
        if signal.optional and any(getattr(evidence, name) is None for name in signal.needs):
            notes.append(f"signal {signal.name!r} is 0: it needs mc_logits of two passes or more")
            value = nothing
        elif resolved.unfitted(signal):
            value = nothing
        else:
            own = resolved.parameters_of(f"signals.{signal.name}")
            value = signal.function(
                ns,
                _with_parameters(ns, evidence, own),
                **resolved.spec.signals[signal.name],
            )
        value = ns.select(active, _usable(ns, f"signal {signal.name!r}", value, evidence))
        signals[signal.name] = ns.stop_gradient(value) if resolved.spec.detach_signals else value
    policy = resolved.policy
    found = policy.function(
        ns,
        PolicyInput(
            evidence=_with_parameters(ns, evidence, resolved.parameters_of("policy")),
            signals=signals,
            directions={signal.name: signal.direction for signal in resolved.signals},
            coefficients=resolved.spec.coefficients,
        ),
        **resolved.spec.policy_options,
    )
    terms = {
        name: _usable(ns, f"term {name!r} of policy {policy.name!r}", term, evidence)
        for name, term in found.items()
    }
    masked = {name: ns.select(active, term) for name, term in terms.items()}
    # Not the masked terms: what is not active is selected away below, once.
    total = reduce(operator.add, terms.values()) if terms else nothing
    if resolved.spec.fusion == "evidence":
        fused, weights, sound = _believed(ns, resolved, evidence, total)
    else:
        weights, sound = ns.masked_softmax(total, active), None
        fused = _fuse(ns, resolved.spec.fusion, evidence, weights)
    summed = batch.features if resolved.spec.fusion == "feature" else batch.logits
    return Schedule(
        weights=weights,
        fused=ns.xp.astype(fused, summed.dtype, copy=False),
        scores=ns.xp.where(active, total, ns.constant(-float("inf"), total)),
        active=active,
        signals=signals,
        terms=masked,
        soundness=sound,
        notes=tuple(notes),
    )


def _evidence(ns: Namespace, batch: ModalityBatch) -> Evidence:
    """Converts the batch to the computing dtype, and puts 0 where nothing is active."""
    xp = ns.xp
    arrays = batch.arrays()
    present = arrays.pop("present", None)
    wide = any(array.dtype == xp.float64 for array in arrays.values())
    dtype = xp.float64 if wide else xp.float32
    if batch.passes == 0:  # of no use but for its dtype
        del arrays["mc_logits"]
    arrays = {name: xp.astype(array, dtype, copy=False) for name, array in arrays.items()}
    active = ns.usable(**arrays)
    active = active if present is None else active & present
    if batch.passes == 1:  # it had its say in what is usable; one pass has no variance
        arrays.pop("mc_logits", None)
    clean = {name: ns.select(active, array) for name, array in arrays.items()}
    return Evidence(active=active, dtype=dtype, **clean)


def _with_parameters(
    ns: Namespace, evidence: Evidence, parameters: Mapping[str, Array]
) -> Evidence:
    return replace(evidence, parameters=_cast(ns, evidence, parameters))


def _cast(ns: Namespace, evidence: Evidence, parameters: Mapping[str, Array]) -> dict[str, Array]:
    return {k: ns.xp.astype(v, evidence.dtype, copy=False) for k, v in parameters.items()}


def _usable(ns: Namespace, owner: str, values: Array, evidence: Evidence) -> Array:
    """What a signal or a policy returned, in the computing dtype.

    Raises:
        ShapeError, DTypeError: It is not [B, M], or not of a real floating dtype.
    """
    shape = tuple(getattr(values, "shape", ()))
    if not _alike(shape, tuple(evidence.active.shape)):
        raise ShapeError(
            f"{owner} returned an array of the wrong shape",
            expected="[B, M]",
            got=str(list(shape)),
            fix="Reduce over classes, features and passes, and keep samples and modalities.",
        )
    ours = isinstance(values, ns.array_type)
    if ours and values.dtype == evidence.dtype:
        return values
    if not ours or not ns.xp.isdtype(values.dtype, "real floating"):
        raise DTypeError(
            f"{owner} returned an array of the wrong kind",
            expected=f"{_named(ns.array_type)} of {_named(evidence.dtype)}",
            got=f"{_named(type(values))} of {_named(getattr(values, 'dtype', None))}",
            fix="Compute with ns.xp, and convert with ns.xp.astype(values, evidence.dtype).",
        )
    return ns.xp.astype(values, evidence.dtype)


def _named(thing: object) -> str:
    return f"{thing.__module__}.{thing.__qualname__}" if isinstance(thing, type) else str(thing)


def _alike(shape: tuple[int | None, ...], other: tuple[int | None, ...]) -> bool:
    """Says whether two shapes are the same, as far as tracing knows them: None is not known yet."""
    return len(shape) == len(other) and all(
        a == b or a is None or b is None for a, b in zip(shape, other, strict=True)
    )


def _fuse(ns: Namespace, level: str, evidence: Evidence, weights: Array) -> Array:
    if level == "feature":
        return fuse_features(ns, evidence.features, weights)
    fuse = fuse_logits if level == "logit" else fuse_probabilities
    return fuse(ns, evidence.logits, weights)


def _believed(
    ns: Namespace, resolved: Resolved, evidence: Evidence, log_trust: Array
) -> tuple[Array, Array, Array]:
    """Computes fused, weights and soundness of fusion "evidence": a weight is a share of belief."""
    active = evidence.active
    own = _cast(ns, evidence, resolved.parameters_of("fusion"))
    fused, log_sound = fuse_evidence(ns, evidence.logits, log_trust, active, own)
    something = ns.xp.any(active, axis=-1, keepdims=True)
    return (
        ns.xp.where(something, fused, ns.constant(0.0, fused)),
        ns.masked_softmax(log_sound, active),
        ns.select(active, ns.xp.exp(log_sound)),
    )
