"""Measures: corrupts every case, asks every method, and scores the answers."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dms_spec._version import PACKAGE
from dms_spec.embeddings.metrics import measured
from dms_spec.errors import ShapeError, SpecError
from dms_spec.robustness import metrics
from dms_spec.robustness.corruptions.corruption import Scene
from dms_spec.robustness.methods import ORACLE, STATIC, Answer, Method, ask, baselines
from dms_spec.robustness.patterns import CLEAN, SENSORS, Case, clean
from dms_spec.robustness.result import Measured, Result, pack
from dms_spec.robustness.samples import BoolArray, FloatArray, Samples, stream
from dms_spec.robustness.store import Store


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Says where a run is: ``done`` of ``total`` cases, with ``case`` the one just finished."""

    done: int
    total: int
    case: Case


@dataclass(frozen=True, kw_only=True)
class Corrupted:
    """Holds the samples under one case.

    Attributes:
        inputs: By modality; what is not hit is bit for bit what it was.
        present: bool ``[N, M]``.
        hit: bool ``[N, M]``: what was corrupted.
        notes: What is weaker than it looks, in words.
    """

    inputs: Mapping[str, NDArray[Any]]
    present: BoolArray
    hit: BoolArray
    notes: tuple[str, ...] = ()


def measure(
    methods: Mapping[str, Method],
    samples: Samples,
    cases: Iterable[Case],
    *,
    store: Path | None = None,
    identity: str = "",
    report: Callable[[Progress], None] | None = None,
) -> Result:
    """Measures methods and their baselines, on clean and on corrupted samples.

    The clean case is added. Baselines (each modality alone, static, mask oracle) come from the
    first method that says what each modality alone would answer, under plain names; from another
    method, if its heads answer otherwise, under names such as ``"static of <method>"``.

    Args:
        methods: By name.
        samples: What to measure on.
        cases: From `sweep` and `sensor_failure`; may be none.
        store: A file to keep finished cases in, and to go on from if it is there. Remove it when
            the result is safe.
        identity: For the store: a text that changes when the methods do.
        report: Called after each case.

    Raises:
        SpecError: Two cases are the same, or a name of a method is that of a baseline.
        ShapeError, NonFiniteInput: A method answers with something else.
        ArtifactError, FileError: The store is of another run, or damaged.

    Example:
        >>> from dms_spec import Predictor, get_backend, load_artifact, read_table
        >>> from dms_spec.robustness import Samples, measure, of_predictor, sweep
        >>> predictor = Predictor(load_artifact("model"), get_backend("numpy"))
        >>> samples = Samples.of_table(read_table("train.npz"), predictor.classes)
        >>> cases = sweep(["gaussian"], seeds=(0,))
        >>> result = measure({"mine": of_predictor(predictor)}, samples, cases)
        >>> result.mean("accuracy", "mine", "clean") > 0.5
        True
    """
    plan = tuple(cases)
    plan = (clean(plan[0].seed if plan else 0), *(c for c in plan if c.corruption.name != "clean"))
    _check(methods, samples, plan)
    kept = Store(store, _fingerprint(methods, samples, plan, identity))
    run = _Run(methods, samples)
    measured = []
    for number, case in enumerate(plan, start=1):
        data = kept.get(case.key)
        if data is None:
            one = run.measure(case)
            kept.put(case.key, one.to_dict())
        else:
            one = run.remember(Measured.from_dict(data))
        measured.append(one)
        if report is not None:
            report(Progress(done=number, total=len(plan), case=case))
    corruptions = {case.corruption.name: case.corruption for case in plan}
    return Result(
        modalities=samples.modalities,
        methods=tuple(methods),
        samples=len(samples),
        corruptions={
            name: {
                "meaning": c.meaning,
                "unit": c.unit,
                "kind": c.kind,
                "told": c.told,
                "clean_at": c.clean_at if c.clean_at is None or abs(c.clean_at) < 1e300 else None,
                "severities": list(
                    dict.fromkeys(case.severity for case in plan if case.corruption.name == name)
                ),
            }
            for name, c in corruptions.items()
        },
        cases=tuple(measured),
        notes=samples.notes,
        resumed=kept.resumed,
    )


def corrupt(samples: Samples, case: Case) -> Corrupted:
    """Corrupts the samples by a case, and says where they were hit.

    Half precision that is hit becomes float32, so that strong noise does not overflow.

    Raises:
        SpecError: The corruption applies to none of the modalities, or to none of the pattern's.
        UnknownName: The pattern names another modality.

    Example:
        >>> import numpy as np
        >>> from dms_spec.robustness import Samples, corrupt, named, sweep
        >>> inputs = {"image": np.ones((2, 3)), "text": np.ones((2, 3))}
        >>> samples = Samples.of(inputs, np.array([0, 1]), training=inputs)
        >>> (case,) = sweep(["zeroed"], patterns=(named(["image"]),), seeds=(0,))
        >>> corrupt(samples, case).hit
        array([[ True, False],
               [ True, False]])
    """
    what, names = case.corruption, samples.modalities
    fits = np.array([what.kind in ("any", samples.kinds[name]) for name in names])
    if not fits.any():
        raise SpecError(
            f"corruption {what.name!r} applies to no modality",
            expected=f"a modality of kind {what.kind!r}",
            got=", ".join(f"{name}: {kind}" for name, kind in samples.kinds.items()),
        )
    hit = case.pattern.hits(names, fits, len(samples), case.seed) & samples.present
    if case.severity == what.clean_at:
        nothing = np.zeros_like(hit)
        return Corrupted(inputs=dict(samples.inputs), present=samples.present, hit=nothing)
    asked = hit
    if what.narrowing is not None:
        hit = what.narrowing(hit, case.severity, stream(case.seed, what.name))
    inputs, notes = dict(samples.inputs), []
    for m in np.flatnonzero(hit.any(axis=0)):
        name = names[m]
        scene = Scene(
            random=stream(case.seed, what.name, name),
            labels=samples.labels,
            hit=asked,
            there=samples.present[:, m],
            index=int(m),
            seed=case.seed,
            name=what.name,
        )
        inputs[name] = corrupted = _corrupt_rows(samples, name, case, scene, hit[:, m])
        if samples.kinds[name] == "features":
            lost = int((~np.isfinite(corrupted[hit[:, m]]).all(axis=1)).sum())
            if lost:
                notes.append(f"{lost} rows of {name!r} leave the range of {corrupted.dtype}")
    present = samples.present & ~hit if what.told else samples.present
    return Corrupted(inputs=inputs, present=present, hit=hit, notes=tuple(notes))


def _corrupt_rows(
    samples: Samples, name: str, case: Case, scene: Scene, rows: BoolArray
) -> NDArray[Any]:
    """Corrupts some rows of one modality."""
    x, what = samples.inputs[name], case.corruption
    if samples.kinds[name] != "features":
        changed = _call(case, x, scene)
        return np.where(rows.reshape((-1,) + (1,) * (x.ndim - 1)), changed, x)
    scale = samples.scales[name]
    # An absent modality may hold anything, so no arithmetic may touch it.
    seen = scale.enter(np.where(scene.there[:, None], x, scale.mean), what.space)
    changed = _call(case, seen, scene)
    dtype = np.promote_types(x.dtype, np.float32)
    with np.errstate(over="ignore"):  # noted by the caller
        back = scale.leave(changed, what.space).astype(dtype)
    # Rows that the corruption left alone must not even get round-off.
    return np.where(rows[:, None] & (changed != seen), back, x.astype(dtype))


def _call(case: Case, x: NDArray[Any], scene: Scene) -> NDArray[Any]:
    changed = case.corruption.function(x, case.severity, scene)
    if changed.shape != x.shape:
        raise ShapeError(
            f"corruption {case.corruption.name!r} changes the shape",
            expected=str(list(x.shape)),
            got=str(list(changed.shape)),
        )
    return changed


# ---------------------------------------------------------------------------------- the scores


class _Run:
    """Holds methods and samples, and what the clean case says about them."""

    def __init__(self, methods: Mapping[str, Method], samples: Samples) -> None:
        self._methods, self._samples = methods, samples
        self._clean: dict[str, float | None] = {}
        # By method, the method whose heads its baselines come from; known from the clean case.
        self._heads: Mapping[str, str] = {}

    def remember(self, measured: Measured) -> Measured:
        """Learns from the clean case what the others need, when it was measured before."""
        if measured.corruption == CLEAN.name:
            self._clean = {name: m["accuracy"] for name, m in measured.scores.items()}
            self._heads = measured.heads
        return measured

    def measure(self, case: Case) -> Measured:
        """Corrupts, asks and scores."""
        samples, is_clean = self._samples, case.corruption.name == CLEAN.name
        corrupted = corrupt(samples, case)
        answers = {
            name: ask(name, method, corrupted.inputs, corrupted.present)
            for name, method in self._methods.items()
        }
        if is_clean:
            self._heads = _heads(answers)
        said: dict[str, FloatArray] = {name: a.probabilities for name, a in answers.items()}
        for source in dict.fromkeys(self._heads.values()):
            beside = baselines(answers[source], corrupted.hit, samples.prior, samples.modalities)
            said |= {self._name(name, source): p for name, p in beside.items()}
        right = {name: metrics.correct(p, samples.labels) for name, p in said.items()}
        scores = {name: self._scores(p) for name, p in said.items()}
        for source in dict.fromkeys(self._heads.values()):
            for m, modality in enumerate(samples.modalities):
                name = self._name(f"{modality} alone", source)
                scores[name] |= _where_present(right[name], answers[source], m)
        for name, answer in answers.items():
            scores[name] |= _weights(answer, corrupted.hit, samples)
            for mean in (STATIC, ORACLE) if name in self._heads else ():
                other = self._name(mean, self._heads[name])
                if other in right:
                    scores[name] |= _gain(mean, right[name], right[other])
        if is_clean:
            self._clean = {name: m["accuracy"] for name, m in scores.items()}
        for name, own in scores.items():
            own["degradation"] = metrics.degradation(self._clean[name], own["accuracy"])
            own["retention"] = metrics.retention(self._clean[name], own["accuracy"])
        # The sensor protocol has many cases, and nobody looks at their curves.
        drawn = [] if case.corruption.name in SENSORS else [*self._methods, *self._means(said)]
        nested = is_clean or case.corruption.name == "emm_told"
        notes = [*corrupted.notes, *(note for a in answers.values() for note in a.notes)]
        return Measured(
            corruption=case.corruption.name,
            severity=case.severity,
            pattern=case.pattern.name,
            seed=case.seed,
            hit=float(corrupted.hit.sum() / max(1, samples.present.sum())),
            scores=scores,
            curves={name: self._curves(said[name]) for name in drawn},
            right={name: pack(r) for name, r in right.items()} if nested else {},
            heads=self._heads if is_clean else {},
            notes=tuple(dict.fromkeys(notes)),
        )

    def _means(self, said: Mapping[str, FloatArray]) -> list[str]:
        sources = dict.fromkeys(self._heads.values())
        names = [self._name(mean, source) for source in sources for mean in (STATIC, ORACLE)]
        return [name for name in names if name in said]

    def _name(self, baseline: str, source: str) -> str:
        first = next(iter(self._heads.values()))
        return baseline if source == first else f"{baseline} of {source}"

    def _scores(self, p: FloatArray) -> dict[str, float | None]:
        y = self._samples.labels
        if len(y) and y.max() >= p.shape[1]:
            raise ShapeError(
                "labels and probabilities disagree about C",
                expected=f"labels from 0 to {p.shape[1] - 1}",
                got=f"up to {y.max()}",
            )
        found = measured(np.asarray(p), y)
        return {
            **{name: found[name] for name in ("accuracy", "balanced_accuracy", "nll", "ece")},
            "aurc": metrics.area_under_risk_coverage(p, y),
        }

    def _curves(self, p: FloatArray) -> dict[str, Any]:
        y = self._samples.labels
        _, risk = metrics.risk_coverage(p, y)
        steps = np.ceil(np.arange(1, 21) / 20 * len(risk)).astype(int) - 1
        bars = metrics.reliability(p, y)
        return {
            "reliability": {k: [_short(v) for v in values] for k, values in bars.items()},
            "risk_at_coverage": [_short(float(v)) for v in risk[steps]],
        }


def _heads(answers: Mapping[str, Answer]) -> dict[str, str]:
    """Finds for each method with unimodal answers the first method with the same ones."""
    found: dict[str, str] = {}
    for name, answer in answers.items():
        if answer.unimodal is None:
            continue
        same = (
            source
            for source in dict.fromkeys(found.values())
            if np.array_equal(answers[source].unimodal, answer.unimodal)  # type: ignore[arg-type]
        )
        found[name] = next(same, name)
    return found


def _where_present(right: BoolArray, answer: Answer, m: int) -> dict[str, float | None]:
    """Accuracy of a modality alone in the samples that have it, as ``dms fit`` measures it."""
    assert answer.active is not None  # noqa: S101 - for mypy
    there = answer.active[:, m]
    return {
        "accuracy_where_present": float(right[there].mean()) if there.any() else None,
        "samples_where_present": float(there.sum()),
    }


def _weights(answer: Answer, hit: BoolArray, samples: Samples) -> dict[str, float | None]:
    """Scores a method's weights."""
    if answer.weights is None or answer.active is None:
        return {}
    w, clean_part = answer.weights, samples.present & ~hit
    result: dict[str, float | None] = {
        "weight_on_hit": float(w[hit].mean()) if hit.any() else None,
        "weight_on_clean": float(w[clean_part].mean()) if clean_part.any() else None,
    }
    for m, name in enumerate(samples.modalities):
        rows = answer.active[:, m]
        result[f"weight: {name}"] = float(w[rows, m].mean()) if rows.any() else None
    if answer.unimodal is not None:
        losses = metrics.losses(answer.unimodal, samples.labels)
        parts, total = metrics.weight_loss_covariance(w, losses, answer.active)
        result["weight_loss_covariance"] = total
        for name, part in zip(samples.modalities, parts, strict=True):
            result[f"weight_loss_covariance: {name}"] = part
    return result


def _gain(name: str, own: BoolArray, other: BoolArray) -> dict[str, float | None]:
    """Computes accuracy above a baseline, and its standard error over the samples (paired)."""
    difference = own.astype(float) - other
    return {
        f"gain_over_{name}": float(difference.mean()),
        f"gain_over_{name}_error": float(difference.std() / sqrt(len(difference))),
    }


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.5g}")


def _check(methods: Mapping[str, Method], samples: Samples, plan: tuple[Case, ...]) -> None:
    reserved = {STATIC, ORACLE, *(f"{name} alone" for name in samples.modalities)}
    if not methods or reserved & set(methods):
        raise SpecError(
            "the methods have names that cannot be used",
            expected=f"one or more, with names other than {', '.join(sorted(reserved))}",
            got=", ".join(methods) or "none",
            fix="These baselines are computed from a method's unimodal probabilities.",
        )
    keys = Counter(case.key for case in plan)
    twice = [str(case) for case in plan if keys[case.key] > 1]
    if twice:
        raise SpecError("a case is given twice", expected="each once", got=twice[0])


def _fingerprint(
    methods: Mapping[str, Method], samples: Samples, plan: tuple[Case, ...], identity: str
) -> str:
    keys = [case.key for case in plan]
    text = json.dumps([PACKAGE, samples.fingerprint(), list(methods), keys, identity])
    return sha256(text.encode()).hexdigest()
