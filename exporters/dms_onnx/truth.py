"""Says what a graph should compute: the oracle's answer, and how far from it is close enough.

For a scheduler of the core the oracle answers, with the scales of the conformance suite. The
oracle knows neither heads nor the policies of plugins: there the NumPy backend answers, in
float64, and the scale is the size of the answer together with what NumPy itself loses in the
graph's own precision.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dms_spec.artifact import Artifact
from dms_spec.conformance import oracle
from dms_spec.conformance.closeness import K, scales
from dms_spec.conformance.context import ConformanceError, Context
from dms_spec.embeddings.predictor import Predictor
from dms_spec.embeddings.table import Table
from dms_spec.engine.warning import quietly
from dms_spec.plugins import get_backend
from dms_spec.types import ModalityBatch

Arrays = dict[str, NDArray[Any]]

_CLAUSE = "DMS-X-008"


@dataclass
class Answer:
    """Holds the right outputs for one batch, float64, and the scale of each."""

    context: Context
    exact: Arrays
    scale: Arrays
    classes: NDArray[Any] | None = None
    worst: dict[str, float] = field(default_factory=dict)

    def hold(self, found: Mapping[str, NDArray[Any]]) -> None:
        """Compares the outputs of a runtime with the right ones.

        Raises:
            ConformanceError: An output is missing, or off by more than is allowed.
        """
        if set(found) != set(self.exact):
            raise ConformanceError(
                "the outputs have other names",
                expected=", ".join(self.exact),
                got=", ".join(found),
            )
        self.context.worst = {}
        for name, exact in self.exact.items():
            shape = found[name].shape
            self.context.expect(_CLAUSE, shape == exact.shape, f"{name} has shape {list(shape)}")
            if name == "predicted":
                self._hold_prediction(found[name])
            elif name == "active":
                self.context.expect(_CLAUSE, found[name] == exact, "active differs")
            else:
                self.context.expect_close(_CLAUSE, name, found[name], exact, self.scale[name])
        self.worst = dict(self.context.worst)

    def _hold_prediction(self, predicted: NDArray[Any]) -> None:
        """Expects the class predicted to be one of the likeliest, as far as can be told."""
        p = self.exact["probabilities"]
        chosen = self.classes == predicted[:, None]
        slack = 2 * K * self.context.unit * self.scale["probabilities"].max(axis=1)
        near = np.where(chosen, p, -np.inf).max(axis=1) >= p.max(axis=1) - slack
        self.context.expect(_CLAUSE, near, "another class is predicted")


class Truth:
    """Says what one artifact computes.

    Args:
        artifact: The scheduler, and its heads.
        heads: Whether embeddings come in; else a batch.
        dtype: The dtype of the graph's inputs.
    """

    def __init__(self, artifact: Artifact, *, heads: bool, dtype: str) -> None:
        self._artifact, self._dtype = artifact, dtype
        numpy = get_backend("numpy")
        self._context = Context(backend=numpy, device="cpu", dtype=dtype)
        # A graph cannot raise.
        quiet = artifact.spec.replace(strict=False, nonfinite="mask")
        self._spec = quiet
        with quietly():
            if heads:
                self._predictor = Predictor(replace(artifact, spec=quiet), numpy)
            else:
                self._scheduler = numpy.scheduler(quiet, artifact.scheduler_parameters)
        self._heads = heads

    def answer(self, arrays: Arrays) -> Answer:
        """Computes the right outputs for one batch."""
        if self._heads:
            return self._measured(arrays, self._predict)
        if not oracle.knows(self._spec):
            return self._measured(arrays, self._schedule)
        parameters = self._artifact.scheduler_parameters
        exact = oracle.schedule(self._spec, arrays, parameters)
        scale = scales(self._spec, exact, arrays, parameters, self._context.computing)
        names = ("weights", "fused", "scores", "active")
        outputs: Arrays = {name: getattr(exact, name) for name in names}
        if exact.soundness is not None:
            outputs["soundness"] = exact.soundness
        return Answer(self._context, outputs | exact.signals, scale)

    def _measured(self, arrays: Arrays, compute: Callable[[Arrays], Arrays]) -> Answer:
        """Computes NumPy's answer in float64, and what it loses in the graph's own precision."""
        wide = {
            name: array if name == "present" else array.astype(np.float64)
            for name, array in arrays.items()
        }
        exact, own = compute(wide), compute(arrays)
        eps = self._context.eps
        scale = {}
        with np.errstate(invalid="ignore"):
            for name, value in exact.items():
                if value.dtype.kind == "f":
                    finite = np.isfinite(value)
                    lost = np.abs(np.where(finite, own[name].astype(np.float64) - value, 0.0))
                    size = np.where(finite, np.abs(value), 0.0)
                    scale[name] = 1.0 + size + lost.max(initial=0.0) / eps
        classes = self._predictor.classes if self._heads else None
        return Answer(self._context, exact, scale, classes)

    def _schedule(self, arrays: Arrays) -> Arrays:
        return self._scheduler(ModalityBatch(**arrays)).arrays()

    def _predict(self, arrays: Arrays) -> Arrays:
        embeddings = {name: array for name, array in arrays.items() if name != "present"}
        table = Table(embeddings=embeddings, present=arrays["present"])
        return self._predictor.predict(table)
