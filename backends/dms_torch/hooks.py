"""Balances training with hooks around a step: for gradients (OGM, OGM-GE), for features (OPM).

Neither changes what a trained model computes. Their formulas are in
`dms_spec.equations.published.balance`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from dms_spec.equations.published import balance
from dms_spec.equations.published.common import check_axes, check_range
from dms_spec.errors import ShapeError
from dms_torch.published import in_torch


class GradientModulator:
    """Scales down the gradients of the modality that is ahead: OGM and OGM-GE.

    After ``backward`` and before the optimiser's step::

        loss.backward()
        modulator.after_backward({"audio": audio.parameters(), "image": image.parameters()},
                                 logits, labels, present)

    Each gradient g becomes ``k_m g + h`` with ``h ~ N(0, (std(g) + 1e-8)^2)``, equation 10 of
    OGM-GE (Peng et al., CVPR 2022, arXiv 2203.15332), std over the entries of each tensor. The
    noise goes to every modality, as in its released code.

    Args:
        alpha: How strongly the gradients of the one ahead are scaled down, 0 or more.
        noise: OGM-GE; False is OGM, the scaling alone.
        only: Which parameters are modulated. The released code takes convolutions alone:
            ``lambda p: p.ndim == 4``.
        seed: Of the noise, on each device.

    Raises:
        SpecError: ``alpha`` is negative.

    Example:
        >>> import torch
        >>> from dms_torch import GradientModulator
        >>> encoders = {name: torch.nn.Linear(8, 5) for name in ("image", "text")}
        >>> inputs, labels = torch.randn(4, 8), torch.tensor([0, 1, 2, 3])
        >>> logits = torch.stack([encoder(inputs) for encoder in encoders.values()], dim=1)
        >>> torch.nn.functional.cross_entropy(logits.mean(dim=1), labels).backward()
        >>> modulator = GradientModulator(alpha=0.1, seed=0)
        >>> _ = modulator.after_backward(
        ...     {name: encoder.parameters() for name, encoder in encoders.items()}, logits, labels
        ... )  # before the optimiser's step
    """

    def __init__(
        self,
        alpha: float = 0.1,
        *,
        noise: bool = True,
        only: Callable[[Tensor], bool] = lambda parameter: True,
        seed: int = 0,
    ) -> None:
        check_range("alpha", alpha, 0, float("inf"))
        self.alpha, self.noise, self._only, self._seed = alpha, noise, only, seed
        self._random: dict[torch.device, torch.Generator] = {}

    @torch.no_grad()
    def after_backward(
        self,
        parameters: Mapping[str, Iterable[Tensor]],
        logits: Tensor,
        labels: Tensor,
        present: Tensor | None = None,
    ) -> Tensor:
        """Changes the gradients in place. Those of no modality are left as they are.

        Args:
            parameters: Each modality's own parameters, in the order of the M axis; what has no
                gradient is passed over.
            logits: Of each modality alone, ``[B, M, C]``. With one head over concatenated
                features, ``W_m h_m + b / M``.
            labels: Classes, int64 ``[B]``.
            present: bool ``[B, M]``; None for all.

        Returns:
            The coefficients k, ``[M]``.

        Raises:
            ShapeError: Shapes disagree, or the number of modalities.
        """
        if len(parameters) != logits.shape[1]:
            raise ShapeError(
                "parameters and logits are of different numbers of modalities",
                expected=f"M = {logits.shape[1]}",
                got=f"{len(parameters)}: {', '.join(parameters)}",
            )
        k: Tensor = in_torch(balance.ogm_coefficients)(
            _rho(logits, labels, present), alpha=self.alpha
        )
        for m, own in enumerate(parameters.values()):
            for parameter in own:
                if parameter.grad is not None and self._only(parameter):
                    self._modulate(parameter.grad, k[m])
        return k

    def _modulate(self, gradient: Tensor, k: Tensor) -> None:
        spread = gradient.std() + 1e-8 if self.noise and gradient.numel() > 1 else None
        gradient.mul_(k)
        if spread is not None:
            draw = torch.randn(
                gradient.shape,
                generator=self._generator(gradient.device),
                dtype=gradient.dtype,
                device=gradient.device,
            )
            gradient.add_(draw * spread)

    def _generator(self, device: torch.device) -> torch.Generator:
        if device not in self._random:
            self._random[device] = torch.Generator(device).manual_seed(self._seed)
        return self._random[device]


@dataclass(frozen=True)
class Dropped:
    """What `FeatureDropper` returns. It unpacks like a tuple.

    Attributes:
        features: ``[B, M, D]``, 0 where dropped.
        keep_rows: bool ``[B]``: the samples that still have something. Leave the others out of
            the loss.
        present: bool ``[B, M]``: what was present and is not dropped.
    """

    features: Tensor
    keep_rows: Tensor
    present: Tensor

    def __iter__(self) -> Iterator[Tensor]:
        return iter((self.features, self.keep_rows, self.present))


class FeatureDropper(nn.Module):
    """Drops features of the modality that is ahead, in training, before fusion: OPM.

    OPM (Wei et al., TPAMI 2024, arXiv 2410.11582): a stochastic presence mask. As part of a model
    it follows ``train()`` and ``eval()``; in evaluation it drops nothing. It draws from NumPy's
    Philox, with one stream for each call in training. ``step`` counts the calls: set it to where a
    run stopped, and the draws go on the same.

    Args:
        base: q_base in [0, 1].
        slope: lambda, 0 or more.
        chance: Probability that a batch is touched at all, in [0, 1].
        rescale: Divide what is left by 1 - theta, as published. Weights on the simplex renormalise
            over what is left, and need none.
        seed: Of the draws, 0 or more.

    Raises:
        SpecError: A number is out of range.

    Example:
        >>> import torch
        >>> from dms_torch import FeatureDropper
        >>> dropper = FeatureDropper(seed=0)
        >>> dropper.rates(torch.randn(4, 2, 5), torch.tensor([0, 1, 2, 3])).shape  # [M]
        torch.Size([2])
    """

    def __init__(
        self,
        base: float = 0.5,
        slope: float = 0.5,
        chance: float = 0.7,
        *,
        rescale: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_range("base", base, 0, 1)
        check_range("slope", slope, 0, float("inf"))
        check_range("chance", chance, 0, 1)
        self.base, self.slope, self.chance = base, slope, chance
        self.rescale, self.seed, self.step = rescale, seed, 0

    @torch.no_grad()
    def rates(self, logits: Tensor, labels: Tensor, present: Tensor | None = None) -> Tensor:
        """Computes the probability with which each modality would be dropped now, ``[M]``."""
        rho = _rho(logits, labels, present)
        rates: Tensor = in_torch(balance.opm_rates)(rho, base=self.base, slope=self.slope)
        return rates

    def before_fusion(
        self,
        features: Tensor,
        logits: Tensor,
        labels: Tensor,
        present: Tensor | None = None,
    ) -> Dropped:
        """Drops features, in training.

        Args:
            features: ``[B, M, D]``; anything may stand where a modality is absent.
            logits: Of each modality alone, ``[B, M, C]``.
            labels: Classes, int64 ``[B]``.
            present: bool ``[B, M]``; None for all.

        Raises:
            ShapeError: Shapes disagree.
        """
        check_axes(features=(features, "B M D"), logits=(logits, "B M C"), present=(present, "B M"))
        there = torch.ones_like(features[..., 0], dtype=torch.bool) if present is None else present
        scale: Tensor | float = 1.0
        if self.training:
            random = np.random.Generator(np.random.Philox([self.seed, self.step]))
            self.step += 1
            if random.random() < self.chance:
                q = self.rates(logits, labels, present)
                draws = torch.from_numpy(random.random(tuple(there.shape))).to(q.device)
                there = there & (draws >= q)
                scale = in_torch(balance.opm_scale)(q) if self.rescale else 1.0
        # Selected before it is scaled: 0 * NaN is NaN, in a product and in its gradient.
        kept = torch.where(there[..., None], features, 0.0) * scale
        return Dropped(kept.to(features.dtype), there.any(dim=-1), there)

    forward = before_fusion


def _rho(logits: Tensor, labels: Tensor, present: Tensor | None) -> Tensor:
    scores = in_torch(balance.true_class_scores)(logits.detach(), labels, active=present)
    counted = None if present is None else present.any(dim=0)
    rho: Tensor = in_torch(balance.discrepancy)(scores, counted=counted)
    return rho
