"""Draws one view degrading, and what that does to the weights and to the accuracy."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dms_spec.colours import BLACK, BLUE, CARD, GREEN, GREY, MAGENTA, OLIVE, RED, TEAL
from dms_spec.demo.data import NAMES
from dms_spec.demo.report import percent
from dms_spec.demo.study import LEVELS, ORACLE, SWEPT, Study

# No colour means two things.
_VIEW_COLOURS = dict(zip(NAMES, (RED, BLUE, GREEN, MAGENTA), strict=True))
_METHOD_COLOURS = {"static": GREY, "paper": OLIVE, "robust": BLACK, ORACLE: TEAL}
_SIGMA = r"$\sigma$"
_LINE: dict[str, Any] = {"linewidth": 2.2, "marker": "o", "markersize": 4, "clip_on": False}


def draw(path: Path, study: Study) -> None:
    """Draws the sweep and writes it as a PNG."""
    figure = Figure(figsize=(11, 7), dpi=150, layout="constrained")
    figure.suptitle(f"A digit in {len(NAMES)} views: {SWEPT} degrade, the others stay clean")
    parts: Any = figure.subfigures(2, 1, height_ratios=(1, 2.6), hspace=0.05)
    scans, panels = parts
    _draw_scans(scans, study)
    left, right = panels.subplots(1, 2)
    _draw_weights(left, study)
    _draw_accuracy(right, study)
    for axes in (left, right):
        axes.set_xlim(0, LEVELS[-1])
        axes.set_xlabel(
            f"noise on {SWEPT}: {_SIGMA}, where the range of an input is 1", fontsize=10
        )
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, format="png", facecolor=CARD, metadata={"Software": "dms demo"})


def _draw_scans(figure: Any, study: Study) -> None:
    """Draws two scans at every other level: a typical one, and the one that keeps most trust."""
    weights = study.sweep_weights[:, :, NAMES.index(SWEPT)]  # [levels, N]
    inputs, labels = study.sweep_inputs, study.sweep_labels
    known = weights[:, : len(labels)]
    distance = np.square(known - weights.mean(axis=1, keepdims=True)).sum(axis=0)
    scans = {
        "Typical": int(distance.argmin()),
        f"Most trusted at {_SIGMA} {LEVELS[-1]:g}": int(known[-1].argmax()),
    }
    shown = range(0, len(LEVELS), 2)
    for part, (kind, scan) in zip(figure.subfigures(1, 2, wspace=0.05), scans.items(), strict=True):
        part.suptitle(f"{kind}: the {SWEPT} of a {labels[scan]}", fontsize=11)
        for axes, level in zip(part.subplots(1, len(shown)), shown, strict=True):
            axes.imshow(inputs[level, scan].reshape(8, 8), cmap="gray_r", vmin=0, vmax=1)
            axes.set(xticks=[], yticks=[])
            axes.set_title(f"{_SIGMA} {LEVELS[level]:g}", fontsize=10)
            axes.set_xlabel(f"weight {known[level, scan]:.2f}", fontsize=10)


def _draw_weights(axes: Axes, study: Study) -> None:
    """Draws the mean weight per view, and the middle half of the samples for the swept one."""
    means = study.sweep_weights.mean(axis=1)  # [levels, M]
    low, high = np.quantile(study.sweep_weights, (0.25, 0.75), axis=1)
    swept = NAMES.index(SWEPT)
    axes.fill_between(
        LEVELS, low[:, swept], high[:, swept], color=_VIEW_COLOURS[SWEPT], alpha=0.15, linewidth=0
    )
    for name, line in zip(NAMES, means.T, strict=True):
        axes.plot(LEVELS, line, color=_VIEW_COLOURS[name], **_LINE)
    axes.axhline(1 / len(NAMES), color=GREY, linewidth=1, linestyle=":", zorder=0)
    axes.set_ylim(bottom=0)
    axes.set_ylabel(f"mean weight (band: middle half, {SWEPT}; dotted: equal)", fontsize=10)
    first, last = means[0, swept], means[-1, swept]
    axes.set_title(f"Weights by robust: {SWEPT} from {first:.2f} to {last:.2f}", loc="left")
    _label_ends(axes, dict(zip(NAMES, means[-1].tolist(), strict=True)), _VIEW_COLOURS)


def _draw_accuracy(axes: Axes, study: Study) -> None:
    """Draws the accuracy of each spec, and of leaving the swept view out."""
    lines = {
        method: [percent(level[method]) for level in study.sweep_accuracy]
        for method in _METHOD_COLOURS
    }
    for method, line in lines.items():
        style = {"linewidth": 2.2, "linestyle": "--"} if method == ORACLE else _LINE
        axes.plot(LEVELS, line, color=_METHOD_COLOURS[method], **style)
    axes.set_ylabel("accuracy on test scans, %", fontsize=10)
    ends = {method: line[-1] for method, line in lines.items()}
    axes.set_title(
        f"Accuracy at {_SIGMA} {LEVELS[-1]:g}: robust {ends['robust']:.1f} %, "
        f"static {ends['static']:.1f} %",
        loc="left",
    )
    _label_ends(axes, ends, _METHOD_COLOURS)


def _label_ends(axes: Axes, ends: Mapping[str, float], colours: Mapping[str, str]) -> None:
    """Writes each line's name beside its end, from the bottom up, no two on top of each other."""
    low, high = axes.get_ylim()
    height, gap = -np.inf, 0.055 * (high - low)
    for name, end in sorted(ends.items(), key=lambda item: item[1]):
        height = max(end, height + gap)
        axes.annotate(
            f"static without {SWEPT}" if name == ORACLE else name,
            (LEVELS[-1], height),
            xytext=(8, 0),
            textcoords="offset points",
            color=colours[name],
            fontsize=10,
            fontweight="bold",
            va="center",
            annotation_clip=False,
        )
