"""Holds what is measured on: samples, their labels, and the scale to which a severity refers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Literal, Self, get_args

import numpy as np
from numpy.random import Generator, Philox, SeedSequence
from numpy.typing import ArrayLike, NDArray

from dms_spec.embeddings.labels import class_indices, strangers, unlike
from dms_spec.embeddings.table import Table
from dms_spec.errors import DTypeError, MissingInput, ShapeError, SpecError, unknown

#: What a modality's array holds. Only ``"features"`` have a scale.
Kind = Literal["features", "image", "text", "audio"]

#: The numbers in which a corruption of features is given: those whose training range is [0, 1], or
#: those whose training mean is 0 and deviation 1.
Space = Literal["range", "standard"]

BoolArray = NDArray[np.bool_]
FloatArray = NDArray[np.float64]


def stream(seed: int, *words: str) -> Generator:
    """Makes random numbers that depend on the seed and some words, and on nothing else.

    It is Philox, keyed by both. What else is drawn, and in which order, makes no difference.
    """
    key = tuple("\0".join(words).encode())
    return Generator(Philox(SeedSequence(seed, spawn_key=key)))


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Describes one modality's features in training: what their zero and their unit are.

    An input that is constant in training has no range; its own unit stands for it.

    Attributes:
        low: Smallest value of each feature, float64 ``[D]``.
        reach: Largest less smallest value, 1 where that is 0.
        mean: Mean of each feature.
        deviation: Its standard deviation (population), 1 where that is 0.
        constant: How many features are constant.
    """

    low: FloatArray
    reach: FloatArray
    mean: FloatArray
    deviation: FloatArray
    constant: int

    @classmethod
    def of(cls, training: NDArray[Any]) -> Self:
        """Computes the scale of features ``[N, D]``; N is at least 1, and all are finite."""
        x = np.asarray(training, dtype=np.float64)
        low, reach = x.min(axis=0), np.ptp(x, axis=0)
        mean, deviation = x.mean(axis=0), x.std(axis=0)
        constant = reach == 0
        reach[constant] = 1.0
        deviation[constant | (deviation == 0)] = 1.0
        return cls(
            low=low, reach=reach, mean=mean, deviation=deviation, constant=int(constant.sum())
        )

    def enter(self, x: NDArray[Any], space: Space) -> FloatArray:
        """Transforms features into a space, float64 [N, D]."""
        zero, unit = self._of(space)
        return (np.asarray(x, dtype=np.float64) - zero) / unit

    def leave(self, x: FloatArray, space: Space) -> FloatArray:
        """Transforms features back."""
        zero, unit = self._of(space)
        return x * unit + zero

    def _of(self, space: Space) -> tuple[FloatArray, FloatArray]:
        if space == "range":
            return self.low, self.reach
        return self.mean, self.deviation


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Holds N samples seen through M modalities, with their labels.

    `Samples.of` makes one from arrays, `Samples.of_table` from a table.

    Attributes:
        inputs: By modality, in the order of the M axis. The first axis is N; the methods know the
            others.
        labels: Index of each sample's class, ``[N]``; -1 for one that is not a class.
        present: bool ``[N, M]``. Where it is False the inputs may hold anything.
        kinds: What each modality holds.
        scales: Of each modality of kind ``"features"``.
        prior: Class frequencies ``[C]``, the answer where nothing is there; None for equal ones.
        notes: What is weaker than it looks, in words.

    Example:
        >>> import numpy as np
        >>> from dms_spec.robustness import Samples
        >>> random = np.random.default_rng(0)
        >>> inputs = {"image": random.normal(size=(9, 4)), "text": random.normal(size=(9, 3))}
        >>> samples = Samples.of(inputs, np.arange(9) % 3, training=inputs)
        >>> samples.modalities, len(samples)
        (('image', 'text'), 9)
    """

    inputs: Mapping[str, NDArray[Any]]
    labels: NDArray[np.intp]
    present: BoolArray
    kinds: Mapping[str, Kind]
    scales: Mapping[str, Scale]
    prior: FloatArray | None = None
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def modalities(self) -> tuple[str, ...]:
        """The names, in the order of the M axis."""
        return tuple(self.inputs)

    @classmethod
    def of(
        cls,
        inputs: Mapping[str, ArrayLike],
        labels: ArrayLike,
        *,
        training: Mapping[str, ArrayLike] | None = None,
        present: ArrayLike | None = None,
        kinds: Mapping[str, Kind] | None = None,
        prior: ArrayLike | None = None,
        notes: tuple[str, ...] = (),
    ) -> Self:
        """Makes samples from arrays.

        Args:
            inputs: By modality: features ``[N, D]`` floating; or anything whose first axis is N,
                such as images, an array of strings, waveforms.
            labels: Integers ``[N]``: the columns of the methods' probabilities; -1 for none.
            training: Features ``[N', D]`` that the methods were trained on, by modality: they set
                the scale. Rows that are not finite are left out. None takes the inputs' own,
                with a note.
            present: bool ``[N, M]``; None for all present.
            kinds: Of the modalities that do not hold features.
            prior: Class frequencies ``[C]``.
            notes: To pass on.

        Raises:
            ShapeError: Sizes disagree.
            DTypeError: Labels are not integers, presence not bool, features not numbers.
            MissingInput: There is no sample, or nothing to take the scale of a modality from.
            SpecError, UnknownName: A kind is unknown, or of no modality.
        """
        arrays = {name: np.asarray(array) for name, array in inputs.items()}
        y = np.asarray(labels)
        if y.ndim != 1 or y.dtype.kind not in "iu":
            raise DTypeError(
                "labels do not index classes",
                expected="integers [N]",
                got=f"{y.dtype} {list(y.shape)}",
                fix="Number the classes in the order of the methods' probabilities.",
            )
        if not len(y) or not arrays:
            raise MissingInput("there is nothing to measure on", expected="samples with labels")
        for name, array in arrays.items():
            if array.shape[:1] != y.shape:
                raise ShapeError(
                    f"modality {name!r} and the labels disagree about N",
                    expected=f"[{len(y)}, ...]",
                    got=str(list(array.shape)),
                )
            if array.dtype.kind not in "fiubU":
                raise DTypeError(
                    f"modality {name!r} holds something other than numbers or strings",
                    expected="numbers or strings",
                    got=str(array.dtype),
                    fix="An array of strings has dtype 'U', not object: numpy.array(list_of_str).",
                )
        shape = (len(y), len(arrays))
        there = np.ones(shape, dtype=bool) if present is None else np.asarray(present)
        if there.dtype != np.bool_ or there.shape != shape:
            raise ShapeError(
                "present has the wrong shape or dtype",
                expected=f"bool {list(shape)}",
                got=f"{there.dtype} {list(there.shape)}",
            )
        all_kinds = _kinds(tuple(arrays), kinds or {})
        if training is None and "features" in all_kinds.values():
            note = "the scale of the features comes from the rows measured: "
            notes += (note + "none were given that the methods were trained on",)
        scales = {}
        for m, (name, array) in enumerate(arrays.items()):
            if all_kinds[name] == "features":
                own = array[there[:, m]] if training is None else training.get(name)
                scales[name] = _scale(name, array, own)
                notes += _constant(name, scales[name])
        if (strange := int((y < 0).sum())) > 0:
            note = f"{strange} rows have a label that is not a class: "
            notes += (note + "they count as wrong, and calibration leaves them out",)
        return cls(
            inputs=arrays,
            labels=y.astype(np.intp),
            present=there,
            kinds=all_kinds,
            scales=scales,
            prior=None if prior is None else np.asarray(prior, dtype=np.float64),
            notes=notes,
        )

    @classmethod
    def of_table(
        cls, table: Table, classes: NDArray[Any], *, prior: ArrayLike | None = None
    ) -> Self:
        """Takes the ``test`` rows of a table, or all of them. The scale is that of its training
        rows.

        Args:
            table: With labels.
            classes: The classes in the order of the methods' probabilities, sorted, ``[C]``.
            prior: Class frequencies ``[C]``.

        Raises:
            MissingInput: There are no labels, no row to measure on, or a modality is absent in
                all training rows.
            SpecError: None of the labels is a class.
        """
        if table.labels is None:
            raise MissingInput(
                "the table has no labels",
                expected="labels [N], to measure accuracy by",
                got=", ".join(table.modalities),
                fix="Give an array labels, or name a frame's column: --label NAME.",
            )
        notes = list(table.notes())
        rows = table.labelled_rows() if table.test is None else table.test
        if reason := unlike(classes, table.labels[rows]):
            raise SpecError(
                "the table's labels are not those that were learned",
                expected="labels of the same names and dtype as in training",
                got=reason,
                fix="Write them as they were in the table that was learned from.",
            )
        if unknown_labels := strangers(classes, table.labels[rows]):
            notes.append(f"labels that are not a class: {unknown_labels}")
        training = table.training_rows()
        if table.test is None:
            notes.append(
                "the table has no test rows: all rows are measured, also those learned from"
            )
        if not len(training):
            training = np.arange(len(table))
            notes.append("all rows are test rows: the scale of the features is taken from them")
        elif table.train is None and table.test is None:
            notes.append(
                "the table has no training rows: the scale of the features is that of all rows"
            )
        measured = table.rows(rows)
        return cls.of(
            measured.embeddings,
            class_indices(classes, table.labels[rows]),
            training={
                name: array[training][table.present[training, m]]
                for m, (name, array) in enumerate(table.embeddings.items())
            },
            present=measured.present,
            prior=prior,
            notes=tuple(notes),
        )

    def fingerprint(self) -> str:
        """Makes a text that changes when anything in the samples does."""
        digest = sha256()
        arrays: dict[str, NDArray[Any]] = {**self.inputs, "\0labels": self.labels}
        arrays["\0present"] = self.present
        for name, scale in self.scales.items():
            arrays |= {
                f"{name}\0{key}": getattr(scale, key)
                for key in ("low", "reach", "mean", "deviation")
            }
        if self.prior is not None:
            arrays["\0prior"] = self.prior
        for name, array in arrays.items():
            digest.update(f"{name}\0{self.kinds.get(name)}\0{array.dtype}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()


def _kinds(names: tuple[str, ...], given: Mapping[str, Kind]) -> dict[str, Kind]:
    for name, kind in given.items():
        if name not in names:
            raise unknown("modality", name, names)
        if kind not in get_args(Kind):
            raise SpecError(
                f"modality {name!r} is of an unknown kind",
                expected=" or ".join(get_args(Kind)),
                got=repr(kind),
            )
    return {name: given.get(name, "features") for name in names}


def _scale(name: str, array: NDArray[Any], training: ArrayLike | None) -> Scale:
    if array.ndim != 2 or array.dtype.kind != "f":
        raise ShapeError(
            f"modality {name!r} does not hold features",
            expected="floating [N, D]",
            got=f"{array.dtype} {list(array.shape)}",
            fix=f"Say what it is: kinds={{{name!r}: 'image'}}, 'text' or 'audio'.",
        )
    if training is None:
        raise MissingInput(f"there are no training features of {name!r}", expected="[N, D]")
    x = np.asarray(training)
    if x.ndim != 2 or x.shape[1] != array.shape[1]:
        raise ShapeError(
            f"training features of {name!r} have the wrong shape",
            expected=f"[N, {array.shape[1]}]",
            got=str(list(x.shape)),
        )
    x = x[np.isfinite(x).all(axis=1)]
    if not len(x):
        raise MissingInput(
            f"modality {name!r} has no rows to take a scale from",
            expected="training rows in which it is present and finite",
            got="none",
        )
    return Scale.of(x)


def _constant(name: str, scale: Scale) -> tuple[str, ...]:
    if not scale.constant:
        return ()
    of = len(scale.low)
    which = f"all {of}" if scale.constant == of else f"{scale.constant} of {of}"
    note = f"{which} features of {name!r} are constant in training: "
    return (note + "one unit of their own stands for their range",)
