"""Holds what several methods share: checks of axes, the true class, means over what counts."""

from __future__ import annotations

from dms_spec.equations.namespace import Namespace
from dms_spec.equations.primitives import device_of
from dms_spec.errors import ShapeError, SpecError
from dms_spec.types import Array


def check_axes(**arrays: tuple[Array, str]) -> dict[str, int]:
    """Checks arrays against their axes, such as ``logits=(logits, "B M C")``. None is passed over.

    Returns:
        The sizes, by letter.

    Raises:
        ShapeError: A rank is wrong, or two arrays disagree about a size.
    """
    sizes: dict[str, int] = {}
    for name, (array, axes) in arrays.items():
        if array is None:
            continue
        letters, shape = axes.split(), tuple(array.shape)
        good = len(letters) == len(shape)
        for letter, size in zip(letters, shape, strict=False):
            good = good and sizes.setdefault(letter, size) == size
        if not good:
            known = ", ".join(f"{k} = {sizes[k]}" for k in dict.fromkeys(letters) if k in sizes)
            raise ShapeError(
                f"{name} has the wrong shape", expected=f"[{axes}] with {known}", got=f"{shape}"
            )
    return sizes


def check_range(what: str, value: float, low: float, high: float) -> None:
    """Checks that a number is in [low, high].

    Raises:
        SpecError: It is outside, or no number.
    """
    if not low <= value <= high:
        raise SpecError(f"{what} is out of range", expected=f"[{low:g}, {high:g}]", got=f"{value}")


def everything(ns: Namespace, like: Array, axes: int) -> Array:
    """A mask of the first axes of an array, True throughout."""
    xp = ns.xp
    return xp.ones(like.shape[:axes], dtype=xp.bool, device=device_of(like))


def is_true_class(ns: Namespace, labels: Array, like: Array) -> Array:
    """Where the last axis is the label's: bool ``[..., C]``, for labels ``[...]``."""
    return labels[..., None] == ns.xp.arange(like.shape[-1], device=device_of(like))


def cross_entropy(ns: Namespace, logits: Array, labels: Array) -> Array:
    """-log softmax(l)[y]: ``[..., C]``, labels ``[...]`` in [0, C) -> ``[...]``, in nats."""
    logs = ns.log_softmax(logits, axis=-1)
    own = is_true_class(ns, labels, logits)
    # Selected, not multiplied: the log of a class that is ruled out is -inf.
    return -ns.xp.sum(ns.xp.where(own, logs, ns.constant(0.0, logs)), axis=-1)


def mean_over(
    ns: Namespace, values: Array, counted: Array, *, axis: int | tuple[int, ...] | None = None
) -> Array:
    """The mean of what counts, 0 where nothing does; what does not may hold anything."""
    xp = ns.xp
    number = xp.sum(xp.astype(counted, values.dtype), axis=axis)
    total = xp.sum(xp.where(counted, values, ns.constant(0.0, values)), axis=axis)
    return total / xp.maximum(number, ns.constant(1.0, number))


def softplus(ns: Namespace, values: Array) -> Array:
    """log(1 + e^x): positive and smooth; 0 at -inf."""
    xp = ns.xp
    return xp.maximum(values, ns.constant(0.0, values)) + xp.log1p(xp.exp(-xp.abs(values)))
