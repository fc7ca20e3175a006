"""Writes vectors as JSON that any language reads."""

from __future__ import annotations

import json
from collections.abc import Sequence
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dms_spec._version import EDITION
from dms_spec.conformance.vectors.vector import Embedded, Vector
from dms_spec.outputs import writing_file

FORMAT = "dms-vectors"

#: What one knows a file of vectors by.
VECTOR_MARK = b'"format": "dms-vectors"'
#: The layout of a file. A newer one is refused, not guessed at.
FORMAT_VERSION = 1


def to_json(vectors: Sequence[Vector]) -> str:
    """Writes vectors as the text of one file, with each array on one line.

    Example:
        >>> import numpy as np
        >>> from dms_spec import SchedulerSpec
        >>> from dms_spec.conformance.vectors import freeze, from_json, to_json
        >>> vector = freeze(
        ...     SchedulerSpec.preset("static", ("image", "text")),
        ...     {"features": np.ones((1, 2, 3))},
        ...     {},
        ...     clause="DMS-W-001",
        ...     description="two alike",
        ...     dtype="float64",
        ... )
        >>> from_json(to_json([vector]))[0].description
        'two alike'
    """
    data = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "edition": EDITION,
        "vectors": [_plain(vector) for vector in vectors],
    }
    return _lines(data, "") + "\n"


def _plain(vector: Vector) -> dict[str, Any]:
    return {
        "description": vector.description,
        "clauses": list(vector.clauses),
        "dtype": vector.dtype,
        "eps": _hex(vector.eps),
        "k": _hex(vector.k),
        "spec": vector.spec.to_dict(),
        "arrays": {name: _array(array) for name, array in vector.arrays.items()},
        "parameters": {name: _array(array) for name, array in vector.parameters.items()},
        "refusal": vector.refusal,
        "active": _array(vector.active),
        "expected": {
            name: {
                "shape": list(expected.values.shape),
                "values": _numbers(expected.values),
                "scale": _numbers(expected.scale),
            }
            | ({"allowance": _numbers(expected.allowance)} if expected.allowance.any() else {})
            for name, expected in vector.expected.items()
        },
    } | ({"heads": _heads(vector.heads)} if vector.heads else {})


def _heads(heads: Embedded) -> dict[str, Any]:
    return {
        "dropout": _hex(heads.dropout),
        "prior": _array(heads.prior),
        "embeddings": {name: _array(array) for name, array in heads.embeddings.items()},
    }


def _array(array: NDArray[Any]) -> dict[str, Any]:
    """Gives dtype, shape, and the numbers in the order of C: the last axis runs fastest."""
    boolean = array.dtype == np.bool_
    return {
        "dtype": array.dtype.name,
        "shape": list(array.shape),
        "values": [int(x) for x in array.flat] if boolean else _numbers(array),
    }


def _numbers(array: NDArray[Any]) -> list[str]:
    return [_hex(float(x)) for x in array.flat]


def _hex(number: float) -> str:
    """Writes a number as `float.hex` does, without the zeros at the end; nan, inf and -inf."""
    if not isfinite(number):
        return str(number)
    mantissa, _, exponent = number.hex().partition("p")
    return f"{mantissa.rstrip('0').rstrip('.') if '.' in mantissa else mantissa}p{exponent}"


def _lines(value: Any, indent: str) -> str:
    """Writes JSON with each array and each spec on one line, to make a difference easy to see."""
    inner = indent + " "
    if isinstance(value, dict) and value and not {"values", "policy"} & set(value):
        rows = [f"{inner}{json.dumps(k)}: {_lines(v, inner)}" for k, v in value.items()]
        return "{\n" + ",\n".join(rows) + f"\n{indent}}}"
    if isinstance(value, list) and any(isinstance(x, dict) for x in value):
        return "[\n" + ",\n".join(f"{inner}{_lines(x, inner)}" for x in value) + f"\n{indent}]"
    return json.dumps(value, allow_nan=False, separators=(",", ":"))


def write_vector(path: Path, vector: Vector) -> None:
    """Writes a file with one vector: the whole file, or nothing.

    Raises:
        FileError: The folder does not exist or cannot be written to.

    Example:
        >>> import numpy as np
        >>> from dms_spec import SchedulerSpec
        >>> from dms_spec.conformance.vectors import freeze, write_vector
        >>> vector = freeze(
        ...     SchedulerSpec.preset("static", ("image", "text")),
        ...     {"features": np.ones((1, 2, 3))},
        ...     {},
        ...     clause="DMS-W-001",
        ...     description="two alike",
        ...     dtype="float64",
        ... )
        >>> from pathlib import Path
        >>> write_vector(Path("two_alike.json"), vector)
    """
    write_vectors(path, [vector])


def write_vectors(path: Path, vectors: Sequence[Vector]) -> None:
    """Writes a file with some vectors, and raises like `write_vector`.

    Example:
        >>> from pathlib import Path
        >>> from dms_spec.conformance.vectors import read_vectors, write_vectors
        >>> write_vectors(Path("some.json"), read_vectors()[:2])
    """
    with writing_file(path, VECTOR_MARK) as temporary:
        temporary.write_text(to_json(vectors), encoding="utf-8", newline="\n")
