"""Triton's kernels compute the plain primitives, forward and backward, at every border of a block.

On a machine without a GPU, Triton's interpreter runs them: ``make test-triton``. That certifies
their logic, neither speed nor precision.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator

import array_api_compat.torch as xp
import in_one_read
import pytest

torch = pytest.importorskip("torch")

CUDA = torch.cuda.is_available()
pytestmark = [pytest.mark.gpu] if CUDA else []
pytest.importorskip("triton", reason="Triton is not installed: make test-triton brings it")
if not CUDA and os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("there is no GPU: make test-triton interprets the kernels", allow_module_level=True)

from torch import Tensor  # noqa: E402

from dms_spec import SchedulerSpec  # noqa: E402
from dms_spec.equations import primitives as plain  # noqa: E402
from dms_torch import Fusion, kernels, paths  # noqa: E402
from dms_torch.backend import torch_namespace  # noqa: E402
from dms_torch.kernels import confidence, layout, others, variance  # noqa: E402

DEVICE = "cuda" if CUDA else "cpu"
EPS = {torch.float64: 2.0**-52, torch.float32: 2.0**-23, torch.float16: 2.0**-23}
EPS[torch.bfloat16] = EPS[torch.float16]  # half precision is computed in float32


@pytest.fixture(params=[1 << 14, 64], ids=["one block", "many blocks"])
def entries(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """How many entries a program holds."""
    monkeypatch.setattr(layout, "ENTRIES", request.param)
    monkeypatch.setattr(layout, "TOGETHER", request.param // 8)
    return request.param


WIDE = (torch.float64,)
HALF = (torch.float64, torch.float16, torch.bfloat16)


def cases(
    shapes: list[tuple[int, ...]], dtypes: tuple[torch.dtype, ...]
) -> list[tuple[tuple[int, ...], torch.dtype]]:
    """All shapes in float32, and the last in the others: a GPU compiles for each."""
    return [(shape, torch.float32) for shape in shapes] + [(shapes[-1], d) for d in dtypes]


def drawn(shape: tuple[int, ...], dtype: torch.dtype, seed: int = 0) -> Tensor:
    """Logits of all sizes: far apart, offset by 1e4, -inf in some places."""
    random = torch.Generator().manual_seed(seed)
    rows = (*shape[:-1], 1)
    x = torch.randn(shape, generator=random, dtype=torch.float64)
    x = x * 10.0 ** torch.randint(-3, 3, rows, generator=random)
    x = x + 1e4 * torch.randint(-1, 2, rows, generator=random)
    gone = torch.rand(shape, generator=random) < 0.2
    gone[0, ..., : shape[-1] // 2] = True  # whole blocks, before anything finite
    gone[..., -1] = False
    return x.masked_fill(gone, -float("inf")).to(DEVICE, dtype)


def in_float64(
    function: Callable[..., Tensor], towards: Tensor, *given: Tensor
) -> tuple[Tensor, list[Tensor]]:
    """A value and its gradients in float64."""
    leaves = [x.double().requires_grad_() for x in given]
    value = function(*leaves)
    return value.detach(), list(torch.autograd.grad(value, leaves, towards.double()))


def close(found: Tensor, exact: Tensor, scale: Tensor | float, dtype: torch.dtype) -> None:
    """DMS-N-001: within 8 eps of a scale; a gradient in half precision is rounded to it besides."""
    info = torch.finfo(found.dtype)
    own = info.eps * (exact.abs() + info.smallest_normal) if found.dtype.itemsize == 2 else 0.0
    error = (found.double() - exact).abs() - own
    assert bool((error <= 8 * EPS[dtype] * scale + 1e-37).all()), float(
        (error / scale).nan_to_num().max().detach()
    )


SHAPES = [(1, 2, 1, 3), (2, 3, 2, 1), (3, 5, 3, 16), (4, 2, 2, 17), (16, 1, 2, 33), (5, 3, 1, 70)]


@pytest.mark.parametrize(("shape", "dtype"), cases(SHAPES, HALF))
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


@pytest.mark.parametrize(
    ("shape", "dtype"), cases([(1, 1, 1), (3, 2, 5), (7, 3, 16), (2, 33, 17), (5, 1, 140)], HALF)
)
def test_entropy(shape: tuple[int, ...], dtype: torch.dtype, entries: int) -> None:
    x = drawn(shape, dtype)
    towards = torch.randn(shape[:-1], dtype=layout.computing(x), device=DEVICE)
    leaf = x.clone().requires_grad_()
    found = kernels.entropy(leaf)
    found.backward(towards)
    exact, (slope,) = in_float64(lambda x: plain.entropy(xp, x), towards, x)
    p = torch.softmax(x.double(), dim=-1)
    far = torch.where(p > 0, x.double() - x.double().amax(-1, keepdim=True), 0.0).abs()
    moment = 1 + (p * (far + far * far)).sum(-1)
    close(found, exact, moment, dtype)
    # d H / d l = -p (log p + H), of which both may be log C and cancel.
    size = far + moment[..., None] + math.log(shape[-1])
    close(leaf.grad, slope, towards.abs()[..., None] * p * (1 + far) * size, dtype)


@pytest.mark.parametrize(
    ("shape", "dtype"), cases([(1, 1), (3, 2), (5, 32), (2, 33), (70, 3)], WIDE)
)
def test_masked_softmax(shape: tuple[int, ...], dtype: torch.dtype, entries: int) -> None:
    random = torch.Generator().manual_seed(0)
    active = (torch.rand(shape, generator=random) < 0.6).to(DEVICE)
    active[0] = shape[1] == 1  # alone it is 1; otherwise nothing is active
    scores = torch.where(active, drawn(shape, dtype).clamp_min(-2e4), float("nan"))
    towards = torch.randn(shape, dtype=dtype, device=DEVICE)
    leaf = scores.clone().requires_grad_()
    found = kernels.masked_softmax(leaf, active)
    found.backward(towards)
    exact, (slope,) = in_float64(lambda s: plain.masked_softmax(xp, s, active), towards, scores)
    clean = torch.where(active, scores, -float("inf")).double()
    far = torch.where(exact > 0, clean - clean.amax(-1, keepdim=True), 0.0).abs()
    close(found, exact, exact * (1 + far), dtype)
    size = (exact * (1 + far) * towards.abs()).sum(-1, keepdim=True) + towards.abs()
    close(leaf.grad, slope, exact * (1 + far) * size, dtype)
    assert bool((found[~active] == 0).all() and (leaf.grad[~active] == 0).all())


@pytest.mark.parametrize(
    ("shape", "dtype"), cases([(1, 1, 1), (3, 2, 16), (9, 3, 17), (2, 32, 70)], HALF)
)
def test_weighted_sum(shape: tuple[int, ...], dtype: torch.dtype, entries: int) -> None:
    random = torch.Generator().manual_seed(0)
    values = torch.randn(shape, generator=random).to(DEVICE, dtype)
    weights = torch.rand(shape[:2], generator=random).to(DEVICE, layout.computing(values))
    leaves = [x.clone().requires_grad_() for x in (values, weights)]
    found = kernels.weighted_sum(*leaves)
    towards = torch.randn_like(found)
    found.backward(towards)
    exact, slopes = in_float64(lambda h, w: plain.weighted_sum(xp, h, w), towards, values, weights)
    sizes = [values.double().abs(), weights.double().abs()]
    close(found, exact, (sizes[0] * sizes[1][..., None]).sum(1), dtype)
    far = towards.double().abs()
    close(leaves[0].grad, slopes[0], sizes[1][..., None] * far[:, None], dtype)
    close(leaves[1].grad, slopes[1], (sizes[0] * far[:, None]).sum(-1), dtype)


@pytest.mark.parametrize(
    ("shape", "dtype"),
    cases(
        [(1, 1, 1), (3, 2, 16), (5, 3, 17), (1, 32, 9), (2, 5, 70)], (torch.float64, torch.bfloat16)
    ),
)
def test_alignment(shape: tuple[int, ...], dtype: torch.dtype, entries: int) -> None:
    random = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=random, dtype=torch.float64)
    x = x * 10.0 ** torch.randint(-18, 18, (*shape[:1], 1, 1), generator=random)
    x = x * 10.0 ** torch.randint(-1, 2, (*shape[:2], 1), generator=random)
    # Of a zero vector beside larger numbers, the plain form's slope is not exact in float64 either.
    x[0] /= x[0].abs().max()
    x = x.to(DEVICE, dtype)
    x[0, 0] = 0
    towards = torch.randn(shape[:2], dtype=layout.computing(x), device=DEVICE)
    leaf = x.clone().requires_grad_()
    found = kernels.alignment(leaf)
    found.backward(towards)
    ns = torch_namespace(DEVICE, "plain")
    exact, (slope,) = in_float64(lambda x: plain.alignment(ns, x), towards, x)
    wide = x.double()
    norms = torch.linalg.vector_norm(wide, dim=-1)
    others = plain.others(xp, wide)
    length = torch.linalg.vector_norm(others @ wide, dim=-1)
    lost = 1 + torch.where(length > 0, norms @ others / length, 0.0)
    close(found, exact, lost, dtype)
    # A slope is of size 1 / |h|; what goes through the others is one over the length of their sum.
    shortest = torch.stack([norms, length]).masked_fill(
        torch.stack([norms, length]) == 0, torch.inf
    )
    size = (towards.abs() * lost / shortest.amin(0)).sum(-1)[:, None, None]
    close(leaf.grad, slope, (1 + lost.amax(-1))[:, None, None] * size, dtype)


@pytest.mark.parametrize("filler", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("masked", [True, False])
def test_statistics_tell_what_is_usable(
    filler: float, dtype: torch.dtype, masked: bool, entries: int
) -> None:
    """Of any rows under a mask: values, what is usable, and gradients, 0 where it is not."""
    random = torch.Generator().manual_seed(0)
    mask = (torch.rand(7, 3, generator=random) < 0.7).to(DEVICE) if masked else None
    bad = (torch.rand(2, 7, 3, generator=random) < 0.2).to(DEVICE)
    x = torch.randn(2, 7, 3, 17, generator=random).to(DEVICE, dtype)
    x[..., -1] = torch.where(bad, filler, x[..., -1])
    x[1, 5:, 0] = -float("inf")
    x[0, :, :, 0] = torch.where(bad[0], x[0, :, :, 0], -float("inf"))  # one class is ruled out
    features = torch.randn(7, 3, 17, generator=random).to(DEVICE, dtype)
    features[..., 0] = torch.where(bad[0], filler, features[..., 0])
    ns, wide = torch_namespace(DEVICE, "plain"), torch.float32
    for name, given in (
        ("entropy", x[0]),
        ("variance_over_passes", x),
        ("alignment", features),
    ):
        leaf, exact_leaf = (given.clone().requires_grad_() for _ in range(2))
        value, ok = kernels.one_read(name)(leaf, mask, wide)
        exact, usable = in_one_read.statistic(ns, name, exact_leaf.to(wide), mask)
        towards = torch.randn_like(exact)
        value.backward(towards)
        exact.backward(towards)
        assert torch.equal(ok, usable) and value.dtype == wide
        torch.testing.assert_close(value, exact, atol=1e-5, rtol=0)
        torch.testing.assert_close(leaf.grad, exact_leaf.grad, atol=1e-5, rtol=1e-2)
        assert not value[~ok].any() and not leaf.grad.movedim(-1, 0)[..., ~ok].any()


@pytest.mark.parametrize(
    ("shape", "dtype"), cases([(1, 1, 1), (3, 2, 16), (9, 3, 17), (2, 32, 70)], HALF)
)
def test_weights_and_fused_at_once(
    shape: tuple[int, ...], dtype: torch.dtype, entries: int
) -> None:
    """What is absent may hold anything; nothing may be active."""
    random = torch.Generator().manual_seed(0)
    active = (torch.rand(shape[:2], generator=random) < 0.7).to(DEVICE)
    active[-1] = shape[0] == 1
    x = torch.randn(shape, generator=random, dtype=torch.float64).to(DEVICE, dtype)
    x = torch.where(active[..., None], x, float("nan"))
    scores = torch.randn(shape[:2], generator=random).to(DEVICE, layout.computing(x))
    scores = torch.where(active, scores, float("nan"))
    leaves = [one.clone().requires_grad_() for one in (x, scores)]
    found = kernels.weigh(*leaves, active)
    towards = [torch.randn_like(one) for one in found]
    torch.autograd.backward(found, towards)
    exact_leaves = [one.double().requires_grad_() for one in (x, scores)]
    exact = in_one_read.weigh(torch_namespace(DEVICE, "plain"), *exact_leaves, active)
    torch.autograd.backward(exact, [one.double() for one in towards])
    for one, other in zip(found, exact, strict=True):
        close(one, other.detach(), 1 + other.detach().abs(), dtype)
    for one, other in zip(leaves, exact_leaves, strict=True):
        sizes = torch.linalg.vector_norm(towards[1].double(), dim=-1)[:, None]
        sizes = 1 + sizes * math.sqrt(shape[-1])
        close(one.grad, other.grad, sizes if one.ndim == 2 else sizes[..., None], dtype)
    assert not found[0][~active].any() and not leaves[0].grad[~active].any()
    alone = scores.detach().clone().requires_grad_()
    torch.autograd.backward(kernels.weigh(x.detach(), alone, active), towards)
    assert torch.equal(alone.grad, leaves[1].grad)


def test_the_largest_shapes() -> None:
    """T = 64, C = 32768, M = 32 and D = 8192, in the tiles that a GPU would have."""
    for test, shape in (
        (test_variance_over_passes, (64, 1, 1, 32768)),
        (test_entropy, (1, 2, 32768)),
        (test_alignment, (1, 32, 8192)),
        (test_weighted_sum, (2, 32, 8192)),
        (test_masked_softmax, (70_000, 32)),
    ):
        test(shape, torch.float32, layout.ENTRIES)


def test_memory_in_any_order_is_read() -> None:
    x = torch.randn(3, 5, 2, 7, device=DEVICE).transpose(0, 3)
    torch.testing.assert_close(
        kernels.variance_over_passes(x), plain.variance_over_passes(xp, x.contiguous())
    )


def test_more_rows_than_an_axis_of_the_grid_has() -> None:
    rows = (1 << 16) + 9
    x = torch.randn(2, rows, 1, 2, device=DEVICE)
    torch.testing.assert_close(
        kernels.variance_over_passes(x), plain.variance_over_passes(xp, x), atol=1e-6, rtol=0
    )
    assert rows > layout.tile(2, 2).rows


@pytest.mark.skipif(not CUDA, reason="takes gigabytes, on a GPU alone")
def test_more_entries_than_32_bits_count() -> None:
    x = torch.zeros(2, (1 << 17) + 9, 1, 8200, device=DEVICE, dtype=torch.bfloat16)
    x[:, -5:] = torch.randn(2, 5, 1, 8200, device=DEVICE)
    assert x.numel() > 1 << 31
    found, last = kernels.variance_over_passes(x), x[:, -5:].float()
    torch.testing.assert_close(found[-5:], plain.variance_over_passes(xp, last))
    assert not found[:-5].any()


@pytest.mark.skipif(CUDA, reason="kernels are compiled here")
def test_what_is_interpreted_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(paths.VARIABLE, "triton")
    assert paths.notes()[-2:] == (
        "DMS_TORCH_PATH asks for 'triton'",
        "Triton's interpreter runs the kernels: it certifies their logic alone",
    )


def test_operators_are_whole() -> None:
    """Schema, fake and autograd of each, as torch checks them; the rest needs a compiler."""
    x = torch.randn(3, 2, 2, 17, device=DEVICE)
    tests = ("test_schema", "test_faketensor", "test_autograd_registration")
    scores, active = torch.randn(2, 2, device=DEVICE), torch.ones(2, 2, dtype=bool, device=DEVICE)
    for operator, given in (
        (variance.with_parts, (x, active)),
        (confidence.with_parts, (x[0], active)),
        (others.with_parts, (x[0], active)),
        (others.with_parts, (x[0], None)),
        (kernels.weigh, (x[0], scores, active)),
        (kernels.masked_softmax, (scores, active)),
        (kernels.weighted_sum, (x[0], scores)),
    ):
        first = given[0].clone().requires_grad_()
        torch.library.opcheck(operator, (first, *given[1:]), test_utils=tests)


@pytest.mark.parametrize("filler", [float("nan"), float("inf"), 0.0])
def test_a_whole_schedule_with_gaps(filler: float) -> None:
    """Values and gradients of `Fusion` do not depend on what fills a gap, and are plain's."""
    spec = SchedulerSpec.preset("paper", ("a", "b", "c")).replace(detach_signals=False)
    random = torch.Generator().manual_seed(0)
    present = torch.tensor([[True, False, True], [False] * 3, [True] * 3], device=DEVICE)
    sizes = {"features": (3, 3, 7), "logits": (3, 3, 5), "mc_logits": (4, 3, 3, 5)}
    found = []
    for path in ("triton", "plain"):
        random.manual_seed(0)
        leaves = {
            name: torch.randn(size, generator=random)
            .to(DEVICE)
            .masked_fill(~present[..., None], filler)
            .requires_grad_()
            for name, size in sizes.items()
        }
        fusion = Fusion(spec, path=path)
        output = fusion(**leaves, present=present)
        assert fusion.path == path
        output.fused.square().sum().backward()
        found.append((output.to_tuple()[:6], [leaf.grad for leaf in leaves.values()]))
    torch.testing.assert_close(found[0], found[1])
    assert all(bool(grad.isfinite().all()) for grad in found[0][1])
