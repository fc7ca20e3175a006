"""A thousand good files, each changed by its structure: taken, or refused with one message."""

from __future__ import annotations

from pathlib import Path

import pytest
from fuzzing import fuzz

pytest.importorskip("hypothesis")


@pytest.mark.parametrize("part", range(2))
def test_no_changed_file_is_more_than_refused(tmp_path: Path, part: int) -> None:
    """No traceback, no hang, no flood, no file lost, nothing left behind."""
    tried, failures = fuzz(tmp_path, 500, seed=part)
    assert len(tried) > 10
    assert not failures, "\n\n".join(f"{f.kind}, number {f.number}: {f.why}" for f in failures)
