"""Computes in torch what the plain primitives compute, faster."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, reduce
from typing import Any

import array_api_compat.torch as xp
import torch
from torch import Tensor

from dms_spec.equations import primitives
from dms_spec.equations.namespace import Lent, Namespace, Twin, never
from dms_torch import paths
from dms_torch.looking import values_are_hidden

# Entries of mc_logits at a time; measured: the best of 2^17 to 2^21.
_BLOCK = 1 << 19


def lend(tensor: Tensor) -> Lent:
    """The tensor itself, whose writes torch counts; a copy where it does not."""
    if tensor.is_inference():
        return tensor.clone(), never
    before = tensor._version
    return tensor, lambda: tensor._version != before


def select(mask: Tensor, values: Tensor) -> Tensor:
    """The values where the mask holds, 0 elsewhere; without a copy when it holds everywhere.

    Only eager code on the CPU may look: a graph cannot, and a GPU would have to wait.
    """
    if mask.device.type == "cpu" and not values_are_hidden() and bool(mask.all()):
        return values
    return torch.where(mask[..., None] if values.ndim > mask.ndim else mask, values, 0.0)


def usable(
    *,
    features: Tensor | None = None,
    logits: Tensor | None = None,
    mc_logits: Tensor | None = None,
) -> Tensor:
    """Computes the plain form, and in a graph the same by comparisons alone.

    An exported graph runs where a maximum may skip NaN: ONNX Runtime's does.
    """
    if not torch.compiler.is_compiling():
        plain: Tensor = primitives.usable(xp, features=features, logits=logits, mc_logits=mc_logits)
        return plain
    verdicts = [] if features is None else [torch.isfinite(features).all(dim=-1)]
    for given in (logits, mc_logits):
        if given is not None:
            row = (given < torch.inf).all(dim=-1) & (given > -torch.inf).any(dim=-1)
            verdicts.append(row if given.ndim == 3 else row.all(dim=0))
    return reduce(torch.logical_and, verdicts)


def variance_over_passes(mc_logits: Tensor) -> Tensor:
    """Population variance over T of softmax(l), summed over classes: [T, B, M, C] -> [B, M].

    The plain form, a few samples at a time where nothing is traced: the probabilities stay in
    the cache, which on a CPU is worth a factor of six at a thousand classes.
    """
    if values_are_hidden() or mc_logits.device.type != "cpu":
        return _variance(mc_logits)
    passes, _, modalities, classes = mc_logits.shape
    step = max(1, _BLOCK // (passes * modalities * classes))
    parts = torch.split(mc_logits, step, dim=1)
    if torch.is_grad_enabled() and mc_logits.requires_grad:
        return torch.cat([_variance(part) for part in parts])
    # Without gradients one buffer serves all blocks: fresh memory costs more than the arithmetic.
    buffer = torch.empty_like(parts[0], memory_format=torch.contiguous_format)
    return torch.cat([_variance_within(buffer[:, : part.shape[1]], part) for part in parts])


def _variance(mc_logits: Tensor) -> Tensor:
    p = torch.softmax(mc_logits, dim=-1)
    deviation = p - p.mean(dim=0)
    return (deviation * deviation).sum(dim=-1).mean(dim=0)


def _variance_within(buffer: Tensor, mc_logits: Tensor) -> Tensor:
    torch.softmax(mc_logits, dim=-1, out=buffer)
    buffer -= buffer.mean(dim=0)
    return buffer.square_().sum(dim=-1).mean(dim=0)


_Form = Callable[..., Tensor]

#: The forms in plain PyTorch of what has a faster form on some path.
PLAIN: dict[str, _Form] = {
    "cosine": partial(primitives.cosine, xp),
    "entropy": partial(primitives.entropy, xp),
    "masked_softmax": partial(primitives.masked_softmax, xp),
    "usable": usable,
    "variance_over_passes": variance_over_passes,
    "weighted_sum": partial(primitives.weighted_sum, xp),
}


def on_path(asked: str, name: str, *tensors: Tensor, **named: Tensor | None) -> Tensor:
    """Runs a primitive on the path that was asked for, or on the fastest that can run."""
    return _form(asked, name, PLAIN[name], *tensors, *named.values())(*tensors, **named)


def alignment(asked: str, ns: Namespace, features: Tensor) -> Tensor:
    """Does the same for the one primitive that is composed of others in its plain form."""
    return _form(asked, "alignment", partial(primitives.alignment, ns), features)(features)


def one_read(asked: str, name: str, *tensors: Tensor) -> Callable[..., Any] | None:
    """The form of a primitive that reads a tensor once, where the path has one that can run here.

    Weights may have gradients where what was read before has none.
    """
    path = paths.choose("auto", *tensors) if asked == "auto" else asked
    if name not in paths.FORMS[path] or paths.obstacle(path, *tensors):
        return None
    form: Callable[..., Any] = _module(path).one_read(name)
    return form


def twin(asked: str, *tensors: Tensor) -> Twin | None:
    """Numba's backend, where it can run on these tensors and nobody asked for another path."""
    if asked not in ("auto", "numba") or paths.obstacle("numba", *tensors):
        return None
    if any(tensor.dtype == torch.bfloat16 for tensor in tensors):  # which NumPy has not
        return None
    found: Twin = _module("numba").TWIN
    return found


def _form(asked: str, name: str, plain: _Form, *given: Tensor | None) -> _Form:
    """The form of a primitive on a path, plain if it has none."""
    if asked != "auto" and name not in paths.FORMS[asked]:
        return plain
    path = paths.choose(asked, *(tensor for tensor in given if tensor is not None))
    if name not in paths.FORMS[path]:
        return plain
    form: _Form = getattr(_module(path), name)
    return form


def _module(path: str) -> Any:
    """The module of a path's forms, loaded when it is needed."""
    if path == "numba":
        from dms_torch import on_numba as module
    else:
        from dms_torch import kernels as module  # type: ignore[no-redef]
    return module
