"""Defines what is measured: a fitted artifact, or any function; and the baselines beside it.

A method is called with the inputs by modality and with ``present``, and answers with class
probabilities. If it also says what each modality alone would answer, then the baselines need no
more: each modality alone, the static mean, and the mask oracle, all from the same heads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dms_spec.embeddings.predictor import Predictor
from dms_spec.embeddings.table import Table
from dms_spec.errors import NonFiniteInput, ShapeError, SpecError
from dms_spec.robustness.samples import BoolArray, FloatArray


@dataclass(frozen=True, kw_only=True)
class Answer:
    """Holds what a method says about N samples.

    Attributes:
        probabilities: ``[N, C]``; rows sum to one.
        weights: How far it trusted each modality, ``[N, M]``; None if it does not say.
        unimodal: What each modality alone would answer, ``[N, M, C]``; None if it cannot say.
            Where a modality is not active it may hold anything.
        active: bool ``[N, M]``: which modalities took part; None for those present.
        notes: What is weaker than it looks, in words.
    """

    probabilities: NDArray[Any]
    weights: NDArray[Any] | None = None
    unimodal: NDArray[Any] | None = None
    active: BoolArray | None = None
    notes: tuple[str, ...] = ()


#: ``method(inputs, present)``: inputs by modality, each with N rows, and bool ``[N, M]``; answers
#: with an `Answer`, or with probabilities ``[N, C]`` alone.
Method = Callable[[Mapping[str, NDArray[Any]], BoolArray], Answer | NDArray[Any]]

#: The baselines' names; those of single modalities are ``"<modality> alone"``.
STATIC, ORACLE = "static", "mask oracle"


def of_predictor(predictor: Predictor) -> Method:
    """Makes a method of a fitted artifact, with weights and with what each modality alone says.

    Example:
        >>> from dms_spec import Predictor, get_backend, load_artifact, read_table
        >>> from dms_spec.robustness import Samples, of_predictor
        >>> predictor = Predictor(load_artifact("model"), get_backend("numpy"))
        >>> samples = Samples.of_table(read_table("train.npz"), predictor.classes)
        >>> answer = of_predictor(predictor)(samples.inputs, samples.present)
        >>> answer.probabilities.shape
        (60, 2)
    """

    def answer(inputs: Mapping[str, NDArray[Any]], present: BoolArray) -> Answer:
        table = Table(embeddings=inputs, present=present)
        results = predictor.predict(table)
        active = results["active"]
        notes = results.notes
        if not active.any(axis=1).all():  # the last one counts the rows without anything
            notes = notes[:-1]
        return Answer(
            probabilities=results["probabilities"],
            weights=results["weights"],
            unimodal=predictor.unimodal(table),
            active=active,
            notes=notes,
        )

    return answer


def ask(
    name: str, method: Method, inputs: Mapping[str, NDArray[Any]], present: BoolArray
) -> Answer:
    """Asks a method and checks its answer, which comes in float64 and with ``active``.

    Raises:
        ShapeError: An array has the wrong shape.
        NonFiniteInput: Something that counts is not finite.
        SpecError: Rows are not probabilities.
    """
    given = method(inputs, present)
    answer = given if isinstance(given, Answer) else Answer(probabilities=given)
    samples, modalities = present.shape
    active = present if answer.active is None else np.asarray(answer.active, dtype=bool)
    p = _checked(name, "probabilities", answer.probabilities, (samples, None))
    classes = p.shape[1]
    _check_rows(name, "probabilities", p)
    weights = unimodal = None
    if answer.weights is not None:
        weights = _checked(name, "weights", answer.weights, (samples, modalities))
    if answer.unimodal is not None:
        shape = (samples, modalities, classes)
        _check_shape(name, "active", active, (samples, modalities))
        own = np.asarray(answer.unimodal, dtype=np.float64)
        _check_shape(name, "unimodal", own, shape)
        unimodal = np.where(active[..., None], own, 1.0 / classes)
        _check_rows(name, "unimodal", unimodal)
    return Answer(
        probabilities=p, weights=weights, unimodal=unimodal, active=active, notes=answer.notes
    )


def baselines(
    answer: Answer, hit: BoolArray, prior: FloatArray | None, modalities: tuple[str, ...]
) -> dict[str, FloatArray]:
    """Computes the baselines of a fusion, from the same heads: probabilities ``[N, C]`` by name.

    - ``static``: the mean of the probabilities over what is active.
    - ``mask oracle``: the mean over what is active and was not corrupted. It is the bound
      when corruption is strong. When it is weak, what is corrupted still helps, and the static
      mean is the better bound.
    - ``<modality> alone``.

    Where no modality is left, the answer is the prior. If that is so for all samples, there is no
    mask oracle.

    Args:
        answer: As `ask` gives it, with unimodal probabilities.
        hit: bool ``[N, M]``: what was corrupted.
        prior: ``[C]``; None for equal probabilities.
        modalities: Names.
    """
    assert answer.unimodal is not None and answer.active is not None  # noqa: S101 - for mypy
    active, unimodal = answer.active, answer.unimodal
    classes = unimodal.shape[-1]
    last = np.full(classes, 1.0 / classes) if prior is None else prior
    alone = np.eye(len(modalities), dtype=bool)
    masks = {STATIC: active}
    if (active & ~hit).any():
        masks[ORACLE] = active & ~hit
    masks |= {f"{name} alone": active & alone[m] for m, name in enumerate(modalities)}
    return {name: _mean(unimodal, mask, last) for name, mask in masks.items()}


def _mean(unimodal: FloatArray, mask: BoolArray, prior: FloatArray) -> FloatArray:
    count = mask.sum(axis=1, keepdims=True)
    total = np.where(mask[..., None], unimodal, 0.0).sum(axis=1)
    return np.where(count > 0, total / np.maximum(count, 1), prior)


def _checked(
    name: str, what: str, array: NDArray[Any], shape: tuple[int | None, ...]
) -> FloatArray:
    values = np.asarray(array, dtype=np.float64)
    _check_shape(name, what, values, shape)
    if not np.isfinite(values).all():
        row = int(np.argwhere(~np.isfinite(values))[0, 0])
        raise NonFiniteInput(
            f"{what} of method {name!r} are not finite",
            expected="finite numbers",
            got=f"NaN or Inf in row {row}",
        )
    return values


def _check_shape(name: str, what: str, array: NDArray[Any], shape: tuple[int | None, ...]) -> None:
    fits = array.ndim == len(shape) and all(
        size is None or size == own for size, own in zip(shape, array.shape, strict=True)
    )
    if not fits:
        axes = ", ".join("C" if size is None else str(size) for size in shape)
        raise ShapeError(
            f"{what} of method {name!r} has the wrong shape",
            expected=f"[{axes}]",
            got=str(list(array.shape)),
        )


def _check_rows(name: str, what: str, p: FloatArray) -> None:
    off = np.abs(p.sum(axis=-1) - 1)
    if not ((p >= 0).all() and (off <= 1e-2).all()):
        raise SpecError(
            f"{what} of method {name!r} are not probabilities",
            expected="numbers of 0 or more that sum to one",
            got=f"from {p.min():g} to {p.max():g}, sums off by up to {off.max():g}",
            fix="Apply softmax to logits first.",
        )
