"""Golden vectors: cases with their exact answers, as JSON that any language reads.

A vector is a spec, the arrays and parameters of a small batch, what the oracle makes of them, and
the scale of each number, so that ``|r - r*| <= k eps scale`` decides. Numbers are written as
hexadecimal floats, with ``nan``, ``inf`` and ``-inf`` as words: nothing is lost on the way, and
whoever reads them needs neither this package nor hypothesis. The format is described in the guide,
"Implement it in another language".
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from importlib.resources.abc import Traversable
from math import isfinite, prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dms_spec._version import EDITION
from dms_spec.conformance import closeness, oracle
from dms_spec.conformance.clauses import clauses
from dms_spec.conformance.context import ConformanceError
from dms_spec.errors import (
    DTypeError,
    FileError,
    MissingInput,
    ShapeError,
    SpecError,
    unknown,
)
from dms_spec.files import replacing
from dms_spec.spec import SchedulerSpec
from dms_spec.types import INPUT_NAMES, ModalityBatch

Arrays = Mapping[str, NDArray[Any]]
Floats = NDArray[np.float64]

FORMAT = "dms-vectors"
#: The layout of a file. A newer one is refused, not guessed at.
FORMAT_VERSION = 1

_DTYPES = ("float64", "float32", "float16", "bfloat16")
_NUMBER = re.compile(r"-?(0x[01](\.[0-9a-f]+)?p[+-][0-9]+|inf)|nan")
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
# The errors that a vector may ask for.
_REFUSALS = ("NonFiniteInput", "NothingPresent")


@dataclass(frozen=True, kw_only=True, eq=False)
class Expected:
    """One output as it should be.

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
class Vector:
    """A case and its answer.

    Attributes:
        description: What it is about, in one line.
        clauses: Ids of the clauses that it holds an implementation to; the first is the one that
            is named when a value is off.
        dtype: Name of the dtype that the case comes in.
        spec: What to compute.
        arrays: ``features`` ``[B, M, D]``, ``logits`` ``[B, M, C]``, ``mc_logits``
            ``[T, B, M, C]`` and ``present`` ``[B, M]`` (bool), as far as they are given, each in
            its own dtype.
        parameters: Parameter arrays by full name.
        active: bool ``[B, M]``: who takes part.
        expected: ``scores``, ``weights``, ``fused`` and each signal, by name. Empty where the
            case is to be refused.
        refusal: Name of the error that the spec asks for; empty if the case has an answer.
        k: The constant of closeness.
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

    @property
    def computing(self) -> str:
        """Name of the computing dtype (DMS-S-002)."""
        return _computing(self.arrays)

    @property
    def eps(self) -> float:
        """Eps of the computing dtype."""
        return float(np.finfo(self.computing).eps)


def _computing(arrays: Arrays) -> str:
    wide = any(array.dtype == np.float64 for array in arrays.values())
    return "float64" if wide else "float32"


# ------------------------------------------------------------------------------------ making them


def freeze(
    spec: SchedulerSpec,
    arrays: Arrays,
    parameters: Arrays,
    *,
    clause: str,
    description: str,
    dtype: str,
) -> Vector:
    """A case with the oracle's answer and the scales of its numbers.

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
        ShapeError, DTypeError, MissingInput: The arrays are no batch of the spec, such as those of
            a check that they are refused.
    """
    ids = tuple(clause.split())
    for name in ids:
        if name not in clauses():
            raise unknown("clause", name, clauses())
    if not ids or dtype not in _DTYPES:
        raise SpecError(
            "a vector needs a clause and a dtype",
            expected=f"the id of a clause, and {' or '.join(_DTYPES)}",
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


def _check_batch(spec: SchedulerSpec, arrays: Arrays, parameters: Arrays) -> None:
    """Refuse what has no answer: the oracle looks at numbers alone."""
    modalities = ModalityBatch(**arrays).shape[1]
    if modalities != len(spec.modalities):
        raise ShapeError(
            "the batch has another number of modalities than the spec",
            expected=f"M = {len(spec.modalities)}",
            got=f"M = {modalities}",
        )
    for name, array in (*arrays.items(), *parameters.items()):
        allowed = ("bool",) if name == "present" else _DTYPES
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
    scale = closeness.scales(spec, exact, arrays, parameters, _computing(arrays))
    outputs = {
        **exact.signals,
        "scores": exact.scores,
        "weights": exact.weights,
        "fused": exact.fused,
    }
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
    """Scales rounded up to 9 bits: more of them decide nothing, and fill the files."""
    mantissa, exponent = np.frexp(scale)
    return np.asarray(np.ldexp(np.ceil(mantissa * 2.0**9) / 2.0**9, exponent))


def _allowance(name: str, spec: SchedulerSpec, arrays: Arrays, values: Floats) -> Floats:
    """Half a unit of the dtype that fused comes out in, where that is not the computing one."""
    dtype = arrays["features" if spec.fusion == "feature" else "logits"].dtype
    if name != "fused" or dtype == np.dtype(_computing(arrays)):
        return np.zeros(values.shape)
    info = closeness.finfo(dtype)
    finite = np.where(np.isfinite(values), np.abs(values), 0.0)
    return finite * float(info.eps) / 2 + float(info.smallest_subnormal)


def _refusal(spec: SchedulerSpec, arrays: Arrays, exact: oracle.Exact) -> str:
    """The error that the spec asks for (DMS-P-006, DMS-P-008, DMS-W-008)."""
    present = arrays.get("present", np.ones_like(exact.active))
    if spec.nonfinite == "raise" and (present & ~exact.active).any():
        return "NonFiniteInput"
    if spec.strict and not exact.active.any(axis=1).all():
        return "NothingPresent"
    scores = exact.scores[exact.active]
    return "NonFiniteInput" if (np.isnan(scores) | (scores == np.inf)).any() else ""


# ------------------------------------------------------------------------------------ holding to it


def hold(vector: Vector, outputs: Mapping[str, Any]) -> None:
    """Hold what an implementation computed to a vector: shape, NaN and Inf, exactness, closeness.

    Args:
        vector: The case.
        outputs: ``active``, ``scores``, ``weights``, ``fused`` and each signal of the spec, by
            name, as nested lists or NumPy arrays: ``active`` of bool or of 0 and 1, the others of
            any floating dtype, each in the shape that `Vector` has it in. Others may stand beside
            them, such as terms, and are not looked at.

    Raises:
        ConformanceError: An output is missing or wrong, or the case should have been refused. The
            message names the clause.
    """
    own = vector.clauses[0]
    if vector.refusal:
        _expect(vector, own, False, f"there is an answer in place of {vector.refusal}")
    active = _output(vector, outputs, "active", vector.active.shape)
    _expect(vector, "DMS-P-005", active == vector.active, "active differs")
    off, some = ~vector.active, vector.active.any(axis=1)
    for name, expected in vector.expected.items():
        values = _output(vector, outputs, name, expected.values.shape)
        _expect(vector, own, ~np.isnan(values), f"{name} holds NaN")
        infinite = np.isinf(expected.values)
        _expect(vector, own, np.isinf(values) == infinite, f"{name} is infinite elsewhere")
        _expect(
            vector,
            own,
            values[infinite] == expected.values[infinite],
            f"{name} has the wrong infinity",
        )
        if name == "fused":
            _expect(vector, "DMS-P-007", values[~some] == 0, "fused is not 0 with nothing active")
        else:
            clause = "DMS-P-001" if name == "weights" else "DMS-P-009"
            exact = values[off] == expected.values[off]
            _expect(vector, clause, exact, f"{name} of what is not active is not exact")
        if name == "weights":
            right = values[vector.active & (vector.active.sum(axis=1, keepdims=True) == 1)] == 1
            _expect(vector, "DMS-W-003", right, "the only active modality has another weight")
        with np.errstate(invalid="ignore", over="ignore"):
            error = np.where(infinite, 0.0, np.abs(values - expected.values))
            allowed = vector.k * vector.eps * expected.scale + expected.allowance
        worst = np.max(error / np.maximum(allowed, np.finfo(np.float64).tiny), initial=0.0)
        what = f"{name} is off by {worst:.3g} times what is allowed"
        _expect(vector, own, error <= allowed, what)
        if name == "weights":  # the laws that are sharper than closeness
            _expect(vector, "DMS-W-001", values >= 0, "a weight is negative")
            total = values[some].sum(axis=1)
            close = np.abs(total - 1) <= 4 * values.shape[1] * vector.eps
            _expect(vector, "DMS-W-002", close, f"weights sum to {total}")


def _output(
    vector: Vector, outputs: Mapping[str, Any], name: str, shape: tuple[int, ...]
) -> Floats:
    """One output as float64, in the shape that it must have."""
    _expect(vector, "DMS-S-001", name in outputs, f"{name} is missing")
    try:
        values = np.asarray(outputs[name], dtype=np.float64)
    except (TypeError, ValueError):
        values = np.empty(0)
    # A list of no rows cannot say how long its rows would be.
    if values.size == prod(shape) == 0:
        values = values.reshape(shape)
    _expect(vector, "DMS-S-001", values.shape == shape, f"{name} is no array of shape {shape}")
    return values


def _expect(vector: Vector, clause: str, truth: Any, what: str) -> None:
    if not np.all(truth):
        raise ConformanceError(
            f"{clause}: {what} ({vector.description}, {vector.dtype}). "
            f"The clause: {clauses()[clause].text}"
        )


# ------------------------------------------------------------------------------------- writing them


def to_json(vectors: Sequence[Vector]) -> str:
    """Vectors as the text of one file, an array on each line."""
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
    }


def _array(array: NDArray[Any]) -> dict[str, Any]:
    """Dtype, shape, and the numbers in the order of C: the last axis runs fastest."""
    boolean = array.dtype == np.bool_
    return {
        "dtype": array.dtype.name,
        "shape": list(array.shape),
        "values": [int(x) for x in array.flat] if boolean else _numbers(array),
    }


def _numbers(array: NDArray[Any]) -> list[str]:
    return [_hex(float(x)) for x in array.flat]


def _hex(number: float) -> str:
    """As `float.hex` writes it, without the zeros at the end; nan, inf and -inf."""
    if not isfinite(number):
        return str(number)
    mantissa, _, exponent = number.hex().partition("p")
    return f"{mantissa.rstrip('0').rstrip('.') if '.' in mantissa else mantissa}p{exponent}"


def _lines(value: Any, indent: str) -> str:
    """JSON with each array and each spec on one line, so that a difference is read at a glance."""
    inner = indent + " "
    if isinstance(value, dict) and value and not {"values", "policy"} & set(value):
        rows = [f"{inner}{json.dumps(k)}: {_lines(v, inner)}" for k, v in value.items()]
        return "{\n" + ",\n".join(rows) + f"\n{indent}}}"
    if isinstance(value, list) and any(isinstance(x, dict) for x in value):
        return "[\n" + ",\n".join(f"{inner}{_lines(x, inner)}" for x in value) + f"\n{indent}]"
    return json.dumps(value, allow_nan=False, separators=(",", ":"))


def write_vector(path: Path, vector: Vector) -> None:
    """Write a file with one vector, all or nothing.

    Raises:
        FileError: The folder does not exist or cannot be written to.
    """
    write_vectors(path, [vector])


def write_vectors(path: Path, vectors: Sequence[Vector]) -> None:
    """Write a file with some vectors, all or nothing; raises like `write_vector`."""
    with replacing(path) as temporary:
        temporary.write_text(to_json(vectors), encoding="utf-8", newline="\n")


# ------------------------------------------------------------------------------------- reading them


def read_vectors(path: Path | None = None) -> list[Vector]:
    """Vectors from a file, or from all ``.json`` files of a folder in the order of their names.

    Args:
        path: The file or folder; None for the vectors that ship with this package.

    Raises:
        FileError: There is nothing to read, or a file is damaged, or newer than this package.
    """
    place: Traversable = files(__package__).joinpath("vectors") if path is None else path
    try:
        found = [place]
        if place.is_dir():
            inside = (file for file in place.iterdir() if file.name.endswith(".json"))
            found = sorted(inside, key=lambda file: file.name)
        texts = {str(file): file.read_text(encoding="utf-8") for file in found}
    except (OSError, UnicodeError) as error:
        raise _unreadable(str(place), f"{type(error).__name__}: {error}") from error
    if not texts:
        raise _unreadable(str(place), "a folder without any")
    return [vector for name, text in texts.items() for vector in from_json(text, source=name)]


def from_json(text: str, *, source: str = "the text") -> list[Vector]:
    """Vectors from the text of a file; `to_json` gives the same text back.

    Args:
        text: What `to_json` wrote.
        source: What to call it in an error.

    Raises:
        FileError: The text is damaged, or of a newer format. Nothing is guessed: an unknown key, a
            number that its dtype does not hold, or a shape that does not fit is an error.
    """
    try:
        data = json.loads(text)
        newer = isinstance(data, dict) and data.get("format") == FORMAT
        if newer and data.get("format_version") != FORMAT_VERSION:
            raise FileError(
                f"cannot read {source}",
                expected=f"{FORMAT} of format version {FORMAT_VERSION}",
                got=f"version {data.get('format_version')!r}",
                fix="Update dms-spec.",
            )
        _keys(data, "format", "format_version", "edition", "vectors")
        if data["format"] != FORMAT or data["edition"] != EDITION:
            raise ValueError(f"format {data['format']!r}, edition {data['edition']!r}")
        return [_vector(_typed(entry, dict)) for entry in _typed(data["vectors"], list)]
    except FileError:
        raise
    # Wrong kinds, missing keys, numbers out of range, specs that are refused, nesting without end.
    except (
        ArithmeticError,
        AttributeError,
        ImportError,
        LookupError,
        TypeError,
        ValueError,
    ) as bad:
        raise _unreadable(source, f"{type(bad).__name__}: {bad}") from bad
    except RecursionError as bad:
        raise _unreadable(source, "nesting without end") from bad


def _unreadable(source: str, got: str) -> FileError:
    return FileError(
        f"cannot read {source}",
        expected=f"golden vectors of edition {EDITION}",
        got=got,
        fix="The file is damaged, cut short, or of another kind: write it again.",
    )


def _vector(data: dict[str, Any]) -> Vector:
    _keys(data, *_KEYS)
    spec = SchedulerSpec.from_dict(data["spec"])
    arrays = {name: _read_array(entry) for name, entry in data["arrays"].items()}
    batch = ModalityBatch(**arrays)
    active = _read_array(data["active"])
    role = arrays["features" if spec.fusion == "feature" else "logits"]
    shape, fused = batch.shape, (batch.shape[0], role.shape[2])
    refusal, dtype = data["refusal"], data["dtype"]
    names = set() if refusal else {*spec.signals, "scores", "weights", "fused"}
    vector = Vector(
        description=_typed(data["description"], str),
        clauses=tuple(_typed(data["clauses"], list)),
        dtype=dtype,
        spec=spec,
        arrays=arrays,
        parameters={name: _read_array(entry) for name, entry in data["parameters"].items()},
        active=active,
        expected={
            name: _read_expected(entry, fused if name == "fused" else shape)
            for name, entry in data["expected"].items()
        },
        refusal=refusal,
        k=_number(data["k"]),
    )
    good = {
        "clauses": bool(vector.clauses) and set(vector.clauses) <= set(clauses()),
        "dtype": dtype in _DTYPES,
        "eps": _number(data["eps"]) == vector.eps,
        "k": 0 < vector.k < np.inf,
        "modalities": len(spec.modalities) == shape[1],
        "active": active.dtype == np.bool_ and active.shape == shape,
        "expected": set(vector.expected) == names,
        "refusal": refusal in ("", *_REFUSALS),
    }
    for name, fine in good.items():
        if not fine:
            raise ValueError(f"{name} is wrong in {vector.description!r}")
    return vector


_KEYS = (
    "description",
    "clauses",
    "dtype",
    "eps",
    "k",
    "spec",
    "arrays",
    "parameters",
    "refusal",
    "active",
    "expected",
)


def _read_array(data: dict[str, Any]) -> NDArray[Any]:
    _keys(data, "dtype", "shape", "values")
    name, values = data["dtype"], _typed(data["values"], list)
    if name == "bool":
        if any(value not in (0, 1) or not isinstance(value, int) for value in values):
            raise ValueError("a bool is neither 0 nor 1")
        return _shaped(np.array(values, dtype=bool), data["shape"])
    if name not in _DTYPES:
        raise ValueError(f"dtype {name!r}")
    if name == "bfloat16":
        import ml_dtypes  # noqa: F401 - teaches NumPy the name
    wide = np.array([_number(value) for value in values], dtype=np.float64)
    with np.errstate(over="ignore"):
        array = wide.astype(name)
    if not np.array_equal(array.astype(np.float64), wide, equal_nan=True):
        raise ValueError(f"a number is not one of {name}")
    return _shaped(array, data["shape"])


def _read_expected(data: dict[str, Any], shape: tuple[int, ...]) -> Expected:
    optional = ("allowance",) if "allowance" in data else ()
    _keys(data, "shape", "values", "scale", *optional)
    values, scale, allowance = (
        _shaped(np.array([_number(x) for x in _typed(data[name], list)]), data["shape"])
        if name in data
        else np.zeros(shape)
        for name in ("values", "scale", "allowance")
    )
    if values.shape != shape or np.isnan(values).any() or not (scale >= 0).all():
        raise ValueError(f"values of shape {values.shape}, not {shape}; or NaN; or scales below 0")
    return Expected(values=values, scale=scale, allowance=allowance)


def _shaped(flat: NDArray[Any], shape: Any) -> NDArray[Any]:
    if not all(type(size) is int and size >= 0 for size in _typed(shape, list)):
        raise ValueError(f"shape {shape!r}")
    if prod(shape) != flat.size:
        raise ValueError(f"{flat.size} values in shape {shape}")
    return flat.reshape(shape)


def _number(text: Any) -> float:
    if not isinstance(text, str) or not _NUMBER.fullmatch(text):
        raise ValueError(f"{text!r} is no hexadecimal float")
    return float.fromhex(text)


def _typed(value: Any, kind: type) -> Any:
    if not isinstance(value, kind):
        raise TypeError(f"{value!r:.60} is no {kind.__name__}")
    return value


def _keys(data: Any, *names: str) -> None:
    if set(_typed(data, dict)) != set(names):
        raise ValueError(f"keys {sorted(data)}, not {sorted(names)}")
