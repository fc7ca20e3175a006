"""Defines a golden vector: a case with its exact answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dms_spec.artifact import Artifact
from dms_spec.conformance import closeness
from dms_spec.errors import SpecError
from dms_spec.spec import SchedulerSpec

Arrays = Mapping[str, NDArray[Any]]
Floats = NDArray[np.float64]

#: The dtypes that a case may come in.
DTYPES = ("float64", "float32", "float16", "bfloat16")
#: The errors that a vector may ask for.
REFUSALS = ("NonFiniteInput", "NothingPresent", "ArtifactError")
#: Outputs that have an axis of their own in place of the modalities, or beside it.
OF_CLASSES = ("fused", "probabilities", "unimodal")


@dataclass(frozen=True, kw_only=True, eq=False)
class Expected:
    """Says what one output should be.

    Attributes:
        values: The oracle's answer, float64, in the output's shape.
        scale: Its scale, float64, in the same shape; infinite where any finite number will do.
        allowance: What is allowed on top, float64, in the same shape: the last rounding of a
            fused value that is returned in a narrower dtype than it is computed in. 0 elsewhere.
    """

    values: Floats
    scale: Floats
    allowance: Floats


@dataclass(frozen=True, kw_only=True, eq=False)
class Embedded:
    """Says what a case of the level ``heads`` starts from, beside its parameters.

    Attributes:
        embeddings: ``[B, D_m]``, by modality.
        dropout: The rate of dropout.
        prior: The class probabilities where nothing is active, float64 ``[C]``.
    """

    embeddings: Arrays
    dropout: float
    prior: Floats


@dataclass(frozen=True, kw_only=True, eq=False)
class Vector:
    """Holds a case and its answer.

    Attributes:
        description: What it is about, in one line.
        clauses: Ids of the clauses that it tests. The first is the one that is named when a value
            is off.
        dtype: Name of the dtype that the case comes in.
        spec: What to compute.
        arrays: ``features`` ``[B, M, D]``, ``logits`` ``[B, M, C]``, ``mc_logits``
            ``[T, B, M, C]`` and ``present`` ``[B, M]`` (bool), as far as they are given, each in
            its own dtype.
        parameters: Parameter arrays by full name.
        active: bool ``[B, M]``: who takes part.
        expected: ``scores``, ``weights``, ``fused``, where evidence is fused ``soundness``, and
            each signal, by name; of the level ``heads``, also the class probabilities:
            ``probabilities`` ``[B, C]`` and, where all embeddings are finite, ``unimodal``
            ``[B, M, C]``. Empty where the case is to be refused.
        refusal: Name of the error that the spec asks for; empty if the case has an answer.
        k: The constant of closeness.
        heads: The embeddings, of the level ``heads``; ``arrays`` is what the heads give then.

    Example:
        >>> import numpy as np
        >>> from dms_spec import SchedulerSpec
        >>> from dms_spec.conformance.vectors import freeze
        >>> vector = freeze(
        ...     SchedulerSpec.preset("static", ("image", "text")),
        ...     {"features": np.ones((1, 2, 3))},
        ...     {},
        ...     clause="DMS-W-001",
        ...     description="two alike",
        ...     dtype="float64",
        ... )
        >>> vector.computing, vector.refusal, sorted(vector.expected)
        ('float64', '', ['fused', 'scores', 'weights'])
    """

    description: str
    clauses: tuple[str, ...]
    dtype: str
    spec: SchedulerSpec
    arrays: Arrays
    parameters: Arrays = field(default_factory=dict)
    active: NDArray[np.bool_]
    expected: Mapping[str, Expected]
    refusal: str = ""
    k: float = closeness.K
    heads: Embedded | None = None

    @property
    def artifact(self) -> Artifact:
        """The artifact of a case of the level ``heads``."""
        if self.heads is None:
            raise SpecError("the vector has no heads", fix='read_vectors(level="heads") has some.')
        passes = self.arrays["mc_logits"].shape[0]
        return Artifact(
            spec=self.spec,
            parameters=dict(self.parameters),
            model={
                "classes": list(range(len(self.heads.prior))),
                "prior": self.heads.prior.tolist(),
                "dropout": self.heads.dropout,
                "passes": passes,
            },
        )

    @property
    def computing(self) -> str:
        """The name of the computing dtype (DMS-S-002)."""
        return computing(self.arrays)

    @property
    def eps(self) -> float:
        """The eps of the computing dtype."""
        return float(np.finfo(self.computing).eps)


def computing(arrays: Arrays) -> str:
    """Names the dtype that a batch is computed in (DMS-S-002)."""
    wide = any(array.dtype == np.float64 for array in arrays.values())
    return "float64" if wide else "float32"
