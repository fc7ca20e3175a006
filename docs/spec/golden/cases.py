"""Defines what a case is, and the small pieces that cases are made of."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import numpy as np

from dms_spec.conformance.vectors import Vector, freeze
from dms_spec.spec import SchedulerSpec

NAN, INF = float("nan"), float("inf")
DTYPES = ("float64", "float32")
NEEDS = {
    "confidence": ("logits",),
    "uncertainty": ("mc_logits",),
    "mutual_information": ("mc_logits",),
    "alignment": ("features",),
    "anchored_alignment": ("features",),
    "agreement": ("logits",),
    "corroboration": ("logits",),
    "energy": ("logits",),
    "typicality": ("features",),
}


@dataclass
class Case:
    """A case before it is rounded to a dtype; ``arrays`` and ``parameters`` are float64."""

    clause: str
    description: str
    spec: SchedulerSpec
    arrays: dict[str, Any]
    parameters: dict[str, Any] = field(default_factory=dict)

    def frozen(self, dtype: str) -> Vector:
        def rounded(arrays: dict[str, Any]) -> dict[str, Any]:
            return {
                name: np.array(array, dtype=bool if name == "present" else dtype)
                for name, array in arrays.items()
            }

        return freeze(
            self.spec,
            rounded(self.arrays),
            rounded(self.parameters),
            clause=self.clause,
            description=self.description,
            dtype=dtype,
        )


def draw(name: str, *shape: int, span: float = 4.0, bits: int = 9) -> np.ndarray:
    """Numbers in [-span, span), the same for the same name; few bits, so that files stay small."""
    raw = np.random.Philox(key=zlib.crc32(name.encode())).random_raw(int(np.prod(shape)))
    top = (raw >> np.uint64(64 - bits)).astype(np.float64)
    return (top * 2.0 ** (1 - bits) - 1).reshape(shape) * span


def names(count: int) -> tuple[str, ...]:
    return tuple(f"m{i}" for i in range(count))


def spec(count: int, policy: str = "linear", /, **changes: Any) -> SchedulerSpec:
    return SchedulerSpec(modalities=names(count), policy=policy, **changes)


def batch(name: str, *, b: int = 2, m: int = 3, d: int = 2, c: int = 3, t: int = 2) -> dict:
    """Features, logits and passes, drawn; leave out what the spec does not read with `only`."""
    return {
        "features": draw(f"{name} features", b, m, d),
        "logits": draw(f"{name} logits", b, m, c),
        "mc_logits": draw(f"{name} mc_logits", t, b, m, c),
    }


def only(arrays: dict, *roles: str) -> dict:
    return {role: arrays[role].copy() for role in roles}


def ln(values: Any) -> np.ndarray:
    """Logarithms, correctly rounded on every machine; of 0, minus infinity."""
    flat = [float(Decimal(str(x)).ln()) if x else -INF for x in np.ravel(values).tolist()]
    return np.array(flat).reshape(np.shape(values))


PAPER = SchedulerSpec.preset("paper", names(3))


def one_signal(
    name: str, count: int = 3, coefficient: float = 2.0, **options: Any
) -> SchedulerSpec:
    """A spec that weighs one signal, fused at the level of what it reads."""
    return spec(
        count,
        signals={name: options},
        coefficients={name: coefficient},
        fusion="feature" if "features" in NEEDS[name] else "probability",
    )


def opposed(*roles: str) -> dict:
    """Two passes: of one opinion, sure of opposite classes, and sure against unsure."""
    a, b, even = [0.0, -INF], [-INF, 0.0], [0.0, 0.0]
    arrays = {"mc_logits": [[[a, a, a]], [[a, b, even]]]}
    return arrays | {role: [[even, even, even]] for role in roles}
