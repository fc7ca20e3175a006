"""How a backbone learns: three tasks at once, with whatever scheduler is attached."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from models import PLACES, PROJECTORS, WIDTH, Inputs, captions_alone, prompts, run
from numpy.typing import NDArray
from scenes import CELL, INK, MODALITIES, Scenes, harmed, make_scenes
from schedulers import Published, attached_to, tell
from torch import Tensor, nn
from torch.nn import functional
from vocabulary import CAPTION_STARTS, DIGITS, PAD, STOP, padded, read

from dms_spec.equations.policies import modality_dropout_presence
from dms_torch.adapters import pool_tokens
from dms_torch.published import contrastive_loss

BATCH, RATE = 32, 3e-3
#: Of the contrastive loss.
TEMPERATURE = 0.1
IGNORED = -100
#: How much finding the pixels counts.
ECHO = 20.0
#: Of the gate: the highest rate, and how strongly it is pulled to the rule.
GATE_RATE, PULL = 0.3, 0.001
#: How many training scenes have no image, and say so.
WITHOUT = 0.1


def targets(scenes: Scenes, asked: int) -> Tensor:
    """What is to be written: a digit for the first ``asked`` scenes, captions for the others."""
    answers = [[int(DIGITS[d])] for d in scenes.framed[:asked]]
    rows = [[CAPTION_STARTS, *read(text), STOP] for text in scenes.captions[asked:].tolist()]
    return padded([*answers, *rows], left=False)


def batch(scenes: Scenes, asked: int) -> tuple[Inputs, Tensor, int]:
    """The first ``asked`` scenes with a question, the others with a note: inputs, labels, and P.

    P is the length of the prompts; labels follow them.
    """
    given = prompts(scenes, np.concatenate([scenes.questions[:asked], scenes.notes[asked:]]))
    written, length = targets(scenes, asked), given["input_ids"].shape[1]
    prompt = torch.full_like(given["input_ids"], IGNORED)
    labels = torch.cat([prompt, torch.where(written == PAD, IGNORED, written)], dim=1)
    ids = torch.cat([given["input_ids"], written], dim=1)
    mask = torch.cat([given["attention_mask"], (written != PAD).long()], dim=1)
    return given | {"input_ids": ids, "attention_mask": mask, "labels": labels}, labels, length


def loss_of(model: Any, scenes: Scenes, share: float) -> Tensor:
    """The losses of the tasks, and of what is attached.

    Args:
        model: With or without something attached.
        scenes: The batch.
        share: How much of it has questions. The rest has captions: their cross-entropy, and the
            contrastive loss of scenes and captions.
    """
    asked = int(share * len(scenes))
    inputs, labels, length = batch(scenes, asked)
    logits, held = run(model, inputs)
    total = functional.cross_entropy(logits[:asked, length - 1], labels[:asked, length])
    scheduler = attached_to(model)
    if isinstance(scheduler, Published):
        total = total + scheduler.loss(torch.from_numpy(scenes.framed))
    if asked == len(scenes):
        return total
    tell(model, None)  # what was drawn was for the scenes; captions alone have no image
    candidates = run(model, captions_alone(scenes.captions[asked:]))[1][:, -1]
    found = contrastive_loss(held[asked:, length - 1], candidates, temperature=TEMPERATURE)
    written = functional.cross_entropy(
        logits[asked:, length - 1 : -1].flatten(0, 1),
        labels[asked:, length:].flatten(),
        ignore_index=IGNORED,
    )
    return total + written + found


class Echo(nn.Module):
    """Holds the image's tokens to what they show: a linear map has to find the pixels in them.

    An encoder that is trained on ten digits alone sees a digit in everything. Those of real models
    have learned from images as such, and keep what is unusual in one.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.map = nn.Linear(WIDTH, CELL * CELL)
        (projector,) = (m for name, m in model.named_modules() if name.endswith(PROJECTORS))
        self._tokens: Tensor | None = None
        self._hook = projector.register_forward_hook(self._hold)

    def _hold(self, module: nn.Module, given: Any, tokens: Tensor) -> None:
        self._tokens = tokens

    def remove(self) -> None:
        """Leaves the model as it was."""
        self._hook.remove()

    def loss(self, images: NDArray[np.float32]) -> Tensor:
        """The mean square error of cell k in token k, with ink as 1, of the last forward pass."""
        cells = images.reshape(-1, 2, CELL, 2, CELL).swapaxes(2, 3).reshape(-1, PLACES, CELL * CELL)
        assert self._tokens is not None
        return functional.mse_loss(self.map(self._tokens), torch.from_numpy(cells / INK))


def see(model: nn.Module, echo: Echo, steps: int, seed: int) -> None:
    """Trains what makes tokens of images to keep the pixels; then freezes the vision tower."""
    scenes = make_scenes("train", steps * 2 * BATCH, seed, draw=1)

    def loss(shown: Scenes) -> Tensor:
        pool_tokens(model, prompts(shown, shown.questions))
        return echo.loss(shown.images)

    _descend([*model.parameters(), *echo.parameters()], scenes, steps, RATE, loss)
    for name, parameter in model.named_parameters():
        if "vision" in name:
            parameter.requires_grad_(requires_grad=False)


def learn(
    model: nn.Module,
    echo: Echo,
    steps: int,
    seed: int,
    *,
    draw: int,
    share: float,
    rate: float = RATE,
    shown: Callable[[int, int], Tensor] | None = None,
) -> float:
    """Trains the three tasks on scenes of the training scans, with what is attached, if anything.

    Args:
        model: The vision tower stays as it is.
        echo: Of the model.
        steps: Of AdamW.
        seed: Of the split.
        draw: Which scenes.
        share: As in `loss_of`.
        rate: The highest.
        shown: From a step's number and the batch's size to what an attached `Chosen` shows.

    Returns:
        The mean loss over the last fifty steps.
    """
    count = itertools.count()

    def loss(scenes: Scenes) -> Tensor:
        if shown is not None:
            tell(model, shown(next(count), len(scenes)))
        images = scenes.images[scenes.present[:, 0]]
        return loss_of(model, scenes, share) + ECHO * echo.loss(images)

    model.train()
    scenes = make_scenes("train", steps * 2 * BATCH, seed, draw)
    image = np.random.default_rng([seed, draw]).random(len(scenes)) >= WITHOUT
    there = np.stack([image, np.ones_like(image)], axis=1)
    scenes = replace(scenes, present=there)
    losses = _descend([*model.parameters(), *echo.parameters()], scenes, steps, rate, loss)
    model.eval()
    return float(np.mean(losses[-50:]))


def learn_heads(model: nn.Module, dms: Published, steps: int, seed: int, *, share: float) -> None:
    """Trains the heads of DMS on mean tokens, which the backbone makes but does not read."""
    scenes = make_scenes("train", steps * 2 * BATCH, seed, draw=6)
    asked = round(max(share, 0.5) * 2 * BATCH)

    def loss(shown: Scenes) -> Tensor:
        texts = np.concatenate([shown.questions[:asked], shown.notes[asked:]])
        with torch.no_grad():
            pooled = pool_tokens(model, prompts(shown, texts))
        dms(features=pooled.features, present=pooled.present)
        return dms.loss(torch.from_numpy(shown.framed))

    _descend(list(dms.parameters()), scenes, steps, RATE, loss)


def learn_gate(model: nn.Module, gate: nn.Module, steps: int, seed: int, *, share: float) -> None:
    """Trains a gate inside a frozen model, on scenes of which half are corrupted at random.

    A penalty pulls its parameters to where they start, the rule.
    """
    wanted = [(p, p.requires_grad) for p in model.parameters()]
    model.requires_grad_(requires_grad=False)
    gate.requires_grad_()
    start = [p.detach().clone() for p in gate.parameters()]

    def loss(scenes: Scenes) -> Tensor:
        far = sum(((p - s) ** 2).sum() for p, s in zip(gate.parameters(), start, strict=True))
        return loss_of(model, scenes, share) + PULL * far

    scenes = harmed(make_scenes("train", steps * 2 * BATCH, seed, draw=5), seed)
    _descend(list(gate.parameters()), scenes, steps, GATE_RATE, loss)
    for parameter, want in wanted:
        parameter.requires_grad_(requires_grad=want)
    gate.requires_grad_(requires_grad=False)


def _descend(
    parameters: list[nn.Parameter],
    scenes: Scenes,
    steps: int,
    rate: float,
    loss_of_batch: Callable[[Scenes], Tensor],
) -> list[float]:
    """AdamW; the rate rises over 30 steps and falls to 0. Gives the losses."""
    learned = [p for p in parameters if p.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda s: min(1.0, (s + 1) / 30) * 0.5 * (1 + math.cos(math.pi * s / steps))
    )
    losses = []
    for step in range(steps):
        loss = loss_of_batch(scenes.take(slice(step * 2 * BATCH, (step + 1) * 2 * BATCH)))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(learned, 1.0)
        optimizer.step()
        schedule.step()
        losses.append(float(loss.detach()))
    return losses


def dropped(step: int, count: int, seed: int) -> Tensor:
    """What modality dropout shows in a step, bool ``[B, 2]``."""
    present = np.ones((count, len(MODALITIES)), bool)
    return torch.from_numpy(modality_dropout_presence(present, seed=1000 * seed + step))


def apart(step: int, count: int, seed: int) -> Tensor:
    """What pretraining shows: 2 of 5 the image alone, 1 of 5 the text alone, the others both."""
    u = np.random.default_rng([seed, step]).random(count)
    return torch.from_numpy(np.stack([u >= 0.2, u < 0.6], axis=1))
