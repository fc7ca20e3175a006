"""Records what became of a plugin."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Literal

from dms_spec.interface.descriptor import Descriptor, Kind

Status = Literal["ok", "unavailable", "broken", "invalid", "duplicate", "incompatible", "disabled"]


@dataclass(frozen=True, kw_only=True)
class PluginRecord:
    """Says what became of one plugin, or of one thing that it offers.

    Attributes:
        plugin: Name of the entry point.
        distribution: The installed distribution that it came with, and its version.
        status: ``ok``, or why it cannot be used.
        kind: What it offers; None when the plugin as a whole is meant.
        name: The name that is asked for; the plugin's own when the whole is meant.
        reason: What is wrong.
        fix: How to fix it.
        said: The beginning of what it printed while it was loaded.
        descriptor: The descriptor, where there is a usable one.
        cause: The exception behind the reason.

    Example:
        >>> from dms_spec import plugin_records
        >>> record = next(r for r in plugin_records() if r.kind == "backend" and r.name == "numpy")
        >>> record.status, record.bundled
        ('ok', True)
    """

    plugin: str
    distribution: str
    status: Status
    name: str
    kind: Kind | None = None
    reason: str = ""
    fix: str = ""
    said: str = ""
    descriptor: Descriptor | None = field(default=None, repr=False)
    cause: BaseException | None = field(default=None, repr=False, compare=False)

    @property
    def bundled(self) -> bool:
        """Whether it came with dms-spec itself."""
        return self.distribution.split(" ")[0] == "dms-spec"


def installed_version(name: str) -> str:
    """The version of a distribution that is installed; empty if it is not."""
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
