"""Turns the suite into tests of pytest. The plugin calls it once the suite is asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from dms_spec.conformance.expected import read_expected
from dms_spec.conformance.mutants import self_test
from dms_spec.conformance.registry import checks
from dms_spec.conformance.report import Report, Result, write_report
from dms_spec.conformance.runner import Planned, known_checks, plan, report, run_one
from dms_spec.plugins import get_backend


def planned(option: Any) -> list[Planned]:
    """Lists the checks that the command line asks for, on its devices and in its dtypes."""
    selected = checks(levels=option.dms_level) if option.dms_level else None
    backend = get_backend(option.dms_backend)
    return list(plan(backend, selected, devices=option.dms_device, dtypes=option.dms_dtype))


def test_of(option: Any, one: Planned, results: list[Result]) -> Callable[[], None]:
    """Turns one check into a test, and adds its result to ``results``."""
    backend = get_backend(option.dms_backend)
    expected = (
        read_expected(option.dms_expected, known_checks(backend)) if option.dms_expected else []
    )

    def run() -> None:
        result = run_one(backend, one, examples=option.dms_examples, expected=expected)
        results.append(result)
        _judge(result)

    return run


def report_of(option: Any, results: Sequence[Result]) -> Report:
    """Makes the report of a finished run, and writes it where the command line says."""
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
    return made


def parametrize_with_checks(
    backend: str,
    *,
    expected_failures: Path | str | None = None,
    levels: tuple[str, ...] = (),
    examples: int = 100,
) -> pytest.MarkDecorator:
    """Makes one test of each check, for tests of your own; each gets the argument ``check``.

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


def _judge(result: Result) -> None:
    """Tells pytest what a result means."""
    if result.status in ("not_claimed", "not_run"):
        pytest.skip(f"{result.status}: {result.message}")
    if result.status == "xfail":
        pytest.xfail(result.message)
    if result.status not in ("passed", "refusal_ok"):
        pytest.fail(f"{result.status}: {result.message}\n{result.reproduce}", pytrace=False)
