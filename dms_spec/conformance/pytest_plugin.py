"""Runs the suite under pytest: ``pytest --pyargs dms_spec.conformance --dms-backend X``.

Everybody who has dms-spec installed loads this module with every run of pytest. So it imports
nothing but pytest, and does nothing unless it is asked to.
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
    group.addoption("--dms-examples", type=int, default=100, help="cases to try for each property")
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
    from dms_spec.conformance import pytest_suite

    planned = pytest_suite.planned(option)
    metafunc.parametrize("dms_planned", planned, ids=[one.id for one in planned])


@pytest.fixture
def dms_check(request: pytest.FixtureRequest, dms_planned: Planned) -> Callable[[], None]:
    """Gives one check of the suite, ready to run."""
    from dms_spec.conformance import pytest_suite

    config = request.config
    return pytest_suite.test_of(config.option, dms_planned, config.stash[_RESULTS])


@pytest.hookimpl(wrapper=True)
def pytest_sessionfinish(session: pytest.Session) -> Iterator[None]:
    yield
    option, results = session.config.option, session.config.stash[_RESULTS]
    workers = hasattr(session.config, "workerinput") or getattr(option, "numprocesses", None)
    if not option.dms_backend or option.collectonly or workers:
        return
    from dms_spec.conformance import pytest_suite

    made = pytest_suite.report_of(option, results)
    if made.reasons:
        session.exitstatus = _INVALID
    reporter: Any = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None:
        reporter.write_line(f"\ndms-spec: {made.backend['name']} is {made.verdict}")
        for reason in made.reasons:
            reporter.write_line(f"dms-spec: {reason}")
