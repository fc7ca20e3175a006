"""Triton's kernels compute the plain primitives, forward and backward, at every border of a block.

On a machine without a GPU, Triton's interpreter runs them: ``make test-triton``. That certifies
their logic, neither speed nor precision.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import array_api_compat.torch as xp
import pytest

torch = pytest.importorskip("torch")

CUDA = torch.cuda.is_available()
pytestmark = [pytest.mark.gpu] if CUDA else []
pytest.importorskip("triton", reason="Triton is not installed: make test-triton brings it")
if not CUDA and os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("there is no GPU: make test-triton interprets the kernels", allow_module_level=True)

from torch import Tensor  # noqa: E402

from dms_spec.equations import primitives as plain  # noqa: E402
from dms_torch import kernels  # noqa: E402
from dms_torch.kernels import layout  # noqa: E402

DEVICE = "cuda" if CUDA else "cpu"
EPS = {torch.float64: 2.0**-52, torch.float32: 2.0**-23, torch.float16: 2.0**-23}
EPS[torch.bfloat16] = EPS[torch.float16]  # half precision is computed in float32


@pytest.fixture(params=[1 << 14, 64], ids=["one block", "many blocks"])
def entries(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """How many entries a program holds."""
    monkeypatch.setattr(layout, "ENTRIES", request.param)
    monkeypatch.setattr(layout, "TOGETHER", request.param // 8)
    return request.param


def drawn(shape: tuple[int, ...], dtype: torch.dtype, seed: int = 0) -> Tensor:
    """Logits of all sizes: far apart, offset by 1e4, -inf in some places."""
    random = torch.Generator().manual_seed(seed)
    rows = (*shape[:-1], 1)
    x = torch.randn(shape, generator=random, dtype=torch.float64)
    x = x * 10.0 ** torch.randint(-3, 3, rows, generator=random)
    x = x + 1e4 * torch.randint(-1, 2, rows, generator=random)
    gone = torch.rand(shape, generator=random) < 0.2
    gone[..., 0] = False
    return x.masked_fill(gone, -float("inf")).to(DEVICE, dtype)


def in_float64(
    function: Callable[..., Tensor], towards: Tensor, *given: Tensor
) -> tuple[Tensor, list[Tensor]]:
    """A value and its gradients in float64."""
    leaves = [x.double().requires_grad_() for x in given]
    value = function(*leaves)
    return value, list(torch.autograd.grad(value, leaves, towards.double()))


def close(found: Tensor, exact: Tensor, scale: Tensor | float, dtype: torch.dtype) -> None:
    """DMS-N-001: within 8 eps of a scale; a gradient in half precision is rounded to it besides."""
    info = torch.finfo(found.dtype)
    own = info.eps * (exact.abs() + info.smallest_normal) if found.dtype.itemsize == 2 else 0.0
    error = (found.double() - exact).abs() - own
    assert bool((error <= 8 * EPS[dtype] * scale + 1e-37).all()), float((error / scale).max())


SHAPES = [(1, 2, 1, 3), (2, 3, 2, 1), (3, 5, 3, 16), (4, 2, 2, 17), (5, 3, 1, 70), (16, 1, 2, 33)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_variance_over_passes(shape: tuple[int, ...], dtype: torch.dtype, entries: int) -> None:
    x = drawn(shape, dtype)
    towards = torch.randn(shape[1:3], dtype=layout.computing(x), device=DEVICE)
    leaf = x.clone().requires_grad_()
    found = kernels.variance_over_passes(leaf)
    found.backward(towards)
    assert found.dtype == layout.computing(x) and leaf.grad.dtype == dtype
    exact, (slope,) = in_float64(lambda x: plain.variance_over_passes(xp, x), towards, x)
    p = torch.softmax(x.double(), dim=-1)
    far = torch.where(p > 0, x.double() - x.double().amax(-1, keepdim=True), 0.0).abs()
    close(found, exact, (p * p * (1 + far)).sum(-1).mean(0), dtype)
    # d u / d l = 2/T p (d - sum p d): p is off by (1 + far), each d by no more than the row.
    worst = (p * (1 + far)).sum(-1, keepdim=True)
    close(leaf.grad, slope, 2 / shape[0] * towards.abs()[..., None] * p * (1 + far + worst), dtype)
