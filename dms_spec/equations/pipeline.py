"""The pipeline: batch -> active -> signals -> terms -> scores -> weights -> fused.

`compute` is pure and looks at no value, so that it can be traced, compiled and differentiated.
`EquationScheduler` adds what only a host can do: refuse bad input, and look at results.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import final

from dms_spec.capabilities import Capabilities
from dms_spec.equations.fusion import fuse_features, fuse_logits, fuse_probabilities
from dms_spec.equations.namespace import Namespace
from dms_spec.equations.policies import PolicyInput
from dms_spec.equations.signals import Evidence
from dms_spec.equations.weights import masked_softmax, usable
from dms_spec.errors import (
    DMSWarning,
    DTypeError,
    MissingInput,
    NonFiniteInput,
    NothingPresent,
    ShapeError,
    UnsupportedCapability,
)
from dms_spec.interface import Scheduler
from dms_spec.resolve import Resolved
from dms_spec.spec import SchedulerSpec
from dms_spec.types import Array, ModalityBatch, Schedule


def compute(ns: Namespace, resolved: Resolved, batch: ModalityBatch) -> Schedule:
    """One schedule, in the namespace's library. Every array must already be legal.

    Half precision is computed in float32; float64 anywhere makes it float64 throughout. Weights,
    scores and signals come out in the computing dtype, fused in that of what was summed.
    """
    evidence = _evidence(ns, batch)
    active, dtype = evidence.active, evidence.dtype
    nothing = ns.xp.zeros(active.shape, dtype=dtype, device=active.device)
    signals, notes = {}, list(resolved.notes())
    for signal in resolved.signals:
        if signal.optional and any(getattr(evidence, name) is None for name in signal.needs):
            notes.append(f"signal {signal.name!r} is 0: it needs mc_logits of two passes or more")
            value = nothing
        else:
            own = resolved.parameters_of(f"signals.{signal.name}")
            value = signal.function(
                ns,
                _with_parameters(ns, evidence, own),
                **resolved.spec.signals[signal.name],
            )
        value = _masked(ns, f"signal {signal.name!r}", value, active)
        signals[signal.name] = ns.stop_gradient(value) if resolved.spec.detach_signals else value
    policy = resolved.policy
    terms = policy.function(
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
        name: _masked(ns, f"term {name!r} of policy {policy.name!r}", term, active)
        for name, term in terms.items()
    }
    total = sum(terms.values(), nothing)
    weights = masked_softmax(ns, total, active)
    return Schedule(
        weights=weights,
        fused=_fuse(ns, resolved.spec.fusion, batch, evidence, weights),
        scores=ns.xp.where(active, total, ns.constant(-float("inf"), total)),
        active=active,
        signals=signals,
        terms=terms,
        notes=tuple(notes),
    )


def _evidence(ns: Namespace, batch: ModalityBatch) -> Evidence:
    """The batch in the computing dtype, with everything that is not active replaced by 0."""
    xp = ns.xp
    arrays = batch.arrays()
    present = arrays.pop("present", None)
    if "mc_logits" in arrays and batch.passes == 0:
        del arrays["mc_logits"]
    wide = any(array.dtype == xp.float64 for array in arrays.values())
    dtype = xp.float64 if wide else xp.float32
    arrays = {name: xp.astype(array, dtype, copy=False) for name, array in arrays.items()}
    active = usable(ns, **arrays)
    active = active if present is None else active & present
    if batch.passes == 1:  # it had its say in what is usable; one pass has no variance
        arrays.pop("mc_logits", None)
    clean = {name: ns.select(active, array) for name, array in arrays.items()}
    return Evidence(active=active, dtype=dtype, **clean)


def _with_parameters(
    ns: Namespace, evidence: Evidence, parameters: Mapping[str, Array]
) -> Evidence:
    cast = {k: ns.xp.astype(v, evidence.dtype, copy=False) for k, v in parameters.items()}
    return replace(evidence, parameters=cast)


def _masked(ns: Namespace, owner: str, values: Array, active: Array) -> Array:
    """What a signal or a policy returned, 0 where not active; refused if it is not [B, M]."""
    if getattr(values, "ndim", None) != 2 or values.shape[1] != active.shape[1]:
        raise ShapeError(
            f"{owner} returned an array of the wrong shape",
            expected="[B, M]",
            got=str(list(getattr(values, "shape", ()))),
            fix="Reduce over classes, features and passes, and keep samples and modalities.",
        )
    return ns.select(active, values)


def _fuse(
    ns: Namespace, level: str, batch: ModalityBatch, evidence: Evidence, weights: Array
) -> Array:
    if level == "feature":
        fused, dtype = fuse_features(ns, evidence.features, weights), batch.features.dtype  # type: ignore[union-attr]
    else:
        fuse = fuse_logits if level == "logit" else fuse_probabilities
        fused, dtype = fuse(ns, evidence.logits, weights), batch.logits.dtype  # type: ignore[union-attr]
    return ns.xp.astype(fused, dtype, copy=False)


@final
class EquationScheduler(Scheduler):
    """A spec bound to a namespace: `compute`, with bad input refused and results looked at."""

    def __init__(self, ns: Namespace, resolved: Resolved, capabilities: Capabilities) -> None:
        self._ns, self._resolved, self._capabilities = ns, resolved, capabilities
        for note in resolved.notes():
            warnings.warn(note, DMSWarning, stacklevel=3)

    @property
    def spec(self) -> SchedulerSpec:
        return self._resolved.spec

    def schedule(self, batch: ModalityBatch) -> Schedule:
        self._refuse(batch)
        with self._ns.quiet():
            result = compute(self._ns, self._resolved, batch)
        self._look(batch, result)
        return result

    def _refuse(self, batch: ModalityBatch) -> None:
        names, ns = self.spec.modalities, self._ns
        arrays = batch.arrays()
        if batch.shape[1] != len(names):
            raise ShapeError(
                "the batch has another number of modalities than the spec",
                expected=f"M = {len(names)} ({', '.join(names)})",
                got=f"M = {batch.shape[1]}",
                fix="Stack the modalities in the spec's order; mark missing ones in present.",
            )
        for name, reason in self._resolved.reasons().items():
            if name not in arrays:
                raise MissingInput(
                    f"the batch has no {name}",
                    expected=f"{name}, for {reason}",
                    got=", ".join(arrays),
                    fix=f"Add {name}, or take what needs it out of the spec.",
                )
        for name, array in arrays.items():
            if not isinstance(array, ns.array_type):
                raise DTypeError(
                    f"{name} is an array of another library",
                    expected=f"{ns.array_type.__module__}.{ns.array_type.__qualname__}",
                    got=f"{type(array).__module__}.{type(array).__qualname__}",
                    fix="Convert it (backend.from_numpy), or ask for the backend that it is of.",
                )
            self._refuse_dtype(name, array)

    def _refuse_dtype(self, name: str, array: Array) -> None:
        xp, dtype = self._ns.xp, str(array.dtype).rpartition(".")[2]
        if name == "present":
            if array.dtype != xp.bool:
                raise DTypeError(
                    "present has the wrong dtype",
                    expected="bool, True where a modality is there",
                    got=dtype,
                    fix="Compare first, for example present > 0.5: no threshold is guessed.",
                )
        elif dtype in self._capabilities.dtypes:
            return
        elif "float" in dtype:
            raise UnsupportedCapability(
                f"this backend does not compute in {dtype}",
                capability=f"dtype:{dtype}",
                expected=" or ".join(self._capabilities.dtypes),
                got=f"{name} of dtype {dtype}",
                fix="Cast the array, or use a backend that claims the dtype.",
            )
        else:
            raise DTypeError(
                f"{name} has the wrong dtype",
                expected=" or ".join(self._capabilities.dtypes),
                got=dtype,
                fix="Cast it to a real floating dtype.",
            )

    def _look(self, batch: ModalityBatch, result: Schedule) -> None:
        xp, spec = self._ns.xp, self.spec
        if spec.nonfinite == "raise":
            present = xp.ones_like(result.active) if batch.present is None else batch.present
            if where := self._first(present & ~result.active):
                raise NonFiniteInput(
                    "a present modality is not finite",
                    expected="finite features, and logits with a finite maximum",
                    got=f"NaN or Inf in {where}",
                    fix='Mend the input, mark it absent, or set nonfinite="mask".',
                )
        if spec.strict:
            nothing = ~xp.any(result.active, axis=-1, keepdims=True)
            if where := self._first(nothing):
                raise NothingPresent(
                    "a sample has nothing active",
                    expected="at least one present and finite modality in each sample",
                    got=where.partition(",")[0],
                    fix="Leave the sample out, or set strict=False for a row of zeros.",
                )
        scores = result.scores
        if where := self._first(result.active & (xp.isnan(scores) | (scores == float("inf")))):
            raise NonFiniteInput(
                f"policy {spec.policy!r} gave a score that is not a number to rank by",
                expected="finite scores",
                got=f"NaN or +Inf in {where}",
                fix="Some signal or its coefficient overflows: scale the inputs.",
            )

    def _first(self, mask: Array) -> str:
        """Where a mask first holds, in words; empty if nowhere."""
        if not bool(self._ns.xp.any(mask)):
            return ""
        sample, modality = (int(index[0]) for index in self._ns.xp.nonzero(mask))
        return f"sample {sample}, modality {self.spec.modalities[modality]!r}"
