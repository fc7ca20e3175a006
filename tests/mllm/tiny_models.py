"""Ten tiny multimodal models from their configs, each with a prompt: nothing is downloaded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers as hf
from torch import Tensor, nn

IMAGE, VOCABULARY, WIDTH = 60, 64, 32
SMALL: dict[str, Any] = {
    "hidden_size": WIDTH,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
#: No id ends a generation or is forced into it.
SPECIAL: dict[str, Any] = {"vocab_size": VOCABULARY, "bos_token_id": 1, "eos_token_id": 63}
TEXT: dict[str, Any] = {
    **SMALL,
    **SPECIAL,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
}
CLIP: dict[str, Any] = {**SMALL, "image_size": 8, "patch_size": 4, "projection_dim": WIDTH}

MAJOR = int(hf.__version__.partition(".")[0])
Built = tuple[nn.Module, Callable[..., dict[str, Tensor]]]


def _ids(images: list[bool], before: int, count: int, after: int, seed: int = 0) -> Tensor:
    """Prompts of equal length: text, the places of an image or text in their stead, text."""
    random = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, 50, (len(images), before + count + after), generator=random)
    for row, image in enumerate(images):
        if image:
            ids[row, before : before + count] = IMAGE
    return ids


def _pixels(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(100 + seed))


def _prompt(images: list[bool], count: int) -> dict[str, Tensor]:
    ids = _ids(images, 2, count, 3)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def llava() -> Built:
    config = hf.LlavaConfig(
        vision_config=hf.CLIPVisionConfig(**CLIP),
        text_config=hf.LlamaConfig(**TEXT),
        image_token_index=IMAGE,
        vision_feature_layer=-1,
    )

    def inputs(images: list[bool], seed: int = 0) -> dict[str, Tensor]:
        pixels = _pixels(len(images), 3, 8, 8, seed=seed)[torch.tensor(images)]
        return {**_prompt(images, 4), **({"pixel_values": pixels} if any(images) else {})}

    return hf.LlavaForConditionalGeneration(config), inputs


def llava_next() -> Built:
    config = hf.LlavaNextConfig(
        vision_config=hf.CLIPVisionConfig(**CLIP),
        text_config=hf.MistralConfig(**TEXT, sliding_window=None),
        image_token_index=IMAGE,
        image_grid_pinpoints=[[8, 8], [8, 16], [16, 8]],
        vision_feature_layer=-1,
    )

    def inputs(images: list[bool], seed: int = 0) -> dict[str, Tensor]:
        # One tile and the whole: 4 patches each, and a newline after each row of the tile.
        pixels = _pixels(len(images), 2, 3, 8, 8, seed=seed)[torch.tensor(images)]
        sizes = torch.tensor([[8, 8]] * sum(images))
        extra = {"pixel_values": pixels, "image_sizes": sizes} if any(images) else {}
        return {**_prompt(images, 4 + 4 + 2), **extra}

    return hf.LlavaNextForConditionalGeneration(config), inputs


def _qwen(kind: str) -> Built:
    text = {**TEXT, "rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]}}
    if kind == "Qwen2VL":
        vision = {
            "depth": 1,
            "embed_dim": WIDTH,
            "hidden_size": WIDTH,
            "num_heads": 4,
            "patch_size": 4,
            "mlp_ratio": 2,
        }
    else:
        vision = {
            "depth": 1,
            "hidden_size": WIDTH,
            "intermediate_size": 48,
            "out_hidden_size": WIDTH,
            "num_heads": 4,
            "patch_size": 4,
            "window_size": 16,
            "fullatt_block_indexes": [0],
        }
    config = getattr(hf, f"{kind}Config")(
        text_config=text,
        vision_config={**vision, "spatial_merge_size": 2, "temporal_patch_size": 2},
        image_token_id=IMAGE,
        video_token_id=61,
        vision_start_token_id=58,
        vision_end_token_id=59,
    )

    def inputs(images: list[bool], seed: int = 0) -> dict[str, Tensor]:
        prompt = _prompt(images, 4)
        for row, image in enumerate(images):
            if image:
                prompt["input_ids"][row, 1], prompt["input_ids"][row, 6] = 58, 59
        patches = _pixels(len(images), 16, 3 * 2 * 4 * 4, seed=seed)[torch.tensor(images)]
        grid = torch.tensor([[1, 4, 4]] * sum(images))
        extra: dict[str, Tensor] = {}
        if any(images):
            extra = {"pixel_values": patches.flatten(0, 1), "image_grid_thw": grid}
        if MAJOR >= 5:
            extra["mm_token_type_ids"] = (prompt["input_ids"] == IMAGE).int()
        return {**prompt, **extra}

    return getattr(hf, f"{kind}ForConditionalGeneration")(config), inputs


def qwen2_vl() -> Built:
    return _qwen("Qwen2VL")


def qwen2_5_vl() -> Built:
    return _qwen("Qwen2_5_VL")


def idefics2() -> Built:
    config = hf.Idefics2Config(
        vision_config={**SMALL, "image_size": 8, "patch_size": 4},
        perceiver_config={
            "hidden_size": WIDTH,
            "resampler_n_latents": 3,
            "resampler_depth": 1,
            "resampler_n_heads": 4,
            "resampler_head_dim": 8,
            "num_key_value_heads": 2,
        },
        text_config={**TEXT, "model_type": "mistral", "sliding_window": None},
        image_token_id=IMAGE,
    )
    return hf.Idefics2ForConditionalGeneration(config), _padded_images(3)


def idefics3() -> Built:
    config = hf.Idefics3Config(
        vision_config={**SMALL, "image_size": 8, "patch_size": 4},
        text_config={**TEXT, "model_type": "llama"},
        image_token_id=IMAGE,
        scale_factor=1,
    )
    return hf.Idefics3ForConditionalGeneration(config), _padded_images(4)


def _padded_images(count: int) -> Callable[..., dict[str, Tensor]]:
    def inputs(images: list[bool], seed: int = 0) -> dict[str, Tensor]:
        pixels = _pixels(len(images), 1, 3, 8, 8, seed=seed)
        pixels[~torch.tensor(images)] = 0.0  # these models take a black image for padding
        return {**_prompt(images, count), **({"pixel_values": pixels} if any(images) else {})}

    return inputs


def _blip2(text: Any) -> Built:
    config = hf.Blip2Config(
        vision_config=hf.Blip2VisionConfig(**SMALL, image_size=8, patch_size=4).to_dict(),
        qformer_config=hf.Blip2QFormerConfig(
            **SMALL,
            vocab_size=VOCABULARY,
            encoder_hidden_size=WIDTH,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        ).to_dict(),
        text_config=text.to_dict(),
        num_query_tokens=3,
        image_token_index=IMAGE,
    )

    def inputs(images: list[bool], seed: int = 0) -> dict[str, Tensor]:
        pixels = _pixels(len(images), 3, 8, 8, seed=seed)[torch.tensor(images)]
        if not any(images):  # it takes no batch without an image at all
            pixels = torch.zeros(1, 3, 8, 8)
        return {**_prompt(images, 3), "pixel_values": pixels}

    return hf.Blip2ForConditionalGeneration(config), inputs


def blip2_opt() -> Built:
    return _blip2(
        hf.OPTConfig(
            **SPECIAL,
            hidden_size=WIDTH,
            ffn_dim=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=128,
            word_embed_proj_dim=WIDTH,
            dropout=0.0,
            pad_token_id=0,
        )
    )


def blip2_t5() -> Built:
    model, prompt = _blip2(
        hf.T5Config(
            vocab_size=VOCABULARY,
            d_model=WIDTH,
            d_kv=8,
            d_ff=48,
            num_layers=2,
            num_decoder_layers=2,
            num_heads=4,
            pad_token_id=0,
            eos_token_id=63,
            decoder_start_token_id=0,
            dropout_rate=0.0,
        )
    )

    def inputs(images: list[bool], seed: int = 0) -> dict[str, Tensor]:
        start = torch.tensor([[0, 5, 9]] * len(images))
        return {**prompt(images, seed), "decoder_input_ids": start}

    return model, inputs


def idefics() -> Built:
    config = hf.IdeficsConfig(
        **{**TEXT, "num_hidden_layers": 4},
        additional_vocab_size=0,
        cross_layer_interval=2,
        alpha_initializer="ones",
        alpha_type="float",
        dropout=0.0,
        vision_config={**SMALL, "embed_dim": 40, "image_size": 8, "patch_size": 4}
        | {"num_attention_heads": 4, "hidden_size": 40},
        perceiver_config={
            "use_resampler": True,
            "resampler_n_latents": 3,
            "resampler_depth": 1,
            "resampler_n_heads": 4,
            "resampler_head_dim": 8,
        },
        use_resampler=True,
    )

    def inputs(images: list[bool], seed: int = 0) -> dict[str, Tensor]:
        ids = _ids([False] * len(images), 2, 1, 3)
        pixels = _pixels(len(images), 1, 3, 8, 8, seed=seed)
        mask = torch.tensor(images)[:, None, None].expand(-1, ids.shape[1], 1).long()
        return {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "pixel_values": pixels,
            "image_attention_mask": mask,
        }

    return hf.IdeficsForVisionText2Text(config), inputs


def mllama() -> Built:
    text = {**TEXT, "num_hidden_layers": 4, "cross_attention_layers": [1, 3], "dropout": 0.0}
    if MAJOR < 5:
        text["rope_scaling"] = {"rope_type": "default"}
    config = hf.MllamaConfig(
        vision_config={
            "hidden_size": WIDTH,
            "attention_heads": 4,
            "num_hidden_layers": 2,
            "num_global_layers": 1,
            "intermediate_size": 48,
            "image_size": 8,
            "patch_size": 4,
            "max_num_tiles": 2,
            "vision_output_dim": 2 * WIDTH,
            "intermediate_layers_indices": [0],
            "supported_aspect_ratios": [[1, 1], [1, 2], [2, 1]],
        },
        text_config=text,
        image_token_index=IMAGE,
    )

    def inputs(images: list[bool], seed: int = 0) -> dict[str, Tensor]:
        prompt = _prompt(images, 1)
        if not any(images):
            return prompt
        there = torch.tensor(images)
        mask = there[:, None, None, None].expand(-1, prompt["input_ids"].shape[1], 1, 2)
        tiles = torch.tensor([1, 0])
        return {
            **prompt,
            "pixel_values": _pixels(len(images), 1, 2, 3, 8, 8, seed=seed),
            "aspect_ratio_ids": there[:, None].long(),
            "aspect_ratio_mask": tiles.expand(len(images), 1, 2).clone(),
            "cross_attention_mask": (mask & tiles.bool()).long(),
        }

    return hf.MllamaForConditionalGeneration(config), inputs


FAMILIES: dict[str, Callable[[], Built]] = {
    family.__name__: family
    for family in (
        llava,
        llava_next,
        qwen2_vl,
        qwen2_5_vl,
        idefics2,
        idefics3,
        blip2_opt,
        blip2_t5,
        idefics,
        mllama,
    )
}


def build(family: str, dtype: torch.dtype = torch.float32) -> Built:
    """A model in evaluation, with weights that let the image have a say; the same each time."""
    torch.manual_seed(0)
    model, inputs = FAMILIES[family]()
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim >= 2:
                scale = 1.0
                if "embed" not in name and "query_tokens" not in name:
                    scale = parameter[0].numel() ** -0.5
                if name.endswith(".q.weight"):  # T5 does not divide scores by the square root
                    scale *= 8**-0.5
                parameter.copy_(torch.randn(parameter.shape, generator=random) * scale)
            elif "gate" in name or "alpha" in name:
                parameter.fill_(1.0)
    model.tie_weights()
    return model.to(dtype).eval(), inputs
