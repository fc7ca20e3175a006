"""Reads what a fitted artifact says beside its scheduler: its model and its heads, checked."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Any

import array_api_compat.numpy
import numpy as np
from numpy.typing import NDArray

from dms_spec.artifact import Artifact
from dms_spec.engine.resolve import Resolved, resolve
from dms_spec.equations.heads import apply_heads
from dms_spec.equations.namespace import Namespace
from dms_spec.errors import ArtifactError, DMSError, ShapeError, SpecError
from dms_spec.types import Array

_NS = Namespace.of(array_api_compat.numpy, np.ndarray)


def head_outputs(resolved: Resolved, passes: int) -> tuple[str, ...]:
    """What the heads must compute for a spec, out of `HEAD_OUTPUTS`, in their order.

    Without passes there are no ``mc_logits``. A signal that reads them is then 0, with a note.
    """
    read = resolved.reads()
    if passes == 0:
        read.discard("mc_logits")
    return tuple(name for name in ("features", "logits", "mc_logits") if name in read)


class FittedHeads:
    """Holds what a predictor reads of an artifact, checked, since it may come from anywhere.

    Attributes:
        artifact: The artifact itself.
        classes: The labels' own values ``[C]``, in the order of the probabilities.
        prior: Class frequencies ``[C]`` of the training rows.
        usual: The likeliest class of the prior.
        dropout: The rate that the frozen masks were drawn with.
        passes: How many there are.
        outputs: What the heads compute for the artifact's spec, out of `HEAD_OUTPUTS`.
        heads: The parameters that are not the scheduler's, by full name.

    Raises:
        ArtifactError: There are no heads, or they do not fit the model or the spec.
    """

    def __init__(self, artifact: Artifact) -> None:
        model = artifact.model
        if not model:
            raise ArtifactError(
                "the artifact has no heads",
                expected="one that was written by `dms fit`",
                got="a scheduler alone",
                fix="Use it with `dms schedule`, on features and logits of your own.",
            )
        classes: Any = model.get("classes")
        prior: Any = model.get("prior")
        if not isinstance(classes, list) or not classes or not _plain(classes):
            raise _unusable("classes", "a list of integers or of strings, each once", classes)
        numbers = isinstance(prior, list) and all(_number(p) and p >= 0 for p in prior)
        if not numbers or len(prior) != len(classes) or abs(sum(prior) - 1) > 1e-6:
            raise _unusable("prior", f"{len(classes)} numbers that sum to one", prior)
        dropout: Any = model.get("dropout")
        passes: Any = model.get("passes")
        if not _number(dropout) or not 0 <= dropout < 1:
            raise _unusable("dropout", "a number in [0, 1)", dropout)
        if not isinstance(passes, int) or isinstance(passes, bool) or passes < 0:
            raise _unusable("passes", "an integer, 0 or more", passes)
        self.artifact = artifact
        self.classes = np.array(classes)
        self.prior = np.array(prior)
        self.dropout, self.passes = float(dropout), passes
        self.usual = classes[int(self.prior.argmax())]
        own = artifact.scheduler_parameters
        resolved = resolve(artifact.spec, own)
        self.outputs = head_outputs(resolved, passes)
        self.heads = {k: v for k, v in artifact.parameters.items() if k not in own}
        try:
            self._check_heads(resolved)
        except DMSError as error:
            raise ArtifactError(
                "the artifact has no usable heads",
                got=str(error),
                fix="Fit one with `dms fit`; a scheduler alone is for `dms schedule`.",
            ) from error

    @property
    def widths(self) -> dict[str, int]:
        """How many numbers each head reads, by modality."""
        return {name: self._no_rows(name).shape[1] for name in self.artifact.spec.modalities}

    def check_rows(self, embeddings: Mapping[str, Array], present: Array) -> None:
        """Refuses rows of embeddings that do not have the sizes of the heads.

        Raises:
            ShapeError: An array has another rank, width or number of rows.
        """
        rows, widths = tuple(present.shape)[:1], self.widths
        shapes = {name: (*rows, width) for name, width in widths.items()}
        arrays = {**embeddings, "present": present}
        for name, wanted in {**shapes, "present": (*rows, len(widths))}.items():
            got = tuple(arrays[name].shape)
            if got != wanted:
                raise ShapeError(
                    f"{name!r} has the wrong shape", expected=str(wanted), got=str(got)
                )

    def _check_heads(self, resolved: Resolved) -> None:
        """Checks on a table without rows that heads, head and model fit each other."""
        names = self.artifact.spec.modalities
        for name in names:
            for short in ("scale.unit", "temperature"):
                values = self.heads.get(f"heads.{name}.{short}")
                if values is not None and not (values > 0).all():
                    raise ShapeError(f"{short} of {name!r} is not above 0")
        first = f"heads.{names[0]}.projection.weight"
        if resolved.shares_space() and first not in self.heads:
            raise SpecError(
                "features of different modalities are compared, and there is no projection "
                f"into a common space: the heads lack {first!r}"
            )
        logits = apply_heads(
            _NS,
            {name: self._no_rows(name) for name in names},
            np.zeros((0, len(names)), dtype=bool),
            self.heads,
            modalities=names,
            dropout=self.dropout,
            outputs=(*self.outputs, "logits"),
        )["logits"]
        if int(logits.shape[-1]) != len(self.classes):
            raise ShapeError(
                "the classifiers do not fit the classes",
                expected=f"C = {len(self.classes)}",
                got=f"C = {logits.shape[-1]}",
            )
        if self.artifact.spec.fusion == "feature":
            self._check_head()
        # All of it or nothing: one that lost a part would be silent without a word.
        if self.artifact.spec.fusion == "evidence" and any(
            k.startswith("joint.") for k in self.heads
        ):
            self._check_joint()

    def _no_rows(self, name: str) -> NDArray[np.float32]:
        shape = np.shape(self.heads.get(f"heads.{name}.scale.zero", ()))
        return np.zeros((0, *(shape or (1,))), np.float32)

    def _check_head(self) -> None:
        width = self.heads[f"heads.{self.artifact.spec.modalities[0]}.projection.bias"]
        classes = len(self.classes)
        self._check_shapes({"head.weight": (int(width.shape[0]), classes), "head.bias": (classes,)})

    def _check_joint(self) -> None:
        classes = len(self.classes)
        weights = {f"joint.{name}.weight": (width, classes) for name, width in self.widths.items()}
        self._check_shapes({"joint.share": (), "joint.bias": (classes,), **weights})
        share = float(self.heads["joint.share"])
        if not 0 <= share <= 1:
            raise SpecError(
                "joint.share is not a share", expected="a number in [0, 1]", got=str(share)
            )

    def _check_shapes(self, expected: Mapping[str, tuple[int, ...]]) -> None:
        for name, shape in expected.items():
            got = tuple(self.heads[name].shape) if name in self.heads else "none"
            if got != shape:
                raise ShapeError(f"{name} does not fit", expected=str(shape), got=str(got))


def _plain(classes: list[Any]) -> bool:
    kind = type(classes[0])
    same = kind in (int, bool, str) and all(type(c) is kind for c in classes)
    return same and len(set(classes)) == len(classes) and np.array(classes).dtype != object


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)


def _unusable(name: str, expected: str, got: object) -> ArtifactError:
    return ArtifactError(
        f"the artifact's model has no usable {name}", expected=expected, got=repr(got)[:80]
    )
