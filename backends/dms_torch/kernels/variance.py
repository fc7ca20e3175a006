"""Computes the variance over passes, equation E3, and its gradient.

No probability is stored. A row's passes are read once to find the maximum and the sum of each, and
once more for the deviations from the mean; where a row fits a tile, both come from one read. They
tell as well whether the row was usable; one that is masked is not read.
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
    mask,
    out,
    ok,
    peaks,
    totals,
    rows,
    passes,
    classes,
    MASKED: tl.constexpr,
    T: tl.constexpr,
    R: tl.constexpr,
    C: tl.constexpr,
    BLOCKS: tl.constexpr,
):
    wide = out.dtype.element_ty
    row = tl.program_id(0).to(tl.int64) * R + tl.arange(0, R)
    t = tl.arange(0, T).to(tl.int64)
    there = row < rows
    if MASKED:
        there = tl.load(mask + row, mask=there, other=0) != 0
    inside = (t < passes)[:, None] & there[None, :]
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
    # NaN and +Inf make the sum NaN, and nothing but -inf has no maximum.
    sound = (total < float("inf")) & (peak > -float("inf"))
    fine = there & (tl.sum((inside & ~sound).to(tl.int32), axis=0) == 0)
    used = inside & fine[None, :]
    peak = tl.where(used, peak, 0.0)
    total = tl.where(used, total, 1.0)
    spread = tl.zeros([R], wide)
    for block in range(BLOCKS):
        values = _read(x, start, inside, block * C + column, classes, wide)
        d = _deviations(_shares(values, peak, total, used), passes, used)
        spread += tl.sum(tl.sum(d * d, axis=2), axis=0)
    tl.store(out + row, spread / passes, mask=row < rows)
    tl.store(ok + row, fine, mask=row < rows)
    whole = (t < passes)[:, None] & (row < rows)[None, :]
    tl.store(peaks + flat, peak, mask=whole)
    tl.store(totals + flat, total, mask=whole)


@triton.jit(do_not_specialize=["rows", "passes"])
def _backward(
    given,
    x,
    ok,
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
    """dl = 2/T g p (d - sum p d), with d = p - mean p; and 0 where a row is not ok."""
    wide = given.dtype.element_ty
    row = tl.program_id(0).to(tl.int64) * R + tl.arange(0, R)
    t = tl.arange(0, T).to(tl.int64)
    fine = tl.load(ok + row, mask=row < rows, other=0) != 0
    inside = (t < passes)[:, None] & fine[None, :]
    flat = t[:, None] * rows + row[None, :]
    start = flat * classes
    column = tl.arange(0, C)
    peak = tl.load(peaks + flat, mask=inside, other=0.0)
    total = tl.load(totals + flat, mask=inside, other=1.0)
    slope = 2.0 * tl.load(given + row, mask=fine, other=0.0) / passes
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
        whole = (t < passes)[:, None] & (row < rows)[None, :]
        there = whole[:, :, None] & (block * C + column < classes)[None, None, :]
        at = out + start[:, :, None] + (block * C + column)[None, None, :]
        tl.store(at, gradient.to(out.dtype.element_ty), mask=there)


@operator("variance_over_passes")
def with_parts(mc_logits: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The variance ``[B, M]``, and where it is one: under the mask and usable; 0 elsewhere.

    And for the gradient maximum and sum of each pass's exponentials ``[T, B, M]``.
    """
    passes, batch, modalities, classes = mc_logits.shape
    rows, cut = batch * modalities, tile(passes, classes)
    out, ok, peaks, totals = _empty(mc_logits, mask)
    wrap_triton(_forward)[(triton.cdiv(rows, cut.rows),)](
        mc_logits.contiguous(),
        ok if mask is None else mask.contiguous(),
        out,
        ok,
        peaks,
        totals,
        rows,
        passes,
        classes,
        MASKED=mask is not None,
        T=cut.deep,
        R=cut.rows,
        C=cut.wide,
        BLOCKS=cut.blocks,
        num_warps=cut.warps,
    )
    return out, ok, peaks, totals


@with_parts.register_fake
def _empty(mc_logits: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    del mask
    dtype, shape = computing(mc_logits), mc_logits.shape[:-1]
    out = mc_logits.new_empty(shape[1:], dtype=dtype)
    ok = torch.empty_like(out, dtype=torch.bool)
    return out, ok, mc_logits.new_empty(shape, dtype=dtype), mc_logits.new_empty(shape, dtype=dtype)


@operator("variance_over_passes_backward")
def gradient(given: Tensor, mc_logits: Tensor, ok: Tensor, peaks: Tensor, totals: Tensor) -> Tensor:
    """The gradient by ``mc_logits``, of its shape and dtype."""
    passes, batch, modalities, classes = mc_logits.shape
    rows, cut = batch * modalities, tile(passes, classes)
    out = _like(given, mc_logits, ok, peaks, totals)
    wrap_triton(_backward)[(triton.cdiv(rows, cut.rows),)](
        given.contiguous(),
        mc_logits.contiguous(),
        ok,
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
def _like(given: Tensor, mc_logits: Tensor, ok: Tensor, peaks: Tensor, totals: Tensor) -> Tensor:
    del given, ok, peaks, totals
    return torch.empty_like(mc_logits, memory_format=torch.contiguous_format)


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor | None], output: tuple[Tensor, ...]) -> None:
    ctx.mark_non_differentiable(*output[1:])
    ctx.save_for_backward(inputs[0], *output[1:])


def _differentiate(ctx: Any, given: Tensor, *_: Tensor | None) -> tuple[Tensor, None]:
    return gradient(given, *ctx.saved_tensors), None


with_parts.register_autograd(_differentiate, setup_context=_keep)


def variance_over_passes(mc_logits: Tensor) -> Tensor:
    """Population variance over T of softmax(l), summed over classes: [T, B, M, C] -> [B, M]."""
    return with_parts(mc_logits, None)[0]
