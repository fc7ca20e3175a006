"""Reads the embeddings of a table: ``[N, D_m]`` by modality, on the axis that is asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dms_spec.embeddings.arrays import numbers
from dms_spec.errors import MissingInput, ShapeError
from dms_spec.types import INPUT_NAMES

Embeddings = dict[str, NDArray[Any]]

#: What to do with a batch where a table is wanted.
BATCH = (
    "This looks like a batch for dms schedule. A table has an array [N, D] for each modality, "
    "under its name."
)


def read_embeddings(
    arrays: Mapping[str, NDArray[Any]], columns: Mapping[str, tuple[str, ...]], where: str
) -> Embeddings:
    """Reads each array as numbers ``[N, D]``, all with the same N.

    Args:
        arrays: By modality.
        columns: Names of the columns, by modality, for messages.
        where: The table's name, for messages.

    Raises:
        DTypeError: An array does not hold numbers.
        ShapeError: An array is not ``[N, D]``.
    """
    result: Embeddings = {}
    for name, given in arrays.items():
        result[name] = array = numbers(f"modality {name!r}", given, where, columns[name])
        first = next(iter(result))
        if array.ndim != 2 or array.shape[1] == 0:
            raise ShapeError(
                f"modality {name!r} in {where} has the wrong shape",
                expected="[N, D]: a row for each sample, at least one column",
                got=str(list(array.shape)),
                fix="Flatten or pool each sample's embedding to one row of numbers."
                if name not in INPUT_NAMES
                else BATCH,
            )
        if len(array) != len(result[first]):
            raise ShapeError(
                f"modalities {first!r} and {name!r} in {where} differ in their rows",
                expected=f"N = {len(result[first])}",
                got=f"N = {len(array)}",
                fix="Row i is the same sample in all; mark missing ones in present.",
            )
    return result


def on_axis(
    embeddings: Embeddings, axis: Sequence[str], widths: Mapping[str, int] | None, where: str
) -> tuple[Embeddings, tuple[str, ...]]:
    """Orders embeddings along an axis, with NaN for a modality that is lacking; and notes.

    Args:
        embeddings: Of some of the axis, at least one.
        axis: Modalities.
        widths: D by modality; None refuses a table that lacks one.
        where: The table's name, for messages.

    Raises:
        MissingInput: A modality lacks, and there are no widths.
    """
    rows = len(next(iter(embeddings.values())))
    lacking = [name for name in axis if name not in embeddings]
    if lacking and widths is None:
        raise MissingInput(
            f"{where} lacks modality {lacking[0]!r}",
            expected=", ".join(axis),
            got=", ".join(embeddings),
            fix="Give an array for every modality; mark the rows without it in present.",
        )
    filler = {name: np.full((rows, (widths or {})[name]), np.nan, np.float32) for name in lacking}
    result = {name: (embeddings | filler)[name] for name in axis}
    notes = [f"modality {name!r} is not in {where}: it is absent in all rows" for name in lacking]
    return result, tuple(notes)
