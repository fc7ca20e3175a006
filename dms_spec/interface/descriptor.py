"""Defines how a plugin says what it offers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pluggy

from dms_spec._version import PLUGIN_ABI, SUPPORTED_EDITIONS

GROUP = "dms_spec"
Kind = Literal["backend", "policy", "signal", "exporter"]

hookspec = pluggy.HookspecMarker(GROUP)

#: Marks a function of a plugin module as the implementation of one of the hooks below.
hookimpl = pluggy.HookimplMarker(GROUP)


@dataclass(frozen=True, kw_only=True)
class Descriptor:
    """Names one thing that a plugin offers, without importing what it needs.

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

    Example:
        >>> from dms_spec import Descriptor, hookimpl
        >>> @hookimpl
        ... def dms_register_backends():
        ...     return [Descriptor(name="mine", load="my_backend:MyBackend", requires=("mylib",))]
    """

    name: str
    load: Callable[[], Any] | str
    summary: str = ""
    editions: tuple[str, ...] = SUPPORTED_EDITIONS
    abi: int = PLUGIN_ABI
    requires: tuple[str, ...] = ()
    extra: str = ""


class Hooks:
    """Lists the hooks. A plugin is a module with any of these functions, marked ``@hookimpl``."""

    @hookspec
    def dms_register_backends(self) -> Sequence[Descriptor]:  # type: ignore[empty-body]
        """Offers backends. Each descriptor loads an instance of `dms_spec.Backend`."""

    @hookspec
    def dms_register_policies(self) -> Sequence[Descriptor]:  # type: ignore[empty-body]
        """Offers policies. Each descriptor loads a `dms_spec.Policy`."""

    @hookspec
    def dms_register_signals(self) -> Sequence[Descriptor]:  # type: ignore[empty-body]
        """Offers signals. Each descriptor loads a `dms_spec.Signal`."""

    @hookspec
    def dms_register_exporters(self) -> Sequence[Descriptor]:  # type: ignore[empty-body]
        """Offers exporters. Each descriptor loads an instance of `dms_spec.Exporter`."""


HOOKS: dict[str, Kind] = {
    "dms_register_backends": "backend",
    "dms_register_policies": "policy",
    "dms_register_signals": "signal",
    "dms_register_exporters": "exporter",
}
