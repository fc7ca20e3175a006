"""Sums up what was computed part by part: how far each modality took part, and what was odd."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dms_spec.embeddings.nonfinite import NonFinite


class Summary:
    """Says for each modality in how many samples it takes part, and its mean weight there.

    The mean leaves out the samples without it; they would dilute it.

    Args:
        names: Of the modalities.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        self._active, self._weight = np.zeros(len(names), dtype=np.int64), np.zeros(len(names))
        #: How many samples there were, and how many with nothing active.
        self.samples = self.nothing = 0

    def add(self, active: NDArray[Any], weights: NDArray[Any]) -> None:
        """Counts some samples: ``[B, M]`` each."""
        self.samples += len(active)
        self.nothing += int((~active.any(axis=1)).sum())
        self._active += active.sum(axis=0)
        self._weight += np.where(active, weights, 0).sum(axis=0, dtype=np.float64)

    def rows(self) -> list[dict[str, Any]]:
        """Gives one entry for each modality."""
        return [
            {
                "name": name,
                "active": int(count),
                "mean_weight_where_active": float(weight / count) if count else None,
            }
            for name, count, weight in zip(self._names, self._active, self._weight, strict=True)
        ]

    def join(self, other: Counts) -> None:
        """Counts what was counted elsewhere, such as in another process."""
        self.samples += other.rows
        self.nothing += other.nothing
        self._active += np.asarray(other.active, dtype=np.int64)
        self._weight += np.asarray(other.weight, dtype=np.float64)

    def counts(self) -> Counts:
        """Gives the same as plain data."""
        active, weight = tuple(self._active.tolist()), tuple(self._weight.tolist())
        return Counts(rows=self.samples, nothing=self.nothing, active=active, weight=weight)


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Holds what a `Summary` has counted.

    Attributes:
        rows: How many samples there were.
        nothing: In how many of them nothing is active.
        active: By modality, in how many samples it is active.
        weight: By modality, the sum of its weights there.
    """

    rows: int
    nothing: int
    active: tuple[int, ...]
    weight: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Record:
    """Says of some rows what was counted, and what was odd: plain data, for JSON.

    Attributes:
        counts: How far each modality took part.
        remarks: What was odd about the rows, in words.
        nonfinite: By modality, what is not finite.
        notes: What the predictor said of the rows.
    """

    counts: Counts
    remarks: tuple[str, ...]
    nonfinite: Mapping[str, NonFinite]
    notes: tuple[str, ...]


class Remarks:
    """Collects what was found to be weaker than it claims, part by part, each thing once."""

    def __init__(self) -> None:
        self.texts: dict[str, None] = {}
        self.nonfinite: dict[str, NonFinite] = {}

    def add(self, texts: Iterable[str], nonfinite: Mapping[str, NonFinite]) -> None:
        """Adds what was said of some rows, and what is not finite in them, by modality."""
        self.texts |= dict.fromkeys(texts)
        for name, bad in nonfinite.items():
            before = self.nonfinite.get(name)
            self.nonfinite[name] = bad if before is None else before.joined(bad)

    def notes(self) -> tuple[str, ...]:
        """Says it in words."""
        absent = (bad.note(name) for name, bad in self.nonfinite.items() if bad.rows)
        return (*self.texts, *absent)


class Tally:
    """Adds up records, in the order in which they come.

    Args:
        modalities: Their names.
    """

    def __init__(self, modalities: Sequence[str]) -> None:
        self.summary, self.remarks = Summary(modalities), Remarks()
        self._notes: dict[str, None] = {}

    def add(self, record: Record) -> None:
        """Counts the rows of a record."""
        self.summary.join(record.counts)
        self.remarks.add(record.remarks, record.nonfinite)
        self._notes |= dict.fromkeys(record.notes)

    def record(self) -> Record:
        """Gives one record for all rows."""
        return Record(
            counts=self.summary.counts(),
            remarks=tuple(self.remarks.texts),
            nonfinite=dict(self.remarks.nonfinite),
            notes=tuple(self._notes),
        )
