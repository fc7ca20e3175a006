"""The rows of a table on their way into training: cut into folds, scaled, on the device."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dms_spec.embeddings.labels import class_indices
from dms_spec.embeddings.table import Table
from dms_spec.errors import MissingInput, NonFiniteInput
from dms_spec.plugins import get_policy
from dms_spec.spec import SchedulerSpec
from dms_torch.backend import TorchBackend
from dms_torch.fit.checkpoint import Arrays
from dms_torch.fit.corruption import Random

#: Into how many parts the training rows are cut, to judge each by heads that have not seen it.
FOLDS = 5

#: The row of a class that has no other: every head may learn from it, none is judged by it.
NEVER_HELD = -1


@dataclass(frozen=True)
class Part:
    """Rows on the device: scaled embeddings, presence, class indices, folds."""

    embeddings: dict[str, Tensor]
    present: Tensor
    labels: Tensor
    fold: Tensor

    def rows(self, index: Tensor) -> Part:
        index = index.to(self.present.device)
        return Part(
            {name: x[index] for name, x in self.embeddings.items()},
            self.present[index],
            self.labels[index],
            self.fold[index],
        )

    def of_fold(self, fold: int) -> Part:
        """The rows of one fold."""
        return self.rows(torch.nonzero(self.fold == fold)[:, 0])

    def only(self, names: tuple[str, ...]) -> Part:
        """The rows in some modalities alone."""
        columns = [list(self.embeddings).index(name) for name in names]
        return replace(
            self,
            embeddings={name: self.embeddings[name] for name in names},
            present=self.present[:, columns],
        )


@dataclass(frozen=True, kw_only=True)
class Rows:
    """What one run learns from.

    Attributes:
        learn: The rows that heads learn from.
        held: The rows that heads are judged by, each by heads that have not seen it.
        first: Fold 0, in the table's numbering: what chooses when the policy stops.
        classes: The labels' own values, sorted.
        prior: How frequent each is.
        scale: Zero and unit of each input, as `scale_of` gives them.
        left_out: How many training rows have nothing present.
    """

    learn: Part
    held: Part
    first: NDArray[np.intp]
    classes: NDArray[np.generic]
    prior: NDArray[np.float64]
    scale: Arrays
    left_out: int


def rows_of(table: Table, device: str, random: Random, *, crossed: bool) -> Rows:
    """The training rows of a table that is learnable.

    Args:
        table: With labels.
        device: Where to.
        random: Cuts them into folds.
        crossed: Each fold is held out from heads of its own; otherwise fold 0 from everything.

    Raises:
        MissingInput, NonFiniteInput: See `folds` and `scale_of`.
    """
    assert table.labels is not None  # noqa: S101 - narrows the type; see check_learnable
    rows = table.training_rows()
    some = table.present[rows].any(axis=1)
    left_out, rows = int((~some).sum()), rows[some]
    classes, labels = np.unique(table.labels[rows], return_inverse=True)
    fold = folds(labels, random)
    first = rows[fold == 0]
    kept = np.full(len(rows), fill_value=True) if crossed else fold != 0
    scale = scale_of(table, rows[kept])
    learn = _part(table, rows[kept], fold[kept], classes, scale, device)
    if crossed:
        held = learn.rows(torch.from_numpy(np.flatnonzero(fold >= 0)))
    else:
        held = _part(table, first, np.zeros(len(first), np.intp), classes, scale, device)
    return Rows(
        learn=learn,
        held=held,
        first=first,
        classes=classes,
        prior=np.bincount(labels, minlength=len(classes)) / len(labels),
        scale=scale,
        left_out=left_out,
    )


def _part(
    table: Table,
    rows: NDArray[np.intp],
    fold: NDArray[np.intp],
    classes: NDArray[np.generic],
    scale: Arrays,
    device: str,
) -> Part:
    # Scaled once, in the embeddings' own precision, and float32 from there on.
    move = TorchBackend().from_numpy
    embeddings, present = {}, table.present[rows].copy()
    for m, name in enumerate(table.modalities):
        zero, unit = (scale[f"heads.{name}.scale.{key}"] for key in ("zero", "unit"))
        x = np.where(present[:, m, None], table.embeddings[name][rows], zero)
        with np.errstate(over="ignore"):
            standard = ((x - zero) / unit).astype(np.float32)
        # Too far out for float32: absent, as it is for the scheduler.
        present[:, m] &= np.isfinite(standard).all(axis=1)
        standard[~present[:, m]] = 0
        embeddings[name] = move(standard, device)
    assert table.labels is not None  # noqa: S101 - narrows the type
    labels = class_indices(classes, table.labels[rows])
    return Part(embeddings, move(present, device), move(labels, device), move(fold, device))


def cut(order: NDArray[np.intp], size: int) -> list[NDArray[np.intp]]:
    """Batches of a size, the last one of what is left."""
    return [order[k : k + size] for k in range(0, len(order), size)]


def batches(
    part: Part, index: Iterable[NDArray[np.intp]], spec: SchedulerSpec, random: Random
) -> Iterator[Part]:
    """Some rows at a time, with the modalities that the policy lets training see."""
    change = get_policy(spec.policy).training_presence
    for rows in index:
        batch = part.rows(torch.from_numpy(rows))
        if change is not None:
            seed = int(random.integers(2**63))
            present = change(batch.present.cpu().numpy(), seed=seed, **spec.policy_options)
            batch = replace(batch, present=torch.from_numpy(present).to(part.present.device))
        yield batch


def folds(labels: NDArray[np.intp], random: Random) -> NDArray[np.intp]:
    """A fold from 0 to `FOLDS` - 1 for each row, evenly over the classes; the largest is 0.

    Raises:
        MissingInput: No class has two rows.
    """
    fold = np.full(len(labels), NEVER_HELD, dtype=np.intp)
    for label in range(labels.max() + 1):
        rows = random.permutation(np.flatnonzero(labels == label))
        if len(rows) > 1:
            # From another fold on for each class, or small classes would all fill the first.
            fold[rows] = (np.arange(len(rows)) + label) % FOLDS
    sizes = np.bincount(fold[fold >= 0], minlength=FOLDS)
    if not sizes.any():
        raise MissingInput(
            "there are too few training rows to hold some out",
            expected="two rows or more of some class",
            got=f"{len(labels)} rows of as many classes",
        )
    order = np.argsort(-sizes, kind="stable")
    place = np.empty(FOLDS, dtype=np.intp)
    place[order] = np.arange(FOLDS)
    return np.where(fold >= 0, place[fold], NEVER_HELD)


def scale_of(table: Table, rows: NDArray[np.intp]) -> Arrays:
    """Minimum and range of each input over the rows in which the modality is present.

    From the bottom of the range and not from the mean, so that an input that has gone dead,
    and reads the least that it can, speaks for no class.

    Raises:
        MissingInput: A modality is in none of them.
        NonFiniteInput: Its numbers do not fit float32.
    """
    scale: Arrays = {}
    for m, (name, array) in enumerate(table.embeddings.items()):
        x = array[rows[table.present[rows, m]]].astype(np.float64)
        if not len(x):
            raise MissingInput(
                f"modality {name!r} is absent in all training rows that are not held out",
                expected="a few rows to learn from",
                fix="Leave the modality out of the table, or try another seed.",
            )
        with np.errstate(over="ignore", invalid="ignore"):
            least, unit = x.min(axis=0), np.ptp(x, axis=0)
        # A column that does not vary says nothing; its round-off is not to be blown up.
        varies = unit > np.maximum(1e-6 * np.abs(least), np.finfo(np.float32).tiny)
        unit[~varies] = 1.0
        with np.errstate(over="ignore"):
            own = {"zero": least.astype(np.float32), "unit": unit.astype(np.float32)}
        for key, values in own.items():
            if not np.isfinite(values).all():
                raise NonFiniteInput(
                    f"the numbers of modality {name!r} are too large",
                    expected="magnitudes below 1e38",
                    got=f"up to {np.abs(x).max():.3g}",
                    fix="Scale the embeddings down.",
                )
            scale[f"heads.{name}.scale.{key}"] = values
    return scale
