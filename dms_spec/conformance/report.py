"""Holds what a run of the suite found: one object, as JSON, from which everything else is drawn."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, Self, get_args

from dms_spec.conformance.registry import LEVELS
from dms_spec.errors import FileError
from dms_spec.interface.capabilities import Capabilities
from dms_spec.outputs import writing_file
from dms_spec.typed import read_typed

#: What one knows the JSON of a report by.
REPORT_MARK = b'"clauses_sha256"'

#: Version of the JSON; ``report.schema.json`` describes it.
REPORT_VERSION = 1

#: What became of one check on one device in one dtype. ``refusal_*`` are calls that need something
#: that is not claimed: they must raise. ``not_claimed`` was not run because the backend does not
#: claim what it needs; ``not_run`` because a package is missing. Neither counts as passed. In an
#: ``error`` the backend raised what no clause asks for. In a ``suite_error`` the check itself did:
#: that is a fault of the suite, and says nothing about the backend.
Status = Literal[
    "passed",
    "failed",
    "error",
    "xfail",
    "xpass",
    "refusal_ok",
    "refusal_missing",
    "suite_error",
    "not_claimed",
    "not_run",
]

Verdict = Literal[
    "conformant", "conformant-with-declared-gaps", "non-conformant", "partial", "invalid-run"
]

#: Why a check was not run whose turn did not come.
STOPPED = "the run was stopped before it"

_SLOWEST = 10

_BAD = ("failed", "error", "xpass", "refusal_missing")
_FOLLOWS = ("verdict", "reasons", "counts", "levels", "worst", "slowest")
_IDLE = ("not_claimed", "not_run")


@dataclass(frozen=True, kw_only=True)
class Result:
    """Says what became of one check on one device in one dtype.

    Attributes:
        check: Its name, or ``refuses_<capability>``.
        clauses: The clauses that it checks.
        level: What it counts towards.
        device: Where.
        dtype: In which dtype.
        status: What became of it.
        message: Why, if it did not pass; the smallest failing case among it.
        reproduce: Python that runs this check alone.
        seconds: How long it took.
        worst: The largest error of each output, in eps of its scale.
    """

    check: str
    clauses: tuple[str, ...]
    level: str
    device: str
    dtype: str
    status: Status
    message: str = ""
    reproduce: str = ""
    seconds: float = 0.0
    worst: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class _Run:
    """Holds what a report and its file say alike; `Report` says what each is."""

    edition: str
    clauses_sha256: str
    suite: str
    seed: int | None
    examples: int
    registered: int
    self_test: Mapping[str, bool]
    environment: Mapping[str, Any]
    results: tuple[Result, ...]


@dataclass(frozen=True, kw_only=True)
class Report(_Run):
    """Holds a run of the suite on one backend.

    Attributes:
        backend: Its name, version and claims.
        edition: Edition of the specification.
        clauses_sha256: Of the machine copy of the clauses.
        suite: Version of the package that the suite came with.
        seed: None if the cases are the same in every run.
        examples: Cases that each property tried.
        registered: How many results a whole run has, for these claims.
        self_test: For each wrong backend that ran first, whether the suite caught it.
        environment: Versions and platform, without names of people or machines.
        results: One for each check, device and dtype.
    """

    backend: Mapping[str, Any]

    @property
    def counts(self) -> dict[str, int]:
        """How many results there are of each status. They sum to the number of results."""
        found = Counter(result.status for result in self.results)
        return {status: found[status] for status in get_args(Status)}

    @property
    def executed(self) -> int:
        """How many checks really ran."""
        return sum(result.status not in _IDLE for result in self.results)

    @property
    def levels(self) -> dict[str, dict[str, int]]:
        """How many results each level has, and how many of them passed."""
        found: dict[str, dict[str, int]] = {}
        for level in LEVELS:
            own = [r for r in self.results if r.level == level]
            good = sum(r.status in ("passed", "refusal_ok") for r in own)
            found[level] = {"passed": good, "of": len(own)}
        return found

    @property
    def worst(self) -> dict[str, dict[str, float]]:
        """The largest error of each output, for each dtype, in eps of its scale."""
        found: dict[str, dict[str, float]] = {}
        for result in self.results:
            for name, value in result.worst.items():
                own = found.setdefault(result.dtype, {})
                own[name] = max(own.get(name, 0.0), value)
        return found

    @property
    def slowest(self) -> list[dict[str, Any]]:
        """The ten checks that took longest, the longest first."""
        ran = sorted(self.results, key=lambda r: r.seconds, reverse=True)[:_SLOWEST]
        return [
            {"check": r.check, "device": r.device, "dtype": r.dtype, "seconds": r.seconds}
            for r in ran
        ]

    @property
    def reasons(self) -> list[str]:
        """Why the run is invalid. Empty if it is valid."""
        reasons = []
        if not self.executed:
            reasons.append("nothing was executed")
        if survivors := [name for name, caught in self.self_test.items() if not caught]:
            reasons.append(f"the suite did not catch {', '.join(survivors)}")
        if crashed := dict.fromkeys(r.check for r in self.results if r.status == "suite_error"):
            reasons.append(f"the suite itself failed in {', '.join(crashed)}")
        if left := [r.check for r in self.results if r.message == STOPPED]:
            reasons.append(f"it was stopped before {left[0]}")
        if len(self.results) > self.registered:
            reasons.append("there are more results than checks")
        return reasons

    @property
    def verdict(self) -> Verdict:
        """What the run amounts to."""
        if self.reasons:
            return "invalid-run"
        if any(
            r.status in _BAD or (r.status == "xfail" and r.level == "core") for r in self.results
        ):
            return "non-conformant"
        if len(self.results) < self.registered:
            return "partial"  # all good, but a selection certifies nothing
        if any(r.status == "xfail" for r in self.results):
            return "conformant-with-declared-gaps"
        return "conformant"

    def to_dict(self) -> dict[str, Any]:
        """Gives plain data. What follows from the results is written beside them."""
        return {
            "report_version": REPORT_VERSION,
            "verdict": self.verdict,
            "reasons": self.reasons,
            "counts": self.counts,
            "levels": self.levels,
            "worst": self.worst,
            "slowest": self.slowest,
            **asdict(self),
            "results": [asdict(r) | {"clauses": list(r.clauses)} for r in self.results],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Reads a report from plain data, whose sums must be those of its results.

        Raises:
            FileError: It is of another version, damaged, or its sums do not add up.
        """
        if isinstance(data, Mapping) and data.get("report_version", 1) != REPORT_VERSION:
            raise FileError(
                "the report is of another version",
                expected=str(REPORT_VERSION),
                got=str(data["report_version"]),
            )
        file = read_typed(ReportFile, data, "the report")
        same = {one.name: getattr(file, one.name) for one in fields(_Run)}
        report = cls(backend=data["backend"], **same)
        written = {key: data[key] for key in _FOLLOWS}
        found = {key: getattr(report, key) for key in written}
        if wrong := [key for key in written if found[key] != written[key]]:
            raise FileError(
                "the report does not add up",
                expected="sums and verdict that follow from its results",
                got=f"other {', '.join(wrong)}",
            )
        return report


def write_report(path: Path, report: Report) -> None:
    """Writes a report as JSON."""
    with writing_file(path, REPORT_MARK) as temporary:
        temporary.write_text(
            json.dumps(report.to_dict(), indent=2, allow_nan=False) + "\n", encoding="utf-8"
        )


@dataclass(frozen=True, kw_only=True)
class BackendFile:
    """Describes what a report says of its backend."""

    name: str
    claims: Capabilities


@dataclass(frozen=True, kw_only=True)
class Slow:
    """Describes what a report says of a check that took long."""

    check: str
    device: str
    dtype: str
    seconds: float


@dataclass(frozen=True, kw_only=True)
class ReportFile(_Run):
    """Describes the JSON file of a report: what `Report` holds, and what follows from it."""

    report_version: Literal[1]
    verdict: Verdict
    reasons: tuple[str, ...]
    counts: Mapping[str, int]
    levels: Mapping[str, Mapping[str, int]]
    worst: Mapping[str, Mapping[str, float]]
    slowest: tuple[Slow, ...]
    backend: BackendFile
