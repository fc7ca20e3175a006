"""Measures backends against the limit of the machine: reading memory, and exponentials."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import array_api_compat.numpy as np_api
import numpy as np
from numpy.typing import NDArray

from dms_spec.conformance import oracle
from dms_spec.engine.pipeline import compute
from dms_spec.engine.resolve import resolve
from dms_spec.equations.namespace import Namespace
from dms_spec.errors import DMSError, SpecError, VerificationError
from dms_spec.interface.backend import Backend
from dms_spec.plugins import available, get_backend
from dms_spec.spec import SchedulerSpec
from dms_spec.speed.growth import Row
from dms_spec.speed.shapes import Shape
from dms_spec.speed.timing import Call, middle, ratios, rounds
from dms_spec.types import ModalityBatch

#: What the issue of speed is about: 31 million exponentials, 135 MB.
LARGE = Shape(1024, 3, 768, 1000, 10)
#: A batch of a service, and a single sample.
SHAPES = (Shape(1, 3, 768, 1000, 10), Shape(32, 3, 768, 1000, 10), LARGE)

STREAM, EXPONENTIALS, PLAIN = "stream", "exponentials", "plain"

# Weights are near 1; the suite judges rounding, this only sees that the right thing is timed.
_TOLERANCE = 1e-5

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Contender:
    """Holds something to time.

    Attributes:
        run: Schedules a batch that it holds already, and returns the weights as a NumPy array.
        what: What is computed: "forward", or more. Only contenders alike are compared.
    """

    run: Call
    what: str = "forward"


def spec_for(name: str, shape: Shape) -> SchedulerSpec:
    """The preset of a name, for as many modalities as the shape has.

    Raises:
        UnknownName: There is no such preset.
        SpecError: It needs what `dms fit` learns.
    """
    spec = SchedulerSpec.preset(name, tuple(f"m{i}" for i in range(shape.modalities)))
    resolved = resolve(spec)
    if any(resolved.unfitted(signal) for signal in resolved.signals):
        raise SpecError(
            f"the preset {name!r} does nothing before it is fitted",
            expected="a preset without parameters, such as paper",
            got=name,
            fix="Time a fitted artifact by dms predict.",
        )
    return spec


def backends(names: Iterable[str], spec: SchedulerSpec, arrays: Arrays) -> dict[str, Contender]:
    """Makes a contender of each backend, on its first device or the one after a colon.

    Args:
        names: Such as ``numpy`` or ``torch:cuda``.
        spec: What to compute.
        arrays: The batch. Moving it to a device is not timed; fetching the weights is.

    Raises:
        UnknownName, BackendUnavailable: A backend or its device cannot be used here.
    """
    return {name: Contender(_scheduling(name, spec, arrays)) for name in names}


def usable_backends() -> tuple[list[str], dict[str, str]]:
    """Names the backends that run here, and says of each other one why it does not."""
    good, bad = [], {}
    for name in available("backend"):
        try:
            get_backend(name)
        except DMSError as error:
            bad[name] = str(error)
        else:
            good.append(name)
    return good, bad


def _scheduling(name: str, spec: SchedulerSpec, arrays: Arrays) -> Call:
    backend, device = _found(name)
    scheduler = backend.scheduler(spec, device=device)
    batch = ModalityBatch(**{k: backend.from_numpy(v, device) for k, v in arrays.items()})
    return lambda: backend.to_numpy(scheduler(batch).weights)


def _found(name: str) -> tuple[Backend, str]:
    plain, _, device = name.partition(":")
    backend = get_backend(plain)
    return backend, backend.check_device(device or None)


def baselines(shape: Shape, arrays: Arrays) -> dict[str, Call]:
    """What the machine needs to read all inputs once, and for as many exponentials.

    The exponentials are NumPy's, over a buffer that stays in the cache.
    """
    floats = [array for array in arrays.values() if array.dtype != np.bool_]
    inputs = np.full(min(shape.exponentials, 1 << 14), -1.0, np.float32)
    out = np.empty_like(inputs)
    times = -(-shape.exponentials // inputs.size)
    return {
        STREAM: lambda: [array.max() for array in floats],
        EXPONENTIALS: lambda: [np.exp(inputs, out=out) for _ in range(times)],
    }


def plain(spec: SchedulerSpec, arrays: Arrays) -> Contender:
    """The equations in NumPy as they are written, without the primitives of a backend."""
    ns, resolved = Namespace.of(np_api, np.ndarray), resolve(spec)
    batch = ModalityBatch(**arrays)
    return Contender(lambda: compute(ns, resolved, batch).weights)


def measure(
    shape: Shape,
    spec: SchedulerSpec,
    arrays: Arrays,
    contenders: Mapping[str, Contender],
    seconds: float,
) -> list[Row]:
    """Compares every contender with the oracle, then times it beside the baselines.

    Args:
        shape: Of the arrays.
        spec: What is computed.
        arrays: The batch.
        contenders: By name.
        seconds: For each.

    Returns:
        A row for each baseline and contender: ``ms`` (median), ``ms_20``, ``ms_80``,
        ``times_limit`` (median over rounds of the ratio to the slower baseline), ``times_stream``.

    Raises:
        VerificationError: A contender's weights are wrong, so that nothing was timed.
    """
    _compare(spec, arrays, contenders)
    bases = baselines(shape, arrays)
    calls = bases | {name: contender.run for name, contender in contenders.items()}
    times = rounds(calls, seconds)
    limit = [max(pair) for pair in zip(*(times[name] for name in bases), strict=True)]
    rows = []
    for name in calls:
        median, low, high = middle(times[name])
        rows.append(
            shape.sizes()
            | {
                "contender": name,
                "what": contenders[name].what if name in contenders else "",
                "ms": median,
                "ms_20": low,
                "ms_80": high,
                "times_limit": middle(ratios(times, name, limit))[0],
                "times_stream": middle(ratios(times, name, times[STREAM]))[0],
            }
        )
    return rows


def _compare(spec: SchedulerSpec, arrays: Arrays, contenders: Mapping[str, Contender]) -> None:
    few = {k: v[:, :2] if k == "mc_logits" else v[:2] for k, v in arrays.items()}
    exact = oracle.schedule(spec, few).weights
    for name, contender in contenders.items():
        error = np.abs(np.asarray(contender.run())[:2] - exact).max()
        if not error <= _TOLERANCE:
            raise VerificationError(
                f"{name} gives wrong weights, so nothing was timed",
                expected=f"within {_TOLERANCE} of the oracle",
                got=f"an error of {error}",
                fix="`dms check` says what is wrong with a backend.",
            )
