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

from dms_spec.encoding.encoder import Encoder
from dms_spec.encoding.items import Cell, Items
from dms_spec.encoding.journal import Batch, Journal
from dms_spec.encoding.openers import Absent, Opener, said
from dms_spec.errors import DMSError, MissingInput, PluginError, ShapeError

#: Why an item has no embedding although it could be opened.
FAILED, NOT_FINITE = "the encoder failed", "not finite"

#: An encoder that fails on so many items before it gives anything is broken.
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


def encode(
    name: str, work: Work, journal: Journal, size: int, report: Callable[[], None]
) -> None:
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
        batch = _encode(name, work, work.cells[start : start + size])
        known.add(batch)
        journal.add(name, start, batch)
        report()
    known.check()


class _Known:
    """Holds what is known of an encoder so far: D, the dtype, and on how many items it failed."""

    def __init__(self, name: str, encoder: Encoder) -> None:
        self._name, self._encoder = name, encoder.about["encoder"]
        self._first: NDArray[Any] | None = None
        self._failed = 0
        self._reason: Absent | None = None

    def add(self, batch: Batch) -> None:
        found = batch.vectors
        if found is not None and self._first is None:
            self._first = found[:0]
        if found is not None and self._first is not None:
            if (found.dtype, found.shape[1:]) != (self._first.dtype, self._first.shape[1:]):
                raise ShapeError(
                    f"the encoder {self._encoder!r} of {self._name!r} changes what it gives",
                    expected=f"{self._first.dtype} [n, {self._first.shape[1]}], as at first",
                    got=f"{found.dtype} {list(found.shape)}",
                    fix="Pool each item to as many numbers as all others.",
                )
        failures = [absent for absent in batch.absent.values() if absent.reason == FAILED]
        self._failed += len(failures)
        self._reason = next(iter((*failures, *batch.absent.values())), self._reason)
        if self._first is None and self._failed >= _ENOUGH:
            self._broken()

    def check(self) -> None:
        if self._first is not None:
            return
        if self._failed:
            self._broken()
        assert self._reason is not None  # noqa: S101 - there is a row, and it has no embedding
        raise MissingInput(
            f"no row of {self._name!r} can be embedded",
            expected="some that can",
            got=f"the last: {self._reason.reason}"
            + (f" ({self._reason.detail})" if self._reason.detail else ""),
            fix="Paths in a table start from the folder of the table.",
        )

    def _broken(self) -> None:
        raise PluginError(
            f"the encoder {self._encoder!r} fails on every item of {self._name!r}",
            expected="an embedding for some of them",
            got="" if self._reason is None else self._reason.detail,
            fix="Try it on one item in Python.",
        )


def _encode(name: str, work: Work, cells: Sequence[Cell]) -> Batch:
    opened = [work.opened(cell) for cell in cells]
    absent = {row: item for row, item in enumerate(opened) if isinstance(item, Absent)}
    rows = [row for row in range(len(opened)) if row not in absent]
    items = [opened[row] for row in rows]
    if not items:
        return Batch(vectors=None, absent=absent)
    found, failed, alone = _run(name, work.encoder, items)
    absent |= {rows[k]: reason for k, reason in failed.items()}
    kept = [rows[k] for k in range(len(items)) if k not in failed]
    if found is not None:
        finite = np.isfinite(found).all(axis=1)
        absent |= {row: Absent(NOT_FINITE) for row, good in zip(kept, finite, strict=True) if not good}
        found = found[finite]
    return Batch(
        vectors=found if found is not None and len(found) else None,
        absent=absent,
        alone=alone,
        cut=work.encoder.cut(items),
    )


def _run(
    name: str, encoder: Encoder, items: list[Any]
) -> tuple[NDArray[Any] | None, dict[int, Absent], str]:
    """Encodes items together, or one by one where that fails.

    Returns:
        The vectors of those that could be encoded, why others could not, and why they were not
        taken together.
    """
    together = _try(name, encoder, items)
    if not isinstance(together, Absent):
        return together, {}, ""
    single = {k: _try(name, encoder, [item]) for k, item in enumerate(items)}
    failed = {k: came for k, came in single.items() if isinstance(came, Absent)}
    vectors = [came for came in single.values() if not isinstance(came, Absent)]
    widths = {came.shape[1] for came in vectors}
    if len(widths) > 1:
        raise ShapeError(
            f"the encoder {encoder.about['encoder']!r} of {name!r} gives vectors of several lengths",
            expected="as many numbers for each item",
            got=", ".join(map(str, sorted(widths))),
            fix="Pool each item to as many numbers as all others.",
        )
    return (np.concatenate(vectors) if vectors else None), failed, together.detail


def _try(name: str, encoder: Encoder, items: list[Any]) -> NDArray[Any] | Absent:
    try:
        found = encoder.run(items)
    except (DMSError, MemoryError):
        raise
    except Exception as error:  # it may raise anything
        if type(error).__name__ == "OutOfMemoryError":  # torch's: fewer at a time would help
            raise
        return Absent(FAILED, said(error))
    return _vectors(name, encoder, found, len(items))


def _vectors(name: str, encoder: Encoder, found: Any, count: int) -> NDArray[Any]:
    """Reads what an encoder gave: float64 as it is, all else as float32 or what holds it.

    Raises:
        ShapeError: It is not ``[n, D]``.
    """
    try:
        array = np.asarray(_on_host(found))
        array = array.astype(np.result_type(array.dtype, np.float32), copy=False)
        good = array.ndim == 2 and len(array) == count and array.shape[1] > 0
        got = str(list(array.shape))
    except (TypeError, ValueError) as error:
        good, got = False, said(error)
    if not good or array.dtype.kind != "f":
        raise ShapeError(
            f"the encoder {encoder.about['encoder']!r} of {name!r} does not give embeddings",
            expected=f"numbers [{count}, D]: a row for each of {count} items",
            got=got,
            fix="Pool each item to one row of numbers, and keep the order.",
        )
    return array


def _on_host(found: Any) -> Any:
    """Brings a tensor of torch to where NumPy reads it; NumPy has no bfloat16."""
    if not hasattr(found, "detach"):
        return found
    tensor = found.detach().cpu()
    return tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor
