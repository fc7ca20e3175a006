"""Compares two artifacts: what they say, what they hold, and what they predict of a table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dms_spec.artifact import Artifact
from dms_spec.embeddings.predictor import Predictions
from dms_spec.errors import ShapeError

#: Stands for what one of the two does not have.
NOTHING = "-"


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Says of one thing what it is in each of two artifacts.

    Attributes:
        where: ``spec``, ``model`` or ``parameters``.
        name: Of the thing, with dots between its parts.
        first: What it is in the first, as plain data; `NOTHING` if it has none.
        second: The same for the second.
    """

    where: str
    name: str
    first: Any
    second: Any


def differences(first: Artifact, second: Artifact) -> list[Difference]:
    """Lists what two artifacts do not have in common: none for equal contents."""
    plain = {
        "spec": (first.spec.to_dict(), second.spec.to_dict()),
        "model": (dict(first.model), dict(second.model)),
    }
    found = []
    for where, pair in plain.items():
        one, other = (dict(_leaves(data)) for data in pair)
        found += [
            Difference(
                where=where,
                name=name,
                first=one.get(name, NOTHING),
                second=other.get(name, NOTHING),
            )
            for name in dict.fromkeys([*one, *other])
            if name not in one or name not in other or one[name] != other[name]
        ]
    return [*found, *_of_parameters(first.parameters, second.parameters)]


def _leaves(data: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Gives what is no mapping, by its path; an empty mapping too."""
    if not isinstance(data, Mapping) or (path and not data):
        yield path, list(data) if isinstance(data, tuple) else data
        return
    for name, one in data.items():
        yield from _leaves(one, f"{path}.{name}" if path else str(name))


def _of_parameters(
    first: Mapping[str, NDArray[Any]], second: Mapping[str, NDArray[Any]]
) -> Iterator[Difference]:
    for name in sorted({*first, *second}):
        one, other = first.get(name), second.get(name)
        if one is None or other is None or _kind(one) != _kind(other):
            said = [NOTHING if array is None else _kind(array) for array in (one, other)]
        elif one.tobytes() != other.tobytes():
            largest = np.abs(one.astype(np.float64) - other.astype(np.float64)).max()
            said = [_kind(one), f"differs by up to {largest:.3g}"]
        else:
            continue
        yield Difference(where="parameters", name=name, first=said[0], second=said[1])


def _kind(array: NDArray[Any]) -> str:
    return f"{array.dtype.name} {list(array.shape)}"


def compare_predictions(first: Predictions, second: Predictions) -> dict[str, Any]:
    """Says how far two predictions of the same rows are apart.

    Returns:
        ``rows``, ``other_labels``, and by name the largest difference of each array of numbers that
        both have in the same shape.

    Raises:
        ShapeError: They have other rows.
    """
    one, other = first["predicted"], second["predicted"]
    if len(one) != len(other):
        raise ShapeError("they are predictions of other rows", got=f"{len(one)} and {len(other)}")
    same = one.dtype.kind == other.dtype.kind
    largest = {
        name: float(np.abs(array - second[name]).max(initial=0))
        for name, array in first.items()
        if array.dtype.kind == "f" and name in second and array.shape == second[name].shape
    }
    differ = int((one != other).sum()) if same else len(one)
    return {"rows": len(one), "other_labels": differ, "largest_difference": largest}
