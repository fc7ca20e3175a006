"""Holds what ``pytest --pyargs dms_spec.conformance`` finds: the suite as one parametrised test."""

from __future__ import annotations

from collections.abc import Callable

import pytest


@pytest.mark.dms
def test_conformance(dms_check: Callable[[], None]) -> None:
    dms_check()
