"""Says what a run has written: of each part in its own footer, of all of them in a manifest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dms_spec.bulk.plan import Plan
from dms_spec.embeddings.summary import Record

#: What is in the folder beside the parts. Readers of datasets pass over names that begin so.
MANIFEST = "_manifest.json"

#: How one knows a part, and a manifest.
MARK = "dms-spec predictions"
MANIFEST_MARK = b'{\n  "manifest": "dms-spec predictions"'


@dataclass(frozen=True, kw_only=True)
class Finished:
    """Says of one part that it is there.

    Attributes:
        record: What it says itself, in its footer.
        bytes: Its size.
        sha256: Of its bytes.
    """

    record: Record
    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Holds what ``_manifest.json`` says. Only a run that has ended says more than its plan."""

    manifest: str
    plan: Plan
    rows: int | None = None
    rows_with_nothing_active: int | None = None
    modalities: tuple[Mapping[str, Any], ...] = ()
    notes: tuple[str, ...] = ()
    parts: tuple[Mapping[str, Any], ...] = ()
