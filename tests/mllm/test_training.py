"""Training with a scheduler attached: losses, checkpointing, autocast, labels, LoRA, two ranks."""

from __future__ import annotations

import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_properties import BOTH, STATIC, attached, fixed, strengths
from tiny_models import MAJOR, Built, build
from torch import Tensor, nn
from torch.nn import functional

from dms_spec import SchedulerSpec
from dms_spec.errors import UnsupportedCapability
from dms_torch import Fusion, fusion_loss
from dms_torch.adapters import attach

LEARNED = SchedulerSpec(
    modalities=("image", "text"),
    policy="monotone",
    signals={"confidence": {}},
    coefficients={"confidence": 1.0},
    fusion="feature",
)


@pytest.fixture
def built(family: str) -> Built:
    return build(family)


def gradients(model: Any, inputs: dict[str, Tensor], strength: Any = "attention") -> list[Tensor]:
    """Of the gate and of all parameters that get one."""
    model.train().zero_grad()
    gate = Fusion(STATIC, {"policy.bias": torch.tensor([-1.0, 0.5])})
    with attach(model, gate, strength=strength):
        model(**inputs, use_cache=False).logits[:, -1, 5].sum().backward()
        return [p.grad for p in model.parameters() if p.grad is not None]


def checkpoint(model: Any, *, reentrant: bool) -> None:
    kind = "activation" if MAJOR >= 5 else "gradient"
    enable = getattr(model, f"{kind}_checkpointing_enable")
    enable(**{f"{kind}_checkpointing_kwargs": {"use_reentrant": reentrant}})


@strengths
def test_checkpointing_gives_the_same_gradients(strength: str, built: Built) -> None:
    model, inputs = built
    plain = gradients(model, inputs(BOTH), strength)
    checkpoint(model, reentrant=False)
    for one, other in zip(gradients(model, inputs(BOTH), strength), plain, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-3)


def test_reentrant_checkpointing_is_refused(built: Built) -> None:
    model, inputs = built
    checkpoint(model, reentrant=True)
    with pytest.raises(UnsupportedCapability, match="use_reentrant"):
        gradients(model, inputs(BOTH))


@strengths
def test_autocast_is_close_and_has_gradients(strength: str, built: Built) -> None:
    model, inputs = built
    with attached(model, 0.2, strength):
        exact = model(**inputs(BOTH)).logits
    with attach(model, fixed(0.2), strength=strength) as handle:  # type: ignore[arg-type]
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(**inputs(BOTH)).logits
        logits[:, -1, 5].float().sum().backward()
        assert handle.last is not None and handle.last.weights.dtype == torch.float32
        gradient = handle.scheduler.get_parameter("policy/bias").grad
        assert gradient is not None and (gradient != 0).all()
    error = (logits.float() - exact).abs().max() / exact.abs().max()
    assert error < 0.1


def test_answers_are_hidden_from_the_scheduler(family: str, built: Built) -> None:
    """A sample's text is its prompt: what has a label must not decide on a weight."""
    if family == "blip2_t5":
        pytest.skip("its labels are not in the prompt")
    model, inputs = built
    given = inputs(BOTH)
    labels = torch.full_like(given["input_ids"], -100)
    labels[:, -1] = given["input_ids"][:, -1]
    other = {**given, "input_ids": given["input_ids"].clone()}
    other["input_ids"][:, -1] = 7
    with attached(model, 0.2, "attention") as handle:

        def text(batch: dict[str, Tensor], labels: Tensor | None) -> Tensor:
            model(**batch, labels=labels)
            assert handle.last is not None
            return handle.last.pooled.features["text"]

        assert torch.equal(text(given, labels), text(other, labels))
        assert not torch.equal(text(given, None), text(other, None))
        text(given, given["input_ids"])
        assert handle.last is not None and "scheduler sees it" in handle.last.notes[0]


def test_the_losses_reach_heads_and_gate(built: Built) -> None:
    model, inputs = built
    widths = {"image": 32, "text": 32}
    if hasattr(model.config, "perceiver_config") and hasattr(model.config, "cross_layer_interval"):
        widths["image"] = 40
    heads = {name: nn.Linear(width, 64) for name, width in widths.items()}
    answer = torch.tensor([5, 9])
    with attach(model, Fusion(LEARNED), heads=heads) as handle:
        model.requires_grad_(requires_grad=False)
        handle.requires_grad_()
        optimizer = torch.optim.Adam(handle.parameters(), lr=0.02)
        losses = []
        for _ in range(5):
            logits = model(**inputs(BOTH)).logits[:, -1]
            last = handle.last
            assert last is not None
            wide = (functional.pad(x, (0, 40 - x.shape[1])) for x in last.pooled.features.values())
            features = torch.stack(list(wide), dim=1)
            loss = fusion_loss(last.output, logits, answer, features)["total"]
            for own in last.logits.values():
                loss = loss + functional.cross_entropy(own, answer)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        assert all(p.grad is not None and p.grad.isfinite().all() for p in handle.parameters())
    assert losses[-1] < losses[0]


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")  # peft asks
def test_lora_beside_a_scheduler() -> None:
    peft = pytest.importorskip("peft")
    for wrap_first in (False, True):
        model, inputs = build("llava")
        config = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"])
        if wrap_first:
            wrapped = peft.get_peft_model(model, config)
            handle = attach(wrapped, fixed(0.2))
        else:
            handle = attach(model, fixed(0.2))
            wrapped = peft.get_peft_model(model, config)
        handle.requires_grad_()  # peft froze all that it found
        wrapped(**inputs(BOTH)).logits[:, -1, 5].sum().backward()
        trained = {n for n, p in wrapped.named_parameters() if p.grad is not None}
        assert any("lora_B" in name for name in trained)
        assert any("policy/bias" in name for name in trained)
        assert not any("lora" not in name and "dms" not in name for name in trained)
        prompt = {"max_new_tokens": 2, **inputs(BOTH)}
        wrapped.generate(**prompt)
        assert handle.last is not None
        torch.testing.assert_close(handle.last.weights, torch.tensor([[0.2, 0.8]] * 2))
        handle.detach()
        assert not any("dms" in name for name in wrapped.state_dict())


def test_two_ranks_learn_the_same(tmp_path: Path) -> None:
    script = Path(__file__).with_name("ddp_rank.py")
    with ExitStack() as running:
        ranks = [
            running.enter_context(
                subprocess.Popen(
                    [sys.executable, script, str(rank), tmp_path], stderr=subprocess.PIPE
                )
            )
            for rank in range(2)
        ]
        for rank in ranks:
            _, error = rank.communicate(timeout=300)
            assert rank.returncode == 0, error.decode()
    one, other = (np.load(tmp_path / f"{rank}.npy") for rank in range(2))
    np.testing.assert_array_equal(one, other)
    assert np.abs(one[:2]).min() > 1e-4  # the gate, which started at 0
