"""Looks up by name what plugins offer."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from dataclasses import replace
from pkgutil import resolve_name
from typing import Any, cast

from dms_spec.errors import BackendUnavailable, DMSError, PluginError, install_hint, unknown
from dms_spec.interface.backend import Backend
from dms_spec.interface.capabilities import Capabilities
from dms_spec.interface.descriptor import Descriptor, Kind
from dms_spec.interface.exporter import Exporter
from dms_spec.interface.policy import Policy
from dms_spec.interface.signal import Signal
from dms_spec.plugins.containment import described, patiently, unheard
from dms_spec.plugins.discovery import discover
from dms_spec.plugins.guarding import guarded
from dms_spec.plugins.records import PluginRecord

_TYPES: dict[Kind, type] = {
    "backend": Backend,
    "exporter": Exporter,
    "policy": Policy,
    "signal": Signal,
}

_lock = threading.RLock()
_records: tuple[PluginRecord, ...] | None = None
_loaded: dict[tuple[Kind, str], Any] = {}


def plugin_records() -> tuple[PluginRecord, ...]:
    """Lists every plugin and what became of it, discovered once per process.

    Raises:
        PluginError: A plugin is unusable and DMS_SPEC_STRICT_PLUGINS is set to 1.

    Example:
        >>> from dms_spec import plugin_records
        >>> sorted(r.name for r in plugin_records() if r.kind == "exporter" and r.bundled)
        ['onnx', 'triton']
    """
    global _records
    with _lock:
        if _records is None:
            found = discover()
            if os.environ.get("DMS_SPEC_STRICT_PLUGINS") == "1":
                for record in found:
                    if record.status not in ("ok", "unavailable", "disabled"):
                        raise _refusal(record)
            _records = found
        return _records


def refresh() -> None:
    """Forgets what was discovered, after something was installed in this very process.

    Example:
        >>> from dms_spec.plugins import refresh
        >>> refresh()
    """
    global _records
    with _lock:
        _records = None
        _loaded.clear()


def loaded(records: Iterable[PluginRecord]) -> tuple[PluginRecord, ...]:
    """Loads policies, signals and exporters of third parties; what cannot be loaded is broken.

    A backend is left to whoever runs it, and what comes with dms-spec to its tests.

    Example:
        >>> from dms_spec.plugins import discover, loaded
        >>> [record.name for record in loaded(discover()) if record.status == "broken"]
        []
    """
    return tuple(map(_tried, records))


def _tried(record: PluginRecord) -> PluginRecord:
    if record.status != "ok" or record.kind in (None, "backend") or record.bundled:
        return record
    try:
        _loaded_by(record, record.kind, record.name)
    except DMSError as error:
        reason = str(error).removesuffix(f". {error.fix}")
        return replace(record, status="broken", reason=reason, fix=error.fix, cause=error)
    return record


def available(kind: Kind) -> tuple[str, ...]:
    """Lists the names of one kind that you can ask for, sorted.

    Args:
        kind: ``"backend"``, ``"policy"``, ``"signal"`` or ``"exporter"``.

    Example:
        >>> from dms_spec import available
        >>> "numpy" in available("backend"), "linear" in available("policy")
        (True, True)
    """
    return tuple(sorted(r.name for r in plugin_records() if r.kind == kind and r.status == "ok"))


def get_backend(name: str) -> Backend:
    """Returns the backend that is registered under a name.

    Raises:
        UnknownName: Nobody registered it; the message names the closest.
        PluginError: It is registered, but broken, duplicate, invalid or outdated.
        BackendUnavailable: What it needs is not installed, or cannot be imported.

    Example:
        >>> from dms_spec import get_backend
        >>> get_backend("numpy").capabilities.dtypes
        ('float64', 'float32', 'float16')
    """
    return cast("Backend", _get("backend", name))


def get_policy(name: str) -> Policy:
    """Returns the policy that is registered under a name; raises like `get_backend`.

    Example:
        >>> from dms_spec.plugins import get_policy
        >>> get_policy("linear").uses_signals
        True
    """
    return cast("Policy", _get("policy", name))


def get_signal(name: str) -> Signal:
    """Returns the signal that is registered under a name; raises like `get_backend`.

    Example:
        >>> from dms_spec.plugins import get_signal
        >>> get_signal("confidence").needs, get_signal("uncertainty").direction
        (('logits',), -1)
    """
    return cast("Signal", _get("signal", name))


def get_exporter(name: str) -> Exporter:
    """Returns the exporter that is registered under a name; raises like `get_backend`.

    Example:
        >>> from dms_spec.plugins import get_exporter
        >>> get_exporter("onnx").name
        'onnx'
    """
    return cast("Exporter", _get("exporter", name))


def _get(kind: Kind, name: str) -> object:
    with _lock:
        if (kind, name) in _loaded:
            return _loaded[kind, name]
        thing = _materialise(kind, name)
        _loaded[kind, name] = thing  # only after success
        return thing


def _materialise(kind: Kind, name: str) -> object:
    records = plugin_records()
    # A plugin that is broken as a whole never said what it offers: its own name stands for it.
    mine = [r for r in records if r.name == name and r.kind in (kind, None)]
    usable = [r for r in mine if r.status == "ok" and r.descriptor]
    if not usable:
        if mine:
            raise _refusal(mine[0])
        raise unknown(kind, name, available(kind))
    thing = _loaded_by(usable[0], kind, name)
    return thing if usable[0].bundled else guarded(thing)


def _loaded_by(record: PluginRecord, kind: Kind, name: str) -> object:
    """What a plugin's own code loads, checked: whatever goes wrong there is an error here."""
    expected = _TYPES[kind]
    descriptor, what = record.descriptor, f"{kind} {name!r} of {record.distribution}"
    assert descriptor is not None  # noqa: S101 - narrows the type; filtered by the caller
    try:
        if record.bundled:
            thing, own_name, good = _opened(descriptor, kind, name, expected)
        else:
            with unheard(), patiently(what):
                thing, own_name, good = _opened(descriptor, kind, name, expected)
    except (DMSError, KeyboardInterrupt):
        raise
    except BaseException as error:
        raise BackendUnavailable(
            f"{what} could not be loaded",
            got=described(error),
            fix=install_hint(
                descriptor.extra or record.distribution.split()[0], option="--upgrade"
            ),
        ) from error
    if not good:
        raise PluginError(
            f"{what} loads something else",
            expected=f"{expected.__module__}.{expected.__qualname__}",
            got=type(thing).__qualname__,
        )
    if own_name != name:
        raise PluginError(
            f"{what} has another name",
            expected=f"the name of its descriptor, {name!r}",
            got=repr(own_name),
        )
    return thing


def _opened(
    descriptor: Descriptor, kind: Kind, name: str, expected: type
) -> tuple[object, str, bool]:
    """What is loaded, its own name, and whether it is of the right kind."""
    load = descriptor.load
    thing = (resolve_name(load) if isinstance(load, str) else load)()
    own_name = str(getattr(thing, "name", name))
    good = isinstance(thing, expected)
    if good and kind == "backend":  # one that cannot say what it can do is unusable
        claims = getattr(thing, "capabilities", None)
        if not isinstance(claims, Capabilities):
            raise TypeError(f"its capabilities are of type {type(claims).__name__}")
    return thing, own_name, good


def _refusal(record: PluginRecord) -> DMSError:
    what = f"{record.kind or 'plugin'} {record.name!r} of {record.distribution} is {record.status}"
    kind = BackendUnavailable if record.status == "unavailable" else PluginError
    error = kind(f"{what}: {record.reason}", fix=record.fix)
    error.__cause__ = record.cause
    return error
