"""Computes the weighted sum over modalities, equation E1, and its gradients.

The values are read once, and so they are for the gradients.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import wrap_triton

from dms_torch.kernels.layout import computing, tile
from dms_torch.kernels.operators import operator


@triton.jit(do_not_specialize=["rows", "modalities"])
def _forward(
    values,
    weights,
    out,
    rows,
    modalities,
    width,
    R: tl.constexpr,
    D: tl.constexpr,
    BLOCKS: tl.constexpr,
):
    program = tl.program_id(0).to(tl.int64)
    row = (program // BLOCKS) * R + tl.arange(0, R)
    column = (program % BLOCKS) * D + tl.arange(0, D)
    there = row < rows
    inside = there[:, None] & (column < width)[None, :]
    total = tl.zeros([R, D], out.dtype.element_ty)
    for m in range(modalities):
        at = row * modalities + m
        w = tl.load(weights + at, mask=there, other=0.0)
        h = tl.load(values + at[:, None] * width + column[None, :], mask=inside, other=0.0)
        total += w[:, None] * h.to(out.dtype.element_ty)
    tl.store(out + row[:, None] * width + column[None, :], total, mask=inside)


@triton.jit(do_not_specialize=["rows", "modalities"])
def _backward(
    given,
    values,
    weights,
    by_values,
    by_weights,
    rows,
    modalities,
    width,
    R: tl.constexpr,
    D: tl.constexpr,
    BLOCKS: tl.constexpr,
):
    """dh_m = w_m g, dw_m = sum g h_m."""
    wide = given.dtype.element_ty
    row = tl.program_id(0).to(tl.int64) * R + tl.arange(0, R)
    there = row < rows
    for m in range(modalities):
        at = row * modalities + m
        w = tl.load(weights + at, mask=there, other=0.0)
        slope = tl.zeros([R], wide)
        for block in range(BLOCKS):
            column = block * D + tl.arange(0, D)
            inside = there[:, None] & (column < width)[None, :]
            g = tl.load(given + row[:, None] * width + column[None, :], mask=inside, other=0.0)
            place = at[:, None] * width + column[None, :]
            h = tl.load(values + place, mask=inside, other=0.0).to(wide)
            slope += tl.sum(g * h, axis=1)
            own = (w[:, None] * g).to(by_values.dtype.element_ty)
            tl.store(by_values + place, own, mask=inside)
        tl.store(by_weights + at, slope, mask=there)


@operator("weighted_sum")
def weighted_sum(values: Tensor, weights: Tensor) -> Tensor:
    """sum_m w_m h_m: [B, M, D], [B, M] -> [B, D], in the dtype of the weights."""
    rows, modalities, width = values.shape
    out, cut = _empty(values, weights), tile(1, width)
    wrap_triton(_forward)[(triton.cdiv(rows, cut.rows) * cut.blocks,)](
        values.contiguous(),
        weights.contiguous(),
        out,
        rows,
        modalities,
        width,
        R=cut.rows,
        D=cut.wide,
        BLOCKS=cut.blocks,
        num_warps=cut.warps,
    )
    return out


@weighted_sum.register_fake
def _empty(values: Tensor, weights: Tensor) -> Tensor:
    return values.new_empty((values.shape[0], values.shape[2]), dtype=computing(weights))


@operator("weighted_sum_backward")
def gradients(given: Tensor, values: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients by values and weights, of their shapes and dtypes."""
    rows, modalities, width = values.shape
    (by_values, by_weights), cut = _like(given, values, weights), tile(1, width)
    wrap_triton(_backward)[(triton.cdiv(rows, cut.rows),)](
        given.contiguous(),
        values.contiguous(),
        weights.contiguous(),
        by_values,
        by_weights,
        rows,
        modalities,
        width,
        R=cut.rows,
        D=cut.wide,
        BLOCKS=cut.blocks,
        num_warps=cut.warps,
    )
    return by_values, by_weights


@gradients.register_fake
def _like(given: Tensor, values: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    del given
    form = torch.contiguous_format
    by_values = torch.empty_like(values, memory_format=form)
    return by_values, torch.empty_like(weights, memory_format=form)


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    del output
    ctx.save_for_backward(*inputs)


def _differentiate(ctx: Any, given: Tensor) -> tuple[Tensor, Tensor]:
    return gradients(given, *ctx.saved_tensors)


weighted_sum.register_autograd(_differentiate, setup_context=_keep)
