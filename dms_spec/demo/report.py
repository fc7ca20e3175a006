"""Writes the study in words and as plain data. Every claim is computed from its numbers."""

from __future__ import annotations

import sys
from dataclasses import asdict
from importlib.metadata import version
from math import sqrt
from textwrap import fill
from typing import Any

import numpy as np

from dms_spec.demo.data import CONDITIONS, DRAWN, DROPOUT, NAMES, PASSES
from dms_spec.demo.study import LEVELS, ORACLE, SPECS, SWEPT, Accuracy, Study
from dms_spec.demo.trust import DRAWS, NOISE
from dms_spec.markup import text_table

_CLEAN = CONDITIONS[0].name
_BASELINE = "static"
#: Standard errors beyond which a difference counts: five splits that share scans are few.
_CLEAR = 3


def percent(shares: list[float]) -> float:
    """Computes the mean over the splits, in %."""
    return 100 * float(np.mean(shares))


def gain(accuracy: Accuracy, method: str) -> tuple[float, float]:
    """Computes points of accuracy above static, and their standard error (paired)."""
    difference = 100 * (np.array(accuracy[method]) - np.array(accuracy[_BASELINE]))
    return float(difference.mean()), float(difference.std(ddof=1) / sqrt(len(difference)))


def best_view(study: Study) -> str:
    """Names the view that does best alone on clean test data, chosen in hindsight."""
    return max(NAMES, key=lambda name: percent(study.accuracy[_CLEAN][name]))


def results_table(study: Study) -> str:
    """Writes one row per condition: accuracy in % by method, gain, and weight on the degraded
    views.
    """
    rows = []
    for condition, accuracy in study.accuracy.items():
        mean, error = gain(accuracy, "robust")
        weight = np.mean(study.weight_on_degraded[condition])
        rows.append(
            [
                condition,
                *(f"{percent(accuracy[name]):.1f}" for name in (best_view(study), *SPECS, ORACLE)),
                f"{mean:+.1f} +/- {error:.1f}",
                "-" if condition == _CLEAN else f"{weight:.2f}",
            ]
        )
    header = ["condition", "single", *SPECS, ORACLE, "gain", "share"]
    return text_table(header, rows, right=range(1, len(header)))


def findings(study: Study) -> list[str]:
    """Says what the numbers say, in plain sentences."""
    final = study.sweep_accuracy[-1]
    weight = study.sweep_weights[:, :, NAMES.index(SWEPT)].mean(axis=1)
    gaps = {
        condition: percent(accuracy[ORACLE]) - max(percent(accuracy[name]) for name in SPECS)
        for condition, accuracy in study.accuracy.items()
    }
    widest = max(gaps, key=lambda condition: gaps[condition])
    return [
        *(_verdict(study, name) for name in SPECS if name != _BASELINE),
        (
            f"As noise on {SWEPT} alone grows to {LEVELS[-1]:g}, its mean weight under robust goes "
            f"from {weight[0]:.2f} to {weight[-1]:.2f} (equal shares: {1 / len(NAMES):.2f}); "
            f"accuracy there: robust {percent(final['robust']):.1f} %, static "
            f"{percent(final[_BASELINE]):.1f} %, static without {SWEPT} "
            f"{percent(final[ORACLE]):.1f} %."
        ),
        (
            f"Room left: at most {gaps[widest]:.1f} points between the mask oracle and the best of "
            f"{', '.join(SPECS)} (in {widest!r})."
        ),
    ]


def _verdict(study: Study, method: str) -> str:
    """Says where a method is better and worse than static, beyond the chance of the splits."""
    where: dict[str, list[str]] = {"better": [], "worse": [], "neither": []}
    for condition, accuracy in study.accuracy.items():
        mean, error = gain(accuracy, method)
        if abs(mean) <= _CLEAR * error:
            where["neither"].append(condition)
        else:
            where["better" if mean > 0 else "worse"].append(f"{condition} {mean:+.1f}")
    parts = [
        f"{word} in {', '.join(conditions)}" for word, conditions in where.items() if conditions
    ]
    return (
        f"{method} against {_BASELINE}, in points, beyond {_CLEAR} standard errors: "
        f"{'; '.join(parts)}."
    )


def as_text(study: Study, backend: str) -> str:
    """Writes what ``dms demo`` prints."""
    clean = study.accuracy[_CLEAN]
    alone = ", ".join(f"{name} {percent(clean[name]):.1f}" for name in NAMES)
    drawn, views = DRAWN, len(NAMES)
    scans = study.train + study.validation + study.test
    legend = {
        "single": f"{best_view(study)} alone; where it is missing it has no answer, and is wrong",
        "static": "the preset with equal weights; it and paper fuse probabilities",
        "paper": "the preset, on features that can be compared: the class scores",
        "robust": "the preset; typicality learned from uniform noise and exchanged inputs",
        ORACLE: "equal weights for the views that were not degraded, which no real method knows",
        "gain": "robust less static, with its standard error over the splits",
        "share": f"weight of the degraded views under robust; {drawn / views:.2f} if all equal",
        "noise s": "Gaussian, standard deviation s, on inputs whose training range is 1",
        "missing": "told: marked absent; untold: inputs 0, marked present; 0 supports no class",
    }
    return "\n".join(
        [
            (
                f"{scans} real scans of digits, each seen through {views} views; "
                "one classifier per view"
            ),
            (
                f"{len(clean[_BASELINE])} random splits: {study.train} scans to train on, "
                f"{study.validation} to validate with, {study.test} to test on"
            ),
            f"Each view alone on clean scans, in %: {alone}",
            "",
            (
                f"Accuracy in %, with {drawn} of the {views} views of every test scan degraded; "
                f"backend {backend}"
            ),
            "",
            results_table(study),
            "",
            *(_entry(name, text) for name, text in legend.items()),
            "",
            *findings(study),
        ]
    )


def _entry(name: str, text: str) -> str:
    """Writes a line or two of the legend, for a terminal of 80 columns."""
    return fill(text, 80, initial_indent=f"  {name:11} ", subsequent_indent=" " * 14)


def as_data(study: Study, backend: str, seed: int) -> dict[str, Any]:
    """Gives everything that was measured and how, as plain data; equal for equal seeds and
    versions.
    """
    means = study.sweep_weights.mean(axis=1)
    low, high = np.quantile(study.sweep_weights, (0.25, 0.75), axis=1)
    return {
        "settings": {
            "seed": seed,
            "backend": backend,
            "splits": len(study.accuracy[_CLEAN][_BASELINE]),
            "train": study.train,
            "validation": study.validation,
            "test": study.test,
            "views": list(NAMES),
            "views_degraded_per_sample": DRAWN,
            "passes": PASSES,
            "dropout": DROPOUT,
            "corruption_learned_from": {"draws": DRAWS, "uniform_noise": list(NOISE)},
            "specs": {name: spec.to_dict() for name, spec in SPECS.items()},
        },
        "versions": {
            "python": sys.version.split()[0],
            **{name: version(name) for name in ("dms-spec", "numpy", "scikit-learn")},
        },
        "accuracy": {
            condition: {
                method: {"mean": float(np.mean(shares)), "splits": shares}
                for method, shares in accuracy.items()
            }
            for condition, accuracy in study.accuracy.items()
        },
        "weight_on_degraded": study.weight_on_degraded,
        "sweep": {
            "degraded": SWEPT,
            "sigma": list(LEVELS),
            "accuracy": [
                {method: float(np.mean(shares)) for method, shares in level.items()}
                for level in study.sweep_accuracy
            ],
            "weights": {
                name: {
                    "mean": means[:, m].tolist(),
                    "lower_quartile": low[:, m].tolist(),
                    "upper_quartile": high[:, m].tolist(),
                }
                for m, name in enumerate(NAMES)
            },
        },
        "findings": findings(study),
        "example_samples": [asdict(sample) for sample in study.samples],
    }
