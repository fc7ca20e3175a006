"""Holds golden vectors: cases with their exact answers, as JSON that any language reads.

A vector is a spec, the arrays and parameters of a small batch, what the oracle makes of them, and
the scale of each number, so that ``|r - r*| <= k eps scale`` decides. Numbers are written as
hexadecimal floats, with ``nan``, ``inf`` and ``-inf`` as words: nothing is lost on the way, and
whoever reads them needs neither this package nor hypothesis. The format is described in the guide,
"Implement it in another language".
"""

from dms_spec.conformance.vectors.freezing import freeze, freeze_rows
from dms_spec.conformance.vectors.holding import hold
from dms_spec.conformance.vectors.reading import from_json, read_vectors
from dms_spec.conformance.vectors.vector import Embedded, Expected, Vector
from dms_spec.conformance.vectors.writing import (
    FORMAT,
    FORMAT_VERSION,
    to_json,
    write_vector,
    write_vectors,
)

__all__ = [
    "FORMAT",
    "FORMAT_VERSION",
    "Embedded",
    "Expected",
    "Vector",
    "freeze",
    "freeze_rows",
    "from_json",
    "hold",
    "read_vectors",
    "to_json",
    "write_vector",
    "write_vectors",
]
