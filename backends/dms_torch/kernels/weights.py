"""Computes the masked softmax over modalities, equation E6, and its gradient."""

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
def shares(scores, at, there, wide: tl.constexpr):
    """The softmax over what is there, ``[R, M]``; 0 elsewhere.

    Selected before the exponential: a score of what is absent reaches nothing, NaN included.
    """
    s = tl.load(scores + at, mask=there, other=-float("inf")).to(wide)
    peak = tl.max(s, axis=1)
    peak = tl.where(peak == -float("inf"), 0.0, peak)
    e = tl.where(there, tl.exp(s - peak[:, None]), 0.0)
    total = tl.sum(e, axis=1)
    return e / tl.where(total > 0, total, 1.0)[:, None]


@triton.jit(do_not_specialize=["rows", "modalities"])
def _forward(scores, active, out, rows, modalities, R: tl.constexpr, M: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * R + tl.arange(0, R)
    m = tl.arange(0, M)
    inside = (row < rows)[:, None] & (m < modalities)[None, :]
    at = row[:, None] * modalities + m[None, :]
    there = tl.load(active + at, mask=inside, other=0) != 0
    tl.store(out + at, shares(scores, at, there, out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["rows", "modalities"])
def _backward(given, weights, out, rows, modalities, R: tl.constexpr, M: tl.constexpr):
    """ds = w (g - sum w g), which is 0 where nothing is active."""
    row = tl.program_id(0).to(tl.int64) * R + tl.arange(0, R)
    m = tl.arange(0, M)
    inside = (row < rows)[:, None] & (m < modalities)[None, :]
    at = row[:, None] * modalities + m[None, :]
    w = tl.load(weights + at, mask=inside, other=0.0)
    g = tl.load(given + at, mask=inside, other=0.0)
    slope = w * (g - tl.sum(w * g, axis=1)[:, None])
    tl.store(out + at, slope.to(out.dtype.element_ty), mask=inside)


@operator("masked_softmax")
def masked_softmax(scores: Tensor, active: Tensor) -> Tensor:
    """w = exp(s) / sum exp(s) over the active modalities, exactly 0 elsewhere: [B, M]."""
    rows, modalities = scores.shape
    out, cut = _empty(scores, active), tile(1, modalities)
    wrap_triton(_forward)[(triton.cdiv(rows, cut.rows),)](
        scores.contiguous(),
        active.contiguous(),
        out,
        rows,
        modalities,
        R=cut.rows,
        M=cut.wide,
        num_warps=cut.warps,
    )
    return out


@masked_softmax.register_fake
def _empty(scores: Tensor, active: Tensor) -> Tensor:
    del active
    return scores.new_empty(scores.shape, dtype=computing(scores))


@operator("masked_softmax_backward")
def gradient(given: Tensor, weights: Tensor, scores: Tensor) -> Tensor:
    """The gradient by ``scores``, of their shape and dtype."""
    rows, modalities = scores.shape
    out, cut = _like(given, weights, scores), tile(1, modalities)
    wrap_triton(_backward)[(triton.cdiv(rows, cut.rows),)](
        given.contiguous(),
        weights,
        out,
        rows,
        modalities,
        R=cut.rows,
        M=cut.wide,
        num_warps=cut.warps,
    )
    return out


@gradient.register_fake
def _like(given: Tensor, weights: Tensor, scores: Tensor) -> Tensor:
    del given, weights
    return torch.empty_like(scores, memory_format=torch.contiguous_format)


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(output, inputs[0])


def _differentiate(ctx: Any, given: Tensor) -> tuple[Tensor, None]:
    return gradient(given, *ctx.saved_tensors), None


masked_softmax.register_autograd(_differentiate, setup_context=_keep)
