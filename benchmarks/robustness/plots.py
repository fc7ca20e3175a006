"""The picture: accuracy against condition, one panel for each set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from protocol import CONDITIONS, NOISE
from tables import METHODS, ORACLE, Numbers

_COLUMNS = 3
_STYLES = {
    "robust": {"color": "#c1272d", "marker": "o", "linewidth": 2.4, "zorder": 4},
    "static, same heads": {"color": "#555555", "marker": "s", "linewidth": 1.6},
    "best peer": {"color": "#0b6fa4", "marker": "^", "linewidth": 1.6},
    "mask oracle": {"color": "#2e7d32", "marker": "D", "linewidth": 1.4, "linestyle": "--"},
}


def draw(folder: Path) -> None:
    """Write robustness.png beside the numbers."""
    numbers = Numbers(folder)
    columns = min(_COLUMNS, len(numbers.sets))
    rows = -(-len(numbers.sets) // columns)
    figure = Figure(figsize=(4.6 * columns, 3.5 * rows + 0.5), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, name in zip(panels, numbers.sets, strict=False):
        found = numbers.rows(name)
        lines = {
            "robust": found[METHODS["robust"]],
            "static, same heads": found[METHODS["static"]],
            "mask oracle": found[ORACLE],
        }
        peers = numbers.peers(name)
        title = name
        if peers:
            best = max(peers, key=lambda peer: np.mean([peers[peer][c] for c in CONDITIONS]))
            lines["best peer"] = peers[best]
            title = f"{name} (best peer: {best.removesuffix(' †')})"
        curve = ("clean", *NOISE)
        for label, row in lines.items():
            axes.plot([row[c] for c in curve], **_STYLES[label])
            single = _STYLES[label] | {"linestyle": "none"}
            points = range(len(curve), len(CONDITIONS))
            axes.plot(points, [row[c] for c in CONDITIONS[len(curve) :]], **single)
        axes.axvline(len(curve) - 0.5, color="#dddddd", linewidth=1)
        axes.set_xticks(range(len(CONDITIONS)), [c.replace("sigma ", "σ ") for c in CONDITIONS])
        axes.tick_params(axis="x", labelsize=8, rotation=30)
        axes.set_title(title, fontsize=10, loc="left")
        axes.set_ylabel("accuracy, %")
        axes.spines[["top", "right"]].set_visible(False)
    for axes in panels[len(numbers.sets) :]:
        axes.set_visible(False)
    handles = [panels[0].plot([], [], label=label, **style)[0] for label, style in _STYLES.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=1 + columns, frameon=False)
    figure.savefig(folder / "robustness.png", dpi=110)
