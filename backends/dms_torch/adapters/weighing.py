"""Turns weights into what a language model can feel: masks, scaled tokens, attention scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from dms_spec.errors import UnsupportedCapability
from dms_torch.adapters.tokens import NONE

Strength = Literal["attention", "tokens"]


def factors(weights: Tensor) -> Tensor:
    """Computes n w, which is 1 for a neutral weight: n counts a sample's weights above 0.

    Exactly 1 where these are equal. The gradient stays: a gate that starts uniform would never
    learn without it.

    Args:
        weights: ``[B, M]``; 0 where a modality is not active.
    """
    some = weights > 0
    f = weights * some.sum(dim=-1, keepdim=True)
    most = weights.amax(dim=-1, keepdim=True)
    even = ((weights == most) | ~some).all(dim=-1, keepdim=True)
    return torch.where(even & some, f + (1 - f).detach(), f)


@dataclass(frozen=True)
class Weighing:
    """Applies the weights of one batch of prompts, in every later call that continues them.

    Attributes:
        of: The modality of each position, int64 ``[B, P]``.
        factors: n w, float32 ``[B, M]``.
        strength: Whether a factor acts on attention or on tokens.
    """

    of: Tensor
    factors: Tensor
    strength: Strength

    def _at(self, m: int | None, batch: int, length: int) -> Tensor:
        """Gives the factor of a modality ``[B, 1]``, or of each position ``[B, length]``.

        Rows are repeated, because beams and returned sequences of a sample follow each other.
        What comes after the prompt has factor 1.
        """
        if m is not None:
            f = self.factors[:, m : m + 1]
        else:
            # The last column is that of no modality.
            padded = functional.pad(self.factors, (0, 1), value=1.0)
            f = padded.gather(1, torch.where(self.of == NONE, padded.shape[1] - 1, self.of))
            f = functional.pad(f, (0, length - f.shape[1]), value=1.0)
        return f.repeat_interleave(batch // f.shape[0], dim=0)

    def tokens(self, tokens: Tensor, m: int | None = None) -> Tensor:
        """Zeroes tokens of weight 0, and scales the others if that is the strength.

        Args:
            tokens: ``[B, P, D]``.
            m: The modality of all of them; None for that of each position.
        """
        f = self._at(m, tokens.shape[0], tokens.shape[1])[..., None].to(tokens.device)
        scaled = (tokens * f).to(tokens.dtype) if self.strength == "tokens" else tokens
        return torch.where(f == 0, 0.0, scaled)

    def contribution(self, added: Tensor, m: int) -> Tensor:
        """Weighs what a cross-attention has found, ``[B, Q, D]``, in a modality."""
        f = self._at(m, added.shape[0], 1)[..., None].to(added.device)
        scaled = (added * f).to(added.dtype) if self.strength == "attention" else added
        return torch.where(f == 0, 0.0, scaled)

    def gate(self, gate: Any, batch: int, m: int) -> Any:
        """Says to a layer in its own way that some samples have no image: those of weight 0.

        Args:
            gate: As in `Images.of`; None if all have one.
            batch: B.
            m: The modality that the layer reads.
        """
        some = self._at(m, batch, 1) > 0
        if gate is None:
            return (some[:, None, None].to(self.factors.dtype),)
        if isinstance(gate, tuple):
            return (self.gate(gate[0], batch, m), *gate[1:])
        return gate * some.reshape(-1, *[1] * (gate.ndim - 1)).to(gate.dtype)

    @property
    def neutral(self) -> bool:
        """Whether attention stays as it is, with its kernel. Never if weights have a gradient."""
        if torch.compiler.is_compiling():
            return False
        if self.strength == "tokens":
            return not bool((self.factors == 0).any())
        return not self.factors.requires_grad and bool(
            ((self.factors == 1) | ~self._occurs()).all()
        )

    def _occurs(self) -> Tensor:
        """Says which modality has positions in the prompt, bool ``[B, M]``."""
        every = torch.arange(self.factors.shape[1], device=self.of.device)
        return (self.of[..., None] == every).any(dim=1)

    def scores(self, batch: int, width: int, floor: float) -> Tensor:
        """Gives what is added to the attention scores of each key, ``[B, 1, 1, K]``: log n w."""
        f = self._at(None, batch, width)
        if self.strength == "tokens":
            f = (f > 0).to(f.dtype)
        # Half the floor for weight 0: below every other key, above those that are out of sight.
        bias = torch.where(f > 0, torch.log(torch.where(f > 0, f, 1.0)), floor / 2)
        return bias[:, None, None, :]

    def masked(self, mask: Tensor | None, queries: Tensor, width: int, *, causal: bool) -> Tensor:
        """Adds the scores to an attention's mask.

        Args:
            mask: None, bool, or additive, ``[B, 1, Q, K]``.
            queries: What asks, ``[B, Q, D]``.
            width: K.
            causal: Whether no mask means that no position sees a later one.

        Raises:
            UnsupportedCapability: There are fewer keys than positions in the prompt.
        """
        kind = queries.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else queries.dtype
        if width < self.of.shape[1]:
            raise UnsupportedCapability(
                "a sliding window hides a part of the prompt",
                expected=f"{self.of.shape[1]} positions or more",
                got=str(width),
            )
        floor = torch.finfo(dtype).min
        scores = self.scores(queries.shape[0], width, floor).to(queries.device)
        if mask is None and causal and queries.shape[1] > 1:
            square = torch.ones((queries.shape[1], width), dtype=torch.bool, device=queries.device)
            mask = square.tril()  # none is given only where nothing came before the queries
        if mask is None:
            return scores.to(dtype)
        if mask.dtype == torch.bool:
            return torch.where(mask, scores, floor).to(dtype)
        return (mask + scores).clamp(min=floor).to(dtype)
