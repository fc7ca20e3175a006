"""Checks that artifacts are exchanged: written from one backend's arrays, read into another."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from hypothesis import strategies as st

from dms_spec.artifact import Artifact, load_artifact, save_artifact
from dms_spec.conformance import drawing, oracle, strategies
from dms_spec.conformance.closeness import K, scales
from dms_spec.conformance.registry import Context, check
from dms_spec.errors import DMSError
from dms_spec.interface.backend import Backend
from dms_spec.plugins import available, get_backend
from dms_spec.spec import SchedulerSpec


def _partners(ctx: Context) -> list[Backend]:
    """Lists every backend that works here and takes the dtype, this one among them."""
    found = [ctx.backend]
    for name in available("backend"):
        try:
            backend = get_backend(name)
        except DMSError:  # it is reported by whoever asks for it
            continue
        if name != ctx.backend.name and ctx.dtype in backend.capabilities.dtypes:
            found.append(backend)
    return found


@check("DMS-X-007", "DMS-X-002", level="exchange")
def check_artifacts_are_exchanged(ctx: Context) -> None:
    """Saved by this backend and loaded by another, an artifact is unchanged, and back."""
    partners = _partners(ctx)
    matrices = _with_matrices(ctx)
    if not ctx.lacks((f"policy:{matrices.spec.policy}",)):
        for other in partners:
            if _runs(other, matrices.spec.policy):
                _exchange(ctx, matrices, other)

    @ctx.given(ctx.cases(policies=strategies.POLICIES + drawing.LEARNED), st.data())
    def property_(case: strategies.Case, data: st.DataObject) -> None:
        able = [other for other in partners if _runs(other, case.spec.policy)]
        _exchange(ctx, case, data.draw(st.sampled_from(able)))


def _runs(backend: Backend, policy: str) -> bool:
    policies = backend.capabilities.policies
    return policies is None or policy in policies


def _with_matrices(ctx: Context) -> strategies.Case:
    """Draws matrices that are not square, so that a transposed one gives other weights."""
    random = np.random.Generator(np.random.Philox(11))
    spec = SchedulerSpec(modalities=strategies.names(3), policy="co_attention")
    arrays = {"features": random.normal(size=(4, 3, 5)).astype(ctx.dtype)}
    return strategies.Case(
        spec=spec,
        arrays=arrays | {"present": np.ones((4, 3), dtype=bool)},
        parameters={
            name: random.normal(size=(5, 3)).astype(ctx.computing)
            for name in ("policy.query", "policy.key")
        },
    )


def _exchange(ctx: Context, case: strategies.Case, other: Backend) -> None:
    """Goes both ways between the backend under test and another."""
    exact = oracle.schedule(case.spec, case.arrays, case.parameters)
    scale = scales(case.spec, exact, case.arrays, case.parameters, ctx.computing)
    for writer, reader in ((ctx.backend, other), (other, ctx.backend)):
        own = {
            name: np.asarray(writer.to_numpy(writer.from_numpy(array, _device(writer))))
            for name, array in case.parameters.items()
        }
        with TemporaryDirectory() as folder:
            path = Path(folder) / "artifact"
            save_artifact(path, Artifact(spec=case.spec, parameters=own))
            loaded = load_artifact(path)
        ctx.expect("DMS-X-002", loaded.spec == case.spec, "the spec came back changed")
        for name, array in case.parameters.items():
            back = loaded.parameters[name]
            same = back.dtype == array.dtype and np.array_equal(back, array)
            ctx.expect("DMS-X-002", same, f"parameter {name} came back changed")
        there = Context(backend=reader, device=_device(reader), dtype=ctx.dtype)
        weights = there.schedule(loaded.spec, case.arrays, loaded.scheduler_parameters).weights
        off = np.abs(weights - exact.weights)
        allowed = K * ctx.eps * scale["weights"]
        pair = f"{writer.name} to {reader.name}"
        ctx.expect("DMS-X-007", off <= allowed, f"weights differ on the way from {pair}")


def _device(backend: Backend) -> str:
    return backend.capabilities.devices[0]
