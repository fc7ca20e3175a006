"""Solves multinomial logistic regression at its optimum, for several sets of rows at once."""

from __future__ import annotations

import torch
from torch import Tensor

# Where the gradient of the mean loss is this small, nothing that is reported changes; and where it
# is good enough to choose a penalty by.
_GRADIENT, _ROUGH_GRADIENT = 1e-5, 1e-4
_MOST_STEPS = 500
# More of them cost more than they save: the directions are scaled already.
_HISTORY = 10


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

    Args:
        x: ``[N, D]`` float64.
        labels: ``[N]``, from 0 to C - 1.
        weight: How much each row counts in each regression, ``[N, A]``, 0 or more.
        classes: C.
    """

    def __init__(self, x: Tensor, labels: Tensor, weight: Tensor, classes: int) -> None:
        x = torch.cat([x, x.new_ones(len(x), 1)], dim=1)
        self._labels = labels[:, None].expand(-1, weight.shape[1])
        self._weight = weight / weight.sum(dim=0).clamp(min=torch.finfo(weight.dtype).tiny)
        target = torch.nn.functional.one_hot(labels, classes).to(x.dtype)
        counts = weight.T @ target
        #: Which classes each regression has seen, bool ``[A, C]``.
        self.seen = counts > 0
        smooth = counts + 0.5
        #: The log of each regression's class frequencies, ``[A, C]``.
        self.log_prior = (smooth / smooth.sum(dim=1, keepdim=True)).log()
        self._basis, self._moments = _eigenbasis(x)
        self._x = (x @ self._basis).float()
        self._offset, self._weight = self.log_prior.float(), self._weight.float()
        self._found = self._x.new_zeros(self._x.shape[1], *self.log_prior.shape)

    def solve(self, penalty: float, *, rough: bool = False) -> tuple[Tensor, Tensor, bool]:
        """Solves for weights ``[A, D, C]`` and biases ``[A, C]``; says if it is at the optimum.

        Args:
            penalty: Above 0.
            rough: Stop where it is good enough to compare penalties.
        """
        # A class probability varies by up to a quarter; a fifth is as good as any other guess.
        unit = (0.2 * self._moments + penalty).rsqrt().float()
        free = (self._found / unit[:, None, None]).requires_grad_()
        optimiser = torch.optim.LBFGS(
            [free],
            max_iter=_MOST_STEPS,
            tolerance_grad=_ROUGH_GRADIENT if rough else _GRADIENT,
            tolerance_change=1e-9,
            history_size=_HISTORY,
            line_search_fn="strong_wolfe",
        )
        x = self._x * unit

        def loss() -> Tensor:
            optimiser.zero_grad()
            logits = (x @ free.flatten(1)).reshape(len(x), *self.log_prior.shape)
            each = torch.nn.functional.cross_entropy(
                (logits + self._offset).movedim(-1, 1), self._labels, reduction="none"
            )
            squares = (free * unit[:, None, None]).square().sum()
            total = (self._weight * each).sum() + 0.5 * penalty * squares
            total.backward()  # type: ignore[no-untyped-call]
            return total

        optimiser.step(loss)  # type: ignore[no-untyped-call]
        self._found = (free * unit[:, None, None]).detach()
        assert free.grad is not None  # noqa: S101 - narrows the type
        steps = optimiser.state[free]["n_iter"]
        done = steps < _MOST_STEPS or float(free.grad.abs().max()) <= _GRADIENT
        found = torch.tensordot(self._basis, self._found.double(), dims=1).movedim(0, 1)
        return found[:, :-1], self.log_prior + found[:, -1], done


def _eigenbasis(x: Tensor) -> tuple[Tensor, Tensor]:
    """Finds directions ``[D, r]`` that span the rows, and the rows' mean square along each."""
    if x.shape[1] <= len(x):
        moments, basis = torch.linalg.eigh(x.T @ x / len(x))
        return basis, moments.clamp(min=0.0)
    moments, rows = torch.linalg.eigh(x @ x.T / len(x))  # the same by way of the rows
    kept = moments > 1e-12 * moments[-1]
    moments = moments[kept]
    return x.T @ rows[:, kept] / (moments * len(x)).sqrt(), moments
