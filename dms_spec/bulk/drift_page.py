"""Draws a watch as one HTML page: what each modality did over time, beside the reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dms_spec.bulk.drift import FALSE_ALARMS, POINTS, Alarm, Reference, Window
from dms_spec.colours import BLUE, GREY, RED
from dms_spec.markup import escape, html_page, html_picture, html_table, percent
from dms_spec.pictures import page_style, svg

_LEGEND = (
    f"A healthy stream gives an alarm with a chance of {100 * FALSE_ALARMS:g} % or less, if its "
    "rows are independent of each other. Dashed: the reference. Red: windows with an alarm. "
    "p5 and p95 are the values below which 5 % and 95 % of the reference lie. Typicality is 0 "
    "where a modality looks as usual, and lower where it does not. Weights add up to 1 in each "
    "row, so where one modality loses weight, another gains it."
)


# A range of typicality, a logarithm of trust, that is drawn no larger.
_LEAST_RANGE = 0.1


@dataclass(frozen=True, kw_only=True)
class Watch:
    """Holds what a watch found.

    Attributes:
        reference: What is usual.
        windows: What was seen, in order.
        alarms: By window, those that gave some.
        notes: What was weaker than asked for, in words.
    """

    reference: Reference
    windows: Sequence[Window]
    alarms: Mapping[int, Sequence[Alarm]]
    notes: Sequence[str] = ()

    def summary(self) -> list[dict[str, Any]]:
        """Gives one entry for each modality and quantity that gave an alarm.

        The earliest comes first. Of the shares of a quantity it names the one with most evidence
        in that window.
        """
        found: dict[tuple[str, str], dict[str, Any]] = {}
        for number, alarms in self.alarms.items():
            window = self.windows[number]
            strongest: dict[tuple[str, str], Alarm] = {}
            for alarm in sorted(alarms, key=lambda alarm: alarm.evidence):
                strongest[alarm.found.modality, alarm.found.quantity] = alarm
            for key, alarm in sorted(strongest.items(), key=lambda item: -item[1].evidence):
                entry = found.setdefault(
                    key,
                    {
                        "modality": alarm.found.modality,
                        "what": alarm.found.what,
                        "first_row": window.start,
                        "first_time": None if window.time is None else str(window.time),
                        "windows": 0,
                        "share_there": alarm.found.share,
                        "share_in_reference": alarm.expected.share,
                    },
                )
                entry["windows"] += 1
        return list(found.values())


def html(watch: Watch) -> str:
    """Writes the page.

    Raises:
        BackendUnavailable: matplotlib is not installed.
    """
    rows = sum(window.rows for window in watch.windows)
    header = ("modality", "what", "since row", "windows", "share of rows", "in the reference")
    entries = [
        (
            entry["modality"],
            entry["what"],
            since(entry),
            str(entry["windows"]),
            percent(entry["share_there"]),
            percent(entry["share_in_reference"]),
        )
        for entry in watch.summary()
    ]
    body = [
        "<h1>Do the modalities take part as they did?</h1>",
        f"<p>{rows} rows in {len(watch.windows)} windows. {escape(verdict(watch))}</p>",
        html_table(header, entries) if entries else "",
        *(f"<p>{escape(note)}</p>" for note in watch.notes),
        f"<p>{_LEGEND}</p>",
    ]
    for m, name in enumerate(watch.reference.modalities):
        body += [f"<h2>{escape(name)}</h2>", html_picture(_picture(watch, m), f"{name} over time")]
    return html_page("dms watch", "\n".join(body))


def verdict(watch: Watch) -> str:
    """Says in one sentence how it ended."""
    if not watch.alarms:
        return "No alarm: every modality takes part as in the reference."
    return f"Alarms in {len(watch.alarms)} of {len(watch.windows)} windows."


def since(entry: Mapping[str, Any]) -> str:
    """Says when something began."""
    time = entry["first_time"]
    return f"{entry['first_row']}" + ("" if time is None else f", {time.removesuffix('.000000')}")


def _picture(watch: Watch, m: int) -> bytes:
    with page_style("a page", "dms-spec[plot]"):
        from matplotlib.figure import Figure

        figure = Figure(figsize=(9.6, 2.6), layout="constrained")
        panels = _panels(watch, m)
        for place, (title, lines, usual) in enumerate(panels, 1):
            axes = figure.add_subplot(1, len(panels), place)
            _draw(axes, watch, m, lines, usual)
            axes.set_title(title)
            if place <= 2:  # shares
                axes.set_ylim(-0.03, 1.03)
            elif np.ptp(axes.get_ylim()) < _LEAST_RANGE:  # typical throughout
                axes.set_ylim(-_LEAST_RANGE, _LEAST_RANGE / 10)
        return svg(figure)


Panel = tuple[str, NDArray[np.float64], NDArray[np.float64]]


def _panels(watch: Watch, m: int) -> list[Panel]:
    """Gives for each panel a title, lines ``[windows, K]``, and what is usual of them ``[K]``."""
    usual = watch.reference.usual
    found: list[Panel] = [
        ("share active", np.array([[w.active[m]] for w in watch.windows]), usual.active[m : m + 1]),
        ("mean weight", np.array([[w.weight[m]] for w in watch.windows]), usual.weight[m : m + 1]),
    ]
    if usual.typicality is not None:
        lines = np.array([w.typicality[m] for w in watch.windows if w.typicality is not None])
        found.append((f"typicality: {', '.join(POINTS)}", lines, usual.typicality[m]))
    return found


def _draw(axes: Any, watch: Watch, m: int, lines: Any, usual: Any) -> None:
    label, places = _places(watch)
    name = watch.reference.modalities[m]
    for number, alarms in watch.alarms.items():
        if any(alarm.found.modality == name for alarm in alarms):
            axes.axvspan(places[number], places[number + 1], color=RED, alpha=0.12, lw=0)
    for k, value in enumerate(usual):
        axes.axhline(value, color=GREY, linewidth=1, linestyle="--")
        axes.plot(places[:-1], lines[:, k], color=BLUE, linewidth=1.5, marker=".", markersize=3)
    axes.set_xlabel(label)
    if label == "time":
        import matplotlib.dates

        dates: Any = matplotlib.dates  # has no types
        few = dates.AutoDateLocator(minticks=2, maxticks=5)
        axes.xaxis.set_major_locator(few)
        axes.xaxis.set_major_formatter(dates.ConciseDateFormatter(few))


def _places(watch: Watch) -> tuple[str, list[Any]]:
    """Says where each window begins and the last one ends: by times, where they rise, or rows."""
    windows = watch.windows
    times = np.array([window.time for window in windows])
    if times.dtype.kind == "M" and len(times) > 1 and (np.diff(times) > np.timedelta64(0)).all():
        return "time", [*times, times[-1] + (times[-1] - times[-2])]
    return "row", [*(window.start for window in windows), windows[-1].start + windows[-1].rows]
