"""Every check of the suite, on every backend that is installed, in every dtype that it claims."""

from __future__ import annotations

import pytest

from dms_spec.conformance.registry import Check, Context, checks
from dms_spec.plugins import available, get_backend


# A graph is traced for every new spec: fewer cases in each run of the tests than where equations
# are simply called. benchmarks/errors.py draws as many as it is told to.
EXAMPLES = {"onnxruntime": 20}


def _cases() -> list[object]:
    return [
        pytest.param(
            check,
            name,
            device,
            dtype,
            id=f"{name}-{device}-{dtype}-{check.name}",
            marks=[pytest.mark.gpu] if device.startswith("cuda") else [],
        )
        for name in available("backend")
        for device in get_backend(name).capabilities.devices
        for dtype in get_backend(name).capabilities.dtypes
        for check in checks()
    ]


# Specs of two modalities that weigh alignment warn, as they should (tested in test_pipeline).
@pytest.mark.filterwarnings("ignore:signal .* is equal for both:dms_spec.errors.DMSWarning")
@pytest.mark.parametrize(("check", "backend", "device", "dtype"), _cases())
def test_check(check: Check, backend: str, device: str, dtype: str) -> None:
    examples = EXAMPLES.get(backend, 100)
    check.run(Context(backend=get_backend(backend), device=device, dtype=dtype, examples=examples))
