"""Solves multinomial logistic regression at its optimum, for several sets of rows at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor

from dms_spec.scratch import Scratch

# Where the gradient of the mean loss is this small, nothing that is reported changes; and where it
# is good enough to choose a penalty by.
_GRADIENT, _ROUGH_GRADIENT = 1e-5, 1e-4
_MOST_STEPS = 500
# More of them cost more than they save: the directions are scaled already.
_HISTORY = 10
# Numbers at a time: inputs and scores of so many rows stay in the cache.
_VALUES = 1 << 22


class LogisticPath:
    """Solves regressions on the same inputs, each with its own rows, along a path of penalties.

    Minimised are, for each regression, the mean cross-entropy of ``softmax(log prior + x W + b)``
    and ``penalty / 2`` times the sum of the squares of W and b. The prior is that of its own rows,
    half a row added to each class. So with a large penalty a head says what is frequent, and an
    input of zeros comes close to saying just that: b is penalised like any weight.

    Solved with L-BFGS (torch, strong Wolfe line search) in the eigenbasis of the inputs' second
    moments, where every direction is scaled by its curvature: between 10 and 100 steps for each
    penalty, each from where the last one ended, also with more inputs than rows. Steps are taken
    in float32, which halves their time; the loss is convex, so the optimum is the same.

    Loss and gradient are sums over rows, taken some at a time, so that the inputs may lie in files.

    Args:
        blocks: The inputs, ``[n, D]`` of consecutive rows, as often as they are asked for.
        labels: ``[N]``, from 0 to C - 1.
        weight: How much each row counts in each regression, ``[N, A]``, 0 or more.
        classes: C.
        scratch: Where to keep the inputs in the eigenbasis; None for memory.
    """

    def __init__(
        self,
        blocks: Iterable[Tensor],
        labels: Tensor,
        weight: Tensor,
        classes: int,
        scratch: Scratch | None = None,
    ) -> None:
        self._labels, self._scratch = labels, scratch or Scratch()
        self._weight = weight.T.float().contiguous()
        total = self._weight.sum(dim=1, dtype=torch.float64)
        self._weight /= total.clamp(min=torch.finfo(torch.float32).tiny).float()[:, None]
        counts = torch.stack([labels.bincount(own.double(), minlength=classes) for own in weight.T])
        #: Which classes each regression has seen, bool ``[A, C]``.
        self.seen = counts > 0
        smooth = counts + 0.5
        #: The log of each regression's class frequencies, ``[A, C]``.
        self.log_prior = (smooth / smooth.sum(dim=1, keepdim=True)).log()
        self._basis, self._moments = _eigenbasis(blocks, len(labels))
        self._x = self._rotated(blocks, labels.device)
        self._offset = self.log_prior.float()
        self._found = self._offset.new_zeros(len(self._moments), *self.log_prior.shape)

    def _rotated(self, blocks: Iterable[Tensor], device: torch.device) -> Tensor:
        """Computes the inputs in the eigenbasis, ``[N, r]`` float32."""
        shape = (len(self._labels), len(self._moments))
        if self._scratch.on_disk or device.type == "cpu":
            rotated = torch.from_numpy(self._scratch.empty(shape, np.float32))
        else:
            rotated = torch.empty(shape, device=device)
        start = 0
        for block in blocks:
            rotated[start : start + len(block)] = (_with_one(block) @ self._basis).float()
            start += len(block)
            self._scratch.forget()
        return rotated

    def solve(self, penalty: float, *, rough: bool = False) -> tuple[Tensor, Tensor, bool]:
        """Solves for weights ``[A, D, C]`` and biases ``[A, C]``; says if it is at the optimum.

        Args:
            penalty: Above 0.
            rough: Stop where it is good enough to compare penalties.
        """
        # A class probability varies by up to a quarter; a fifth is as good as any other guess.
        unit = (0.2 * self._moments + penalty).rsqrt().float()[:, None, None]
        free = (self._found / unit).requires_grad_()
        optimiser = torch.optim.LBFGS(
            [free],
            max_iter=_MOST_STEPS,
            tolerance_grad=_ROUGH_GRADIENT if rough else _GRADIENT,
            tolerance_change=1e-9,
            history_size=_HISTORY,
            line_search_fn="strong_wolfe",
        )

        def loss() -> Tensor:
            with torch.no_grad():
                total, gradient = self._loss(free * unit, penalty)
                free.grad = gradient * unit
            return total

        optimiser.step(loss)  # type: ignore[no-untyped-call]
        self._found = (free * unit).detach()
        assert free.grad is not None  # noqa: S101 - narrows the type
        steps = optimiser.state[free]["n_iter"]
        done = steps < _MOST_STEPS or float(free.grad.abs().max()) <= _GRADIENT
        result = torch.tensordot(self._basis, self._found.double(), dims=1).movedim(0, 1)
        return result[:, :-1], self.log_prior + result[:, -1], done

    def _loss(self, found: Tensor, penalty: float) -> tuple[Tensor, Tensor]:
        """Computes the loss and its gradient, which is ``x (softmax - one_hot)``, rows weighed.

        Classes stand before rows here: three times as fast as `torch.autograd`, which keeps more.
        """
        copies, classes = self._offset.shape
        flat, offset = found.flatten(1), self._offset[..., None]
        total = 0.5 * penalty * found.double().square().sum()
        gradient = penalty * flat
        for x, labels, weight in self._rows():
            scores = (flat.T @ x.T).reshape(copies, classes, len(x)) + offset
            log_p = torch.log_softmax(scores, dim=1)
            label = labels.expand(copies, 1, -1)
            total -= (weight * log_p.gather(1, label)).sum(dtype=torch.float64)
            slope = log_p.exp_().mul_(weight).scatter_add_(1, label, -weight)
            gradient += (slope.flatten(0, 1) @ x).T
        return total, gradient.reshape(found.shape)

    def _rows(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Gives inputs ``[n, r]``, labels ``[n]`` and weights ``[A, 1, n]``, some at a time."""
        step = max(1, _VALUES // max(self._x.shape[1], self._offset.numel()))
        for start in range(0, len(self._labels), step):
            some = slice(start, start + step)
            weight = self._weight[:, None, some]
            yield self._x[some].to(self._offset.device), self._labels[some], weight
            self._scratch.forget()


def _with_one(x: Tensor) -> Tensor:
    """Adds the input that the bias reads, in float64."""
    return torch.cat([x, x.new_ones(len(x), 1)], dim=1).double()


def _eigenbasis(blocks: Iterable[Tensor], rows: int) -> tuple[Tensor, Tensor]:
    """Finds directions ``[D, r]`` that span the rows, and the rows' mean square along each."""
    width = next(iter(blocks)).shape[1] + 1
    if width <= rows:
        squares = sum(x.T @ x for x in map(_with_one, blocks))
        moments, basis = torch.linalg.eigh(squares / rows)
        return basis, moments.clamp(min=0.0)
    x = torch.cat([_with_one(block) for block in blocks])
    moments, own = torch.linalg.eigh(x @ x.T / rows)  # the same by way of the rows
    kept = moments > 1e-12 * moments[-1]
    moments = moments[kept]
    return x.T @ own[:, kept] / (moments * rows).sqrt(), moments
