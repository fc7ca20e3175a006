"""Learns what is typical of each modality's features, and what it costs to be far from it.

Each copy of the heads has a place of its own, from the rows that the copy has learned from. The
trust is one for all copies: from rows that their heads have not seen, clean and corrupted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dms_spec.embeddings.typicality import ClassSums, fit_place, fit_trust, stacked
from dms_spec.equations.typicality import log_distance
from dms_torch.fit.checkpoint import Arrays
from dms_torch.fit.corruption import DRAWS, corrupted, draws_of, stream
from dms_torch.fit.folds import FOLDS
from dms_torch.fit.heads import Heads
from dms_torch.fit.optimize import Tensors, on_device
from dms_torch.fit.part import Part
from dms_torch.fit.regression import learned_from

# From fewer validation rows, the two ends of what is typical are little more than a guess.
_FEW = 100
# Enough for a covariance; means are those of all rows.
_MOST_ROWS = 1 << 15


def learn_typicality(heads: Heads, copies: Sequence[Tensors]) -> tuple[list[Arrays], list[str]]:
    """Learns the signal's parameters for each copy of the heads, and says what is weak about them.

    Args:
        heads: How they are applied, and the rows.
        copies: The parameters of each copy.
    """
    (places, sampled), clean, disturbed = _places(heads, copies), [], []
    draws = draws_of(DRAWS, len(heads.rows.validation.labels))
    for copy, (parameters, place) in enumerate(zip(copies, places, strict=True)):
        part = heads.rows.validation.of_fold(copy)
        if not len(part.labels):  # the last has seen every row
            continue
        clean.append(_judged(heads, parameters, copy, place, part))
        for draw in range(draws):
            random = stream(heads.settings.seed, "trust", copy, draw)
            embeddings, hit = corrupted(part.embeddings, random)
            changed = replace(part, embeddings=embeddings)
            judged = _judged(heads, parameters, copy, place, changed)
            disturbed.append(replace(judged, there=judged.there & hit))
    trust, notes = _trust(heads, _Judged.of(clean), _Judged.of(disturbed))
    return [
        {f"signals.typicality.{key}": array for key, array in (place | trust).items()}
        for place in places
    ], [*sampled, *notes]


@dataclass(frozen=True, kw_only=True)
class _Judged:
    """Holds validation rows, as heads see them that have not learned from them."""

    distance: NDArray[np.floating]  # log-distance, [N, M]
    likelihood: NDArray[np.floating]  # what each modality alone gives the label, [N, M]
    there: NDArray[np.bool_]  # [N, M]
    labels: NDArray[np.intp]  # [N]

    @classmethod
    def of(cls, some: Sequence[_Judged]) -> _Judged:
        """Joins the rows of several."""
        names = [field.name for field in fields(cls)]
        return cls(**{name: np.concatenate([getattr(own, name) for own in some]) for name in names})


def _places(heads: Heads, copies: Sequence[Tensors]) -> tuple[list[Arrays], list[str]]:
    """Fits for each copy where the modalities lie in the rows that it has learned from.

    Says which covariances some of the rows had to be enough for.
    """
    part, classes = heads.rows.learn, len(heads.rows.classes)
    labels, fold = part.labels.cpu().numpy(), part.fold.cpu().numpy()
    learned = learned_from(heads.rows, part).cpu().numpy()
    places: list[list[Arrays]] = [[] for _ in copies]
    notes = []
    for name in part.embeddings:
        alone = part.only((name,))
        there = alone.present[:, 0].cpu().numpy()
        # Those of each fold and class are summed once, and those of what is absent apart.
        group = np.where(there, (fold + 1) * classes + labels, (FOLDS + 1) * classes)
        # Where copies differ, features are the embeddings themselves.
        blocks = (_features(heads, copies[-1], some) for some in alone.parts())
        sums = ClassSums.of(blocks, group, (FOLDS + 1) * classes + 1)
        counts = sums.counts[:-1].reshape(FOLDS + 1, classes)
        totals = sums.totals[:-1].reshape(FOLDS + 1, classes, -1)
        for copy, parameters in enumerate(copies):
            own = np.flatnonzero(there & learned[:, copy])
            if not len(own):  # nothing is known of it, and nothing is judged by this copy
                nothing = np.zeros((1, totals.shape[2]))
                places[copy].append(fit_place(nothing, np.zeros(1, np.intp)))
                continue
            kept = np.arange(FOLDS + 1) != copy + 1
            some = own[:: -(-len(own) // _MOST_ROWS)]
            place = fit_place(
                _features(heads, parameters, alone.rows(torch.from_numpy(some))),
                labels[some],
                covariance=heads.settings.covariance,
                rank=heads.settings.rank,
                sums=ClassSums(counts[kept].sum(axis=0), totals[kept].sum(axis=0)),
            )
            places[copy].append(place)
            if copy == len(copies) - 1 and len(some) < len(own):  # it has seen every row
                notes.append(
                    f"the covariance of {name!r} is that of {len(some)} of {len(own)} rows"
                )
    widest = max(len(place["center"]) for place in places[-1])
    return [stacked(own, widest) for own in places], notes


def _features(heads: Heads, parameters: Tensors, alone: Part) -> NDArray[np.float32]:
    """Computes the features of rows in one modality, ``[n, D_m]``."""
    with torch.no_grad():
        found = heads.apply(alone.embeddings, alone.present, parameters, ("features",))
    return found["features"][:, 0].cpu().numpy()


def _trust(heads: Heads, clean: _Judged, changed: _Judged) -> tuple[Arrays, list[str]]:
    prior, trusts, notes = heads.rows.prior, [], []
    for m, name in enumerate(heads.spec.modalities):
        there, hit = clean.there[:, m], changed.there[:, m]
        trusts.append(
            fit_trust(
                clean.distance[there, m],
                changed.distance[hit, m],
                changed.likelihood[hit, m],
                prior[changed.labels[hit]],
            )
        )
        if there.sum() < _FEW:
            notes.append(
                f"what is typical of {name!r} is known from {int(there.sum())} validation rows"
            )
    return {key: np.stack([own[key] for own in trusts]) for key in trusts[0]}, notes


def _judged(heads: Heads, parameters: Tensors, copy: int, place: Arrays, part: Part) -> _Judged:
    # A copy that knows nothing of a modality has no place to judge it by.
    learned = learned_from(heads.rows, heads.rows.learn)[:, copy, None]
    known = (heads.rows.learn.present & learned).any(dim=0)
    device_place = on_device(place, str(heads.device))
    found = []
    for some in part.parts():
        features, logits = _seen(heads, parameters, some)
        with heads.ns.guard():
            distance = log_distance(heads.ns, features, device_place)
            p = heads.ns.softmax(logits)
        labels = some.labels[:, None, None].expand(*some.present.shape, 1)
        found.append(
            _Judged(
                distance=distance.cpu().numpy(),
                likelihood=torch.take_along_dim(p, labels, dim=-1)[..., 0].cpu().numpy(),
                there=(some.present & known).cpu().numpy(),
                labels=some.labels.cpu().numpy(),
            )
        )
    return _Judged.of(found)


def _seen(heads: Heads, parameters: Tensors, part: Part) -> tuple[Tensor, Tensor]:
    """Computes features and logits."""
    with torch.no_grad():
        seen = heads.apply(part.embeddings, part.present, parameters, ("features", "logits"))
    return seen["features"], seen["logits"]
