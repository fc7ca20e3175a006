"""Binds the namespace of an array library to the equations."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import final

from dms_spec.artifact import Artifact
from dms_spec.engine.resolve import resolve
from dms_spec.engine.row_predictor import EquationRowPredictor
from dms_spec.engine.scheduler import EquationScheduler
from dms_spec.equations.namespace import Namespace
from dms_spec.interface.backend import Backend, Predictive, RowPredictor, Scheduler
from dms_spec.spec import SchedulerSpec
from dms_spec.types import Array


class ArrayBackend(Backend, Predictive):
    """Runs schedulers on a library that has the array API.

    Name the `dms_spec.Namespace` of the library, and the equations do the rest.

    Example:
        >>> import array_api_compat.numpy as xp
        >>> import numpy as np
        >>> from dms_spec import ArrayBackend, Capabilities, Namespace
        >>> class Mine(ArrayBackend):
        ...     name = "mine"
        ...     capabilities = Capabilities(dtypes=("float64", "float32"))
        ...
        ...     def namespace(self, device):
        ...         return Namespace.of(xp, np.ndarray)
        ...
        ...     def from_numpy(self, array, device):
        ...         return array
        ...
        ...     def to_numpy(self, array):
        ...         return array
    """

    @abstractmethod
    def namespace(self, device: str) -> Namespace:
        """The namespace to compute in."""

    @final
    def _scheduler(
        self, spec: SchedulerSpec, parameters: Mapping[str, Array], device: str
    ) -> Scheduler:
        return EquationScheduler(
            self.namespace(device), resolve(spec, parameters), self.capabilities
        )

    @final
    def row_predictor(self, artifact: Artifact, device: str) -> RowPredictor:
        return EquationRowPredictor(self, self.namespace(device), artifact, device)
