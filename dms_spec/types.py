"""Defines what goes into a scheduler and what comes out: two frozen dataclasses of arrays.

The arrays are those of the backend's own library; nothing here touches their values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from dms_spec.errors import MissingInput, ShapeError

#: An array of whichever library the backend computes in.
Array = Any

#: The axes of each array of a batch.
AXES: Mapping[str, tuple[str, ...]] = {
    "features": ("B", "M", "D"),
    "logits": ("B", "M", "C"),
    "mc_logits": ("T", "B", "M", "C"),
    "present": ("B", "M"),
}

#: The arrays of a batch, in the order of the specification.
INPUT_NAMES: tuple[str, ...] = tuple(AXES)

#: What comes out of a schedule or a prediction, or names its rows. No modality or signal is called
#: so.
OUTPUT_NAMES: tuple[str, ...] = (
    "probabilities",
    "predicted",
    "weights",
    "active",
    "soundness",
    "scores",
    "fused",
    "unimodal",
    "ids",
)

#: What the name of a term begins with, beside those of signals.
TERMS = "terms."


@dataclass(frozen=True, kw_only=True)
class ModalityBatch:
    """Holds one batch of samples, seen through M modalities.

    The arrays are those of the backend's library. Their values are checked by the scheduler, their
    shapes here. Source: the specification, Model, table of inputs.

    Args:
        features: Encoder outputs, floating, ``[B, M, D]``.
        logits: Unnormalised log-probabilities per modality, floating, ``[B, M, C]``.
        mc_logits: The same from T stochastic passes, floating, ``[T, B, M, C]``.
        present: True where a modality is there, bool, ``[B, M]``. Without it, every modality counts
            as present.

    Raises:
        ShapeError: An array has the wrong rank, or sizes disagree.
        MissingInput: Neither features nor logits were given.

    Example:
        >>> import numpy as np
        >>> from dms_spec import ModalityBatch
        >>> batch = ModalityBatch(logits=np.zeros((8, 2, 5)), present=np.ones((8, 2), dtype=bool))
        >>> batch.shape
        (8, 2)
    """

    features: Array = None
    logits: Array = None
    mc_logits: Array = None
    present: Array = None

    def __post_init__(self) -> None:
        if self.features is None and self.logits is None:
            raise MissingInput(
                "a batch holds no evidence",
                expected="features [B, M, D], logits [B, M, C], or both",
                got="neither",
                fix="Give at least one of the two.",
            )
        sizes: dict[str, tuple[int, str]] = {}
        for name, array in self.arrays().items():
            axes = AXES[name]
            shape = tuple(getattr(array, "shape", ()))
            if len(shape) != len(axes):
                raise ShapeError(
                    f"{name} has the wrong rank",
                    expected=f"{len(axes)} axes [{', '.join(axes)}]",
                    got=f"{len(shape)} axes {list(shape)}",
                    fix=f"Reshape {name} so that its axes are [{', '.join(axes)}].",
                )
            for axis, size in zip(axes, shape, strict=True):
                # C is the classes' axis of logits and of mc_logits alike.
                known, first = sizes.setdefault(axis, (size, name))
                if size != known:
                    raise ShapeError(
                        f"{name} and {first} disagree about {axis}",
                        expected=f"{axis} = {known} as in {first}",
                        got=f"{axis} = {size} in {name} {list(shape)}",
                        fix="Both must describe the same samples, modalities and classes.",
                    )
                if size == 0 and axis not in ("B", "T"):
                    raise ShapeError(
                        f"{name} has an empty axis {axis}",
                        expected=f"at least one entry along {axis}",
                        got=f"shape {list(shape)}",
                        fix="Only the batch B and the passes T may be empty.",
                    )

    def arrays(self) -> dict[str, Array]:
        """The arrays that are there, by name, in the specification's order."""
        given = {name: getattr(self, name) for name in INPUT_NAMES}
        return {name: array for name, array in given.items() if array is not None}

    @property
    def shape(self) -> tuple[int, int]:
        """How many samples and how many modalities: B and M."""
        array = self.features if self.features is not None else self.logits
        # As they are: int() would freeze a size that an exporter keeps symbolic.
        return array.shape[0], array.shape[1]

    @property
    def passes(self) -> int | None:
        """How many Monte-Carlo passes: T; None without ``mc_logits``."""
        return None if self.mc_logits is None else self.mc_logits.shape[0]


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Holds what a scheduler decided, in the arrays of the backend's library.

    Floating arrays are of the computing dtype: that of the inputs, or float32 where those are of
    half precision. Source: the specification, Model, table of outputs.

    Attributes:
        weights: Trust per modality, ``[B, M]``; rows with something active sum to one.
        fused: Weighted sum, ``[B, D]`` for features, ``[B, C]`` for logits or probabilities; class
            probabilities ``[B, C]`` for evidence.
        scores: What the softmax saw, ``[B, M]``; -inf where a modality is not active.
        active: Present and finite, bool, ``[B, M]``.
        signals: Each signal under its name, ``[B, M]``; 0 where a modality is not active.
        terms: What each term added to the scores, ``[B, M]``; they sum to the scores.
        soundness: The probability that each modality is sound, given what all of them say,
            ``[B, M]``; 0 where not active. None but for evidence.
        notes: Everything that was weaker than asked for, in words. Empty when nothing was.

    Example:
        >>> import numpy as np
        >>> from dms_spec import ModalityBatch, SchedulerSpec, get_backend
        >>> spec = SchedulerSpec.preset("static", ("image", "text"))
        >>> batch = ModalityBatch(features=np.ones((1, 2, 3)))
        >>> result = get_backend("numpy").scheduler(spec)(batch)
        >>> result.weights
        array([[0.5, 0.5]])
    """

    weights: Array
    fused: Array
    scores: Array
    active: Array
    signals: Mapping[str, Array] = field(default_factory=dict)
    terms: Mapping[str, Array] = field(default_factory=dict)
    soundness: Array = None
    notes: tuple[str, ...] = ()

    def converted(self, convert: Callable[[Array], Array]) -> Schedule:
        """Converts every array, as by ``backend.to_numpy``."""
        return Schedule(
            weights=convert(self.weights),
            fused=convert(self.fused),
            scores=convert(self.scores),
            active=convert(self.active),
            signals={name: convert(array) for name, array in self.signals.items()},
            terms={name: convert(array) for name, array in self.terms.items()},
            soundness=None if self.soundness is None else convert(self.soundness),
            notes=self.notes,
        )

    def arrays(self) -> dict[str, Array]:
        """The arrays as ``dms schedule`` names them in its output file."""
        own = {} if self.soundness is None else {"soundness": self.soundness}
        return {
            "weights": self.weights,
            "fused": self.fused,
            "scores": self.scores,
            "active": self.active,
            **own,
            **self.signals,
        }
