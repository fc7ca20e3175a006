"""Rows of a table on their way into training: on the device, held out, scaled, dropped."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dms_spec.errors import MissingInput, NonFiniteInput
from dms_spec.tables import Table
from dms_torch.checkpoint import Arrays

Random = np.random.Generator

#: The part of the training rows that nothing is learned from: for stopping and calibration.
HELD_OUT = 0.2


@dataclass
class Part:
    """Rows on the device: standardised embeddings, presence, class indices."""

    embeddings: dict[str, Tensor]
    present: Tensor
    labels: Tensor

    def rows(self, index: Tensor) -> Part:
        index = index.to(self.present.device)
        return Part(
            {name: x[index] for name, x in self.embeddings.items()},
            self.present[index],
            self.labels[index],
        )


def held_out(labels: NDArray[np.intp], random: Random) -> NDArray[np.bool_]:
    """A fifth of each class, at least one where it has two.

    Raises:
        MissingInput: No class has two rows.
    """
    held = np.zeros(len(labels), dtype=bool)
    for label in range(labels.max() + 1):
        rows = random.permutation(np.flatnonzero(labels == label))
        count = max(1, round(HELD_OUT * len(rows))) if len(rows) > 1 else 0
        held[rows[:count]] = True
    if not held.any():
        raise MissingInput(
            "there are too few training rows to hold some out",
            expected="two rows or more of some class",
            got=f"{len(labels)} rows of as many classes",
        )
    return held


def scale_of(table: Table, rows: NDArray[np.intp]) -> Arrays:
    """Mean and deviation of each input over the rows in which the modality is present.

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
            mean, deviation = x.mean(axis=0), x.std(axis=0)
        # A column that does not vary says nothing; its round-off is not to be blown up.
        varies = deviation > np.maximum(1e-6 * np.abs(mean), np.finfo(np.float32).tiny)
        deviation[~varies] = 1.0
        with np.errstate(over="ignore"):
            own = {"mean": mean.astype(np.float32), "deviation": deviation.astype(np.float32)}
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


def dropped(x: Tensor, rate: float, random: Random) -> Tensor:
    """Inputs with some at 0 and the rest scaled up, in training: [B, D] -> [B, D]."""
    keep = random.random(tuple(x.shape), dtype=np.float32) >= rate
    return x * torch.from_numpy(keep).to(x.device) / (1.0 - rate)
