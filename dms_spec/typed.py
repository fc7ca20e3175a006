"""Reads dataclasses from plain data that may come from anywhere, by their own annotations.

The same annotations give a JSON schema, so that a format is written down in one place.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from math import isfinite
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from dms_spec.errors import FileError, unknown

T = TypeVar("T")


def read_typed(kind: type[T], data: Any, source: str) -> T:
    """Makes a dataclass of plain data, as `json` reads it. Every value must be of its type.

    Args:
        kind: A dataclass whose fields are bool, int, float, str, Any, Literal, another dataclass,
            or a tuple, list, mapping or union of these.
        data: A mapping by field name. A field may lack if it has a default.
        source: Where the data is from, for messages.

    Raises:
        FileError: A value lacks, or is of another type; the message names it.
        UnknownName: A key is no field.
    """
    result: T = _read(kind, data, source, "")
    return result


def read_list(kind: type[T], data: Any, source: str) -> list[T]:
    """Reads a list of one type, as `read_typed` does.

    Raises:
        FileError: It is something else.
    """
    result: list[T] = _read(list[kind], data, source, "")  # type: ignore[valid-type]
    return result


def schema(kind: Any) -> dict[str, Any]:
    """Gives the JSON schema of what `read_typed` reads."""
    if _is_record(kind):
        hints = _hints(kind)
        required = [f.name for f in fields(kind) if not _optional(f)]
        return {
            "type": "object",
            "required": required,
            "additionalProperties": False,
            "properties": {name: schema(hint) for name, hint in hints.items()},
        }
    origin, args = get_origin(kind), get_args(kind)
    if origin is Literal:
        return {"enum": list(args)}
    if origin in (Union, UnionType):
        return {"anyOf": [schema(arg) for arg in args]}
    if origin in (tuple, list):
        return {"type": "array", "items": schema(args[0])}
    if origin is not None:  # a mapping
        return {"type": "object", "additionalProperties": schema(args[1])}
    names = {bool: "boolean", int: "integer", float: "number", str: "string", NoneType: "null"}
    return {} if kind is Any else {"type": names[kind]}


@cache
def _hints(kind: Any) -> dict[str, Any]:
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in fields(kind)}


def _is_record(kind: Any) -> bool:
    return is_dataclass(kind)


def _optional(field: Any) -> bool:
    return field.default is not MISSING or field.default_factory is not MISSING


def _read(kind: Any, data: Any, source: str, where: str) -> Any:
    if kind is Any:
        return data
    if _is_record(kind):
        return _read_fields(kind, data, source, where)
    origin, args = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return _read_union(args, data, source, where)
    if origin is Literal:
        if type(data) not in {type(arg) for arg in args} or data not in args:
            raise _wrong(source, where, " or ".join(map(repr, args)), data)
        return data
    if origin in (tuple, list):
        if not isinstance(data, list | tuple):
            raise _wrong(source, where, "a list", data)
        items = (_read(args[0], one, source, f"{where}[{i}]") for i, one in enumerate(data))
        return origin(items)
    if origin is not None:
        if not isinstance(data, Mapping):
            raise _wrong(source, where, "an object", data)
        return {
            _read(str, name, source, where): _read(args[1], one, source, _below(where, name))
            for name, one in data.items()
        }
    return _read_plain(kind, data, source, where)


def _read_fields(kind: Any, data: Any, source: str, where: str) -> Any:
    if not isinstance(data, Mapping):
        raise _wrong(source, where, "an object", data)
    hints = _hints(kind)
    for name in data:
        if name not in hints:
            raise unknown(f"key in {source}{_at(where)}", str(name), hints)
    for field in fields(kind):
        if field.name not in data and not _optional(field):
            raise FileError(f"{source} lacks {_below(where, field.name)}", fix=_AGAIN)
    given = {
        name: _read(hints[name], one, source, _below(where, name)) for name, one in data.items()
    }
    return kind(**given)


def _read_union(args: tuple[Any, ...], data: Any, source: str, where: str) -> Any:
    for arg in args:
        try:
            return _read(arg, data, source, where)
        except FileError as error:
            last = error
    raise last


_WORDS = {bool: "true or false", int: "an integer", float: "a finite number", str: "a string"}


def _read_plain(kind: Any, data: Any, source: str, where: str) -> Any:
    number = isinstance(data, int | float) and not isinstance(data, bool)
    if kind is NoneType:
        good = data is None
    elif kind is float:
        good = number and isfinite(data)
    elif kind is int:
        good = number and isinstance(data, int)
    else:
        good = isinstance(data, kind)
    if not good:
        raise _wrong(source, where, _WORDS.get(kind, "null"), data)
    return data


_AGAIN = "It is damaged, or was written by hand: write it again."


def _wrong(source: str, where: str, expected: str, got: Any) -> FileError:
    name = {dict: "an object", list: "a list", NoneType: "null"}.get(type(got), f"{got!r:.60}")
    return FileError(
        f"{where or 'the content'} of {source}", expected=expected, got=name, fix=_AGAIN
    )


def _below(where: str, name: object) -> str:
    return f"{where}.{name}" if where else str(name)


def _at(where: str) -> str:
    return f", {where}" if where else ""
