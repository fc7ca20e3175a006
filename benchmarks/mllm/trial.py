"""One backbone with one seed: trained once, then with each method, then measured."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from learning import Echo, apart, dropped, learn, learn_gate, learn_heads, see
from measures import all_tasks, answered, ranks
from models import BACKBONES, WIDTH, Inputs, prompts
from scenes import CONDITIONS, NOISE, make_scenes, under
from schedulers import CO_ATTENTION, Chosen, Published, robust
from torch import nn

from dms_torch import Fusion
from dms_torch.adapters import attach, calibrate

#: Method, condition, metric, value.
Row = tuple[str, str, str, float]
Strength = Literal["attention", "tokens"]
_NOISY = tuple(name for names in NOISE.values() for name in names)


@dataclass(frozen=True)
class Plan:
    """How much is done.

    Attributes:
        see: Steps in which the encoder learns to keep the pixels.
        learn: Steps of pretraining, which all methods share.
        tune: Steps of each method from there.
        heads: Steps in which the heads of DMS are trained before.
        gate: Steps in which `robust` learns what it trusts.
        share: How much of a batch has questions; the rest has captions.
        test: Scenes of the test.
        clean: Scenes that `calibrate` sees.
        part: Of the scans, those that are measured on: settings were chosen on "validation".
    """

    see: int
    learn: int
    tune: int
    heads: int
    gate: int
    share: float
    test: int = 500
    clean: int = 1000
    part: Literal["validation", "test"] = "test"


#: The second backbone answers questions alone.
PLANS = {
    "llava": Plan(see=300, learn=500, tune=80, heads=300, gate=100, share=0.25),
    "blip2": Plan(see=600, learn=700, tune=80, heads=300, gate=100, share=1.0),
}
TUNE_RATE = 1e-3


class Trial:
    """Trains and measures one backbone with one seed."""

    def __init__(self, backbone: str, seed: int, plan: Plan) -> None:
        torch.manual_seed(seed)
        self.seed, self.plan = seed, plan
        self.model = BACKBONES[backbone]().eval()
        self.echo = Echo(self.model)
        test = make_scenes(plan.part, plan.test, seed)
        self.scenes = {name: under(test, name, seed) for name in CONDITIONS}

    def rows(self) -> Iterator[Row]:
        """Everything that is measured, as soon as it is."""
        see(self.model, self.echo, self.plan.see, self.seed)
        with attach(self.model, Chosen()):
            self._learn(self.plan.learn, 2, shown=partial(apart, seed=self.seed))
        start = deepcopy((self.model.state_dict(), self.echo.state_dict()))
        self._tune()
        yield from self._measured("static", None)
        yield from self._measured("oracle", Chosen())
        calibrated = calibrate(self.model, self._clean_batches())
        yield from self._measured("calibrate", calibrated)
        gate = robust(calibrated)
        with attach(self.model, gate):
            learn_gate(self.model, gate, self.plan.gate, self.seed, share=self.plan.share)
        yield from self._measured("robust", gate)
        self._back(start)
        yield from self._co_attention()
        self._back(start)
        with attach(self.model, Chosen()):
            self._tune(shown=partial(dropped, seed=self.seed))
        yield from self._measured("modality_dropout", None)
        self._back(start)
        yield from self._published()

    def _co_attention(self) -> Iterator[Row]:
        attention = Fusion(CO_ATTENTION, width=WIDTH)
        with attach(self.model, attention):
            self._tune()
        yield from self._measured("co_attention", attention)

    def _published(self) -> Iterator[Row]:
        """DMS as published scales tokens; the ablations use what the whole has learned."""
        dms = Published()
        learn_heads(self.model, dms, self.plan.heads, self.seed, share=self.plan.share)
        with attach(self.model, dms, strength="tokens"):
            self._tune()
        dms.eval()
        yield from self._measured("dms", dms, strength="tokens")
        yield from self._less("dms, attention", dms)
        for signal in dms.spec.signals:
            yield from self._less(f"dms, no {signal}", dms.without(signal), strength="tokens")

    def _learn(self, steps: int, draw: int, **more: Any) -> None:
        more = {"share": self.plan.share, "draw": draw} | more
        learn(self.model, self.echo, steps, self.seed, **more)

    def _tune(self, **more: Any) -> None:
        self._learn(self.plan.tune, 3, rate=TUNE_RATE, **more)

    def _back(self, start: tuple[dict[str, Any], dict[str, Any]]) -> None:
        self.model.load_state_dict(start[0])
        self.echo.load_state_dict(start[1])

    def _clean_batches(self) -> list[Inputs]:
        """Clean training scenes without labels, with questions and with notes in turn."""
        scenes = make_scenes("train", self.plan.clean, self.seed, draw=4)
        batches = []
        for i, rows in enumerate(np.array_split(np.arange(len(scenes)), 10)):
            some = scenes.take(rows)
            notes = i % 2 == 1 and self.plan.share < 1
            batches.append(prompts(some, some.notes if notes else some.questions))
        return batches

    def _measured(
        self, method: str, scheduler: nn.Module | None, strength: Strength = "attention"
    ) -> Iterator[Row]:
        """All metrics under all conditions, and the image's mean weight in questions."""
        with (
            nullcontext()
            if scheduler is None
            else attach(self.model, scheduler, strength=strength) as dms
        ):
            for condition, scenes in self.scenes.items():
                found = {"VQA": answered(self.model, scenes)}
                if dms is not None and dms.last is not None:
                    found["image weight"] = float(dms.last.weights[:, 0].mean())
                if self.plan.share < 1:
                    found |= all_tasks(self.model, scenes)
                yield from ((method, condition, metric, value) for metric, value in found.items())

    def _less(
        self, method: str, scheduler: nn.Module, strength: Strength = "attention"
    ) -> Iterator[Row]:
        """VQA and R@1, clean and noisy: what the paper's ablation measures."""
        with attach(self.model, scheduler, strength=strength):
            for condition in ("clean", *_NOISY):
                scenes = self.scenes[condition]
                yield method, condition, "VQA", answered(self.model, scenes)
                if self.plan.share < 1:
                    first = (ranks(self.model, scenes) < 1).float().mean()
                    yield method, condition, "R@1", 100 * float(first)


def run_trial(backbone: str, seed: int, plan: Plan | None = None) -> tuple[list[Row], float]:
    """The rows of one backbone with one seed, and the CPU seconds that they took."""
    before = time.process_time()
    rows = list(Trial(backbone, seed, plan or PLANS[backbone]).rows())
    return rows, time.process_time() - before
