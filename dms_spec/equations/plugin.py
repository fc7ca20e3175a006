"""Registers the core's own signals and policies, as a third-party plugin does."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from importlib import import_module
from typing import Any

from dms_spec.plugins import Descriptor, hookimpl

# By module, named here as text, so that a listing does not import the equations.
_SIGNALS: Mapping[str, tuple[str, ...]] = {
    "signals": (
        "confidence",
        "uncertainty",
        "mutual_information",
        "alignment",
        "anchored_alignment",
        "agreement",
        "corroboration",
        "energy",
    ),
    "typicality": ("typicality",),
    "published.tmc": ("vacuity",),
}
_POLICIES: Mapping[str, tuple[str, ...]] = {
    "policies": ("static", "linear", "co_attention", "modality_dropout"),
    "learned": ("learned_linear", "residual_mlp", "monotone"),
    "evidence": ("soundness",),
    "published.simmlm": ("dmome",),
    "published.qmf": ("qmf",),
    "published.tmc": ("tmc",),
    "experimental.ma_afs": ("ma_afs",),
}


@hookimpl
def dms_register_signals() -> list[Descriptor]:
    return _descriptors("SIGNALS", _SIGNALS)


@hookimpl
def dms_register_policies() -> list[Descriptor]:
    return _descriptors("POLICIES", _POLICIES)


def _descriptors(table: str, modules: Mapping[str, tuple[str, ...]]) -> list[Descriptor]:
    return [
        Descriptor(name=name, load=partial(_load, table, module, name))
        for module, names in modules.items()
        for name in names
    ]


def _load(table: str, module: str, name: str) -> Any:
    """Gives the thing of a name in a module's table."""
    things = getattr(import_module(f"dms_spec.equations.{module}"), table)
    return next(thing for thing in things if thing.name == name)
