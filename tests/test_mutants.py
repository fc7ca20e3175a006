"""Wrong backends are caught, each in the name of the clause that it breaks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from dms_spec import Capabilities, Scheduler, SchedulerSpec
from dms_spec.conformance.clauses import clauses
from dms_spec.conformance.mutants import caught, get_mutant, mutants, self_test
from dms_spec.conformance.registry import checks
from dms_spec.conformance.runner import plan, run, run_one
from dms_spec.errors import UnknownName, UnsupportedCapability
from dms_spec.interface.backend import Backend
from dms_spec.plugins import get_backend

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "mutants.md"


# One for each clause of the equations runs always. All of them take minutes: `make mutants` and
# `make test-slow` run them.
_QUICK = {mutant.clause: mutant.name for mutant in mutants() if mutant.kind == "equations"}.values()
_ALL = [
    pytest.param(mutant.name, marks=[] if mutant.name in _QUICK else [pytest.mark.slow])
    for mutant in mutants()
]


# A property stops at the first case that fails: what is caught costs little however many there
# could be.
@pytest.mark.parametrize("name", _ALL)
def test_a_mutant_is_caught_by_its_clause(name: str) -> None:
    assert caught(get_mutant(name), examples=400)


@pytest.mark.parametrize("name", ["numpy", "torch"])
def test_what_mutants_are_made_from_is_right(name: str) -> None:
    backend = get_backend(name)
    own = [mutant for mutant in mutants() if mutant.base == name]
    for dtype in sorted({mutant.dtype for mutant in own}):
        broken = {mutant.clause for mutant in own if mutant.dtype == dtype}
        for one in plan(backend, checks(clauses=broken), dtypes=[dtype]):
            result = run_one(backend, one, examples=10)
            assert result.status in ("passed", "not_claimed"), result


def test_mutants_are_many_and_different() -> None:
    every = mutants()
    assert len(every) >= 40
    assert len({mutant.name for mutant in every}) == len(every)
    assert len({mutant.summary for mutant in every}) == len(every)
    assert {mutant.clause for mutant in every} <= set(clauses())
    with pytest.raises(UnknownName, match="uniform"):
        get_mutant("unifrom")


def test_the_suite_tests_itself() -> None:
    found = self_test()
    assert len(found) == 2
    assert all(found.values())


def test_the_page_lists_every_mutant() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for mutant in mutants():
        assert f"`{mutant.name}`" in page, "refresh the page: make mutants"
        assert mutant.summary in page, "refresh the page: make mutants"


class _NoOp(Backend):
    """Claims float32, and refuses every schedule."""

    name = "noop"
    capabilities = Capabilities(dtypes=("float32",))

    def from_numpy(self, array: NDArray[np.generic], device: str) -> NDArray[np.generic]:
        return array

    def to_numpy(self, array: NDArray[np.generic]) -> NDArray[np.generic]:
        return array

    def _scheduler(self, spec: SchedulerSpec, parameters: object, device: str) -> Scheduler:
        raise UnsupportedCapability("nothing runs here", capability="everything")


def test_doing_nothing_is_not_conformant() -> None:
    backend = _NoOp()
    everything = plan(backend, checks(levels=["core"]))
    report = run(backend, everything, registered=len(everything), examples=2)
    assert report.verdict == "non-conformant"
    assert report.executed > 20
    passed = {result.check for result in report.results if result.status == "passed"}
    assert passed == {"check_devices_are_refused"}  # it does refuse those


def test_an_empty_selection_is_an_invalid_run() -> None:
    backend = get_backend("numpy")
    report = run(backend, [], registered=len(plan(backend)))
    assert report.verdict == "invalid-run"
    assert report.reasons == ["nothing was executed"]
