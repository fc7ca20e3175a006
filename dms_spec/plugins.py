"""Plugins: what can be registered, how it is found, and what went wrong with those not usable.

pluggy gives the hooks and their validation. Loading is done here, one entry point at a time,
since pluggy's own loader stops at the first plugin that is broken.
"""

from __future__ import annotations

import os
import re
import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import (
    Distribution,
    EntryPoint,
    PackageNotFoundError,
    distributions,
    entry_points,
    version,
)
from pkgutil import resolve_name
from typing import Any, Literal, cast

import pluggy

from dms_spec._version import PLUGIN_ABI, SUPPORTED_EDITIONS
from dms_spec.errors import BackendUnavailable, DMSError, PluginError, closest, unknown
from dms_spec.interface.backend import Backend
from dms_spec.interface.exporter import Exporter
from dms_spec.interface.policy import Policy
from dms_spec.interface.signal import Signal

GROUP = "dms_spec"
Kind = Literal["backend", "policy", "signal", "exporter"]
Status = Literal["ok", "unavailable", "broken", "invalid", "duplicate", "incompatible", "disabled"]

hookspec = pluggy.HookspecMarker(GROUP)

#: Marks a function of a plugin module as the implementation of one of the hooks below.
hookimpl = pluggy.HookimplMarker(GROUP)


@dataclass(frozen=True, kw_only=True)
class Descriptor:
    """One thing that a plugin offers, named without importing what it needs.

    Args:
        name: What users ask for. Unique among things of its kind.
        load: Called with nothing, once, when it is first asked for; returns the thing itself. As
            text, ``"module:name"``, it names such a callable, which is imported only then.
        summary: One line for listings.
        editions: Editions of the specification that it follows.
        abi: The plugin contract that it was written for, `dms_spec._version.PLUGIN_ABI`.
        requires: Distributions that must be installed, such as ``"torch"``; of several that do the
            same, separated by ``|``, one.
        extra: What to give to pip when they are not.
    """

    name: str
    load: Callable[[], Any] | str
    summary: str = ""
    editions: tuple[str, ...] = SUPPORTED_EDITIONS
    abi: int = PLUGIN_ABI
    requires: tuple[str, ...] = ()
    extra: str = ""


class Hooks:
    """The hooks. A plugin is a module with any of these functions, marked ``@hookimpl``."""

    @hookspec
    def dms_register_backends(self) -> Sequence[Descriptor]:  # type: ignore[empty-body]
        """Backends; each descriptor loads an instance of `dms_spec.Backend`."""

    @hookspec
    def dms_register_policies(self) -> Sequence[Descriptor]:  # type: ignore[empty-body]
        """Policies; each descriptor loads a `dms_spec.Policy`."""

    @hookspec
    def dms_register_signals(self) -> Sequence[Descriptor]:  # type: ignore[empty-body]
        """Signals; each descriptor loads a `dms_spec.Signal`."""

    @hookspec
    def dms_register_exporters(self) -> Sequence[Descriptor]:  # type: ignore[empty-body]
        """Exporters; each descriptor loads an instance of `dms_spec.Exporter`."""


HOOKS: dict[str, Kind] = {
    "dms_register_backends": "backend",
    "dms_register_policies": "policy",
    "dms_register_signals": "signal",
    "dms_register_exporters": "exporter",
}

# A callable by its module and its name in it.
_NAMED = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")

# Names in every output file, which a signal of the same name would overwrite.
_OUTPUTS = ("weights", "fused", "scores", "active")


@dataclass(frozen=True, kw_only=True)
class PluginRecord:
    """What became of one plugin, or of one thing that it offers.

    Attributes:
        plugin: Name of the entry point.
        distribution: The installed distribution that it came with, and its version.
        status: ``ok``, or why it cannot be used.
        kind: What it offers; None when the plugin as a whole is meant.
        name: The name that is asked for; the plugin's own when the whole is meant.
        reason: What is wrong.
        fix: How to mend it.
        descriptor: The descriptor, where there is a usable one.
        cause: The exception behind the reason.
    """

    plugin: str
    distribution: str
    status: Status
    name: str
    kind: Kind | None = None
    reason: str = ""
    fix: str = ""
    descriptor: Descriptor | None = field(default=None, repr=False)
    cause: BaseException | None = field(default=None, repr=False, compare=False)


# ------------------------------------------------------------------------------------ discovery


def discover() -> tuple[PluginRecord, ...]:
    """Look at every installed plugin. Never raises because of one of them."""
    manager = pluggy.PluginManager(GROUP)
    manager.add_hookspecs(Hooks)
    disabled = set(re.split(r"[,\s]+", os.environ.get("DMS_SPEC_DISABLE_PLUGINS", ""))) - {""}
    found, records = _entry_points()
    by_name: dict[str, list[EntryPoint]] = defaultdict(list)
    for entry in found:
        by_name[entry.name].append(entry)
    for name, entries in sorted(by_name.items()):
        kept = [entry for entry in entries if not {name, _dist_name(entry)} & disabled]
        for entry in entries:
            base = PluginRecord(plugin=name, distribution=_dist(entry), status="ok", name=name)
            if entry not in kept:
                records.append(
                    replace(
                        base,
                        status="disabled",
                        reason="named in DMS_SPEC_DISABLE_PLUGINS",
                        fix="Take it out of that variable.",
                    )
                )
            elif len(kept) > 1:
                records.append(_duplicate(base, f"plugin {name!r}", map(_dist, kept)))
            else:
                records.extend(_load(manager, entry, base))
    return _without_duplicates(records)


def _entry_points() -> tuple[list[EntryPoint], list[PluginRecord]]:
    """The entry points of the group, and a record for each distribution that hides its own."""
    try:
        return list(entry_points(group=GROUP)), []
    except Exception:  # one damaged file of any distribution is enough: find out whose
        found: list[EntryPoint] = []
        damaged, seen = [], set()
        for dist in distributions():
            name, version = _identity(dist)
            key = re.sub(r"[-_.]+", "-", name).lower()
            if name != "?" and key in seen:  # shadowed by one that comes earlier on the path
                continue
            seen.add(key)
            try:
                found += dist.entry_points.select(group=GROUP)
            except Exception as error:
                damaged.append(
                    PluginRecord(
                        plugin=name,
                        distribution=f"{name} {version}",
                        status="broken",
                        name=name,
                        reason=f"its entry points cannot be read: {type(error).__name__}: {error}",
                        fix=f"Reinstall it: pip install --force-reinstall {name}",
                        cause=error,
                    )
                )
        return found, damaged


def _identity(dist: Distribution | None) -> tuple[str, str]:
    """Name and version, also of a distribution whose metadata is gone."""
    try:
        return (dist.name or "?", dist.version or "?") if dist else ("?", "?")
    except Exception:
        return "?", "?"


def _dist_name(entry: EntryPoint) -> str:
    return _identity(entry.dist)[0]


def _dist(entry: EntryPoint) -> str:
    return " ".join(_identity(entry.dist))


def _duplicate(record: PluginRecord, what: str, sources: Any) -> PluginRecord:
    return replace(
        record,
        status="duplicate",
        reason=f"{what} is offered by {' and '.join(sorted(set(sources)))}; none is used",
        fix="Uninstall one of them, or name it in DMS_SPEC_DISABLE_PLUGINS.",
    )


def _load(
    manager: pluggy.PluginManager, entry: EntryPoint, base: PluginRecord
) -> list[PluginRecord]:
    """One entry point, isolated: whatever it does becomes a record."""
    reinstall = f"Reinstall or update it: pip install --upgrade {_dist_name(entry)}"
    if not EntryPoint.pattern.match(entry.value):
        reason = f"its entry point {entry.value!r} names no module"
        return [replace(base, status="invalid", reason=reason, fix=reinstall)]
    try:
        module = entry.load()
    except (Exception, SystemExit) as error:
        reason = f"import failed: {type(error).__name__}: {error}"
        return [replace(base, status="broken", reason=reason, fix=reinstall, cause=error)]
    try:
        manager.register(module, name=entry.name)
        problem = _hook_problem(manager, module)
    except Exception as error:  # pluggy's validation, or an attribute that raises
        problem = " ".join(str(error).split())  # pluggy writes several lines
    if problem:
        if manager.has_plugin(entry.name):
            manager.unregister(name=entry.name)
        return [replace(base, status="invalid", reason=problem, fix=reinstall)]
    records: list[PluginRecord] = []
    for hook, kind in HOOKS.items():
        for impl in getattr(manager.hook, hook).get_hookimpls():
            if impl.plugin_name == entry.name:
                records.extend(_call(impl.function, hook, kind, base, reinstall))
    return records


def _hook_problem(manager: pluggy.PluginManager, module: object) -> str:
    """What is wrong with the hooks of a registered plugin; empty if nothing."""
    callers = [caller.name for caller in manager.get_hookcallers(module) or ()]
    for name in callers:
        if name not in HOOKS:
            return f"unknown hook {name!r}. {closest(name, HOOKS)}"
    if not callers:
        unmarked = [name for name in HOOKS if hasattr(module, name)]
        if unmarked:
            return f"{unmarked[0]} is not marked @hookimpl, so it is never called"
        return f"it implements none of the hooks: {', '.join(HOOKS)}"
    return ""


def _call(
    function: Callable[[], Any], hook: str, kind: Kind, base: PluginRecord, fix: str
) -> list[PluginRecord]:
    try:
        offered = list(function())
    except (Exception, SystemExit) as error:
        reason = f"{hook} failed: {type(error).__name__}: {error}"
        return [replace(base, status="broken", kind=kind, reason=reason, fix=fix, cause=error)]
    return [_judge(item, hook, kind, base, fix) for item in offered]


def _judge(item: object, hook: str, kind: Kind, base: PluginRecord, fix: str) -> PluginRecord:
    base = replace(base, kind=kind)
    if not isinstance(item, Descriptor):
        reason = f"{hook} returned {type(item).__name__}, not dms_spec.Descriptor"
        return replace(base, status="invalid", reason=reason, fix=fix)
    if problem := _descriptor_problem(item, kind):
        reason = f"{hook} returned a descriptor that is not usable: {problem}"
        return replace(base, status="invalid", reason=reason, fix=fix)
    base = replace(base, name=item.name, descriptor=item)
    if item.abi != PLUGIN_ABI:
        side = "the plugin" if item.abi < PLUGIN_ABI else "dms-spec"
        return replace(
            base,
            status="incompatible",
            reason=f"written for plugin contract {item.abi}, this is {PLUGIN_ABI}",
            fix=f"Update {side}.",
        )
    if not set(item.editions) & set(SUPPORTED_EDITIONS):
        return replace(
            base,
            status="incompatible",
            reason=f"follows edition {', '.join(item.editions) or 'none'}; "
            f"supported here: {', '.join(SUPPORTED_EDITIONS)}",
            fix="Update the older of the two.",
        )
    missing = [name for name in item.requires if not any(map(installed_version, name.split("|")))]
    if missing:
        return replace(
            base,
            status="unavailable",
            reason=f"needs {', '.join(missing).replace('|', ' or ')}, which is not installed",
            fix=f"pip install '{item.extra or ' '.join(n.partition('|')[0] for n in missing)}'",
        )
    return base


def _descriptor_problem(item: Descriptor, kind: Kind) -> str:
    """What is wrong with the fields of a descriptor; empty if nothing."""
    for key in ("name", "summary", "extra"):
        if not isinstance(getattr(item, key), str):
            return f"{key} is {getattr(item, key)!r}, not a string"
    if not item.name:
        return "name is empty"
    if kind == "signal" and item.name in _OUTPUTS:
        return f"name is {item.name!r}, which is an output of every schedule"
    if not callable(item.load) and not _NAMED.fullmatch(str(item.load)):
        return f"load is {item.load!r}, which cannot be called and names no module:name"
    if not isinstance(item.abi, int):
        return f"abi is {item.abi!r}, not a whole number"
    for key in ("editions", "requires"):
        value = getattr(item, key)
        if not isinstance(value, tuple | list) or not all(isinstance(v, str) for v in value):
            return f"{key} is {value!r}, not a tuple of strings"
    for name in (name for either in item.requires for name in either.split("|")):
        if not re.fullmatch(r"[A-Za-z0-9]([\w.-]*[A-Za-z0-9])?", name):
            return f"requires {name!r}, which is not the bare name of a distribution"
    return ""


def installed_version(name: str) -> str:
    """The version of a distribution that is installed; empty if it is not."""
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _without_duplicates(records: list[PluginRecord]) -> tuple[PluginRecord, ...]:
    """Two plugins that offer one name: neither is used, since either could be meant."""
    owners: dict[tuple[Kind, str], list[PluginRecord]] = defaultdict(list)
    for record in records:
        if record.descriptor and record.kind:
            owners[record.kind, record.name].append(record)
    return tuple(
        _duplicate(
            record,
            f"{record.kind} {record.name!r}",
            (owner.distribution for owner in owners[record.kind, record.name]),
        )
        if record.kind and len(owners[record.kind, record.name]) > 1
        else record
        for record in records
    )


# ------------------------------------------------------------------------------------- registry

_lock = threading.RLock()
_records: tuple[PluginRecord, ...] | None = None
_loaded: dict[tuple[Kind, str], Any] = {}


def plugin_records() -> tuple[PluginRecord, ...]:
    """Every plugin and what became of it, discovered once per process.

    Raises:
        PluginError: A plugin is unusable and DMS_SPEC_STRICT_PLUGINS is set to 1.
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
    """Forget what was discovered, after something was installed in this very process."""
    global _records
    with _lock:
        _records = None
        _loaded.clear()


def available(kind: Kind) -> tuple[str, ...]:
    """Names that can be asked for, sorted."""
    return tuple(sorted(r.name for r in plugin_records() if r.kind == kind and r.status == "ok"))


def get_backend(name: str) -> Backend:
    """The backend of a name.

    Raises:
        UnknownName: Nobody registered it; the message names the closest.
        PluginError: It is registered, but broken, duplicate, invalid or outdated.
        BackendUnavailable: What it needs is not installed, or cannot be imported.
    """
    return cast("Backend", _get("backend", name, Backend))


def get_policy(name: str) -> Policy:
    """The policy of a name; raises like `get_backend`."""
    return cast("Policy", _get("policy", name, Policy))


def get_signal(name: str) -> Signal:
    """The signal of a name; raises like `get_backend`."""
    return cast("Signal", _get("signal", name, Signal))


def get_exporter(name: str) -> Exporter:
    """The exporter of a name; raises like `get_backend`."""
    return cast("Exporter", _get("exporter", name, Exporter))


def _get(kind: Kind, name: str, expected: type) -> object:
    with _lock:
        if (kind, name) in _loaded:
            return _loaded[kind, name]
        thing = _materialise(kind, name, expected)
        _loaded[kind, name] = thing  # only after success
        return thing


def _materialise(kind: Kind, name: str, expected: type) -> object:
    records = plugin_records()
    # A plugin that is broken as a whole never said what it offers: its own name stands for it.
    mine = [r for r in records if r.name == name and r.kind in (kind, None)]
    usable = [r for r in mine if r.status == "ok" and r.descriptor]
    if not usable:
        if mine:
            raise _refusal(mine[0])
        raise unknown(kind, name, available(kind))
    descriptor = usable[0].descriptor
    assert descriptor is not None  # noqa: S101 - narrows the type; filtered above
    try:
        load = descriptor.load
        thing = (resolve_name(load) if isinstance(load, str) else load)()
        own_name = getattr(thing, "name", name)
        if kind == "backend":
            getattr(thing, "capabilities", None)  # one that cannot say what it can do is unusable
    except DMSError:
        raise
    except (Exception, SystemExit) as error:
        raise BackendUnavailable(
            f"{kind} {name!r} of {usable[0].distribution} could not be loaded",
            got=f"{type(error).__name__}: {error}",
            fix=f"pip install --upgrade '{descriptor.extra or usable[0].distribution.split()[0]}'",
        ) from error
    if not isinstance(thing, expected):
        raise PluginError(
            f"{kind} {name!r} of {usable[0].distribution} loads something else",
            expected=f"{expected.__module__}.{expected.__qualname__}",
            got=type(thing).__qualname__,
        )
    if own_name != name:
        raise PluginError(
            f"{kind} {name!r} of {usable[0].distribution} calls itself otherwise",
            expected=f"the name of its descriptor, {name!r}",
            got=repr(own_name),
        )
    return thing


def _refusal(record: PluginRecord) -> DMSError:
    what = f"{record.kind or 'plugin'} {record.name!r} of {record.distribution} is {record.status}"
    kind = BackendUnavailable if record.status == "unavailable" else PluginError
    error = kind(what, got=record.reason, fix=record.fix)
    error.__cause__ = record.cause
    return error
