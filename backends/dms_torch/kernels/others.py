"""Computes the cosine with the sum of the other modalities, equation E4, and its gradient.

Nothing cancels: the sum over the others is taken entry by entry, without a "sum minus self", and
relative to the largest entry, so that no square overflows or vanishes. Where a sample fits a tile
its features are read once. What is masked is not read; that and what is not finite counts as zeros.
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
def _read(x, start, inside, column, width, wide: tl.constexpr):
    """Entries ``[M, R, D]`` in the computing dtype; 0 outside of the array."""
    there = inside[:, :, None] & (column < width)[None, None, :]
    at = x + start[:, :, None] + column[None, None, :]
    return tl.load(at, mask=there, other=0.0).to(wide)


@triton.jit
def _added(values, size, largest, n, m):
    """What modality n adds to each other: its values times size / largest, ``[M, R, D]``."""
    own = tl.sum(tl.where((m == n)[:, None, None], values, 0.0), axis=0)
    share = tl.where((m != n)[:, None], size, 0.0) / largest
    return share[:, :, None] * own[None, :, :]


@triton.jit
def _row_of(values, n, m):
    """Row n of ``[M, R]``."""
    return tl.sum(tl.where((m == n)[:, None], values, 0.0), axis=0)


@triton.jit
def _largest_others(sizes, modalities, m):
    """The largest of the others' sizes, ``[M, R]``."""
    largest = tl.zeros_like(sizes)
    for n in range(modalities):
        other = tl.where((m != n)[:, None], _row_of(sizes, n, m)[None, :], 0.0)
        largest = tl.maximum(largest, other)
    return largest


@triton.jit
def _sum_of_others(unit, sizes, largest, modalities, m):
    """sum_n size_n / largest_m unit_n over the others, ``[M, R, D]``."""
    total = tl.zeros_like(unit)
    for n in range(modalities):
        total += _added(unit, _row_of(sizes, n, m)[None, :], largest, n, m)
    return total


@triton.jit(do_not_specialize=["rows", "modalities"])
def _forward(
    x,
    mask,
    out,
    ok,
    peaks,
    parts,
    rows,
    modalities,
    width,
    MASKED: tl.constexpr,
    SMALLEST: tl.constexpr,
    M: tl.constexpr,
    R: tl.constexpr,
    D: tl.constexpr,
    BLOCKS: tl.constexpr,
):
    wide = out.dtype.element_ty
    row = tl.program_id(0).to(tl.int64) * R + tl.arange(0, R)
    m = tl.arange(0, M)
    whole = (m < modalities)[:, None] & (row < rows)[None, :]
    flat = row[None, :] * modalities + m[:, None]
    start = flat * width
    inside = whole
    if MASKED:
        inside = tl.load(mask + flat, mask=whole, other=0) != 0
    peak = tl.zeros([M, R], wide)
    for block in range(BLOCKS):
        values = _read(x, start, inside, block * D + tl.arange(0, D), width, wide)
        # Selected, because a maximum drops NaN.
        size = tl.where(tl.abs(values) < float("inf"), tl.abs(values), float("inf"))
        peak = tl.maximum(peak, tl.max(size, axis=2))
    fine = inside & (peak < float("inf"))
    peak = tl.where(fine, peak, 0.0)
    divisor = tl.maximum(peak, SMALLEST)
    sizes = tl.where(peak > 0, divisor, 0.0)
    largest = tl.maximum(_largest_others(sizes, modalities, m), SMALLEST)
    dot = tl.zeros([M, R], wide)
    own = tl.zeros([M, R], wide)
    other = tl.zeros([M, R], wide)
    for block in range(BLOCKS):
        values = _read(x, start, inside, block * D + tl.arange(0, D), width, wide)
        unit = tl.where(fine[:, :, None], values, 0.0) / divisor[:, :, None]
        rest = _sum_of_others(unit, sizes, largest, modalities, m)
        dot += tl.sum(unit * rest, axis=2)
        own += tl.sum(unit * unit, axis=2)
        other += tl.sum(rest * rest, axis=2)
    norms = tl.sqrt(own) * tl.sqrt(other)
    cosine = tl.where(norms > 0, dot / tl.where(norms > 0, norms, 1.0), 0.0)
    tl.store(out + flat, tl.minimum(tl.maximum(cosine, -1.0), 1.0), mask=whole)
    tl.store(ok + flat, fine, mask=whole)
    tl.store(peaks + flat, peak, mask=whole)
    count = tl.cast(rows, tl.int64) * modalities
    tl.store(parts + flat, cosine, mask=whole)
    tl.store(parts + count + flat, own, mask=whole)
    tl.store(parts + 2 * count + flat, other, mask=whole)


@triton.jit(do_not_specialize=["rows", "modalities"])
def _backward(
    given,
    x,
    ok,
    peaks,
    parts,
    out,
    rows,
    modalities,
    width,
    SMALLEST: tl.constexpr,
    M: tl.constexpr,
    R: tl.constexpr,
    D: tl.constexpr,
    BLOCKS: tl.constexpr,
):
    """With u the modality, s the sum of the others and c = u.s / |u||s|, relative to the divisors:

    du_k = g_k (s_k / |u_k||s_k| - c_k u_k / |u_k|^2), and what k adds to the sums of the others:
    sum_m size_k / largest_m g_m (u_m / |u_m||s_m| - c_m s_m / |s_m|^2). It is 0 where a row
    is not ok.
    """
    wide = given.dtype.element_ty
    row = tl.program_id(0).to(tl.int64) * R + tl.arange(0, R)
    m = tl.arange(0, M)
    whole = (m < modalities)[:, None] & (row < rows)[None, :]
    flat = row[None, :] * modalities + m[:, None]
    inside = tl.load(ok + flat, mask=whole, other=0) != 0
    start = flat * width
    peak = tl.load(peaks + flat, mask=inside, other=0.0)
    cosine = tl.load(parts + flat, mask=inside, other=0.0)
    size = tl.cast(rows, tl.int64) * modalities
    own = tl.load(parts + size + flat, mask=inside, other=0.0)
    other = tl.load(parts + 2 * size + flat, mask=inside, other=0.0)
    norms = tl.sqrt(own) * tl.sqrt(other)
    defined = norms > 0
    slope = tl.load(given + flat, mask=inside, other=0.0)
    slope = tl.where(defined & (tl.abs(cosine) <= 1.0), slope, 0.0)
    by_product = slope / tl.where(defined, norms, 1.0)
    by_own = slope * cosine / tl.where(defined, own, 1.0)
    by_other = slope * cosine / tl.where(defined, other, 1.0)
    divisor = tl.maximum(peak, SMALLEST)
    sizes = tl.where(peak > 0, divisor, 0.0)
    # A zero vector is of size 0, and so is what is not ok: neither has a slope through the others.
    some = tl.where(peak > 0, 1.0, 0.0)
    largest = tl.maximum(_largest_others(sizes, modalities, m), SMALLEST)
    for block in range(BLOCKS):
        column = block * D + tl.arange(0, D)
        unit = _read(x, start, inside, column, width, wide) / divisor[:, :, None]
        rest = _sum_of_others(unit, sizes, largest, modalities, m)
        direct = by_product[:, :, None] * rest - by_own[:, :, None] * unit
        through = by_product[:, :, None] * unit - by_other[:, :, None] * rest
        slope_at = direct / divisor[:, :, None]
        for n in range(modalities):
            # Not times a size and then over it: the share of what is tiny loses its digits.
            slope_at += _added(through, some, _row_of(largest, n, m)[None, :], n, m)
        there = whole[:, :, None] & (column < width)[None, None, :]
        at = out + start[:, :, None] + column[None, None, :]
        tl.store(at, slope_at.to(out.dtype.element_ty), mask=there)


@operator("alignment")
def with_parts(features: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The cosine ``[B, M]``, and where it is one: under the mask and finite; 0 elsewhere.

    And for the gradient the peaks, ``[B, M]``; the cosine unlimited and both squares, [3, B, M].
    """
    rows, modalities, width = features.shape
    (out, ok, peaks, parts), cut = _empty(features, mask), tile(modalities, width)
    wrap_triton(_forward)[(triton.cdiv(rows, cut.rows),)](
        features.contiguous(),
        ok if mask is None else mask.contiguous(),
        out,
        ok,
        peaks,
        parts,
        rows,
        modalities,
        width,
        MASKED=mask is not None,
        SMALLEST=torch.finfo(out.dtype).smallest_normal,
        M=cut.deep,
        R=cut.rows,
        D=cut.wide,
        BLOCKS=cut.blocks,
        num_warps=cut.warps,
    )
    return out, ok, peaks, parts


@with_parts.register_fake
def _empty(features: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    del mask
    out = features.new_empty(features.shape[:2], dtype=computing(features))
    return (
        out,
        torch.empty_like(out, dtype=torch.bool),
        torch.empty_like(out),
        out.new_empty((3, *out.shape)),
    )


@operator("alignment_backward")
def gradient(given: Tensor, features: Tensor, ok: Tensor, peaks: Tensor, parts: Tensor) -> Tensor:
    """The gradient by ``features``, of their shape and dtype."""
    rows, modalities, width = features.shape
    out, cut = _like(given, features, ok, peaks, parts), tile(modalities, width)
    wrap_triton(_backward)[(triton.cdiv(rows, cut.rows),)](
        given.contiguous(),
        features.contiguous(),
        ok,
        peaks,
        parts,
        out,
        rows,
        modalities,
        width,
        SMALLEST=torch.finfo(peaks.dtype).smallest_normal,
        M=cut.deep,
        R=cut.rows,
        D=cut.wide,
        BLOCKS=cut.blocks,
        num_warps=cut.warps,
    )
    return out


@gradient.register_fake
def _like(given: Tensor, features: Tensor, ok: Tensor, peaks: Tensor, parts: Tensor) -> Tensor:
    del given, ok, peaks, parts
    return torch.empty_like(features, memory_format=torch.contiguous_format)


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor | None], output: tuple[Tensor, ...]) -> None:
    ctx.mark_non_differentiable(*output[1:])
    ctx.save_for_backward(inputs[0], *output[1:])


def _differentiate(ctx: Any, given: Tensor, *_: Tensor | None) -> tuple[Tensor, None]:
    return gradient(given, *ctx.saved_tensors), None


with_parts.register_autograd(_differentiate, setup_context=_keep)


def alignment(features: Tensor) -> Tensor:
    """Cosine with the mean of the other modalities; 0 where either is zero: [B, M, D] -> [B, M]."""
    return with_parts(features, None)[0]
