"""A second witness: the specification's core in NumPy, written from the text of its clauses alone.

It computes in float64 throughout, claims two policies, and shares no code with the equations.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from witness_heads import WitnessRows

from dms_spec import Capabilities, ModalityBatch, Schedule, Scheduler, SchedulerSpec
from dms_spec.artifact import Artifact
from dms_spec.errors import (
    DMSWarning,
    DTypeError,
    MissingInput,
    NonFiniteInput,
    NothingPresent,
    ShapeError,
    UnsupportedCapability,
)
from dms_spec.interface.backend import Backend, Predictive, RowPredictor

Values = NDArray[Any]
_DTYPES = ("float64", "float32")
_READS = dict.fromkeys(("alignment", "anchored_alignment", "typicality"), "features")
_PASSES = ("uncertainty", "mutual_information")


class Witness(Backend, Predictive):
    """Runs the rule and the static baseline, and heads before them."""

    name = "witness"
    capabilities = Capabilities(dtypes=_DTYPES, policies=("linear", "static"))

    def from_numpy(self, array: Values, device: str) -> Values:
        return array

    def to_numpy(self, array: Values) -> Values:
        return array

    def row_predictor(self, artifact: Artifact, device: str) -> RowPredictor:
        own = artifact.scheduler_parameters
        return WitnessRows(artifact, self.scheduler(artifact.spec, own, device=device))

    def _scheduler(
        self, spec: SchedulerSpec, parameters: Mapping[str, Values], device: str
    ) -> Scheduler:
        return _Witness(spec, {k: np.asarray(v, np.float64) for k, v in parameters.items()})


class _Witness(Scheduler):
    def __init__(self, spec: SchedulerSpec, parameters: Mapping[str, Values]) -> None:
        self._spec, self._parameters = spec, parameters
        self._unfitted = not any(name.startswith("signals.typicality.") for name in parameters)
        self._notes = [
            f"{name} is equal for two modalities, and moves no weight"
            for name in ("alignment", "agreement")
            if len(spec.modalities) == 2 and spec.coefficients.get(name, 0) > 0
        ]
        for note in self._notes:
            warnings.warn(note, DMSWarning, stacklevel=3)

    @property
    def spec(self) -> SchedulerSpec:
        return self._spec

    def schedule(self, batch: ModalityBatch) -> Schedule:
        self._refuse(batch)
        with np.errstate(over="ignore"):  # a score that overflows is refused below
            return self._compute(batch)

    def _compute(self, batch: ModalityBatch) -> Schedule:
        spec, given = self.spec, batch.arrays()
        floats = {k: a for k, a in given.items() if k != "present"}
        wide = any(a.dtype == np.float64 for a in floats.values())
        dtype = np.float64 if wide else np.float32
        x = {k: a.astype(np.float64) for k, a in floats.items()}
        active = self._active(x, given.get("present"))
        x = {k: np.where(active[..., None], a, 0.0) for k, a in x.items()}
        notes, few = list(self._notes), len(x.get("mc_logits", ())) < 2
        signals = {}
        for name, options in spec.signals.items():
            if (name in _PASSES and few) or (name == "typicality" and self._unfitted):
                notes.append(f"{name} is 0: it lacks what it is computed from")
                value = np.zeros(active.shape)
            else:
                own = {k.rpartition(".")[2]: v for k, v in self._parameters.items()
                       if k.startswith(f"signals.{name}.")}  # fmt: skip
                value = _SIGNALS[name](x, active, own, dict(options))
            signals[name] = np.where(active, value, 0.0)
        terms = {
            name: np.where(active, (-k if name in _PASSES else k) * signals[name], 0.0)
            for name, k in spec.coefficients.items()
        }
        if spec.policy == "static" and "policy.bias" in self._parameters:
            terms["bias"] = np.where(active, self._parameters["policy.bias"], 0.0)
        total = sum(terms.values(), np.zeros(active.shape))
        self._refuse_values(batch, active, total.astype(dtype))
        weights = _weights(total, active)
        fused = _fused(spec.fusion, x, weights, active)
        summed = given["features" if spec.fusion == "feature" else "logits"].dtype
        return Schedule(
            weights=weights.astype(dtype),
            fused=fused.astype(summed),
            scores=np.where(active, total, -np.inf).astype(dtype),
            active=active,
            signals={k: v.astype(dtype) for k, v in signals.items()},
            terms={k: v.astype(dtype) for k, v in terms.items()},
            notes=tuple(notes),
        )

    def _refuse(self, batch: ModalityBatch) -> None:
        names, arrays = self.spec.modalities, batch.arrays()
        if batch.shape[1] != len(names):
            raise ShapeError(f"expected the modalities {names}, got {batch.shape[1]} of them")
        needs = {"features" if self.spec.fusion == "feature" else "logits": "fusion"}
        for name in self.spec.signals:
            if name not in _PASSES and not (name == "typicality" and self._unfitted):
                needs.setdefault(_READS.get(name, "logits"), f"signal {name}")
        for name, who in needs.items():
            if name not in arrays:
                raise MissingInput(f"there are no {name}, which {who} needs")
        for name, array in arrays.items():
            if not isinstance(array, np.ndarray):
                raise DTypeError(f"{name} is no array of NumPy but a {type(array).__name__}")
            if name == "present":
                if array.dtype != bool:
                    raise DTypeError(f"present has to be bool and is {array.dtype}")
            elif "float" not in array.dtype.name:
                raise DTypeError(f"{name} has to be floating and is {array.dtype}")
            elif array.dtype.name not in _DTYPES:
                raise UnsupportedCapability(
                    f"{name} of {array.dtype} cannot be computed",
                    capability=f"dtype:{array.dtype}",
                )

    def _active(self, x: Mapping[str, Values], present: Values | None) -> Values:
        first = x["features"] if "features" in x else x["logits"]
        active = np.ones(first.shape[:2], bool) if present is None else present.copy()
        if "features" in x:
            active &= np.isfinite(x["features"]).all(axis=-1)
        if "logits" in x:
            active &= np.isfinite(x["logits"].max(axis=-1))
        if "mc_logits" in x:
            active &= np.isfinite(x["mc_logits"].max(axis=-1)).all(axis=0)
        return active

    def _refuse_values(self, batch: ModalityBatch, active: Values, scores: Values) -> None:
        def where(bad: Values) -> str:
            sample, modality = np.argwhere(bad)[0]
            return f"sample {sample}, modality {self.spec.modalities[modality]}"

        present = np.ones_like(active) if batch.present is None else batch.present
        if self.spec.nonfinite == "raise" and (bad := present & ~active).any():
            raise NonFiniteInput(f"NaN or an infinity in {where(bad)}")
        if self.spec.strict and (bad := ~active.any(axis=1)).any():
            raise NothingPresent(f"nothing is active in sample {np.argmax(bad)}")
        if (bad := active & ~np.isfinite(scores)).any():
            raise NonFiniteInput(f"the score is infinite of {where(bad)}")


def _weights(scores: Values, active: Values) -> Values:
    peak = np.where(active, scores, -np.inf).max(axis=1, keepdims=True)
    e = np.where(active, np.exp(np.where(active, scores - np.where(active, peak, 0), 0)), 0)
    total = e.sum(axis=1, keepdims=True)
    return np.asarray(e / np.where(total > 0, total, 1))


def _fused(level: str, x: Mapping[str, Values], weights: Values, active: Values) -> Values:
    if level == "feature":
        return np.einsum("bm,bmd->bd", weights, x["features"])
    if level == "probability":
        p = np.where(active[..., None], _softmax(x["logits"]), 0)
        return np.einsum("bm,bmc->bc", weights, p)
    out = np.isneginf(x["logits"]) & active[..., None]
    o = np.einsum("bm,bmc->bc", weights, np.where(out, 0, x["logits"]))
    return np.where(out.any(axis=1), -np.inf, o)


def _softmax(logits: Values) -> Values:
    e = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(e / e.sum(axis=-1, keepdims=True))


def _xlog(p: Values, q: Values) -> Values:
    """Sums p log q, where 0 log 0 is 0."""
    return np.where(p > 0, p * np.log(np.where(p > 0, q, 1)), 0).sum(axis=-1)


def _softplus(x: Values) -> Values:
    return np.asarray(np.logaddexp(x, 0))


def _confidence(x: Any, active: Values, own: Any, options: Any) -> Values:
    p = _softmax(x["logits"])
    entropy, classes = -_xlog(p, p), p.shape[-1]
    if not options.get("normalize", True):
        return np.asarray(1 - entropy)
    return np.clip(1 - entropy / np.log(classes), 0, 1) if classes > 1 else np.ones(p.shape[:-1])


def _uncertainty(x: Any, active: Values, own: Any, options: Any) -> Values:
    variance = _softmax(x["mc_logits"]).var(axis=0)
    return np.asarray(variance.sum(-1) if options.get("reduction") == "sum" else variance.mean(-1))


def _information(x: Any, active: Values, own: Any, options: Any) -> Values:
    p = _softmax(x["mc_logits"])
    mean = p.mean(axis=0)
    return np.maximum(_xlog(p, p).mean(axis=0) - _xlog(mean, mean), 0)


def _cosine(a: Values, b: Values) -> Values:
    a, b = _of_size_one(a), _of_size_one(b)
    norms = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    return np.clip((a * b).sum(axis=-1) / np.where(norms > 0, norms, 1), -1, 1)


def _of_size_one(a: Values) -> Values:
    largest = np.abs(a).max(axis=-1, keepdims=True)
    return np.asarray(a / np.where(largest > 0, largest, 1))


def _alignment(x: Any, active: Values, own: Any, options: Any) -> Values:
    h = x["features"]
    others = np.stack([np.delete(h, m, axis=1).sum(axis=1) for m in range(h.shape[1])], axis=1)
    return _cosine(h, others)


def _anchored(x: Any, active: Values, own: Any, options: Any) -> Values:
    return _cosine(x["features"], np.broadcast_to(own["anchor"], x["features"].shape))


def _middle(x: Any, active: Values) -> tuple[Values, Values, Values, Values]:
    """p, the mean of the others, the mean of both, and whether there are others."""
    p = np.where(active[..., None], _softmax(x["logits"]), 0)
    count = active.sum(axis=1, keepdims=True) - active
    q = np.stack([np.delete(p, m, axis=1).sum(axis=1) for m in range(p.shape[1])], axis=1)
    q = q / np.maximum(count, 1)[..., None]
    return p, q, (p + q) / 2, count > 0


def _agreement(x: Any, active: Values, own: Any, options: Any) -> Values:
    p, q, mid, there = _middle(x, active)
    js = (_xlog(p, p) - _xlog(p, mid) + _xlog(q, q) - _xlog(q, mid)) / 2
    return np.where(there, np.clip(1 - js / np.log(2), 0, 1), 0)


def _corroboration(x: Any, active: Values, own: Any, options: Any) -> Values:
    p, _, mid, there = _middle(x, active)
    return np.where(there, np.clip(np.exp(_xlog(p, mid) - _xlog(p, p)), 0.5, 1), 0)


def _energy(x: Any, active: Values, own: Any, options: Any) -> Values:
    tau, peak = options.get("temperature", 1.0), x["logits"].max(axis=-1)
    return np.asarray(
        peak + tau * np.log(np.exp((x["logits"] - peak[..., None]) / tau).sum(axis=-1))
    )


def _typicality(x: Any, active: Values, own: Any, options: Any) -> Values:
    z = x["features"] - own["center"]
    diagonal = own["whitening"].ndim == 2
    y = z * own["whitening"] if diagonal else np.einsum("bmd,mdr->bmr", z, own["whitening"])
    near = ((y[:, :, None] - own["prototypes"]) ** 2).sum(axis=-1).min(axis=-1)
    left = (z**2).sum(axis=-1) - ((own["deviations"] * y) ** 2).sum(axis=-1)
    square = near + own["outside"] * np.maximum(left, 0)
    distance = np.log(np.maximum(square, np.finfo(np.float64).tiny)) / 2
    (low, high), (k, onset) = own["band"].T, own["loss"].T
    excess = np.maximum(distance - high, 0) + np.maximum(low - distance, 0)
    return np.minimum(_softplus(k * (0 - onset)) - _softplus(k * (excess - onset)), 0)


_SIGNALS = {
    "confidence": _confidence,
    "uncertainty": _uncertainty,
    "mutual_information": _information,
    "alignment": _alignment,
    "anchored_alignment": _anchored,
    "agreement": _agreement,
    "corroboration": _corroboration,
    "energy": _energy,
    "typicality": _typicality,
}
