"""Array libraries that equations are tested in."""

from __future__ import annotations

from typing import Any

import array_api_compat.numpy as numpy_xp
import array_api_strict
import numpy as np
import pytest

from dms_numpy import primitives
from dms_spec.equations.namespace import Namespace

NUMPY = Namespace.of(numpy_xp, np.ndarray, select=primitives.select)


def library(name: str) -> tuple[Namespace, Any, Any]:
    """A namespace, and the ways from NumPy into its library and back."""
    if name == "numpy":
        return NUMPY, np.asarray, np.asarray
    if name == "strict":
        kind = type(array_api_strict.asarray(0.0))
        return Namespace.of(array_api_strict, kind), array_api_strict.asarray, np.asarray
    torch = pytest.importorskip("torch")
    import array_api_compat.torch as torch_xp

    ns = Namespace.of(torch_xp, torch.Tensor, stop_gradient=torch.Tensor.detach)
    return ns, torch.as_tensor, lambda tensor: tensor.detach().numpy()
