"""Reads reports from files, and believes of them only what the suite itself cannot know."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NoReturn, final

from numpy.typing import NDArray

from dms_spec._version import PACKAGE
from dms_spec.conformance import clauses
from dms_spec.conformance.mutants import self_test
from dms_spec.conformance.report import Report
from dms_spec.conformance.runner import plan
from dms_spec.errors import BackendUnavailable, FileError
from dms_spec.interface.backend import Backend, Scheduler
from dms_spec.interface.capabilities import Capabilities
from dms_spec.spec import SchedulerSpec
from dms_spec.texts import read_json
from dms_spec.typed import read_typed
from dms_spec.types import Array


def read_reports(paths: Sequence[Path]) -> list[Report]:
    """Reads reports from files.

    How many checks a whole run has is counted again, from the claims of the backend; the wrong
    backends that every run starts with are judged again.

    Raises:
        FileError: A file is missing or damaged, its sums do not add up, or it was written by
            another suite, which alone could count its checks.
    """
    return [_checked(_read(path), path) for path in paths]


def _read(path: Path) -> Report:
    try:
        data = read_json(path)
    except FileError as error:
        if not path.is_file():
            raise
        raise _no_report(path, "a file that is no JSON") from error
    if not isinstance(data, dict) or not {"clauses_sha256", "results"} & set(data):
        raise _no_report(path, "JSON of another kind")
    return Report.from_dict(data)


def _no_report(path: Path, got: str) -> FileError:
    return FileError(
        f"{path} is no report",
        expected="a .json file of dms check",
        got=got,
        fix=f"Write one with dms check BACKEND --report {path.with_suffix('.json').name}",
    )


_judged = cache(self_test)


def _checked(report: Report, path: Path) -> Report:
    own = (PACKAGE, clauses.digest())
    if (report.suite, report.clauses_sha256) != own:
        raise FileError(
            f"{path} was written by another suite, so that its checks cannot be counted",
            expected=f"suite {own[0]} with clauses {own[1][:12]}",
            got=f"suite {report.suite} with clauses {report.clauses_sha256[:12]}",
            fix="Run dms check again, or draw it with the version of dms-spec that wrote it.",
        )
    backend = _Claimed(
        report.backend["name"], read_typed(Capabilities, report.backend["claims"], f"{path}")
    )
    planned = {(p.check.name, p.device, p.dtype): p.check.level for p in plan(backend)}
    ran = [(r.check, r.device, r.dtype) for r in report.results]
    strange = [
        r.check for r, key in zip(report.results, ran, strict=True) if planned.get(key) != r.level
    ]
    found = _judged()
    if (
        strange
        or len(set(ran)) < len(ran)
        or (report.registered, report.self_test) != (len(planned), found)
    ):
        raise FileError(
            f"{path} does not add up",
            expected=f"some of the {len(planned)} checks of these claims, each once, and "
            f"{', '.join(found)} caught",
            got=f"{report.registered} registered" + (f", and {strange[0]!r}" if strange else ""),
            fix="It was changed by hand, or is damaged: run dms check again.",
        )
    return report


@final
class _Claimed(Backend):
    """Stands for a backend of which nothing is known but its claims."""

    def __init__(self, name: str, claims: Capabilities) -> None:
        self._name, self._claims = name, claims

    @property
    def name(self) -> str:
        return self._name

    @property
    def capabilities(self) -> Capabilities:
        return self._claims

    def from_numpy(self, array: NDArray[Any], device: str) -> NoReturn:
        raise BackendUnavailable("a report computes nothing")

    def to_numpy(self, array: Array) -> NoReturn:
        raise BackendUnavailable("a report computes nothing")

    def _scheduler(
        self, spec: SchedulerSpec, parameters: Mapping[str, Array], device: str
    ) -> Scheduler:
        raise BackendUnavailable("a report computes nothing")
