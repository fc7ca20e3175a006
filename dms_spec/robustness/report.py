"""A result in words and files. Every claim is computed from the numbers beside it."""

from __future__ import annotations

import base64
import csv
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from html import escape
from pathlib import Path

from dms_spec.errors import FileError
from dms_spec.files import replacing
from dms_spec.robustness.methods import ORACLE, STATIC
from dms_spec.robustness.patterns import SENSORS
from dms_spec.robustness.result import Result

#: The files of a report, and what is in each.
FILES = {
    "robustness.html": "the report, to read",
    "robustness.json": "every case, and what follows from them",
    "robustness.csv": "the same, one number in a row",
    "robustness.md": "a section for the artifact's card",
}

#: Standard errors beyond which a difference counts.
CLEAR = 3

Condition = tuple[str, float, str]

_BEGIN, _END = "<!-- dms robustness: begin -->", "<!-- dms robustness: end -->"


def write_report(
    result: Result, folder: Path | str, *, title: str = "", overwrite: bool = False
) -> None:
    """Write `FILES` into a folder, which is made if need be: all of them or none.

    Args:
        result: What was measured.
        folder: Where to.
        title: What was measured, in a few words.
        overwrite: Replace the files of a report that is there.

    Raises:
        FileError: A file is there already, or the folder cannot be written.
        BackendUnavailable: matplotlib is not installed.
    """
    from dms_spec.robustness.plots import plots

    folder = Path(folder)
    check_folder(folder, overwrite=overwrite)
    pictures = plots(result)
    data = result.to_dict() | {
        "title": title,
        "summary": result.summary(),
        "sensor_failure": result.sensor_failure(),
        "findings": findings(result),
    }
    with ExitStack() as stack:
        new = {name: stack.enter_context(replacing(folder / name)) for name in FILES}
        text = json.dumps(data, indent=1, allow_nan=False)
        new["robustness.json"].write_text(text + "\n", encoding="utf-8")
        new["robustness.html"].write_text(html(result, title, pictures), encoding="utf-8")
        new["robustness.md"].write_text(section(result), encoding="utf-8")
        with new["robustness.csv"].open("w", encoding="utf-8", newline="") as file:
            fields = ["corruption", "severity", "seed", "pattern", "method", "metric", "value"]
            writer = csv.DictWriter(file, fields)
            writer.writeheader()
            writer.writerows(result.rows())


def check_folder(folder: Path, *, overwrite: bool = False) -> None:
    """Make the folder and refuse what `write_report` would refuse: for asking before the work.

    Raises:
        FileError: A file of a report is there already, or the folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(
            f"cannot write into {folder}",
            expected="a folder, or a place where one can be made",
            got=f"{type(error).__name__}: {error.strerror or error}",
        ) from error
    there = [name for name in FILES if (folder / name).exists()]
    if there and not overwrite:
        raise FileError(
            f"{folder / there[0]} exists already",
            expected="a new folder",
            fix="Choose another, or replace the report: overwrite=True, or --overwrite.",
        )


# ------------------------------------------------------------------------------------ the words


def label(result: Result, condition: Condition) -> str:
    """A condition in a few words."""
    name, severity, pattern = condition
    text = f"{name} {severity:g}" if result.corruptions[name]["unit"] else name
    return text if pattern in ("half", "every") else f"{text} on {pattern}"


def swept(result: Result) -> list[Condition]:
    """The conditions that are not of the sensor-failure protocol, clean first."""
    return [condition for condition in result.conditions if condition[0] not in SENSORS]


def best_alone(result: Result) -> str | None:
    """The modality that does best alone on clean samples: chosen in hindsight, in its favour."""
    names = [f"{m} alone" for m in result.modalities if f"{m} alone" in result.names]
    return max(names, key=lambda n: result.mean("accuracy", n, "clean") or 0.0, default=None)


def shown(result: Result) -> list[str]:
    """Methods, the mean baselines, and the best single modality."""
    single = best_alone(result)
    names = [n for n in result.names if not n.endswith(" alone") and " alone of " not in n]
    return [*names, *([single] if single else [])]


def findings(result: Result) -> list[str]:
    """What the numbers say, in plain sentences."""
    parts = (_against_static, _room, _weights, _covariance, _calibration, _sensors)
    said = [part(result, method) for method in result.methods for part in parts]
    return [text for text in said if text]


def _against_static(result: Result, method: str) -> str:
    where: dict[str, list[str]] = {"better": [], "worse": []}
    neither = 0
    for condition in swept(result):
        gain = result.gain(method, "static", condition)
        if gain is None:
            continue
        if abs(gain[0]) <= CLEAR * gain[1]:
            neither += 1
        else:
            word = "better" if gain[0] > 0 else "worse"
            where[word].append(f"{label(result, condition)} ({100 * gain[0]:+.1f})")
    if not neither and not any(where.values()):
        return ""
    parts = [f"{word} in {', '.join(names)}" for word, names in where.items() if names]
    if neither:
        parts.append(f"no clear difference in {neither} of {len(swept(result))} conditions")
    return (
        f"{method} against the static mean of the same heads, in points of accuracy, beyond "
        f"{CLEAR} standard errors: {'; '.join(parts)}."
    )


def _room(result: Result, method: str) -> str:
    """How far below the better of static and oracle."""
    gaps = {}
    for condition in swept(result):
        gains = [result.gain(method, over, condition) for over in ("static", "oracle")]
        if known := [gain[0] for gain in gains if gain is not None]:
            gaps[condition] = min(known)
    if not gaps:
        return ""
    worst = min(gaps, key=lambda condition: gaps[condition])
    if gaps[worst] >= 0:
        return f"{method} is nowhere below the better of static and mask oracle."
    return (
        f"Room left for {method}: at most {-100 * gaps[worst]:.1f} points below the better of "
        f"static and mask oracle (in {label(result, worst)})."
    )


def _weights(result: Result, method: str) -> str:
    less, count = 0, 0
    for condition in swept(result)[1:]:
        if result.corruptions[condition[0]]["told"]:
            continue
        pair = [result.mean(f"weight_on_{k}", method, *condition) for k in ("hit", "clean")]
        if None not in pair:
            count += 1
            less += pair[0] < pair[1]  # type: ignore[operator]
    if not count:
        return ""
    return (
        f"{method} trusts what is corrupted less than what is clean in {less} of {count} "
        "conditions of which it was not told."
    )


def _covariance(result: Result, method: str) -> str:
    values = {
        condition: value
        for condition in swept(result)
        if (value := result.mean("weight_loss_covariance", method, *condition)) is not None
    }
    if not values:
        return ""
    bad = [label(result, condition) for condition, value in values.items() if value > 0]
    verdict = "in every condition" + (f" but {', '.join(bad)}" if bad else "")
    if len(bad) == len(values):
        verdict = "in no condition"
    return (
        f"The weights of {method} go down where a modality's own loss goes up (their covariance "
        f"is not above 0) {verdict}."
    )


def _calibration(result: Result, method: str) -> str:
    errors = {
        condition: value
        for condition in swept(result)
        if (value := result.mean("ece", method, *condition)) is not None
    }
    if len(errors) < 2:
        return ""
    worst = max(errors, key=lambda condition: errors[condition])
    first = next(iter(errors.values()))
    return (
        f"Calibration error of {method}: {first:.3f} on clean samples, at worst "
        f"{errors[worst]:.3f} (in {label(result, worst)})."
    )


def _sensors(result: Result, method: str) -> str:
    data = result.sensor_failure()
    parts = []
    for key, words in (("emm_told", "told"), ("emm_untold", "not told")):
        own = data.get(key, {}).get(method)
        static = data.get(key, {}).get(STATIC)
        if own:
            beside = f" (static: {_percent(static['average'])})" if static else ""
            parts.append(f"{_percent(own['average'])} when {words}{beside}")
    if not parts:
        return ""
    text = f"{method} with modalities missing, mean over all sets: {', '.join(parts)}."
    rate = data.get("counter_intuitive_rate", {}).get(method, {}).get("all")
    if rate is not None:
        text += (
            f" In {_percent(rate)} of the nested pairs of sets a sample is right with less and "
            "wrong with more."
        )
    return text


def about(result: Result) -> str:
    """What was measured and how, in a paragraph."""
    seeds = len(result.seeds)
    names = f"{len(result.modalities)} modalities ({', '.join(result.modalities)})"
    several = "s" if seeds > 1 else ""
    parts = [f"{result.samples} samples, {names}, {seeds} seed{several} of corruption."]
    if any(condition[2] == "half" for condition in result.conditions):
        parts.append(
            "Of the modalities that a corruption applies to, half (at least one), drawn for each "
            "sample, are hit, unless it says otherwise."
        )
    kinds = {result.corruptions[name]["kind"] for name, _, _ in swept(result)}
    if "features" in kinds:
        parts.append("Features are scaled to [0, 1] by their training range, and not clipped.")
    told = [name for name, c in result.corruptions.items() if c["told"]]
    if told:
        parts.append(
            f"The methods are told what is missing in {', '.join(told)}, and else nothing."
        )
    else:
        parts.append("The methods are told nothing.")
    parts.append("The same noise is used at every severity.")
    return " ".join(parts)


LEGEND = {
    STATIC: "the mean of the single modalities' probabilities, from the same heads",
    ORACLE: "mask oracle: the mean over the modalities that were not corrupted, as if one knew; "
    "under weak corruption static can be above it, for what is corrupted still helps",
    "alone": "the modality that does best alone on clean samples; where it is missing it answers "
    "with the commonest class",
    "retention": "accuracy / clean accuracy; degradation is the same in percent, less 100",
    "ECE": "expected calibration error, 15 bins",
    "AURC": "area under risk-coverage: the mean share of errors among the most confident samples",
    "covariance": "of a modality's weight and its own loss, summed over the modalities: below 0 "
    "the weights do good (Zhang et al. 2023)",
    "weight on hit / clean": "mean weight of a corrupted modality, and of one that is not",
}


# ----------------------------------------------------------------------------------- the tables


def accuracy_table(result: Result) -> tuple[list[str], list[list[str]]]:
    """Header and rows: accuracy in percent of what is `shown`, and the gain over static."""
    names = shown(result)
    gains = [m for m in result.methods if result.gain(m, "static", swept(result)[0])]
    header = ["accuracy in %", *names]
    header += ["gain" if len(result.methods) == 1 else f"gain of {m}" for m in gains]
    rows = []
    for condition in swept(result):
        cells = [_points(result.mean("accuracy", name, *condition)) for name in names]
        for method in gains:
            gain = result.gain(method, "static", condition)
            cells.append("-" if gain is None else f"{100 * gain[0]:+.1f} ± {100 * gain[1]:.1f}")
        rows.append([label(result, condition), *cells])
    return header, rows


def detail_table(result: Result, method: str) -> tuple[list[str], list[list[str]]]:
    """Header and rows: everything else that is measured of one method."""
    columns: dict[str, tuple[str, Callable[[float | None], str]]] = {
        "retention": ("retention", _percent),
        "degradation": ("degradation", lambda v: "-" if v is None else f"{v:+.1f} %"),
        "ECE": ("ece", _digits),
        "AURC": ("aurc", _digits),
        "covariance": ("weight_loss_covariance", _digits),
        "weight on hit": ("weight_on_hit", _digits),
        "weight on clean": ("weight_on_clean", _digits),
    }
    used = {
        title: (metric, draw)
        for title, (metric, draw) in columns.items()
        if any(metric in case.scores.get(method, {}) for case in result.cases)
    }
    rows = [
        [
            label(result, condition),
            *(draw(result.mean(metric, method, *condition)) for metric, draw in used.values()),
        ]
        for condition in swept(result)
    ]
    return [method, *used], rows


def sensor_table(result: Result) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the sensor-failure protocol; without rows if it was not measured."""
    data = result.sensor_failure()
    names = shown(result)
    rows = []
    for key, own in data.items():
        if key.startswith("nm"):
            rows.append([f"{key}", *(_points(own.get(name)) for name in names)])
        elif key == "counter_intuitive_rate":
            for kind in ("all", "adjacent"):
                cells = (_points(own[name][kind]) for name in names)
                rows.append([f"counter-intuitive rate, {kind} pairs", *cells])
        else:
            measures = [k for k in next(iter(own.values()), {}) if k != "by_count"]
            for measure in measures:
                cells = (_points(own[n][measure] if n in own else None) for n in names)
                rows.append([f"{key}, {measure}", *cells])
    return ["in %", *names], rows


def _points(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"


def _digits(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


# ------------------------------------------------------------------------------------- markdown


def section(result: Result) -> str:
    """A section for an artifact's card, in Markdown, between the markers of `put_in_card`."""
    lines = [_BEGIN, "## Robustness", "", about(result), "", *_markdown(*accuracy_table(result))]
    lines += ["", f"`{STATIC}`: {LEGEND[STATIC]}. `{ORACLE}`: {LEGEND[ORACLE]}.", ""]
    header, rows = sensor_table(result)
    if rows:
        lines += ["### Sensor failure", "", *_markdown(header, rows), ""]
    lines += [f"- {text}" for text in (*findings(result), *result.notes)]
    return "\n".join([*lines, "", "Measured by `dms robustness`.", _END, ""])


def put_in_card(card: Path, text: str) -> None:
    """Write a section into a card: in the place of an older one, else at the end.

    Raises:
        FileError: The card cannot be read or written.
    """
    try:
        old = card.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(f"cannot read {card}", got=str(error)) from error
    before, begin, rest = old.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if begin and not end:
        raise FileError(
            f"{card} has the beginning of a section, and not its end",
            expected=_END,
            fix="Remove what is left of the section.",
        )
    new = before + text.rstrip("\n") + after if begin else f"{old.rstrip()}\n\n{text}"
    with replacing(card) as temporary:
        temporary.write_text(new, encoding="utf-8")


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    safe = ([cell.replace("|", "\\|") for cell in line] for line in (header, *rows))
    first, *others = (f"| {' | '.join(line)} |" for line in safe)
    return [first, "|" + "---|" * len(header), *others]


# ----------------------------------------------------------------------------------------- html


def html(result: Result, title: str, pictures: dict[str, tuple[str, bytes]]) -> str:
    """One page with nothing outside it.

    Args:
        result: What was measured.
        title: In a few words.
        pictures: By heading, a caption and an SVG.
    """
    return _PAGE.format(
        title=escape(title or "Robustness"), body="\n".join(_body(result, title, pictures))
    )


def _body(result: Result, title: str, pictures: dict[str, tuple[str, bytes]]) -> Iterator[str]:
    yield f"<h1>{escape(title or 'Robustness')}</h1>"
    yield f"<p>{escape(about(result))}</p>"
    yield "<h2>What the numbers say</h2>"
    yield from _list(findings(result))
    if result.notes:
        yield "<h2>Notes</h2>"
        yield from _list(result.notes)
    yield "<h2>Accuracy</h2>"
    yield from _table(*accuracy_table(result))
    yield (
        f"<p>Gain: accuracy above static, in points, and its standard error over the samples. "
        f"It counts as clear beyond {CLEAR} of them.</p>"
    )
    for heading, (caption, svg) in pictures.items():
        data = base64.b64encode(svg).decode()
        yield f"<h2>{escape(heading)}</h2><p>{escape(caption)}</p>"
        yield f'<div><img alt="{escape(heading)}" src="data:image/svg+xml;base64,{data}"></div>'
    header, rows = sensor_table(result)
    if rows:
        yield "<h2>Sensor failure</h2>"
        yield (
            "<p>EMM: entire modalities missing; RMM: random features missing; NM: noise. Missing "
            "features are the training mean. Average: over all sets of damaged modalities but the "
            "set of all; expected p: each modality damaged with probability p (Liao et al. "
            "2025).</p>"
        )
        yield from _table(header, rows)
    yield "<h2>Everything else</h2>"
    for method in result.methods:
        yield from _table(*detail_table(result, method))
    yield "<h2>Words</h2>"
    yield from _list(f"{name}: {text}." for name, text in LEGEND.items())
    yield "<h2>Corruptions</h2>"
    yield from _list(
        f"{name}: {c['meaning']}" + (f" Severity: {c['unit']}." if c["unit"] else "")
        for name, c in result.corruptions.items()
    )
    others = {note: None for case in result.cases for note in case.notes}
    if others:
        yield "<h2>Notes on single cases</h2>"
        yield from _list(others)


def _list(items: object) -> Iterator[str]:
    yield "<ul>"
    for item in items:  # type: ignore[attr-defined]
        yield f"<li>{escape(item)}</li>"
    yield "</ul>"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield "<div><table><thead><tr>"
    yield "".join(f"<th>{escape(cell)}</th>" for cell in header)
    yield "</tr></thead><tbody>"
    for first, *rest in rows:
        cells = "".join(f"<td>{escape(cell)}</td>" for cell in rest)
        yield f"<tr><th>{escape(first)}</th>{cells}</tr>"
    yield "</tbody></table></div>"


_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; }}
body {{ padding: 0 1rem; }}
div {{ overflow-x: auto; margin: 1rem 0; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; }}
th, td {{ border-bottom: 1px solid #8884; padding: .2rem .7rem; text-align: right; }}
th:first-child {{ text-align: left; white-space: nowrap; }}
img {{ max-width: 100%; background: white; }}
</style>
{body}
</html>
"""
