"""onnxsim, which folds and merges nodes: what it writes still computes the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

onnxsim = pytest.importorskip("onnxsim", reason="onnxsim is not installed: make test-runtimes")
onnxruntime = pytest.importorskip("onnxruntime", reason="not installed: dms-spec[onnxruntime]")


def test_a_simplified_graph_computes_the_same(graph: Any) -> None:
    import onnx

    simplified, _ = onnxsim.simplify(onnx.load(graph.path))
    before = onnxruntime.InferenceSession(str(graph.path))
    after = onnxruntime.InferenceSession(simplified.SerializeToString())
    for what, arrays in graph.batches.items():
        for expected, got in zip(before.run(None, arrays), after.run(None, arrays), strict=True):
            np.testing.assert_array_equal(got, expected, err_msg=what)
