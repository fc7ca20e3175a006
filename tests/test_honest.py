"""Backends that are right in another way than ours pass the whole suite."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from witness import Witness

from dms_spec.conformance.mutants.mutant import Call, Mutant, MutantBackend, library
from dms_spec.conformance.runner import plan, run_one
from dms_spec.errors import UnsupportedCapability
from dms_spec.interface.backend import Backend
from dms_spec.types import ModalityBatch, Schedule

_Values = NDArray[Any]
_CASES = 5


class _Honest(MutantBackend):
    """Differs from the NumPy backend, is as right, and refuses what it does not claim."""

    def from_numpy(self, array: _Values, device: str) -> _Values:
        dtype = array.dtype.name
        if array.dtype.kind == "f" and dtype not in self.capabilities.dtypes:
            raise UnsupportedCapability(f"{dtype} is not claimed", capability=f"dtype:{dtype}")
        return np.asarray(super().from_numpy(array, device))


def _right(name: str, **how: Any) -> _Honest:
    return _Honest(Mutant(name=name, summary=f"{name}, and right", clause="", **how))


def _restless(call: Call) -> Schedule:
    """Sums over classes in random order, and computes rows in blocks that no other call has."""
    random, batch = np.random.default_rng(), call.batch.arrays()
    known = all(isinstance(array, np.ndarray) for array in batch.values())
    if not known or call.spec.strict or call.spec.nonfinite == "raise":
        return call.schedule(call.batch)
    rows, classes = call.batch.shape[0], batch["logits"].shape[-1] if "logits" in batch else 1
    order = np.arange(classes) if call.spec.fusion == "evidence" else random.permutation(classes)
    for name in {"logits", "mc_logits"} & set(batch):
        batch[name] = batch[name][..., order]
    cut = int(random.integers(rows + 1))
    parts = [
        call.schedule(
            ModalityBatch(
                **{n: a[:, part] if n == "mc_logits" else a[part] for n, a in batch.items()}
            )
        )
        for part in (slice(0, cut), slice(cut, None))
    ]
    made = _joined(parts)
    if call.spec.fusion in ("logit", "probability"):
        made = replace(made, fused=made.fused[:, np.argsort(order)])
    return made


def _joined(parts: list[Schedule]) -> Schedule:
    def join(get: Callable[[Schedule], _Values]) -> _Values:
        return np.concatenate([get(part) for part in parts])

    first = parts[0]
    return replace(
        first,
        weights=join(lambda s: s.weights),
        fused=join(lambda s: s.fused),
        scores=join(lambda s: s.scores),
        active=join(lambda s: s.active),
        signals={n: join(lambda s, n=n: s.signals[n]) for n in first.signals},  # type: ignore[misc]
        terms={n: join(lambda s, n=n: s.terms[n]) for n in first.terms},  # type: ignore[misc]
        soundness=None if first.soundness is None else join(lambda s: s.soundness),
    )


def _backwards(values: _Values, axis: Any = None, **how: Any) -> _Values:
    """Sums from the last entry to the first, in pairs that nobody else has."""
    turned = values if axis is None else np.flip(values, axis)
    return np.asarray(np.add.reduce(np.asfortranarray(turned), axis=axis, **how))


HONEST: list[Backend] = [
    _right(
        "float32 and linear only",
        claims=lambda c: replace(c, dtypes=("float32",), policies=("linear",), gradients=False),
    ),
    _right("static only", claims=lambda c: replace(c, dtypes=("float64",), policies=("static",))),
    _right(
        "in random order",
        claims=lambda c: replace(c, dtypes=("float32",), bitwise_deterministic=False),
        around=_restless,
    ),
    _right(
        "summed backwards",
        claims=lambda c: replace(c, dtypes=("float32",)),
        namespace=library(sum=_backwards),
    ),
    Witness(),
]


@pytest.mark.parametrize("backend", HONEST, ids=lambda backend: backend.name)
def test_whoever_is_right_passes(backend: Backend) -> None:
    bad = []
    for one in plan(backend):
        if one.check.level not in ("exchange", "export"):
            result = run_one(backend, one, examples=_CASES)
            if result.status not in ("passed", "refusal_ok", "not_claimed"):
                bad.append(f"{result.check} [{result.dtype}]: {result.status}: {result.message}")
    assert not bad, "\n".join(bad)
