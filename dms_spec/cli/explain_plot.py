"""Draws the picture of ``dms explain``: what each term contributed, and the resulting weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dms_spec.colours import BLUE, CARD, GREEN, GREY, MAGENTA, OLIVE, RED, TEAL, VIOLET
from dms_spec.errors import BackendUnavailable, FileError, install_hint
from dms_spec.markup import shown
from dms_spec.outputs import Target, writing_file

# What one knows a picture by.
_MARK = b"dms explain"

_COLOURS = (BLUE, RED, GREEN, MAGENTA, OLIVE, TEAL, VIOLET)


def draw(path: Path, explained: list[dict[str, Any]]) -> None:
    """Draws one row of two panels for each sample, and writes the file.

    Raises:
        BackendUnavailable: matplotlib is not installed.
        FileError: The file cannot be written.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise BackendUnavailable(
            "a picture needs matplotlib", fix=install_hint("dms-spec[plot]")
        ) from error
    origin = {"Software" if path.suffix == ".png" else "Creator": _MARK.decode()}
    # A dollar sign in a name is a dollar sign.
    with matplotlib.rc_context({"text.parse_math": False}), writing_file(path, _MARK) as temporary:
        _figure(explained).savefig(
            temporary, format=path.suffix[1:], dpi=150, facecolor=CARD, metadata=origin
        )


def _figure(explained: list[dict[str, Any]]) -> Any:
    from matplotlib.figure import Figure

    terms = list(
        dict.fromkeys(t for s in explained for m in s["modalities"] for t in m.get("terms", {}))
    )
    colours = {term: _COLOURS[i % len(_COLOURS)] for i, term in enumerate(terms)}
    most = max(len(sample["modalities"]) for sample in explained)
    figure = Figure(figsize=(9, 1.3 + len(explained) * (0.9 + 0.38 * most)), layout="constrained")
    panels = figure.subplots(len(explained), 2, squeeze=False, width_ratios=(1.7, 1), sharex="col")
    for (left, right), sample in zip(panels, explained, strict=True):
        entries = sample["modalities"]
        for row, entry in enumerate(entries):
            _bars(left, row, entry, colours)
            right.barh(row, entry["weight"], color=GREY, height=0.6)
            right.text(
                entry["weight"] + 0.015,
                row,
                f"{entry['weight']:.2f}",
                va="center",
                fontsize=9,
                bbox={"color": CARD, "pad": 1},
            )
        for axes in (left, right):
            axes.set_yticks(range(len(entries)), [shown(entry["name"], 40) for entry in entries])
            axes.set_ylim(len(entries) - 0.4, -0.6)
            axes.spines[["top", "right"]].set_visible(False)
        right.set_yticklabels([])
        left.axvline(0, color="black", linewidth=0.8)
        left.set_title(f"sample {sample['sample']}: terms of the score", fontsize=10, loc="left")
        right.set_title("weight", fontsize=10, loc="left")
        right.set_xlim(0, 1.12)
        right.set_xticks([0, 0.5, 1])
        if sample["active"] > 1:
            share = sample["equal_share"]
            right.axvline(share, color="black", linewidth=0.8, linestyle=":")
            right.text(
                share, len(entries) - 0.42, " equal share", fontsize=8, va="bottom", color="black"
            )
    handles: list[Any] = [
        figure.axes[0].barh(0, 0, color=colours[term], label=shown(term, 40)) for term in terms
    ]
    handles.append(
        figure.axes[0].plot([], [], "D", color="black", markersize=5, label="score (their sum)")[0]
    )
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    return figure


def check_plot(path: Path) -> None:
    """Refuses a picture that `draw` could not write, before the work is done.

    Raises:
        FileError: Its format is unknown, something else is there, or the folder cannot be
            written to.
    """
    if path.suffix not in (".png", ".svg", ".pdf"):
        raise FileError(
            f"the format of {path} is unknown",
            expected=".png, .svg or .pdf",
            got=path.suffix or "no suffix",
        )
    Target.of_file(path, _MARK)


def _bars(axes: Any, row: int, entry: dict[str, Any], colours: dict[str, str]) -> None:
    """Stacks a modality's terms, those above zero to the right, those below to the left."""
    if entry["state"] != "active":
        axes.text(0, row, f"  {entry['state']}", va="center", fontsize=9, style="italic")
        return
    ends = {True: 0.0, False: 0.0}
    for term, value in entry["terms"].items():
        axes.barh(row, value, left=ends[value > 0], color=colours[term], height=0.6)
        ends[value > 0] += value
    axes.plot(entry["score"], row, "D", color="black", markersize=5)
