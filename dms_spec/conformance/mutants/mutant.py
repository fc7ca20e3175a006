"""Defines a mutant: a right backend with one thing wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from dms_spec.artifact import Artifact
from dms_spec.engine.array_backend import ArrayBackend
from dms_spec.engine.resolve import Resolved, resolve
from dms_spec.engine.scheduler import EquationScheduler
from dms_spec.equations.namespace import Namespace, no_form
from dms_spec.interface.backend import (
    Backend,
    Differentiable,
    Predictive,
    RowPredictor,
    Scheduler,
)
from dms_spec.interface.capabilities import Capabilities
from dms_spec.plugins import get_backend
from dms_spec.spec import SchedulerSpec
from dms_spec.types import Array, ModalityBatch, Schedule

Arrays = dict[str, NDArray[Any]]

#: What a check has to look at to see that a backend is wrong.
KINDS = (
    "equations",
    "size",
    "state",
    "numbers drawn",
    "terms and notes",
    "gradients",
    "presence",
    "heads",
    "errors",
    "several at once",
)


@dataclass(frozen=True, kw_only=True)
class Call:
    """Holds one call of a scheduler, for a mutant that changes what happens around it.

    Attributes:
        schedule: The right scheduler.
        batch: What it was called with.
        spec: Its spec.
        state: What the backend remembers from call to call.
        own: What this scheduler remembers from call to call.
        parameters: Its parameters, by full name.
    """

    schedule: Callable[[ModalityBatch], Schedule]
    batch: ModalityBatch
    spec: SchedulerSpec
    state: dict[Any, Any]
    own: dict[Any, Any]
    parameters: Mapping[str, Array]


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Holds one call of a row predictor, for a mutant that changes what happens around it.

    Attributes:
        right: The right row predictor, of the artifact that the mutant was given.
        bind: Gives the right one of another artifact.
        artifact: The artifact.
        embeddings: What it was called with.
        present: And which of it is there.
        own: What this row predictor remembers from call to call.
    """

    right: RowPredictor
    bind: Callable[[Artifact], RowPredictor]
    artifact: Artifact
    embeddings: Mapping[str, NDArray[Any]]
    present: NDArray[np.bool_]
    own: dict[Any, Any]


#: What a row predictor gives.
Prediction = tuple[Schedule, NDArray[Any]]


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """Says what is wrong, and which clause that breaks.

    Attributes:
        name: A word or two for it.
        summary: What somebody did wrong.
        clause: The clause that this breaks: a check of it must fail, and name it.
        kind: What has to be looked at to see it: one of `KINDS`.
        dtype: A dtype in which it shows.
        base: The right backend that it is made from.
        equations: It is an `ArrayBackend` like its base, so that losses and gradients can be
            checked; then only its namespace, its claims and its arrays can be wrong.
        batch: What it does to the inputs.
        namespace: What it does to the namespace that equations are computed in.
        resolved: What it does to the functions and parameters behind the names of a spec.
        spec: What it makes of the spec.
        around: What it does instead of a plain call.
        result: What it does to the result, given the inputs.
        claims: What it claims; by default what its base does.
        convert: What it does to an array on its way to a device.
        gradients: What it does to gradients, by array.
        artifact: What it makes of a fitted artifact; with one of the next two, it claims heads.
        rows: What it does instead of a plain prediction.
        alone: What it does instead of a plain prediction of each modality alone.
    """

    name: str
    summary: str
    clause: str
    kind: str = "equations"
    dtype: str = "float32"
    base: str = "numpy"
    equations: bool = False
    batch: Callable[[Arrays], Arrays] | None = None
    namespace: Callable[[Namespace], Namespace] | None = None
    resolved: Callable[[Resolved], Resolved] | None = None
    spec: Callable[[SchedulerSpec], SchedulerSpec] | None = None
    around: Callable[[Call], Schedule] | None = None
    result: Callable[[Schedule, ModalityBatch, SchedulerSpec], Schedule] | None = None
    claims: Callable[[Capabilities], Capabilities] | None = None
    convert: Callable[[Array, str], Array] | None = None
    gradients: Callable[[dict[str, Array]], dict[str, Array]] | None = None
    artifact: Callable[[Artifact], Artifact] | None = None
    rows: Callable[[Rows], Prediction] | None = None
    alone: Callable[[Rows], NDArray[Any]] | None = None


@dataclass
class _Shared:
    """Does what both kinds of mutant backends have in common."""

    mutant: Mutant
    right: ArrayBackend = field(init=False)
    state: dict[Any, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        found = get_backend(self.mutant.base)
        assert isinstance(found, ArrayBackend)  # noqa: S101 - it is ours
        self.right = found

    def capabilities(self) -> Capabilities:
        claims = self.right.capabilities
        return self.mutant.claims(claims) if self.mutant.claims else claims

    def from_numpy(self, array: NDArray[Any], device: str) -> Array:
        moved = self.right.from_numpy(array, device)
        return self.mutant.convert(moved, device) if self.mutant.convert else moved

    def namespace(self, device: str) -> Namespace:
        ns = self.right.namespace(device)
        return self.mutant.namespace(ns) if self.mutant.namespace else ns

    def gradients(
        self, function: Callable[[dict[str, Array]], Array], arrays: Mapping[str, Array]
    ) -> dict[str, Array]:
        assert isinstance(self.right, Differentiable)  # noqa: S101 - what is claimed
        found = self.right.gradients(function, arrays)
        return self.mutant.gradients(found) if self.mutant.gradients else found


class MutantBackend(Backend):
    """The backend of a mutant."""

    def __init__(self, mutant: Mutant) -> None:
        self.mutant = mutant
        self._shared = _Shared(mutant)

    @property
    def name(self) -> str:
        return f"mutant:{self.mutant.name}"

    @property
    def capabilities(self) -> Capabilities:
        return self._shared.capabilities()

    def from_numpy(self, array: NDArray[Any], device: str) -> Array:
        return self._shared.from_numpy(array, device)

    def to_numpy(self, array: Array) -> NDArray[Any]:
        return np.asarray(self._shared.right.to_numpy(array))

    def _scheduler(
        self, spec: SchedulerSpec, parameters: Mapping[str, Array], device: str
    ) -> Scheduler:
        own = resolve(self.mutant.spec(spec) if self.mutant.spec else spec, parameters)
        if self.mutant.resolved:
            own = self.mutant.resolved(own)
        right = EquationScheduler(
            self._shared.namespace(device), own, self._shared.right.capabilities
        )
        return _MutantScheduler(self.mutant, spec, right, self._shared.state, parameters)


@final
class DifferentiableMutantBackend(MutantBackend, Differentiable):
    """The backend of a mutant that claims gradients, and is no `ArrayBackend`."""

    def gradients(
        self, function: Callable[[dict[str, Array]], Array], arrays: Mapping[str, Array]
    ) -> dict[str, Array]:
        return self._shared.gradients(function, arrays)


@final
class HeadsMutantBackend(MutantBackend, Predictive):
    """The backend of a mutant that runs whole artifacts, and is no `ArrayBackend`."""

    def row_predictor(self, artifact: Artifact, device: str) -> RowPredictor:
        return _MutantRows(self.mutant, self._shared.right, artifact, device)


@final
class _MutantRows(RowPredictor):
    def __init__(
        self, mutant: Mutant, right: ArrayBackend, artifact: Artifact, device: str
    ) -> None:
        self._mutant, self._artifact = mutant, artifact
        self._backend, self._device = right, device
        self._right = self._bind(mutant.artifact(artifact) if mutant.artifact else artifact)
        self._own: dict[Any, Any] = {}

    def _bind(self, artifact: Artifact) -> RowPredictor:
        return self._backend.row_predictor(artifact, self._device)

    def _rows(self, embeddings: Mapping[str, NDArray[Any]], present: NDArray[Any]) -> Rows:
        return Rows(
            right=self._right,
            bind=self._bind,
            artifact=self._artifact,
            embeddings=embeddings,
            present=present,
            own=self._own,
        )

    def predict(
        self, embeddings: Mapping[str, NDArray[Any]], present: NDArray[Any]
    ) -> tuple[Schedule, NDArray[Any]]:
        with np.errstate(all="ignore"):
            if self._mutant.rows:
                return self._mutant.rows(self._rows(embeddings, present))
            return self._right.predict(embeddings, present)

    def unimodal(
        self, embeddings: Mapping[str, NDArray[Any]], present: NDArray[Any]
    ) -> NDArray[Any]:
        with np.errstate(all="ignore"):
            if self._mutant.alone:
                return self._mutant.alone(self._rows(embeddings, present))
            return self._right.unimodal(embeddings, present)


@final
class EquationsMutantBackend(ArrayBackend, Differentiable):
    """The backend of a mutant that is an array library: losses and gradients go through it."""

    def __init__(self, mutant: Mutant) -> None:
        self.mutant = mutant
        self._shared = _Shared(mutant)

    @property
    def name(self) -> str:
        return f"mutant:{self.mutant.name}"

    @property
    def capabilities(self) -> Capabilities:
        return self._shared.capabilities()

    def from_numpy(self, array: NDArray[Any], device: str) -> Array:
        return self._shared.from_numpy(array, device)

    def to_numpy(self, array: Array) -> NDArray[Any]:
        return self._shared.right.to_numpy(array)

    def namespace(self, device: str) -> Namespace:
        return self._shared.namespace(device)

    def gradients(
        self, function: Callable[[dict[str, Array]], Array], arrays: Mapping[str, Array]
    ) -> dict[str, Array]:
        return self._shared.gradients(function, arrays)


@final
class _MutantScheduler(Scheduler):
    def __init__(
        self,
        mutant: Mutant,
        spec: SchedulerSpec,
        right: Scheduler,
        state: dict[Any, Any],
        parameters: Mapping[str, Array],
    ) -> None:
        self._mutant, self._spec, self._right, self._state = mutant, spec, right, state
        self._parameters = parameters
        self._own: dict[Any, Any] = {}

    @property
    def spec(self) -> SchedulerSpec:
        return self._spec

    def schedule(self, batch: ModalityBatch) -> Schedule:
        with np.errstate(all="ignore"):  # warnings of a mutant are of no use
            if self._mutant.batch:
                copies = {name: np.array(array) for name, array in batch.arrays().items()}
                batch = ModalityBatch(**self._mutant.batch(copies))
            if self._mutant.around:
                result = self._mutant.around(
                    Call(
                        schedule=self._right,
                        batch=batch,
                        spec=self._spec,
                        state=self._state,
                        own=self._own,
                        parameters=self._parameters,
                    )
                )
            else:
                result = self._right(batch)
            if self._mutant.result:
                result = self._mutant.result(result, batch, self._spec)
        return result


# ------------------------------------------------------------------------- ways of being wrong


def primitives(**functions: Callable[..., Array]) -> Callable[[Namespace], Namespace]:
    """Replaces some primitives of a namespace, which then reads arrays by these alone."""
    return lambda ns: replace(ns, one_read=no_form, **functions)  # type: ignore[arg-type]


class _Patched:
    """An array-API module with some functions replaced."""

    def __init__(self, module: Any, functions: Mapping[str, Callable[..., Array]]) -> None:
        self._module, self._functions = module, functions

    def __getattr__(self, name: str) -> Any:
        return self._functions.get(name) or getattr(self._module, name)


def library(**functions: Callable[..., Array]) -> Callable[[Namespace], Namespace]:
    """Replaces some functions of a namespace's array library."""
    return lambda ns: replace(ns, xp=_Patched(ns.xp, functions))


def signal(
    name: str, function: Callable[..., Array] | None = None, **changes: Any
) -> Callable[[Resolved], Resolved]:
    """Gives one signal another function, or changes something else about it."""
    own = changes | ({} if function is None else {"function": function})
    return lambda resolved: replace(
        resolved,
        signals=tuple(replace(s, **own) if s.name == name else s for s in resolved.signals),
    )


def policy(name: str, function: Callable[..., Mapping[str, Array]]) -> Callable[..., Resolved]:
    """Gives one policy another function."""

    def change(resolved: Resolved) -> Resolved:
        if resolved.policy.name != name:
            return resolved
        return replace(resolved, policy=replace(resolved.policy, function=function))

    return change


def softmax(logits: NDArray[Any]) -> NDArray[Any]:
    """Computes a right softmax, for mutants that are wrong elsewhere."""
    e = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(e / e.sum(axis=-1, keepdims=True))


def fused(result: Schedule, rows: NDArray[Any]) -> Schedule:
    """Gives the result another fused value: the weighted sum of some rows ``[B, M, *]``.

    What is not active is selected away; a mutant is wrong in one way only.
    """
    clean = np.where(result.active[..., None], rows, 0)
    value = np.einsum("bm,bmk->bk", result.weights, clean)
    return replace(result, fused=value.astype(result.fused.dtype))
