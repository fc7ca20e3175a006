"""Runs the suite: tests what is claimed, and expects a refusal of what is not."""

from __future__ import annotations

import platform
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from math import isfinite
from pathlib import Path

from dms_spec._version import PACKAGE
from dms_spec.conformance import clauses, drawing, strategies
from dms_spec.conformance.context import ConformanceError, Context
from dms_spec.conformance.expected import Expectation
from dms_spec.conformance.mutants import get_mutant, self_test
from dms_spec.conformance.registry import Check, checks
from dms_spec.conformance.report import STOPPED, Report, Result, Status
from dms_spec.conformance.worked_example import SPEC, arrays
from dms_spec.equations.namespace import Namespace
from dms_spec.errors import DMSWarning, UnsupportedCapability
from dms_spec.interface.backend import (
    Backend,
    Differentiable,
    Predictive,
    RowPredictor,
    Scheduler,
)
from dms_spec.plugins import get_backend, installed_version
from dms_spec.spec import SchedulerSpec
from dms_spec.types import ModalityBatch

#: Cases that each property tries when it certifies.
EXAMPLES = 100
#: The same, when there is time.
THOROUGH = 500

#: The dtypes that a backend may claim.
DTYPES = ("float64", "float32", "float16", "bfloat16")

_POLICIES = tuple(
    dict.fromkeys(
        (*strategies.POLICIES, "modality_dropout", *drawing.LEARNED, *strategies.PUBLISHED)
    )
)


@dataclass(frozen=True, kw_only=True)
class Planned:
    """Plans a check on one device in one dtype, or the refusal of something that is not claimed.

    Attributes:
        check: The check.
        device: Where.
        dtype: In which dtype.
        idle: Why it is not run; empty if it is.
    """

    check: Check
    device: str
    dtype: str
    idle: str = ""

    @property
    def id(self) -> str:
        """Clause, check, device and dtype in one word."""
        return f"{self.check.clauses[0]}-{self.check.name}-{self.device}-{self.dtype}"


def plan(
    backend: Backend,
    selected: Sequence[Check] | None = None,
    *,
    devices: Iterable[str] = (),
    dtypes: Iterable[str] = (),
) -> list[Planned]:
    """Lists what a run has to do: every check in every dtype on every device that is claimed.

    Args:
        backend: The backend under test.
        selected: Checks; None for all of them and the refusals.
        devices: Some of the claimed devices; none for all of them.
        dtypes: Some of the claimed dtypes; none for all of them.

    Raises:
        BackendUnavailable: A device is not claimed.
        UnsupportedCapability: A dtype is not claimed.
    """
    claims = backend.capabilities
    devices = [backend.check_device(device) for device in devices] or list(claims.devices)
    dtypes = list(dtypes) or list(claims.dtypes)
    for dtype in dtypes:
        if dtype not in claims.dtypes:
            raise UnsupportedCapability(
                f"backend {backend.name!r} does not claim {dtype}",
                capability=f"dtype:{dtype}",
                expected=" or ".join(claims.dtypes),
            )
    planned = []
    for device in devices:
        for check in checks() if selected is None else selected:
            lacking = Context(backend=backend, device=device, dtype="float32").lacks(check.needs)
            own = [d for d in dtypes if not check.dtypes or d in check.dtypes]
            if lacking and not own:
                own = [check.dtypes[0]]  # listed once, as not claimed
            planned += [
                Planned(check=check, device=device, dtype=dtype, idle=lacking) for dtype in own
            ]
        if selected is None:
            planned += [
                Planned(check=refusal, device=device, dtype=dtype)
                for refusal, dtype in _refusals(backend)
            ]
    return planned


def run_one(
    backend: Backend,
    planned: Planned,
    *,
    examples: int = EXAMPLES,
    seed: int | None = None,
    expected: Sequence[Expectation] = (),
    failed: Callable[[Planned, Context], None] | None = None,
) -> Result:
    """Runs one check.

    Args:
        backend: The backend under test.
        planned: What to run.
        examples: Cases that each property tries.
        seed: None for the same cases in every run.
        expected: Failures that are expected.
        failed: Called with the context of a check that failed, whose ``last`` is the smallest case.
    """
    check, device, dtype = planned.check, planned.device, planned.dtype
    context = Context(backend=backend, device=device, dtype=dtype, examples=examples, seed=seed)
    status: Status = "refusal_ok" if check.name.startswith(_REFUSES) else "passed"
    message, start = "", time.perf_counter()
    if planned.idle:
        status = "not_run" if planned.idle == "exporter" else "not_claimed"
        message = f"needs {planned.idle}"
    else:
        try:
            _quietly(check, context)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # one that exits or panics ends no run
            status = _status(error, refusal=status == "refusal_ok")
            message = _message(error, backend, check.clauses[0], status)
            message += _kept(planned, context, failed)
    expectation = next((e for e in expected if e.matches(check.name, device, dtype)), None)
    if expectation is not None and not planned.idle:
        status = "xfail" if status in ("failed", "error", "refusal_missing") else "xpass"
        message = f"expected: {expectation.reason} {expectation.link}".strip() + f"\n{message}"
    where = f"device={device!r}, dtype={dtype!r}" + ("" if seed is None else f", seed={seed}")
    call = f"run_check({backend.name!r}, {check.name!r}, {where})"
    return Result(
        check=check.name,
        clauses=check.clauses,
        level=check.level,
        device=device,
        dtype=dtype,
        status=status,
        message=message.strip(),
        reproduce=f"from dms_spec.conformance import run_check\n{call}" if message else "",
        seconds=round(time.perf_counter() - start, 3),
        # An error that is not finite is a failure, and its message says so.
        worst={name: round(v, 3) for name, v in context.worst.items() if isfinite(v)},
    )


def run(
    backend: Backend,
    planned: Sequence[Planned],
    *,
    registered: int,
    examples: int = EXAMPLES,
    seed: int | None = None,
    expected: Sequence[Expectation] = (),
    failed: Callable[[Planned, Context], None] | None = None,
    progress: Callable[[Iterable[Planned]], Iterable[Planned]] = iter,
) -> Report:
    """Runs what was planned, two wrong backends first.

    Args:
        backend: The backend under test.
        planned: Some or all of `plan`.
        registered: How many a whole run has.
        examples: Cases that each property tries.
        seed: None for the same cases in every run.
        expected: Failures that are expected.
        failed: As in `run_one`.
        progress: Wraps the loop, to show how far it is.
    """
    caught = self_test()
    results: list[Result] = []
    with suppress(KeyboardInterrupt):
        results.extend(
            run_one(backend, one, examples=examples, seed=seed, expected=expected, failed=failed)
            for one in progress(planned)
        )
    # What was found so far is worth more than a traceback.
    results += [_stopped(one) for one in planned[len(results) :]]
    return report(
        backend, results, registered=registered, examples=examples, seed=seed, self_test=caught
    )


def _stopped(planned: Planned) -> Result:
    return Result(
        check=planned.check.name,
        clauses=planned.check.clauses,
        level=planned.check.level,
        device=planned.device,
        dtype=planned.dtype,
        status="not_run",
        message=STOPPED,
    )


def report(
    backend: Backend,
    results: Iterable[Result],
    *,
    registered: int,
    examples: int,
    seed: int | None,
    self_test: dict[str, bool],
) -> Report:
    """Makes the report of some results."""
    packages = ("numpy", "hypothesis", "array-api-compat", backend.name)
    return Report(
        backend={"name": backend.name, "claims": asdict(backend.capabilities)},
        edition=clauses.edition(),
        clauses_sha256=clauses.digest(),
        suite=PACKAGE,
        seed=seed,
        examples=examples,
        registered=registered,
        self_test=self_test,
        environment={
            "python": platform.python_version(),
            "system": platform.system(),
            "machine": platform.machine(),
            "packages": {name: found for name in packages if (found := installed_version(name))},
        },
        results=tuple(results),
    )


def find_backend(name: str) -> Backend:
    """Looks up a backend by name. ``mutant:<name>`` is a wrong one.

    Raises:
        UnknownName, PluginError, BackendUnavailable: As `dms_spec.plugins.get_backend`.
    """
    if name.startswith("mutant:"):
        return get_mutant(name.removeprefix("mutant:"))
    return get_backend(name)


def run_check(
    backend: str,
    check: str,
    *,
    device: str | None = None,
    dtype: str = "float32",
    seed: int | None = None,
) -> None:
    """Runs one check alone, and lets through what it raises.

    Args:
        backend: The backend's name.
        check: The check's name.
        device: One of its devices; None for its first.
        dtype: One of its dtypes.
        seed: The seed of the run that failed; None for certify mode.

    Example:
        >>> from dms_spec.conformance import run_check
        >>> run_check("numpy", "check_worked_example", dtype="float32")  # it raises where it fails
    """
    found = find_backend(backend)
    device = found.check_device(device)
    context = Context(backend=found, device=device, dtype=dtype, examples=EXAMPLES, seed=seed)
    one = next((r for r, _ in _refusals(found) if r.name == check), None) or checks([check])[0]
    _quietly(one, context)


def known_checks(backend: Backend) -> list[str]:
    """Names every check that a run on a backend can have, its refusals among them."""
    return [c.name for c in checks()] + [c.name for c, _ in _refusals(backend)]


def _quietly(check: Check, context: Context) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DMSWarning)  # specs that cancel, drawn on purpose
        check.run(context)


# What a backend consists of, and what runs on its library.
_PARTS = (Backend, Scheduler, RowPredictor, Predictive, Differentiable, Namespace)
# Frames that handle a backend, and are none.
_OWN = (__name__, "dms_spec.conformance.checks.")


def _status(error: BaseException, *, refusal: bool) -> Status:
    """Says whose fault an error is: the backend's, in a result or a call, or the suite's."""
    broken = isinstance(error, ConformanceError)
    if not broken and not _came_out_of_a_backend(error):
        return "suite_error"
    if refusal:
        return "refusal_missing"
    return "failed" if broken else "error"


def _came_out_of_a_backend(error: BaseException) -> bool:
    """Says whether a call of a backend, or of a function on its library, led to an error."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if frame.f_globals.get("__name__", "").startswith(_OWN):
            continue
        first = frame.f_code.co_varnames[: min(frame.f_code.co_argcount, 1)]
        if any(isinstance(frame.f_locals.get(name), _PARTS) for name in first):
            return True
    return False


def _message(error: BaseException, backend: Backend, clause: str, status: Status) -> str:
    """Repeats what was said, with the smallest failing case, and for a crash where it came from."""
    own = isinstance(error, ConformanceError)
    who = {"suite_error": "the suite itself failed: "}.get(status, f"{clause}: the backend raised ")
    lines = [f"{error}" if own else f"{who}{type(error).__name__}: {error}"]
    if not own:
        frames = traceback.extract_tb(error.__traceback__)
        lines += [f"in {f.name} of {Path(f.filename).name}, line {f.lineno}" for f in frames[-1:]]
    if isinstance(error, UnsupportedCapability) and status == "error":
        claims = backend.capabilities
        policies = "every policy" if claims.policies is None else ", ".join(claims.policies)
        lines.append(f"it was asked because {policies} and {', '.join(claims.dtypes)} are claimed")
    lines += getattr(error, "__notes__", [])
    return "\n".join(lines)


def _kept(
    planned: Planned, context: Context, failed: Callable[[Planned, Context], None] | None
) -> str:
    """Hands the smallest failing case on. If that fails, it says so and the run goes on."""
    if failed is None:
        return ""
    try:
        failed(planned, context)
    except Exception as error:
        return f"\nthe case could not be kept: {type(error).__name__}: {error}"
    return ""


# ------------------------------------------------------------------------------------ the refusals

_REFUSES = "refuses_"


def _refusals(backend: Backend) -> Iterator[tuple[Check, str]]:
    """Makes a check for everything that is not claimed, and names a dtype to try it in."""
    claims = backend.capabilities
    for dtype in DTYPES:
        if dtype not in claims.dtypes:
            yield _refusal(f"dtype:{dtype}", _refuse_dtype), dtype
    for policy in _POLICIES:
        if claims.policies is not None and policy not in claims.policies:
            yield _refusal(f"policy:{policy}", _refuse_policy), claims.dtypes[0]


def _refusal(capability: str, function: Callable[[Context, str], None]) -> Check:
    def run(ctx: Context) -> None:
        try:
            function(ctx, capability.partition(":")[2])
        except UnsupportedCapability as error:
            named = capability in error.capability
            ctx.expect("DMS-C-002", named, f"the refusal does not name {capability!r}")
            return
        raise ConformanceError(f"DMS-C-002: {capability} is not claimed, and not refused")

    name = f"{_REFUSES}{capability.replace(':', '_')}"
    return Check(name=name, clauses=("DMS-C-002",), level="core", needs=(), dtypes=(), run=run)


def _refuse_dtype(ctx: Context, dtype: str) -> None:
    backend = ctx.backend
    moved = {k: backend.from_numpy(v, ctx.device) for k, v in arrays(dtype).items()}
    backend.scheduler(ctx.example(), device=ctx.device)(ModalityBatch(**moved))


def _refuse_policy(ctx: Context, policy: str) -> None:
    spec = SchedulerSpec(modalities=SPEC.modalities, policy=policy)
    ctx.backend.scheduler(spec, device=ctx.device)
