"""Prepares the rows of a table for training: cut into folds, scaled, on the device."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from dms_spec.embeddings.labels import class_indices
from dms_spec.embeddings.scaling import Scale, fit_scale
from dms_spec.embeddings.table import Table
from dms_spec.errors import MissingInput
from dms_spec.plugins import get_policy
from dms_spec.scratch import Scratch
from dms_spec.spec import SchedulerSpec
from dms_torch.fit.corruption import Random
from dms_torch.fit.part import Part, faint_note, moved, scaled_part

#: Of more rows, so many judge, drawn at random; fewer where they have more scores together.
MOST_JUDGES, MOST_SCORES = 1 << 15, 1 << 23

#: Of each modality so many rows judge, if it has them.
FEWEST_JUDGES = 1000

#: Into how many parts the training rows are cut, to judge each by heads that have not seen it.
FOLDS = 5

#: The row of a class that has no other: every head may learn from it, none is judged by it.
IN_NO_FOLD = -1


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Holds what one run learns from.

    Attributes:
        learn: The rows that heads learn from.
        validation: The rows that heads are judged by, each by heads that have not seen it.
        first: Fold 0, in the table's numbering: what chooses when the policy stops.
        crossed: For each fold there are heads that have not learned from it. Otherwise nothing
            learns from fold 0.
        classes: The labels' own values, sorted.
        prior: How frequent each is, as the rows are weighed.
        scale: How each modality is scaled.
        notes: What was left out, in words.
        scratch: Where large arrays are.
    """

    learn: Part
    validation: Part
    first: NDArray[np.intp]
    crossed: bool
    classes: NDArray[np.generic]
    prior: NDArray[np.float64]
    scale: dict[str, Scale]
    notes: tuple[str, ...]
    scratch: Scratch

    @property
    def copies(self) -> int:
        """How many heads each modality gets: one for each fold, and the last one of all rows."""
        return FOLDS + 1 if self.crossed else 1


def rows_of(
    table: Table,
    device: str,
    random: Random,
    *,
    crossed: bool,
    balanced: bool = False,
    scratch: Scratch | None = None,
) -> Rows:
    """Prepares the training rows of a table, and the rows that judge what is learned.

    Args:
        table: With labels.
        device: Where to.
        random: Cuts the training rows into folds.
        crossed: For each fold there are heads that have not learned from it. Otherwise nothing
            learns from fold 0.
            Validation rows of the table are fold 0 then, and nothing learns from them.
        balanced: Rows are weighed so that all classes count alike.
        scratch: Where to keep scaled embeddings; None for memory.

    Raises:
        MissingInput, NonFiniteInput: See `folds` and `fit_scale`.
    """
    assert table.labels is not None  # noqa: S101 - narrows the type; see check_learnable
    rows, left_out = _something(table, table.training_rows())
    notes = [f"{left_out} training rows have nothing present; they are left out"] * (left_out > 0)
    classes, labels = np.unique(table.labels[rows], return_inverse=True)
    if table.validation is None:
        groups = None if table.groups is None else table.groups[rows]
        fold = folds(labels, random, groups)
        first = rows[fold == 0]
    else:
        crossed = False
        first, more = _validation(table, classes)
        notes += more
        fold = np.full(len(rows), IN_NO_FOLD, dtype=np.intp)
    kept = np.full(len(rows), fill_value=True) if crossed else fold != 0
    weight = _weights(table, rows, labels, balanced=balanced)
    scale = _scales(table, rows[kept])
    notes += [faint_note(name, own) for name, own in scale.items() if own.faint.any()]
    scratch = scratch or Scratch()
    learn, more = scaled_part(table, rows[kept], fold[kept], classes, scale, device, scratch)
    notes += more
    learn = replace(learn, weight=moved(weight[kept].astype(np.float32), device))
    if crossed:
        could = np.flatnonzero(fold >= 0)
        judges = could[_judges(learn.present.cpu().numpy()[could], len(classes), random)]
        validation = learn.rows(torch.from_numpy(judges))
    else:
        could = first
        judges = first[_judges(table.present[first], len(classes), random)]
        zeros = np.zeros(len(judges), np.intp)
        validation, _ = scaled_part(table, judges, zeros, classes, scale, device, Scratch())
        own = _weights(
            table, judges, class_indices(classes, table.labels[judges]), balanced=balanced
        )
        validation = replace(validation, weight=moved(own.astype(np.float32), device))
    if len(judges) < len(could):
        notes.append(
            f"{len(judges)} of {len(could)} validation rows, drawn at random, set penalties, "
            "temperatures and trust"
        )
    return Rows(
        learn=learn,
        validation=validation,
        first=first,
        crossed=crossed,
        classes=classes,
        prior=np.bincount(labels, weight, minlength=len(classes)) / weight.sum(),
        scale=scale,
        notes=tuple(notes),
        scratch=scratch,
    )


def _judges(present: NDArray[np.bool_], classes: int, random: Random) -> NDArray[np.intp]:
    """Draws the rows that judge: all, or as many as are enough, also of a rare modality."""
    order = random.permutation(len(present))
    chosen = np.zeros(len(present), dtype=bool)
    chosen[order[: min(MOST_JUDGES, MOST_SCORES // classes)]] = True
    for there in present[order].T:
        chosen[order[there][:FEWEST_JUDGES]] = True
    return np.flatnonzero(chosen)


def _something(table: Table, rows: NDArray[np.intp]) -> tuple[NDArray[np.intp], int]:
    """Finds the rows with something present, and counts those with nothing."""
    some = table.present[rows].any(axis=1)
    return rows[some], int((~some).sum())


def _validation(table: Table, classes: NDArray[np.generic]) -> tuple[NDArray[np.intp], list[str]]:
    """Finds the validation rows that can judge, and what to note about the others."""
    assert table.labels is not None and table.validation is not None  # noqa: S101 - narrows
    rows, empty = _something(table, table.validation)
    known = class_indices(classes, table.labels[rows]) >= 0
    notes = [f"{empty} validation rows have nothing present; they are not used"] * (empty > 0)
    if not known.all():
        strangers = ", ".join(repr(c) for c in np.unique(table.labels[rows[~known]]).tolist())
        notes.append(
            f"{(~known).sum()} validation rows are of classes that no training row has "
            f"({strangers}); they are not used"
        )
    if not known.any():
        raise MissingInput(
            "no validation row can judge what is learned",
            expected="rows with something present, of classes that training rows have",
            got=f"{len(table.validation)} validation rows",
        )
    return rows[known], notes


def _weights(
    table: Table, rows: NDArray[np.intp], labels: NDArray[np.intp], *, balanced: bool
) -> NDArray[np.float64]:
    """Computes how much each row counts, one on average."""
    weight = np.ones(len(rows)) if table.sample_weight is None else table.sample_weight[rows]
    if balanced:
        weight = weight / np.maximum(np.bincount(labels, weight)[labels], np.finfo(float).tiny)
    if not weight.sum() > 0:
        raise MissingInput("all rows to learn from, or to judge by, have sample_weight 0")
    return np.asarray(weight * (len(rows) / weight.sum()))


def _scales(table: Table, rows: NDArray[np.intp]) -> dict[str, Scale]:
    scales = {}
    for m, (name, array) in enumerate(table.embeddings.items()):
        there = rows[table.present[rows, m]]
        if len(there) < 2:
            raise MissingInput(
                f"modality {name!r} is present in too few training rows to learn from",
                expected="two rows or more to learn from",
                got=f"{len(there)} of {len(rows)}",
                fix="Leave the modality out of the table.",
            )
        scales[name] = fit_scale(array, name, there)
    return scales


def cut(order: NDArray[np.intp], size: int) -> list[NDArray[np.intp]]:
    """Cuts into batches of a size, the last one of what is left."""
    return [order[k : k + size] for k in range(0, len(order), size)]


def batches(
    part: Part, index: Iterable[NDArray[np.intp]], spec: SchedulerSpec, random: Random
) -> Iterator[Part]:
    """Draws some rows at a time, with the modalities that the policy lets training see."""
    change = get_policy(spec.policy).training_presence
    for rows in index:
        batch = part.rows(torch.from_numpy(rows))
        if change is not None:
            seed = int(random.integers(2**63))
            present = change(batch.present.cpu().numpy(), seed=seed, **spec.policy_options)
            batch = replace(batch, present=torch.from_numpy(present).to(part.present.device))
        yield batch


def folds(
    labels: NDArray[np.intp], random: Random, groups: NDArray[np.intp] | None = None
) -> NDArray[np.intp]:
    """Gives each row a fold from 0 to `FOLDS` - 1, evenly over the classes; the largest is 0.

    Args:
        labels: Class indices ``[N]``.
        random: Breaks ties.
        groups: ``[N]``: rows of one group come into one fold. None: each row is a group.

    Raises:
        MissingInput: No class has two rows, or with groups, two groups.
    """
    if groups is None:
        fold = _by_class(labels, random)
    else:
        fold = _by_group(labels, np.unique(groups, return_inverse=True)[1], random)
    sizes = np.bincount(fold[fold >= 0], minlength=FOLDS)
    if not sizes.any():
        what = "rows" if groups is None else "groups"
        raise MissingInput(
            "there are too few training rows to keep some for validation",
            expected=f"two {what} or more of some class",
            got=f"{len(labels)} rows; no class has two {what}",
        )
    order = np.argsort(-sizes, kind="stable")
    place = np.empty(FOLDS, dtype=np.intp)
    place[order] = np.arange(FOLDS)
    return np.where(fold >= 0, place[fold], IN_NO_FOLD)


def _by_class(labels: NDArray[np.intp], random: Random) -> NDArray[np.intp]:
    fold = np.full(len(labels), IN_NO_FOLD, dtype=np.intp)
    for label in range(labels.max() + 1):
        rows = random.permutation(np.flatnonzero(labels == label))
        if len(rows) > 1:
            # From another fold on for each class, or small classes would all fill the first.
            fold[rows] = (np.arange(len(rows)) + label) % FOLDS
    return fold


def _by_group(
    labels: NDArray[np.intp], groups: NDArray[np.intp], random: Random
) -> NDArray[np.intp]:
    """Puts the largest group first, each into the fold in which its classes are rarest so far."""
    counts = np.zeros((groups.max() + 1, labels.max() + 1))
    np.add.at(counts, (groups, labels), 1)
    # Every head learns from a group that has a class to itself, and none is judged by it.
    alone = counts[:, (counts > 0).sum(axis=0) == 1].any(axis=1)
    fold = np.full(len(counts), IN_NO_FOLD, dtype=np.intp)
    counted = np.zeros((FOLDS, counts.shape[1]))
    order = random.permutation(np.flatnonzero(~alone))
    for group in order[np.argsort(-counts[order].sum(axis=1), kind="stable")]:
        own = counts[group]
        # The rise of the sum of squares, in which evenly cut classes are least.
        fold[group] = int(((counted * own / counts.sum(axis=0)).sum(axis=1)).argmin())
        counted[fold[group]] += own
    return fold[groups]
