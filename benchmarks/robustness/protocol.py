"""The protocol: splits, scaling, skewed versions, and what happens to the test rows.

80/20 by ``RandomState(seed).permutation(n)``, or a table's own train and test rows. Features are
scaled to [0, 1] by the training rows, without clipping. Test rows alone are corrupted:
``max(1, M // 2)`` modalities of each sample. The first eight conditions are those that the peers
were measured under, with ``RandomState(1000 + seed)``. The others are corruptions of
``dms robustness`` with the seed ``1000 + seed``. The noise of a seed is the same at every level,
only larger.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dms_spec.embeddings.labels import class_indices
from dms_spec.embeddings.table import Table, read_table
from dms_spec.errors import DMSError
from dms_spec.robustness import HALF, Case, Samples, corrupt, corruption

SEEDS = (0, 1, 2, 3, 4)
SIGMAS = (0.1, 0.3, 0.5, 1.0, 2.0)
NOISE = tuple(f"sigma {sigma:g}" for sigma in SIGMAS)
#: The conditions that peers were measured under. Nobody is told what was corrupted.
CONDITIONS = ("clean", *NOISE, "zeroed", "conflict")
#: Other ways to go wrong, untold as well: the corruption of `dms_spec.robustness`, its severity.
OTHERS: dict[str, tuple[str, float]] = {
    "swap": ("swap", 1.0),
    "swap, same class": ("swap_same_class", 1.0),
    "sign flip": ("sign_flip", 1.0),
    "scale x 0.1": ("scaling", 0.1),
    "scale x 10": ("scaling", 10.0),
    "offset 0.5": ("shift", 0.5),
    "drift to 1": ("drift", 1.0),
    "correlated noise 0.5": ("correlated", 0.5),
    "stuck at the mean": ("stuck_at_mean", 1.0),
    "half dead": ("dead", 0.5),
    "permuted": ("permuted", 1.0),
    "three levels": ("quantised", 3.0),
}
#: What half of the classes keep of their rows, in the skewed versions of a table.
SHARES = (0.2, 0.1, 0.05)
#: The drawn modalities are absent, and everybody is told: a protocol of its own.
TOLD = "absent, told"

# RCML (Xu et al., AAAI 2024): shares of the test rows, and the noise.
_NOISY, _SWAPPED, _SIGMA = 0.1, 0.4, 0.5

Inputs = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, kw_only=True)
class Split:
    """One table and one seed. The table holds scaled features, train and test rows.

    ``share`` is what half of the classes keep of their rows: 1 but in the skewed versions.
    """

    name: str
    seed: int
    share: float
    table: Table
    classes: NDArray[Any]

    @property
    def training(self) -> Table:
        """What methods may see: the training rows alone."""
        return self.table.rows(self.table.training_rows())

    @property
    def labels(self) -> NDArray[np.intp]:
        """Indices of the test rows' classes."""
        assert self.table.labels is not None
        return class_indices(self.classes, self.table.labels[self.table.test])


@dataclass(frozen=True, kw_only=True)
class Trial:
    """The test rows under one condition; ``hit`` is what was corrupted, bool [N, M]."""

    inputs: Inputs
    present: NDArray[np.bool_]
    hit: NDArray[np.bool_]


def tables(folder: Path) -> tuple[dict[str, Table], dict[str, str]]:
    """The tables of a folder by name, and why other files are none."""
    found, skipped = {}, {}
    for path in sorted(folder.glob("*.npz")):
        try:
            table = read_table(path, None, need_labels=True)
        except DMSError as error:
            skipped[path.stem] = str(error).splitlines()[0].replace(f"{path}", path.stem)
            continue
        if len(table.modalities) < 2 or not table.present.all():
            skipped[path.stem] = "not two modalities or more that are all there"
            continue
        found[path.stem] = table
    return found, skipped


def split(name: str, table: Table, seed: int, share: float = 1.0) -> Split:
    """Cut a table in two, leave out most of some classes, and scale it by the training rows.

    Test rows that are drawn stay in the order in which they were drawn: tables are often sorted by
    class, and drift must not hit the last class most.
    """
    if table.test is None:
        order = np.random.RandomState(seed).permutation(len(table))
        cut = int(0.8 * len(table))
        table = replace(table, train=np.sort(order[:cut]), test=order[cut:])
    if share < 1:
        table = skewed(table, share, seed)
    rows = table.training_rows()
    scaled = {}
    for modality, array in table.embeddings.items():
        x = array.astype(np.float64)
        low, reach = x[rows].min(axis=0), np.ptp(x[rows], axis=0)
        scaled[modality] = ((x - low) / np.where(reach > 0, reach, 1.0)).astype(np.float32)
    assert table.labels is not None
    return Split(
        name=name,
        seed=seed,
        share=share,
        table=replace(table, embeddings=scaled),
        classes=np.unique(table.labels[rows]),
    )


def skewed(table: Table, share: float, seed: int) -> Table:
    """Half of the classes, drawn by the seed, keep a share of their training and test rows.

    At least two training rows and one test row of each class stay. A smaller share keeps a part of
    what a larger one keeps.
    """
    random = np.random.RandomState(2000 + seed)
    labels = table.labels
    assert labels is not None and table.test is not None
    classes = random.permutation(np.unique(labels))
    few, order = classes[: len(classes) // 2], random.permutation(len(table))

    def kept(rows: NDArray[np.intp], least: int) -> NDArray[np.intp]:
        keep = np.ones(len(table), dtype=bool)
        for one in few:
            own = order[np.isin(order, rows) & (labels[order] == one)]
            keep[own[max(least, round(share * len(own))) :]] = False
        return rows[keep[rows]]

    return replace(table, train=kept(table.training_rows(), 2), test=kept(table.test, 1))


def trial(own: Split, condition: str) -> Trial:
    """The test rows under a condition: of `CONDITIONS`, `OTHERS`, `TOLD` or `alone`."""
    if condition in OTHERS:
        return _corrupted(own, *OTHERS[condition])
    kind, _, only = condition.partition(" on ")
    random = np.random.RandomState(1000 + own.seed)
    names, rows = own.table.modalities, own.table.test
    assert rows is not None
    inputs = {name: x[rows].copy() for name, x in own.table.embeddings.items()}
    shape = (len(rows), len(names))
    present, hit = np.ones(shape, dtype=bool), np.zeros(shape, dtype=bool)
    if kind == "conflict":
        hit = _conflict(own, inputs, random)
    elif kind != "clean":
        number = max(1, len(names) // 2)
        for i in range(len(rows)):
            hit[i, random.choice(len(names), number, replace=False)] = True
        if only:
            hit[:] = np.array(names) == only
        for m, name in enumerate(names):
            if kind.startswith("sigma"):
                noise = float(kind.split()[1]) * random.standard_normal(inputs[name].shape)
                corrupted = (inputs[name] + noise).astype(np.float32)
            else:
                corrupted = np.zeros_like(inputs[name])
            inputs[name] = np.where(hit[:, m, None], corrupted, inputs[name])
        if kind == TOLD:
            present = ~hit
    return Trial(inputs=inputs, present=present, hit=hit)


def _corrupted(own: Split, name: str, severity: float) -> Trial:
    rows, training = own.table.test, own.training.embeddings
    inputs = {key: x[rows] for key, x in own.table.embeddings.items()}
    samples = Samples.of(inputs, own.labels, training=training)
    what, seed = corruption(name), 1000 + own.seed
    got = corrupt(samples, Case(corruption=what, severity=severity, pattern=HALF, seed=seed))
    return Trial(inputs=got.inputs, present=got.present, hit=got.hit)


def alone(names: tuple[str, ...]) -> tuple[str, ...]:
    """Conditions in which one modality is corrupted, in every test row."""
    return tuple(f"{kind} on {name}" for name in names for kind in ("sigma 1", "zeroed"))


def _conflict(
    own: Split, inputs: dict[str, NDArray[Any]], random: np.random.RandomState
) -> NDArray[np.bool_]:
    """RCML's routine: noise in some modalities of some rows, then one modality of other rows is
    that of the first sample of the next class."""
    names, count = own.table.modalities, len(own.labels)
    labels = own.table.labels
    assert labels is not None
    hit = np.zeros((count, len(names)), dtype=bool)
    for i in random.choice(count, int(_NOISY * count), replace=False):
        for m in random.choice(len(names), random.randint(len(names)), replace=False):
            x = inputs[names[m]]
            x[i] += _SIGMA * random.standard_normal(x.shape[1])
            hit[i, m] = True
    for i in random.choice(count, int(_SWAPPED * count), replace=False):
        m = random.randint(len(names))
        other = own.classes[(own.labels[i] + 1) % len(own.classes)]
        first = np.flatnonzero(labels == other)[0]
        inputs[names[m]][i] = own.table.embeddings[names[m]][first]
        hit[i, m] = True
    return hit
