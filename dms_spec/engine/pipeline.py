"""Runs the pipeline: batch -> active -> signals -> terms -> scores -> weights and fused.

`compute` is pure and looks at no value, so that it can be traced, compiled and differentiated.
What only a host can do, refusing bad input and looking at results, is in `scheduler`.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from functools import reduce
from typing import Any

from dms_spec.engine.resolve import Resolved
from dms_spec.equations.evidence import fuse_evidence
from dms_spec.equations.fusion import fuse_features, fuse_logits, fuse_probabilities
from dms_spec.equations.namespace import Namespace
from dms_spec.errors import DTypeError, ShapeError
from dms_spec.interface.policy import PolicyInput
from dms_spec.interface.signal import STATISTICS, Evidence, Later, Statistic
from dms_spec.types import Array, ModalityBatch, Schedule


def compute(ns: Namespace, resolved: Resolved, batch: ModalityBatch) -> Schedule:
    """Computes one schedule in the namespace's library. Every array must already be legal.

    Half precision is computed in float32; float64 anywhere makes it float64 throughout. Weights,
    scores and signals come out in the computing dtype, fused in that of what was summed.
    """
    seen = _seen(batch)
    evidence = _evidence(ns, resolved, batch, seen)
    active, dtype = evidence.active, evidence.dtype
    nothing = ns.xp.zeros_like(active, dtype=dtype)
    signals, notes = {}, list(resolved.notes())
    for signal in resolved.signals:
        if signal.optional and not seen.keys() >= set(signal.needs):
            notes.append(f"signal {signal.name!r} is 0: it needs mc_logits of two passes or more")
            value = nothing
        elif resolved.unfitted(signal):
            value = nothing
        else:
            value = signal.function(
                ns,
                _with_parameters(ns, resolved, evidence, f"signals.{signal.name}"),
                **resolved.spec.signals[signal.name],
            )
        value = ns.select(active, _usable(ns, f"signal {signal.name!r}", value, evidence))
        signals[signal.name] = ns.stop_gradient(value) if resolved.spec.detach_signals else value
    policy = resolved.policy
    found = policy.function(
        ns,
        PolicyInput(
            evidence=_with_parameters(ns, resolved, evidence, "policy"),
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
        (weights, fused), sound = _weighed(ns, resolved.spec.fusion, batch, evidence, total), None
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


def _evidence(
    ns: Namespace, resolved: Resolved, batch: ModalityBatch, seen: Mapping[str, Array]
) -> Evidence:
    """Finds what is active. Where a statistic that a signal reads tells it, nothing else is read.

    Alignment comes last, because it depends on what else is active.
    """
    xp, arrays = ns.xp, batch.arrays()
    active = arrays.pop("present", None)
    wide = any(array.dtype == xp.float64 for array in arrays.values())
    dtype = xp.float64 if wide else xp.float32
    if batch.passes == 0:  # of no use but for its dtype
        del arrays["mc_logits"]
    forms = _forms(ns, resolved, seen)
    told = {STATISTICS[name] for name in forms}
    # One pass is among the rest: it has its say in what is usable.
    rest = {k: xp.astype(v, dtype, copy=False) for k, v in arrays.items() if k not in told}
    if rest:
        usable = ns.usable(**rest)
        active = usable if active is None else active & usable
    statistics = {}
    for name, form in forms.items():
        statistics[name], active = form(arrays[STATISTICS[name]], active, dtype)

    def clean(array: Array) -> Array:
        return ns.select(active, xp.astype(array, dtype, copy=False))

    held: dict[str, Any] = {
        name: Later(rest.get(name, array), clean) for name, array in seen.items()
    }
    return Evidence(active=active, dtype=dtype, statistics=statistics, **held)


def _seen(batch: ModalityBatch) -> dict[str, Array]:
    """The arrays that signals may look at. One pass has no variance."""
    hidden = {"present", "mc_logits"} if batch.passes in (0, 1) else {"present"}
    return {name: array for name, array in batch.arrays().items() if name not in hidden}


def _forms(
    ns: Namespace, resolved: Resolved, arrays: Mapping[str, Array]
) -> dict[Statistic, Callable[..., Any]]:
    """Finds forms in one read of the statistics that signals declare."""
    wanted = {name for signal in resolved.signals for name in signal.statistics}
    found = {
        name: ns.one_read(name, arrays[of])
        for name, of in STATISTICS.items()
        if name in wanted and of in arrays
    }
    return {name: form for name, form in found.items() if form is not None}


def _with_parameters(ns: Namespace, resolved: Resolved, evidence: Evidence, owner: str) -> Evidence:
    own = resolved.parameters_of(owner)
    return evidence.with_parameters(_cast(ns, evidence, own)) if own else evidence


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
    return shape == other or (
        len(shape) == len(other)
        and all(a == b or a is None or b is None for a, b in zip(shape, other, strict=True))
    )


def _weighed(
    ns: Namespace, level: str, batch: ModalityBatch, evidence: Evidence, scores: Array
) -> tuple[Array, Array]:
    """Computes weights and fused, of features in one read where the namespace has such a form."""
    active = evidence.active
    if level == "feature" and (form := ns.one_read("weigh", batch.features, scores)):
        return form(batch.features, scores, active)
    weights = ns.masked_softmax(scores, active)
    if level == "feature":
        return weights, fuse_features(ns, evidence.features, weights)
    fuse = fuse_logits if level == "logit" else fuse_probabilities
    return weights, fuse(ns, evidence.logits, weights)


def _believed(
    ns: Namespace, resolved: Resolved, evidence: Evidence, log_trust: Array
) -> tuple[Array, Array, Array]:
    """Computes fused, weights and soundness of fusion "evidence": a weight is a share of belief."""
    active = evidence.active
    own = _cast(ns, evidence, resolved.parameters_of("fusion"))
    fused, log_sound = fuse_evidence(ns, evidence.logits, log_trust, active, own)
    return (
        ns.select(ns.xp.any(active, axis=-1), fused),
        ns.masked_softmax(log_sound, active),
        ns.select(active, ns.xp.exp(log_sound)),
    )
