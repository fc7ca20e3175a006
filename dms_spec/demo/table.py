"""Makes a table of the scans to try the library on: views with gaps, labels, groups and a split."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.random import Generator, Philox, SeedSequence
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from dms_spec.demo.views import VIEWS
from dms_spec.embeddings.presence import PREFIX
from dms_spec.embeddings.sources.frame_writer import ParquetWriter
from dms_spec.errors import FileError
from dms_spec.files import SUFFIXES, array_target, save_arrays
from dms_spec.outputs import Target

#: Share of the rows in which a view is missing.
MISSING = 0.1
#: Where a run of scans by one writer begins, and the end. Later runs are left out, so that a fit
#: takes seconds. Source: the lesson on sample grouping of scikit-learn's course,
#: https://inria.github.io/scikit-learn-mooc
RUNS = (0, 130, 256, 386, 516, 646, 776, 915, 1029)
#: The last of them are to measure on: nothing is learned from those writers.
TEST_RUNS = 2

_KIND = "table"
_MARK = f"dms-spec {_KIND}"


def digits_table(seed: int = 0) -> dict[str, NDArray[Any]]:
    """Gives the arrays of a table, as `Table.from_arrays` reads them.

    Args:
        seed: Of the gaps.

    Returns:
        For each view float32 ``[N, D]``, NaN where it is missing, and ``present.<view>`` ``[N]``;
        ``labels`` ``[N]``, the digit; ``groups`` ``[N]``, the run of scans by one writer; and
        ``test``, bool ``[N]``: the last runs. No row misses all views.
    """
    digits = load_digits()
    present = _present(RUNS[-1], Generator(Philox(SeedSequence(seed))))
    arrays: dict[str, NDArray[Any]] = {}
    for name, view in VIEWS.items():
        own = view(digits.images[: RUNS[-1]]).astype(np.float32)
        arrays[name] = np.where(present[name][:, None], own, np.float32(np.nan))
        arrays[PREFIX + name] = present[name]
    lengths = [end - start for start, end in pairwise(RUNS)]
    arrays["labels"] = digits.target[: RUNS[-1]].astype(np.int64)
    arrays["groups"] = np.repeat(np.arange(len(lengths)), lengths)
    arrays["test"] = np.arange(RUNS[-1]) >= RUNS[-1 - TEST_RUNS]
    return arrays


def table_target(path: Path) -> Target:
    """Gives the target of `write_table`, checked before the work is done.

    Raises:
        FileError: Something else is there, or the suffix is unknown.
    """
    if path.suffix == ".parquet":
        return Target.of_file(path, _MARK.encode())
    if path.suffix not in SUFFIXES:
        raise FileError(
            f"the format of {path} is unknown",
            expected=f"{', '.join(SUFFIXES)} or .parquet",
            got=path.suffix or "no suffix",
            fix="Give the file one of these suffixes.",
        )
    return array_target(path, _KIND)


def write_table(target: Target, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Writes a table to ``.npz``, ``.safetensors`` or ``.parquet``.

    Raises:
        FileError: It cannot be written.
        BackendUnavailable: It is Parquet, and pyarrow is not installed.
    """
    with target.writing() as new:
        path = next(iter(new.values()))
        if path.suffix == ".parquet":
            with ParquetWriter(path, _MARK, {}) as writer:
                writer.append(arrays)
        else:
            save_arrays(path, arrays, _KIND)


def _present(rows: int, random: Generator) -> dict[str, NDArray[np.bool_]]:
    there = random.random((rows, len(VIEWS))) >= MISSING
    there[~there.any(axis=1), 0] = True
    return dict(zip(VIEWS, there.T, strict=True))
