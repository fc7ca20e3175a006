"""Lists cases of heads: from embeddings to class probabilities, all of numbers with few digits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dms_spec.artifact import Artifact
from dms_spec.conformance.vectors import Vector, freeze_rows
from dms_spec.spec import SchedulerSpec
from golden.cases import INF, NAN, draw, names, spec

WIDTHS = (2, 3)
CLASSES, WIDTH, PASSES = 3, 2, 2


@dataclass
class Rows:
    """A case before it is rounded to a dtype; everything in it is float64."""

    clause: str
    description: str
    spec: SchedulerSpec
    parameters: dict[str, Any]
    embeddings: dict[str, np.ndarray]
    present: Any
    damage: dict[str, Any] | None = None

    def frozen(self, dtype: str) -> Vector:
        def rounded(arrays: dict[str, Any]) -> dict[str, Any]:
            return {name: np.asarray(array, dtype=dtype) for name, array in arrays.items()}

        model = {"dropout": 0.5, "prior": [0.5, 0.375, 0.125], "passes": PASSES}
        model["classes"] = list(range(CLASSES))
        whole = Artifact(spec=self.spec, parameters=rounded(self.parameters), model=model)
        vector = freeze_rows(
            whole,
            rounded(self.embeddings),
            np.array(self.present, dtype=bool),
            clause=self.clause,
            description=self.description,
            dtype=dtype,
        )
        if self.damage is None:
            return vector
        changed = rounded(
            {k: v for k, v in (self.parameters | self.damage).items() if v is not None}
        )
        return replace(vector, parameters=changed, expected={}, refusal="ArtifactError")


def drawn(name: str, *, projected: bool = True, joint: bool = False) -> dict[str, Any]:
    """Parameters of heads; exact in float32, in whatever order they are used."""
    own: dict[str, Any] = {}
    for modality, width in zip(names(2), WIDTHS, strict=True):
        label = f"{name} {modality}"
        parts = {
            "scale.zero": draw(f"{label} zero", width, span=1.0, bits=4),
            "scale.unit": 2.0 ** draw(f"{label} unit", width, span=1.0, bits=1),
            "classifier.weight": draw(f"{label} weight", width, CLASSES, span=2.0),
            "classifier.bias": draw(f"{label} bias", CLASSES, span=1.0),
            "dropout.masks": draw(f"{label} masks", PASSES, width, bits=1) < 0,
            "temperature": np.asarray(0.5 if modality == "m0" else 2.0),
        }
        if projected:
            parts["projection.weight"] = draw(f"{label} projection", width, WIDTH, span=1.0)
            parts["projection.bias"] = draw(f"{label} projection bias", WIDTH, span=1.0)
        own |= {f"heads.{modality}.{part}": array for part, array in parts.items()}
        if joint:
            own[f"joint.{modality}.weight"] = draw(f"{label} joint", width, CLASSES, span=2.0)
    if joint:
        own |= {"joint.bias": draw(f"{name} joint bias", CLASSES), "joint.share": np.asarray(0.75)}
    return own


def d_heads() -> Iterator[Rows]:
    embeddings = {
        name: draw(f"embeddings {name}", 3, width, bits=6)
        for name, width in zip(names(2), WIDTHS, strict=True)
    }
    some = [[1, 1], [1, 0], [0, 0]]
    plain, bare = drawn("heads"), drawn("heads", projected=False)
    signals = {"confidence": {}, "uncertainty": {}}
    weighed = {"signals": signals, "coefficients": {"confidence": 2.0, "uncertainty": 4.0}}
    head = {
        "head.weight": draw("head weight", WIDTH, CLASSES),
        "head.bias": draw("head bias", CLASSES),
    }
    feature, logit, probability = (
        spec(2, fusion=level, **weighed) for level in ("feature", "logit", "probability")
    )
    trust = spec(2, "soundness", fusion="evidence")
    usual = "DMS-D-011 DMS-D-012 DMS-D-001 DMS-D-002"
    for level, own in ((feature, plain | head), (logit, plain), (probability, bare), (trust, bare)):
        yield Rows(usual, f"level {level.fusion}", level, own, embeddings, some)
    absent = {name: x.copy() for name, x in embeddings.items()}
    absent["m1"][1], absent["m0"][2], absent["m1"][2] = NAN, INF, -INF
    yield Rows("DMS-D-004 DMS-D-012", "what is absent is not finite", logit, plain, absent, some)
    lost = {name: x.copy() for name, x in embeddings.items()}
    lost["m1"][0, 1], lost["m0"][1, 0] = NAN, INF
    yield Rows("DMS-D-004 DMS-P-005", "what is there is not finite", logit, plain, lost, some)
    joint = drawn("heads", projected=False, joint=True)
    yield Rows("DMS-D-007 DMS-D-008", "a joint expert", trust, joint, embeddings, some)
    sound = {"policy.doubt": np.asarray(-40.0), "policy.exponent": draw("exponent", 2, span=1.0)}
    every = [[1, 1], [1, 1], [0, 1]]
    yield Rows(
        "DMS-D-007 DMS-D-008", "a joint expert that is believed", trust, joint | sound, embeddings,
        every,
    )  # fmt: skip
    damages: dict[str, dict[str, Any]] = {
        "no temperature": {"heads.m1.temperature": None},
        "no masks": {"heads.m0.dropout.masks": None},
        "a temperature of 0": {"heads.m0.temperature": np.zeros(())},
        "a scale below 0": {"heads.m1.scale.unit": -plain["heads.m1.scale.unit"]},
        "heads of different classes": {
            "heads.m1.classifier.weight": plain["heads.m1.classifier.weight"][:, 1:]
        },
        "no classifier of what is fused": {"head.weight": None},
    }
    for what, damage in damages.items():
        yield Rows("DMS-D-013", what, feature, plain | head, embeddings, some, damage)


CASES = (d_heads,)
