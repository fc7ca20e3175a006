"""Computes the entropy of softmax, of which confidence is made, and its gradient.

The softmax is online: one read, whatever the number of classes. Maximum, sum of exponentials and
sum of e^x x are carried from block to block, and scaled down when the maximum rises. They tell as
well whether the row was usable; one that is masked is not read.
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
def _read(x, row, there, column, classes, wide: tl.constexpr):
    """Entries ``[R, C]`` in the computing dtype; -inf where nothing is to be read."""
    inside = there[:, None] & (column < classes)[None, :]
    at = x + row[:, None] * classes + column[None, :]
    return tl.load(at, mask=inside, other=-float("inf")).to(wide)


@triton.jit
def _far(values, peak):
    """Values less their maximum. exp(-1e4) is 0, and 0 * -1e4 is 0 where 0 * -inf would be NaN.

    Selected, because a maximum of two numbers drops NaN.
    """
    far = values - peak[:, None]
    return tl.where(far < -1e4, -1e4, far)


@triton.jit(do_not_specialize=["rows"])
def _forward(
    x,
    mask,
    out,
    ok,
    peaks,
    totals,
    rows,
    classes,
    MASKED: tl.constexpr,
    R: tl.constexpr,
    C: tl.constexpr,
    BLOCKS: tl.constexpr,
):
    """H = log S - sum(e^x x) / S, x = l - max l: both parts are positive, and nothing cancels."""
    wide = out.dtype.element_ty
    row = tl.program_id(0).to(tl.int64) * R + tl.arange(0, R)
    there = row < rows
    if MASKED:
        there = tl.load(mask + row, mask=there, other=0) != 0
    column = tl.arange(0, C)
    peak = tl.full([R], -float("inf"), wide)
    total = tl.zeros([R], wide)
    moment = tl.zeros([R], wide)
    for block in range(BLOCKS):
        values = _read(x, row, there, block * C + column, classes, wide)
        higher = tl.maximum(peak, tl.max(values, axis=1))
        # A block may hold nothing but -inf, and the next one something.
        shift = tl.where(higher == -float("inf"), 0.0, higher)
        rise = tl.where(peak == -float("inf"), 0.0, peak - shift)
        shrink = tl.exp(rise)
        far = _far(values, shift)
        e = tl.exp(far)
        moment = shrink * (moment + rise * total) + tl.sum(e * far, axis=1)
        total = shrink * total + tl.sum(e, axis=1)
        peak = higher
    # NaN and +Inf make the sum NaN, and nothing but -inf has no maximum.
    fine = there & (total < float("inf")) & (peak > -float("inf"))
    total = tl.where(fine, total, 1.0)
    entropy = tl.log(total) - tl.where(fine, moment, 0.0) / total
    tl.store(out + row, entropy, mask=row < rows)
    tl.store(ok + row, fine, mask=row < rows)
    tl.store(peaks + row, tl.where(fine, peak, 0.0), mask=row < rows)
    tl.store(totals + row, total, mask=row < rows)


@triton.jit(do_not_specialize=["rows"])
def _backward(
    given,
    x,
    ok,
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
    """dl = -g p (log p + H), and 0 where a row is not ok."""
    wide = given.dtype.element_ty
    row = tl.program_id(0).to(tl.int64) * R + tl.arange(0, R)
    there = tl.load(ok + row, mask=row < rows, other=0) != 0
    column = tl.arange(0, C)
    slope = tl.load(given + row, mask=there, other=0.0)
    peak = tl.load(peaks + row, mask=there, other=0.0)
    total = tl.load(totals + row, mask=there, other=1.0)
    level = tl.load(value + row, mask=there, other=0.0) - tl.log(total)
    for block in range(BLOCKS):
        far = _far(_read(x, row, there, block * C + column, classes, wide), peak)
        p = tl.exp(far) / total[:, None]
        gradient = -slope[:, None] * p * (far + level[:, None])
        inside = (row < rows)[:, None] & (block * C + column < classes)[None, :]
        at = out + row[:, None] * classes + (block * C + column)[None, :]
        tl.store(at, gradient.to(out.dtype.element_ty), mask=inside)


@operator("entropy")
def with_parts(logits: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The entropy, and where it is one: under the mask and usable; 0 elsewhere.

    And for the gradient maximum and sum of the exponentials: ``[...]`` each.
    """
    classes, (out, ok, peaks, totals) = logits.shape[-1], _empty(logits, mask)
    rows, cut = out.numel(), tile(1, classes)
    wrap_triton(_forward)[(triton.cdiv(rows, cut.rows),)](
        logits.contiguous(),
        ok if mask is None else mask.contiguous(),
        out,
        ok,
        peaks,
        totals,
        rows,
        classes,
        MASKED=mask is not None,
        R=cut.rows,
        C=cut.wide,
        BLOCKS=cut.blocks,
        num_warps=cut.warps,
    )
    return out, ok, peaks, totals


@with_parts.register_fake
def _empty(logits: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    del mask
    out = logits.new_empty(logits.shape[:-1], dtype=computing(logits))
    ok = torch.empty_like(out, dtype=torch.bool)
    return out, ok, torch.empty_like(out), torch.empty_like(out)


@operator("entropy_backward")
def gradient(
    given: Tensor, logits: Tensor, out: Tensor, ok: Tensor, peaks: Tensor, totals: Tensor
) -> Tensor:
    """The gradient by ``logits``, of its shape and dtype."""
    classes, found = logits.shape[-1], _like(given, logits, out, ok, peaks, totals)
    rows, cut = out.numel(), tile(1, classes)
    wrap_triton(_backward)[(triton.cdiv(rows, cut.rows),)](
        given.contiguous(),
        logits.contiguous(),
        ok,
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
def _like(
    given: Tensor, logits: Tensor, out: Tensor, ok: Tensor, peaks: Tensor, totals: Tensor
) -> Tensor:
    del given, out, ok, peaks, totals
    return torch.empty_like(logits, memory_format=torch.contiguous_format)


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor | None], output: tuple[Tensor, ...]) -> None:
    ctx.mark_non_differentiable(*output[1:])
    ctx.save_for_backward(inputs[0], *output)


def _differentiate(ctx: Any, given: Tensor, *_: Tensor | None) -> tuple[Tensor, None]:
    return gradient(given, *ctx.saved_tensors), None


with_parts.register_autograd(_differentiate, setup_context=_keep)


def entropy(logits: Tensor) -> Tensor:
    """Entropy in nats of softmax(l) over the last axis."""
    return with_parts(logits, None)[0]
