"""Learns one stage, whatever it learns: Adam until validation rows say stop, with checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dms_spec.embeddings.settings import FitSettings
from dms_torch.fit.checkpoint import Arrays, Checkpoint, State
from dms_torch.fit.corruption import Random
from dms_torch.fit.part import Part

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Says where a run is after each epoch: its stage, the epoch of how many, and the score."""

    stage: str
    epoch: int
    epochs: int
    score: float
    best_score: float


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Says what is to be learned, and from what.

    Attributes:
        name: Unique in a run.
        start: The parameters, where they start. The start counts as a candidate.
        rate: The learning rate.
        stream: The random numbers of an epoch; of epoch 0 no parameter may depend.
        batches: The rows of an epoch, as many batches in each.
        loss: Of the parameters on a batch.
        validation: The loss on validation rows, without dropout, the same every time.
    """

    name: str
    start: Arrays
    rate: float
    stream: Callable[[int], Random]
    batches: Callable[[Random], Iterator[Part]]
    loss: Callable[[Tensors, Part, Random], Tensor]
    validation: Callable[[Tensors], Tensor]


class Descent:
    """Runs the stages one after the other, from the start or from where a run was stopped.

    Args:
        settings: How many epochs, and how patient.
        device: Where the parameters live.
        store: Where its state is kept.
        report: Called after each epoch.

    Raises:
        ArtifactError, FileError: The checkpoint is of another run, or damaged.
    """

    def __init__(
        self,
        settings: FitSettings,
        device: str,
        store: Checkpoint,
        report: Callable[[Progress], None] | None = None,
    ) -> None:
        self._settings, self._device, self._store, self._report = settings, device, store, report
        self._saved = saved = store.load()
        self._done: Arrays = saved.part("done") if saved else {}
        #: What each finished stage came to, by name.
        self.history: dict[str, Any] = dict(saved.finished) if saved else {}
        #: Where the run went on from, in words; empty if it starts anew.
        self.resumed = f"stage {saved.stage!r}, epoch {saved.epoch}" if saved else ""

    def learn(self, stage: Stage) -> Arrays:
        """Finds the parameters of the best epoch."""
        if stage.name not in self.history:  # else it was finished before the stop
            best, self.history[stage.name] = self._learn(stage)
            self._done |= best
        return {name: self._done[name] for name in stage.start}

    def once(self, name: str, work: Callable[[], tuple[Arrays, dict[str, Any]]]) -> Arrays:
        """Runs a stage without epochs. The names of its arrays begin with no other stage's."""
        if name not in self.history:
            found, self.history[name] = work()
            self._done |= {f"{name}: {key}": array for key, array in found.items()}
            score = float(self.history[name]["validation_loss"])
            self._store.save(
                State(
                    stage=name,
                    epoch=1,
                    best_epoch=1,
                    best_score=score,
                    finished=self.history,
                    arrays={f"done.{key}": array for key, array in self._done.items()},
                )
            )
            if self._report:
                self._report(Progress(stage=name, epoch=1, epochs=1, score=score, best_score=score))
        start = f"{name}: "
        return {
            key.removeprefix(start): array
            for key, array in self._done.items()
            if key.startswith(start)
        }

    def _learn(self, stage: Stage) -> tuple[Arrays, dict[str, Any]]:
        settings = self._settings
        saved = self._saved if self._saved and self._saved.stage == stage.name else None
        now = saved.part("now") if saved else stage.start
        parameters = {n: nn.Parameter(t) for n, t in on_device(now, self._device).items()}
        optimiser = torch.optim.Adam(parameters.values(), lr=stage.rate)
        if saved:
            epoch, best_epoch, best_score = saved.epoch, saved.best_epoch, saved.best_score
            best = saved.part("best")
            steps = epoch * sum(1 for _ in stage.batches(stage.stream(0)))
            _restore(optimiser, parameters, saved, steps)
        else:
            epoch, best_epoch, best = 0, 0, dict(stage.start)
            best_score = _score(stage, parameters)
        while epoch < settings.epochs and epoch - best_epoch < settings.patience:
            epoch += 1
            random = stage.stream(epoch)
            for batch in stage.batches(random):
                optimiser.zero_grad(set_to_none=True)
                loss = stage.loss(parameters, batch, random)
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
            score = _score(stage, parameters)
            if score < best_score:
                best_epoch, best_score, best = epoch, score, to_host(parameters)
            self._store.save(
                State(
                    stage=stage.name,
                    epoch=epoch,
                    best_epoch=best_epoch,
                    best_score=best_score,
                    finished=self.history,
                    arrays=_snapshot(parameters, optimiser, best, self._done),
                )
            )
            if self._report:
                self._report(
                    Progress(
                        stage=stage.name,
                        epoch=epoch,
                        epochs=settings.epochs,
                        score=score,
                        best_score=best_score,
                    )
                )
        return best, {
            "epochs": epoch,
            "best_epoch": best_epoch,
            "validation_loss": best_score,
            "limit": epoch == settings.epochs and epoch - best_epoch < settings.patience,
        }


def on_device(arrays: Arrays, device: str) -> dict[str, Tensor]:
    """Copies arrays: what is trained in place must not change what it started from."""
    return {name: torch.from_numpy(np.array(array)).to(device) for name, array in arrays.items()}


def to_host(tensors: Tensors) -> Arrays:
    """Copies tensors as they are now."""
    return {name: tensor.detach().cpu().numpy().copy() for name, tensor in tensors.items()}


def _score(stage: Stage, parameters: Tensors) -> float:
    """Computes the validation loss; infinite where it is not a number."""
    with torch.no_grad():
        score = float(stage.validation(parameters))
    return score if np.isfinite(score) else float("inf")


def _snapshot(
    parameters: Tensors, optimiser: torch.optim.Adam, best: Arrays, done: Arrays
) -> Arrays:
    """Gives all arrays of a `State`."""
    first = {name: optimiser.state[p]["exp_avg"] for name, p in parameters.items()}
    second = {name: optimiser.state[p]["exp_avg_sq"] for name, p in parameters.items()}
    kinds = {
        "now": to_host(parameters),
        "best": best,
        "first": to_host(first),
        "second": to_host(second),
        "done": done,
    }
    return {f"{kind}.{name}": array for kind, own in kinds.items() for name, array in own.items()}


def _restore(optimiser: torch.optim.Adam, parameters: Tensors, saved: State, steps: int) -> None:
    first, second = saved.part("first"), saved.part("second")
    for name, parameter in parameters.items():
        optimiser.state[parameter] = {
            "step": torch.tensor(float(steps)),
            "exp_avg": torch.from_numpy(first[name].copy()).to(parameter.device),
            "exp_avg_sq": torch.from_numpy(second[name].copy()).to(parameter.device),
        }
