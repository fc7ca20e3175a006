"""Computes the variance over passes, equation E3, and its gradient.

No probability is stored. A row's passes are read once to find the maximum and the sum of each, and
once more for the deviations from the mean; where a row fits a tile, both come from one read.
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


@triton.jit
def _read(x, start, inside, column, classes, wide: tl.constexpr):
    """Entries ``[T, R, C]`` in the computing dtype; -inf outside of the array."""
    there = inside[:, :, None] & (column < classes)[None, None, :]
    at = x + start[:, :, None] + column[None, None, :]
    return tl.load(at, mask=there, other=-float("inf")).to(wide)


@triton.jit
def _shares(values, peak, total, inside):
    """Probabilities ``[T, R, C]`` of a block; 0 outside of the array."""
    p = tl.exp(values - peak[:, :, None]) / total[:, :, None]
    return tl.where(inside[:, :, None], p, 0.0)


@triton.jit
def _deviations(p, passes, inside):
    """p - mean p over the passes; 0 outside of the array."""
    mean = tl.sum(p, axis=0) / passes
    return tl.where(inside[:, :, None], p - mean[None, :, :], 0.0)


@triton.jit(do_not_specialize=["rows", "passes"])
def _forward(
    x,
    out,
    peaks,
    totals,
    rows,
    passes,
    classes,
    T: tl.constexpr,
    R: tl.constexpr,
    C: tl.constexpr,
    BLOCKS: tl.constexpr,
):
    wide = out.dtype.element_ty
    row = tl.program_id(0).to(tl.int64) * R + tl.arange(0, R)
    t = tl.arange(0, T).to(tl.int64)
    inside = (t < passes)[:, None] & (row < rows)[None, :]
    flat = t[:, None] * rows + row[None, :]
    start = flat * classes
    column = tl.arange(0, C)
    peak = tl.full([T, R], -float("inf"), wide)
    total = tl.zeros([T, R], wide)
    for block in range(BLOCKS):
        values = _read(x, start, inside, block * C + column, classes, wide)
        higher = tl.maximum(peak, tl.max(values, axis=2))
        # A block may hold nothing but -inf, and the next one something.
        shift = tl.where(higher == -float("inf"), 0.0, higher)
        total = total * tl.exp(peak - shift)
        total += tl.sum(tl.exp(values - shift[:, :, None]), axis=2)
        peak = higher
    peak = tl.where(inside, peak, 0.0)
    total = tl.where(inside, total, 1.0)
    spread = tl.zeros([R], wide)
    for block in range(BLOCKS):
        values = _read(x, start, inside, block * C + column, classes, wide)
        d = _deviations(_shares(values, peak, total, inside), passes, inside)
        spread += tl.sum(tl.sum(d * d, axis=2), axis=0)
    tl.store(out + row, spread / passes, mask=row < rows)
    tl.store(peaks + flat, peak, mask=inside)
    tl.store(totals + flat, total, mask=inside)


@triton.jit(do_not_specialize=["rows", "passes"])
def _backward(
    given,
    x,
    peaks,
    totals,
    out,
    rows,
    passes,
    classes,
    T: tl.constexpr,
    R: tl.constexpr,
    C: tl.constexpr,
    BLOCKS: tl.constexpr,
):
    """dl = 2/T g p (d - sum p d), with d = p - mean p."""
    wide = given.dtype.element_ty
    row = tl.program_id(0).to(tl.int64) * R + tl.arange(0, R)
    t = tl.arange(0, T).to(tl.int64)
    inside = (t < passes)[:, None] & (row < rows)[None, :]
    flat = t[:, None] * rows + row[None, :]
    start = flat * classes
    column = tl.arange(0, C)
    peak = tl.load(peaks + flat, mask=inside, other=0.0)
    total = tl.load(totals + flat, mask=inside, other=1.0)
    slope = 2.0 * tl.load(given + row, mask=row < rows, other=0.0) / passes
    carried = tl.zeros([T, R], wide)
    for block in range(BLOCKS):
        values = _read(x, start, inside, block * C + column, classes, wide)
        p = _shares(values, peak, total, inside)
        carried += tl.sum(p * _deviations(p, passes, inside), axis=2)
    for block in range(BLOCKS):
        values = _read(x, start, inside, block * C + column, classes, wide)
        p = _shares(values, peak, total, inside)
        d = _deviations(p, passes, inside)
        gradient = slope[None, :, None] * p * (d - carried[:, :, None])
        there = inside[:, :, None] & (block * C + column < classes)[None, None, :]
        at = out + start[:, :, None] + (block * C + column)[None, None, :]
        tl.store(at, gradient.to(out.dtype.element_ty), mask=there)


@operator("variance_over_passes")
def with_parts(mc_logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The variance ``[B, M]``, and maximum and sum of each pass's exponentials ``[T, B, M]``."""
    passes, batch, modalities, classes = mc_logits.shape
    rows, cut = batch * modalities, tile(passes, classes)
    out, peaks, totals = _empty(mc_logits)
    wrap_triton(_forward)[(triton.cdiv(rows, cut.rows),)](
        mc_logits.contiguous(),
        out,
        peaks,
        totals,
        rows,
        passes,
        classes,
        T=cut.deep,
        R=cut.rows,
        C=cut.wide,
        BLOCKS=cut.blocks,
        num_warps=cut.warps,
    )
    return out, peaks, totals


@with_parts.register_fake
def _empty(mc_logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    dtype, shape = computing(mc_logits), mc_logits.shape[:-1]
    out = mc_logits.new_empty(shape[1:], dtype=dtype)
    return out, mc_logits.new_empty(shape, dtype=dtype), mc_logits.new_empty(shape, dtype=dtype)


@operator("variance_over_passes_backward")
def gradient(given: Tensor, mc_logits: Tensor, peaks: Tensor, totals: Tensor) -> Tensor:
    """The gradient by ``mc_logits``, of its shape and dtype."""
    passes, batch, modalities, classes = mc_logits.shape
    rows, cut = batch * modalities, tile(passes, classes)
    out = _like(given, mc_logits, peaks, totals)
    wrap_triton(_backward)[(triton.cdiv(rows, cut.rows),)](
        given.contiguous(),
        mc_logits.contiguous(),
        peaks,
        totals,
        out,
        rows,
        passes,
        classes,
        T=cut.deep,
        R=cut.rows,
        C=cut.wide,
        BLOCKS=cut.blocks,
        num_warps=cut.warps,
    )
    return out


@gradient.register_fake
def _like(given: Tensor, mc_logits: Tensor, peaks: Tensor, totals: Tensor) -> Tensor:
    del given, peaks, totals
    return torch.empty_like(mc_logits, memory_format=torch.contiguous_format)


def _keep(ctx: Any, inputs: tuple[Tensor], output: tuple[Tensor, Tensor, Tensor]) -> None:
    _, peaks, totals = output
    ctx.mark_non_differentiable(peaks, totals)
    ctx.save_for_backward(*inputs, peaks, totals)


def _differentiate(ctx: Any, given: Tensor, *_: Tensor | None) -> Tensor:
    return gradient(given, *ctx.saved_tensors)


with_parts.register_autograd(_differentiate, setup_context=_keep)


def variance_over_passes(mc_logits: Tensor) -> Tensor:
    """Population variance over T of softmax(l), summed over classes: [T, B, M, C] -> [B, M]."""
    return with_parts(mc_logits)[0]
