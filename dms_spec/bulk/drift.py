"""Watches predictions over time: does each modality take part as it does in a reference?

A stream of predictions is cut into windows. In each, shares of rows are compared with those of the
reference: how many have the modality active, and how many lie below the reference's own quantiles
of weight and of typicality. So one test serves all of them, whatever their distributions are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import log
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dms_spec.errors import MissingInput, ShapeError

#: Which quantiles of weight and typicality are compared.
LEVELS = (0.05, 0.5, 0.95)

# Values that are this near to a quantile are not below it: a weight may be the same in all rows.
_ROUND_OFF = 1e-5

#: What the quantiles are called.
POINTS = ("p5", "median", "p95")

#: How often a healthy stream may give an alarm, over all its windows, modalities and shares.
FALSE_ALARMS = 0.01


@dataclass(frozen=True)
class Rows:
    """Holds what a prediction says of some rows.

    Attributes:
        active: bool ``[B, M]``.
        values: ``weights`` and, where it is there, ``typicality``: ``[B, M]`` each.
        time: When each was, ``[B]`` of anything; None without a column of times.
    """

    active: NDArray[np.bool_]
    values: dict[str, NDArray[Any]]
    time: NDArray[Any] | None = None

    def __len__(self) -> int:
        return len(self.active)


@dataclass(frozen=True, kw_only=True)
class Share:
    """Counts of how many rows something holds.

    Attributes:
        modality: The modality.
        quantity: ``active``, ``weights`` or ``typicality``.
        what: In words, such as ``active``.
        hits: How many.
        rows: Out of how many.
    """

    modality: str
    quantity: str
    what: str
    hits: int
    rows: int

    @property
    def share(self) -> float:
        """From 0 to 1."""
        return self.hits / self.rows if self.rows else 0.0


@dataclass(frozen=True, kw_only=True)
class Alarm:
    """Says that a share of one window is not that of the reference.

    Attributes:
        found: In the window.
        expected: In the reference.
        evidence: How much likelier two shares are than one, as a logarithm.
    """

    found: Share
    expected: Share
    evidence: float


@dataclass(frozen=True, kw_only=True)
class Window:
    """Holds what was seen in one window.

    Attributes:
        start: Its first row.
        rows: How many.
        time: When the first was; None without a column of times.
        active: By modality, the share of rows.
        weight: By modality, the mean where it is active; NaN where it never is.
        typicality: By modality, `LEVELS` of it where it is active, ``[M, 3]``; None without it.
        shares: What is compared.
    """

    start: int
    rows: int
    time: Any
    active: NDArray[np.float64]
    weight: NDArray[np.float64]
    typicality: NDArray[np.float64] | None
    shares: tuple[Share, ...]


class Reference:
    """Knows what is usual, from predictions on rows that were in order.

    Args:
        modalities: Their names.
        rows: The predictions.

    Raises:
        MissingInput: There are no rows.
    """

    def __init__(self, modalities: Sequence[str], rows: Rows) -> None:
        if not len(rows):
            raise MissingInput("the reference has no rows")
        self.modalities = tuple(modalities)
        #: By name of a value, its quantiles ``[M, 3]`` where the modality is active.
        self.quantiles = {name: _quantiles(rows.active, v) for name, v in rows.values.items()}
        #: The reference as if it were a window.
        self.usual = self.window(0, rows)

    def window(self, start: int, rows: Rows) -> Window:
        """Sums up some rows that follow each other.

        Raises:
            ShapeError: They have another number of modalities.
            MissingInput: They lack a value of the reference.
        """
        if rows.active.shape[1] != len(self.modalities):
            raise ShapeError(
                "the predictions have another number of modalities than the reference",
                expected=str(len(self.modalities)),
                got=str(rows.active.shape[1]),
            )
        if lacking := sorted(set(self.quantiles) - set(rows.values)):
            raise MissingInput(f"the predictions have no {lacking[0]}, and the reference has")
        where = np.where(rows.active, rows.values["weights"], 0.0)
        counts = rows.active.sum(axis=0)
        with np.errstate(invalid="ignore"):
            weight = where.sum(axis=0, dtype=np.float64) / counts
        typicality = rows.values.get("typicality")
        return Window(
            start=start,
            rows=len(rows),
            time=None if rows.time is None else rows.time[0],
            active=counts / max(1, len(rows)),
            weight=weight,
            typicality=None if typicality is None else _quantiles(rows.active, typicality),
            shares=tuple(self._shares(rows)),
        )

    def _shares(self, rows: Rows) -> Iterator[Share]:
        for m, modality in enumerate(self.modalities):
            there = rows.active[:, m]
            yield Share(
                modality=modality,
                quantity="active",
                what="active",
                hits=int(there.sum()),
                rows=len(rows),
            )
            for name, bounds in self.quantiles.items():
                values = rows.values[name][there, m]
                for point, bound in zip(POINTS, bounds[m], strict=True):
                    yield Share(
                        modality=modality,
                        quantity=name,
                        what=f"{name} below the usual {point}",
                        hits=int((values < bound - _ROUND_OFF).sum()),
                        rows=len(values),
                    )

    def alarms(self, window: Window, windows: int) -> list[Alarm]:
        """Says which shares of a window are not those of the reference.

        The bound keeps the chance of any alarm in a healthy stream at `FALSE_ALARMS` or below, by
        Wilks' theorem and the union bound, if its rows are independent of each other.

        Args:
            window: Of the stream.
            windows: How many there are in all.
        """
        bound = log(windows * len(window.shares) / FALSE_ALARMS)
        found = []
        for own, usual in zip(window.shares, self.usual.shares, strict=True):
            evidence = _evidence(own, usual)
            if evidence > bound:
                found.append(Alarm(found=own, expected=usual, evidence=evidence))
        return found


def _quantiles(active: NDArray[np.bool_], values: NDArray[Any]) -> NDArray[np.float64]:
    """Gives `LEVELS` of each modality's values where it is active, ``[M, 3]``; NaN if nowhere."""
    found = np.full((active.shape[1], len(LEVELS)), np.nan)
    for m in range(active.shape[1]):
        if active[:, m].any():
            found[m] = np.quantile(values[active[:, m], m].astype(np.float64), LEVELS)
    return found


def _evidence(one: Share, other: Share) -> float:
    """Compares two shares by the log likelihood ratio of two against one, at least 0.

    Twice that is distributed as chi squared with one degree of freedom, where the shares are alike:
    Wilks, The large-sample distribution of the likelihood ratio for testing composite hypotheses,
    1938.
    """
    rows = one.rows + other.rows
    if not one.rows or not other.rows:
        return 0.0
    joint = (one.hits + other.hits) / rows
    return sum(
        count * log(count / (part.rows * expected))
        for part in (one, other)
        for count, expected in ((part.hits, joint), (part.rows - part.hits, 1 - joint))
        if count
    )


def windows_of(parts: Iterable[Rows], size: int) -> Iterator[tuple[int, Rows]]:
    """Cuts a stream into windows; rows at its end that do not fill one are left out.

    Args:
        parts: Rows that follow each other.
        size: Of a window.
    """
    waiting: list[Rows] = []
    start = held = 0
    for part in parts:
        waiting.append(part)
        held += len(part)
        while held >= size:
            whole = joined(waiting)
            yield start, _cut(whole, 0, size)
            rest = _cut(whole, size, held)
            waiting, held, start = [rest], held - size, start + size


def joined(parts: Sequence[Rows]) -> Rows:
    """Joins rows that follow each other.

    Raises:
        MissingInput: There are none.
    """
    if not parts:
        raise MissingInput("the reference has no rows")
    full = [part for part in parts if len(part)] or list(parts[:1])
    return Rows(
        np.concatenate([part.active for part in full]),
        {name: np.concatenate([p.values[name] for p in full]) for name in full[0].values},
        None if full[0].time is None else np.concatenate([part.time for part in full]),
    )


def _cut(rows: Rows, start: int, stop: int) -> Rows:
    return Rows(
        rows.active[start:stop],
        {name: value[start:stop] for name, value in rows.values.items()},
        None if rows.time is None else rows.time[start:stop],
    )
