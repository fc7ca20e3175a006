"""Without labels: clean batches make a scheduler that trusts what is unlike them less."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny_models import build
from torch import Tensor, nn

from dms_spec.errors import DMSWarning, MissingInput, NonFiniteInput
from dms_torch import Fusion
from dms_torch.adapters import Attached, attach, calibrate

Inputs = Callable[..., dict[str, Tensor]]


class Samples:
    """Images are one of three patterns in some contrast and little noise, texts of some words."""

    def __init__(self, inputs: Inputs) -> None:
        self.inputs, self.random = inputs, torch.Generator().manual_seed(0)
        shape = inputs([True])["pixel_values"].shape
        self.patterns, self.foreign = (torch.randn(3, *shape, generator=self.random) for _ in "ab")

    def noise(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.random)

    def batch(self, count: int = 100, image: str = "clean", text: str = "clean") -> dict[str, Any]:
        given = self.inputs([True] * count)
        pixels = given["pixel_values"]
        if image in ("clean", "foreign"):
            patterns = self.patterns if image == "clean" else self.foreign
            shown = patterns[torch.randint(0, 3, (count,), generator=self.random)]
            contrast = 1 + 0.2 * self.noise(count, *[1] * (shown.ndim - 1))
            shown = (contrast * shown).reshape(pixels.shape) + 0.1 * self.noise(*pixels.shape)
        elif image == "noise":
            shown = 1.5 * self.noise(*pixels.shape)
        else:
            shown = torch.full(pixels.shape, -2.0)
        low, high = (3, 27) if text == "clean" else (27, 50)
        ids = given["input_ids"]
        words = torch.randint(low, high, ids.shape, generator=self.random)
        ids = torch.where((ids >= 3) & (ids < 50), words, ids)
        return {**given, "pixel_values": shown, "input_ids": ids}


def calibrated(family: str) -> tuple[nn.Module, Samples, Fusion]:
    model, inputs = build(family)
    samples = Samples(inputs)
    return model, samples, calibrate(model, (samples.batch() for _ in range(8)))


def weights(handle: Attached, batch: dict[str, Any]) -> Tensor:
    with torch.no_grad():
        return handle.look(**batch).weights


def auroc(high: Tensor, low: Tensor) -> float:
    """How often the one is above the other, ties counted half."""
    better = high[:, None] - low
    return float((better > 0).float().mean() + (better == 0).float().mean() / 2)


def test_what_is_unlike_clean_batches_gets_less_weight(family: str) -> None:
    model, samples, fusion = calibrated(family)
    assert not list(fusion.parameters())
    assert all(parameter.grad is None for parameter in model.parameters())
    with attach(model, fusion) as handle:
        clean = weights(handle, samples.batch(300))
        away = (clean[:, 0] - 0.5).abs()
        assert (away < 1e-6).float().mean() > 0.85
        assert (away < 0.05).float().mean() > 0.95
        for image in ("black", "noise", "foreign"):
            found = weights(handle, samples.batch(image=image))[:, 0]
            print(family, image, f"{auroc(clean[:, 0], found):.3f}, weight {found.mean():.3f}")
            assert auroc(clean[:, 0], found) > 0.95
            assert found.mean() < 0.2
        assert weights(handle, samples.batch(text="foreign"))[:, 1].mean() < 0.2


def test_samples_without_an_image(family: str) -> None:
    model, inputs = build(family)
    samples = Samples(inputs)
    some = samples.inputs([True, False] * 25)
    batches = [samples.batch() for _ in range(4)]
    with_some = calibrate(model, [*batches, some])
    with attach(model, with_some) as handle:
        model(**inputs([True, False]))
        assert handle.last is not None
        assert handle.last.weights[1].tolist() == [0.0, 1.0]


def test_one_question_for_all_samples_says_nothing_about_others() -> None:
    model, inputs = build("llava")
    samples = Samples(inputs)
    batches = [samples.batch() for _ in range(4)]
    question = batches[0]["input_ids"][:1].expand(100, -1)
    batches = [{**batch, "input_ids": question} for batch in batches]
    with pytest.warns(DMSWarning, match="'text' is the same in all samples"):
        fusion = calibrate(model, batches)
    with attach(model, fusion) as handle:
        assert not handle.look(**samples.batch(text="foreign")).signals["typicality"][:, 1].any()


def test_of_a_few_questions_each_is_typical_however_it_is_padded() -> None:
    model, inputs = build("llava")
    samples = Samples(inputs)
    questions = samples.batch(3)["input_ids"]
    batches = [samples.batch() for _ in range(4)]
    for batch in batches:
        batch["input_ids"] = questions.repeat(34, 1)[:100]
    fusion = calibrate(model, batches)
    padded = samples.batch(3)
    padded["input_ids"] = torch.cat([torch.zeros(3, 5, dtype=torch.long), questions], dim=1)
    padded["attention_mask"] = (padded["input_ids"] != 0).long()
    with attach(model, fusion) as handle:
        assert not handle.look(**padded).signals["typicality"][:, 1].any()
        strange = handle.look(**samples.batch()).signals["typicality"][:, 1]
        assert (strange < math.log(0.1)).float().mean() > 0.9


def test_what_calibration_refuses_and_warns_of() -> None:
    model, inputs = build("llava")
    samples = Samples(inputs)
    with pytest.raises(MissingInput, match="no batches"):
        calibrate(model, [])
    with pytest.raises(MissingInput, match=r"'image'.*expected 40 or more, got 39"):
        calibrate(model, [samples.batch(39)])
    with pytest.raises(MissingInput, match=r"'image'.*got 0"):
        calibrate(model, [inputs([False] * 50)])
    broken = samples.batch()
    broken["pixel_values"][:2] = torch.nan
    with pytest.raises(NonFiniteInput, match="'image' are NaN or Inf in 2 samples"):
        calibrate(model, [broken])
    with pytest.warns(DMSWarning, match="is known from 10 validation rows"):
        calibrate(model, [samples.batch(40)])
