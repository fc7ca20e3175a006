"""Registers the core's own signals and policies, as a third-party plugin does."""

from __future__ import annotations

from functools import partial
from importlib import import_module
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
    "corroboration",
    "energy",
)
_POLICIES = ("static", "linear", "co_attention", "modality_dropout")
_LEARNED = ("learned_linear", "residual_mlp", "monotone")
# Each in a module of its own.
_MORE_SIGNALS = {"typicality": "typicality", "vacuity": "published.tmc"}
_MORE_POLICIES = {
    "soundness": "evidence",
    "dmome": "published.simmlm",
    "qmf": "published.qmf",
    "tmc": "published.tmc",
    "ma_afs": "experimental.ma_afs",
}


def _load(table: str, module: str, name: str) -> Any:
    things = getattr(import_module(f"dms_spec.equations.{module}"), table)
    return next(thing for thing in things if thing.name == name)


@hookimpl
def dms_register_signals() -> list[Descriptor]:
    modules = dict.fromkeys(_SIGNALS, "signals") | _MORE_SIGNALS
    return [
        Descriptor(name=name, load=partial(_load, "SIGNALS", module, name))
        for name, module in modules.items()
    ]


@hookimpl
def dms_register_policies() -> list[Descriptor]:
    modules = dict.fromkeys(_POLICIES, "policies") | _MORE_POLICIES
    policies = [
        Descriptor(name=name, load=partial(_load, "POLICIES", module, name))
        for name, module in modules.items()
    ]
    learned = [
        Descriptor(name=name, load=partial(_load, "LEARNED", "learned", name)) for name in _LEARNED
    ]
    return policies + learned
