"""Says what the numbers say: sentences and tables, each computed from the result."""

from __future__ import annotations

from collections.abc import Callable

from dms_spec.markup import percent
from dms_spec.robustness.conditions import label, shown, swept
from dms_spec.robustness.methods import ORACLE, STATIC
from dms_spec.robustness.result import Result

#: Standard errors beyond which a difference counts.
CLEAR = 3


def findings(result: Result) -> list[str]:
    """Says what the numbers say, in plain sentences."""
    parts = (_against_static, _room, _weights, _covariance, _calibration, _sensors)
    said = [part(result, method) for method in result.methods for part in parts]
    return [text for text in (*said, _alone(result)) if text]


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


def _alone(result: Result) -> str:
    """What ``dms fit`` calls a modality alone, where some samples lack it."""
    parts = []
    for name in [f"{modality} alone" for modality in result.modalities]:
        if name not in result.names:
            continue
        own = result.mean("accuracy_where_present", name, "clean")
        count = result.mean("samples_where_present", name, "clean")
        if own is None or count is None or count == result.samples:
            continue
        everywhere = percent(result.mean("accuracy", name, "clean"))
        parts.append(
            f"{name} is right in {percent(own)} of the {count:.0f} samples that have it, and in "
            f"{everywhere} of all {result.samples}"
        )
    if not parts:
        return ""
    return (
        f"On clean samples, {'; '.join(parts)}: where a modality is missing it answers here with "
        "the commonest class. dms fit measures the first number."
    )


def _room(result: Result, method: str) -> str:
    """Says how far a method is below the better of static and mask oracle."""
    gaps = {}
    for condition in swept(result):
        gains = [result.gain(method, over, condition) for over in ("static", "mask oracle")]
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
        "conditions in which it was not told."
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
            beside = f" (static: {percent(static['average'])})" if static else ""
            parts.append(f"{percent(own['average'])} when {words}{beside}")
    if not parts:
        return ""
    text = f"{method} with modalities missing, mean over all sets: {', '.join(parts)}."
    rate = data.get("counter_intuitive_rate", {}).get(method, {}).get("all")
    if rate is not None:
        text += (
            f" In {percent(rate)} of the nested pairs of sets a sample is right with less and "
            "wrong with more."
        )
    return text


def about(result: Result) -> str:
    """Says what was measured and how, in a paragraph."""
    seeds = len(result.seeds)
    names = f"{len(result.modalities)} modalities ({', '.join(result.modalities)})"
    several = "s" if seeds > 1 else ""
    parts = [f"{result.samples} samples, {names}, {seeds} seed{several} of corruption."]
    if any(condition[2] == "half" for condition in result.conditions):
        parts.append(
            "A corruption hits half of the modalities that it applies to (at least one), drawn for "
            "each sample, unless it says otherwise."
        )
    kinds = {result.corruptions[name]["kind"] for name, _, _ in swept(result)}
    if "features" in kinds:
        parts.append("Features are scaled to [0, 1] by their training range, and not clipped.")
    told = [name for name, c in result.corruptions.items() if c["told"]]
    if told:
        parts.append(
            f"The methods are told what is missing in {', '.join(told)}, and nothing else."
        )
    else:
        parts.append("The methods are told nothing.")
    parts.append("The same noise is used at every severity.")
    return " ".join(parts)


LEGEND = {
    STATIC: "the mean of the single modalities' probabilities, from the same heads; the same "
    "as static in dms fit, where an artifact fuses probabilities",
    ORACLE: "the mean over the modalities that were not corrupted, which no real method knows; "
    "under weak corruption static can be above it, because a corrupted modality still helps",
    "alone": "the modality that does best alone on clean samples; where it is missing it answers "
    "with the commonest class, while dms fit measures it where it is present",
    "retention": "accuracy / clean accuracy; degradation is the same in percent, less 100",
    "balanced accuracy": "the mean over the classes of the share that is found, as dms fit says it",
    "log-loss": "the mean negative log-likelihood of the labels, in nats, as dms fit says it",
    "ECE": "expected calibration error, 15 bins",
    "AURC": "area under risk-coverage: the mean share of errors among the most confident samples",
    "covariance": "of a modality's weight and its own loss, summed over the modalities: below 0 "
    "the weights help (Zhang et al. 2023)",
    "weight on hit / clean": "mean weight of a corrupted modality, and of one that is not",
}


# ----------------------------------------------------------------------------------- the tables


def accuracy_table(result: Result) -> tuple[list[str], list[list[str]]]:
    """Gives header and rows: accuracy in percent of what is `shown`, and the gain over static."""
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
    """Computes header and rows: everything else that is measured of one method."""
    columns: dict[str, tuple[str, Callable[[float | None], str]]] = {
        "retention": ("retention", percent),
        "degradation": ("degradation", lambda v: "-" if v is None else f"{v:+.1f} %"),
        "balanced accuracy": ("balanced_accuracy", percent),
        "log-loss": ("nll", _digits),
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
    """Gives header and rows of the sensor-failure protocol. No rows if it was not measured."""
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


def _digits(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
