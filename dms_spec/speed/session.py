"""Runs what `dms bench` asks for, and writes it."""

from __future__ import annotations

import csv
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from dms_spec.errors import DMSWarning
from dms_spec.outputs import Target
from dms_spec.speed import growth
from dms_spec.speed.drawing import draw_growth, draw_ratios
from dms_spec.speed.growth import Row
from dms_spec.speed.measure import (
    PLAIN,
    SHAPES,
    backends,
    measure,
    plain,
    spec_for,
    usable_backends,
)
from dms_spec.speed.setting import setting
from dms_spec.speed.shapes import Shape

#: Goes through shapes, and shows how far it is.
Over = Callable[[Sequence[Shape]], Iterable[Shape]]


@dataclass(frozen=True)
class Measured:
    """Holds what came out.

    Attributes:
        setting: Machine, cores and versions.
        left_out: Backends that do not run here, each with the reason.
        rows: As `measure` gives them.
        grown: The same for growing sizes, with ``axis`` and ``factor``.
    """

    setting: dict[str, str]
    left_out: dict[str, str]
    rows: list[Row]
    grown: list[Row]

    def slopes(self) -> list[Row]:
        """The exponent of each axis and contender."""
        return growth.slopes(self.grown)


def session(
    over: Over,
    *,
    names: Sequence[str] | None,
    shapes: Sequence[str] | None,
    preset: str,
    seconds: float,
    grow: bool,
) -> Measured:
    """Times backends on some shapes.

    Args:
        over: See `Over`.
        names: Of backends, with a device after a colon; None for all that run here.
        shapes: As `Shape.parse` reads them; None for a sample, a small batch and a large one.
        preset: What to compute.
        seconds: For each contender and shape.
        grow: Whether to time growing sizes as well.

    Raises:
        SpecError, UnknownName, BackendUnavailable: A shape, preset or backend cannot be timed.
        VerificationError: A backend gives wrong weights.
    """
    chosen = [Shape.parse(text) for text in shapes] if shapes else list(SHAPES)
    found, reasons = (list(names), {}) if names else usable_backends()
    one = partial(_one, found, preset, seconds)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DMSWarning)  # of what a spec does with these modalities
        rows = [row for shape in over(chosen) for row in one(shape)]
        grown = []
        if grow:
            known = {shape: one(shape) for shape in over(growth.shapes())}
            grown = list(growth.rows(known))
    return Measured(setting(), reasons, rows, grown)


def _one(names: Iterable[str], preset: str, seconds: float, shape: Shape) -> list[Row]:
    spec, arrays = spec_for(preset, shape), shape.arrays()
    contenders = backends(names, spec, arrays) | {PLAIN: plain(spec, arrays)}
    return measure(shape, spec, arrays, contenders, seconds)


def write(target: Target, measured: Measured) -> None:
    """Writes ``speed.csv`` and ``speed.svg``; and those of the growth, if the target has them."""
    where = measured.setting
    with target.writing() as new:
        save(new["speed.csv"], [row | where for row in measured.rows])
        new["speed.svg"].write_bytes(draw_ratios(measured.rows))
        if "growth.csv" in new:
            save(new["growth.csv"], [row | where for row in measured.grown])
            new["growth.svg"].write_bytes(draw_growth(measured.grown))


def save(path: Path, rows: Sequence[Row]) -> None:
    """Writes rows as CSV, with four digits of each float."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        for row in rows:
            writer.writerow({k: f"{v:.4g}" if isinstance(v, float) else v for k, v in row.items()})
