"""Computes weights and the weighted sum in one launch, equations E6 and E1, and their gradients.

Features are read once, and so they are for the gradients; those of what is not active never.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import wrap_triton

from dms_torch.kernels.layout import Tile, tile
from dms_torch.kernels.operators import operator
from dms_torch.kernels.weights import shares


@triton.jit
def _column(values, n, m):
    """Column n of ``[R, M]``."""
    return tl.sum(tl.where((m == n)[None, :], values, 0.0), axis=1)


@triton.jit(do_not_specialize=["rows", "modalities"])
def _forward(
    values,
    scores,
    active,
    weights,
    out,
    rows,
    modalities,
    width,
    R: tl.constexpr,
    M: tl.constexpr,
    D: tl.constexpr,
    BLOCKS: tl.constexpr,
):
    """Every program of a row makes its weights, which are few; the first one stores them."""
    wide = out.dtype.element_ty
    program = tl.program_id(0).to(tl.int64)
    row = (program // BLOCKS) * R + tl.arange(0, R)
    block = program % BLOCKS
    column = block * D + tl.arange(0, D)
    m = tl.arange(0, M)
    inside = (row < rows)[:, None] & (m < modalities)[None, :]
    at = row[:, None] * modalities + m[None, :]
    there = tl.load(active + at, mask=inside, other=0) != 0
    w = shares(scores, at, there, wide)
    tl.store(weights + at, w, mask=inside & (block == 0))
    total = tl.zeros([R, D], wide)
    for n in range(modalities):
        read = (_column(there.to(wide), n, m) > 0)[:, None] & (column < width)[None, :]
        place = (row * modalities + n)[:, None] * width + column[None, :]
        h = tl.load(values + place, mask=read, other=0.0).to(wide)
        total += _column(w, n, m)[:, None] * h
    whole = (row < rows)[:, None] & (column < width)[None, :]
    tl.store(out + row[:, None] * width + column[None, :], total, mask=whole)


@triton.jit(do_not_specialize=["rows", "modalities"])
def _backward(
    by_weights,
    by_sum,
    values,
    weights,
    active,
    by_values,
    by_scores,
    rows,
    modalities,
    width,
    STORED: tl.constexpr,
    R: tl.constexpr,
    M: tl.constexpr,
    D: tl.constexpr,
    BLOCKS: tl.constexpr,
):
    """dh_m = w_m g, dw_m = sum g h_m and what is given, ds = w (dw - sum w dw)."""
    wide = by_sum.dtype.element_ty
    row = tl.program_id(0).to(tl.int64) * R + tl.arange(0, R)
    m = tl.arange(0, M)
    inside = (row < rows)[:, None] & (m < modalities)[None, :]
    at = row[:, None] * modalities + m[None, :]
    there = tl.load(active + at, mask=inside, other=0) != 0
    w = tl.load(weights + at, mask=there, other=0.0)
    slope = tl.load(by_weights + at, mask=there, other=0.0)
    for n in range(modalities):
        here = _column(there.to(wide), n, m) > 0
        share = _column(w, n, m)
        found = tl.zeros([R], wide)
        for block in range(BLOCKS):
            column = block * D + tl.arange(0, D)
            read = here[:, None] & (column < width)[None, :]
            place = (row * modalities + n)[:, None] * width + column[None, :]
            h = tl.load(values + place, mask=read, other=0.0).to(wide)
            g = tl.load(by_sum + row[:, None] * width + column[None, :], mask=read, other=0.0)
            found += tl.sum(g * h, axis=1)
            if STORED:
                own = (share[:, None] * g).to(by_values.dtype.element_ty)
                whole = (row < rows)[:, None] & (column < width)[None, :]
                tl.store(by_values + place, own, mask=whole)
        slope += tl.where((m == n)[None, :], found[:, None], 0.0)
    tl.store(by_scores + at, w * (slope - tl.sum(w * slope, axis=1)[:, None]), mask=inside)


def _cut(values: Tensor) -> tuple[Tile, int]:
    """A tile of rows, and a power of two for the modalities; the weights fit where features do."""
    _, modalities, width = values.shape
    return tile(1, max(width, modalities)), tile(1, modalities).wide


@operator("weigh")
def weigh(features: Tensor, scores: Tensor, active: Tensor) -> tuple[Tensor, Tensor]:
    """The masked softmax ``[B, M]`` of scores, and the sum ``[B, D]`` of what is active with it.

    Both in the dtype of the scores.
    """
    rows, modalities, width = features.shape
    (weights, out), (cut, m) = _empty(features, scores, active), _cut(features)
    wrap_triton(_forward)[(triton.cdiv(rows, cut.rows) * cut.blocks,)](
        features.contiguous(),
        scores.contiguous(),
        active.contiguous(),
        weights,
        out,
        rows,
        modalities,
        width,
        R=cut.rows,
        M=m,
        D=cut.wide,
        BLOCKS=cut.blocks,
        num_warps=cut.warps,
    )
    return weights, out


@weigh.register_fake
def _empty(features: Tensor, scores: Tensor, active: Tensor) -> tuple[Tensor, Tensor]:
    del active
    weights = torch.empty_like(scores, memory_format=torch.contiguous_format)
    return weights, scores.new_empty((features.shape[0], features.shape[2]))


@operator("weigh_backward")
def gradients(
    by_weights: Tensor,
    by_sum: Tensor,
    features: Tensor,
    active: Tensor,
    weights: Tensor,
    learns: bool,
) -> tuple[Tensor, Tensor]:
    """The gradients by features and scores, of their shapes and dtypes.

    That by features is empty where nobody learns from it: it is as large as they are.
    """
    rows, modalities, width = features.shape
    by_features, by_scores = _like(by_weights, by_sum, features, active, weights, learns)
    cut, m = _cut(features)
    wrap_triton(_backward)[(triton.cdiv(rows, cut.rows),)](
        by_weights.contiguous(),
        by_sum.contiguous(),
        features.contiguous(),
        weights,
        active.contiguous(),
        by_features,
        by_scores,
        rows,
        modalities,
        width,
        STORED=learns,
        R=cut.rows,
        M=m,
        D=cut.wide,
        BLOCKS=cut.blocks,
        num_warps=cut.warps,
    )
    return by_features, by_scores


@gradients.register_fake
def _like(
    by_weights: Tensor,
    by_sum: Tensor,
    features: Tensor,
    active: Tensor,
    weights: Tensor,
    learns: bool,
) -> tuple[Tensor, Tensor]:
    del by_weights, by_sum, active
    by_features = features.new_empty(features.shape if learns else (0,))
    return by_features, torch.empty_like(weights, memory_format=torch.contiguous_format)


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: tuple[Tensor, Tensor]) -> None:
    features, _, active = inputs
    ctx.save_for_backward(features, active, output[0])


def _differentiate(
    ctx: Any, by_weights: Tensor, by_sum: Tensor
) -> tuple[Tensor | None, Tensor, None]:
    learns = ctx.needs_input_grad[0]
    by_features, by_scores = gradients(by_weights, by_sum, *ctx.saved_tensors, learns)
    return by_features if learns else None, by_scores, None


weigh.register_autograd(_differentiate, setup_context=_keep)
