"""Reads vectors, and refuses what is damaged."""

from __future__ import annotations

import re
from importlib.resources import files
from importlib.resources.abc import Traversable
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dms_spec._version import EDITION
from dms_spec.conformance.clauses import clauses
from dms_spec.conformance.vectors.vector import DTYPES, REFUSALS, Embedded, Expected, Vector
from dms_spec.conformance.vectors.writing import FORMAT, FORMAT_VERSION
from dms_spec.errors import FileError, SpecError
from dms_spec.spec import SchedulerSpec
from dms_spec.texts import parse_json, read_text
from dms_spec.types import ModalityBatch

#: Where the vectors of a level lie, from here.
_FOLDERS = {"core": ".", "heads": "heads"}
_NUMBER = re.compile(r"-?(0x[01](\.[0-9a-f]+)?p[+-][0-9]+|inf)|nan")


def read_vectors(path: Path | None = None, *, level: str = "core") -> list[Vector]:
    """Reads vectors from a file, or from all ``.json`` files of a folder in the order of their
    names.

    Args:
        path: The file or folder; None for the vectors that ship with this package.
        level: Which of those that ship: ``core``, or ``heads`` for those of fitted artifacts.

    Raises:
        SpecError: There is no such level.
        FileError: There is nothing to read, or a file is damaged, or newer than this package.

    Example:
        >>> from dms_spec.conformance.vectors import read_vectors
        >>> vectors = read_vectors()
        >>> sorted({vector.dtype for vector in vectors})
        ['float32', 'float64']
    """
    if level not in _FOLDERS:
        raise SpecError("no such level", expected=" or ".join(_FOLDERS), got=repr(level))
    place: Traversable = files(__package__) / _FOLDERS[level] if path is None else path
    try:
        found = [place]
        if place.is_dir():
            inside = (file for file in place.iterdir() if file.name.endswith(".json"))
            found = sorted(inside, key=lambda file: file.name)
        texts = {
            str(file): read_text(file) if isinstance(file, Path) else file.read_text("utf-8")
            for file in found
        }
    except (OSError, UnicodeError) as error:
        raise _unreadable(str(place), f"{type(error).__name__}: {error}") from error
    if not texts:
        raise _unreadable(str(place), "a folder without any")
    return [vector for name, text in texts.items() for vector in from_json(text, source=name)]


def from_json(text: str, *, source: str = "the text") -> list[Vector]:
    """Reads vectors from the text of a file. `to_json` gives the same text back.

    Args:
        text: What `to_json` wrote.
        source: What to call it in an error.

    Raises:
        FileError: The text is damaged, or of a newer format. Nothing is guessed: an unknown key, a
            number that its dtype does not hold, or a shape that does not fit is an error.

    Example:
        >>> from dms_spec.conformance.vectors import from_json, read_vectors, to_json
        >>> text = to_json(read_vectors()[:2])
        >>> to_json(from_json(text)) == text
        True
    """
    try:
        data = parse_json(text, source)
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
    # Wrong kinds, missing keys, numbers out of range, specs that are refused, endless nesting.
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
        raise _unreadable(source, "endless nesting") from bad


def _unreadable(source: str, got: str) -> FileError:
    return FileError(
        f"cannot read {source}",
        expected=f"golden vectors of edition {EDITION}",
        got=got,
        fix="The file is damaged, cut short, or of another kind: write it again.",
    )


def _vector(data: dict[str, Any]) -> Vector:
    optional = ("heads",) if "heads" in data else ()
    _keys(data, *_KEYS, *optional)
    spec = SchedulerSpec.from_dict(data["spec"])
    arrays = {name: _read_array(entry) for name, entry in data["arrays"].items()}
    batch = ModalityBatch(**arrays)
    active = _read_array(data["active"])
    role = arrays["features" if spec.fusion == "feature" else "logits"]
    shape = batch.shape
    sizes: dict[str, tuple[int, ...]] = {"fused": (shape[0], role.shape[2])}
    heads = _read_heads(data["heads"], spec, shape[0]) if optional else None
    if heads:
        classes = len(heads.prior)
        sizes |= {"probabilities": (shape[0], classes), "unimodal": (*shape, classes)}
    refusal, dtype = data["refusal"], data["dtype"]
    names = set() if refusal else {*spec.signals, "scores", "weights", "fused"}
    if spec.fusion == "evidence" and not refusal:
        names.add("soundness")
    if heads and not refusal:
        names |= {"probabilities"} | (set(data["expected"]) & {"unimodal"})
    vector = Vector(
        description=_typed(data["description"], str),
        clauses=tuple(_typed(data["clauses"], list)),
        dtype=dtype,
        spec=spec,
        arrays=arrays,
        parameters={name: _read_array(entry) for name, entry in data["parameters"].items()},
        active=active,
        expected={
            name: _read_expected(entry, sizes.get(name, shape))
            for name, entry in data["expected"].items()
        },
        refusal=refusal,
        k=_number(data["k"]),
        heads=heads,
    )
    good = {
        "clauses": bool(vector.clauses) and set(vector.clauses) <= set(clauses()),
        "dtype": dtype in DTYPES,
        "eps": _number(data["eps"]) == vector.eps,
        "k": 0 < vector.k < np.inf,
        "modalities": len(spec.modalities) == shape[1],
        "active": active.dtype == np.bool_ and active.shape == shape,
        "expected": set(vector.expected) == names,
        "refusal": refusal in ("", *REFUSALS),
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


def _read_heads(data: dict[str, Any], spec: SchedulerSpec, rows: int) -> Embedded:
    _keys(data, "dropout", "prior", "embeddings")
    embeddings = {name: _read_array(entry) for name, entry in data["embeddings"].items()}
    prior, dropout = _read_array(data["prior"]), _number(data["dropout"])
    if tuple(embeddings) != spec.modalities or any(len(x) != rows for x in embeddings.values()):
        raise ValueError("the embeddings are not those of the modalities and rows")
    if prior.ndim != 1 or prior.dtype != np.float64 or not 0 <= dropout < 1:
        raise ValueError("the class prior or the rate of dropout is none")
    return Embedded(embeddings=embeddings, dropout=dropout, prior=prior)


def _read_array(data: dict[str, Any]) -> NDArray[Any]:
    _keys(data, "dtype", "shape", "values")
    name, values = data["dtype"], _typed(data["values"], list)
    if name == "bool":
        if any(value not in (0, 1) or not isinstance(value, int) for value in values):
            raise ValueError("a bool is neither 0 nor 1")
        return _shaped(np.array(values, dtype=bool), data["shape"])
    if name not in DTYPES:
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
        raise ValueError(f"{text!r} is not a hexadecimal float")
    return float.fromhex(text)


def _typed(value: Any, kind: type) -> Any:
    if not isinstance(value, kind):
        raise TypeError(f"{value!r:.60} is not a {kind.__name__}")
    return value


def _keys(data: Any, *names: str) -> None:
    if set(_typed(data, dict)) != set(names):
        raise ValueError(f"keys {sorted(data)}, not {sorted(names)}")
