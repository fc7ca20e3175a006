"""onnxruntime-node."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def test_it_computes_what_the_spec_says(node: Any, graph: Any, hold: Callable[..., None]) -> None:
    version = node.version("onnxruntime-node")
    found = node.run("node.mjs", {"model": str(graph.path), "batches": graph.encoded()})
    hold(f"onnxruntime-node {version}", graph, graph.decoded(found))
