"""Computes the whole specification in float64 and plain loops, one sample at a time: the oracle.

It is independent on purpose: it shares no code with the equations, and only reads numbers from
array libraries. It is slow. When a backend differs from it, compare this page with the
specification.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import exp, expm1, floor, fsum, inf, isfinite, isnan, log, log1p, log2, sqrt, tanh
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dms_spec.spec import SchedulerSpec
from dms_spec.types import TERMS

Vector = list[float]
Arrays = Mapping[str, NDArray[Any]]


#: What this page knows. It knows no signals and policies of plugins.
SIGNALS = (
    "confidence",
    "uncertainty",
    "mutual_information",
    "alignment",
    "anchored_alignment",
    "agreement",
    "corroboration",
    "energy",
    "typicality",
    "vacuity",
)
POLICIES = (
    "static",
    "linear",
    "co_attention",
    "modality_dropout",
    "learned_linear",
    "residual_mlp",
    "monotone",
    "soundness",
    "dmome",
    "qmf",
    "tmc",
)


def knows(spec: SchedulerSpec) -> bool:
    """Says whether `schedule` has an answer for a spec."""
    return spec.policy in POLICIES and set(spec.signals) <= set(SIGNALS)


@dataclass
class Exact:
    """Holds exact outputs, float64, shaped as in the specification."""

    weights: NDArray[np.float64]
    fused: NDArray[np.float64]
    scores: NDArray[np.float64]
    active: NDArray[np.bool_]
    signals: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    terms: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    soundness: NDArray[np.float64] | None = None

    def arrays(self) -> dict[str, NDArray[np.float64]]:
        """Every output by name, the mask apart."""
        own = {} if self.soundness is None else {"soundness": self.soundness}
        terms = {f"{TERMS}{name}": term for name, term in self.terms.items()}
        plain = {"scores": self.scores, "weights": self.weights, "fused": self.fused}
        return self.signals | terms | own | plain


def schedule(
    spec: SchedulerSpec,
    arrays: Mapping[str, NDArray[Any]],
    parameters: Mapping[str, NDArray[Any]] | None = None,
) -> Exact:
    """Schedules a batch, given by the names of its arrays, sample by sample."""
    features, logits = arrays.get("features"), arrays.get("logits")
    mc_logits, present = arrays.get("mc_logits"), arrays.get("present")
    first = features if features is not None else logits
    assert first is not None  # noqa: S101 - the caller's own test data
    batch, modalities = first.shape[:2]
    samples = []
    for b in range(batch):
        h = [] if features is None else [_floats(features[b, m]) for m in range(modalities)]
        ell = [] if logits is None else [_floats(logits[b, m]) for m in range(modalities)]
        passes = (
            []
            if mc_logits is None
            else [[_floats(run[b, m]) for m in range(modalities)] for run in mc_logits]
        )
        there = [present is None or bool(present[b, m]) for m in range(modalities)]
        samples.append(_sample(spec, h, ell, passes, there, parameters or {}))
    width = arrays["features" if spec.fusion == "feature" else "logits"].shape[2]

    def stack(key: str, shape: tuple[int, ...]) -> NDArray[np.float64]:
        return np.array([sample[key] for sample in samples], dtype=np.float64).reshape(shape)

    square = (batch, modalities)
    names = samples[0]["terms"] if samples else {}
    return Exact(
        weights=stack("weights", square),
        fused=stack("fused", (batch, width)),
        scores=stack("scores", square),
        active=stack("active", square).astype(bool),
        signals={
            name: np.array([s["signals"][name] for s in samples]).reshape(square)
            for name in spec.signals
        },
        terms={name: np.array([s["terms"][name] for s in samples]) for name in names},
        soundness=stack("soundness", square) if spec.fusion == "evidence" else None,
    )


def _floats(row: NDArray[Any]) -> Vector:
    return [float(x) for x in row]


def _sample(
    spec: SchedulerSpec,
    h: list[Vector],
    ell: list[Vector],
    passes: list[list[Vector]],
    there: list[bool],
    parameters: Arrays,
) -> dict[str, Any]:
    count = len(there)
    active = []
    for m in range(count):
        good = there[m]
        if h:
            good = good and all(isfinite(x) for x in h[m])
        for row in [rows[m] for rows in (ell, *passes) if rows]:
            good = good and not any(isnan(x) for x in row) and isfinite(max(row))
        active.append(good)
    members = [m for m in range(count) if active[m]]

    signals = {
        name: [
            signal(name, dict(spec.signals[name]), m, members, h, ell, passes, parameters)
            if active[m]
            else 0.0
            for m in range(count)
        ]
        for name in spec.signals
    }
    terms = _terms(spec, signals, members, count, h, ell, parameters)
    scores = [fsum(term[m] for term in terms.values()) if active[m] else -inf for m in range(count)]
    outputs = {"scores": scores, "active": active, "signals": signals, "terms": terms}
    if spec.fusion == "evidence":
        return outputs | _evidence(ell, scores, members, parameters)
    weights = _weights(scores, members)
    rows = h if spec.fusion == "feature" else ell
    if spec.fusion == "probability":
        rows = [softmax(rows[m]) if active[m] else rows[m] for m in range(count)]
    fused = [
        -inf
        if any(rows[m][k] == -inf for m in members)
        else fsum(weights[m] * rows[m][k] for m in members)
        for k in range(len(rows[0]))
    ]
    return outputs | {"weights": weights, "fused": fused}


def _weights(scores: Vector, members: list[int]) -> Vector:
    """The softmax of the scores over the active modalities."""
    weights = [0.0] * len(scores)
    if members:
        top = max(scores[m] for m in members)
        total = fsum(exp(scores[m] - top) for m in members)
        for m in members:
            weights[m] = exp(scores[m] - top) / total
    return weights


def _evidence(
    ell: list[Vector], scores: Vector, members: list[int], parameters: Arrays
) -> dict[str, Any]:
    """Bounded evidence of one sample: fused, soundness and weights."""
    count, classes = len(ell), len(ell[0])
    if not members:
        zeros = [0.0] * count
        return {"fused": [0.0] * classes, "weights": zeros, "soundness": zeros}
    fitted = "fusion.prior" in parameters
    prior = _floats(parameters["fusion.prior"]) if fitted else [1 / classes] * classes
    rho = softplus(float(parameters["fusion.redundancy"])) if fitted else 0.2
    log_g = {m: min(scores[m], log1p(-1e-6)) for m in members}
    said, factors = {}, {}
    for m in members:
        own = _floats(parameters["fusion.priors"][m]) if fitted else prior
        said[m] = log_ratios(ell[m], own)
        log_doubt = log(-expm1(log_g[m]))
        factors[m] = [log_sum_exp([log_doubt, log_g[m] + x]) for x in said[m]]
    kappa = 1 / (1 + rho * (max(1.0, fsum(exp(x) for x in log_g.values())) - 1))
    possible = [y for y in range(classes) if prior[y] > 0]
    total = {y: log(prior[y]) + kappa * fsum(factors[m][y] for m in members) for y in possible}
    whole = log_sum_exp(list(total.values()))
    log_r = [-inf] * count
    for m in members:
        believed = [total[y] - whole + log_g[m] + said[m][y] - factors[m][y] for y in possible]
        log_r[m] = min(log_sum_exp(believed), 0.0)
    return {
        "fused": [exp(total[y] - whole) if y in total else 0.0 for y in range(classes)],
        "weights": _weights(log_r, members),
        "soundness": [exp(x) for x in log_r],
    }


def log_ratios(row: Vector, prior: Vector) -> Vector:
    """log p / pi over the classes that a modality knows, 0 for the others."""
    heard = [x for x, share in zip(row, prior, strict=True) if share > 0 and x > -inf]
    if not heard:
        return [0.0] * len(row)
    whole, top = log_sum_exp([x - max(heard) for x in heard]), max(heard)
    return [
        max((x - top) - whole - log(share), -1e4) if share > 0 else 0.0
        for x, share in zip(row, prior, strict=True)
    ]


def softmax(row: Vector) -> Vector:
    """Computes class probabilities from a row of logits."""
    top = max(row)
    e = [exp(x - top) for x in row]
    total = fsum(e)
    return [x / total for x in e]


def entropy(p: Vector) -> float:
    """Computes entropy in nats, with 0 log 0 = 0."""
    return -fsum(x * log(x) for x in p if x > 0)


def kl(p: Vector, q: Vector) -> float:
    """Computes the Kullback-Leibler divergence in nats."""
    return fsum(x * (log(x) - log(y)) for x, y in zip(p, q, strict=True) if x > 0)


def cosine(x: Vector, y: Vector) -> float:
    """Computes the cosine of the angle between two vectors; 0 if either is the zero vector."""
    # Scaled by powers of two, which is exact, so that squares stay inside float64.
    x, y = _unit_scale(x), _unit_scale(y)
    if not any(x) or not any(y):
        return 0.0
    dot = fsum(a * b for a, b in zip(x, y, strict=True))
    return dot / (sqrt(fsum(a * a for a in x)) * sqrt(fsum(b * b for b in y)))


def _unit_scale(x: Vector) -> Vector:
    top = max(abs(a) for a in x)
    if top == 0:
        return x
    power = 2.0 ** np.floor(np.log2(top))
    return [a / float(power) for a in x]


def signal(
    name: str,
    options: dict[str, Any],
    m: int,
    members: list[int],
    h: list[Vector],
    ell: list[Vector],
    passes: list[list[Vector]],
    parameters: Arrays,
) -> float:
    """Computes one signal of one active modality m."""
    others = [n for n in members if n != m]
    if name == "confidence":
        p = softmax(ell[m])
        if not options.get("normalize", True):
            return 1 - entropy(p)
        return 1.0 if len(p) == 1 else 1 - entropy(p) / log(len(p))
    if name in ("uncertainty", "mutual_information"):
        if len(passes) < 2:
            return 0.0
        ps = [softmax(run[m]) for run in passes]
        classes = range(len(ps[0]))
        mean = [fsum(p[k] for p in ps) / len(ps) for k in classes]
        if name == "mutual_information":
            return entropy(mean) - fsum(entropy(p) for p in ps) / len(ps)
        variance = fsum((p[k] - mean[k]) ** 2 for p in ps for k in classes) / len(ps)
        return variance / len(mean) if options.get("reduction", "mean") == "mean" else variance
    if name == "alignment":
        rows = [h[n] for n in others]
        return cosine(h[m], [fsum(column) for column in zip(*rows, strict=True)]) if rows else 0.0
    if name == "anchored_alignment":
        anchor = parameters["signals.anchored_alignment.anchor"]
        return cosine(h[m], _floats(anchor if anchor.ndim == 1 else anchor[m]))
    if name in ("agreement", "corroboration"):
        if not others:
            return 0.0
        p = softmax(ell[m])
        rows = [softmax(ell[n]) for n in others]
        q = [fsum(column) / len(rows) for column in zip(*rows, strict=True)]
        middle = [(a + b) / 2 for a, b in zip(p, q, strict=True)]
        if name == "corroboration":
            return exp(-kl(p, middle))
        return 1 - (kl(p, middle) + kl(q, middle)) / 2 / log(2)
    if name == "energy":
        tau = float(options.get("temperature", 1.0))
        top = max(ell[m])
        return top + tau * log(fsum(exp((x - top) / tau) for x in ell[m]))
    if name == "typicality":
        prefix = f"signals.{name}."
        own = {k.removeprefix(prefix): v[m] for k, v in parameters.items() if k.startswith(prefix)}
        return typicality(h[m], own) if own else 0.0
    if name == "vacuity":
        return len(ell[m]) / (len(ell[m]) + fsum(softplus(x) for x in ell[m]))
    raise NotImplementedError(f"the oracle does not know signal {name!r}")


def typicality(x: Vector, own: Arrays) -> float:
    """What a modality loses because its features lie where its head has not learned."""
    distance = log_distance(x, own)
    low, high = _floats(own["band"])
    steepness, onset = _floats(own["loss"])
    excess = max(distance - high, 0.0) + max(low - distance, 0.0)
    return softplus(-steepness * onset) - softplus(steepness * (excess - onset))


def log_distance(x: Vector, own: Arrays) -> float:
    """The log of the distance to the nearest prototype. At a prototype, of the smallest square."""
    # Scaled by a power of two, which is exact, so that squares stay inside float64.
    center = _floats(own["center"])
    power = 2.0 ** floor(log2(max(1.0, *(abs(a) for a in (*x, *center)))))
    z = [a / power - b / power for a, b in zip(x, center, strict=True)]
    if own["whitening"].ndim == 1:
        y = [a * w for a, w in zip(z, _floats(own["whitening"]), strict=True)]
    else:
        columns = [_floats(column) for column in own["whitening"].T]
        y = [fsum(a * w for a, w in zip(z, column, strict=True)) for column in columns]
    nearest = inf
    for prototype in own["prototypes"]:
        apart = [a - b / power for a, b in zip(y, _floats(prototype), strict=True)]
        nearest = min(nearest, fsum(a * a for a in apart))
    # What of the offset's length the directions of y do not account for.
    lengths = [a * v for a, v in zip(y, _floats(own["deviations"]), strict=True)]
    residue = max(0.0, fsum([*(a * a for a in z), *(-a * a for a in lengths)]))
    square = nearest + float(own["outside"]) * residue
    return log(max(square, float(np.finfo(np.float64).tiny))) / 2 + log(power)


def _terms(
    spec: SchedulerSpec,
    signals: dict[str, Vector],
    members: list[int],
    count: int,
    h: list[Vector],
    ell: list[Vector],
    parameters: Arrays,
) -> dict[str, Vector]:
    def over(term: Any) -> Vector:
        return [float(term(m)) if m in members else 0.0 for m in range(count)]

    against = ("uncertainty", "mutual_information", "vacuity")
    unlearned = spec.policy == "monotone" and "policy.theta" not in parameters
    if spec.policy == "linear" or unlearned:
        return {
            name: over(lambda m, n=name, k=k: (-k if n in against else k) * signals[n][m])
            for name, k in spec.coefficients.items()
        }
    if spec.policy == "soundness":
        fitted = "policy.doubt" in parameters
        certainty = -softplus(float(parameters["policy.doubt"])) if fitted else log(0.9)
        own = [softplus(float(x)) for x in parameters["policy.exponent"]] if fitted else [1] * count
        return {"doubt": over(lambda m: certainty)} | {
            name: over(lambda m, n=name, k=k: own[m] * k * signals[n][m])
            for name, k in spec.coefficients.items()
        }
    if spec.policy in ("learned_linear", "residual_mlp", "monotone"):
        theta = [softplus(float(x)) for x in parameters["policy.theta"]]
        trust = {n: [-x if n in against else x for x in signals[n]] for n in spec.coefficients}
        terms = {
            name: over(lambda m, n=name, k=k: theta[k] * trust[n][m])
            for k, name in enumerate(spec.coefficients)
        }
        if spec.policy == "learned_linear":
            return terms | {"bias": over(lambda m: parameters["policy.bias"][m])}
        name = "rising" if spec.policy == "monotone" else "residual"
        return terms | {
            name: over(lambda m: network(spec.policy, [x[m] for x in trust.values()], parameters))
        }
    if spec.policy == "static":
        bias = parameters.get("policy.bias")
        return {} if bias is None else {"bias": over(lambda m: bias[m])}
    if spec.policy == "modality_dropout":
        return {}
    if spec.policy == "co_attention":
        received = log_attention(members, h, parameters)
        return {"attention": over(lambda m: received[m])}
    if spec.policy == "dmome":
        return {"gate": over(lambda m: gate(m, members, h, parameters))}
    if spec.policy == "qmf":
        floor = float(spec.policy_options.get("floor", 1e-3))
        return {"energy": over(lambda m: log(max(log_sum_exp(ell[m]), floor)))}
    if spec.policy == "tmc":
        return {"commitment": over(lambda m: log_commitment(ell[m]))}
    raise NotImplementedError(f"the oracle does not know policy {spec.policy!r}")


def softplus(x: float) -> float:
    """log(1 + e^x)."""
    return max(x, 0.0) + log1p(exp(-abs(x)))


def network(policy: str, x: Vector, parameters: Arrays) -> float:
    """The small network of a learned policy, for one modality."""
    inner, outer = parameters["policy.hidden_weight"], parameters["policy.output_weight"]
    bend = softplus if policy == "monotone" else float
    total = []
    for j in range(len(outer)):
        into = [bend(float(inner[k, j])) * x[k] for k in range(len(x))]
        total.append(
            bend(float(outer[j])) * tanh(fsum(into) + float(parameters["policy.hidden_bias"][j]))
        )
    return fsum(total)


def log_sum_exp(values: Vector) -> float:
    """The log of a sum of exponentials, which may all be too small for a number."""
    top = max(values)
    return top + log(fsum(exp(x - top) for x in values))


def log_attention(members: list[int], h: list[Vector], parameters: Arrays) -> dict[int, float]:
    """The log of the attention that each active modality receives, averaged over queries."""

    def project(row: Vector, matrix: NDArray[Any] | None) -> Vector:
        if matrix is None:
            return row
        return [fsum(x * float(y) for x, y in zip(row, column, strict=True)) for column in matrix.T]

    q = {m: project(h[m], parameters.get("policy.query")) for m in members}
    k = {m: project(h[m], parameters.get("policy.key")) for m in members}
    shares: dict[int, Vector] = {n: [] for n in members}
    for m in members:
        similar = {
            n: fsum(a * b for a, b in zip(q[m], k[n], strict=True)) / sqrt(len(q[m]))
            for n in members
        }
        total = log_sum_exp(list(similar.values()))
        for n in members:
            shares[n].append(similar[n] - total)
    return {n: log_sum_exp(own) - log(len(members)) for n, own in shares.items()}


def gate(m: int, members: list[int], h: list[Vector], parameters: Arrays) -> float:
    """The gate of SimMLM for m: a linear map of the features of all active modalities."""
    weight, bias = parameters["policy.gate_weight"], parameters["policy.gate_bias"]
    products = [x * float(weight[n, d, m]) for n in members for d, x in enumerate(h[n])]
    return fsum([float(bias[m]), *products])


def log_commitment(row: Vector) -> float:
    """log(1 - u): the log of E / (E + C), where E, the evidence, may be too small for a number."""
    log_evidence = log_sum_exp([x if x < -40 else log(softplus(x)) for x in row])
    return -softplus(log(len(row)) - log_evidence)


def consistency_loss(features: NDArray[Any], weights: NDArray[Any]) -> NDArray[np.float64]:
    """Computes the consistency loss of each sample, [B]."""
    losses = []
    for h, w in zip(features, weights, strict=True):
        members = [m for m in range(len(w)) if w[m] > 0]
        z = [fsum(float(w[m]) * float(h[m, k]) for m in members) for k in range(h.shape[1])]
        losses.append(
            fsum(
                float(w[m]) * (float(h[m, k]) - z[k]) ** 2
                for m in members
                for k in range(h.shape[1])
            )
        )
    return np.array(losses)
