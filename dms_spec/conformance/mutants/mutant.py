"""A mutant: the NumPy backend with one thing wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from dms_spec.capabilities import Capabilities
from dms_spec.equations.namespace import Namespace
from dms_spec.equations.scheduler import EquationScheduler
from dms_spec.interface import ArrayBackend, Backend, Scheduler
from dms_spec.plugins import get_backend
from dms_spec.resolve import resolve
from dms_spec.spec import SchedulerSpec
from dms_spec.types import Array, ModalityBatch, Schedule

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """What is wrong, and what that breaks.

    Attributes:
        name: In a word or two.
        summary: What somebody did wrong.
        clause: The clause that this breaks: a check of it must fail.
        dtype: A dtype in which it shows.
        batch: What it does to the inputs.
        namespace: What it does to the namespace that equations are computed in.
        spec: What it makes of the spec.
        result: What it does to the result, given the inputs.
        claims: What it claims; by default what NumPy does.
        convert: What it does to an array on its way in.
    """

    name: str
    summary: str
    clause: str
    dtype: str = "float32"
    batch: Callable[[Arrays], Arrays] | None = None
    namespace: Callable[[Namespace], Namespace] | None = None
    spec: Callable[[SchedulerSpec], SchedulerSpec] | None = None
    result: Callable[[Schedule, ModalityBatch, SchedulerSpec], Schedule] | None = None
    claims: Callable[[Capabilities], Capabilities] | None = None
    convert: Callable[[NDArray[Any]], NDArray[Any]] | None = None


@final
class MutantBackend(Backend):
    """The backend of a mutant."""

    def __init__(self, mutant: Mutant) -> None:
        self.mutant = mutant
        numpy = get_backend("numpy")
        assert isinstance(numpy, ArrayBackend)  # noqa: S101 - it is ours
        self._numpy = numpy

    @property
    def name(self) -> str:
        return f"mutant:{self.mutant.name}"

    @property
    def capabilities(self) -> Capabilities:
        claims = self._numpy.capabilities
        return self.mutant.claims(claims) if self.mutant.claims else claims

    def from_numpy(self, array: NDArray[Any], device: str) -> NDArray[Any]:
        del device
        return self.mutant.convert(array) if self.mutant.convert else array

    def to_numpy(self, array: NDArray[Any]) -> NDArray[Any]:
        return array

    def _scheduler(
        self, spec: SchedulerSpec, parameters: Mapping[str, Array], device: str
    ) -> Scheduler:
        ns = self._numpy.namespace(device)
        if self.mutant.namespace:
            ns = self.mutant.namespace(ns)
        own = self.mutant.spec(spec) if self.mutant.spec else spec
        scheduler = EquationScheduler(ns, resolve(own, parameters), self._numpy.capabilities)
        return _MutantScheduler(self.mutant, spec, scheduler)


@final
class _MutantScheduler(Scheduler):
    def __init__(self, mutant: Mutant, spec: SchedulerSpec, right: Scheduler) -> None:
        self._mutant, self._spec, self._right = mutant, spec, right

    @property
    def spec(self) -> SchedulerSpec:
        return self._spec

    def schedule(self, batch: ModalityBatch) -> Schedule:
        if self._mutant.batch:
            copies = {name: np.array(array) for name, array in batch.arrays().items()}
            batch = ModalityBatch(**self._mutant.batch(copies))
        result = self._right(batch)
        if self._mutant.result:
            result = self._mutant.result(result, batch, self._spec)
        return result


def primitive(name: str, function: Callable[..., Array]) -> Callable[[Namespace], Namespace]:
    """A namespace with one primitive replaced."""
    changes: dict[str, Any] = {name: function}
    return lambda ns: replace(ns, **changes)
