"""A stranger's backend with gradients: examples/dms-jax, where JAX is installed (make test-jax)."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dms_spec import ModalityBatch, SchedulerSpec, get_backend
from dms_spec.conformance import run_check, worked_example
from dms_spec.engine.array_backend import ArrayBackend
from dms_spec.errors import UnsupportedCapability
from dms_spec.interface.backend import Differentiable

ROOT = Path(__file__).resolve().parents[1]

pytestmark = pytest.mark.skipif(
    find_spec("jax") is None or find_spec("dms_jax") is None,
    reason="JAX or examples/dms-jax is not installed: make test-jax",
)


@pytest.fixture
def wide() -> Any:
    """JAX with 64 bits, for one test."""
    with importlib.import_module("jax").enable_x64(True):
        yield


def _batch(dtype: str) -> dict[str, np.ndarray]:
    random = np.random.default_rng(3)
    shapes = {"features": (4, 3, 5), "logits": (4, 3, 6), "mc_logits": (3, 4, 3, 6)}
    arrays = {name: random.normal(size=shape).astype(dtype) for name, shape in shapes.items()}
    arrays["present"] = np.array([[1, 1, 1], [1, 0, 1], [0, 0, 0], [0, 1, 0]], dtype=bool)
    arrays["features"][1, 1] = np.nan
    arrays["features"][3, 1] = 0
    return arrays


def _spec() -> SchedulerSpec:
    names = ("image", "text", "audio")
    return SchedulerSpec.preset("paper", names).replace(detach_signals=False)


def _gradients(name: str, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Of the sum of the squares of what is fused."""
    backend = get_backend(name)
    assert isinstance(backend, ArrayBackend)
    assert isinstance(backend, Differentiable)
    scheduler, xp = backend.scheduler(_spec()), backend.namespace("cpu").xp
    moved = {key: backend.from_numpy(array, "cpu") for key, array in arrays.items()}
    present = moved.pop("present")

    def function(leaves: dict[str, Any]) -> Any:
        fused = scheduler(ModalityBatch(**leaves, present=present)).fused
        return xp.sum(fused * fused)

    return {k: backend.to_numpy(v) for k, v in backend.gradients(function, moved).items()}


@pytest.mark.clause("DMS-H-006")
def test_naming_the_backend_imports_no_jax(spawn: Callable[..., Any]) -> None:
    code = """if True:
        import sys
        from dms_spec import plugin_records
        (record,) = [r for r in plugin_records() if r.plugin == "jax"]
        print(record.status, "dms_jax.plugin" in sys.modules, "jax" in sys.modules)
        """
    assert spawn("-c", code).succeeded().strip() == "ok True False"


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.usefixtures("wide")
def test_the_worked_example(dtype: str) -> None:
    backend = get_backend("jax")
    arrays = {k: backend.from_numpy(v, "cpu") for k, v in worked_example.arrays(dtype).items()}
    result = backend.scheduler(worked_example.SPEC)(ModalityBatch(**arrays))
    weights = backend.to_numpy(result.weights)
    assert weights.dtype == dtype
    expected = [0.2281052807, 0.5280795964, 0.2438151229]
    assert np.abs(weights[0] - expected).max() < (1e-10 if dtype == "float64" else 1e-6)


@pytest.mark.clause("DMS-C-002")
def test_without_64_bits_float64_is_refused_and_not_halved() -> None:
    backend = get_backend("jax")
    with importlib.import_module("jax").enable_x64(False):
        assert "float64" not in backend.capabilities.dtypes
        with pytest.raises(UnsupportedCapability, match="JAX_ENABLE_X64=1") as caught:
            backend.from_numpy(np.ones(3), "cpu")
    assert caught.value.capability == "dtype:float64"


def test_loading_it_changes_no_setting_of_jax(spawn: Callable[..., Any]) -> None:
    code = """if True:
        from dms_spec import get_backend
        print(*get_backend("jax").capabilities.dtypes)
        import jax.numpy as jnp
        print(jnp.ones(3).dtype)
        """
    without = spawn("-c", code, env={"JAX_ENABLE_X64": "0"}).succeeded()
    assert without.splitlines() == ["float32 float16 bfloat16", "float32"]
    given = spawn("-c", code, env={"JAX_ENABLE_X64": "1"}).succeeded()
    assert given.splitlines() == ["float64 float32 float16 bfloat16", "float64"]


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.usefixtures("wide")
def test_gradients_are_those_of_torch(dtype: str) -> None:
    """Absent modalities that hold NaN, a zero vector and an empty sample among them."""
    arrays = _batch(dtype)
    mine, torch = (_gradients(name, arrays) for name in ("jax", "torch"))
    for name, expected in torch.items():
        assert mine[name].dtype == dtype
        off = np.abs(mine[name] - expected).max()
        assert off <= 64 * np.finfo(dtype).eps * (1 + np.abs(expected).max()), name
        assert np.abs(expected).max() > 0, name


@pytest.mark.parametrize(
    "check", ["check_any_case_matches_the_oracle", "check_gradients_are_finite"]
)
def test_some_checks(check: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dms_spec.conformance.runner.EXAMPLES", 5)
    run_check("jax", check, dtype="float32")


def test_a_whole_schedule_is_one_program() -> None:
    """The code of its README: equal to the scheduler's, but for the order of roundings."""
    readme = (ROOT / "examples" / "dms-jax" / "README.md").read_text(encoding="utf-8")
    scope: dict[str, Any] = {}
    (code,) = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    exec(code, scope)
    backend = get_backend("jax")
    arrays = {k: backend.from_numpy(v, "cpu") for k, v in _batch("float32").items()}
    eager = backend.scheduler(scope["spec"])(ModalityBatch(**arrays)).arrays()
    compiled = scope["schedule"](arrays)
    assert compiled.keys() == eager.keys()
    for name, array in eager.items():
        one, other = backend.to_numpy(array), backend.to_numpy(compiled[name])
        assert one.dtype == other.dtype
        np.testing.assert_allclose(one, other, rtol=0, atol=8 * np.finfo(np.float32).eps)
