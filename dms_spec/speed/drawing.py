"""Draws measured times: as multiples of the limit, and as they grow. Imports matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dms_spec.colours import GREY, PALETTE
from dms_spec.pictures import svg
from dms_spec.speed.growth import BASE, Row
from dms_spec.speed.measure import EXPONENTIALS, STREAM
from dms_spec.speed.shapes import AXES


def draw_ratios(rows: Sequence[Row]) -> bytes:
    """Draws how many times the limit each contender takes, against the samples of a batch."""
    figure = _figure(7.5, 4.2)
    axes = figure.subplots()
    for colour, (name, own) in zip(PALETTE, _by_contender(rows).items(), strict=False):
        x = [row["B"] for row in own]
        axes.plot(x, [row["times_limit"] for row in own], color=colour, marker="o", label=name)
    axes.axhline(1, color=GREY, linestyle=":")
    axes.set(xscale="log", yscale="log", xlabel="samples in a batch", ylabel="times the limit")
    axes.set_xticks(sorted({row["B"] for row in rows}), labels=None)
    _whole_numbers(axes.xaxis)
    _whole_numbers(axes.yaxis)
    axes.grid(visible=True, alpha=0.3)
    figure.legend(loc="outside right upper", frameon=False)
    return svg(figure)


def draw_growth(rows: Sequence[Row]) -> bytes:
    """Draws time against size, a picture for each axis of a batch."""
    figure = _figure(9.5, 2.9)
    all_axes = figure.subplots(1, len(AXES), sharey=True)
    base = BASE.sizes()
    for axes, axis in zip(all_axes, AXES, strict=True):
        own = _by_contender([row for row in rows if row["axis"] == axis])
        for colour, (name, found) in zip(PALETTE, own.items(), strict=False):
            x = [base[axis] * row["factor"] for row in found]
            label = name if axis == "B" else None
            axes.plot(x, [row["ms"] for row in found], color=colour, marker="o", label=label)
        axes.set(xscale="log", yscale="log", xlabel=f"{axis}, {AXES[axis]}")
        axes.set_xticks([base[axis] * factor for factor in (1, 2, 4, 8)], labels=None)
        _whole_numbers(axes.xaxis)
        axes.grid(visible=True, alpha=0.3)
    all_axes[0].set_ylabel("milliseconds")
    _whole_numbers(all_axes[0].yaxis)
    figure.legend(loc="outside lower center", ncols=6, frameon=False)
    return svg(figure)


def _by_contender(rows: Sequence[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        if row["contender"] not in (STREAM, EXPONENTIALS):
            found.setdefault(row["contender"], []).append(row)
    return found


def _whole_numbers(axis: Any) -> None:
    from matplotlib.ticker import FuncFormatter, NullFormatter

    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())
    axis.set_tick_params(which="minor", bottom=False, left=False)


def _figure(width: float, height: float) -> Any:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")
