"""Reads and replaces the arguments of a module's call by name, wherever they stand."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

#: What one argument is called in the versions and families that there are.
CACHE = ("cache", "past_key_values", "past_key_value")
MASK = ("attention_mask", "mask")
STATES = ("cross_attention_states", "image_hidden_states")
STATES_MASK = ("cross_attention_mask", "image_attention_mask")
STATES_GATE = ("full_text_row_masked_out_mask", "cross_attention_gate")


def parameters(module: nn.Module) -> tuple[str, ...]:
    """Lists the names of what a module's forward takes, in order."""
    return tuple(inspect.signature(module.forward).parameters)


@dataclass(frozen=True)
class Arguments:
    """Holds the arguments of one call.

    Attributes:
        names: Of the forward's parameters, in order.
        args: Those given by place.
        kwargs: Those given by name.
    """

    names: tuple[str, ...]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    def get(self, *aliases: str) -> Any:
        """Gives the first of these that was given and is not None; None if there is none."""
        for name in aliases:
            value = self.kwargs.get(name)
            if value is None and name in self.names[: len(self.args)]:
                value = self.args[self.names.index(name)]
            if value is not None:
                return value
        return None

    def put(self, value: Any, *aliases: str) -> Arguments:
        """Replaces the argument that the forward knows by one of these names."""
        name = next(name for name in aliases if name in self.names)
        place = self.names.index(name)
        if place >= len(self.args):
            return replace(self, kwargs={**self.kwargs, name: value})
        return replace(self, args=(*self.args[:place], value, *self.args[place + 1 :]))

    @property
    def packed(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """What a pre-hook returns."""
        return self.args, dict(self.kwargs)
