"""The checks, as data: plain functions of a `Context`, each bound to the clauses that it checks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dms_spec.conformance import closeness, oracle
from dms_spec.errors import DMSError
from dms_spec.interface import Backend
from dms_spec.spec import SchedulerSpec
from dms_spec.types import ModalityBatch, Schedule

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

Arrays = dict[str, NDArray[Any]]

FAMILIES = ("shapes", "presence", "weights", "values", "refusals", "losses")


class ConformanceError(DMSError, AssertionError):
    """A backend broke a clause."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """One check.

    Attributes:
        name: The function's name, ``check_<property>``.
        clauses: Ids of the clauses that it checks.
        run: Raises if the backend of the context breaks one of them.
    """

    name: str
    clauses: tuple[str, ...]
    run: Callable[[Context], None]


_CHECKS: dict[str, Check] = {}


def check(*clauses: str) -> Callable[[Callable[[Context], None]], Callable[[Context], None]]:
    """Register a function as a check of some clauses."""

    def register(function: Callable[[Context], None]) -> Callable[[Context], None]:
        name = function.__name__
        _CHECKS[name] = Check(name=name, clauses=clauses, run=function)
        return function

    return register


def checks() -> tuple[Check, ...]:
    """Every check, in the order of the families. Imports hypothesis."""
    for family in FAMILIES:
        import_module(f"dms_spec.conformance.checks.{family}")
    return tuple(_CHECKS.values())


@dataclass(kw_only=True)
class Context:
    """What a check may use: a backend on one device, in one dtype.

    Attributes:
        backend: The backend under test.
        device: One of its devices.
        dtype: Name of one of its dtypes; inputs are drawn in it.
        examples: How many cases each property tries.
        worst: The largest error seen so far of each output, in eps times scale.
    """

    backend: Backend
    device: str
    dtype: str
    examples: int = 100
    worst: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.dtype == "bfloat16":
            import ml_dtypes  # noqa: F401 - teaches NumPy the name

    @property
    def unit(self) -> float:
        """eps of the dtype that inputs come in, or of the computing one if that is larger."""
        return max(self.eps, float(closeness.finfo(self.dtype).eps))

    @property
    def computing(self) -> type[np.floating[Any]]:
        """The computing dtype (DMS-S-002)."""
        return np.float64 if self.dtype == "float64" else np.float32

    @property
    def eps(self) -> float:
        """Eps of the computing dtype."""
        return float(np.finfo(self.computing).eps)

    def given(self, *strategies: SearchStrategy[Any]) -> Callable[[Callable[..., None]], None]:
        """Run a property at once, on drawn cases that are the same in every run."""
        from hypothesis import Phase, given, settings

        def run(property_: Callable[..., None]) -> None:
            settings(
                max_examples=self.examples,
                derandomize=True,
                database=None,
                deadline=None,
                phases=[Phase.explicit, Phase.generate, Phase.shrink],
            )(given(*strategies)(property_))()

        return run

    def schedule(
        self, spec: SchedulerSpec, arrays: Arrays, parameters: Arrays | None = None
    ) -> Schedule:
        """Run the backend on NumPy arrays and bring the result back as NumPy arrays."""
        backend = self.backend
        moved = {name: backend.from_numpy(array, self.device) for name, array in arrays.items()}
        scheduler = backend.scheduler(spec, parameters, device=self.device)
        result = scheduler(ModalityBatch(**moved))
        return result.converted(backend.to_numpy)

    def expect(self, clause: str, truth: Any, what: str) -> None:
        """Raise `ConformanceError` in the name of a clause unless something holds throughout."""
        if not np.all(truth):
            raise ConformanceError(f"{clause}: {what}")

    def expect_close(
        self, clause: str, name: str, got: NDArray[Any], exact: NDArray[Any], scale: NDArray[Any]
    ) -> None:
        """Hold one output to its exact value: shape, then NaN and Inf, then closeness."""
        self.expect(clause, got.shape == exact.shape, f"{name} has shape {got.shape}")
        self.expect(clause, ~np.isnan(got), f"{name} holds NaN")
        infinite = np.isinf(exact)
        self.expect(
            clause, np.isinf(got) == infinite, f"{name} is infinite elsewhere than it should be"
        )
        finite = ~infinite
        self.expect(clause, got[infinite] == exact[infinite], f"{name} has the wrong infinity")
        error = np.abs(got[finite].astype(np.float64) - exact[finite])
        allowance = np.zeros_like(error)
        if got.dtype.itemsize == 2:  # fused alone comes out in half precision
            info = closeness.finfo(got.dtype)
            allowance = np.abs(exact[finite]) * float(info.eps) / 2 + float(info.smallest_subnormal)
        units = np.maximum(error - allowance, 0.0) / (self.eps * scale[finite])
        worst = float(units.max(initial=0.0))
        self.worst[name] = max(self.worst.get(name, 0.0), worst)
        self.expect(
            clause,
            worst <= closeness.K,
            f"{name} is off by {worst:.1f} eps of its scale, {closeness.K:g} are allowed",
        )

    def expect_exact(
        self, clause: str, spec: SchedulerSpec, arrays: Arrays, parameters: Arrays
    ) -> Schedule:
        """Schedule, and hold every output to the oracle's."""
        result = self.schedule(spec, arrays, parameters)
        exact = oracle.schedule(spec, arrays, parameters)
        scale = closeness.scales(spec, exact, arrays, parameters, self.computing)
        self.expect(clause, result.active == exact.active, "active differs from the oracle's")
        for name, expected in exact.signals.items():
            self.expect_close(clause, name, result.signals[name], expected, scale[name])
        for name in ("scores", "weights", "fused"):
            self.expect_close(
                clause, name, getattr(result, name), getattr(exact, name), scale[name]
            )
        return result
