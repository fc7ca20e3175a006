"""Makes a table of the scans to try the library on: views with gaps, labels, groups and a split."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.random import Generator, Philox, SeedSequence
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from dms_spec.demo.views import VIEWS
from dms_spec.embeddings.presence import PREFIX

#: Share of the rows in which a view is missing.
MISSING = 0.1
#: Where a run of scans by one writer begins, and the end. Source: the lesson on sample grouping of
#: scikit-learn's course, https://inria.github.io/scikit-learn-mooc
RUNS = (0, 130, 256, 386, 516, 646, 776, 915, 1029, 1157, 1287, 1415, 1545, 1667, 1797)
#: The last of them are for testing: nothing is learned from those writers.
TEST_RUNS = 3


def digits_table(seed: int = 0) -> dict[str, NDArray[Any]]:
    """Gives the arrays of a table, as `Table.from_arrays` reads them.

    Args:
        seed: Of the gaps.

    Returns:
        For each view float32 ``[N, D]``, NaN where it is missing, and ``present.<view>`` ``[N]``;
        ``labels`` ``[N]``, the digit; ``groups`` ``[N]``, the run of scans by one writer; and
        ``test``, the rows of the last runs. No row misses all views.
    """
    digits = load_digits()
    rows = len(digits.target)
    present = _present(rows, Generator(Philox(SeedSequence(seed))))
    arrays: dict[str, NDArray[Any]] = {}
    for name, view in VIEWS.items():
        own = view(digits.images).astype(np.float32)
        arrays[name] = np.where(present[name][:, None], own, np.float32(np.nan))
        arrays[PREFIX + name] = present[name]
    lengths = [end - start for start, end in pairwise(RUNS)]
    arrays["labels"] = digits.target.astype(np.int64)
    arrays["groups"] = np.repeat(np.arange(len(lengths)), lengths)
    arrays["test"] = np.arange(RUNS[-1 - TEST_RUNS], rows)
    return arrays


def _present(rows: int, random: Generator) -> dict[str, NDArray[np.bool_]]:
    there = random.random((rows, len(VIEWS))) >= MISSING
    there[~there.any(axis=1), 0] = True
    return dict(zip(VIEWS, there.T, strict=True))
