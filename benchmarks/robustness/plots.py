"""The pictures: accuracy against condition, and robust less its rivals; one panel for each set."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from measured import Numbers
from protocol import CONDITIONS, NOISE, OTHERS

_COLUMNS = 2
_LINES: dict[str, tuple[str, dict[str, Any]]] = {
    "robust": ("robust", {"color": "#c1272d", "marker": "o", "linewidth": 2.4, "zorder": 4}),
    "static": ("static, same heads", {"color": "#555555", "marker": "s", "linewidth": 1.6}),
    "concatenation": ("concatenation", {"color": "#0b6fa4", "marker": "^", "linewidth": 1.6}),
    "oracle": (
        "mask oracle",
        {"color": "#2e7d32", "marker": "D", "linewidth": 1.4, "linestyle": "--"},
    ),
}
_RIVALS: dict[str, tuple[str, dict[str, Any]]] = {
    "static": ("static, same heads", {"color": "#555555", "marker": "s"}),
    "averaged": ("averaged logistic regressions", {"color": "#b8860b", "marker": "o"}),
    "concatenation": ("concatenation", {"color": "#0b6fa4", "marker": "^"}),
}


def draw(folder: Path) -> None:
    """Write robustness.png and differences.png beside the numbers."""
    numbers = Numbers(folder)
    _figure(numbers, _accuracy, _LINES, 3.7).savefig(folder / "robustness.png", dpi=100)
    _figure(numbers, _differences, _RIVALS, 6.2).savefig(folder / "differences.png", dpi=100)


def _figure(
    numbers: Numbers,
    panel: Callable[[Any, Numbers, str], None],
    styles: dict[str, tuple[str, dict[str, Any]]],
    height: float,
) -> Figure:
    columns = min(_COLUMNS, len(numbers.sets))
    rows = -(-len(numbers.sets) // columns)
    figure = Figure(figsize=(6.6 * columns, height * rows + 0.5), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, name in zip(panels, numbers.sets, strict=False):
        panel(axes, numbers, name)
        axes.set_title(
            f"{name}, {len(numbers.modalities(name))} modalities", fontsize=11, loc="left"
        )
        axes.spines[["top", "right"]].set_visible(False)
    for axes in panels[len(numbers.sets) :]:
        axes.set_visible(False)
    handles = [panels[0].plot([], [], label=label, **style)[0] for label, style in styles.values()]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), frameon=False)
    return figure


def _accuracy(axes: Any, numbers: Numbers, name: str) -> None:
    """A line over the levels of noise, and dots for what has no levels."""
    curve, single = ("clean", *NOISE), (*CONDITIONS[1 + len(NOISE) :], *OTHERS)
    names = [*curve, *single]
    for method, (_, style) in _LINES.items():
        values = [numbers.mean(name, method, condition) for condition in names]
        axes.plot(values[: len(curve)], **style)
        places = range(len(curve), len(names))
        axes.plot(places, values[len(curve) :], **style | {"linestyle": "none"})
    axes.axvline(len(curve) - 0.5, color="#dddddd", linewidth=1)
    labels = [text.replace("sigma ", "σ ") for text in names]
    axes.set_xticks(range(len(names)), labels, rotation=55, ha="right", fontsize=8)
    axes.set_ylabel("accuracy, %")


def _differences(axes: Any, numbers: Numbers, name: str) -> None:
    """Dots with two standard errors, a row for each condition; right of 0 robust is better."""
    conditions = numbers.conditions(name)
    place = np.arange(len(conditions), dtype=float)
    for step, (rival, (_, style)) in zip((-0.25, 0.0, 0.25), _RIVALS.items(), strict=True):
        pairs = [numbers.pair(name, condition, rival) for condition in conditions]
        axes.errorbar(
            [pair.difference for pair in pairs],
            place + step,
            xerr=[2 * pair.error for pair in pairs],
            linestyle="none",
            markersize=3.5,
            elinewidth=1,
            **style,
        )
    axes.axvline(0, color="#888888", linewidth=1)
    for line in place[:-1] + 0.5:
        axes.axhline(line, color="#eeeeee", linewidth=0.6, zorder=0)
    labels = [c.replace("sigma ", "σ ").replace("of the classes ", "") for c in conditions]
    axes.set_yticks(place, labels, fontsize=8)
    axes.set_ylim(len(conditions) - 0.5, -0.5)
    axes.set_xlabel("robust less the rival, points of accuracy")
