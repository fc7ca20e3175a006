"""Holds what `Fusion` and `FusionModel` return, in a form that PyTorch's own tools take apart."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from dms_spec.errors import UnsupportedCapability


@dataclass(frozen=True)
class FusionOutput:
    """Holds what `Fusion` returns: by attribute, by key, or unpacked like a tuple.

    It is a pytree of its tensors. ``DistributedDataParallel``, FSDP, ``torch.export`` and
    ``torch.func`` find the tensors in it, and put it together again.

    Attributes:
        fused: ``[B, D]``, or ``[B, C]`` for fusion of logits, probabilities or evidence.
        weights: ``[B, M]``.
        scores: ``[B, M]``; -inf where a modality is not active.
        active: bool ``[B, M]``.
        signals: Each signal by name, ``[B, M]``.
        terms: What each term added to the scores, ``[B, M]``.
        soundness: How far each modality was believed, ``[B, M]``; None but for fusion of evidence.
        notes: Everything that was weaker than asked for, in words.

    Example:
        >>> import torch
        >>> from dms_spec import SchedulerSpec
        >>> from dms_torch import Fusion
        >>> fusion = Fusion(SchedulerSpec.preset("static", ("image", "text")))
        >>> output = fusion(features=torch.ones(4, 2, 8))
        >>> output["weights"] is output.weights
        True
    """

    fused: Tensor
    weights: Tensor
    scores: Tensor
    active: Tensor
    signals: dict[str, Tensor]
    terms: dict[str, Tensor]
    soundness: Tensor | None
    notes: tuple[str, ...]

    def __getitem__(self, key: str | int) -> Any:
        return getattr(self, key) if isinstance(key, str) else self.to_tuple()[key]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.to_tuple())

    def to_tuple(self) -> tuple[Any, ...]:
        """Lists the values, in the order of the attributes."""
        return tuple(getattr(self, f.name) for f in fields(self))


@dataclass(frozen=True)
class ModelOutput(FusionOutput):
    """Holds what `FusionModel` returns: a `FusionOutput`, what was fused, and what it predicts.

    Attributes:
        features: What each modality gave to the scheduler, ``[B, M, D]``; 0 where it is absent.
        logits: What each modality's head says, ``[B, M, C]``; 0 where it is absent.
        mc_logits: The same in each pass of dropout, ``[T, B, M, C]``; None without passes.
        predictions: Logits of the classes for the fused value, ``[B, C]``. Where probabilities are
            fused they are logs, and no log is below that of the dtype's smallest normal number.
        probabilities: Class probabilities, ``[B, C]``; uniform where nothing is active.

    Example:
        >>> import torch
        >>> from dms_spec import SchedulerSpec
        >>> from dms_torch import FusionModel
        >>> encoders = {"image": torch.nn.Linear(20, 8), "text": torch.nn.EmbeddingBag(100, 12)}
        >>> widths = {"image": 8, "text": 12}  # what they return
        >>> spec = SchedulerSpec.preset("static", ("image", "text"))
        >>> model = FusionModel(encoders, spec, widths=widths, width=16, classes=5)
        >>> output = model({"image": torch.randn(4, 20)})  # no text in this batch
        >>> output.features.shape, output.logits.shape
        (torch.Size([4, 2, 16]), torch.Size([4, 2, 5]))
    """

    features: Tensor
    logits: Tensor
    mc_logits: Tensor | None
    predictions: Tensor
    probabilities: Tensor


class InCheckpoint(FusionOutput):
    """Holds tensors that have no gradients outside the reentrant checkpoint they were made in.

    Inside, where gradients are off, it is a `FusionOutput`. Outside, reading it is refused.
    """

    def __getattribute__(self, name: str) -> Any:
        if torch.is_grad_enabled() and name in type(self).__dataclass_fields__:
            raise UnsupportedCapability(
                "an output that leaves a checkpoint with use_reentrant=True has lost its gradients",
                capability="checkpoint:reentrant",
                fix="Use use_reentrant=False, or return tensors from what is checkpointed.",
            )
        return super().__getattribute__(name)


class ModelInCheckpoint(InCheckpoint, ModelOutput):
    """Is to `ModelOutput` what `InCheckpoint` is to `FusionOutput`."""


# What holds no tensor goes into the context, as lists: an exported program stores it as JSON.
_Context = tuple[list[str], list[str]]


def _flatten(output: FusionOutput) -> tuple[list[Any], _Context]:
    held = {f.name: getattr(output, f.name) for f in fields(output) if f.name != "notes"}
    held = {name: value for name, value in held.items() if value is not None}
    return list(held.values()), (list(held), list(output.notes))


def _flatten_with_keys(output: FusionOutput) -> tuple[list[tuple[Any, Any]], _Context]:
    values, context = _flatten(output)
    keys = map(pytree.GetAttrKey, context[0])
    return list(zip(keys, values, strict=True)), context


def _unflatten(kind: type[FusionOutput], values: Iterable[Any], context: _Context) -> FusionOutput:
    names, notes = context
    held: dict[str, Any] = dict.fromkeys(f.name for f in fields(kind))
    return kind(**held | dict(zip(names, values, strict=True)) | {"notes": tuple(notes)})


for _kind in (FusionOutput, ModelOutput):
    pytree.register_pytree_node(
        _kind,
        _flatten,
        partial(_unflatten, _kind),
        serialized_type_name=f"dms_torch.{_kind.__name__}",
        flatten_with_keys_fn=_flatten_with_keys,
    )
