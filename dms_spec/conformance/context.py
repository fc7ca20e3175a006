"""Gives a check what it works with: a backend on one device, in one dtype, and ways to test it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dms_spec.conformance import closeness, oracle
from dms_spec.conformance.clauses import clauses
from dms_spec.engine.array_backend import ArrayBackend
from dms_spec.errors import DMSError
from dms_spec.interface.backend import Backend
from dms_spec.plugins import available
from dms_spec.spec import SchedulerSpec
from dms_spec.types import ModalityBatch, Schedule

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

Arrays = dict[str, NDArray[Any]]


class ConformanceError(DMSError, AssertionError):
    """A backend broke a clause."""


def same_bits(one: Schedule, other: Schedule) -> bool:
    """Says whether two results are equal throughout, where NaN equals NaN."""
    pairs = zip(one.arrays().values(), other.arrays().values(), strict=True)
    return all(np.array_equal(a, b, equal_nan=a.dtype != bool) for a, b in pairs)


@dataclass(kw_only=True)
class Context:
    """Holds what a check may use: a backend on one device, in one dtype.

    Attributes:
        backend: The backend under test.
        device: One of its devices.
        dtype: Name of one of its dtypes; inputs are drawn in it.
        examples: How many cases each property tries.
        seed: None to draw the same cases in every run; else where new ones start.
        shrink: Whether what fails is shrunk to a smallest case.
        only: The one clause that may fail. Every clause may if it is empty.
        worst: The largest error seen so far of each output, in eps times scale.
        last: The spec, arrays and parameters that were scheduled last: after a failure, the
            smallest case that fails.
    """

    backend: Backend
    device: str
    dtype: str
    examples: int = 100
    seed: int | None = None
    shrink: bool = True
    only: str = ""
    worst: dict[str, float] = field(default_factory=dict)
    last: tuple[SchedulerSpec, Arrays, Arrays] | None = None

    def __post_init__(self) -> None:
        if self.dtype == "bfloat16":
            import ml_dtypes  # noqa: F401 - teaches NumPy the name

    @property
    def unit(self) -> float:
        """The eps of the dtype that inputs come in, or of the computing dtype if that is larger."""
        return max(self.eps, float(closeness.finfo(self.dtype).eps))

    @property
    def computing(self) -> type[np.floating[Any]]:
        """The computing dtype (DMS-S-002)."""
        return np.float64 if self.dtype == "float64" else np.float32

    @property
    def eps(self) -> float:
        """The eps of the computing dtype."""
        return float(np.finfo(self.computing).eps)

    # ------------------------------------------------------------------------------- the claims

    def lacks(self, needs: tuple[str, ...]) -> str:
        """Names the first need that the backend does not claim. Empty if it claims them all.

        A need is ``"arrays"`` (it is an `ArrayBackend`), ``"gradients"``, ``"deterministic"``,
        ``"dtype:<name>"``, ``"policy:<name>"``, or ``"exporter"`` (any is installed).
        """
        return next((need for need in needs if not self._claims(need)), "")

    def _claims(self, need: str) -> bool:
        claims = self.backend.capabilities
        kind, _, name = need.partition(":")
        if kind == "arrays":
            return isinstance(self.backend, ArrayBackend)
        if kind == "gradients":
            return claims.gradients
        if kind == "deterministic":
            return claims.bitwise_deterministic
        if kind == "dtype":
            return name in claims.dtypes
        if kind == "policy":
            return claims.policies is None or name in claims.policies
        if kind == "exporter":
            return bool(available("exporter"))
        raise ValueError(f"no such need: {need}")

    # --------------------------------------------------------------------------------- the cases

    def given(self, *strategies: SearchStrategy[Any]) -> Callable[[Callable[..., None]], None]:
        """Runs a property at once, on drawn cases, and shrinks what fails to a smallest case."""
        from hypothesis import HealthCheck, Phase, given, seed, settings

        def run(property_: Callable[..., None]) -> None:
            test = given(*strategies)(property_)
            if self.seed is not None:
                test = seed(self.seed)(test)
            settings(
                max_examples=self.examples,
                derandomize=self.seed is None,
                database=None,
                deadline=None,
                report_multiple_bugs=False,  # one message, which names the clause
                phases=[Phase.generate, *([Phase.shrink] if self.shrink else [])],
                suppress_health_check=[
                    HealthCheck.too_slow
                ],  # a busy machine does not break a clause
            )(test)()

        return run

    def cases(self, **options: Any) -> SearchStrategy[Any]:
        """Draws `strategies.cases` in this dtype, of the core's policies that are claimed."""
        from dms_spec.conformance import strategies

        policies = options.pop("policies", strategies.POLICIES)
        claimed = tuple(name for name in policies if self._claims(f"policy:{name}"))
        return strategies.cases(self.dtype, policies=claimed, **options)

    def schedule(
        self, spec: SchedulerSpec, arrays: Arrays, parameters: Arrays | None = None
    ) -> Schedule:
        """Runs the backend on NumPy arrays, and brings the result back as NumPy arrays."""
        self.last = spec, arrays, parameters or {}
        backend = self.backend
        moved = {name: backend.from_numpy(array, self.device) for name, array in arrays.items()}
        result = backend.scheduler(spec, parameters, device=self.device)(ModalityBatch(**moved))
        given = next(iter(moved.values()))
        for name, array in result.arrays().items():
            self._expect_same_kind(name, array, given)
        return result.converted(backend.to_numpy)

    # ---------------------------------------------------------------------------- the comparison

    def expect(self, clause: str, truth: Any, what: str) -> None:
        """Raises `ConformanceError` in the name of a clause unless something holds throughout."""
        if not np.all(truth) and self.only in ("", clause):
            raise ConformanceError(f"{clause}: {what}. The clause: {clauses()[clause].text}")

    def _expect_same_kind(self, name: str, array: Any, given: Any) -> None:
        """Expects an array of the library that came in, on the device that it came from."""
        kind = type(array) is type(given)
        self.expect("DMS-S-001", kind, f"{name} is a {type(array).__name__}, not an array as given")
        where = [str(getattr(x, "device", "")) for x in (array, given)]
        self.expect("DMS-C-003", where[0] == where[1], f"{name} is on {where[0]}, not {where[1]}")

    def expect_close(
        self, clause: str, name: str, got: NDArray[Any], exact: NDArray[Any], scale: NDArray[Any]
    ) -> None:
        """Compares one output with its exact value: shape, then NaN and Inf, then closeness."""
        self.expect(clause, got.shape == exact.shape, f"{name} has shape {got.shape}")
        self.expect(clause, ~np.isnan(got), f"{name} holds NaN")
        infinite = np.isinf(exact)
        self.expect(
            clause,
            np.isinf(got) == infinite,
            f"{name} is infinite where it should not be, or the reverse",
        )
        finite = ~infinite
        self.expect(clause, got[infinite] == exact[infinite], f"{name} has the wrong infinity")
        error = np.abs(got[finite].astype(np.float64) - exact[finite])
        allowance = np.zeros_like(error)
        if got.dtype.itemsize < np.dtype(self.computing).itemsize:  # fused alone is narrowed
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
        """Schedules, and compares every output with the oracle's."""
        result = self.schedule(spec, arrays, parameters)
        exact = oracle.schedule(spec, arrays, parameters)
        scale = closeness.scales(spec, exact, arrays, parameters, self.computing)
        self.expect(clause, result.active == exact.active, "active differs from the oracle's")
        for name, expected in exact.signals.items():
            self.expect(clause, name in result.signals, f"signal {name} is missing")
            self.expect_close(clause, name, result.signals[name], expected, scale[name])
        there = result.soundness is None
        self.expect(clause, there == (exact.soundness is None), "soundness is there or is not")
        names = ["scores", "weights", "fused"] + ([] if there else ["soundness"])
        for name in names:
            self.expect_close(
                clause, name, getattr(result, name), getattr(exact, name), scale[name]
            )
        return result
