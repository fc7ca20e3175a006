"""Triton's compiler takes the kernels for GPUs that are not here, and PyTorch's traces keep them.

``make test-triton`` runs this without the interpreter, in a process of its own.
"""

from __future__ import annotations

import os

import pytest

torch = pytest.importorskip("torch")
triton = pytest.importorskip("triton", reason="Triton is not installed: make test-triton brings it")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("kernels are interpreted here, not compiled", allow_module_level=True)

from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from dms_torch.kernels import layout, variance  # noqa: E402

PARTS = dict.fromkeys(("out", "peaks", "totals", "given"), "*fp32")


def build(kernel: object, cut: layout.Tile, capability: int, **types: str) -> str:
    """Compiles a kernel with a tile for a GPU, and gives its assembly."""
    constants = {"T": cut.deep, "R": cut.rows, "C": cut.wide, "BLOCKS": cut.blocks}
    constants = {name: x for name, x in constants.items() if name in kernel.arg_names}
    known = PARTS | types
    signature = {
        name: "constexpr" if name in constants else known.get(name, "i32")
        for name in kernel.arg_names
    }
    source = ASTSource(kernel, signature, constexprs=constants)
    target = GPUTarget("cuda", capability, 32)
    built = triton.compile(source, target=target, options={"num_warps": cut.warps})
    return str(built.asm["ptx"])


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_variance_is_compiled(capability: int, dtype: str) -> None:
    cut = layout.tile(10, 1000)
    ptx = build(variance._forward, cut, capability, x=f"*{dtype}")
    assert cut.blocks == 1
    # A row that fits a tile is read once: each thread reads as often as it holds entries.
    assert ptx.count("ld.global") <= cut.deep * cut.rows * cut.wide // (32 * cut.warps)
    build(variance._backward, cut, capability, x=f"*{dtype}", out=f"*{dtype}")


def test_export_keeps_the_operator_with_an_open_batch() -> None:
    class Module(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return variance.variance_over_passes(x)

    batch = torch.export.Dim("batch", min=2, max=1 << 20)
    program = torch.export.export(
        Module(), (torch.randn(3, 4, 2, 17),), dynamic_shapes=[{1: batch}]
    )
    assert "dms_torch.variance_over_passes.default" in program.graph_module.code
