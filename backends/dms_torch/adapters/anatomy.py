"""Finds the places in a multimodal model where a scheduler acts, by structure and not by name.

| family | text stack | where weights act | where the image comes in |
|---|---|---|---|
| decoder only (Llava, Qwen-VL, Idefics2, BLIP-2 with OPT, ...) | first module with tied `embed_tokens` | its layers' self-attention | at the positions of the image's token id |
| encoder and decoder (BLIP-2 with T5) | the encoder, found alike | its self-attention, and the decoder's attention to it | alike |
| cross-attention (Mllama, Idefics) | found alike | the layers that hold a `cross_attn` | as an argument of these layers |
"""  # noqa: E501

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from dms_spec.errors import UnsupportedCapability
from dms_torch.adapters.arguments import MASK, STATES, parameters

#: The projections that make a module an attention.
_PROJECTIONS = ({"q_proj", "k_proj", "v_proj"}, {"q", "k", "v"})
#: The modality whose tokens have no id of their own.
TEXT = "text"


@dataclass(frozen=True)
class Anatomy:
    """Says where things are in a model.

    Attributes:
        embedding: The module that makes vectors from token ids.
        stack: The language model's stack of layers, which takes the embedded prompt.
        attentions: Its self-attentions, whose keys are the prompt's positions.
        readers: The attentions of a decoder, whose keys are the encoder's positions.
        crossings: The layers that add an image to the text by cross-attention.
        ids: The token id of each modality but text; empty with crossings.
    """

    embedding: nn.Module
    stack: nn.Module
    attentions: tuple[nn.Module, ...]
    readers: tuple[nn.Module, ...]
    crossings: tuple[nn.Module, ...]
    ids: Mapping[str, int]

    @property
    def entry(self) -> nn.Module:
        """The first module that is given the tokens of every modality."""
        if self.crossings and not set(STATES) & set(parameters(self.stack)):
            return self.crossings[0]
        return self.stack


def find(model: nn.Module, modalities: Sequence[str]) -> Anatomy:
    """Finds the places that weights for these modalities need.

    Raises:
        UnsupportedCapability: The model has not the structure that is looked for.
    """
    if TEXT not in modalities or len(modalities) < 2:
        raise UnsupportedCapability(
            "the scheduler's modalities do not fit a multimodal language model",
            expected=f"{TEXT!r} and at least one more, such as 'image'",
            got=", ".join(map(repr, modalities)),
        )
    embedding = _embedding(model)
    stacks = [module for module in model.modules() if _is_tied(module, embedding)]
    if not stacks:
        raise _unknown(model, "a module whose embed_tokens is tied to the input embeddings")
    stack, others = stacks[0], stacks[1:]
    crossings = tuple(m for layers in _lists(stack) for m in layers if hasattr(m, "cross_attn"))
    within = {id(module) for layer in crossings for module in layer.modules()}
    found = Anatomy(
        embedding=embedding,
        stack=stack,
        attentions=tuple(m for m in _attentions(stack) if id(m) not in within),
        readers=tuple(
            module
            for other in others
            for module in _attentions(other)
            if "key_value_states" in parameters(module)
        ),
        crossings=crossings,
        ids={} if crossings else _ids(model, modalities),
    )
    if not found.attentions:
        raise _unknown(model, "layers with projections q, k and v whose forward takes a mask")
    if crossings and not set(STATES) & set(parameters(crossings[0])):
        raise _unknown(model, f"layers whose forward takes {' or '.join(STATES)}")
    if crossings and len(modalities) > 2:
        raise UnsupportedCapability(
            "a model with cross-attention has one modality beside the text",
            expected="two modalities",
            got=", ".join(map(repr, modalities)),
        )
    return found


def _embedding(model: nn.Module) -> nn.Module:
    get: Any = getattr(model, "get_input_embeddings", None)
    embedding = get() if get is not None else None
    weight = getattr(embedding, "weight", None)
    if not isinstance(embedding, nn.Module) or not isinstance(weight, nn.Parameter):
        raise _unknown(model, "get_input_embeddings() that returns a module with a weight")
    return embedding


def _is_tied(module: nn.Module, embedding: nn.Module) -> bool:
    """Says whether a module embeds with these embeddings. Tied modules may share a weight only."""
    own = module._modules.get("embed_tokens")
    return getattr(own, "weight", None) is embedding.weight


def _lists(stack: nn.Module) -> Iterator[nn.ModuleList]:
    return (child for child in stack.children() if isinstance(child, nn.ModuleList))


def _attentions(stack: nn.Module) -> Iterator[nn.Module]:
    for layers in _lists(stack):
        for module in layers.modules():
            children = {name for name, _ in module.named_children()}
            if any(names <= children for names in _PROJECTIONS) and set(MASK) & set(
                parameters(module)
            ):
                yield module


def _ids(model: nn.Module, modalities: Sequence[str]) -> dict[str, int]:
    config: Any = getattr(model, "config", None)
    ids = {}
    for modality in modalities:
        if modality == TEXT:
            continue
        names = [f"{modality}_token_id", f"{modality}_token_index"]
        given = [getattr(config, name, None) for name in names]
        one = next((value for value in given if isinstance(value, int)), None)
        if one is None:
            raise _unknown(model, f"{' or '.join(f'config.{name}' for name in names)}")
        ids[modality] = one
    return ids


def _unknown(model: nn.Module, wanted: str) -> UnsupportedCapability:
    return UnsupportedCapability(
        f"{type(model).__name__} is of no architecture that a scheduler can be attached to",
        expected=wanted,
        got="none",
        fix="Fuse by hand with dms_torch.Fusion, or see the page on writing an adapter.",
    )
