"""The paper's tables from what was measured: nothing is computed anywhere else."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scenes import CONDITIONS, NOISE

from dms_spec.markup import markdown_table
from dms_spec.robustness import metrics

Lines = list[str]

#: What is called how, in the order of the tables.
METHODS = {
    "static": "static",
    "co_attention": "co-attention",
    "modality_dropout": "modality dropout",
    "dms": "DMS as published",
    "robust": "**DMS with typicality** (`robust`)",
    "calibrate": "`calibrate`, no labels",
    "oracle": "oracle",
}
BASELINES = ("static", "co_attention", "modality_dropout", "dms")
TASKS = ("VQA", "BLEU-4", "whole captions", "R@1", "R@5")
#: Columns that count as noisy, and so have to be held.
NOISY = tuple(name for name in CONDITIONS if name != "clean")

#: The DMS paper (arXiv 2506.12724), its Tables 1 and 2: VQA v2, MSCOCO, Flickr30K with BLIP-2.
PAPER_CLEAN = {
    "static": (72.1, 110.4, 37.8, 27.2, 58.4, 83.3),
    "co_attention": (73.3, 112.5, 38.2, 27.6, 59.7, 84.5),
    "modality_dropout": (73.5, 113.0, 38.1, 27.3, 60.2, 84.9),
    "dms": (74.4, 116.1, 39.0, 28.0, 61.5, 86.1),
}
PAPER_NOISE = {
    "static": {"image noise": 56.7, "text noise": 59.1},
    "co_attention": {"image noise": 60.2, "text noise": 62.3},
    "dms": {"image noise": 65.9, "text noise": 67.4},
}
#: Its Table 3: VQA and R@1.
PAPER_LESS = {
    "dms": (74.4, 61.5),
    "dms, no confidence": (73.2, 60.2),
    "dms, no uncertainty": (73.6, 59.9),
    "dms, no alignment": (72.5, 57.7),
}


@dataclass(frozen=True)
class Value:
    """A mean over seeds and its standard error; NaN where there is nothing, or one seed."""

    mean: float
    error: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Value:
        """Of one value for each seed."""
        if not len(values):
            return cls(float("nan"), float("nan"))
        many = len(values) > 1
        error = np.std(values, ddof=1) / np.sqrt(len(values)) if many else float("nan")
        return cls(float(np.mean(values)), float(error))

    def __str__(self) -> str:
        if np.isnan(self.mean):
            return "-"
        return f"{self.mean:.1f}" + ("" if np.isnan(self.error) else f" ± {self.error:.1f}")

    @property
    def signed(self) -> str:
        """With its sign."""
        return ("+" if self.mean >= 0 else "") + str(self)


class Numbers:
    """What was measured, in a folder."""

    def __init__(self, folder: Path) -> None:
        self.about: dict[str, Any] = json.loads((folder / "environment.json").read_text())
        self._values: dict[tuple[str, str, str, str], dict[int, float]] = {}
        with (folder / "mini.csv").open(newline="") as file:
            for row in csv.DictReader(file):
                key = (row["backbone"], row["method"], row["condition"], row["metric"])
                self._values.setdefault(key, {})[int(row["seed"])] = float(row["value"])
        self.backbones: list[str] = list(dict.fromkeys(key[0] for key in self._values))

    def seeds(self, backbone: str) -> int:
        """How many were measured."""
        return len(self.about["seeds"][backbone])

    def each(self, backbone: str, method: str, condition: str, metric: str) -> dict[int, float]:
        """By seed; "image noise" and "text noise" are means over their conditions."""
        if condition in NOISE:
            parts = [self.each(backbone, method, one, metric) for one in NOISE[condition]]
            return {seed: float(np.mean([part[seed] for part in parts])) for seed in parts[0]}
        return self._values.get((backbone, method, condition, metric), {})

    def value(self, backbone: str, method: str, condition: str, metric: str) -> Value:
        """The mean over seeds."""
        return Value.of(list(self.each(backbone, method, condition, metric).values()))

    def paired(self, backbone: str, own: str, other: str, condition: str, metric: str) -> Value:
        """One method less another, seed by seed."""
        a, b = (self.each(backbone, name, condition, metric) for name in (own, other))
        return Value.of([a[seed] - b[seed] for seed in a if seed in b])

    def kept(self, backbone: str, method: str, condition: str, metric: str) -> Value:
        """The retention of each seed, in %."""
        clean, noisy = (self.each(backbone, method, name, metric) for name in ("clean", condition))
        shares = [metrics.retention(clean[seed], noisy[seed]) for seed in clean]
        return Value.of([100 * share for share in shares if share is not None])

    def closed(self, backbone: str, method: str, condition: str, metric: str) -> float:
        """How much of the gap from static to the oracle a method closes, in %."""
        low, own, high = (
            self.value(backbone, name, condition, metric).mean
            for name in ("static", method, "oracle")
        )
        return 100 * (own - low) / (high - low) if high > low else float("nan")


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> Lines:
    """A table, and an empty line on either side."""
    return ["", markdown_table(header, rows), ""]


def clean(numbers: Numbers, backbone: str) -> Lines:
    """Table 1: all tasks on clean scenes, the paper's numbers beside."""
    rows = []
    for method, title in METHODS.items():
        own = [str(numbers.value(backbone, method, "clean", task)) for task in TASKS]
        vqa, _, bleu, _, first, fifth = PAPER_CLEAN.get(method, (None,) * 6)
        theirs = [f"*{x}*" if x else "" for x in (vqa, bleu, first, fifth)]
        rows.append([title, *own, *theirs])
    paper = [f"*paper: {task}*" for task in ("VQA", "BLEU-4", "R@1", "R@5")]
    return table(["clean", *TASKS, *paper], rows)


def noisy(numbers: Numbers, backbone: str) -> Lines:
    """Table 2: VQA under the paper's two kinds of noise, with degradation and retention."""
    rows = []
    for method, title in METHODS.items():
        row = [title, str(numbers.value(backbone, method, "clean", "VQA"))]
        for kind in NOISE:
            kept = numbers.kept(backbone, method, kind, "VQA")
            row += [
                str(numbers.value(backbone, method, kind, "VQA")),
                f"{kept.mean - 100:+.1f}",
                str(kept),
            ]
            theirs = PAPER_NOISE.get(method, {}).get(kind)
            lost = metrics.degradation(PAPER_CLEAN[method][0], theirs) if theirs else None
            row.append(f"*{theirs} ({lost:+.1f})*" if lost is not None else "")
        rows.append(row)
    parts = ("", ": degradation", ": retention")
    heads = [h for kind in NOISE for h in (*(kind + part for part in parts), "*paper*")]
    return table(["VQA", "clean", *heads], rows)


def everywhere(numbers: Numbers, backbone: str, metric: str) -> Lines:
    """One metric, all methods, all conditions."""
    rows = [
        [title, *(str(numbers.value(backbone, method, c, metric)) for c in CONDITIONS)]
        for method, title in METHODS.items()
    ]
    return table([metric, *CONDITIONS], rows)


def ablation(numbers: Numbers, backbone: str) -> Lines:
    """Table 3: DMS without one of its signals; and what else was left out."""
    titles = {
        "dms": "DMS as published",
        "dms, no confidence": "without confidence (alpha = 0)",
        "dms, no uncertainty": "without uncertainty (beta = 0)",
        "dms, no alignment": "without alignment (gamma = 0)",
        "dms, attention": "weights on attention, not on tokens",
        "robust": "`robust`",
        "calibrate": "`robust`, nothing learned (`calibrate`)",
        "static": "`robust`, without typicality (static)",
    }
    columns = [(c, m) for m in ("VQA", "R@1") for c in ("clean", *NOISE)]
    rows = []
    for method, title in titles.items():
        own = [str(numbers.value(backbone, method, c, m)) for c, m in columns]
        theirs = PAPER_LESS.get(method)
        rows.append([title, *own, f"*{theirs[0]} / {theirs[1]}*" if theirs else ""])
    return table(["", *(f"{m}, {c}" for c, m in columns), "*paper: VQA / R@1, clean*"], rows)


def trusted(numbers: Numbers, backbone: str) -> Lines:
    """The mean weight of the image in questions."""
    names = ("co_attention", "dms", "robust", "calibrate", "oracle")
    rows = []
    for method in names:
        values = (numbers.value(backbone, method, c, "image weight").mean for c in CONDITIONS)
        rows.append([METHODS[method], *(f"{value:.2f}" for value in values)])
    return table(["weight of the image", *CONDITIONS], rows)


def missed(numbers: Numbers, backbone: str) -> list[list[str]]:
    """Where `robust` is below a baseline by more than the error of the difference; the worst one.

    Rows of task, condition, the mean of both, and the paired difference.
    """
    rows = []
    for task in tasks(numbers, backbone):
        for condition in NOISY:
            gaps = {m: numbers.paired(backbone, "robust", m, condition, task) for m in BASELINES}
            below = {
                m: gap for m, gap in gaps.items() if gap.mean < 0 and not gap.mean >= -gap.error
            }
            if below:
                worst = min(below, key=lambda name: below[name].mean)
                both = (numbers.value(backbone, m, condition, task).mean for m in ("robust", worst))
                own, theirs = (f"{value:.1f}" for value in both)
                told = f"{below[worst].signed} ({METHODS[worst]})"
                rows.append([task, condition, own, theirs, told])
    return rows


def behind(numbers: Numbers, backbone: str) -> tuple[str, float]:
    """On clean scenes, the task in which `robust` is farthest behind the best baseline."""
    gaps = {}
    for task in tasks(numbers, backbone):
        own, *others = (
            numbers.value(backbone, m, "clean", task).mean for m in ("robust", *BASELINES)
        )
        gaps[task] = max(others) - own
    worst = max(gaps, key=lambda task: gaps[task])
    return worst, gaps[worst]


def tasks(numbers: Numbers, backbone: str) -> tuple[str, ...]:
    """What was measured of a backbone."""
    return tuple(task for task in TASKS if numbers.each(backbone, "static", "clean", task))


def gaps_closed(numbers: Numbers) -> Lines:
    """How much of the gap from static to the oracle is closed under image noise, by task."""
    rows = []
    for backbone in numbers.backbones:
        for method in ("calibrate", "robust"):
            shares = (numbers.closed(backbone, method, "image noise", task) for task in TASKS)
            told = ["-" if np.isnan(share) else f"{share:.0f} %" for share in shares]
            rows.append([f"{METHODS[method]}, {backbone}", *told])
    return table(["of the gap under image noise", *TASKS], rows)
