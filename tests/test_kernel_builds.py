"""Triton's compiler takes the kernels for GPUs that are not here, and PyTorch's traces keep them.

``make test-triton`` runs this without the interpreter, in a process of its own.
"""

from __future__ import annotations

import os
from types import ModuleType

import pytest

torch = pytest.importorskip("torch")
triton = pytest.importorskip("triton", reason="Triton is not installed: make test-triton brings it")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("kernels are interpreted here, not compiled", allow_module_level=True)

from torch import Tensor  # noqa: E402
from torch._dynamo.backends.common import aot_autograd  # noqa: E402
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from dms_spec import SchedulerSpec  # noqa: E402
from dms_torch import Fusion, kernels, paths  # noqa: E402
from dms_torch.kernels import (  # noqa: E402
    confidence,
    fusion,
    layout,
    others,
    variance,
    weighing,
    weights,
)

FLOATS = ("out", "peaks", "totals", "parts", "given", "weights", "by_weights", "value")
FLOATS += ("by_sum", "by_scores")


def build(kernel: object, cut: layout.Tile, capability: int, data: str) -> str:
    """Compiles a kernel with a tile for a GPU, and gives its assembly."""
    known = {"T": cut.deep, "M": cut.deep, "R": cut.rows, "C": cut.wide, "D": cut.wide}
    known |= {"BLOCKS": cut.blocks, "SMALLEST": 2.0**-126, "MASKED": True, "STORED": True}
    if kernel in (weights._forward, weights._backward):
        known["M"] = cut.wide
    if kernel in (weighing._forward, weighing._backward):
        known["M"] = 4
    constants = {name: x for name, x in known.items() if name in kernel.arg_names}
    wide = "*fp64" if data == "fp64" else "*fp32"
    types = dict.fromkeys(FLOATS, wide) | {"scores": wide}
    types |= dict.fromkeys(("active", "mask", "ok"), "*i1")
    types |= dict.fromkeys(("x", "values", "by_values"), f"*{data}")
    if "x" in kernel.arg_names and "given" in kernel.arg_names:
        types["out"] = f"*{data}"  # the gradient of the input
    types |= dict.fromkeys(constants, "constexpr")
    signature = {name: types.get(name, "i32") for name in kernel.arg_names}
    source = ASTSource(kernel, signature, constexprs=constants)
    target = GPUTarget("cuda", capability, 32)
    built = triton.compile(source, target=target, options={"num_warps": cut.warps})
    return str(built.asm["ptx"])


@pytest.mark.parametrize(
    ("data", "capability"), [("fp32", 80), ("fp32", 90), ("fp16", 90), ("bf16", 90), ("fp64", 90)]
)
@pytest.mark.parametrize(
    ("module", "deep", "width"),
    [
        (variance, 10, 1000),
        (confidence, 1, 1000),
        (others, 3, 768),
        (fusion, 1, 768),
        (weighing, 1, 768),
    ],
    ids=["variance", "entropy", "alignment", "fusion", "weigh"],
)
def test_kernels_are_compiled(
    module: ModuleType, deep: int, width: int, data: str, capability: int
) -> None:
    cut = layout.tile(deep, width)
    assert cut.blocks == 1
    ptx = build(module._forward, cut, capability, data)
    if module not in (fusion, weighing):
        # A row that fits a tile is read once: each thread reads as often as it holds entries,
        # and its mask.
        held = cut.deep * cut.rows * cut.wide // (32 * cut.warps)
        assert ptx.count("ld.global") <= held + cut.deep * cut.rows
    build(module._backward, cut, capability, data)


def test_weights_are_compiled() -> None:
    cut = layout.tile(1, 3)
    for kernel in (weights._forward, weights._backward):
        for data in ("fp32", "fp64"):
            build(kernel, cut, 90, data)


def test_a_tile_holds_what_is_asked_for() -> None:
    """To the largest shapes, every entry is in exactly one block, and every size a power of two."""
    for deep, width in [(1, 1), (64, 32768), (32, 8192), (2, 768), (3, 17), (1, 1 << 20)]:
        cut = layout.tile(deep, width)
        assert cut.deep >= deep and cut.blocks * cut.wide >= width
        assert cut.deep * cut.rows * cut.wide <= layout.ENTRIES
        assert all(size & (size - 1) == 0 for size in (cut.deep, cut.rows, cut.wide, cut.warps))


def test_export_keeps_the_operators_with_an_open_batch() -> None:
    class Module(torch.nn.Module):
        def forward(self, x: Tensor, h: Tensor, active: Tensor) -> Tensor:
            scores = kernels.entropy(x[0]) + kernels.variance_over_passes(x) + kernels.alignment(h)
            fused = kernels.weighted_sum(h, kernels.masked_softmax(scores, active))
            return fused + kernels.weigh(h, scores, active)[1]

    given = torch.randn(3, 4, 2, 17), torch.randn(4, 2, 5), torch.ones(4, 2, dtype=torch.bool)
    batch = torch.export.Dim("batch", min=2, max=1 << 20)
    shapes = [{1: batch}, {0: batch}, {0: batch}]
    code = torch.export.export(Module(), given, dynamic_shapes=shapes).graph_module.code
    for name in paths.FORMS["triton"]:
        assert f"dms_torch.{name}.default" in code


class NoDriver:
    """Says that there is a GPU, to those who trace for one, and runs nothing on it."""

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        raise RuntimeError("there is no GPU to run on")


def test_a_compiled_fusion_has_the_kernels_in_its_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forward and backward, for any batch; they are caught before they would run."""
    monkeypatch.setattr(paths, "_on_gpu", lambda tensors: True)
    monkeypatch.setattr(triton.runtime.driver, "_active", NoDriver())
    graphs = []

    def caught(graph: torch.fx.GraphModule, _: object) -> object:
        graphs.append(graph.code)
        return graph

    fusion = Fusion(SchedulerSpec.preset("paper", ("a", "b", "c")).replace(detach_signals=False))
    whole = torch.compile(
        fusion, backend=aot_autograd(fw_compiler=caught), fullgraph=True, dynamic=True
    )
    sizes = {"features": (4, 3, 5), "logits": (4, 3, 17), "mc_logits": (7, 4, 3, 17)}
    leaves = {name: torch.randn(size, requires_grad=True) for name, size in sizes.items()}
    with pytest.raises(RuntimeError, match="no GPU to run on"):
        whole(**leaves)
    forward, backward = (graph.count("triton_kernel_wrapper_functional(") for graph in graphs)
    # Three statistics, and weights with the fused features.
    assert forward == backward == 4
