"""Runs the equations in PyTorch, with torch's own softmaxes as primitives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any, final

import array_api_compat.torch as xp
import ml_dtypes
import numpy as np
import torch
from numpy.typing import NDArray

from dms_spec.engine.array_backend import ArrayBackend
from dms_spec.equations.namespace import Namespace
from dms_spec.errors import DTypeError
from dms_spec.interface.backend import Differentiable
from dms_spec.interface.capabilities import Capabilities
from dms_torch import paths, primitives
from dms_torch.looking import values_are_hidden

DTYPES = ("float64", "float32", "float16", "bfloat16")


def _no_autocast(kind: str) -> torch.autocast:
    return torch.autocast(kind, enabled=False)


def torch_namespace(kind: str, asked: str = "auto") -> Namespace:
    """Makes the namespace on one kind of device, ``"cpu"`` or ``"cuda"``.

    Autocast is off inside: the specification says what is computed in which precision. ``asked`` is
    the path that was asked for, see `dms_torch.paths`.
    """
    # A compiler does without the cache, and says so.
    return _made(kind, asked) if torch.compiler.is_compiling() else _kept(kind, asked)


def _made(kind: str, asked: str) -> Namespace:
    return Namespace.of(
        xp,
        torch.Tensor,
        guard=lambda: _no_autocast(kind),
        copy=torch.Tensor.clone,
        lend=primitives.lend,
        traced=values_are_hidden,
        # Measured on the CPU, the best of 2^20 to 2^24; a GPU wants everything at once.
        entries_at_once=1 << 23 if kind == "cpu" else None,
        softmax=lambda x, axis=-1: torch.softmax(x, dim=axis),
        log_softmax=lambda x, axis=-1: torch.log_softmax(x, dim=axis),
        logsumexp=lambda x, axis=-1: torch.logsumexp(x, dim=axis),
        select=primitives.select,
        stop_gradient=torch.Tensor.detach,
        alignment=partial(primitives.alignment, asked),
        one_read=partial(primitives.one_read, asked),
        twin=partial(primitives.twin, asked),
        **{name: partial(primitives.on_path, asked, name) for name in primitives.PLAIN},
    )


_kept = cache(_made)


@final
class TorchBackend(ArrayBackend, Differentiable):
    """Runs schedulers in PyTorch: on the CPU, and on every CUDA device that works.

    Example:
        >>> import numpy as np
        >>> from dms_spec import get_backend
        >>> get_backend("torch").from_numpy(np.ones(2, np.float32), "cpu")
        tensor([1., 1.])
    """

    @property
    def name(self) -> str:
        return "torch"

    @property
    def capabilities(self) -> Capabilities:
        cuda = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
        return Capabilities(
            dtypes=DTYPES,
            devices=("cpu", *(["cuda"] if cuda else []), *cuda),
            gradients=True,
            # Sums on a GPU may be taken in another order from run to run.
            bitwise_deterministic=not cuda,
            notes=paths.notes(),
        )

    def from_numpy(self, array: NDArray[Any], device: str) -> torch.Tensor:
        array = np.asarray(array, order="C")  # ascontiguousarray gives a scalar an axis
        if not array.flags.writeable:  # torch would warn, and share what must not be written
            array = array.copy()
        if array.dtype == ml_dtypes.bfloat16:
            return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16).to(device)
        try:
            return torch.from_numpy(array).to(device)
        except TypeError as error:  # it has no objects and no texts
            raise DTypeError(
                "torch has no tensor of this dtype",
                expected=" or ".join(DTYPES),
                got=str(array.dtype),
                fix="Cast the array to a real floating dtype, or a mask to bool.",
            ) from error

    def to_numpy(self, array: torch.Tensor) -> NDArray[Any]:
        array = array.detach().cpu()
        if array.dtype == torch.bfloat16:
            return array.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
        return array.numpy()

    def gradients(
        self,
        function: Callable[[dict[str, torch.Tensor]], torch.Tensor],
        arrays: Mapping[str, torch.Tensor],
    ) -> dict[str, torch.Tensor]:
        leaves = {name: array.detach().requires_grad_() for name, array in arrays.items()}
        with torch.enable_grad():
            value = function(leaves)
        if not value.requires_grad:  # nothing of it depends on them
            return {name: torch.zeros_like(leaf) for name, leaf in leaves.items()}
        found = torch.autograd.grad(value, list(leaves.values()), allow_unused=True)
        return {
            name: torch.zeros_like(leaf) if gradient is None else gradient
            for (name, leaf), gradient in zip(leaves.items(), found, strict=True)
        }

    def namespace(self, device: str) -> Namespace:
        return torch_namespace(torch.device(device).type, paths.requested())
