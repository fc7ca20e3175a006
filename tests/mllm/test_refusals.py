"""What attaching refuses, and what it says."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from test_properties import BOTH, MODALITIES, STATIC, attached, fixed
from tiny_models import CLIP, MAJOR, build
from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModel

from dms_spec.errors import MissingInput, ShapeError, SpecError, UnsupportedCapability
from dms_torch import Fusion
from dms_torch.adapters import attach, pool_tokens


def test_a_model_of_another_build_is_refused_with_what_was_looked_for() -> None:
    with pytest.raises(UnsupportedCapability, match="get_input_embeddings"):
        attach(nn.Linear(2, 2), fixed(0.5))
    model, _ = build("llava")
    spec = STATIC.replace(modalities=("audio", "text"))
    with pytest.raises(UnsupportedCapability, match=r"config\.audio_token_id"):
        attach(model, Fusion(spec))
    with pytest.raises(UnsupportedCapability, match="'text' and at least one more"):
        attach(model, Fusion(STATIC.replace(modalities=("image", "audio"))))
    del model.model.language_model.layers
    with pytest.raises(UnsupportedCapability, match="projections q, k and v"):
        attach(model, fixed(0.5))


def test_an_encoder_alone_is_refused() -> None:
    with pytest.raises(UnsupportedCapability, match="CLIPVisionModel"):
        attach(CLIPVisionModel(CLIPVisionConfig(**CLIP)), fixed(0.5))


def test_wrong_arguments() -> None:
    model, inputs = build("llava")
    with pytest.raises(SpecError, match="no such strength"):
        attach(model, fixed(0.5), strength="both")  # type: ignore[arg-type]
    with pytest.raises(SpecError, match="'audio'"):
        attach(model, fixed(0.5), heads={"audio": nn.Linear(32, 2)})
    with attached(model, 0.5, "attention") as handle:
        with pytest.raises(SpecError, match="Detach"):
            attach(model, fixed(0.5))
        with pytest.raises(MissingInput, match="Call the model first"):
            handle.explain()
        model(**inputs(BOTH))
        with pytest.raises(ShapeError, match="0 to 1"):
            handle.explain(2)


def test_what_hides_the_prompt_is_refused() -> None:
    model, inputs = build("llava")
    given = inputs(BOTH)
    with attached(model, 0.2, "attention"):
        embedded = model.get_input_embeddings()(given["input_ids"][:, :4])
        with pytest.raises(MissingInput, match="input_ids"):
            model(inputs_embeds=torch.cat([embedded, embedded], 1))
        with pytest.raises(UnsupportedCapability, match="in pieces"):
            model.generate(**given, prefill_chunk_size=2)


def test_a_cache_from_before_is_refused() -> None:
    model, inputs = build("llava")
    given = inputs(BOTH)
    with torch.no_grad():
        first = model(**given, use_cache=True)
    name = "cache" if MAJOR >= 5 else "past_key_values"
    cache = {name: getattr(first, name)}
    with attached(model, 0.2, "attention"), pytest.raises(MissingInput, match="Attach first"):
        model(input_ids=given["input_ids"][:, -1:], **cache)


def test_attention_that_adds_no_mask_is_refused() -> None:
    model, inputs = build("llava")
    with attached(model, 0.2, "attention"):
        model(**inputs(BOTH))
        attention = model.model.language_model.layers[0].self_attn
        attention.config._attn_implementation = "flash_attention_2"
        with pytest.raises(UnsupportedCapability, match="'sdpa' or 'eager'"):
            attention(torch.zeros(2, 9, 32), attention_mask=None)


def test_a_sliding_window_shorter_than_the_prompt_is_refused() -> None:
    model, inputs = build("llava_next")
    with torch.no_grad(), attach(model, fixed(0.2)) as handle:
        model(**inputs(BOTH))
        weighing = handle._wiring.weighing
        assert weighing is not None
        with pytest.raises(UnsupportedCapability, match="sliding window"):
            weighing.masked(None, torch.zeros(2, 1, 32), 4, causal=True)


def test_a_sample_that_is_not_finite_is_told_apart() -> None:
    model, inputs = build("llava")
    given: dict[str, Any] = inputs(BOTH)
    given["pixel_values"][0] = torch.nan
    heads = {name: nn.Linear(32, 3) for name in MODALITIES}
    gate = Fusion(STATIC, {"policy.bias": torch.zeros(2)})
    with attach(model, gate, heads=heads) as handle:
        model(**given)
        assert handle.last is not None
        assert handle.last.output.active.tolist() == [[False, True], [True, True]]
        assert all(logits.isfinite().all() for logits in handle.last.logits.values())
        assert "no" not in str(handle.explain(0)).split()
    assert pool_tokens(model, given).present.all()
