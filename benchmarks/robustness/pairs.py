"""Robust against each other method, on the same test rows."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from dms_spec.robustness.metrics import paired_difference

FIELDS = ("set", "condition", "rival", "seeds", "trials", "difference", "error")

#: Set, condition, rival, number of seeds and of trials, difference and standard error in points.
Pair = tuple[str, str, str, int, int, float, float]


def compare(
    right: Mapping[tuple[str, str, str, int], str],
    tested: Mapping[tuple[str, str, int], NDArray[np.intp]],
) -> tuple[tuple[str, ...], list[Pair]]:
    """Names of the columns, and the differences in accuracy of robust and each other method.

    Over the seeds that both were measured with; see `paired_difference` for the error.

    Args:
        right: By set, method, condition and seed, which test rows are right, packed.
        tested: By set, condition and seed, which rows of the table these are.
    """
    seeds: dict[tuple[str, str, str], list[int]] = {}
    for name, method, condition, seed in right:
        if method != "robust" and (name, "robust", condition, seed) in right:
            seeds.setdefault((name, condition, method), []).append(seed)
    pairs = []
    for (name, condition, rival), used in seeds.items():
        rows = [tested[name, condition, seed] for seed in used]
        both = [
            np.concatenate(
                [
                    unpacked(right[name, method, condition, seed], len(own))
                    for seed, own in zip(used, rows, strict=True)
                ]
            )
            for method in ("robust", rival)
        ]
        which = np.repeat(used, [len(own) for own in rows])
        mean, error = paired_difference(*both, np.concatenate(rows), which)
        numbers = (round(100 * mean, 3), round(100 * error, 3))
        pairs.append((name, condition, rival, len(used), len(which), *numbers))
    return FIELDS, pairs


def packed(right: NDArray[np.bool_]) -> str:
    """Bits in hexadecimal digits."""
    return np.packbits(right).tobytes().hex()


def unpacked(text: str, count: int) -> NDArray[np.bool_]:
    """The way back: so many bits."""
    return np.unpackbits(np.frombuffer(bytes.fromhex(text), np.uint8), count=count).astype(bool)
