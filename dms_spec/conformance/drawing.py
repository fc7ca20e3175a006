"""Draws parameters with NumPy, as a fit gives them: of policies, levels and typicality."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dms_spec.spec import SchedulerSpec

Arrays = dict[str, NDArray[Any]]

#: Policies that learn.
LEARNED = ("learned_linear", "residual_mlp", "monotone")


def parameters(
    spec: SchedulerSpec,
    random: np.random.Generator,
    *,
    width: int,
    dtype: Any,
    classes: int | None = None,
    optional: bool = False,
    own: bool = False,
) -> Arrays:
    """Draws the parameters that a spec of the core needs.

    Args:
        spec: The spec.
        random: Where they are drawn from.
        width: D.
        dtype: Of all of them.
        classes: C; None leaves out what has an axis of classes.
        optional: Whether to give those that the policy or the level can do without.
        own: Whether each modality has an anchor of its own, ``[M, D]``.
    """
    modalities, count = len(spec.modalities), len(spec.coefficients)
    shapes: dict[str, tuple[int, ...]] = {}
    if "anchored_alignment" in spec.signals:
        shapes["signals.anchored_alignment.anchor"] = (modalities, width) if own else (width,)
    fitted: Arrays = {}
    if "typicality" in spec.signals:
        fitted = typical(random, modalities, width) | trust(random, modalities, width)
        fitted = {f"signals.typicality.{name}": array for name, array in fitted.items()}
    if spec.policy == "soundness" and optional:
        shapes["policy.exponent"] = (modalities,)
        fitted["policy.doubt"] = np.asarray(
            random.choice([random.uniform(-8.0, 2.0), -40.0], p=[0.9, 0.1])
        )
    if spec.fusion == "evidence" and optional and classes is not None:
        fitted |= level(random, modalities, classes)
    if spec.policy in LEARNED:
        shapes["policy.theta"] = (count,)
    if spec.policy == "learned_linear" or (spec.policy == "static" and optional):
        shapes["policy.bias"] = (modalities,)
    if spec.policy in ("residual_mlp", "monotone"):
        hidden = int(random.choice([1, 3, 16, 17, 40, 130]))
        shapes["policy.hidden_weight"] = (count, hidden)
        shapes["policy.hidden_bias"] = shapes["policy.output_weight"] = (hidden,)
    if spec.policy == "dmome":
        shapes["policy.gate_weight"] = (modalities, width, modalities)
        shapes["policy.gate_bias"] = (modalities,)
    if spec.policy == "co_attention" and optional:
        shapes["policy.query"] = shapes["policy.key"] = (width, int(random.choice([1, 3, 8, 33])))
    drawn = {name: random.normal(size=shape) for name, shape in shapes.items()}
    if "policy.theta" in drawn:
        drawn["policy.theta"] = drawn["policy.theta"] * random.choice([1.0, 1.0, 1.0, 8.0])
    return {name: array.astype(dtype) for name, array in (drawn | fitted).items()}


def level(random: np.random.Generator, modalities: int, classes: int) -> Arrays:
    """What fusion of evidence reads, float64: skewed classes, some never seen, some impossible."""

    def shares(*shape: int) -> NDArray[Any]:
        drawn = np.exp(2.0 * random.normal(size=shape))
        drawn = np.where(random.random(shape) < random.choice([0.0, 0.3]), 0.0, drawn)
        return np.asarray(drawn / np.maximum(drawn.sum(axis=-1, keepdims=True), 1e-300))

    prior = shares(classes)
    if not prior.any():  # something is possible; a modality may have seen nothing
        prior[0] = 1.0
    return {
        "fusion.prior": prior,
        "fusion.priors": shares(modalities, classes),
        "fusion.redundancy": np.asarray(random.choice([-30.0, -1.5, 0.0, 3.0])),
    }


#: The covariances that a place may have.
COVARIANCES = ("full", "low_rank", "diagonal")
_WIDE = 64


def typical(
    random: np.random.Generator, modalities: int, width: int, covariance: str | None = None
) -> Arrays:
    """Draws where the features of each modality lie, float64, well conditioned, as a fit gives it.

    Args:
        random: Where it is drawn from.
        modalities: M.
        width: D.
        covariance: One of `COVARIANCES`. If None, any, and the diagonal one for great widths, whose
            matrices would take the oracle minutes.
    """
    any_ = "diagonal" if width > _WIDE else str(random.choice(COVARIANCES))
    covariance = covariance or any_
    rank = max(1, width // 2) if covariance == "low_rank" else width
    deviations = np.exp(0.5 * random.normal(size=(modalities, rank)))
    if covariance == "diagonal":
        whitening = 1 / deviations
    else:
        basis = np.linalg.qr(random.normal(size=(modalities, width, width)))[0][..., :rank]
        whitening = basis / deviations[:, None]
    outside = np.exp(random.normal(size=modalities)) if rank < width else np.zeros(modalities)
    return {
        "center": random.normal(size=(modalities, width)),
        "whitening": whitening,
        "deviations": deviations,
        "prototypes": random.normal(size=(modalities, int(random.choice([1, 2, 3, 13])), rank)),
        "outside": outside,
    }


def trust(random: np.random.Generator, modalities: int, width: int) -> Arrays:
    """Draws what distances cost, float64: a band that ordinary features may lie in or beside."""
    low = np.log(width) / 2 + random.uniform(-1.0, 0.5, size=modalities)
    high = low + random.uniform(0.5, 1.5, size=modalities)
    steepness = np.exp(random.uniform(np.log(0.5), np.log(20.0), size=modalities))
    onset = random.choice([0.0, 0.2, 1.0, 3.0], size=modalities)
    return {
        "band": np.stack([low, high], axis=1),
        "loss": np.stack([steepness, onset], axis=1),
    }
