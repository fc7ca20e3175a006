"""Finds plugins, judges them, and looks them up by name."""

from dms_spec.interface.descriptor import HOOKS, Descriptor, hookimpl
from dms_spec.plugins.discovery import discover
from dms_spec.plugins.records import PluginRecord, installed_version
from dms_spec.plugins.registry import (
    available,
    get_backend,
    get_exporter,
    get_policy,
    get_signal,
    loaded,
    plugin_records,
    refresh,
)

__all__ = [
    "HOOKS",
    "Descriptor",
    "PluginRecord",
    "available",
    "discover",
    "get_backend",
    "get_exporter",
    "get_policy",
    "get_signal",
    "hookimpl",
    "installed_version",
    "loaded",
    "plugin_records",
    "refresh",
]
