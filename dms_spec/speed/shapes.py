"""Makes batches of a given shape to time schedulers on."""

from __future__ import annotations

from dataclasses import astuple, dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from dms_spec.errors import SpecError

#: The letter of each axis, and the field that holds its size.
AXES = {"B": "samples", "M": "modalities", "D": "width", "C": "classes", "T": "passes"}


@dataclass(frozen=True)
class Shape:
    """Holds the size of each axis of a batch: features [B, M, D] and mc_logits [T, B, M, C]."""

    samples: int
    modalities: int
    width: int
    classes: int
    passes: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads five sizes, such as ``1024,3,768,1000,10``.

        Raises:
            SpecError: They are not five whole numbers above 0.
        """
        parts = text.split(",")
        if len(parts) != len(AXES) or not all(part.isdecimal() and int(part) for part in parts):
            raise SpecError(
                "a shape is five whole numbers above 0",
                expected="B,M,D,C,T, such as 1024,3,768,1000,10",
                got=text,
                fix="Give samples, modalities, width of features, classes and passes.",
            )
        return cls(*map(int, parts))

    def __str__(self) -> str:
        return " ".join(f"{axis}={size}" for axis, size in self.sizes().items())

    def sizes(self) -> dict[str, int]:
        """The size of each axis, by its letter."""
        return dict(zip(AXES, astuple(self), strict=True))

    def grown(self, axis: str, factor: int) -> Self:
        """The same shape with one axis so many times as long."""
        name = AXES[axis]
        return replace(self, **{name: getattr(self, name) * factor})

    @property
    def exponentials(self) -> int:
        """How many exponentials the passes hold."""
        return self.passes * self.samples * self.modalities * self.classes

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Draws a batch with everything present, float32, from a fixed seed."""
        random = np.random.Generator(np.random.Philox(0))
        b, m, d, c, t = astuple(self)

        def normal(*shape: int) -> NDArray[Any]:
            return random.standard_normal(shape, dtype=np.float32)

        return {
            "features": normal(b, m, d),
            "logits": normal(b, m, c) * 3,
            "mc_logits": normal(t, b, m, c) * 3,
            "present": np.ones((b, m), dtype=bool),
        }
