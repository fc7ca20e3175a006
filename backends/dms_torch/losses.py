"""Defines losses for training a scheduler with the model around it."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from dms_spec.equations import losses as equations
from dms_spec.equations.losses import Reduction
from dms_torch.backend import torch_namespace
from dms_torch.output import FusionOutput


def consistency_loss(
    features: Tensor,
    weights: Tensor,
    *,
    reduction: Reduction = "mean",
    detach_weights: bool = True,
) -> Tensor:
    """Weighs how far each modality's features are from the fused ones: equation E7.

    Source: MWCL of DMS (arXiv 2506.12724), section 3.4; see `dms_spec.equations.losses`.

    Args:
        features: ``[B, M, D]``; anything may stand where the weight is 0.
        weights: ``[B, M]``.
        reduction: ``"none"`` gives ``[B]``.
        detach_weights: Keep the gradient out of the weights; it would drive them to one-hot.

    Example:
        >>> import torch
        >>> from dms_torch import consistency_loss
        >>> consistency_loss(torch.ones(4, 2, 8), torch.full((4, 2), 0.5))  # all alike
        tensor(0.)
    """
    ns = torch_namespace(features.device.type)
    with ns.guard():
        loss: Tensor = equations.consistency_loss(
            ns,
            features.to(weights.dtype),
            weights,
            reduction=reduction,
            detach_weights=detach_weights,
        )
    return loss


def weight_entropy(weights: Tensor, *, reduction: Reduction = "mean") -> Tensor:
    """The mean entropy of the weights, in nats.

    Worth logging. Subtracted from a loss, it keeps the weights from becoming one-hot.

    Example:
        >>> import torch
        >>> from dms_torch import weight_entropy
        >>> weight_entropy(torch.tensor([[0.5, 0.5]]))  # log 2
        tensor(0.6931)
    """
    return equations.weight_entropy(  # type: ignore[no-any-return]
        torch_namespace(weights.device.type), weights, reduction=reduction
    )


def present_cross_entropy(
    logits: Tensor, labels: Tensor, there: Tensor, weight: Tensor | None = None
) -> Tensor:
    """Computes the weighted mean cross-entropy over the rows that are there; 0 if there are none.

    Args:
        logits: ``[N, C]``; rows that are not there must be finite, and get no gradient.
        labels: Classes, int64 ``[N]``.
        there: bool ``[N]``.
        weight: How much each row counts, ``[N]``, 0 or more; None for all alike.
    """
    each = functional.cross_entropy(logits, labels, reduction="none")
    count = torch.ones_like(each) if weight is None else weight.to(each.dtype)
    total = torch.where(there, count, 0.0).sum()
    return torch.where(there, each * count, 0.0).sum() / torch.where(total > 0, total, 1.0)


def unimodal_loss(logits: Tensor, labels: Tensor, active: Tensor) -> Tensor:
    """Computes the mean cross-entropy of the modalities' own heads, over what is active.

    The fused value teaches a head nothing while signals are constants to gradients; this loss does.

    Args:
        logits: ``[B, M, C]``, or ``[T, B, M, C]``; anything may stand where nothing is active.
        labels: Classes, int64 ``[B]``.
        active: bool ``[B, M]``.

    Example:
        >>> import torch
        >>> from dms_torch import unimodal_loss
        >>> active = torch.tensor([[True, False]])
        >>> unimodal_loss(torch.zeros(1, 2, 2), torch.tensor([0]), active)  # log 2
        tensor(0.6931)
    """
    there = active.expand(logits.shape[:-1])
    classes = labels[:, None].expand(there.shape)
    finite = torch.where(there[..., None], logits, 0.0)
    return present_cross_entropy(finite.flatten(0, -2), classes.flatten(), there.flatten())


def fusion_loss(
    output: FusionOutput,
    predictions: Tensor,
    labels: Tensor,
    features: Tensor,
    *,
    consistency: float = 0.1,
    entropy: float = 0.0,
) -> dict[str, Tensor]:
    """Adds the consistency loss to a task's loss, and subtracts the entropy of the weights.

    L = L_task + lambda L_MWCL - eta H(w). Source: DMS (arXiv 2506.12724), section 3.4.

    Args:
        output: What `Fusion` returned.
        predictions: Logits of the model for the fused value, ``[B, C]``.
        labels: Classes, int64 ``[B]``. A sample with nothing active has no part in the loss.
        features: What was fused, ``[B, M, D]``.
        consistency: lambda.
        entropy: eta.

    Returns:
        ``total``, ``task``, ``consistency`` and ``entropy``, scalars.

    Example:
        >>> import torch
        >>> from dms_spec import SchedulerSpec
        >>> from dms_torch import Fusion, fusion_loss
        >>> fusion = Fusion(SchedulerSpec.preset("static", ("image", "text")))
        >>> output = fusion(features=torch.ones(4, 2, 8))
        >>> labels, predictions = torch.zeros(4, dtype=torch.int64), torch.zeros(4, 2)
        >>> losses = fusion_loss(output, predictions, labels, features=torch.ones(4, 2, 8))
        >>> sorted(losses)
        ['consistency', 'entropy', 'task', 'total']
    """
    task = present_cross_entropy(predictions, labels, output.active.any(dim=-1))
    mwcl = consistency_loss(features, output.weights)
    spread = weight_entropy(output.weights)
    return {
        "total": task + consistency * mwcl - entropy * spread,
        "task": task,
        "consistency": mwcl,
        "entropy": spread,
    }
