"""Binds a spec to a namespace: refuses bad input, runs the pipeline, and looks at results."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from math import prod
from typing import Any, final

from dms_spec.engine.pipeline import compute
from dms_spec.engine.resolve import Resolved
from dms_spec.engine.warning import warn
from dms_spec.equations.namespace import Namespace, one_by_one
from dms_spec.errors import (
    DTypeError,
    MissingInput,
    NonFiniteInput,
    NothingPresent,
    ShapeError,
    UnsupportedCapability,
)
from dms_spec.interface.backend import Scheduler
from dms_spec.interface.capabilities import Capabilities
from dms_spec.spec import SchedulerSpec
from dms_spec.types import Array, ModalityBatch, Schedule


@final
class EquationScheduler(Scheduler):
    """A spec that is bound to a namespace. It guards `compute` on both sides."""

    def __init__(self, ns: Namespace, resolved: Resolved, capabilities: Capabilities) -> None:
        self._ns, self._resolved, self._capabilities = ns, resolved, capabilities
        # The kinds of arrays that the last batch had, which fit.
        self._fitting: dict[str, Any] | None = None
        warn(resolved.notes(), stacklevel=4)

    @property
    def spec(self) -> SchedulerSpec:
        return self._resolved.spec

    def schedule(self, batch: ModalityBatch) -> Schedule:
        kinds = {
            k: (type(a), getattr(a, "dtype", None), a.shape) for k, a in batch.arrays().items()
        }
        if kinds != self._fitting:
            check_batch(self._ns, self._resolved, self._capabilities, batch)
            self._fitting = kinds
        return run(self._ns, self._resolved, batch)


def run(ns: Namespace, resolved: Resolved, batch: ModalityBatch) -> Schedule:
    """Computes a schedule of a batch that fits, and looks at it; in a twin where there is one.

    Raises:
        NonFiniteInput, NothingPresent: As `Scheduler.schedule` says.
    """
    arrays, own = batch.arrays(), resolved.parameters
    twin = ns.twin(*arrays.values(), *own.values()) if resolved.built_in() else None
    if twin is None:
        return checked(ns, resolved, batch.present, compute_in_blocks(ns, resolved, batch))
    moved = ModalityBatch(**{name: twin.there(array) for name, array in arrays.items()})
    if own:
        parameters = {name: twin.there(array) for name, array in own.items()}
        resolved = replace(resolved, parameters=parameters)
    return run(twin.ns, resolved, moved).converted(twin.back)


def compute_in_blocks(ns: Namespace, resolved: Resolved, batch: ModalityBatch) -> Schedule:
    """Runs `compute`, guarded, on a few samples at a time where the namespace asks for it."""
    one = partial(compute, ns, resolved)
    with ns.guard():
        return in_blocks(ns.xp, one, batch, _entries_at_once(ns, batch), ns.over_blocks)


def _entries_at_once(ns: Namespace, batch: ModalityBatch) -> int | None:
    """How many input entries a block may have. Passes that are read once do not count, because
    nothing of their size is made.
    """
    entries, passes = _entries(batch), batch.mc_logits
    most = ns.entries_at_once
    if most is None or entries <= most or passes is None:
        return most
    if ns.one_read("variance_over_passes", passes) is None:
        return most
    counted: int = entries - prod(passes.shape)
    return most * entries // max(counted, 1)


def _entries(batch: ModalityBatch) -> int:
    return sum(prod(array.shape) for array in batch.arrays().values())


def in_blocks(
    xp: Any,
    schedule: Callable[[ModalityBatch], Schedule],
    batch: ModalityBatch,
    entries_at_once: int | None,
    over_blocks: Callable[..., Iterable[Schedule]] = one_by_one,
) -> Schedule:
    """Joins the schedules of consecutive samples. No sample sees another (DMS-W-005)."""
    parts = list(over_blocks(schedule, _blocks(batch, entries_at_once)))
    return parts[0] if len(parts) == 1 else _joined(xp, parts)


def _blocks(batch: ModalityBatch, budget: int | None) -> Iterator[ModalityBatch]:
    arrays, entries = batch.arrays(), _entries(batch)
    if budget is None or entries <= budget:
        yield batch
        return
    for rows in row_blocks(batch.shape[0], entries, budget):
        yield ModalityBatch(
            **{k: v[:, rows] if k == "mc_logits" else v[rows] for k, v in arrays.items()}
        )


def row_blocks(samples: int, entries: int, budget: int) -> Iterator[slice]:
    """Consecutive samples in blocks of one size, which a budget of entries allows."""
    most = max(1, samples * budget // max(entries, 1))
    blocks = max(1, -(-samples // most))
    for block in range(blocks):
        yield slice(samples * block // blocks, samples * (block + 1) // blocks)


def check_batch(
    ns: Namespace, resolved: Resolved, capabilities: Capabilities, batch: ModalityBatch
) -> None:
    """Refuses a batch that does not fit the spec. Looks at shapes and dtypes, at no value.

    Raises:
        ShapeError, MissingInput, DTypeError, UnsupportedCapability: As `Scheduler.schedule` says.
    """
    names = resolved.spec.modalities
    arrays = batch.arrays()
    if batch.shape[1] != len(names):
        raise ShapeError(
            "the batch has another number of modalities than the spec",
            expected=f"M = {len(names)} ({', '.join(names)})",
            got=f"M = {batch.shape[1]}",
            fix="Stack the modalities in the spec's order; mark missing ones in present.",
        )
    for name, axis in (("features", "D"), ("logits", "C"), ("mc_logits", "C")):
        size = resolved.sizes.get(axis)
        if name in arrays and size not in (None, arrays[name].shape[-1]):
            raise ShapeError(
                f"{name} do not fit the parameters {', '.join(resolved.parameters)}",
                expected=f"{axis} = {size}",
                got=f"{axis} = {arrays[name].shape[-1]}",
                fix="The parameters were made for encoders of another width.",
            )
    for name, reason in resolved.reasons().items():
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
                fix="Convert it (backend.from_numpy), or use the backend of that library.",
            )
        check_dtype(ns, capabilities, name, array)


def check_dtype(ns: Namespace, capabilities: Capabilities, name: str, array: Array) -> None:
    """Refuses an array of a dtype that the backend does not take, or ``present`` not of bool.

    Raises:
        DTypeError, UnsupportedCapability: As `Scheduler.schedule` says.
    """
    xp, dtype = ns.xp, str(array.dtype).rpartition(".")[2]
    if name == "present":
        if array.dtype != xp.bool:
            raise DTypeError(
                "present has the wrong dtype",
                expected="bool, True where a modality is there",
                got=dtype,
                fix="Compare first, for example present > 0.5: no threshold is guessed.",
            )
    elif dtype in capabilities.dtypes:
        return
    elif "float" in dtype:
        raise UnsupportedCapability(
            f"this backend does not compute in {dtype}",
            capability=f"dtype:{dtype}",
            expected=" or ".join(capabilities.dtypes),
            got=f"{name} of dtype {dtype}",
            fix="Cast the array, or use a backend that claims the dtype.",
        )
    else:
        raise DTypeError(
            f"{name} has the wrong dtype",
            expected=" or ".join(capabilities.dtypes),
            got=dtype,
            fix="Cast it to a real floating dtype.",
        )


def checked(ns: Namespace, resolved: Resolved, present: Array | None, result: Schedule) -> Schedule:
    """Looks at a result's values: refuses what the spec asks to refuse, notes what its policy
    notes.

    Args:
        ns: The namespace of the result's arrays.
        resolved: What was computed.
        present: The batch's mask; None where all are present.
        result: What came out.

    Returns:
        The result, with the notes that its values give rise to.

    Raises:
        NonFiniteInput, NothingPresent: As `Scheduler.schedule` says.
    """
    spec, policy = resolved.spec, resolved.policy
    _refuse(ns, spec, present, result)
    if policy.observe is None:
        return result
    seen = policy.observe(ns, result, **spec.policy_options)
    return replace(result, notes=(*result.notes, *seen))


def _refuse(ns: Namespace, spec: SchedulerSpec, present: Array | None, result: Schedule) -> None:
    xp, names = ns.xp, spec.modalities
    if spec.nonfinite == "raise":
        present = xp.ones_like(result.active) if present is None else present
        if where := _first(ns, names, present & ~result.active):
            raise NonFiniteInput(
                "a present modality is not finite",
                expected="finite features, and logits with a finite maximum",
                got=f"NaN or Inf in {where}",
                fix='Fix the input, mark it absent, or set nonfinite="mask".',
            )
    if spec.strict:
        nothing = ~xp.any(result.active, axis=-1, keepdims=True)
        if where := _first(ns, names, nothing):
            raise NothingPresent(
                "a sample has nothing active",
                expected="at least one present and finite modality in each sample",
                got=where.partition(",")[0],
                fix="Leave the sample out, or set strict=False for a row of zeros.",
            )
    scores = result.scores
    if where := _first(ns, names, result.active & ~xp.isfinite(scores)):
        raise NonFiniteInput(
            f"policy {spec.policy!r} gave a score that is not a number to rank by",
            expected="finite scores",
            got=f"NaN or Inf in {where}",
            fix="Some signal or its coefficient overflows: scale the inputs.",
        )


def _first(ns: Namespace, names: tuple[str, ...], mask: Array) -> str:
    """Says where a mask first holds, and is empty if it holds nowhere."""
    if not bool(ns.xp.any(mask)):
        return ""
    sample, modality = (int(index[0]) for index in ns.xp.nonzero(mask))
    return f"sample {sample}, modality {names[modality]!r}"


def _joined(xp: Any, parts: list[Schedule]) -> Schedule:
    """Joins schedules of consecutive samples."""

    def join(arrays: Iterable[Array]) -> Array:
        return xp.concat(list(arrays), axis=0)

    first = parts[0]
    return Schedule(
        weights=join(part.weights for part in parts),
        fused=join(part.fused for part in parts),
        scores=join(part.scores for part in parts),
        active=join(part.active for part in parts),
        signals={name: join(part.signals[name] for part in parts) for name in first.signals},
        terms={name: join(part.terms[name] for part in parts) for name in first.terms},
        soundness=None if first.soundness is None else join(part.soundness for part in parts),
        notes=first.notes,
    )
