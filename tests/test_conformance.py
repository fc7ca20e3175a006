"""Every check of the suite, on every backend that is installed, in every dtype that it claims."""

from __future__ import annotations

import pytest

from dms_spec.conformance.runner import Planned, plan, run_one
from dms_spec.plugins import available, get_backend

# Enough to see that nothing broke, in the time that all tests together may take. `make reports`
# and `dms check` try a hundred everywhere. A graph is traced for every new spec, and JAX compiles
# every new shape: fewer cases for these.
EXAMPLES = {"numpy": 25, "numba": 4, "onnxruntime": 2, "jax": 10}
OTHERS = 8

#: Tried in every dtype. The others are tried in float32, and in the rest by `make test-slow`.
WHOLE = ("numpy", "torch")

#: Half precision is computed in float32: these dtypes try plain PyTorch, the others Numba's loops.
PLAIN = ("float16", "bfloat16")


def _marks(name: str, planned: Planned) -> list[pytest.MarkDecorator]:
    slow = name not in WHOLE and planned.dtype != "float32"
    cuda = planned.device.startswith("cuda")
    return [pytest.mark.gpu] * cuda + [pytest.mark.slow] * slow


def _cases() -> list[object]:
    return [
        pytest.param(
            name,
            planned,
            id=f"{name}-{planned.id}",
            marks=_marks(name, planned),
        )
        for name in available("backend")
        for planned in plan(get_backend(name))
    ]


@pytest.mark.parametrize(("backend", "planned"), _cases())
def test_check(backend: str, planned: Planned, monkeypatch: pytest.MonkeyPatch) -> None:
    if planned.dtype in PLAIN:
        monkeypatch.setenv("DMS_TORCH_PATH", "plain")
    result = run_one(get_backend(backend), planned, examples=EXAMPLES.get(backend, OTHERS))
    # What is not claimed is not counted as passed; that it is not claimed is no failure of ours.
    good = ("passed", "refusal_ok", "not_claimed")
    assert result.status in good, f"{result.status}: {result.message}\n{result.reproduce}"
