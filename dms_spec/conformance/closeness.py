"""Says how close is close enough: ``|r - r*| <= k eps s``, with the scale s of each computation.

The scales are those of the specification's page on numerics, in float64 NumPy. They describe how
each result is conditioned, so that one constant serves every dtype.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dms_spec.conformance.evidence_scale import evidence_scales, weight_scale
from dms_spec.conformance.oracle import Exact
from dms_spec.spec import SchedulerSpec
from dms_spec.types import TERMS

Floats = NDArray[np.float64]

#: The one constant of DMS-N-001.
K = 8.0

# Policies whose score is one term of their own, and its name.
_ONE_TERM = {"co_attention": "attention", "dmome": "gate", "qmf": "energy", "tmc": "commitment"}
# Terms whose scale is their own size already.
_OWN_SIZE = ("bias", "doubt")


def finfo(dtype: Any) -> Any:
    """Gives what `numpy.finfo` says, for bfloat16 as well."""
    if np.dtype(dtype).name == "bfloat16":
        import ml_dtypes

        return ml_dtypes.finfo(dtype)  # type: ignore[no-untyped-call]
    return np.finfo(dtype)


def scales(
    spec: SchedulerSpec,
    exact: Exact,
    arrays: Mapping[str, NDArray[Any]],
    parameters: Mapping[str, NDArray[Any]],
    dtype: Any,
) -> dict[str, Floats]:
    """Computes the scale of every output, by name. ``dtype`` is the computing dtype."""
    info = np.finfo(dtype)
    floor = float(info.smallest_normal) / float(info.eps)
    # The answer for what is not active is exact, so it has no condition.
    clean = {
        name: np.where(exact.active[..., None], array.astype(np.float64), 0.0)
        for name, array in arrays.items()
        if name != "present"
    }
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        signals = {
            name: floor
            + (
                _typicality_scale(clean, exact, parameters, info)
                if name == "typicality"
                else _signal_scale(name, spec.signals[name], clean, exact)
            )
            for name in spec.signals
        }
        terms = _term_scales(spec, exact, clean, parameters, signals)
        score = _score_scale(spec, exact, terms) + floor
        known = signals | {f"{TERMS}{name}": own + floor for name, own in terms.items()}
        known["scores"] = score
        if spec.fusion == "evidence":
            level = evidence_scales(exact, clean["logits"], parameters, score, K * float(info.eps))
            return known | {name: own + floor for name, own in level.items()}
        weight = weight_scale(exact, exact.scores, score) + floor
        return known | {
            "weights": weight,
            "fused": _fused_scale(spec, clean, weight, floor) + floor,
        }


def _shifted(logits: Floats) -> tuple[Floats, Floats]:
    """Probabilities, and |l - max l| with 0 where the probability is 0."""
    x = logits - logits.max(axis=-1, keepdims=True)
    p = np.exp(x)
    p /= p.sum(axis=-1, keepdims=True)
    return p, np.where(p > 0, np.abs(x), 0.0)


def _signal_scale(
    name: str, options: Mapping[str, Any], clean: Mapping[str, Floats], exact: Exact
) -> Floats:
    shape = exact.active.shape
    if name in ("confidence", "agreement", "corroboration", "energy"):
        logits = clean["logits"]
        classes = logits.shape[-1]
        p, x = _shifted(logits)
        if name == "confidence":
            divisor = np.log(classes) if options.get("normalize", True) and classes > 1 else 1.0
            return np.asarray(1 + (1 + (p * (x + x * x)).sum(axis=-1)) / divisor)
        if name in ("agreement", "corroboration"):
            p = np.where(exact.active[..., None], p, 0.0)
            mass = (p * (1 + x)).sum(axis=-1)
            count = np.maximum(exact.active.sum(axis=-1, keepdims=True) - 1, 1)
            others = (mass.sum(axis=-1, keepdims=True) - mass) / count
            unit = np.log(2) if name == "agreement" else 1.0
            return np.asarray(1 + (mass + others) / unit)
        tau = float(options.get("temperature", 1.0))
        return np.asarray(
            tau * (1 + np.log(classes))
            + np.where(np.isfinite(logits), np.abs(logits), 0.0).max(axis=-1)
        )
    if name in ("uncertainty", "mutual_information"):
        passes = clean.get("mc_logits")
        if passes is None or passes.shape[0] < 2:
            return np.zeros(shape)
        count, classes = passes.shape[0], passes.shape[-1]
        if name == "mutual_information":
            return np.full(shape, 1 + np.log(classes) + np.log(count))
        p, x = _shifted(passes)
        total = (p * p * (1 + x)).sum(axis=-1).mean(axis=0)
        return np.asarray(total / classes if options.get("reduction", "mean") == "mean" else total)
    if name == "alignment":
        return _alignment_scale(clean["features"])
    if name in ("anchored_alignment", "vacuity"):
        return np.ones(shape)
    raise NotImplementedError(f"no scale is specified for signal {name!r}")


def _alignment_scale(features: Floats) -> Floats:
    """1 + sum |h_n| / |sum h_n| over the others. It is infinite where they cancel."""
    features = features / max(float(np.abs(features).max(initial=0.0)), 1e-300)
    norms = np.linalg.norm(features, axis=-1)
    result = np.ones(norms.shape)
    for m in range(norms.shape[1]):
        others = [n for n in range(norms.shape[1]) if n != m]
        total = norms[:, others].sum(axis=1)
        length = np.linalg.norm(features[:, others].sum(axis=1), axis=-1)
        result[:, m] += np.where(total > 0, total / length, 0.0)
    return result


def _typicality_scale(
    clean: Mapping[str, Floats], exact: Exact, parameters: Mapping[str, NDArray[Any]], info: Any
) -> Floats:
    """The slope times what a log-distance loses where its squares cancel; infinite if all is lost.

    Lengths are relative to the largest entry of the features and their centre, or to 1.
    """
    p = {
        name: parameters[f"signals.typicality.{name}"].astype(np.float64)
        for name in ("center", "whitening", "deviations", "prototypes", "outside", "band", "loss")
        if f"signals.typicality.{name}" in parameters
    }
    if not p:
        return np.zeros(exact.active.shape)
    x, eps = clean["features"], float(info.eps)
    floor = float(info.smallest_normal) / eps
    largest = np.abs(p["center"]).max(axis=-1, keepdims=True)
    peak = np.maximum(np.abs(x).max(axis=-1, keepdims=True, initial=1.0), largest)
    z = x / peak - p["center"] / peak
    rounded = np.abs(x) / peak + np.abs(p["center"]) / peak + floor
    through = "bmd,md->bmd" if p["whitening"].ndim == 2 else "bmd,mdr->bmr"
    y = np.einsum(through, z, p["whitening"])
    into = np.einsum(through, rounded, np.abs(p["whitening"])) + floor
    apart = y[:, :, None] - p["prototypes"] / peak[..., None]
    nearest = np.linalg.norm(apart, axis=-1).min(axis=-1)
    lengths = y * p["deviations"]

    def square(vectors: Floats, carried: Floats) -> Floats:
        """A squared length, by itself and by what its entries carry into it, to second order."""
        size, own = np.linalg.norm(vectors, axis=-1), np.linalg.norm(carried, axis=-1)
        return np.asarray(size * (size + 2 * own) + K * eps * own**2)

    outside = square(z, rounded) + square(lengths, into * p["deviations"])
    own = np.linalg.norm(into, axis=-1)
    lost = (2 * np.linalg.norm(y, axis=-1) + nearest) ** 2
    lost += own * (2 * nearest + K * eps * own) + p["outside"] * outside
    residue = np.maximum((z**2).sum(axis=-1) - (lengths**2).sum(axis=-1), 0.0)
    total = nearest**2 + p["outside"] * residue
    # A log falls by less than this when its argument is off by K eps of what is lost.
    left = np.maximum(total - K * eps * lost, 0.0)
    logs = np.abs(np.log(np.maximum(total, 1e-300))) / 2 + np.log(peak[..., 0])
    band, (steepness, onset) = np.abs(p["band"]).max(axis=1), np.abs(p["loss"]).T
    distance = 1 + 2 * logs + np.where(left > 0, lost / (2 * left), np.inf)
    value = np.abs(exact.signals["typicality"])
    return np.asarray(1 + value + steepness * (distance + band + onset))


def _score_scale(spec: SchedulerSpec, exact: Exact, terms: Mapping[str, Floats]) -> Floats:
    """The sum over the terms, each with what it adds; of a policy with one term, that of it."""
    if spec.policy in _ONE_TERM:
        return next(iter(terms.values()))
    total = np.zeros(exact.active.shape)
    for name, own in terms.items():
        total = total + own + (0 if name in _OWN_SIZE else np.abs(exact.terms[name]))
    return np.asarray(total)


def _term_scales(
    spec: SchedulerSpec,
    exact: Exact,
    clean: Mapping[str, Floats],
    parameters: Mapping[str, NDArray[Any]],
    signals: Mapping[str, Floats],
) -> dict[str, Floats]:
    if spec.policy in _ONE_TERM:
        one = _attention_scale if spec.policy == "co_attention" else _published_scale
        return {_ONE_TERM[spec.policy]: one(spec, exact, clean, parameters)}
    theta = parameters.get("policy.theta")
    learned = (
        {} if theta is None else dict(zip(spec.coefficients, np.logaddexp(theta, 0), strict=True))
    )
    exponent = np.logaddexp(parameters.get("policy.exponent", np.log(np.e - 1)), 0.0)
    found = {}
    for name, term in exact.terms.items():
        own = np.abs(term)
        if name in ("residual", "rising"):
            own = _network_scale(spec, exact, parameters, signals)
        elif name in spec.coefficients:
            k = learned.get(name, spec.coefficients[name])
            # 0 times an infinite scale is no condition at all.
            if k <= 0:
                own = np.zeros(term.shape)
            elif spec.policy == "soundness":
                own = (1 + exponent) * k * signals[name]
            else:
                own = k * (signals[name] + np.abs(exact.signals[name]))
        elif name == "doubt":
            own = 1 + own  # a log of doubt may be taken of 1 + e^x
        found[name] = np.asarray(own)
    return found


def _attention_scale(
    spec: SchedulerSpec,
    exact: Exact,
    clean: Mapping[str, Floats],
    parameters: Mapping[str, NDArray[Any]],
) -> Floats:
    h = clean["features"]
    q = h @ parameters.get("policy.query", np.eye(h.shape[-1]))
    k = h @ parameters.get("policy.key", np.eye(h.shape[-1]))
    # |q| |k| bounds every product of entries, and of all pairs only the largest counts.
    largest = np.einsum("bmi,bni->bmn", np.abs(q), np.abs(k)).max(axis=(1, 2))
    peak = largest / np.sqrt(q.shape[-1])
    return np.asarray(1 + np.abs(np.where(exact.active, exact.scores, 0.0)) + 2 * peak[:, None])


def _published_scale(
    spec: SchedulerSpec,
    exact: Exact,
    clean: Mapping[str, Floats],
    parameters: Mapping[str, NDArray[Any]],
) -> Floats:
    """The gate of SimMLM by its products, QMF by its energies, TMC by the log of its evidence."""
    if spec.policy == "dmome":
        weight, bias = parameters["policy.gate_weight"], parameters["policy.gate_bias"]
        return np.asarray(
            np.einsum("bnd,ndm->bm", np.abs(clean["features"]), np.abs(weight)) + np.abs(bias)
        )
    logits = clean["logits"]
    size = 1 + np.log(logits.shape[-1])
    if spec.policy == "qmf":
        largest = np.where(np.isfinite(logits), np.abs(logits), 0.0).max(axis=-1)
        held = np.exp(np.where(exact.active, exact.scores, 0.0))  # the energy above its floor
        return np.asarray(1 + np.abs(np.log(held)) + (size + largest) / held)
    top = logits.max(axis=-1)
    softplus = np.maximum(top, 0) + np.log1p(np.exp(-np.abs(top)))
    return np.asarray(size + np.abs(np.where(top < -40, top, np.log(np.maximum(softplus, 1e-300)))))


def _network_scale(
    spec: SchedulerSpec,
    exact: Exact,
    parameters: Mapping[str, NDArray[Any]],
    signals: Mapping[str, Floats],
) -> Floats:
    """What rounds in v . tanh(W x + c): each unit by what goes into it, since tanh never widens."""
    bend = (lambda a: np.logaddexp(a, 0)) if spec.policy == "monotone" else np.abs
    inner = bend(parameters["policy.hidden_weight"].astype(np.float64))
    outer = bend(parameters["policy.output_weight"].astype(np.float64))
    into = sum(
        (signals[name] + np.abs(exact.signals[name]))[..., None] * inner[k]
        for k, name in enumerate(spec.coefficients)
    )
    return np.asarray((1 + into + np.abs(parameters["policy.hidden_bias"])) @ outer)


def _fused_scale(
    spec: SchedulerSpec, clean: Mapping[str, Floats], weight: Floats, floor: float
) -> Floats:
    if spec.fusion == "probability":
        p, x = _shifted(clean["logits"])
        return _carried(weight, p * (1 + x))
    values = np.abs(clean["features" if spec.fusion == "feature" else "logits"])
    values = np.where(np.isfinite(values), values, 0.0)
    largest = values.max(axis=(1, 2), initial=1.0)[:, None]
    return np.asarray(_carried(weight, values) + floor * largest)


def _carried(weight: Floats, values: Floats) -> Floats:
    """Sums weight times value. A weight of infinite condition cannot move a value of 0."""
    return np.asarray(np.where(values > 0, weight[..., None] * values, 0.0).sum(axis=1))


def loss_scale(features: Floats, weights: Floats) -> Floats:
    """Computes the scale of the consistency loss of each sample, given weights of closeness 1."""
    h = np.where(weights[..., None] > 0, features, 0.0)
    z = np.linalg.norm((weights[..., None] * h).sum(axis=1), axis=-1, keepdims=True)
    return np.asarray((weights * (np.linalg.norm(h, axis=-1) + z) ** 2).sum(axis=-1))
