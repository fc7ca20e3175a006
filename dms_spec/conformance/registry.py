"""Registers the checks: plain functions of a `Context`, each bound to the clauses it checks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Literal

from dms_spec.conformance.context import ConformanceError as ConformanceError
from dms_spec.conformance.context import Context as Context
from dms_spec.errors import SpecError

if TYPE_CHECKING:
    from collections.abc import Iterable

#: The levels of conformance. Core is for every backend. A backend claims each of the others as a
#: whole, or not at all.
Level = Literal["core", "gradients", "learned", "heads", "exchange", "export", "determinism"]

LEVELS: tuple[Level, ...] = (
    "core",
    "gradients",
    "learned",
    "heads",
    "exchange",
    "export",
    "determinism",
)

# The families in the order in which they run: those that tell most come first.
FAMILIES = (
    "values",
    "sizes",
    "shapes",
    "presence",
    "weights",
    "signals",
    "policies",
    "fusion",
    "evidence",
    "refusals",
    "state",
    "losses",
    "learned",
    "heads",
    "joint",
    "gradients",
    "exchange",
    "export",
    "determinism",
)


@dataclass(frozen=True, kw_only=True)
class Check:
    """Describes one check.

    Attributes:
        name: The function's name, ``check_<property>``.
        clauses: Ids of the clauses that it checks; the first is the one that it is for.
        level: What it counts towards.
        needs: Claims without which it does not apply, see `Context.lacks`.
        dtypes: The dtypes that it runs in; empty for all that are claimed.
        run: Raises if the backend of the context breaks one of them.
    """

    name: str
    clauses: tuple[str, ...]
    level: Level
    needs: tuple[str, ...]
    dtypes: tuple[str, ...]
    run: Callable[[Context], None]

    @property
    def summary(self) -> str:
        """What the check tests, as its docstring says it."""
        return (self.run.__doc__ or "").strip().splitlines()[0]


_CHECKS: dict[str, Check] = {}


def check(
    *clauses: str,
    level: Level = "core",
    needs: tuple[str, ...] = (),
    dtypes: tuple[str, ...] = (),
) -> Callable[[Callable[[Context], None]], Callable[[Context], None]]:
    """Registers a function as a check of some clauses."""

    def register(function: Callable[[Context], None]) -> Callable[[Context], None]:
        name = function.__name__
        _CHECKS[name] = Check(
            name=name, clauses=clauses, level=level, needs=needs, dtypes=dtypes, run=function
        )
        return function

    return register


def checks(
    names: Iterable[str] = (), levels: Iterable[str] = (), clauses: Iterable[str] = ()
) -> tuple[Check, ...]:
    """Gives the checks in the order of the families: all, or those selected. Imports hypothesis.

    Args:
        names: Names of checks.
        levels: Levels.
        clauses: Ids of clauses.

    Raises:
        SpecError: Something selected does not exist: it would select nothing in silence.
    """
    for family in FAMILIES:
        import_module(f"dms_spec.conformance.checks.{family}")
    every = tuple(_CHECKS.values())
    known = {
        "check": {c.name for c in every},
        "level": set[str](LEVELS),
        "clause": {clause for c in every for clause in c.clauses},
    }
    chosen = {"check": set(names), "level": set(levels), "clause": set(clauses)}
    for kind, wanted in chosen.items():
        if strangers := sorted(wanted - known[kind]):
            raise SpecError(
                f"there is no {kind} {', '.join(strangers)} to run",
                expected=", ".join(sorted(known[kind])) if kind == "level" else "",
                fix="`dms check --list` shows all of them.",
            )
    return tuple(
        c
        for c in every
        if (not chosen["check"] or c.name in chosen["check"])
        and (not chosen["level"] or c.level in chosen["level"])
        and (not chosen["clause"] or chosen["clause"] & set(c.clauses))
    )
