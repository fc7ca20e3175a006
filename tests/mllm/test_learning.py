"""It learns: a tiny Llava whose image or text argues for another class in each test sample."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from test_properties import MODALITIES, STATIC
from tiny_models import IMAGE, llava
from torch import Tensor, nn
from torch.nn import functional

from dms_spec import SchedulerSpec, get_backend
from dms_spec.embeddings.typicality import fit_place, fit_trust, stacked
from dms_spec.equations.typicality import log_distance
from dms_torch import Fusion, FusionOutput
from dms_torch.adapters import attach, calibrate, pool_tokens

CLASSES = 6
WORDS, MISSPELT = 3, 20
LEARNED = SchedulerSpec(
    modalities=MODALITIES,
    policy="learned_linear",
    signals={"typicality": {}},
    coefficients={"typicality": 1.0},
    fusion="feature",
)


@dataclass(frozen=True)
class Batch:
    """Samples, their classes, and which modality is good, bool ``[B, 2]``."""

    inputs: dict[str, Tensor]
    labels: Tensor
    good: Tensor


class Task:
    """An image is its class's pattern in noise, a text three of its class's words.

    A bad image is another class's pattern in more noise, a bad text another class's words misspelt.
    """

    def __init__(self) -> None:
        self.random = torch.Generator().manual_seed(0)
        self.patterns = self._normal(CLASSES, 3, 8, 8)

    def _normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.random)

    def _integers(self, low: int, high: int, *shape: int) -> Tensor:
        return torch.randint(low, high, shape, generator=self.random)

    def _chance(self, share: float, count: int) -> Tensor:
        return torch.rand(count, generator=self.random) < share

    def batch(self, count: int, corrupted: float) -> Batch:
        labels = self._integers(0, CLASSES, count)
        other = (labels + self._integers(1, CLASSES, count)) % CLASSES
        bad, image = self._chance(corrupted, count), self._chance(0.5, count)
        good = ~torch.stack([bad & image, bad & ~image], dim=1)
        shown, told = (torch.where(good[:, m], labels, other) for m in range(2))
        return self._drawn(labels, shown, told, good, ~good)

    def training(self, count: int) -> Batch:
        """Each modality alone is enough at times, and noise and misspelling mean nothing bad."""
        labels = self._integers(0, CLASSES, count)
        strange = torch.stack([self._chance(0.5, count) for _ in MODALITIES], dim=1)
        batch = self._drawn(labels, labels, labels, ~strange, strange)
        mask, draw = batch.inputs["attention_mask"], torch.rand(count, generator=self.random)
        mask[:, 5:8][draw < 0.25] = 0
        mask[:, 1:5][draw > 0.75] = 0
        return batch

    def _drawn(
        self, labels: Tensor, shown: Tensor, told: Tensor, good: Tensor, strange: Tensor
    ) -> Batch:
        count = len(labels)
        noise = torch.where(strange[:, 0], 1.65, 0.7)[:, None, None, None]
        words = 3 + told[:, None] * WORDS + self._integers(0, WORDS, count, 3)
        words = words + MISSPELT * strange[:, 1:].long()
        parts = [torch.full((count, 1), 1), torch.full((count, 4), IMAGE), words]
        ids = torch.cat([*parts, torch.full((count, 1), 2)], dim=1)
        pixels = self.patterns[shown] + noise * self._normal(count, 3, 8, 8)
        mask = torch.ones_like(ids)
        inputs = {"input_ids": ids, "attention_mask": mask, "pixel_values": pixels}
        return Batch(inputs, labels, good)


class Oracle(nn.Module):
    """Knows which modality is bad, and gives it weight 0."""

    def __init__(self, good: Tensor) -> None:
        super().__init__()
        self.spec, self.fusion, self.good = STATIC, Fusion(STATIC), good

    def forward(self, present: Tensor, **given: Any) -> FusionOutput:
        out: FusionOutput = self.fusion(present=present & self.good, **given)
        return out


def logits(model: nn.Module, batch: Batch) -> Tensor:
    out: Tensor = model(**batch.inputs).logits[:, -1, 50 : 50 + CLASSES]
    return out


def accuracy(model: nn.Module, batch: Batch) -> float:
    with torch.no_grad():
        return float((logits(model, batch).argmax(-1) == batch.labels).float().mean())


def learn(model: nn.Module, parameters: Any, batches: Iterator[Batch], rate: float) -> None:
    optimizer = torch.optim.AdamW(parameters, lr=rate)
    for batch in batches:
        loss = functional.cross_entropy(logits(model, batch), batch.labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def typicality(model: nn.Module, task: Task) -> dict[str, np.ndarray]:
    """Fitted to pooled tokens: where clean ones lie, and what leaving that place costs."""

    def pooled(batch: Batch) -> np.ndarray:
        features = pool_tokens(model, batch.inputs).features
        return np.stack([features[name].numpy() for name in MODALITIES], axis=1)

    ns = get_backend("numpy").namespace("cpu")
    with torch.no_grad():
        clean, near, far = (task.batch(n, c) for n, c in ((1024, 0.0), (512, 0.0), (512, 1.0)))
        features, labels = pooled(clean), clean.labels.numpy()
        place = stacked([fit_place(h, labels) for h in features.swapaxes(0, 1)], features.shape[-1])
        typical, strange = (log_distance(ns, pooled(batch), place) for batch in (near, far))
    right, prior = np.where(far.good.numpy(), 0.95, 0.05), np.full(512, 1 / CLASSES)
    trusts = [fit_trust(typical[:, m], strange[:, m], right[:, m], prior) for m in range(2)]
    learned = place | {key: np.stack([one[key] for one in trusts]) for key in ("band", "loss")}
    return {f"signals.typicality.{key}": array for key, array in learned.items()}


def auroc(weights: Tensor, good: Tensor) -> float:
    """How often a good modality has more weight than a bad one of any sample."""
    better = weights[good][:, None] - weights[~good]
    return float((better > 0).float().mean() + (better == 0).float().mean() / 2)


@pytest.fixture(scope="module")
def trained() -> tuple[Any, Task]:
    torch.manual_seed(0)
    task = Task()
    model, _ = llava()
    learn(model, model.parameters(), (task.training(64) for _ in range(500)), 3e-3)
    return model.eval().requires_grad_(requires_grad=False), task


def without_scheduler(model: Any, task: Task) -> tuple[Any, Any, float, float, float]:
    """Draws clean and corrupted rows; measures static on both, and the oracle on corrupted ones."""
    clean, test = task.batch(1024, 0.0), task.batch(1024, 1.0)
    static, on_clean = accuracy(model, test), accuracy(model, clean)
    with attach(model, Oracle(test.good)):
        oracle = accuracy(model, test)
    return clean, test, static, on_clean, oracle


def test_a_gate_finds_the_bad_modality(trained: tuple[Any, Task]) -> None:
    model, task = trained
    clean, test, static, on_clean, oracle = without_scheduler(model, task)
    assert oracle - static > 0.3
    dms = attach(model, Fusion(LEARNED, typicality(model, task)))
    mixed = (task.batch(64, 0.5) for _ in range(100))
    learn(model, dms.scheduler.parameters(), mixed, 0.05)
    closed = (accuracy(model, test) - static) / (oracle - static)
    assert dms.last is not None
    found = auroc(dms.last.weights.detach(), test.good)
    after = accuracy(model, clean)
    dms.detach()
    print(f"static {static:.3f} oracle {oracle:.3f} closed {closed:.3f} AUROC {found:.3f}")
    print(f"clean {on_clean:.3f}, with the gate {after:.3f}")
    assert found >= 0.95
    assert closed >= 0.9
    assert after >= on_clean - 0.01


def test_without_labels_most_of_the_gap_is_closed(trained: tuple[Any, Task]) -> None:
    model, task = trained
    clean, test, static, on_clean, oracle = without_scheduler(model, task)
    with attach(model, calibrate(model, (task.batch(64, 0.0).inputs for _ in range(16)))):
        closed, after = (accuracy(model, test) - static) / (oracle - static), accuracy(model, clean)
    print(f"closed {closed:.3f}, clean {on_clean:.3f}, without labels {after:.3f}")
    assert closed >= 0.5
    assert after >= on_clean - 0.005
