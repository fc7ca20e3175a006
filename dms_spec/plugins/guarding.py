"""Guards the functions of a plugin's signals and policies: they read their arguments, no more.

A guarded function gets its arrays on loan. NumPy lends read-only views; torch counts the writes to
a tensor, which are refused afterwards; another library lends copies. What it returns is copied.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

from dms_spec.errors import PluginError
from dms_spec.interface.policy import Policy
from dms_spec.interface.signal import Evidence, Signal
from dms_spec.plugins.containment import contained
from dms_spec.types import Array

Function = Callable[..., Any]
Guarded = TypeVar("Guarded")


def guarded(thing: Guarded) -> Guarded:
    """Guards what a signal or a policy of a plugin calls; anything else is returned as it is."""
    if isinstance(thing, Signal):
        return replace(thing, function=_reads(f"signal {thing.name!r}", thing.function))
    if not isinstance(thing, Policy):
        return thing
    owner = f"policy {thing.name!r}"
    return replace(
        thing,
        function=_reads(owner, thing.function, _terms),
        observe=thing.observe and _reads(owner, thing.observe, _notes),
        initial=thing.initial and _runs(owner, thing.initial),
        training_presence=thing.training_presence and _runs(owner, thing.training_presence),
    )


def _reads(
    owner: str, function: Function, check: Callable[[str, Any], Any] = lambda _, result: result
) -> Function:
    """Guards ``(namespace, given, **options)``. Whoever traces it says what goes wrong."""

    @functools.wraps(function)
    def run(ns: Any, given: Any, **options: Any) -> Any:
        if ns.traced():
            return function(ns, _each(ns, ns.copy, given), **options)
        changes: list[Callable[[], bool]] = []

        def lend(array: Array) -> Array:
            view, changed = ns.lend(array)
            changes.append(changed)
            return view

        result = contained(owner, function, ns, _each(ns, lend, given), **options)
        if any(changed() for changed in changes):
            raise PluginError(
                f"{owner} changed an array that it was given to read",
                fix="Compute on a copy. The arrays of this batch are no longer what they were.",
            )
        # A plugin may write to what it returned, later on.
        return _each(ns, ns.copy, check(owner, result))

    return run


def _each(ns: Any, change: Callable[[Array], Array], thing: Any) -> Any:
    """The same thing with every array in it changed, and mappings of its own."""
    if isinstance(thing, ns.array_type):
        return change(thing)
    if isinstance(thing, Mapping):
        return {key: _each(ns, change, value) for key, value in thing.items()}
    if isinstance(thing, Evidence):
        return thing.changed(functools.partial(_each, ns, change))
    if is_dataclass(thing):
        held: Any = thing
        changed = {f.name: _each(ns, change, getattr(held, f.name)) for f in fields(held)}
        return replace(held, **changed)
    return thing


def _runs(owner: str, function: Function) -> Function:
    @functools.wraps(function)
    def run(*args: Any, **options: Any) -> Any:
        return contained(owner, function, *args, **options)

    return run


def _terms(owner: str, result: Any) -> Any:
    if not isinstance(result, Mapping) or not all(isinstance(name, str) for name in result):
        raise PluginError(
            f"{owner} returned something else than its terms",
            expected="a mapping of arrays [B, M] by name",
            got=type(result).__name__,
        )
    return result


def _notes(owner: str, result: Any) -> tuple[str, ...]:
    if not isinstance(result, tuple | list) or not all(isinstance(note, str) for note in result):
        raise PluginError(
            f"{owner} returned something else than notes from observe",
            expected="a tuple of strings",
            got=type(result).__name__,
        )
    return tuple(result)
