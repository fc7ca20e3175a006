"""Draws the pictures of a report, each as an SVG. Imports matplotlib for the first one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from dms_spec.colours import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    MAGENTA,
    OLIVE,
    RED,
    TEAL,
    VIOLET,
)
from dms_spec.pictures import page_style, svg
from dms_spec.robustness.conditions import Condition, label, shown, swept
from dms_spec.robustness.methods import ORACLE, STATIC
from dms_spec.robustness.result import Result

# No colour means two things.
_METHODS = (BLACK, RED, GREEN, OLIVE, BLUE, VIOLET)
_STATIC, _ORACLE, _SINGLE = GREY, TEAL, MAGENTA
_HIT, _CLEAN = RED, BLUE
#: The smallest text, in points: 11 pixels, where a picture is shown at its own size.
_SMALL = 8.5
#: How much of its colour a line keeps that is there for comparison.
_PALE = 0.7
_COLUMNS = 3
#: How many samples a dot of the reliability stands for, at least.
_FEWEST = 10
#: With more lines than this, their names go below the picture, since they would not fit beside it.
_MOST_LABELS = 6

_LINE: dict[str, Any] = {"linewidth": 2.0, "marker": "o", "markersize": 3.5, "clip_on": False}

#: By heading: a caption, and the SVG.
Pictures = dict[str, tuple[str, bytes]]


def plots(result: Result) -> Pictures:
    """Draws all pictures for which there is something to draw.

    Raises:
        BackendUnavailable: matplotlib is not installed.
    """
    pictures: Pictures = {}
    with page_style("a report", "dms-spec[robustness]"):
        _add(pictures, "Accuracy against severity", _accuracy(result))
        for method in result.methods:
            _add(pictures, f"Weights of {method} against severity", _weights(result, method))
        _add(pictures, "Reliability", _pair(result, "reliability"))
        _add(pictures, "Risk against coverage", _pair(result, "risk_at_coverage"))
    return pictures


def _add(pictures: Pictures, heading: str, drawn: tuple[str, Any] | None) -> None:
    if drawn is None:
        return
    caption, figure = drawn
    pictures[heading] = caption, svg(figure)


# ---------------------------------------------------------------------------- against severity


def _accuracy(result: Result) -> tuple[str, Any] | None:
    names = shown(result)
    styles = _styles(result, names)

    def value(name: str, condition: Condition) -> float | None:
        mean = result.mean("accuracy", name, *condition)
        return None if mean is None else 100 * mean

    caption = (
        "In %, the mean over the seeds. Dashed: the mask oracle, which knows what is corrupted."
    )
    drawn = _grid(result, {name: (style, _of(value, name)) for name, style in styles.items()})
    return None if drawn is None else (caption, drawn)


def _weights(result: Result, method: str) -> tuple[str, Any] | None:
    if not result.values("weight_on_clean", method):
        return None

    def value(key: str, condition: Condition) -> float | None:
        return result.mean(f"weight_on_{key}", method, *condition)

    lines = {
        "corrupted": ({"color": _HIT}, _of(value, "hit")),
        "clean": ({"color": _CLEAN}, _of(value, "clean")),
    }
    equal = 1 / len(result.modalities)
    drawn = _grid(result, lines, equal, told=False)
    caption = (
        "Mean weight of a modality that is corrupted, and of one that is not, where the method is "
        f"not told. Dotted: the equal share among {len(result.modalities)}."
    )
    return None if drawn is None else (caption, drawn)


def _of(
    value: Callable[[str, Condition], float | None], name: str
) -> Callable[[Condition], float | None]:
    return lambda condition: value(name, condition)


#: By name: how to draw the line, and its value in a condition.
Lines = Mapping[str, tuple[dict[str, Any], Callable[[Condition], float | None]]]


def _grid(
    result: Result, lines: Lines, level: float | None = None, *, told: bool = True
) -> Any | None:
    """Draws one panel for each corruption with severities, and one for those without."""
    curves, single = _panels(result, told)
    count = len(curves) + bool(single)
    if not count:
        return None
    from matplotlib.figure import Figure

    columns = min(_COLUMNS, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(3.7 * columns + 0.3, 2.7 * rows + 0.4), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharey=not single).ravel()
    beside = len(lines) <= _MOST_LABELS
    for axes, ((name, pattern), conditions) in zip(panels, curves.items(), strict=False):
        ends = {}
        for title, (style, value) in lines.items():
            heights = [np.nan if (v := value(c)) is None else v for c in conditions]
            axes.plot(heights, **_LINE | style)
            if np.isfinite(heights[-1]):
                ends[title] = heights[-1], style["color"]
        ticks = ["clean" if c[0] == "clean" else f"{c[1]:g}" for c in conditions]
        axes.set_xticks(range(len(ticks)), ticks)
        axes.set_xlim(-0.2, len(ticks) - 0.8)
        unit = result.corruptions[name]["unit"].partition(",")[0]
        axes.set_xlabel(_short(unit), fontsize=_SMALL)
        where = "" if pattern in ("half", "every") else f" on {pattern}"
        _finish(axes, f"{name}{where}", level)
        if beside:
            axes.set_ylim(*axes.get_ylim())
            _label_ends(axes, ends, len(ticks) - 1)
    if single:
        _dots(result, panels[len(curves)], single, lines, level)
    for axes in panels[count:]:
        axes.set_visible(False)
    if not beside or not curves:
        _legend(figure, panels[0], {title: style for title, (style, _) in lines.items()})
    return figure


def _panels(
    result: Result, told: bool
) -> tuple[dict[tuple[str, str], list[Condition]], list[Condition]]:
    """Groups conditions by corruption and pattern, with the clean one in its place."""
    clean, *others = swept(result)
    found: dict[tuple[str, str], list[Condition]] = {}
    for condition in others:
        name, _, pattern = condition
        if told or not result.corruptions[name]["told"]:
            found.setdefault((name, pattern), []).append(condition)
    curves, single = {}, []
    for key, conditions in found.items():
        if len(conditions) == 1:
            single += conditions
        else:
            place = _place_of_clean(conditions, result.corruptions[key[0]]["clean_at"])
            curves[key] = [*conditions[:place], clean, *conditions[place:]]
    return curves, [clean, *single] if single else []


def _place_of_clean(conditions: Sequence[Condition], at: float | None) -> int:
    """Places the clean case between the severities if they rise, otherwise before them."""
    severities = [severity for _, severity, _ in conditions]
    rising = severities == sorted(severities)
    return sum(s < at for s in severities) if rising and at is not None else 0


def _dots(
    result: Result, axes: Any, conditions: Sequence[Condition], lines: Lines, level: float | None
) -> None:
    """Draws a row of dots for each condition that has no severity."""
    for row, condition in enumerate(conditions):
        axes.axhline(row, color="#dddddd", linewidth=0.8, zorder=0)
        for style, value in lines.values():
            found = value(condition)
            if found is not None:
                mark = {k: style[k] for k in ("color", "marker", "zorder") if k in style}
                fill = "none" if style.get("linestyle") == "--" else style["color"]
                axes.plot(
                    found, row, **({"marker": "o"} | mark), markerfacecolor=fill, markersize=7
                )
    axes.set_yticks(range(len(conditions)), [label(result, c) for c in conditions])
    axes.set_ylim(len(conditions) - 0.5, -0.5)
    axes.set_title("without severities", fontsize=10, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    if level is not None:
        axes.axvline(level, color=_STATIC, linewidth=1, linestyle=":", zorder=0)


def _finish(axes: Any, title: str, level: float | None) -> None:
    axes.set_title(title, fontsize=10, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    if level is not None:
        axes.axhline(level, color=_STATIC, linewidth=1, linestyle=":", zorder=0)
        axes.set_ylim(bottom=0)


def _legend(figure: Any, axes: Any, styles: Mapping[str, dict[str, Any]]) -> None:
    handles = [
        axes.plot([], [], label=name, **({"linewidth": 2} | style))[0]
        for name, style in styles.items()
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=5, frameon=False)


def _short(text: str) -> str:
    return text if len(text) < 48 else text[:45].rpartition(" ")[0] + " ..."


def _label_ends(
    axes: Any, ends: Mapping[str, tuple[float, str]], x: float, gap: float = 0.085
) -> None:
    """Writes each line's name beside its end, no two on top of each other."""
    low, high = axes.get_ylim()
    names = sorted(ends, key=lambda name: ends[name][0])
    step = gap * (high - low)
    heights = spread([ends[name][0] for name in names], step, low + step / 2, high)
    for name, height in zip(names, heights, strict=True):
        axes.annotate(
            name,
            (x, height),
            xytext=(6, 0),
            textcoords="offset points",
            color=ends[name][1],
            fontsize=_SMALL,
            fontweight="bold",
            va="center",
            annotation_clip=False,
        )


def spread(heights: Sequence[float], gap: float, bottom: float, top: float) -> list[float]:
    """Moves rising heights apart by a gap, each as little as possible, between bottom and top.

    Less ``i * gap``, the heights must not fall. Blocks that fall are put at their mean.
    """
    blocks: list[tuple[float, int]] = []
    for i, height in enumerate(heights):
        mean, count = height - i * gap, 1
        while blocks and blocks[-1][0] >= mean:
            other, size = blocks.pop()
            mean, count = (mean * count + other * size) / (count + size), count + size
        blocks.append((mean, count))
    placed = [mean for mean, count in blocks for _ in range(count)]
    placed = [max(mean, bottom) + i * gap for i, mean in enumerate(placed)]
    return [min(p, top - (len(placed) - 1 - i) * gap) for i, p in enumerate(placed)]


# ---------------------------------------------------------------------------- clean and at worst


def _pair(result: Result, kind: str) -> tuple[str, Any] | None:
    """Draws two panels: clean, and where the first method does worst."""
    names = [n for n in shown(result) if any(n in case.curves for case in result.cases)]
    clean, *others = swept(result)
    if not others or not names:
        return None
    from matplotlib.figure import Figure

    first = result.methods[0]
    worst = min(others, key=lambda c: result.mean("accuracy", first, *c) or 0.0)
    figure = Figure(figsize=(9.5, 4), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    styles = _styles(result, names)
    beside = len(names) <= _MOST_LABELS
    ends: list[dict[str, tuple[float, str]]] = []
    for axes, condition in zip(panels, (clean, worst), strict=True):
        cases = result.select(*condition)
        ends.append({})
        for name, style in styles.items():
            curves = [case.curves[name] for case in cases if name in case.curves]
            x, y = _reliability(curves, result.samples) if kind == "reliability" else _risk(curves)
            if y:  # an empty line without clipping takes all the room of the layout
                axes.plot(x, y, **_LINE | style)
                ends[-1][name] = y[-1], style["color"]
        _finish(axes, label(result, condition), None)
        axes.set_xlim(0, 1)
        axes.set_xlabel(
            "confidence: the largest probability"
            if kind == "reliability"
            else "coverage: share of the samples, the most confident ones"
        )
        if kind == "reliability":
            axes.plot([0, 1], [0, 1], color=_STATIC, linewidth=1, linestyle=":", zorder=0)
    if kind == "reliability":
        panels[0].set_ylim(0, 1)
        panels[0].set_ylabel("accuracy")
    else:
        panels[0].set_ylim(bottom=0)
        panels[0].set_ylabel("risk: share of errors")
        for axes, own in zip(panels, ends, strict=True):
            if beside:
                _label_ends(axes, own, 1.0, gap=0.05)
    if kind == "reliability" or not beside:
        _legend(figure, panels[0], styles)
    words = f"On clean samples, and under {label(result, worst)}, where {first} is worst."
    if kind == "reliability":
        words += " On the dotted line confidence equals accuracy; below, it is too high."
        few = "" if any(ends) else f" There is no line: no bin of confidence has {_FEWEST} samples."
        return words + few, figure
    return f"{words} Lower is better: the errors are where it is least sure.", figure


def _reliability(
    curves: Sequence[Mapping[str, Any]], samples: int
) -> tuple[list[float], list[float]]:
    """Mean confidence and accuracy of each bin with enough samples: fewer say nothing."""
    parts = [curve["reliability"] for curve in curves]
    x, y = [], []
    for i in range(len(parts[0]["share"]) if parts else 0):
        own = [(p["share"][i], p["confidence"][i], p["accuracy"][i]) for p in parts]
        used = [part for part in own if part[1] is not None]
        total = sum(share for share, _, _ in used)
        if total / len(parts) * samples >= _FEWEST:
            x.append(sum(share * confidence for share, confidence, _ in used) / total)
            y.append(sum(share * accuracy for share, _, accuracy in used) / total)
    return x, y


def _risk(curves: Sequence[Mapping[str, Any]]) -> tuple[list[float], list[float]]:
    if not curves:
        return [], []
    risk = np.mean([curve["risk_at_coverage"] for curve in curves], axis=0)
    return (np.arange(1, len(risk) + 1) / len(risk)).tolist(), risk.tolist()


def _styles(result: Result, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Says how to draw each line, the baselines first, so that the methods lie above them."""
    styles: dict[str, dict[str, Any]] = {}
    for name in names:
        base = name.partition(" of ")[0]
        others = name != base and name not in result.methods
        if name in result.methods:
            number = result.methods.index(name)
            dashes = ("-", "-.", ":")[number // len(_METHODS) % 3]
            colour = _METHODS[number % len(_METHODS)]
            styles[name] = {"color": colour, "linestyle": dashes, "zorder": 3}
        elif base == STATIC:
            styles[name] = {"color": _STATIC, "marker": "s", "alpha": _PALE if others else 1.0}
        elif base == ORACLE:
            styles[name] = {"color": _ORACLE, "marker": "D", "linestyle": "--"}
            styles[name] |= {"alpha": _PALE} if others else {}
        else:
            styles[name] = {"color": _SINGLE, "marker": "v", "linewidth": 1.2}
    return styles
