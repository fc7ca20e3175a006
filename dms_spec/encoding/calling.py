"""Calls an encoder, whatever it raises or returns."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dms_spec.encoding.encoder import Encoder
from dms_spec.encoding.openers import Absent, said
from dms_spec.errors import DMSError, ShapeError

#: Why an item has no embedding although it could be opened.
FAILED = "the encoder failed"


def call(encoder: Encoder, items: list[Any]) -> tuple[NDArray[Any] | None, dict[int, Absent], str]:
    """Encodes items together, or one by one where that fails.

    Returns:
        The vectors ``[n, D]`` of those that could be encoded, None without any; by position, why
        others could not; and why they were not taken together, empty if they were.

    Raises:
        ShapeError: What the encoder gives are no embeddings.
        MemoryError: There is not enough memory. torch has an error of its own.
    """
    together = _try(encoder, items)
    if not isinstance(together, Absent):
        return together, {}, ""
    single = {k: _try(encoder, [item]) for k, item in enumerate(items)}
    failed = {k: came for k, came in single.items() if isinstance(came, Absent)}
    vectors = [came for came in single.values() if not isinstance(came, Absent)]
    for vector in vectors:
        check_like(encoder, vector, vectors[0])
    return (np.concatenate(vectors) if vectors else None), failed, together.detail


def check_like(encoder: Encoder, found: NDArray[Any], first: NDArray[Any]) -> None:
    """Refuses vectors of another length or dtype than at first.

    Raises:
        ShapeError: They are.
    """
    if (found.dtype, found.shape[1]) != (first.dtype, first.shape[1]):
        raise ShapeError(
            f"the encoder {encoder.about['encoder']!r} changes what it gives",
            expected=f"{first.dtype} [n, {first.shape[1]}], as at first",
            got=f"{found.dtype} {list(found.shape)}",
            fix=_POOL,
        )


_POOL = "Pool each item to as many numbers as all others."


def _try(encoder: Encoder, items: list[Any]) -> NDArray[Any] | Absent:
    try:
        found = encoder.run(items)
    except (DMSError, MemoryError):
        raise
    except Exception as error:  # it may raise anything
        if type(error).__name__ == "OutOfMemoryError":  # torch's: fewer at a time would help
            raise
        return Absent(FAILED, said(error))
    return _vectors(encoder, found, len(items))


def _vectors(encoder: Encoder, found: Any, count: int) -> NDArray[Any]:
    """Reads what an encoder gave: float64 as it is, all else as float32 or what holds it.

    Raises:
        ShapeError: It is not ``[n, D]``.
    """
    try:
        array = np.asarray(_on_host(found))
        got = f"{array.dtype} {list(array.shape)}"
        array = array.astype(np.result_type(array.dtype, np.float32), copy=False)
        good = array.ndim == 2 and len(array) == count and array.shape[1] > 0
    except (TypeError, ValueError) as error:
        good, got = False, said(error)
    if not good or array.dtype.kind != "f":
        raise ShapeError(
            f"the encoder {encoder.about['encoder']!r} does not give embeddings",
            expected=f"numbers [{count}, D]: a row for each of {count} items, in their order",
            got=got,
            fix=_POOL,
        )
    return array


def _on_host(found: Any) -> Any:
    """Brings a tensor of torch to where NumPy reads it; NumPy has no bfloat16."""
    if not hasattr(found, "detach"):
        return found
    tensor = found.detach().cpu()
    return tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor
