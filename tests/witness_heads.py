"""The second witness: its heads, from embeddings to class probabilities, from the text alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dms_spec import ModalityBatch, RowPredictor, Schedule, Scheduler
from dms_spec.artifact import Artifact
from dms_spec.errors import ArtifactError, DTypeError, ShapeError

Values = NDArray[Any]

_PARTS = {
    "scale.zero": "n",
    "scale.unit": "n",
    "classifier.weight": "nc",
    "classifier.bias": "c",
    "dropout.masks": "tn",
    "temperature": "",
}
_PROJECTION = {"projection.weight": "nd", "projection.bias": "d"}


class WitnessRows(RowPredictor):
    """Runs heads around a scheduler, in float64."""

    def __init__(self, artifact: Artifact, scheduler: Scheduler) -> None:
        self._spec, self._scheduler = artifact.spec, scheduler
        self._prior = np.asarray(artifact.model["prior"])
        self._rate = float(artifact.model["dropout"])
        self._p = {k: np.asarray(v, np.float64) for k, v in artifact.parameters.items()}
        sizes = {"c": len(self._prior), "t": int(artifact.model["passes"])}
        for name in self._spec.modalities:
            sizes.pop("n", None)
            self._check(name, sizes)

    def _check(self, name: str, sizes: dict[str, int]) -> None:
        start = f"heads.{name}."
        projected = f"{start}projection.weight" in self._p
        for part, axes in (_PARTS | (_PROJECTION if projected else {})).items():
            array = self._p.get(start + part)
            if array is None:
                raise ArtifactError(f"the head of {name} has no {part}")
            fits = array.ndim == len(axes) and all(
                sizes.setdefault(axis, size) == size
                for axis, size in zip(axes, array.shape, strict=True)
            )
            if not fits:
                raise ArtifactError(f"{part} of {name} does not fit: {array.shape}")
            if part in ("scale.unit", "temperature") and not (array > 0).all():
                raise ArtifactError(f"{part} of {name} has to be above 0")

    def _heads(self, embeddings: Mapping[str, Values], present: Values) -> dict[str, Values]:
        if present.dtype != bool:
            raise DTypeError(f"present has to be bool and is {present.dtype}")
        found = []
        for m, name in enumerate(self._spec.modalities):
            own = {k.removeprefix(f"heads.{name}."): v for k, v in self._p.items()}
            x = embeddings[name]
            if "float" not in x.dtype.name:
                raise DTypeError(f"{name} has to be floating and is {x.dtype}")
            if x.shape != (len(present), len(own["scale.zero"])):
                raise ShapeError(f"the embeddings of {name} do not fit: {x.shape}")
            found.append(self._head(np.where(present[:, m, None], x, 0.0), own))
        width = max(h.shape[1] for h, _, _ in found)
        features = [np.pad(h, ((0, 0), (0, width - h.shape[1]))) for h, _, _ in found]
        there = present[..., None]
        return {
            "features": np.where(there, np.stack(features, axis=1), 0.0),
            "logits": np.where(there, np.stack([h[1] for h in found], axis=1), 0.0),
            "mc_logits": np.where(there, np.stack([h[2] for h in found], axis=2), 0.0),
        }

    def _head(self, x: Values, own: Mapping[str, Values]) -> tuple[Values, Values, Values]:
        s = (x - own["scale.zero"]) / own["scale.unit"]
        weight, bias, tau = own["classifier.weight"], own["classifier.bias"], own["temperature"]
        with np.errstate(invalid="ignore"):  # what is not finite stays so
            passes = s * own["dropout.masks"][:, None] / (1 - self._rate)
            h = s
            if "projection.weight" in own:
                h = s @ own["projection.weight"] + own["projection.bias"]
            return h, (s @ weight + bias) / tau, (passes @ weight + bias) / tau

    def predict(self, embeddings: Mapping[str, Values], present: Values) -> tuple[Schedule, Values]:
        heads = self._heads(embeddings, present)
        dtype = np.result_type(np.float32, *embeddings.values())
        batch = {name: array.astype(dtype) for name, array in heads.items()}
        result = self._scheduler(ModalityBatch(**batch, present=present))
        fused = result.fused.astype(np.float64)
        if self._spec.fusion == "feature":
            fused = fused @ self._p["head.weight"] + self._p["head.bias"]
        p = fused if self._spec.fusion == "probability" else _softmax(fused)
        some = result.active.any(axis=1, keepdims=True)
        return result, np.where(some, p, self._prior).astype(result.weights.dtype)

    def unimodal(self, embeddings: Mapping[str, Values], present: Values) -> Values:
        dtype = np.result_type(np.float32, *embeddings.values())
        return _softmax(self._heads(embeddings, present)["logits"]).astype(dtype)


def _softmax(logits: Values) -> Values:
    e = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(e / e.sum(axis=-1, keepdims=True))
