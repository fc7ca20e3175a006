"""The pictures: accuracy against condition, and where the weights go; one panel each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from scenes import CONDITIONS, INK, make_scenes, under
from tables import Numbers

_STYLES: dict[str, tuple[str, dict[str, Any]]] = {
    "static": ("static", {"color": "#555555", "marker": "s"}),
    "co_attention": ("co-attention", {"color": "#0b6fa4", "marker": "^"}),
    "modality_dropout": ("modality dropout", {"color": "#b8860b", "marker": "v"}),
    "dms": ("DMS as published", {"color": "#7b4ea3", "marker": "P"}),
    "calibrate": ("calibrate, no labels", {"color": "#e58a2f", "marker": "X"}),
    "robust": ("robust", {"color": "#c1272d", "marker": "o", "zorder": 4}),
    "oracle": ("oracle", {"color": "#2e7d32", "marker": "D", "mfc": "none"}),
}
_TITLES = {"llava": "tiny LLaVA", "blip2": "tiny BLIP-2"}


def draw(folder: Path) -> None:
    """Write mini.png and scene.png beside the numbers."""
    numbers = Numbers(folder)
    _accuracy(numbers).savefig(folder / "mini.png", dpi=100)
    _scene().savefig(folder / "scene.png", dpi=100)


def _accuracy(numbers: Numbers) -> Figure:
    """VQA under each condition, with a standard error; dots side by side."""
    count = len(numbers.backbones)
    figure = Figure(figsize=(11, 3.6 * count + 0.6), layout="constrained")
    panels = figure.subplots(count, 1, squeeze=False).ravel()
    place = np.arange(len(CONDITIONS), dtype=float)
    for axes, backbone in zip(panels, numbers.backbones, strict=True):
        for k, (method, (label, style)) in enumerate(_STYLES.items()):
            values = [numbers.value(backbone, method, c, "VQA") for c in CONDITIONS]
            axes.errorbar(
                place + 0.1 * (k - 3),
                [value.mean for value in values],
                yerr=[np.nan_to_num(value.error) for value in values],
                linestyle="none",
                label=label,
                **style,
            )
        for line in place[:-1] + 0.5:
            axes.axvline(line, color="#eeeeee", linewidth=0.8, zorder=0)
        axes.set_xticks(place, [name.replace(", ", ",\n") for name in CONDITIONS])
        axes.set_ylim(0, 104)
        axes.set_ylabel("VQA accuracy, %")
        axes.set_title(_TITLES[backbone], loc="left", fontsize=11)
        axes.spines[["top", "right"]].set_visible(False)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False)
    return figure


def _scene() -> Figure:
    """One test scene under each condition that changes it."""
    scenes = make_scenes("test", 8, 0)
    shown = [name for name in CONDITIONS if not name.endswith("told")]
    figure = Figure(figsize=(11, 3.2), layout="constrained")
    for axes, condition in zip(figure.subplots(1, len(shown)), shown, strict=True):
        scene = under(scenes, condition, 0)
        axes.imshow(scene.images[1], cmap="gray", vmin=0, vmax=INK)
        axes.set_title(condition, fontsize=10)
        axes.set_xticks([])
        axes.set_yticks([])
        words = scene.questions[1].split()
        lines = [" ".join(words[i : i + 4]) for i in range(0, len(words), 4)]
        axes.set_xlabel("\n".join(lines), fontsize=8)
    return figure
