"""Holds the clauses, the oracle, and the checks that test a backend against them.

Importing this package costs nothing; running checks needs the extra
``conformance``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dms_spec.conformance.pytest_suite import (
        parametrize_with_checks as parametrize_with_checks,
    )
    from dms_spec.conformance.runner import run_check as run_check

_HOMES = {"run_check": "runner", "parametrize_with_checks": "pytest_suite"}

__all__ = ["parametrize_with_checks", "run_check"]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
