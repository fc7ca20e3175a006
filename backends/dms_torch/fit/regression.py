"""Learns heads by logistic regression: each modality alone, one copy for each fold and one of all.

The rows of each fold choose the penalty and the temperature, by the copy that has not learned from
them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dms_spec.embeddings.calibration import Calibration, fit_temperature
from dms_spec.embeddings.settings import FitSettings
from dms_torch.fit.checkpoint import Arrays
from dms_torch.fit.corruption import noisy, stream
from dms_torch.fit.folds import FOLDS, Rows
from dms_torch.fit.logistic import LogisticPath
from dms_torch.fit.part import Part

_PENALTIES = np.geomspace(10.0, 1e-7, 17)
# The path ends where so many penalties in a row were no better than an earlier one.
_PATIENCE = 3
# Corrupted rows lose some share of the trust, so that what they cost has a bound.
_SHARES = np.linspace(0.0, 1.0, 11)


@dataclass(frozen=True)
class _Candidate:
    """Heads at one penalty, and how the rows judge them that they have not seen."""

    penalty: float
    weight: Tensor  # [A, D, C]
    bias: Tensor  # [A, C]
    log_prior: Tensor  # [A, C]
    seen: Tensor  # [A, C]
    done: bool
    calibration: Calibration
    loss: float

    def record(self) -> dict[str, Any]:
        return {"penalty": self.penalty, "converged": self.done, "validation_loss": self.loss}


def regression(name: str, rows: Rows, settings: FitSettings) -> tuple[Arrays, dict[str, Any]]:
    """Learns the heads of one modality, and says what is to be said about them.

    Returns:
        ``heads.<name>.classifier.weight`` ``[D, A C]``, copy after copy, ``classifier.bias``
        ``[A C]`` and ``temperature``; ``priors.<name>``, how frequent each class is in the rows
        of each copy, ``[A, C]``, 0 where it has never seen it; and the stage's record.
    """
    learn, validation = (
        _Inputs(part, _there(part, name), lambda some: some.embeddings[name])
        for part in (rows.learn, rows.validation)
    )
    found = _chosen(learn, validation, rows, settings)
    if found is None:
        return _silent(name, rows)
    temperature = found.calibration.temperature
    # So that the temperature divides what is said beyond the class frequencies.
    bias = found.bias + (temperature - 1.0) * found.log_prior
    arrays = {
        f"heads.{name}.classifier.weight": found.weight.movedim(0, 1).flatten(1),
        f"heads.{name}.classifier.bias": bias.flatten(),
        f"heads.{name}.temperature": torch.tensor(temperature),
        f"priors.{name}": _of_seen(found),
    }
    return _host(arrays), found.record() | {"calibration": asdict(found.calibration)}


def _of_seen(found: _Candidate) -> Tensor:
    """The frequencies of the classes that each copy has seen, which sum to one; 0 of others."""
    known = torch.where(found.seen, found.log_prior.exp(), 0.0)
    tiny = torch.finfo(known.dtype).tiny
    return known / known.sum(dim=1, keepdim=True).clamp(min=tiny)


def joint_regression(rows: Rows, settings: FitSettings) -> tuple[Arrays, dict[str, Any]]:
    """Learns one head over all modalities together, each at its mean where it is absent.

    Its penalty is chosen by rows as they are: it has to say only what it can say of such.

    Returns:
        ``weight`` ``[A, D, C]``, D the widths of all modalities, ``bias`` ``[A, C]`` and ``mean``
        ``[D]``, nothing where no row can judge it; and the stage's record.
    """
    means = means_of(rows.learn)
    learn, validation = (
        _Inputs(part, part.present.any(dim=1), lambda some: _filled(some, means))
        for part in (rows.learn, rows.validation)
    )
    found = _chosen(learn, validation, rows, replace(settings, noise=0.0))
    if found is None:
        return {}, {"penalty": None, "converged": True, "validation_loss": 0.0}
    hot = 1.0 / found.calibration.temperature
    bias = found.log_prior + hot * (found.bias - found.log_prior)
    arrays = {"weight": hot * found.weight, "bias": bias, "mean": torch.cat(means)}
    return _host(arrays), found.record()


def _filled(part: Part, means: list[Tensor]) -> Tensor:
    filled = [
        torch.where(part.present[:, m, None], x, mean)
        for m, (x, mean) in enumerate(zip(part.embeddings.values(), means, strict=True))
    ]
    return torch.cat(filled, dim=1)


def means_of(part: Part) -> list[Tensor]:
    """Computes the mean of each modality where it is present, ``[D_m]``."""
    totals = [torch.zeros(x.shape[1], dtype=torch.float64) for x in part.embeddings.values()]
    for some in part.parts():
        for m, x in enumerate(some.embeddings.values()):
            totals[m] += x[some.present[:, m]].sum(dim=0, dtype=torch.float64).cpu()
    counts = part.present.sum(dim=0).cpu()
    device = part.present.device
    return [(t / n).float().to(device) for t, n in zip(totals, counts, strict=True)]


@dataclass(frozen=True)
class _Inputs:
    """Gives what a head sees of the rows that have it, some at a time.

    Attributes:
        part: All rows.
        there: Which have it, bool ``[N]``.
        see: Gives the inputs of rows.
    """

    part: Part
    there: Tensor
    see: Callable[[Part], Tensor]

    def __iter__(self) -> Iterator[Tensor]:
        start = 0
        for some in self.part.parts():
            end = start + len(some.labels)
            yield self.see(some)[self.there[start:end]]
            start = end


def _chosen(
    learn: _Inputs, validation: _Inputs, rows: Rows, settings: FitSettings
) -> _Candidate | None:
    """Finds the best along the path of penalties; None where no row can judge.

    Noise in training was tried and is not needed: at every trade between clean and noisy rows, the
    right penalty alone did as well or better. So the penalty is chosen by both: by rows as they
    are, and to half the share `FitSettings.noise` by rows with uniform noise of up to half the
    range of an input. Of noisy rows the loss is that with the share of trust that suits them best,
    since typicality will take trust from them.
    """
    if not (validation.there.any() and learn.there.any()):
        return None
    judge = _Judge(validation, settings)
    there, part = learn.there, learn.part
    path = LogisticPath(
        learn,
        part.labels[there],
        learned_from(rows, part)[there] * part.weight[there][:, None],
        len(rows.classes),
        rows.scratch,
    )
    # A copy that has seen a single class tells nothing apart, and shows nothing when judged.
    if not (path.seen.sum(dim=1) > 1)[validation.part.fold[validation.there]].any():
        return None
    best, worse = None, 0
    for penalty in _PENALTIES:
        found = judge(path, float(penalty), rough=True)
        if best is None or found.loss < best.loss:
            best, worse = found, 0
        else:
            worse += 1
        if worse == _PATIENCE:
            break
    assert best is not None  # noqa: S101 - there are penalties
    return judge(path, best.penalty)


def learned_from(rows: Rows, part: Part) -> Tensor:
    """Says which rows each copy learns from, bool ``[N, A]``: the last from all."""
    copies = torch.arange(rows.copies, device=part.fold.device)
    return part.fold[:, None] != copies


class _Judge:
    """Holds validation rows, as they are and noisy."""

    def __init__(self, validation: _Inputs, settings: FitSettings) -> None:
        x, there = torch.cat(list(validation)), validation.there
        self._fold, self._labels = validation.part.fold[there], validation.part.labels[there]
        self._weight = validation.part.weight[there].double()
        self._share = settings.noise / 2.0
        noise = stream(settings.seed, "validation")
        self._noisy = self._by_fold(noisy(x, 1.0, noise)) if self._share > 0 else []
        self._clean = self._by_fold(x)

    def _by_fold(self, x: Tensor) -> list[Tensor]:
        return [x[self._fold == fold] for fold in range(FOLDS)]

    def __call__(self, path: LogisticPath, penalty: float, *, rough: bool = False) -> _Candidate:
        weight, bias, done = path.solve(penalty, rough=rough)
        logits = self._logits(self._clean, weight, bias)
        prior = path.log_prior[self._fold].exp()
        calibration = fit_temperature(
            logits.cpu().numpy(),
            self._labels.cpu().numpy(),
            prior=prior.cpu().numpy(),
            weight=self._weight.cpu().numpy(),
        )
        loss = (1.0 - self._share) * calibration.nll_after
        if self._share > 0:
            noised = self._logits(self._noisy, weight, bias)
            evidence = (noised - prior.log()) / calibration.temperature
            loss += self._share * self._bounded(prior, (prior.log() + evidence).softmax(dim=1))
        return _Candidate(penalty, weight, bias, path.log_prior, path.seen, done, calibration, loss)

    def _logits(self, folds: list[Tensor], weight: Tensor, bias: Tensor) -> Tensor:
        """Computes the logits of each row by the copy that has not seen it, float64 ``[H, C]``."""
        logits = bias.new_empty(len(self._fold), bias.shape[1])
        for fold, x in enumerate(folds):
            if len(x):
                logits[self._fold == fold] = (x @ weight[fold].float()).double() + bias[fold]
        return logits

    def _bounded(self, prior: Tensor, probabilities: Tensor) -> float:
        known, said = (p.gather(1, self._labels[:, None])[:, 0] for p in (prior, probabilities))
        total = self._weight.sum()
        tiny = torch.finfo(said.dtype).tiny
        return min(
            float(
                -(self._weight * (known + s * (said - known)).clamp(min=tiny).log()).sum() / total
            )
            for s in _SHARES.tolist()
        )


def _silent(name: str, rows: Rows) -> tuple[Arrays, dict[str, Any]]:
    """Gives heads that say what is frequent, since no row can judge any others."""
    width, classes = rows.learn.embeddings[name].shape[1], len(rows.classes)
    bias = np.tile(np.log(np.maximum(rows.prior, 1e-6)), rows.copies)
    arrays: Arrays = {
        f"heads.{name}.classifier.weight": np.zeros((width, rows.copies * classes), np.float32),
        f"heads.{name}.classifier.bias": bias.astype(np.float32),
        f"heads.{name}.temperature": np.array(1.0, dtype=np.float32),
        f"priors.{name}": np.zeros((rows.copies, classes), np.float32),
    }
    note = "no validation row can judge it: its head says what is frequent"
    calibration = {"temperature": 1.0, "nll_after": 0.0, "samples": 0, "note": note}
    record = {"penalty": None, "converged": True, "validation_loss": 0.0}
    return arrays, record | {"calibration": calibration}


def _host(arrays: dict[str, Tensor]) -> Arrays:
    return {key: array.cpu().float().numpy().copy() for key, array in arrays.items()}


def _there(part: Part, name: str) -> Tensor:
    return part.present[:, list(part.embeddings).index(name)]
