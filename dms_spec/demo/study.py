"""Studies how well each way of weighing the views does, under each condition.

Weights are never computed here: every number comes out of a scheduler of the chosen backend.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Any

import numpy as np
from numpy.random import SeedSequence
from numpy.typing import NDArray

from dms_spec.demo.data import (
    CONDITIONS,
    NAMES,
    BoolArray,
    Condition,
    Split,
    comparable,
    make_batch,
    make_split,
)
from dms_spec.demo.trust import Arrays
from dms_spec.demo.views import FloatArray
from dms_spec.engine.resolve import resolve
from dms_spec.interface.backend import Backend
from dms_spec.spec import SchedulerSpec
from dms_spec.types import ModalityBatch

#: Splits of the scans, each with classifiers, masks, noise and drawn views of its own.
REPEATS = 5

#: Static and paper fuse probabilities, so that they differ in nothing but the weights; robust fuses
#: evidence. How far to trust could be learned with torch, by ``dms fit``: here it is not.
SPECS: dict[str, SchedulerSpec] = {
    "static": SchedulerSpec.preset("static", NAMES).replace(fusion="probability"),
    "paper": SchedulerSpec.preset("paper", NAMES).replace(fusion="probability"),
    "robust": SchedulerSpec.preset("robust", NAMES),
}

#: The static mean over the views that were not degraded, which no real method knows.
ORACLE = "mask oracle"

#: The view that the sweep degrades in every sample, and how far.
SWEPT = "pixels"
LEVELS: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0)

#: Samples in the example file.
EXAMPLES = 200

#: By method, one accuracy per split.
Accuracy = dict[str, list[float]]


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Says what is known about one sample of the example file."""

    label: int
    condition: str
    degraded: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Study:
    """Holds everything that was measured.

    Attributes:
        train: Number of scans trained on, in each split.
        validation: Number of validation scans, to calibrate by, in each split.
        test: Number of scans tested on, in each split.
        accuracy: By condition.
        weight_on_degraded: By condition, what `robust` gave to the degraded views together, the
            mean over the samples; one number per split.
        sweep_accuracy: By level of the sweep.
        sweep_weights: Weights that `robust` gave, [levels, N, M], one split after the other.
        sweep_inputs: The swept view of the first split's scans, [levels, n, W].
        sweep_labels: What those scans show, [n].
        parameters: What `robust` learned in the first split.
        example: A batch of that split, whose samples take turns in being under each condition.
        samples: What is known about each sample of that batch.
    """

    train: int
    validation: int
    test: int
    accuracy: dict[str, Accuracy]
    weight_on_degraded: dict[str, list[float]]
    sweep_accuracy: list[Accuracy]
    sweep_weights: FloatArray
    sweep_inputs: FloatArray
    sweep_labels: NDArray[Any]
    parameters: Arrays
    example: Arrays
    samples: list[Sample]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Holds one split under one condition.

    Attributes:
        accuracy: Of each view alone, of each spec and of the mask oracle.
        weights: Weights that `robust` gave, [N, M].
        weight_on_degraded: Their sum over the degraded views, the mean over the samples.
    """

    accuracy: dict[str, float]
    weights: FloatArray
    weight_on_degraded: float


def run_study(
    backend: Backend,
    seed: int,
    repeats: int = REPEATS,
    progress: Callable[[Iterable[SeedSequence]], Iterable[SeedSequence]] = iter,
) -> Study:
    """Measures every method under every condition, and at every level of the sweep.

    Args:
        backend: Where to compute.
        seed: Of everything random.
        repeats: How many splits.
        progress: Wraps the loop over the splits, to show how far it is.
    """
    levels = [Condition(name=f"noise {x:g}", kind="noise", sigma=x) for x in LEVELS]
    splits: list[Split] = []
    table: list[list[Measured]] = []
    sweep: list[list[Measured]] = []
    seeds = SeedSequence(seed).spawn(repeats)
    for child in progress(seeds):
        split = make_split(child)
        swept = np.broadcast_to(np.array(NAMES) == SWEPT, split.drawn.shape)
        splits.append(split)
        table.append([measure(backend, split, c, split.degraded(c)) for c in CONDITIONS])
        sweep.append([measure(backend, split, level, swept) for level in levels])
    rows = {c.name: row for c, *row in zip(CONDITIONS, *table, strict=True)}
    first = splits[0]
    example, samples = make_example(first)
    return Study(
        train=first.train,
        validation=first.validation,
        test=len(first.labels),
        accuracy={name: _by_method(row) for name, row in rows.items()},
        weight_on_degraded={n: [m.weight_on_degraded for m in row] for n, row in rows.items()},
        sweep_accuracy=[_by_method(row) for row in zip(*sweep, strict=True)],
        sweep_weights=np.concatenate([[m.weights for m in steps] for steps in sweep], axis=1),
        sweep_inputs=np.stack([first.views[SWEPT].noisy(level) for level in LEVELS]),
        sweep_labels=first.labels,
        parameters=first.parameters,
        example=example,
        samples=samples,
    )


def _by_method(splits: Sequence[Measured]) -> Accuracy:
    return {name: [m.accuracy[name] for m in splits] for name in splits[0].accuracy}


def measure(backend: Backend, split: Split, condition: Condition, drawn: BoolArray) -> Measured:
    """Runs everything on the test part of a split, with the drawn views [N, M] degraded."""
    arrays = make_batch(split, condition, drawn)
    present, static = arrays["present"], SPECS["static"]
    alone = np.eye(len(NAMES), dtype=bool)
    runs = {name: (static, present & alone[m]) for m, name in enumerate(NAMES)}
    runs |= {name: (spec, present) for name, spec in SPECS.items()}
    runs[ORACLE] = static, present & ~drawn
    results = {
        method: schedule(backend, spec, split.parameters, arrays | {"present": there})
        for method, (spec, there) in runs.items()
    }
    weights, _ = results["robust"]
    return Measured(
        accuracy={
            method: float(np.mean(predicted == split.labels))
            for method, (_, predicted) in results.items()
        },
        weights=weights,
        weight_on_degraded=float(weights[drawn].sum() / len(weights)),
    )


def schedule(
    backend: Backend, spec: SchedulerSpec, learned: Arrays, arrays: Arrays
) -> tuple[FloatArray, NDArray[np.intp]]:
    """Computes weights [N, M] and classes [N]; -1, which is never right, if nothing is active."""
    device = backend.check_device(None)
    parameters = learned if "typicality" in spec.signals else {}
    if resolve(spec, parameters).shares_space():
        arrays = comparable(arrays)
    batch = {name: backend.from_numpy(array, device) for name, array in arrays.items()}
    result = backend.scheduler(spec, parameters, device=device)(ModalityBatch(**batch))
    fused, active = backend.to_numpy(result.fused), backend.to_numpy(result.active)
    predicted = np.where(active.any(axis=1), fused.argmax(axis=1), -1)
    return backend.to_numpy(result.weights), predicted


def make_example(split: Split) -> tuple[Arrays, list[Sample]]:
    """Takes the first test samples; sample i is under condition i modulo their number."""
    turns = [CONDITIONS[i % len(CONDITIONS)] for i in range(min(EXAMPLES, len(split.labels)))]
    batches = {c.name: make_batch(split, c, split.degraded(c)) for c in CONDITIONS}
    arrays = {}
    for name in batches[turns[0].name]:
        axis = 1 if name == "mc_logits" else 0
        rows = [np.take(batches[turn.name][name], i, axis) for i, turn in enumerate(turns)]
        arrays[name] = np.stack(rows, axis)
    samples = [
        Sample(
            label=int(split.labels[i]),
            condition=turn.name,
            degraded=tuple(compress(NAMES, split.degraded(turn)[i])),
        )
        for i, turn in enumerate(turns)
    ]
    return arrays, samples
