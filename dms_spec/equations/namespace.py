"""Defines what equations compute in: an array-API module and a few primitives.

A backend hands in the array-API module of its library (`array_api_compat` gives one) and, where
its library has something better than the plain composition, a primitive of its own. A primitive
may be faster, never different: the conformance suite compares it with the plain one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

from dms_spec.equations.primitives import (
    alignment,
    clip,
    constant,
    cosine,
    count,
    entropy,
    filled,
    log_distance,
    log_softmax,
    logaddexp,
    logsumexp,
    masked_softmax,
    mutual_information,
    others,
    select,
    softmax,
    usable,
    variance_over_passes,
    weighted_sum,
)
from dms_spec.errors import unknown
from dms_spec.types import Array

#: What plugin code gets of an array to read, and whether it has changed it since.
Lent = tuple[Array, Callable[[], bool]]


def _no_gradient(values: Array) -> Array:
    return values


def no_form(name: str, *arrays: Array) -> None:
    """Says that a primitive has no form that reads its arrays once."""


def one_by_one(function: Callable[[Any], Any], blocks: Iterable[Any]) -> Iterable[Any]:
    """Runs a function on blocks, one after the other."""
    return map(function, blocks)


def no_twin(*arrays: Array) -> None:
    """Says that no other library computes on the memory of these arrays."""


def never() -> bool:
    """Says no: nothing was traced, nothing has changed."""
    return False


@dataclass(frozen=True, kw_only=True)
class Twin:
    """Names another library that computes faster on the memory of a library's arrays.

    Attributes:
        ns: Its namespace.
        there: Gives an array as one of its own, without a copy.
        back: Gives one of its arrays as the library's own.
    """

    ns: Namespace
    there: Callable[[Array], Array]
    back: Callable[[Array], Array]


@dataclass(frozen=True, kw_only=True)
class Namespace:
    """Holds an array-API module, and the primitives that equations are written in.

    Build it with `Namespace.of`. The callables that work on arrays are the primitives.

    Attributes:
        xp: The array-API module.
        array_type: The class of its arrays; anything else is refused by name.
        guard: Entered around each schedule. For a library that warns about overflows: the
            equations expect some (logits as far apart as the dtype is wide), and scores that
            overflow are refused with a message of their own. For one that lowers precision on
            its own (autocast): the computing dtype is the specification's.
        entries_at_once: How many input entries to schedule at a time, so that temporaries stay
            in a cache; None for all of them. Passes that `one_read` has a form for do not count.
        over_blocks: How to schedule such blocks: in turn, or on several threads at once, each in a
            copy of the context.
        copy: An array in memory of its own, with its gradients.
        lend: What plugin code gets to read in place of an array, and whether it has been changed:
            a copy, unless the library has something cheaper.
        traced: Says whether values are hidden now, because a graph is traced.
        one_read: Finds the form of a primitive that reads an array once: as it came, with a mask
            ``[B, M]`` of what counts. None where there is none for these arrays, and the plain
            composition is to be taken. It is called with a name and the arrays:

            - ``"entropy"``, ``"variance_over_passes"``, ``"mutual_information"``,
              ``"alignment"``, and their array. The form
              ``(array, mask or None, dtype) -> (statistic, ok)`` computes ``ok``, the mask and
              what is `usable` of the array; and the primitive of the array with 0 where it is not
              ok, which is 0 there, with gradients of 0.
            - ``"weigh"``, features and scores. ``(features, scores, active) -> (weights, fused)``
              computes `masked_softmax`, and the `weighted_sum` of what is active.
        twin: Finds the `Twin` for some arrays; None where there is none, or it may not be used.
            It runs whole schedules, without functions of plugins, which know this library.

    Example:
        >>> import array_api_compat.numpy as xp
        >>> import numpy as np
        >>> from dms_spec import Namespace
        >>> Namespace.of(xp, np.ndarray).softmax(np.zeros((1, 2)))
        array([[0.5, 0.5]])
    """

    xp: Any
    array_type: type
    softmax: Callable[..., Array]
    logsumexp: Callable[..., Array]
    log_softmax: Callable[..., Array]
    logaddexp: Callable[[Array, Array], Array]
    entropy: Callable[[Array], Array]
    variance_over_passes: Callable[[Array], Array]
    mutual_information: Callable[[Any, Array], Array]
    masked_softmax: Callable[[Array, Array], Array]
    weighted_sum: Callable[[Array, Array], Array]
    cosine: Callable[[Array, Array], Array]
    alignment: Callable[[Any, Array], Array]
    log_distance: Callable[[Any, Array, Any], Array]
    usable: Callable[..., Array]
    select: Callable[[Array, Array], Array]
    filled: Callable[[Array, Array, float], Array]
    clip: Callable[[Array, float, float], Array]
    count: Callable[..., Array]
    constant: Callable[[float, Array], Array]
    others: Callable[[Array], Array]
    stop_gradient: Callable[[Array], Array]
    copy: Callable[[Array], Array]
    lend: Callable[[Array], Lent]
    traced: Callable[[], bool] = never
    one_read: Callable[..., Callable[..., tuple[Array, Array]] | None] = no_form
    twin: Callable[..., Twin | None] = no_twin
    guard: Callable[[], AbstractContextManager[Any]] = nullcontext
    entries_at_once: int | None = None
    over_blocks: Callable[..., Iterable[Any]] = one_by_one

    @classmethod
    def of(
        cls,
        xp: Any,
        array_type: type,
        *,
        guard: Callable[[], AbstractContextManager[Any]] = nullcontext,
        entries_at_once: int | None = None,
        over_blocks: Callable[..., Iterable[Any]] = one_by_one,
        copy: Callable[[Array], Array] | None = None,
        lend: Callable[[Array], Lent] | None = None,
        traced: Callable[[], bool] = never,
        one_read: Callable[..., Callable[..., tuple[Array, Array]] | None] = no_form,
        twin: Callable[..., Twin | None] = no_twin,
        **primitives: Callable[..., Array],
    ) -> Namespace:
        """Makes the namespace of an array-API module.

        Args:
            xp: An array-API module (2024.12), such as ``array_api_compat.torch``.
            array_type: The class of its arrays.
            guard: A context manager to enter around each schedule.
            entries_at_once: How many input entries to schedule at a time.
            over_blocks: How to schedule such blocks; one after the other by default.
            copy: How to copy an array. A library with gradients must hand it in: the default,
                ``xp.asarray``, may drop them.
            lend: What plugin code gets to read; a copy by default.
            traced: Whether values are hidden now.
            one_read: What finds forms that read an array once; there are none by default.
            twin: What finds a faster library on the same memory; there is none by default.
            primitives: Faster replacements, by name. A library with gradients must hand in
                ``stop_gradient``; the default passes its argument on.

        Raises:
            UnknownName: A primitive's name is not one of the attributes of this class.
        """
        known: dict[str, Callable[..., Array]] = {
            f.__name__: partial(f, xp)
            for f in (
                softmax,
                logsumexp,
                log_softmax,
                logaddexp,
                entropy,
                variance_over_passes,
                masked_softmax,
                weighted_sum,
                cosine,
                usable,
                select,
                filled,
                clip,
                constant,
                count,
                others,
            )
        }
        # These are composed of others, and get the namespace when they are called.
        known |= {f.__name__: f for f in (alignment, log_distance, mutual_information)}
        known["stop_gradient"] = _no_gradient
        for name in primitives:
            if name not in known:
                raise unknown("primitive", name, known)
        own = copy or partial(xp.asarray, copy=True)
        return cls(
            xp=xp,
            copy=own,
            lend=lend or (lambda array: (own(array), never)),
            traced=traced,
            one_read=one_read,
            twin=twin,
            array_type=array_type,
            guard=guard,
            entries_at_once=entries_at_once,
            over_blocks=over_blocks,
            **(known | primitives),
        )

    def masked_logsumexp(self, values: Array, mask: Array, axis: int) -> Array:
        """The log of the sum of exp over an axis, where the mask holds; 0 where it holds nowhere.

        The axis is kept, with size one.
        """
        xp = self.xp
        zero = self.constant(0.0, values)
        anything = xp.any(mask, axis=axis, keepdims=True)
        peak = xp.max(
            xp.where(mask, values, self.constant(-float("inf"), values)), axis=axis, keepdims=True
        )
        peak = self.stop_gradient(xp.where(anything, peak, zero))
        e = xp.where(mask, xp.exp(xp.where(mask, values, peak) - peak), zero)
        total = xp.sum(e, axis=axis, keepdims=True)
        return xp.where(
            anything, peak + xp.log(xp.where(anything, total, self.constant(1.0, values))), zero
        )
