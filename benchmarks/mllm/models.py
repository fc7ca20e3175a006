"""Two tiny backbones from configs, with random weights, and how a scene becomes their input."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers as hf
from numpy.typing import NDArray
from scenes import CELL, INK, Scenes
from torch import Tensor, nn
from vocabulary import ASK, BEGIN, IMAGE, PAD, SIZE, STOP, padded, read

WIDTH = 64
#: Positions of an image: patches of a cell each, or queries.
PLACES = 4
Inputs = dict[str, Tensor]

_SMALL: dict[str, Any] = {
    "hidden_size": WIDTH,
    "intermediate_size": 2 * WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
_PIXELS = {"image_size": 2 * CELL, "patch_size": CELL}
_IDS = {"vocab_size": SIZE, "bos_token_id": BEGIN, "eos_token_id": STOP, "pad_token_id": PAD}


def llava() -> nn.Module:
    """A LLaVA: a CLIP vision tower, a projector of two layers, a Llama."""
    config = hf.LlavaConfig(
        vision_config=hf.CLIPVisionConfig(**_SMALL, **_PIXELS),
        text_config=hf.LlamaConfig(**_SMALL, **_IDS, max_position_embeddings=128),
        image_token_index=IMAGE,
        vision_feature_layer=-1,
    )
    return hf.LlavaForConditionalGeneration(config)


def blip2() -> nn.Module:
    """A BLIP-2: a vision tower, a Q-Former with four queries, an OPT."""
    text = hf.OPTConfig(
        **_IDS,
        hidden_size=WIDTH,
        ffn_dim=2 * WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=128,
        word_embed_proj_dim=WIDTH,
        dropout=0.0,
    )
    queries = hf.Blip2QFormerConfig(
        **_SMALL,
        vocab_size=SIZE,
        encoder_hidden_size=WIDTH,
        cross_attention_frequency=1,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    config = hf.Blip2Config(
        vision_config=hf.Blip2VisionConfig(**_SMALL, **_PIXELS, initializer_range=0.02).to_dict(),
        qformer_config=queries.to_dict(),
        text_config=text.to_dict(),
        num_query_tokens=PLACES,
        image_token_index=IMAGE,
    )
    model = hf.Blip2ForConditionalGeneration(config)
    nn.init.normal_(model.query_tokens)  # they start at 0, where all would learn the same
    return model


#: The module that makes tokens of an image, by the end of its name.
PROJECTORS = ("multi_modal_projector", "language_projection")
BACKBONES: dict[str, Callable[[], nn.Module]] = {"llava": llava, "blip2": blip2}


def prompts(scenes: Scenes, texts: NDArray[Any]) -> Inputs:
    """What a backbone is called with: image, text, and the token after which it answers.

    An image that is known to be missing has no positions and no pixels.
    """
    there = scenes.present[:, 0]
    rows = [
        [BEGIN, *[IMAGE] * (PLACES * int(image)), *read(text), ASK]
        for image, text in zip(there, texts.tolist(), strict=True)
    ]
    pixels = torch.from_numpy(scenes.images[there]) / (INK / 2) - 1
    return _inputs(rows, pixels[:, None].expand(-1, 3, -1, -1))


def captions_alone(texts: NDArray[Any]) -> Inputs:
    """Captions as prompts of their own, without an image: what is searched in retrieval."""
    return _inputs([[BEGIN, *read(text), ASK] for text in texts.tolist()], torch.zeros(0, 3, 1, 1))


def _inputs(rows: list[list[int]], pixels: Tensor) -> Inputs:
    ids = padded(rows, left=True)
    inputs = {"input_ids": ids, "attention_mask": (ids != PAD).long()}
    return inputs | ({"pixel_values": pixels} if len(pixels) else {})


def run(model: Any, inputs: Inputs, **more: Any) -> tuple[Tensor, Tensor]:
    """Logits ``[B, L, V]``, and what the last layer holds ``[B, L, D]``."""
    if "pixel_values" not in inputs and isinstance(model, hf.Blip2ForConditionalGeneration):
        # It takes no batch without any image: this one has no place in the prompt.
        inputs = inputs | {"pixel_values": torch.zeros(1, 3, 2 * CELL, 2 * CELL)}
    held: list[Tensor] = []

    def hold(_: nn.Module, given: tuple[Tensor, ...]) -> None:
        held.append(given[0])

    hook = model.get_output_embeddings().register_forward_pre_hook(hold)
    try:
        logits = model(**inputs, use_cache=False, **more).logits
    finally:
        hook.remove()
    return logits, held[-1]
