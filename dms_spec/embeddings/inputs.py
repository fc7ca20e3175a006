"""Turns what people hold in memory into the arrays of a table: arrays with gaps, blocks, frames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dms_spec.artifact import Artifact
from dms_spec.embeddings.arrays import to_array
from dms_spec.embeddings.presence import PREFIX, is_reserved
from dms_spec.embeddings.sources.columns import Wanted
from dms_spec.embeddings.sources.frames import open_frame
from dms_spec.errors import ArtifactError, BackendUnavailable, SpecError

#: The columns of one modality: of a frame by name or pattern, of an array by number.
Columns = Wanted | slice | Sequence[int]

#: What messages call it.
WHERE = "X"
#: Where a model keeps the numbers of the columns that it has learned from, by modality.
BLOCKS = "blocks"


def is_mapping(given: Any) -> bool:
    """Says whether arrays come by name; scipy has a sparse matrix that is a dict as well."""
    return isinstance(given, Mapping) and not hasattr(given, "shape")


def are_named(columns: Mapping[str, Columns]) -> bool:
    """Says whether columns are named, as those of a data frame are, and not counted."""
    return all(
        isinstance(own, str)
        or (not isinstance(own, slice) and all(isinstance(one, str) for one in own))
        for own in columns.values()
    )


def vector_columns(given: Any) -> tuple[str, ...]:
    """Names the columns of a frame that hold vectors; none for anything else."""
    if not (hasattr(given, "columns") or hasattr(given, "column_names")):
        return ()
    try:
        return open_frame(given, WHERE).vectors()
    except BackendUnavailable:  # without pyarrow, a frame holds numbers alone
        return ()


def counted(columns: Mapping[str, Columns], width: int) -> dict[str, list[int]]:
    """Gives the columns of an array by their numbers.

    Args:
        columns: By modality: a slice, or numbers.
        width: How many columns the array has.

    Raises:
        SpecError: The array has no such columns.
    """
    result = {}
    for name, own in columns.items():
        try:
            chosen: Any = own if isinstance(own, slice) else list(own)
            result[name] = np.arange(width)[chosen].tolist()
        except (IndexError, TypeError, ValueError) as error:
            raise SpecError(
                f"the columns of modality {name!r} are not those of an array",
                expected=f"a slice, or numbers from 0 to {width - 1}",
                got=repr(own),
                fix="A data frame has columns by name.",
            ) from error
    return result


def blocks_of(artifact: Artifact) -> dict[str, list[int]] | None:
    """Reads which columns of an array were learned from, since an artifact may come from anywhere.

    Raises:
        ArtifactError: They are not columns of its modalities.
    """
    blocks = artifact.model.get(BLOCKS)
    if blocks is None:
        return None
    names = artifact.spec.modalities
    if (
        not isinstance(blocks, Mapping)
        or tuple(blocks) != names
        or not all(
            isinstance(own, list) and all(type(k) is int for k in own) for own in blocks.values()
        )
    ):
        raise ArtifactError(
            "the artifact's model has no usable blocks",
            expected=f"numbers of columns for each of {', '.join(names)}",
            got=repr(blocks)[:80],
        )
    return dict(blocks)


def with_gaps(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Adds ``present.<modality>`` where a modality is None or NaN in whole rows.

    Presence that is given stays as it is. An array that is None is left to the table.
    """
    result = {name: _rows(value) for name, value in arrays.items()}
    if "present" in arrays:
        return result
    for name in [n for n, a in result.items() if a is not None and not is_reserved(n)]:
        array = to_array(name, result[name], WHERE)
        if array.ndim == 2 and array.dtype.kind == "f":
            result.setdefault(PREFIX + name, ~np.isnan(array).all(axis=1))
    return result


def _rows(value: Any) -> Any:
    """Gives rows of NaN for rows that are None."""
    if not isinstance(value, list | tuple) or all(row is not None for row in value):
        return value
    width: int = next((np.size(row) for row in value if row is not None), 1)
    filler: NDArray[Any] = np.full(width, np.nan, np.float16)  # which changes no other dtype
    return [filler if row is None else np.asarray(row) for row in value]
