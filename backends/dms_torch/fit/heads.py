"""Learns, copies and applies heads.

Where features of different modalities are compared, all heads are learned at once, since they
share a space (`dms_torch.fit.space`). Elsewhere each modality is learned by itself
(`dms_torch.fit.regression`), in `FOLDS` + 1 copies: one for each fold, which has not seen it, and
the last, which is kept, learned from all rows. The classifiers of the copies lie one after the
other in one array.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dms_spec.embeddings.settings import FitSettings
from dms_spec.equations.heads import apply_heads, draw_masks
from dms_spec.spec import SchedulerSpec
from dms_torch.backend import torch_namespace
from dms_torch.fit.checkpoint import Arrays
from dms_torch.fit.folds import Rows
from dms_torch.fit.optimize import Descent, Tensors, on_device
from dms_torch.fit.regression import regression
from dms_torch.fit.space import CommonSpace


class Heads:
    """Says how heads are learned and applied. It holds rows, and no parameters.

    Args:
        spec: Whose modalities they are.
        settings: How to learn.
        rows: To learn from.
        shared: Whether they share a space, and are one copy then.
    """

    def __init__(
        self, spec: SchedulerSpec, settings: FitSettings, rows: Rows, *, shared: bool
    ) -> None:
        self.spec, self.settings, self.rows, self.shared = spec, settings, rows, shared
        self.device = rows.learn.present.device
        self.ns = torch_namespace(self.device.type)

    def learn(self, descent: Descent) -> tuple[Arrays, dict[str, dict[str, Any]]]:
        """Learns the parameters of all copies, and says of each modality how it was calibrated."""
        if self.shared:
            space = CommonSpace(self.spec, self.settings, self.rows, self.apply)
            learned = descent.learn(space.stage())
            calibration = space.calibrate(on_device(learned, str(self.device)))
            return learned | {
                f"heads.{name}.temperature": np.array(own["temperature"], dtype=np.float32)
                for name, own in calibration.items()
            }, calibration
        learned, calibration = {}, {}
        for name in self.spec.modalities:
            stage = f"heads of {name}"
            learned |= descent.once(stage, partial(regression, name, self.rows, self.settings))
            calibration[name] = descent.history[stage]["calibration"]
        return learned, calibration

    def fitted(self, learned: Arrays, *, passes: int) -> list[Arrays]:
        """Gives each copy as heads of their own, with masks where there are passes."""
        masks: Arrays = {}
        if passes:
            widths = {name: x.shape[1] for name, x in self.rows.learn.embeddings.items()}
            masks = {
                f"heads.{name}.dropout.masks": mask
                for name, mask in draw_masks(
                    widths, passes, self.settings.dropout, self.settings.seed
                ).items()
            }
        return [
            {n: self._own(n, a, copy) for n, a in learned.items() if n.startswith("heads.")} | masks
            for copy in range(self.rows.copies)
        ]

    def _own(self, name: str, array: NDArray[Any], copy: int) -> NDArray[Any]:
        if not name.endswith((".classifier.weight", ".classifier.bias")):
            return array
        classes = len(self.rows.classes)
        return np.ascontiguousarray(array[..., copy * classes : (copy + 1) * classes])

    def apply(
        self,
        embeddings: Tensors,
        present: Tensor,
        parameters: Tensors,
        outputs: tuple[str, ...],
    ) -> dict[str, Tensor]:
        """Applies heads to embeddings that are scaled already."""
        with self.ns.guard():
            return apply_heads(
                self.ns,
                embeddings,
                present,
                {**parameters, **self.unscaled(embeddings)},
                modalities=tuple(embeddings),
                dropout=self.settings.dropout,
                outputs=outputs,
            )

    def unscaled(self, embeddings: Tensors) -> dict[str, Tensor]:
        """Gives a scale that changes nothing, for embeddings that are scaled already."""
        result = {}
        for name, x in embeddings.items():
            width = x.shape[1:]
            result[f"heads.{name}.scale.zero"] = torch.zeros(width, device=self.device)
            result[f"heads.{name}.scale.unit"] = torch.ones(width, device=self.device)
        return result
