"""Encodes items batch by batch, and says of each that has no embedding why."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dms_spec.encoding.calling import FAILED, call, check_like
from dms_spec.encoding.encoder import Encoder
from dms_spec.encoding.items import Cell, Items
from dms_spec.encoding.journal import Batch, Journal
from dms_spec.encoding.openers import Absent, Opener
from dms_spec.errors import MissingInput, PluginError

# Why an item has no embedding although there is one.
_STRANGE = "NaN or infinity"

# An encoder that fails on so many items before it gives anything is broken.
_ENOUGH = 32


@dataclass(frozen=True, kw_only=True)
class Work:
    """Says how a modality is encoded.

    Attributes:
        cells: What is encoded, one for each row.
        opened: What opens them.
        encoder: What encodes them.
    """

    cells: Sequence[Cell]
    opened: Opener
    encoder: Encoder


def fingerprint(items: Items, encoders: Mapping[str, Encoder], *settings: object) -> str:
    """Names everything that the embeddings depend on: items, files as they are now, encoders."""
    found = sha256(json.dumps([str(setting) for setting in settings]).encode())
    for name, encoder in encoders.items():
        found.update(json.dumps([name, dict(encoder.about)]).encode())
        for cell in items.cells[name]:
            found.update(f"{type(cell).__name__}{cell}\0{_state(cell)}\n".encode())
    return found.hexdigest()


def _state(cell: Cell) -> str:
    if not isinstance(cell, Path):
        return ""
    try:
        found = cell.stat()
    except OSError:
        return "none"
    return f"{found.st_size} {found.st_mtime_ns}"


def starts(rows: int, size: int) -> range:
    """Gives the first row of each batch."""
    return range(0, rows, size)


def encode(name: str, work: Work, journal: Journal, size: int, report: Callable[[], None]) -> None:
    """Encodes what the journal does not hold yet. A row is always in the same batch.

    Args:
        name: The modality.
        work: How it is encoded.
        journal: Where each batch goes.
        size: Rows of a batch.
        report: Called after each.

    Raises:
        ShapeError: The encoder gives something else than ``[n, D]``, or another D than before.
        PluginError: It fails on all of the first items.
        MissingInput: No item has an embedding.
    """
    known = _Known(name, work.encoder)
    for start in starts(len(work.cells), size):
        if (name, start) in journal:
            known.add(journal.get(name, start))
            continue
        batch = _encode(work, work.cells[start : start + size])
        known.add(batch)
        journal.add(name, start, batch)
        report()
    known.check()


class _Known:
    """Holds what is known of an encoder so far: what it gives, and on how many items it failed."""

    def __init__(self, name: str, encoder: Encoder) -> None:
        self._name, self._encoder = name, encoder
        self._first: NDArray[Any] | None = None
        self._failed = 0
        self._reason = Absent("")

    def add(self, batch: Batch) -> None:
        """Takes what came of one more batch.

        Raises:
            ShapeError, PluginError: See `encode`.
        """
        if batch.vectors is not None:
            self._first = batch.vectors[:0] if self._first is None else self._first
            check_like(self._encoder, batch.vectors, self._first)
        failures = [absent for absent in batch.absent.values() if absent.reason == FAILED]
        self._failed += len(failures)
        self._reason = next(iter((*failures, *batch.absent.values())), self._reason)
        if self._failed >= _ENOUGH:
            self._check_broken()

    def check(self) -> None:
        """Refuses that nothing has come at all.

        Raises:
            PluginError, MissingInput: See `encode`.
        """
        self._check_broken()
        if self._first is None:
            detail = f" ({self._reason.detail})" if self._reason.detail else ""
            raise MissingInput(
                f"no row of {self._name!r} can be embedded",
                expected="some that can",
                got=f"{self._reason.reason}{detail}",
                fix="Paths in a table start from its folder. In a folder, files must be "
                "of the kind that the option names.",
            )

    def _check_broken(self) -> None:
        if self._first is None and self._failed:
            raise PluginError(
                f"the encoder {self._encoder.about['encoder']!r} fails on every item",
                expected="an embedding for some of them",
                got=self._reason.detail,
                fix="Try it on one item in Python.",
            )


def _encode(work: Work, cells: Sequence[Cell]) -> Batch:
    opened = [work.opened(cell) for cell in cells]
    absent = {row: item for row, item in enumerate(opened) if isinstance(item, Absent)}
    rows = [row for row in range(len(opened)) if row not in absent]
    items = [opened[row] for row in rows]
    if not items:
        return Batch(vectors=None, absent=absent)
    found, failed, alone = call(work.encoder, items)
    absent |= {rows[k]: reason for k, reason in failed.items()}
    if found is not None:
        finite = np.isfinite(found).all(axis=1)
        kept = [row for k, row in enumerate(rows) if k not in failed]
        absent |= {
            row: Absent(_STRANGE) for row, good in zip(kept, finite, strict=True) if not good
        }
        found = found[finite]
    return Batch(
        vectors=found if found is not None and len(found) else None,
        absent=absent,
        alone=alone,
        cut=work.encoder.cut(items),
    )
