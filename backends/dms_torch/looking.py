"""Says where a module runs: whether values can be looked at, and whether gradients will be lost."""

from __future__ import annotations

import sys
from types import FrameType

import torch
from torch.autograd import forward_ad
from torch.utils.checkpoint import CheckpointFunction

_REENTRANT = CheckpointFunction.forward.__code__


def values_are_hidden() -> bool:
    """Says whether code now sees no values: while a graph is traced, and under ``vmap``."""
    return torch.compiler.is_compiling() or torch._C._is_tracing() or _under_vmap()


def _under_vmap() -> bool:
    transforms = torch._C._functorch.get_interpreter_stack() or ()
    return any(each.key() == torch._C._functorch.TransformType.Vmap for each in transforms)


def in_reentrant_checkpoint() -> bool:
    """Says whether this is the first run of a checkpoint with ``use_reentrant=True``.

    It runs without gradients, and torch gives them only to tensors that the checkpoint returns by
    themselves or in a tuple. Torch says this nowhere, so the stack of calls does.
    """
    if torch.compiler.is_compiling() or torch.is_grad_enabled():
        return False
    frame: FrameType | None = sys._getframe()
    while frame is not None and frame.f_code is not _REENTRANT:
        frame = frame.f_back
    return frame is not None


def transforms_are_on() -> bool:
    """Says whether torch would see what code does now: ``torch.func``, or a mode that dispatches.

    A mode may hand in tensors without values, or record what is computed on real ones.
    """
    if torch.compiler.is_compiling():
        return False
    stack = torch._C._functorch.get_interpreter_stack()
    return bool(stack) or torch._C._len_torch_dispatch_stack() > 0


def records_gradients(*tensors: torch.Tensor) -> bool:
    """Says whether something computed from these tensors has a gradient, backward or forward."""
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        return True
    return forward_ad._current_level >= 0


def are_ordinary(*tensors: torch.Tensor) -> bool:
    """Says whether these are torch's own tensors, whose memory holds their values."""
    ordinary = (torch.Tensor, torch.nn.Parameter)
    return all(type(t) in ordinary and t.layout == torch.strided for t in tensors)
