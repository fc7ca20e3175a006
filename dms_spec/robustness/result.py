"""Holds what was measured, as plain data: every case, and what follows from several of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from math import sqrt
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from dms_spec._version import PACKAGE
from dms_spec.errors import ArtifactError, FileError, SpecError, unknown
from dms_spec.robustness.metrics import counter_intuitive_rate
from dms_spec.robustness.patterns import (
    MOST_MODALITIES,
    PROBABILITIES,
    average,
    damaged_sets,
    expected,
    named,
)
from dms_spec.texts import LARGEST_RESULT, read_json
from dms_spec.typed import read_typed

_FORMAT = "dms-spec robustness 1"

#: By method, a score of each metric; None where there is nothing to measure.
Scores = Mapping[str, dict[str, float | None]]


@dataclass(frozen=True, kw_only=True)
class _Reliability:
    """Describes the bars of a reliability diagram, a number for each bin."""

    share: tuple[float, ...]
    confidence: tuple[float | None, ...]
    accuracy: tuple[float | None, ...]


@dataclass(frozen=True, kw_only=True)
class _Curves:
    """Describes what `Measured.curves` holds of a method."""

    reliability: _Reliability
    risk_at_coverage: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class _Corruption:
    """Describes what `Result.corruptions` holds of a corruption."""

    meaning: str
    unit: str
    kind: str
    told: bool
    clean_at: float | None
    severities: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Holds what was measured of one case.

    Attributes:
        corruption: Its name; ``"clean"`` for none.
        severity: How strong it was.
        pattern: The name of what it hit.
        seed: Of everything random.
        hit: Share of the present modalities that was corrupted.
        scores: By method and baseline.
        curves: By method and mean baseline, ``reliability`` (see `metrics.reliability`) and
            ``risk_at_coverage`` .05, .10, ... 1, to five digits.
        right: By method and baseline, which samples were right, see `unpack`; only where the
            counter-intuitive rate needs it.
        heads: Of the clean case: by method, whose heads its baselines come from.
        notes: What is weaker than it looks, in words.
    """

    corruption: str
    severity: float
    pattern: str
    seed: int
    hit: float
    scores: Scores
    curves: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    right: Mapping[str, str] = field(default_factory=dict)
    heads: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Gives plain data for JSON."""
        return asdict(self) | {"notes": list(self.notes)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Reads what `to_dict` gave.

        Raises:
            FileError, UnknownName: It is something else.
        """
        found = read_typed(cls, data, "a case")
        for name, curves in found.curves.items():
            read_typed(_Curves, curves, f"the curves of {name}")
        return found


def pack(right: NDArray[np.bool_]) -> str:
    """Writes a mask as text, eight samples to two hexadecimal digits."""
    return np.packbits(right).tobytes().hex()


def unpack(text: str, samples: int) -> NDArray[np.bool_]:
    """Reads the mask again, ``[N]``."""
    bits = np.frombuffer(bytes.fromhex(text), dtype=np.uint8)
    return np.unpackbits(bits, count=samples).astype(bool)


@dataclass(frozen=True, kw_only=True)
class Result:
    """Holds everything that was measured, and answers questions about it.

    Attributes:
        modalities: Names, in the order of the M axis.
        methods: Names of the methods, without the baselines.
        samples: How many samples were measured on, in each case.
        corruptions: By name, ``meaning``, ``unit``, ``kind``, ``told``, ``clean_at`` and
            ``severities``.
        cases: In the order in which they were asked for, clean ones first.
        notes: What is weaker than it looks, in words.
        resumed: How many cases came out of the store of an interrupted run.

    Example:
        >>> from dms_spec import Predictor, get_backend, load_artifact, read_table
        >>> from dms_spec.robustness import Samples, measure, of_predictor, sweep
        >>> predictor = Predictor(load_artifact("model"), get_backend("numpy"))
        >>> samples = Samples.of_table(read_table("train.npz"), predictor.classes)
        >>> cases = sweep(["gaussian"], seeds=(0,))
        >>> result = measure({"mine": of_predictor(predictor)}, samples, cases)
        >>> result.methods, result.names[:2], result.samples
        (('mine',), ('mine', 'static'), 60)
    """

    modalities: tuple[str, ...]
    methods: tuple[str, ...]
    samples: int
    corruptions: Mapping[str, Mapping[str, Any]]
    cases: tuple[Measured, ...]
    notes: tuple[str, ...] = ()
    resumed: int = field(default=0, compare=False)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The methods and the baselines."""
        return tuple(dict.fromkeys(name for case in self.cases for name in case.scores))

    @property
    def seeds(self) -> tuple[int, ...]:
        """All seeds that occur."""
        return tuple(dict.fromkeys(case.seed for case in self.cases))

    @property
    def conditions(self) -> tuple[tuple[str, float, str], ...]:
        """Corruption, severity and pattern of the cases, whatever their seed; clean first."""
        return tuple(self._by_condition)

    @cached_property
    def _by_condition(self) -> dict[tuple[str, float, str], tuple[Measured, ...]]:
        """Groups cases by condition, since subsets make many of both."""
        found: dict[tuple[str, float, str], list[Measured]] = {}
        for case in self.cases:
            found.setdefault((case.corruption, case.severity, case.pattern), []).append(case)
        return {condition: tuple(cases) for condition, cases in found.items()}

    def select(
        self,
        corruption: str | None = None,
        severity: float | None = None,
        pattern: str | None = None,
    ) -> tuple[Measured, ...]:
        """Selects the cases that fit. None fits all."""
        if corruption is not None and severity is not None and pattern is not None:
            return self._by_condition.get((corruption, severity, pattern), ())
        return tuple(
            case
            for case in self.cases
            if corruption in (None, case.corruption)
            and severity in (None, case.severity)
            and pattern in (None, case.pattern)
        )

    def values(
        self,
        metric: str,
        method: str,
        corruption: str | None = None,
        severity: float | None = None,
        pattern: str | None = None,
    ) -> list[float]:
        """Lists a metric in all cases that fit and have it, one value for each seed.

        Raises:
            UnknownName: There is no such method.
        """
        if method not in self.names:
            raise unknown("method", method, self.names)
        found = (
            case.scores[method].get(metric)
            for case in self.select(corruption, severity, pattern)
            if method in case.scores
        )
        return [value for value in found if value is not None]

    def mean(
        self,
        metric: str,
        method: str,
        corruption: str | None = None,
        severity: float | None = None,
        pattern: str | None = None,
    ) -> float | None:
        """Computes the mean of `values`. None if there are none."""
        values = self.values(metric, method, corruption, severity, pattern)
        return sum(values) / len(values) if values else None

    def gain(
        self, method: str, over: Literal["static", "mask oracle"], condition: tuple[str, float, str]
    ) -> tuple[float, float] | None:
        """Computes accuracy above a baseline of the same heads, and its standard error.

        The error is that of a paired difference, from the choice of samples. Seeds corrupt the
        same samples anew, so more seeds do not make it smaller: it is that of one seed.

        Returns:
            None if the method has no such baseline.
        """
        values = self.values(f"gain_over_{over}", method, *condition)
        errors = self.values(f"gain_over_{over}_error", method, *condition)
        if not values:
            return None
        return sum(values) / len(values), sqrt(sum(e * e for e in errors) / len(errors))

    def rows(self) -> Iterator[dict[str, Any]]:
        """Gives the long form: one row for each case, method and metric."""
        for case in self.cases:
            where = {
                "corruption": case.corruption,
                "severity": case.severity,
                "seed": case.seed,
                "pattern": case.pattern,
            }
            for method, scores in case.scores.items():
                for metric, value in scores.items():
                    yield where | {"method": method, "metric": metric, "value": value}

    def summary(self) -> list[dict[str, Any]]:
        """Gives one row for each condition and method: the mean of each metric over the seeds.

        ``accuracy_deviation`` is the standard deviation over the seeds; None for a single one.
        """
        rows = []
        for condition in self.conditions:
            cases = self.select(*condition)
            for method in self.names:
                metrics = dict.fromkeys(m for c in cases for m in c.scores.get(method, ()))
                if not metrics:
                    continue
                accuracy = self.values("accuracy", method, *condition)
                rows.append(
                    dict(zip(("corruption", "severity", "pattern"), condition, strict=True))
                    | {"seeds": len(cases), "method": method}
                    | {metric: self.mean(metric, method, *condition) for metric in metrics}
                    | {
                        "accuracy_deviation": float(np.std(accuracy, ddof=1))
                        if len(accuracy) > 1
                        else None
                    }
                )
        return rows

    def sensor_failure(self) -> dict[str, Any]:
        """Scores the sensor-failure protocol where it was measured, and is empty otherwise.

        Returns:
            ``emm_told``, ``emm_untold`` and ``rmm <rate>`` by method: ``average``, ``expected
            <p>``, and ``by_count``, the mean accuracy by number of damaged modalities; ``nm
            <level>`` by method: the accuracy; ``counter_intuitive_rate`` by method: ``all`` and
            ``adjacent`` pairs, over what is available when the methods are told.
        """
        conditions = self.conditions
        several = [
            (name, severity, name if name.startswith("emm") else f"{name} {severity:g}")
            for name, severity, _ in conditions
            if name in ("emm_told", "emm_untold", "rmm")
        ]
        found: dict[str, Any] = {}
        for name, severity, title in dict.fromkeys(several):
            own = {method: self._damaged(method, name, severity) for method in self.names}
            found[title] = {m: self._summed(scores) for m, scores in own.items() if scores}
        for name, severity, pattern in conditions:
            if name == "nm":
                found[f"nm {severity:g}"] = {
                    method: self.mean("accuracy", method, name, severity, pattern)
                    for method in self.names
                }
        if "emm_told" in found:
            found["counter_intuitive_rate"] = {
                method: {kind: self.counter_intuitive(method, kind) for kind in ("all", "adjacent")}
                for method in self.names
            }
        return found

    def counter_intuitive(
        self, method: str, pairs: Literal["all", "adjacent"] = "all"
    ) -> float | None:
        """Computes `metrics.counter_intuitive_rate` over the told EMM cases. None without them."""
        rates = []
        everything = frozenset(self.modalities)
        for start in [c for c in self.cases if c.corruption == "clean" and method in c.right]:
            right = {everything: unpack(start.right[method], self.samples)}
            for damaged in self._sets():
                for case in self.select("emm_told", 1.0, named(damaged).name):
                    if case.seed == start.seed and method in case.right:
                        available = everything - set(damaged)
                        right[available] = unpack(case.right[method], self.samples)
            if (rate := counter_intuitive_rate(right, pairs)) is not None:
                rates.append(rate)
        return sum(rates) / len(rates) if rates else None

    def _sets(self) -> tuple[tuple[str, ...], ...]:
        if len(self.modalities) > MOST_MODALITIES:
            return ()
        return tuple(damaged for damaged in damaged_sets(self.modalities) if damaged)

    def _damaged(
        self, method: str, corruption: str, severity: float
    ) -> dict[frozenset[str], float]:
        """Finds accuracy by set of damaged modalities. Empty unless all of them were measured."""
        scores = {frozenset[str](): self.mean("accuracy", method, "clean")}
        for damaged in self._sets():
            pattern = named(damaged).name
            scores[frozenset(damaged)] = self.mean(
                "accuracy", method, corruption, severity, pattern
            )
        known = {damaged: score for damaged, score in scores.items() if score is not None}
        return known if len(known) == len(scores) else {}

    def _summed(self, scores: Mapping[frozenset[str], float]) -> dict[str, Any]:
        count = len(self.modalities)
        by_count = [
            [score for damaged, score in scores.items() if len(damaged) == size]
            for size in range(count)
        ]
        return {
            "average": average(scores, count),
            **{f"expected {p:g}": expected(scores, count, p) for p in PROBABILITIES},
            "by_count": [sum(part) / len(part) for part in by_count],
        }

    def to_dict(self) -> dict[str, Any]:
        """Gives plain data for JSON. `from_dict` turns it back into an equal result."""
        return {
            "format": _FORMAT,
            "package": PACKAGE,
            "modalities": list(self.modalities),
            "methods": list(self.methods),
            "samples": self.samples,
            "corruptions": {name: dict(c) for name, c in self.corruptions.items()},
            "notes": list(self.notes),
            "cases": [case.to_dict() for case in self.cases],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Reads what `to_dict` gave.

        Raises:
            ArtifactError: It is something else.
        """
        if not isinstance(data, Mapping):
            raise FileError("this is not a robustness result", expected="an object")
        if data.get("format") != _FORMAT:
            got = repr(data.get("format"))
            raise ArtifactError("this is not a robustness result", expected=repr(_FORMAT), got=got)
        file = read_typed(ResultFile, data, "the result")
        result = cls(
            modalities=file.modalities,
            methods=file.methods,
            samples=file.samples,
            corruptions=data["corruptions"],
            cases=tuple(Measured.from_dict(case) for case in file.cases),
            notes=file.notes,
        )
        result._check()
        return result

    def _check(self) -> None:
        """Refuses parts that do not fit each other.

        Raises:
            FileError: A case is of a corruption that is not described, or a mask is no mask of
                the samples.
        """
        size = 2 * ((self.samples + 7) // 8)
        for case in self.cases:
            if case.corruption not in self.corruptions:
                raise FileError(
                    "the result has a case of a corruption that it does not describe",
                    expected=" or ".join(self.corruptions),
                    got=case.corruption,
                )
            for mask in case.right.values():
                if len(mask) != size or not set(mask) <= set("0123456789abcdef"):
                    raise FileError(
                        "a mask of the result does not fit its samples",
                        expected=f"{size} hexadecimal digits",
                        got=f"{mask:.20}, {len(mask)} in all",
                    )


@dataclass(frozen=True, kw_only=True)
class ResultFile:
    """Describes the JSON file of a result: what `Result` holds, and what follows from it."""

    format: Literal["dms-spec robustness 1"]
    package: str
    modalities: tuple[str, ...]
    methods: tuple[str, ...]
    samples: int
    corruptions: Mapping[str, _Corruption]
    notes: tuple[str, ...]
    cases: tuple[Mapping[str, Any], ...]
    title: str = ""
    summary: tuple[Mapping[str, Any], ...] = ()
    sensor_failure: Mapping[str, Any] = field(default_factory=dict)
    findings: tuple[str, ...] = ()


def read_result(path: Path | str) -> Result:
    """Reads a result from the JSON that a report has beside it.

    Raises:
        FileError: The file cannot be read, or is damaged.
        UnknownName: It has a key that no result has.
        ArtifactError: It is something else.

    Example:
        >>> from dms_spec import Predictor, get_backend, load_artifact, read_table
        >>> from dms_spec.robustness import Samples, measure, of_predictor, read_result
        >>> from dms_spec.robustness import sweep, write_report
        >>> predictor = Predictor(load_artifact("model"), get_backend("numpy"))
        >>> samples = Samples.of_table(read_table("train.npz"), predictor.classes)
        >>> cases = sweep(["gaussian"], seeds=(0,))
        >>> result = measure({"mine": of_predictor(predictor)}, samples, cases)
        >>> write_report(result, "kept")
        >>> read_result("kept/robustness.json") == result
        True
    """
    return Result.from_dict(read_json(path, LARGEST_RESULT))


def merge(results: Iterable[Result]) -> Result:
    """Merges several results, such as those of several splits, each with seeds of its own.

    Raises:
        SpecError: They are of other modalities, methods or numbers of samples, or two have the
            same case.

    Example:
        >>> from dms_spec import Predictor, get_backend, load_artifact, read_table
        >>> from dms_spec.robustness import Samples, measure, merge, of_predictor, sweep
        >>> predictor = Predictor(load_artifact("model"), get_backend("numpy"))
        >>> samples = Samples.of_table(read_table("train.npz"), predictor.classes)
        >>> cases = sweep(["gaussian"], seeds=(0,))
        >>> result = measure({"mine": of_predictor(predictor)}, samples, cases)
        >>> other = sweep(["gaussian"], seeds=(1,))
        >>> again = measure({"mine": of_predictor(predictor)}, samples, other)
        >>> len(merge([result, again]).cases) == len(result.cases) + len(again.cases)
        True
    """
    parts = list(results)
    if not parts:
        raise SpecError("there is nothing to merge", expected="results")
    first = parts[0]
    for part in parts[1:]:
        for key in ("modalities", "methods", "samples"):
            if getattr(part, key) != getattr(first, key):
                raise SpecError(
                    f"results of different {key} are not one",
                    expected=str(getattr(first, key)),
                    got=str(getattr(part, key)),
                )
    cases = tuple(case for part in parts for case in part.cases)
    keys = {(c.corruption, c.severity, c.pattern, c.seed) for c in cases}
    if len(keys) < len(cases):
        raise SpecError("results to merge have the same cases", fix="Give each seeds of its own.")
    return replace(
        first,
        corruptions={k: v for part in parts for k, v in part.corruptions.items()},
        cases=cases,
        notes=tuple(dict.fromkeys(note for part in parts for note in part.notes)),
        resumed=sum(part.resumed for part in parts),
    )
