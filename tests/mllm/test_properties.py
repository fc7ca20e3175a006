"""A scheduler inside a multimodal model: what must hold in each family, by forward and generate."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import tiny_models
import torch
from tiny_models import IMAGE, Built, build
from torch import Tensor, nn
from transformers import LogitsProcessor

from dms_spec import SchedulerSpec
from dms_torch import Fusion
from dms_torch.adapters import Attached, attach, pool_tokens

MODALITIES = ("image", "text")
STATIC = SchedulerSpec(
    modalities=MODALITIES, policy="static", signals={}, coefficients={}, fusion="feature"
)
#: Weight 0: the softmax underflows.
NOTHING = -1e4
BOTH, ONE = [True, True], [True, False]

HOW: dict[str, dict[str, Any]] = {
    "greedy": {},
    "no cache": {"use_cache": False},
    "beams": {"num_beams": 3},
    "beams, no cache": {"num_beams": 3, "use_cache": False},
    "static cache": {"cache_implementation": "static"},
    "sampling": {"do_sample": True, "num_return_sequences": 2},
}
strengths = pytest.mark.parametrize("strength", ["attention", "tokens"])


def fixed(image: float) -> Fusion:
    """Weights ``(image, 1 - image)`` for every sample that has an image."""
    bias = [math.log(image) if image else NOTHING, math.log(1 - image)]
    return Fusion(STATIC, {"policy.bias": torch.tensor(bias)})


@contextmanager
def attached(model: nn.Module, image: float, strength: str) -> Iterator[Attached]:
    with torch.no_grad(), attach(model, fixed(image), strength=strength) as handle:  # type: ignore[arg-type]
        yield handle


def generated(
    model: Any, inputs: dict[str, Tensor], how: str, forced: tuple[int, ...] = ()
) -> tuple[Tensor, Tensor]:
    """The new tokens, and the scores that they were chosen by."""
    torch.manual_seed(3)
    prompt = {name: value for name, value in inputs.items() if name != "decoder_input_ids"}
    settings = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False, **HOW[how]}
    out = model.generate(
        **prompt,
        **settings,
        # Without a cache a generated one is taken for another image.
        suppress_tokens=[58, 59, IMAGE, 61],
        logits_processor=[Forced(list(forced))],
        return_dict_in_generate=True,
        output_scores=True,
    )
    return out.sequences[:, -4:], torch.stack(out.scores)


class Forced(LogitsProcessor):
    """Begins what is generated with certain tokens."""

    def __init__(self, tokens: list[int]) -> None:
        self.tokens = tokens

    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        if not self.tokens:
            return scores
        out = torch.full_like(scores, -torch.inf)
        out[:, self.tokens.pop(0)] = 0.0
        return out


def assert_alike(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> None:
    assert torch.equal(one[0], other[0])
    torch.testing.assert_close(one[1], other[1], atol=1e-4, rtol=1e-4)


def influence(model: nn.Module, inputs: Callable[..., dict[str, Tensor]]) -> float:
    """How far the last token's probabilities move when the pixels change: total variation."""
    one, other = (model(**inputs(BOTH, seed)).logits[:, -1].softmax(-1) for seed in (0, 1))
    return float((one - other).abs().sum(-1).mean() / 2)


def skip_what_fails_without_us(family: str, how: str) -> None:
    if how == "static cache" and family == "mllama" and tiny_models.MAJOR < 5:
        pytest.skip("the model itself fails with a static cache")


@pytest.fixture
def built(family: str) -> Built:
    return build(family)


@pytest.mark.parametrize("images", [BOTH, ONE], ids=["images", "one without"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@strengths
def test_uniform_weights_change_no_bit(
    family: str, strength: str, dtype: torch.dtype, images: list[bool]
) -> None:
    if family == "mllama" and images == ONE:
        pytest.skip("the model itself lets a sample without an image see the others' padding")
    model, inputs = build(family, dtype)
    given = {
        name: value.to(dtype) if value.is_floating_point() else value
        for name, value in inputs(images).items()
    }
    with torch.no_grad():
        plain = model(**given).logits
    with attached(model, 0.5, strength):
        assert torch.equal(model(**given).logits, plain)


@pytest.mark.parametrize("how", HOW)
@strengths
def test_uniform_weights_generate_the_same(
    family: str, strength: str, how: str, built: Built
) -> None:
    skip_what_fails_without_us(family, how)
    model, inputs = built
    plain = generated(model, inputs(BOTH), how)
    with attached(model, 0.5, strength):
        weighed = generated(model, inputs(BOTH), how)
    assert all(map(torch.equal, weighed, plain))


@pytest.mark.parametrize(
    ("how", "other"),
    [("greedy", "no cache"), ("beams", "beams, no cache"), ("greedy", "static cache")],
    ids=["greedy", "beams", "static"],
)
@strengths
def test_with_and_without_cache_alike(
    family: str, strength: str, how: str, other: str, built: Built
) -> None:
    skip_what_fails_without_us(family, other)
    model, inputs = built
    plain = generated(model, inputs(BOTH), how)
    with attached(model, 0.2, strength) as handle:
        one = generated(model, inputs(BOTH), how)
        assert_alike(one, generated(model, inputs(BOTH), other))
        assert handle.last is not None
        torch.testing.assert_close(handle.last.weights, torch.tensor([[0.2, 0.8]] * 2))
    assert not torch.allclose(one[1][0], plain[1][0], atol=1e-3)  # it did weigh


@strengths
def test_a_row_alone_as_in_the_batch(strength: str, built: Built) -> None:
    model, inputs = built
    batch = inputs(BOTH)
    with attached(model, 0.2, strength):
        whole = model(**batch).logits
        for row in range(2):
            # Qwen has several rows of patches for each sample.
            alone = {k: v.reshape(2, -1, *v.shape[1:])[row] for k, v in batch.items()}
            torch.testing.assert_close(model(**alone).logits[0], whole[row], atol=1e-5, rtol=1e-4)


@strengths
def test_a_padded_row_as_without_padding(strength: str, family: str, built: Built) -> None:
    if family == "blip2_t5":
        pytest.skip("T5 counts relative positions, and padding on the left moves none")
    model, inputs = built
    alone = {k: v.reshape(2, -1, *v.shape[1:])[0] for k, v in inputs(BOTH).items()}
    wide = dict(alone)
    for name, filler in (("input_ids", 0), ("attention_mask", 0), ("mm_token_type_ids", 0)):
        if name in wide:
            wide[name] = nn.functional.pad(wide[name], (2, 0), value=filler)
    for name in ("cross_attention_mask", "image_attention_mask"):
        if name in wide:
            wide[name] = torch.cat([wide[name][:, :2], wide[name]], dim=1)
    with attached(model, 0.2, strength):
        assert_alike(generated(model, alone, "greedy"), generated(model, wide, "greedy"))


@strengths
def test_weight_zero_hides_the_pixels_NaN_included(strength: str, built: Built) -> None:  # noqa: N802
    model, inputs = built
    given = inputs(BOTH)
    bad = given | {"pixel_values": torch.full_like(given["pixel_values"], torch.nan)}
    with attached(model, 0.0, strength):
        logits = model(**given).logits
        assert logits.isfinite().all()
        assert torch.equal(model(**bad).logits, logits)
        assert torch.equal(model(**inputs(BOTH, 1)).logits, logits)
        pairs = zip(generated(model, bad, "beams"), generated(model, given, "beams"), strict=True)
        assert all(torch.equal(one, other) for one, other in pairs)


@strengths
def test_weight_zero_is_the_text_alone(strength: str, family: str, built: Built) -> None:
    model, inputs = built
    given = inputs(BOTH)
    with torch.no_grad():
        alone = model(**_without_image(family, model, given)).logits
    with attached(model, 0.0, strength):
        weighed = model(**given).logits
    torch.testing.assert_close(weighed[:, -3:], alone[:, -3:], atol=1e-5, rtol=1e-4)


def _without_image(family: str, model: nn.Module, given: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same text at the same positions, in the model's own way of hiding tokens."""
    if family == "mllama":
        return {name: given[name] for name in ("input_ids", "attention_mask")}
    if family == "idefics":
        return given | {"image_attention_mask": torch.zeros_like(given["image_attention_mask"])}
    hidden = given | {"attention_mask": (given["input_ids"] != IMAGE).long()}
    seen: list[Any] = []
    stack = next(m for m in model.modules() if "embed_tokens" in m._modules)
    hook = stack.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs.get("position_ids")), with_kwargs=True
    )
    model(**given)
    hook.remove()
    places = seen[0]
    if family == "blip2_opt":  # it would count them from the mask
        places = torch.arange(given["input_ids"].shape[1]).expand(2, -1)
    return hidden if places is None else hidden | {"position_ids": places}


@strengths
def test_influence_that_is_left(
    strength: str, built: Built, measured: Callable[[str], None]
) -> None:
    """At a tenth of the neutral weight, attention leaves less than three tenths of it."""
    model, inputs = built
    with torch.no_grad():
        neutral = influence(model, inputs)
    assert neutral > 0.01
    shares = []
    for factor in (0.5, 0.1, 0.01):
        with attached(model, factor / 2, strength):
            shares.append(influence(model, inputs) / neutral)
    measured(" ".join(f"{share:.2f}" for share in shares))
    if strength == "attention":
        assert shares[1] < 0.3
        assert shares[0] > shares[1] > shares[2]


@strengths
def test_a_sample_without_an_image_beside_others(strength: str, family: str, built: Built) -> None:
    model, inputs = built
    mixed, full = inputs(ONE), inputs(BOTH)
    alone = {name: value[1:] for name, value in mixed.items() if name != "pixel_values"}
    if family == "idefics":
        alone["pixel_values"] = mixed["pixel_values"][1:]
    elif family == "mllama":
        alone = {name: alone[name] for name in ("input_ids", "attention_mask")}
    elif family.startswith("blip2"):  # it takes no batch without an image at all
        alone = mixed
    elif family.startswith("qwen"):
        alone.pop("image_grid_thw")
    with torch.no_grad():
        plain = model(**alone).logits[-1]
    with attached(model, 0.2, strength) as handle:
        both, weighed = model(**full).logits, model(**mixed).logits
        assert handle.last is not None
        torch.testing.assert_close(handle.last.weights, torch.tensor([[0.2, 0.8], [0.0, 1.0]]))
        assert handle.last.present.tolist() == [[True, True], [False, True]]
        generated(model, mixed, "beams")
        assert handle.last.weights.shape == (2, 2)
    torch.testing.assert_close(weighed[1], plain, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(weighed[0], both[0], atol=1e-5, rtol=1e-4)


def _hooks(model: nn.Module) -> dict[str, list[Any]]:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return {
        f"{name}.{kind}": list(getattr(module, kind).values())
        for name, module in model.named_modules()
        for kind in kinds
    }


@strengths
def test_detach_leaves_nothing_behind(strength: str, built: Built) -> None:
    model, inputs = built
    given = inputs(BOTH)
    generated(model, given, "greedy")  # transformers leaves hooks of its own at the first call
    with torch.no_grad():
        plain = model(**given).logits
    before = (list(model.state_dict()), _hooks(model), set(vars(model)), list(model._modules))
    handle = attach(model, fixed(0.2), strength=strength)  # type: ignore[arg-type]
    with torch.no_grad():
        assert not torch.equal(model(**given).logits, plain)
    assert "dms.scheduler.policy/bias" in model.state_dict()
    generated(model, given, "greedy")
    handle.detach()
    handle.detach()
    after = (list(model.state_dict()), _hooks(model), set(vars(model)), list(model._modules))
    assert after == before
    with torch.no_grad():
        assert torch.equal(model(**given).logits, plain)


@strengths
def test_a_gate_that_starts_uniform_learns(strength: str, built: Built) -> None:
    model, inputs = built
    gate = Fusion(STATIC, {"policy.bias": torch.zeros(2)})
    with torch.no_grad():
        plain = model(**inputs(BOTH)).logits
    with attach(model, gate, strength=strength):  # type: ignore[arg-type]
        logits = model(**inputs(BOTH)).logits
        logits[:, -1, 5].sum().backward()
    torch.testing.assert_close(logits, plain, atol=1e-5, rtol=1e-4)
    gradient = gate.get_parameter("policy/bias").grad
    assert gradient is not None
    assert gradient.isfinite().all() and (gradient.abs() > 1e-4).all()


def test_a_generated_image_token_is_no_image(family: str, built: Built) -> None:
    """Positions come from the prompt: a token that looks like an image's is of no modality."""
    model, inputs = built
    if family in ("blip2_t5", "idefics", "mllama"):
        pytest.skip("ids play no part after the prompt")
    embedding = model.get_input_embeddings().weight
    with attached(model, 0.0, "attention"):
        _, before = generated(model, inputs(BOTH), "greedy", (IMAGE,))
        embedding[IMAGE] *= -1.0  # what the prompt has at these places is hidden
        _, after = generated(model, inputs(BOTH), "greedy", (IMAGE,))
    assert torch.equal(after[0], before[0])
    assert not torch.allclose(after[1, :, :50], before[1, :, :50], atol=1e-3)


def test_pooled_tokens_are_what_the_scheduler_sees(built: Built) -> None:
    model, inputs = built
    pooled = pool_tokens(model, inputs(ONE))
    assert pooled.present.tolist() == [[True, True], [False, True]]
    assert (pooled.features["image"][1] == 0).all()
    assert not torch.equal(
        pooled.features["image"], pool_tokens(model, inputs(ONE, 1)).features["image"]
    )
    with attached(model, 0.2, "tokens") as handle:
        model(**inputs(ONE))
        seen = handle.last
        looked = handle.look(**inputs(ONE))
        assert seen is not None and handle.last is seen
        for name, features in pooled.features.items():
            assert torch.equal(seen.pooled.features[name], features)
            assert torch.equal(looked.pooled.features[name], features)
        assert torch.equal(looked.weights, seen.weights)
