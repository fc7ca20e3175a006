"""The suite under pytest: ``pytest --pyargs dms_spec.conformance --dms-backend X``.

This module is loaded in every run of pytest of everybody who has dms-spec installed: it imports
nothing but pytest, and looks at nothing unless it is asked to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from dms_spec.conformance.report import Result
    from dms_spec.conformance.runner import Planned

_RESULTS = pytest.StashKey[list["Result"]]()
_INVALID = 3


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("dms-spec", "the conformance suite of dms-spec")
    group.addoption("--dms-backend", metavar="NAME", help="the backend to check")
    group.addoption("--dms-device", action="append", default=[], help="one of its devices")
    group.addoption("--dms-dtype", action="append", default=[], help="one of its dtypes")
    group.addoption("--dms-level", action="append", default=[], help="one of the levels")
    group.addoption("--dms-examples", type=int, default=100, help="cases that a property tries")
    group.addoption("--dms-expected", type=Path, help="TOML with failures that are expected")
    group.addoption("--dms-report", type=Path, help="JSON file for the report")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_RESULTS] = []
    config.addinivalue_line("markers", "dms: a check of the conformance suite of dms-spec")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "dms_planned" not in metafunc.fixturenames:
        return
    option = metafunc.config.option
    if not option.dms_backend:
        raise pytest.UsageError("the conformance suite needs to know what to check: --dms-backend")
    from dms_spec.conformance.registry import checks
    from dms_spec.conformance.runner import plan
    from dms_spec.plugins import get_backend

    backend = get_backend(option.dms_backend)
    selected = checks(levels=option.dms_level) if option.dms_level else None
    planned = plan(backend, selected, devices=option.dms_device, dtypes=option.dms_dtype)
    metafunc.parametrize("dms_planned", planned, ids=[one.id for one in planned])


@pytest.fixture
def dms_check(request: pytest.FixtureRequest, dms_planned: Planned) -> Callable[[], None]:
    """One check of the suite, ready to run."""
    from dms_spec.conformance.expected import read_expected
    from dms_spec.conformance.runner import known_checks, run_one
    from dms_spec.plugins import get_backend

    option = request.config.option
    backend = get_backend(option.dms_backend)
    expected = (
        read_expected(option.dms_expected, known_checks(backend)) if option.dms_expected else []
    )

    def run() -> None:
        result = run_one(backend, dms_planned, examples=option.dms_examples, expected=expected)
        request.config.stash[_RESULTS].append(result)
        _judge(result)

    return run


def _judge(result: Result) -> None:
    """What a result means to pytest."""
    if result.status in ("not_claimed", "not_run"):
        pytest.skip(f"{result.status}: {result.message}")
    if result.status == "xfail":
        pytest.xfail(result.message)
    if result.status not in ("passed", "refusal_ok"):
        pytest.fail(f"{result.status}: {result.message}\n{result.reproduce}", pytrace=False)


@pytest.hookimpl(wrapper=True)
def pytest_sessionfinish(session: pytest.Session) -> Iterator[None]:
    yield
    option, results = session.config.option, session.config.stash[_RESULTS]
    workers = hasattr(session.config, "workerinput") or getattr(option, "numprocesses", None)
    if not option.dms_backend or option.collectonly or workers:
        return
    from dms_spec.conformance.mutants import self_test
    from dms_spec.conformance.report import write_report
    from dms_spec.conformance.runner import plan, report
    from dms_spec.plugins import get_backend

    backend = get_backend(option.dms_backend)
    made = report(
        backend,
        results,
        registered=len(plan(backend)),
        examples=option.dms_examples,
        seed=None,
        self_test=self_test(),
    )
    if option.dms_report:
        write_report(option.dms_report, made)
    if made.reasons:
        session.exitstatus = _INVALID
    reporter: Any = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None:
        reporter.write_line(f"\ndms-spec: {backend.name} is {made.verdict}")
        for reason in made.reasons:
            reporter.write_line(f"dms-spec: {reason}")


def parametrize_with_checks(
    backend: str,
    *,
    expected_failures: Path | str | None = None,
    levels: tuple[str, ...] = (),
    examples: int = 100,
) -> pytest.MarkDecorator:
    """For an author's own tests: one test for each check, as the argument ``check``.

    ::

        @parametrize_with_checks("mine", expected_failures="dms-expected.toml")
        def test_dms(check):
            check()

    Args:
        backend: The backend's name, as it is registered.
        expected_failures: TOML with failures that are expected.
        levels: Some of the levels; none for all of them.
        examples: Cases that each property tries.

    Raises:
        UnknownName: There is no such backend, or an entry names no check.
        SpecError: There is no such level, or an entry gives no reason.
    """
    from dms_spec.conformance.expected import read_expected
    from dms_spec.conformance.registry import checks
    from dms_spec.conformance.runner import known_checks, plan, run_one
    from dms_spec.plugins import get_backend

    found = get_backend(backend)
    planned = plan(found, checks(levels=levels) if levels else None)
    expected = (
        read_expected(Path(expected_failures), known_checks(found)) if expected_failures else []
    )

    def check_of(one: Planned) -> Callable[[], None]:
        return lambda: _judge(run_one(found, one, examples=examples, expected=expected))

    return pytest.mark.parametrize(
        "check", [pytest.param(check_of(one), id=one.id) for one in planned]
    )
