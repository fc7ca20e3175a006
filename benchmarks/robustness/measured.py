"""What was measured, read back: means over seeds, comparisons, and the peers that are quoted."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from protocol import CONDITIONS, OTHERS

HERE = Path(__file__).resolve().parent

#: What is called how, in the order of the tables. Over the heads of ``robust``:
SAME_HEADS = {
    "robust": "**robust** (`dms fit`)",
    "static": "static, probabilities",
    "static_logit": "static, logits",
    "entropy": "entropy weights, probabilities",
    "entropy_logit": "entropy weights, logits (MLA)",
    "dms_rule": "DMS rule, variance averaged",
    "dms_rule_sum": "DMS rule, variance summed",
    "qmf": "QMF weights",
    "tmc": "TMC weights",
    "dempster_shafer": "TMC (Dempster-Shafer)",
}
REGRESSIONS = {
    "averaged": "averaged logistic regressions",
    "concatenation": "concatenation, logistic regression",
}
OWN_HEADS = {
    "learned_dms": "DMS, learned",
    "dms_paper": "DMS, features (`paper`)",
    "co_attention": "co-attention",
    "modality_dropout": "modality dropout",
    "dmome": "SimMLM (DMoME)",
    "ma_afs": "MA-AFS (experimental)",
}
METHODS = SAME_HEADS | REGRESSIONS | OWN_HEADS
ORACLE = "mask oracle"
#: What robust has to hold its own against: all that was measured, but itself.
RIVALS = tuple(name for name in METHODS if name != "robust")


@dataclass(frozen=True)
class Pair:
    """Robust less a rival on the same trials, in points of accuracy, and the standard error."""

    rival: str
    seeds: int
    difference: float
    error: float

    @property
    def highest(self) -> float:
        """What the difference may be, two standard errors up."""
        return self.difference + 2 * self.error

    def __str__(self) -> str:
        name = METHODS[self.rival] + (", one seed" if self.seeds == 1 else "")
        return f"{self.difference:+.1f} ± {self.error:.1f} ({name})"


class Numbers:
    """What was measured, in a folder."""

    def __init__(self, folder: Path) -> None:
        self.about: dict[str, Any] = json.loads((folder / "environment.json").read_text())
        self.sets: list[str] = list(self.about["tables"])
        self._values: dict[tuple[str, str, str, str], dict[int, float]] = {}
        for row in _read(folder / "robustness.csv"):
            key = (row["set"], row["method"], row["condition"], row["metric"])
            self._values.setdefault(key, {})[int(row["seed"])] = float(row["value"])
        self._pairs: dict[tuple[str, str], list[Pair]] = {}
        for row in _read(folder / "pairs.csv"):
            numbers = float(row["difference"]), float(row["error"])
            pair = Pair(row["rival"], int(row["seeds"]), *numbers)
            self._pairs.setdefault((row["set"], row["condition"]), []).append(pair)
        self.quoted: dict[str, Any] = json.loads((HERE / "peers.json").read_text())

    def seeds(self, name: str, method: str, condition: str = "clean") -> int:
        """With how many seeds a method was measured."""
        return len(self._values.get((name, method, condition, "accuracy"), {}))

    def mean(
        self, name: str, method: str, condition: str, metric: str = "accuracy", most: int = 99
    ) -> float:
        """The mean over the seeds, at most so many of the first; NaN if there is nothing."""
        values = self._values.get((name, method, condition, metric), {})
        own = [value for seed, value in values.items() if seed < most]
        return float(np.mean(own)) if own else float("nan")

    def all(self, name: str, method: str, metric: str) -> list[float]:
        """Over all conditions and seeds."""
        return [
            value
            for key, values in self._values.items()
            if key[:2] == (name, method) and key[3] == metric
            for value in values.values()
        ]

    def conditions(self, name: str) -> list[str]:
        """In which a set was measured with nobody told, skewed versions last."""
        own = [c for _name, c in self._pairs if _name == name]
        skewed = sorted((c for c in own if c.startswith("half of")), key=_share, reverse=True)
        return [*CONDITIONS, *OTHERS, *skewed]

    def pairs(self, name: str, condition: str) -> list[Pair]:
        """Robust less every rival."""
        order = {rival: i for i, rival in enumerate(RIVALS)}
        found = [pair for pair in self._pairs[name, condition] if pair.rival in order]
        return sorted(found, key=lambda pair: order[pair.rival])

    def pair(self, name: str, condition: str, rival: str) -> Pair:
        """Robust less one of all methods."""
        (found,) = (p for p in self._pairs[name, condition] if p.rival == rival)
        return found

    def alone(self, name: str) -> list[str]:
        """The conditions in which one modality is corrupted in every row."""
        kinds = ("sigma 1", "zeroed")
        return [f"{kind} on {m}" for m in self.modalities(name) for kind in kinds]

    def modalities(self, name: str) -> tuple[str, ...]:
        """Of a set."""
        return tuple(self.about["tables"][name]["modalities"])

    def peers(self, name: str) -> dict[str, dict[str, float]]:
        """What was measured elsewhere on a set of that name."""
        return {f"{title} †": row for title, row in self.quoted["sets"].get(name, {}).items()}


def _read(path: Path) -> Iterator[dict[str, str]]:
    with path.open(newline="") as file:
        yield from csv.DictReader(file)


def _share(condition: str) -> float:
    return float(condition.split()[-2])
