"""Holds the rows that a run learns from: scaled, on the device or in files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dms_spec.embeddings.labels import class_indices
from dms_spec.embeddings.scaling import MOST_GLITCHES, Scale
from dms_spec.embeddings.table import Table
from dms_spec.equations.heads import scaled
from dms_spec.scratch import Scratch
from dms_spec.streams import forget, row_parts
from dms_torch.backend import TorchBackend

# Numbers at a time.
_VALUES = 1 << 21


@dataclass(frozen=True)
class Part:
    """Holds rows on the device: scaled embeddings, presence, class indices, folds and weights.

    Embeddings of a scratch on disk stay there, and come to the device as they are asked for.
    """

    embeddings: dict[str, Tensor]
    present: Tensor
    labels: Tensor
    fold: Tensor
    weight: Tensor
    scratch: Scratch = field(default_factory=Scratch)

    def rows(self, index: Tensor) -> Part:
        """Gives some of the rows, in memory."""
        index = index.to(self.present.device)
        return Part(
            {name: self._gathered(x, index) for name, x in self.embeddings.items()},
            self.present[index],
            self.labels[index],
            self.fold[index],
            self.weight[index],
        )

    def _gathered(self, x: Tensor, index: Tensor) -> Tensor:
        if not self.scratch.on_disk:
            return x[index]
        found = torch.empty((len(index), x.shape[1]), dtype=x.dtype, device=index.device)
        step = max(1, _VALUES // x.shape[1])
        for start in range(0, len(index), step):
            found[start : start + step] = x[index[start : start + step].to(x.device)]
            self.scratch.forget()
        return found

    def parts(self) -> Iterator[Part]:
        """Gives the rows in their order, some at a time."""
        step = max(1, _VALUES // sum(x.shape[1] for x in self.embeddings.values()))
        for start in range(0, len(self.labels), step):
            some = slice(start, start + step)
            yield Part(
                {n: x[some].to(self.present.device) for n, x in self.embeddings.items()},
                self.present[some],
                self.labels[some],
                self.fold[some],
                self.weight[some],
            )
            self.scratch.forget()

    def of_fold(self, fold: int) -> Part:
        """Gives the rows of one fold."""
        return self.rows(torch.nonzero(self.fold == fold)[:, 0])

    def only(self, names: tuple[str, ...]) -> Part:
        """Gives the rows in some modalities alone."""
        columns = [list(self.embeddings).index(name) for name in names]
        return replace(
            self,
            embeddings={name: self.embeddings[name] for name in names},
            present=self.present[:, columns],
        )


def scaled_part(
    table: Table,
    rows: NDArray[np.intp],
    fold: NDArray[np.intp],
    classes: NDArray[np.generic],
    scales: Mapping[str, Scale],
    device: str,
    scratch: Scratch,
) -> tuple[Part, list[str]]:
    """Scales rows, and finds what to note about glitches in them.

    A row full of glitches is absent; single ones are limited to the range of the other values.
    """
    embeddings, present, notes = {}, table.present[rows].copy(), []
    for m, (name, scale) in enumerate(scales.items()):
        x = table.embeddings[name]
        standard = scratch.empty((len(rows), x.shape[1]), np.float32)
        limited, broken = np.zeros(len(rows), bool), np.zeros(len(rows), bool)
        for some in row_parts(x, len(rows)):
            standard[some], limited[some], broken[some] = _standard(
                x[rows[some]], present[some, m], scale
            )
            # Too far out for float32: absent, as it is for the scheduler.
            present[some, m] &= ~broken[some] & np.isfinite(standard[some]).all(axis=1)
            standard[some][~present[some, m]] = 0
            forget(x, standard)
        notes += _glitch_notes(name, rows, limited, broken)
        kept = torch.from_numpy(standard)
        embeddings[name] = kept if scratch.on_disk else kept.to(device)
    assert table.labels is not None  # noqa: S101 - narrows the type
    labels = class_indices(classes, table.labels[rows])
    ones = np.ones(len(rows), np.float32)
    there, y, own, weight = (moved(a, device) for a in (present, labels, fold, ones))
    return Part(embeddings, there, y, own, weight, scratch), notes


def _standard(
    x: NDArray[Any], present: NDArray[np.bool_], scale: Scale
) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.bool_]]:
    """Scales rows ``[n, D]``, and says in which some inputs, and most, are glitches."""
    # Scaled once, in the embeddings' own precision, and float32 from there on.
    x = np.where(present[:, None], x, scale.zero)
    wide = x.astype(np.float64)
    far = scale.glitches(wide) & present[:, None]
    broken = far.mean(axis=1) > MOST_GLITCHES
    x = np.where(far, wide.clip(scale.low, scale.high).astype(x.dtype), x)
    with np.errstate(over="ignore"):
        standard = scaled(x, scale.zero, scale.unit).astype(np.float32)
    return standard, far.any(axis=1) & ~broken, broken


def faint_note(name: str, scale: Scale) -> str:
    """Says which inputs count as constant."""
    return (
        f"{int(scale.faint.sum())} of {len(scale.faint)} inputs of {name!r} vary by less than "
        "float32 tells apart, beside their size or at all; they count as constant: subtract what "
        "is constant, or scale them up"
    )


def _glitch_notes(
    name: str, rows: NDArray[np.intp], limited: NDArray[np.bool_], broken: NDArray[np.bool_]
) -> list[str]:
    notes = []
    for hit, where, what in (
        (broken, "most inputs", "count as absent while learning"),
        (limited, "some inputs", "are limited to the range of all others"),
    ):
        if hit.any():
            listed = ", ".join(map(str, rows[hit][:5])) + (", ..." if hit.sum() > 5 else "")
            notes.append(
                f"{name!r} is far from all other values in {where} of {hit.sum()} training rows "
                f"(row {listed}); these {what}"
            )
    return notes


def moved(array: NDArray[Any], device: str) -> Tensor:
    """Moves an array to the device."""
    return TorchBackend().from_numpy(array, device)
