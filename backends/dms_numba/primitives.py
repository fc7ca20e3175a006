"""Calls the compiled loops on arrays, whose memory it makes flat."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any

import array_api_compat.numpy as xp
import numpy as np
from numba import __version__
from numba.core import event
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from dms_numba import features as of_features
from dms_numba import logits as of_logits
from dms_numba.threads import on_rows, threads
from dms_spec.equations import primitives as plain
from dms_spec.equations.namespace import Namespace
from dms_spec.markup import counted

FloatArray = NDArray[np.floating[Any]]
Mask = NDArray[np.bool_]
Telling = Callable[[FloatArray, Mask | None], tuple[FloatArray, Mask]]

_COMPILED = (np.dtype(np.float32), np.dtype(np.float64))

_COMPILING = event.TimingListener()  # type: ignore[no-untyped-call]
event.register("numba:compile", _COMPILING)  # type: ignore[no-untyped-call]


def notes() -> tuple[str, ...]:
    """Says what runs, and how long this process has compiled for it."""
    seconds = _COMPILING.duration if _COMPILING.done else 0.0
    compiled = f"compiling took {seconds:.1f} s" if seconds else "nothing had to be compiled yet"
    return (f"numba {__version__} on {counted(threads(), 'thread')}; {compiled}",)


def softmax(logits: FloatArray, axis: int = -1) -> FloatArray:
    """softmax over an axis; compiled over the last."""
    if not _compiled(logits) or axis not in (-1, logits.ndim - 1):
        return plain.softmax(xp, logits, axis)  # type: ignore[no-any-return]
    flat = np.ascontiguousarray(logits)
    out = np.empty_like(flat)
    classes = flat.shape[-1]
    on_rows(of_logits.softmax, flat.size // classes, flat.size, _read(flat), _line(out), classes)
    return out


def entropy(logits: FloatArray, mask: Mask | None = None) -> FloatArray:
    """Entropy in nats of softmax(l) over the last axis; NaN where a mask does not hold."""
    if not _compiled(logits):
        return plain.entropy(xp, logits)  # type: ignore[no-any-return]
    flat = np.ascontiguousarray(logits)
    out = np.empty(flat.shape[:-1], flat.dtype)
    given = (_read(flat), _whole(mask, out), _line(out))
    on_rows(of_logits.entropy, out.size, flat.size, *given, flat.shape[-1])
    return out


def variance_over_passes(mc_logits: FloatArray, mask: Mask | None = None) -> FloatArray:
    """Population variance over T of softmax(l), summed over classes: [T, B, M, C] -> [B, M].

    NaN where a mask does not hold.
    """
    if not _compiled(mc_logits):
        return plain.variance_over_passes(xp, mc_logits)  # type: ignore[no-any-return]
    return _over_passes(of_logits.variance, mc_logits, mask)


def mutual_information(ns: Namespace, mc_logits: FloatArray) -> FloatArray:
    """Mutual information of the class and the pass: [T, B, M, C] -> [B, M]."""
    if not _compiled(mc_logits):
        return plain.mutual_information(ns, mc_logits)  # type: ignore[no-any-return]
    return informed(mc_logits)


def informed(mc_logits: FloatArray, mask: Mask | None = None) -> FloatArray:
    """Does the same for float32 and float64, without a namespace; NaN where no mask holds."""
    smallest = np.finfo(mc_logits.dtype).smallest_normal
    return _over_passes(of_logits.mutual_information, mc_logits, mask, smallest)


def _over_passes(
    kernel: Callable[..., None], mc_logits: FloatArray, mask: Mask | None, *more: Any
) -> FloatArray:
    mc_logits, flat, apart = _passes(mc_logits)
    out = np.empty(mc_logits.shape[1:3], mc_logits.dtype)
    sizes = (mc_logits.shape[0], apart, mc_logits.shape[-1])
    given = (flat, _whole(mask, out), _line(out))
    on_rows(kernel, out.size, mc_logits.size, *given, *sizes, *more)
    return out


def cosine(left: FloatArray, right: FloatArray) -> FloatArray:
    """Cosine over the last axis; compiled where both have the same shape."""
    alike = left.shape == right.shape and left.dtype == right.dtype
    if not alike or not _compiled(left):
        return plain.cosine(xp, left, right)  # type: ignore[no-any-return]
    out = np.empty(left.shape[:-1], left.dtype)
    rows = [_read(np.ascontiguousarray(array)) for array in (left, right)]
    on_rows(of_features.cosine, out.size, left.size, *rows, _line(out), left.shape[-1])
    return out


def alignment(ns: Namespace, features: FloatArray) -> FloatArray:
    """Cosine with the mean of the other modalities: [B, M, D] -> [B, M]."""
    if not _compiled(features):
        return plain.alignment(ns, features)  # type: ignore[no-any-return]
    return aligned(features)[0]


def aligned(features: FloatArray, mask: Mask | None = None) -> tuple[FloatArray, Mask]:
    """Does the same for float32 and float64, and says which rows under the mask are finite.

    The others count as zeros.
    """
    out = np.empty(features.shape[:-1], features.dtype)
    ok = np.empty(out.shape, np.bool_)
    rows, (samples, *sizes) = _read(np.ascontiguousarray(features)), features.shape
    given = (rows, _whole(mask, out), _line(out), _line(ok))
    smallest = np.finfo(features.dtype).smallest_normal
    on_rows(of_features.alignment, samples, features.size, *given, *sizes, smallest)
    return out, ok


def usable(
    *,
    features: FloatArray | None = None,
    logits: FloatArray | None = None,
    mc_logits: FloatArray | None = None,
) -> NDArray[np.bool_]:
    """Finds the modalities whose numbers mean something: bool [B, M]."""
    given = (features, logits, mc_logits)
    if not all(array is None or _compiled(array) for array in given):
        return plain.usable(  # type: ignore[no-any-return]
            xp, features=features, logits=logits, mc_logits=mc_logits
        )
    verdicts = []
    if features is not None:
        verdicts.append(_finite(features))
    if logits is not None:
        verdicts.append(_finite_peaks(logits[None]))
    if mc_logits is not None:
        verdicts.append(_finite_peaks(mc_logits))
    verdict: NDArray[np.bool_] = reduce(np.logical_and, verdicts)
    return verdict


# ------------------------------------------------------------------- forms that read an array once


def _telling(statistic: Callable[[FloatArray, Mask | None], FloatArray]) -> Telling:
    """The form of a statistic that is finite exactly where a row is usable and not masked."""

    def form(array: FloatArray, mask: Mask | None) -> tuple[FloatArray, Mask]:
        found = statistic(array, mask)
        ok = np.isfinite(found)
        found[~ok] = 0.0
        return found, ok

    return form


def weigh(features: FloatArray, scores: FloatArray, active: Mask) -> tuple[FloatArray, FloatArray]:
    """The masked softmax of scores, and the sum of what is active with these weights."""
    samples, *sizes = features.shape
    weights, fused = np.empty_like(scores, order="C"), np.empty((samples, sizes[1]), scores.dtype)
    given = [_read(np.ascontiguousarray(array)) for array in (features, scores, active)]
    on_rows(of_features.weigh, samples, features.size, *given, _line(weights), _line(fused), *sizes)
    return weights, fused


#: The statistics that tell which rows are usable, of arrays in float32 and float64.
TELLING: dict[str, Telling] = {
    "entropy": _telling(entropy),
    "variance_over_passes": _telling(variance_over_passes),
    "mutual_information": _telling(informed),
    "alignment": aligned,
}


def one_read(name: str, *_: FloatArray) -> Callable[..., Any]:
    """The form of a primitive that reads an array once, as `Namespace` says."""
    if name == "weigh":
        return lambda h, scores, active: weigh(_cast(h, scores.dtype), scores, active)
    return lambda array, mask, dtype: TELLING[name](_cast(array, dtype), mask)


def _cast(array: FloatArray, dtype: Any) -> FloatArray:
    return array.astype(dtype, copy=False)


def _finite(array: FloatArray) -> NDArray[np.bool_]:
    """Says which rows of ``[..., D]`` are finite throughout."""
    out, flat = np.empty(array.shape[:-1], np.bool_), _read(np.ascontiguousarray(array))
    on_rows(of_features.finite, out.size, array.size, flat, _line(out), array.shape[-1])
    return out


def _finite_peaks(array: FloatArray) -> NDArray[np.bool_]:
    """Says which rows of ``[T, ..., C]`` have a finite maximum in every pass."""
    array, flat, apart = _passes(array)
    out = np.empty(array.shape[1:-1], np.bool_)
    sizes = (array.shape[0], apart, array.shape[-1])
    on_rows(of_logits.finite_peaks, out.size, array.size, flat, _line(out), *sizes)
    return out


def _compiled(array: FloatArray) -> bool:
    """Says whether there is a kernel for an array; for a dtype without one, the plain form runs.

    An axis without entries has no maximum, and the plain form says so.
    """
    return array.dtype in _COMPILED and array.size > 0


def _whole(mask: Mask | None, like: FloatArray) -> Mask:
    """A mask in flat memory; without one it holds everywhere."""
    return _read(np.ones(like.shape, np.bool_) if mask is None else np.ascontiguousarray(mask))


def _line(array: NDArray[Any]) -> NDArray[Any]:
    return array.reshape(-1)


def _read(array: NDArray[Any]) -> NDArray[Any]:
    """Flat memory that is only read: one signature to compile, whoever made the array."""
    line = array.reshape(-1)
    line.flags.writeable = False
    return line


def _passes(mc_logits: FloatArray) -> tuple[FloatArray, FloatArray, int]:
    """The passes as one line of memory, and how far they lie apart, in entries.

    A block of samples is contiguous within each pass; what is not is copied.
    """
    if mc_logits.flags.c_contiguous:
        return mc_logits, _read(mc_logits), mc_logits.size // mc_logits.shape[0]
    each = mc_logits[0]
    size, apart = mc_logits.itemsize, mc_logits.strides[0]
    if not each.flags.c_contiguous or apart % size or apart < each.nbytes:
        mc_logits = np.ascontiguousarray(mc_logits)
        apart = mc_logits.strides[0]
    apart //= size
    length = (mc_logits.shape[0] - 1) * apart + each.size
    return mc_logits, as_strided(mc_logits, (length,), (size,), writeable=False), apart
