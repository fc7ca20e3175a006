"""Makes a vector: freezes a case together with the oracle's answer."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from dms_spec._version import EDITION
from dms_spec.artifact import Artifact
from dms_spec.conformance import closeness, oracle
from dms_spec.conformance.clauses import clauses
from dms_spec.conformance.fitted_answers import solved
from dms_spec.conformance.vectors.vector import (
    DTYPES,
    Arrays,
    Embedded,
    Expected,
    Floats,
    Vector,
    computing,
)
from dms_spec.errors import DTypeError, MissingInput, ShapeError, SpecError, unknown
from dms_spec.spec import SchedulerSpec
from dms_spec.types import INPUT_NAMES, ModalityBatch

# What the signals of the core read; passes may be missing (DMS-Q-004).
_NEEDS = {
    "confidence": "logits",
    "agreement": "logits",
    "corroboration": "logits",
    "energy": "logits",
    "alignment": "features",
    "anchored_alignment": "features",
    "typicality": "features",
    "vacuity": "logits",
}
_POLICY_NEEDS = {"co_attention": "features", "dmome": "features", "qmf": "logits", "tmc": "logits"}


def freeze(
    spec: SchedulerSpec,
    arrays: Arrays,
    parameters: Arrays,
    *,
    clause: str,
    description: str,
    dtype: str,
) -> Vector:
    """Freezes a case with the oracle's answer and the scales of its numbers.

    Args:
        spec: What to compute.
        arrays: NumPy arrays of the batch, by name, as in `Vector`.
        parameters: NumPy parameter arrays by full name; floating.
        clause: Id of the clause that the case is about, or several with spaces between.
        description: What it is about, in one line.
        dtype: Name of the dtype that the case comes in: ``float64``, ``float32``, ``float16`` or
            ``bfloat16``. The arrays stay in their own.

    Raises:
        SpecError: The oracle does not know a policy or a signal of the spec, which has no exact
            answer then; or the dtype is none of the four.
        UnknownName: There is no such clause.
        ShapeError, DTypeError, MissingInput: The arrays are not a batch of the spec, such as those
            of a check that they are refused.

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
        >>> vector.expected["weights"].values
        array([[0.5, 0.5]])
    """
    ids = tuple(clause.split())
    for name in ids:
        if name not in clauses():
            raise unknown("clause", name, clauses())
    if not ids or dtype not in DTYPES:
        raise SpecError(
            "a vector needs a clause and a dtype",
            expected=f"the id of a clause, and {' or '.join(DTYPES)}",
            got=f"{clause!r} and {dtype!r}",
        )
    if not oracle.knows(spec):
        raise SpecError(
            "the oracle has no answer to the spec",
            expected=f"policies and signals of edition {EDITION}",
            got=", ".join((spec.policy, *spec.signals)),
            fix="A policy or signal of a plugin has no golden vectors.",
        )
    _check_batch(spec, arrays, parameters)
    exact = oracle.schedule(spec, arrays, parameters)
    refusal = _refusal(spec, arrays, exact)
    return Vector(
        description=" ".join(description.split()),
        clauses=ids,
        dtype=dtype,
        spec=spec,
        arrays={name: arrays[name].copy() for name in INPUT_NAMES if name in arrays},
        parameters={name: array.copy() for name, array in parameters.items()},
        active=exact.active,
        expected={} if refusal else _expected(spec, arrays, parameters, exact),
        refusal=refusal,
    )


def freeze_rows(
    artifact: Artifact,
    embeddings: Arrays,
    present: NDArray[np.bool_],
    *,
    clause: str,
    description: str,
    dtype: str,
) -> Vector:
    """Freezes rows of embeddings with what a fitted artifact makes of them.

    The heads must be exact in float32, in whatever order they are computed: of numbers with few
    binary digits. What follows them is then compared as closely as anywhere else.

    Args:
        artifact: With heads, its parameters in ``dtype``.
        embeddings: ``[B, D_m]`` by modality, in ``dtype``.
        present: bool ``[B, M]``.
        clause: As in `freeze`.
        description: As in `freeze`.
        dtype: Name of the dtype: ``float64`` or ``float32``.

    Raises:
        SpecError, UnknownName: As `freeze`.

    Example:
        >>> from dataclasses import replace
        >>> from dms_spec.conformance.vectors import freeze_rows, read_vectors
        >>> vector = read_vectors(level="heads")[0]
        >>> again = freeze_rows(
        ...     vector.artifact,
        ...     vector.heads.embeddings,
        ...     vector.arrays["present"],
        ...     clause="DMS-D-011",
        ...     description="once more",
        ...     dtype=vector.dtype,
        ... )
        >>> sorted(set(again.expected) - set(vector.expected))
        []
    """
    case = solved(artifact, dict(embeddings), present, np.dtype(dtype))
    vector = freeze(
        artifact.spec,
        case.arrays,
        artifact.parameters,
        clause=clause,
        description=description,
        dtype=dtype,
    )
    of_classes = {"probabilities": (case.probabilities, case.probability_scale)}
    if not np.isnan(case.unimodal).any():  # embeddings that are not finite say nothing
        of_classes["unimodal"] = case.unimodal, case.unimodal_scale
    return replace(
        vector,
        expected=dict(vector.expected)
        | {
            name: Expected(values=values, scale=_short(scale), allowance=np.zeros(values.shape))
            for name, (values, scale) in of_classes.items()
        },
        heads=Embedded(
            embeddings=embeddings,
            dropout=float(artifact.model["dropout"]),
            prior=np.asarray(artifact.model["prior"], dtype=np.float64),
        ),
    )


def _check_batch(spec: SchedulerSpec, arrays: Arrays, parameters: Arrays) -> None:
    """Refuses what has no answer, since the oracle looks at numbers alone."""
    modalities = ModalityBatch(**arrays).shape[1]
    if modalities != len(spec.modalities):
        raise ShapeError(
            "the batch has another number of modalities than the spec",
            expected=f"M = {len(spec.modalities)}",
            got=f"M = {modalities}",
        )
    for name, array in (*arrays.items(), *parameters.items()):
        allowed = ("bool",) if name == "present" else DTYPES
        if array.dtype.name not in allowed:
            raise DTypeError(
                f"{name} has the wrong dtype", expected=" or ".join(allowed), got=array.dtype.name
            )
    needed = {"features" if spec.fusion == "feature" else "logits"}
    needed |= {_POLICY_NEEDS[spec.policy]} if spec.policy in _POLICY_NEEDS else set()
    fitted = any(name.startswith("signals.typicality.") for name in parameters)
    read = [name for name in spec.signals if fitted or name != "typicality"]  # DMS-Q-014
    needed |= {_NEEDS[name] for name in read if name in _NEEDS}
    if missing := sorted(needed - set(arrays)):
        raise MissingInput("the batch lacks what the spec reads", expected=", ".join(missing))


def _expected(
    spec: SchedulerSpec, arrays: Arrays, parameters: Arrays, exact: oracle.Exact
) -> dict[str, Expected]:
    scale = closeness.scales(spec, exact, arrays, parameters, computing(arrays))
    outputs = {
        **exact.signals,
        "scores": exact.scores,
        "weights": exact.weights,
        "fused": exact.fused,
    }
    if exact.soundness is not None:
        outputs["soundness"] = exact.soundness
    return {
        name: Expected(
            values=values,
            # Signals without a condition have a scale that is one number.
            scale=_short(np.broadcast_to(scale[name], values.shape)),
            allowance=_allowance(name, spec, arrays, values),
        )
        for name, values in outputs.items()
    }


def _short(scale: Floats) -> Floats:
    """Rounds scales up to 9 bits: more of them decide nothing, and fill the files."""
    mantissa, exponent = np.frexp(scale)
    return np.asarray(np.ldexp(np.ceil(mantissa * 2.0**9) / 2.0**9, exponent))


def _allowance(name: str, spec: SchedulerSpec, arrays: Arrays, values: Floats) -> Floats:
    """Half a unit of the dtype of the fused value, where that is not the computing dtype."""
    dtype = arrays["features" if spec.fusion == "feature" else "logits"].dtype
    if name != "fused" or dtype == np.dtype(computing(arrays)):
        return np.zeros(values.shape)
    info = closeness.finfo(dtype)
    finite = np.where(np.isfinite(values), np.abs(values), 0.0)
    return finite * float(info.eps) / 2 + float(info.smallest_subnormal)


def _refusal(spec: SchedulerSpec, arrays: Arrays, exact: oracle.Exact) -> str:
    """Names the error that the spec asks for (DMS-P-006, DMS-P-008, DMS-W-008)."""
    present = arrays.get("present", np.ones_like(exact.active))
    if spec.nonfinite == "raise" and (present & ~exact.active).any():
        return "NonFiniteInput"
    if spec.strict and not exact.active.any(axis=1).all():
        return "NothingPresent"
    scores = exact.scores[exact.active]
    return "NonFiniteInput" if (np.isnan(scores) | (scores == np.inf)).any() else ""
