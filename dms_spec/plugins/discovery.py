"""Finds the installed plugins, and isolates each from the others.

pluggy gives the hooks and their validation. Loading is done here, one entry point at a time,
since pluggy's own loader stops at the first plugin that is broken.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import Distribution, EntryPoint, distributions, entry_points
from itertools import islice
from typing import Any

import pluggy

from dms_spec.errors import closest, install_hint
from dms_spec.interface.descriptor import GROUP, HOOKS, Hooks, Kind
from dms_spec.plugins.containment import described, patiently, unheard
from dms_spec.plugins.judging import judge
from dms_spec.plugins.records import PluginRecord

# Of one hook of one plugin: an endless list would never be read to its end.
_MOST = 1000


def discover() -> tuple[PluginRecord, ...]:
    """Looks at every installed plugin. A broken plugin never makes it raise.

    Example:
        >>> from dms_spec.plugins import discover
        >>> [record.status for record in discover() if record.name == "numpy"]
        ['ok']
    """
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
    except Exception:  # one damaged file of any distribution is enough, so find out whose it is
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
                        reason=f"its entry points cannot be read: {described(error)}",
                        fix=install_hint(name, option="--force-reinstall"),
                        cause=error,
                    )
                )
        return found, damaged


def _identity(dist: Distribution | None) -> tuple[str, str]:
    """Reads name and version, also of a distribution whose metadata is gone."""
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
    if base.bundled:
        return _read(manager, entry, base)
    with unheard() as kept, patiently(f"plugin {entry.name!r} of {base.distribution}"):
        records = _read(manager, entry, base)
    return [replace(record, said=kept.text) for record in records]


def _read(
    manager: pluggy.PluginManager, entry: EntryPoint, base: PluginRecord
) -> list[PluginRecord]:
    reinstall = install_hint(_dist_name(entry), option="--upgrade")
    if not EntryPoint.pattern.match(entry.value):
        reason = f"its entry point {entry.value!r} names no module"
        return [replace(base, status="invalid", reason=reason, fix=reinstall)]
    try:
        module = entry.load()
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        reason = f"import failed: {described(error)}"
        return [replace(base, status="broken", reason=reason, fix=reinstall, cause=error)]
    try:
        manager.register(module, name=entry.name)
        problem = _hook_problem(manager, module)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # pluggy's validation, or an attribute that raises
        problem = " ".join(described(error).split())  # pluggy writes several lines
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
        offered = list(islice(function(), _MOST + 1))
        if len(offered) > _MOST:
            reason = f"{hook} returned more than {_MOST} descriptors"
            return [replace(base, status="invalid", kind=kind, reason=reason, fix=fix)]
        return [judge(item, hook, kind, base, fix) for item in offered]
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        reason = f"{hook} failed: {described(error)}"
        return [replace(base, status="broken", kind=kind, reason=reason, fix=fix, cause=error)]


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
