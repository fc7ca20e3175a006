"""Gives a check what it works with: a backend on one device, in one dtype, and ways to test it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dms_spec.artifact import Artifact
from dms_spec.conformance import closeness, oracle, worked_example
from dms_spec.conformance.clauses import clauses
from dms_spec.engine.array_backend import ArrayBackend
from dms_spec.errors import DMSError
from dms_spec.interface.backend import Backend, Predictive, RowPredictor, Scheduler
from dms_spec.plugins import available
from dms_spec.spec import SchedulerSpec
from dms_spec.types import TERMS, ModalityBatch, Schedule

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

Arrays = dict[str, NDArray[Any]]


class ConformanceError(DMSError, AssertionError):
    """A backend broke a clause."""


def everything(result: Schedule) -> Arrays:
    """Every array of a result by name, terms included."""
    return result.arrays() | {f"{TERMS}{name}": term for name, term in result.terms.items()}


def first_false(truth: Any) -> tuple[int, ...]:
    """Says where something first does not hold; nowhere in particular if it is one truth."""
    found = np.argwhere(~np.asarray(truth, dtype=bool))
    return tuple(int(index) for index in found[0]) if found.size else ()


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

        A need is ``"arrays"`` (it is an `ArrayBackend`), ``"heads"`` (it is `Predictive`),
        ``"gradients"``, ``"deterministic"``, ``"dtype:<name>"``, ``"policy:<name>"``, or
        ``"exporter"`` (any is installed).
        """
        return next((need for need in needs if not self._claims(need)), "")

    def _claims(self, need: str) -> bool:
        claims = self.backend.capabilities
        kind, _, name = need.partition(":")
        if kind == "arrays":
            return isinstance(self.backend, ArrayBackend)
        if kind == "heads":
            return isinstance(self.backend, Predictive)
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
        from hypothesis.errors import Flaky

        def run(property_: Callable[..., None]) -> None:
            test = given(*strategies)(property_)
            try:
                tried(test)
            except Flaky as error:
                first = next(iter(getattr(error, "exceptions", ())), error)
                claimed = self._claims("deterministic")
                self.expect(
                    "DMS-C-004" if claimed else "DMS-N-001",
                    False,
                    f"the same case fails in one run and not in the next; it failed with: {first}",
                )

        def tried(test: Callable[..., None]) -> None:
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
        known = dict.fromkeys((*policies, *oracle.POLICIES))
        claimed = tuple(name for name in policies if self._claims(f"policy:{name}"))
        # Whoever claims none of these is tried on what it claims.
        claimed = claimed or tuple(name for name in known if self._claims(f"policy:{name}"))
        return strategies.cases(self.dtype, policies=claimed, **options)

    def grid(self, *axes: Iterable[Any]) -> Iterator[tuple[np.random.Generator, tuple[Any, ...]]]:
        """Goes through combinations, each with a generator: as many of them as there are examples.

        Cases that must all be tried are listed, not drawn. What matters most comes first.
        """
        chosen = itertools.islice(itertools.product(*axes), self.examples)
        for number, values in enumerate(chosen):
            key = number + (0 if self.seed is None else 1000 * self.seed)
            yield np.random.Generator(np.random.Philox(key)), values

    def plain_policy(self) -> str:
        """Names a claimed policy that weighs nothing unless it is told to."""
        for policy in ("static", "linear", "modality_dropout", "co_attention"):
            if self._claims(f"policy:{policy}"):
                return policy
        return "static"

    def example(self) -> SchedulerSpec:
        """The worked example's spec, under a policy that is claimed."""
        spec = worked_example.SPEC
        if self._claims(f"policy:{spec.policy}"):
            return spec
        return spec.replace(policy=self.plain_policy(), coefficients={})

    def schedule(
        self, spec: SchedulerSpec, arrays: Arrays, parameters: Arrays | None = None
    ) -> Schedule:
        """Runs the backend on NumPy arrays, and brings the result back as NumPy arrays."""
        scheduler = self.backend.scheduler(spec, parameters, device=self.device)
        return self.run(scheduler, arrays, parameters)

    def run(
        self, scheduler: Scheduler, arrays: Arrays, parameters: Arrays | None = None
    ) -> Schedule:
        """Runs a scheduler that there is, as `schedule` runs a new one."""
        self.last = scheduler.spec, arrays, parameters or {}
        moved = self.moved(arrays)
        result = scheduler(ModalityBatch(**moved))
        self._expect_schedule(result, scheduler.spec)
        given = next(iter(moved.values()))
        for name, array in everything(result).items():
            self._expect_same_kind(name, array, given)
        found = result.converted(self.backend.to_numpy)
        self._expect_shapes(found, arrays)
        return found

    def rows(self, artifact: Artifact) -> RowPredictor:
        """Binds a fitted artifact to the device, of a backend that claims heads."""
        assert isinstance(self.backend, Predictive)  # noqa: S101 - the check needs heads
        return self.backend.row_predictor(artifact, self.device)

    def moved(self, arrays: Arrays) -> dict[str, Any]:
        """The arrays as those of the backend's library."""
        return {name: self.backend.from_numpy(array, self.device) for name, array in arrays.items()}

    # ---------------------------------------------------------------------------- the comparison

    def expect(
        self, clause: str, truth: Any, what: str, got: Any = None, expected: Any = None
    ) -> None:
        """Raises `ConformanceError` in the name of a clause unless something holds throughout.

        Args:
            clause: Its id.
            truth: What has to hold, one truth or an array of them.
            what: What is wrong if it does not.
            got: What came, an array of the same shape.
            expected: What should have come, an array of the same shape.
        """
        if np.all(truth) or self.only not in ("", clause):
            return
        if got is not None:
            where = first_false(truth)
            what += f" at {list(where)}: got {np.asarray(got)[where]!s}"
            if expected is not None:
                what += f", expected {np.asarray(expected)[where]!s}"
        raise ConformanceError(f"{clause}: {what}. The clause: {clauses()[clause].text}")

    def _expect_schedule(self, result: Any, spec: SchedulerSpec) -> None:
        """Expects a schedule that a check can read, so that no check fails over its form."""
        kind = isinstance(result, Schedule)
        self.expect("DMS-S-001", kind, f"the result is a {type(result).__name__}, not a Schedule")
        named = isinstance(result.signals, Mapping) and isinstance(result.terms, Mapping)
        self.expect("DMS-S-001", named, "signals or terms are no mapping from names to arrays")
        same = set(result.signals) == set(spec.signals)
        self.expect("DMS-S-001", same, f"the signals are {', '.join(result.signals) or 'none'}")
        words = all(isinstance(note, str) for note in result.notes)
        self.expect("DMS-S-001", words, f"the notes are {result.notes!r}, not texts")

    def _expect_shapes(self, result: Schedule, arrays: Arrays) -> None:
        """Expects [B, M] of everything but what is fused, which has an axis of its own."""
        floating = next(array for name, array in arrays.items() if name != "present")
        square = floating.shape[-3:-1]
        for name, array in everything(result).items():
            shape = np.shape(array)
            right = shape[:1] == square[:1] and len(shape) == 2 if name == "fused" else None
            right = shape == square if right is None else right
            self.expect("DMS-S-001", right, f"{name} has shape {list(shape)}")

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
        self.expect(
            clause,
            got.shape == exact.shape,
            f"{name} has shape {list(got.shape)}, not {list(exact.shape)}",
        )
        self.expect(clause, ~np.isnan(got), f"{name} is NaN", got, exact)
        infinite = np.isinf(exact)
        same = (np.isinf(got) == infinite) & (~infinite | (got == exact))
        self.expect(clause, same, f"{name} is infinite where it should not be", got, exact)
        error = np.where(infinite, 0.0, np.abs(_less(got, exact)))
        allowance = np.zeros_like(error)
        if got.dtype.itemsize < np.dtype(self.computing).itemsize:  # fused alone is narrowed
            info = closeness.finfo(got.dtype)
            narrowed = np.abs(exact) * float(info.eps) / 2 + float(info.smallest_subnormal)
            allowance = np.where(infinite, 0.0, narrowed)
        with np.errstate(invalid="ignore"):
            units = np.maximum(error - allowance, 0.0) / (self.eps * scale)
        units = np.where(infinite, 0.0, units)
        worst = float(units.max(initial=0.0))
        self.worst[name] = max(self.worst.get(name, 0.0), worst)
        self.expect(
            clause,
            units <= closeness.K if worst <= closeness.K else units < worst,
            f"{name} is off by {worst:.1f} eps of its scale, {closeness.K:g} are allowed",
            got,
            exact,
        )

    def expect_exact(
        self, clause: str, spec: SchedulerSpec, arrays: Arrays, parameters: Arrays
    ) -> Schedule:
        """Schedules, and compares every output with the oracle's."""
        result = self.schedule(spec, arrays, parameters)
        self.expect_result(clause, result, spec, arrays, parameters)
        return result

    def expect_result(
        self,
        clause: str,
        result: Schedule,
        spec: SchedulerSpec,
        arrays: Arrays,
        parameters: Arrays,
    ) -> None:
        """Compares every output of a result with the oracle's: names first, then values."""
        exact = oracle.schedule(spec, arrays, parameters)
        scale = closeness.scales(spec, exact, arrays, parameters, self.computing)
        self.expect(clause, result.active == exact.active, "active is wrong", result.active)
        self._expect_names(clause, "signals", result.signals, exact.signals)
        self._expect_names(clause, "terms", result.terms, exact.terms or result.terms)
        there = result.soundness is None
        self.expect(clause, there == (exact.soundness is None), "soundness is there or is not")
        for name, expected in exact.arrays().items():
            self.expect_close(clause, name, everything(result)[name], expected, scale[name])

    def _expect_names(
        self, clause: str, what: str, got: Mapping[str, Any], expected: Mapping[str, Any]
    ) -> None:
        self.expect(
            clause,
            set(got) == set(expected),
            f"the {what} are {', '.join(got) or 'none'}, not {', '.join(expected) or 'none'}",
        )

    def expect_same(
        self,
        clause: str,
        got: Schedule,
        expected: Schedule,
        what: str,
        spec: SchedulerSpec,
        arrays: Arrays,
        parameters: Arrays,
    ) -> None:
        """Expects two results to be equal throughout, terms and notes included.

        Their bits are compared if the backend claims determinism. Each may else be as far from the
        exact value as closeness allows.
        """
        one, other = everything(got), everything(expected)
        self._expect_names(clause, f"outputs ({what})", one, other)
        self.expect(
            clause, got.notes == expected.notes, f"{what}: notes {got.notes}, not {expected.notes}"
        )
        allowed: dict[str, NDArray[np.float64]] = {}
        if not self._claims("deterministic"):
            allowed = self.allowed(spec, arrays, parameters)
        for name, array in one.items():
            wanted = other[name]
            same = (array.shape, array.dtype) == (wanted.shape, wanted.dtype)
            self.expect(clause, same, f"{what}: {name} has another shape or dtype")
            near = (array == wanted) | ((array != array) & (wanted != wanted))
            if name in allowed:
                near |= np.abs(_less(array, wanted)) <= allowed[name]
            self.expect(clause, near, f"{what}: {name} differs", array, wanted)

    def allowed(
        self, spec: SchedulerSpec, arrays: Arrays, parameters: Arrays
    ) -> dict[str, NDArray[np.float64]]:
        """How far two results of a case may be from each other, by output."""
        exact = oracle.schedule(spec, arrays, parameters)
        scale = closeness.scales(spec, exact, arrays, parameters, self.computing)
        found = {name: 2 * closeness.K * self.eps * own for name, own in scale.items()}
        role = "features" if spec.fusion == "feature" else "logits"
        info = closeness.finfo(arrays[role].dtype)
        size = np.where(np.isfinite(exact.fused), np.abs(exact.fused), 0.0)
        found["fused"] = found["fused"] + size * float(info.eps) + float(info.smallest_subnormal)
        return found


def _less(one: NDArray[Any], other: NDArray[Any]) -> NDArray[np.float64]:
    with np.errstate(invalid="ignore"):
        return np.asarray(one.astype(np.float64) - other.astype(np.float64))
