"""Judges whether what a plugin offers is usable here, and says why not."""

from __future__ import annotations

import re
from dataclasses import replace

from dms_spec._version import PLUGIN_ABI, SUPPORTED_EDITIONS
from dms_spec.errors import install_hint
from dms_spec.interface.descriptor import Descriptor, Kind
from dms_spec.plugins.records import PluginRecord, installed_version
from dms_spec.types import INPUT_NAMES, OUTPUT_NAMES, TERMS

# A signal of such a name would take the place of an input or an output.
_TAKEN = {*INPUT_NAMES, *OUTPUT_NAMES}

# A callable by its module and its name in it.
_NAMED = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


def judge(item: object, hook: str, kind: Kind, base: PluginRecord, fix: str) -> PluginRecord:
    """The record of one thing that a hook returned."""
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
            fix=install_hint(
                *([item.extra] if item.extra else [n.partition("|")[0] for n in missing])
            ),
        )
    return base


def _descriptor_problem(item: Descriptor, kind: Kind) -> str:
    """What is wrong with the fields of a descriptor; empty if nothing."""
    for key in ("name", "summary", "extra"):
        if not isinstance(getattr(item, key), str):
            return f"{key} is {getattr(item, key)!r}, not a string"
    if not item.name:
        return "name is empty"
    if kind == "signal" and (item.name in _TAKEN or item.name.startswith(TERMS)):
        return f"name is {item.name!r}, which stands for something else beside signals"
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
