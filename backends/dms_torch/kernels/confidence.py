"""Computes the entropy of softmax, of which confidence is made, and its gradient.

The softmax is online: one read, whatever the number of classes. Maximum, sum of exponentials and
sum of e^x x are carried from block to block, and scaled down when the maximum rises.
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
def _read(x, row, rows, column, classes, wide: tl.constexpr):
    """Entries ``[R, C]`` in the computing dtype; -inf outside of the array."""
    there = (row < rows)[:, None] & (column < classes)[None, :]
    at = x + row[:, None] * classes + column[None, :]
    return tl.load(at, mask=there, other=-float("inf")).to(wide)


@triton.jit(do_not_specialize=["rows"])
def _forward(
    x,
    out,
    peaks,
    totals,
    rows,
    classes,
    R: tl.constexpr,
    C: tl.constexpr,
    BLOCKS: tl.constexpr,
):
    """H = log S - sum(e^x x) / S, x = l - max l: both parts are positive, and nothing cancels."""
    wide = out.dtype.element_ty
    row = tl.program_id(0).to(tl.int64) * R + tl.arange(0, R)
    column = tl.arange(0, C)
    peak = tl.full([R], -float("inf"), wide)
    total = tl.zeros([R], wide)
    moment = tl.zeros([R], wide)
    for block in range(BLOCKS):
        values = _read(x, row, rows, block * C + column, classes, wide)
        higher = tl.maximum(peak, tl.max(values, axis=1))
        # A block may hold nothing but -inf, and the next one something.
        shift = tl.where(higher == -float("inf"), 0.0, higher)
        rise = tl.where(peak == -float("inf"), 0.0, peak - shift)
        shrink = tl.exp(rise)
        # exp(-1e4) is 0, and 0 * -1e4 is 0 where 0 * -inf would be NaN.
        far = tl.maximum(values - shift[:, None], -1e4)
        e = tl.exp(far)
        moment = shrink * (moment + rise * total) + tl.sum(e * far, axis=1)
        total = shrink * total + tl.sum(e, axis=1)
        peak = higher
    there = row < rows
    total = tl.where(there, total, 1.0)
    tl.store(out + row, tl.log(total) - moment / total, mask=there)
    tl.store(peaks + row, peak, mask=there)
    tl.store(totals + row, total, mask=there)


@triton.jit(do_not_specialize=["rows"])
def _backward(
    given,
    x,
    value,
    peaks,
    totals,
    out,
    rows,
    classes,
    R: tl.constexpr,
    C: tl.constexpr,
    BLOCKS: tl.constexpr,
):
    """dl = -g p (log p + H)."""
    wide = given.dtype.element_ty
    row = tl.program_id(0).to(tl.int64) * R + tl.arange(0, R)
    there = row < rows
    column = tl.arange(0, C)
    slope = tl.load(given + row, mask=there, other=0.0)
    peak = tl.load(peaks + row, mask=there, other=0.0)
    total = tl.load(totals + row, mask=there, other=1.0)
    level = tl.load(value + row, mask=there, other=0.0) - tl.log(total)
    for block in range(BLOCKS):
        values = _read(x, row, rows, block * C + column, classes, wide)
        far = tl.maximum(values - peak[:, None], -1e4)
        p = tl.exp(far) / total[:, None]
        gradient = -slope[:, None] * p * (far + level[:, None])
        inside = there[:, None] & (block * C + column < classes)[None, :]
        at = out + row[:, None] * classes + (block * C + column)[None, :]
        tl.store(at, gradient.to(out.dtype.element_ty), mask=inside)


@operator("entropy")
def with_parts(logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The entropy, and maximum and sum of the exponentials: ``[...]`` each."""
    classes, (out, peaks, totals) = logits.shape[-1], _empty(logits)
    rows, cut = out.numel(), tile(1, classes)
    wrap_triton(_forward)[(triton.cdiv(rows, cut.rows),)](
        logits.contiguous(),
        out,
        peaks,
        totals,
        rows,
        classes,
        R=cut.rows,
        C=cut.wide,
        BLOCKS=cut.blocks,
        num_warps=cut.warps,
    )
    return out, peaks, totals


@with_parts.register_fake
def _empty(logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    out = logits.new_empty(logits.shape[:-1], dtype=computing(logits))
    return out, torch.empty_like(out), torch.empty_like(out)


@operator("entropy_backward")
def gradient(given: Tensor, logits: Tensor, out: Tensor, peaks: Tensor, totals: Tensor) -> Tensor:
    """The gradient by ``logits``, of its shape and dtype."""
    classes, found = logits.shape[-1], _like(given, logits, out, peaks, totals)
    rows, cut = out.numel(), tile(1, classes)
    wrap_triton(_backward)[(triton.cdiv(rows, cut.rows),)](
        given.contiguous(),
        logits.contiguous(),
        out,
        peaks,
        totals,
        found,
        rows,
        classes,
        R=cut.rows,
        C=cut.wide,
        BLOCKS=cut.blocks,
        num_warps=cut.warps,
    )
    return found


@gradient.register_fake
def _like(given: Tensor, logits: Tensor, out: Tensor, peaks: Tensor, totals: Tensor) -> Tensor:
    del given, out, peaks, totals
    return torch.empty_like(logits, memory_format=torch.contiguous_format)


def _keep(ctx: Any, inputs: tuple[Tensor], output: tuple[Tensor, Tensor, Tensor]) -> None:
    ctx.mark_non_differentiable(*output[1:])
    ctx.save_for_backward(*inputs, *output)


def _differentiate(ctx: Any, given: Tensor, *_: Tensor | None) -> Tensor:
    return gradient(given, *ctx.saved_tensors)


with_parts.register_autograd(_differentiate, setup_context=_keep)


def entropy(logits: Tensor) -> Tensor:
    """Entropy in nats of softmax(l) over the last axis."""
    return with_parts(logits)[0]
