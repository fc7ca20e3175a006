"""The core's own signals and policies, registered the way a stranger's are."""

from __future__ import annotations

from functools import partial
from typing import Any

from dms_spec.plugins import Descriptor, hookimpl

# Named here as text, so that a listing does not import the equations.
_SIGNALS = (
    "confidence",
    "uncertainty",
    "mutual_information",
    "alignment",
    "anchored_alignment",
    "agreement",
    "energy",
)
_POLICIES = ("static", "linear", "co_attention", "modality_dropout")
_LEARNED = ("learned_linear", "residual_mlp", "monotone")


def _load(table: str, module: str, name: str) -> Any:
    from importlib import import_module

    things = getattr(import_module(f"dms_spec.equations.{module}"), table)
    return next(thing for thing in things if thing.name == name)


@hookimpl
def dms_register_signals() -> list[Descriptor]:
    return [
        Descriptor(name=name, load=partial(_load, "SIGNALS", "signals", name)) for name in _SIGNALS
    ]


@hookimpl
def dms_register_policies() -> list[Descriptor]:
    return [
        Descriptor(name=name, load=partial(_load, table, module, name))
        for table, module, names in (
            ("POLICIES", "policies", _POLICIES),
            ("LEARNED", "learned", _LEARNED),
        )
        for name in names
    ]
