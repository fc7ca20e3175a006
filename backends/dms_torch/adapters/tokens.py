"""Says which token of a prompt is of which modality, and pools the tokens of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from dms_torch.adapters.anatomy import TEXT

#: Of no modality: padding, answers, what is generated.
NONE = -1


@dataclass(frozen=True)
class Pooled:
    """Holds what a scheduler looks at: the mean token of each modality, and what is there.

    Attributes:
        features: By modality, float32 ``[B, D_m]``; 0 where the modality is absent.
        present: bool ``[B, M]``, in the order of the features.
        notes: What was weaker than asked for, in words.
    """

    features: dict[str, Tensor]
    present: Tensor
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Images:
    """Holds the tokens that a cross-attention reads: ``[B, K, D]``, and which of them it sees."""

    states: Tensor
    seen: Tensor

    @classmethod
    def of(cls, batch: int, states: Tensor, mask: Tensor | None, gate: Any) -> Images:
        """Reads them from the arguments of a cross-attention layer.

        Args:
            batch: B.
            states: ``[B, K, D]`` after reshaping, such as ``[B * tiles, patches, D]``.
            mask: Additive ``[B, 1, P, K]``: 0 where a position may see a token.
            gate: ``[B, ...]``, or several of which the first is such: 0 where a position sees no
                token at all, whatever the mask says.
        """
        states = states.reshape(batch, -1, states.shape[-1])
        seen = torch.ones_like(states[..., 0], dtype=torch.bool)
        if mask is not None:
            seen = (mask == 0).any(dim=-2).reshape(batch, -1)
        gate = gate[0] if isinstance(gate, tuple) else gate
        if gate is not None:
            seen = seen & (gate.reshape(batch, -1) != 0).any(dim=-1, keepdim=True)
        return cls(states, seen)


def visible(mask: Any, batch: int, length: int, device: torch.device) -> Tensor:
    """Says which positions of a prompt are no padding, bool ``[B, P]``.

    Args:
        mask: None, or ``[B, P]``, or as an attention takes it: ``[B, 1, P, K]``, bool or additive,
            in which the last position sees all that is no padding; or several of these by name.
        batch: B.
        length: P.
        device: Where to put it.
    """
    if isinstance(mask, Mapping):
        mask = mask.get("full_attention", next(iter(mask.values())))
    if mask is None:
        return torch.ones((batch, length), dtype=torch.bool, device=device)
    if mask.ndim == 4:
        mask = mask[:, 0, -1] if mask.dtype == torch.bool else mask[:, 0, -1] >= 0
    seen: Tensor = mask[:, :length].bool()
    return seen.expand(batch, length)


def positions(
    modalities: Sequence[str], ids: Mapping[str, int], tokens: Tensor | None, shown: Tensor
) -> Tensor:
    """Gives the modality of each position as its index, int64 ``[B, P]``; `NONE` if of none.

    Args:
        modalities: Their names, in order.
        ids: The token id of each modality but text.
        tokens: The prompt, int64 ``[B, P]``; not looked at without ids.
        shown: bool ``[B, P]``: no padding.
    """
    of = torch.full(shown.shape, modalities.index(TEXT), device=shown.device)
    if tokens is not None:
        for modality, one in ids.items():
            of = torch.where(tokens == one, modalities.index(modality), of)
    return torch.where(shown, of, NONE)


def without_answers(of: Tensor, labels: Tensor | None, text: int) -> tuple[Tensor, tuple[str, ...]]:
    """Takes the answers out of the text: positions with a label, which a scheduler must not see.

    Args:
        of: See `positions`.
        labels: int64 ``[B, L]``, -100 where there is none; those of the last L positions.
        text: The index of the text.

    Returns:
        The positions, and a note where all text of a sample has labels. There it stays.
    """
    if labels is None or labels.shape[1] > of.shape[1]:
        return of, ()
    labelled = functional.pad(labels != -100, (of.shape[1] - labels.shape[1], 0))
    whole = ((of != text) | labelled).all(dim=-1, keepdim=True)
    of = torch.where((of == text) & labelled & ~whole, NONE, of)
    if torch.compiler.is_compiling() or not bool(whole.any()):
        return of, ()
    return of, (f"all text of {int(whole.sum())} samples has labels, and the scheduler sees it",)


def pool(modalities: Sequence[str], of: Tensor, embedded: Tensor, images: Images | None) -> Pooled:
    """Takes the mean over the tokens of each modality.

    Args:
        modalities: Their names, in order.
        of: int64 ``[B, P]``, see `positions`.
        embedded: The tokens of the prompt, ``[B, P, D]``.
        images: What cross-attention reads; it is the modality that is not text.
    """
    features, present = {}, []
    for m, modality in enumerate(modalities):
        if images is not None and modality != TEXT:
            tokens, where = images.states, images.seen
        else:
            tokens, where = embedded, of == m
        count = where.sum(dim=-1, keepdim=True)
        wide = torch.promote_types(tokens.dtype, torch.float32)
        total = torch.where(where[..., None], tokens.to(wide), 0.0).sum(dim=1)
        features[modality] = total / count.clamp(min=1)
        present.append(count[:, 0] > 0)
    return Pooled(features, torch.stack(present, dim=-1))
