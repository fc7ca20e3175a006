"""Runs the published methods on tensors: `in_torch` makes any equation a function of tensors.

Each name here is that of its equation, whose docstring says what goes in and what comes out; the
namespace is filled in. Half precision is computed in float32, inside autocast as well.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

import torch
from torch import Tensor

from dms_spec.equations.namespace import Namespace
from dms_spec.equations.published import balance, dyncim, moca, qmf, simmlm, tmc, umurl
from dms_spec.errors import MissingInput
from dms_torch.backend import torch_namespace

P = ParamSpec("P")
R = TypeVar("R")


def in_torch(equation: Callable[Concatenate[Namespace, P], R]) -> Callable[P, R]:
    """Makes an equation ``f(namespace, arrays...)`` a function of tensors.

    Args:
        equation: Any function of `dms_spec.equations` whose first argument is a namespace.

    Returns:
        The same without it. It raises `MissingInput` if called without a tensor.

    Example:
        >>> import torch
        >>> from dms_spec.equations import losses
        >>> from dms_torch import in_torch
        >>> in_torch(losses.weight_entropy)(torch.tensor([[0.5, 0.5]]))
        tensor(0.6931)
    """

    @wraps(equation)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        given = [x for x in (*args, *kwargs.values()) if isinstance(x, Tensor)]
        if not given:
            raise MissingInput(f"{equation.__name__} was given no tensor")
        ns = torch_namespace(given[0].device.type)
        with ns.guard():
            return equation(
                ns, *map(_widened, args), **{name: _widened(x) for name, x in kwargs.items()}
            )

    return call


def _widened(value: Any) -> Any:
    half = isinstance(value, Tensor) and value.dtype in (torch.float16, torch.bfloat16)
    return value.float() if half else value


more_vs_fewer = in_torch(simmlm.more_vs_fewer)
confidence_ranking = in_torch(simmlm.confidence_ranking)
history_ranking = in_torch(qmf.history_ranking)
evidence_of = in_torch(tmc.evidence_of)
dempster_shafer = in_torch(tmc.dempster_shafer)
tmc_loss = in_torch(tmc.tmc_loss)
umurl_loss = in_torch(umurl.umurl_loss)
contrastive_loss = in_torch(moca.contrastive_loss)
true_class_scores = in_torch(balance.true_class_scores)
geometric_mean_ratio = in_torch(dyncim.geometric_mean_ratio)
harmonic_improvement_rate = in_torch(dyncim.harmonic_improvement_rate)
