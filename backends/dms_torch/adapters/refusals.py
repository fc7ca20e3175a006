"""Refuses what would go wrong without a word while a scheduler is attached."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dms_spec.errors import UnsupportedCapability

#: Attention that adds a mask to its scores.
_MASKED = ("sdpa", "eager")


def check_attention(attention: nn.Module, mask: Any) -> None:
    """Refuses an attention that weights cannot be added to.

    Raises:
        UnsupportedCapability: It has a kernel of its own, or its mask another form.
    """
    config: Any = getattr(attention, "config", None)
    kernel = getattr(config, "_attn_implementation", None) or "eager"
    if kernel not in _MASKED or not (mask is None or (isinstance(mask, Tensor) and mask.ndim == 4)):
        raise UnsupportedCapability(
            "the model's attention takes no mask that weights could be added to",
            expected=f"attn_implementation of {' or '.join(map(repr, _MASKED))}",
            got=f"{kernel!r} with a mask of type {type(mask).__name__}",
            fix='Call model.set_attn_implementation("sdpa").',
        )


def check_checkpointing(stack: nn.Module) -> None:
    """Refuses checkpointing that would lose the gradient of the weights.

    Raises:
        UnsupportedCapability: It is reentrant.
    """
    if not (stack.training and torch.is_grad_enabled()):
        return
    for module in stack.modules():
        if not getattr(module, "gradient_checkpointing", False):
            continue
        function = getattr(module, "_gradient_checkpointing_func", None)
        if getattr(function, "keywords", {}).get("use_reentrant", True):
            raise UnsupportedCapability(
                "reentrant checkpointing loses the gradient of the weights",
                expected="use_reentrant=False",
                got="use_reentrant=True",
                fix="Pass use_reentrant=False where you switch checkpointing on.",
            )


def check_generation(arguments: Mapping[str, Any]) -> None:
    """Refuses a generation that shows the prompt piece by piece: weights need all of it.

    Raises:
        UnsupportedCapability: It does.
    """
    config = arguments.get("generation_config")
    pieces = [arguments.get("prefill_chunk_size"), getattr(config, "prefill_chunk_size", None)]
    if any(pieces):
        raise UnsupportedCapability(
            "the prompt is read in pieces, and weights need all of it",
            expected="no prefill_chunk_size",
            got=str(next(filter(None, pieces))),
        )
