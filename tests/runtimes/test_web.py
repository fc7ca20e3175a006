"""onnxruntime-web (WebAssembly) in headless Chromium, on a page from this machine alone."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
#: What a page needs of the package, and what it is called there.
RUNTIME = {
    "ort.wasm.min.mjs": "ort.mjs",
    "ort-wasm-simd-threaded.mjs": "ort-wasm-simd-threaded.mjs",
    "ort-wasm-simd-threaded.wasm": "ort-wasm-simd-threaded.wasm",
}


def test_it_computes_what_the_spec_says(
    node: Any,
    browser: str,
    serve: Callable[[Path], str],
    tmp_path: Path,
    graph: Any,
    hold: Callable[..., None],
) -> None:
    node.folder("playwright-core")
    package = node.folder("onnxruntime-web") / "dist"
    page = tmp_path / "page"
    page.mkdir()
    for source, target in RUNTIME.items():
        shutil.copyfile(package / source, page / target)
    shutil.copyfile(HERE / "tensors.mjs", page / "tensors.mjs")
    shutil.copyfile(graph.path, page / "model.onnx")
    (page / "index.html").write_text("<!doctype html><title>dms-spec</title>", encoding="utf-8")
    given = {"browser": browser, "profile": str(tmp_path / "profile"), "page": serve(page)}
    done = node.run("web.mjs", given | {"model": "./model.onnx", "batches": graph.encoded()})
    version = f"{node.version('onnxruntime-web')} in Chromium {done['version'].split('.')[0]}"
    hold(f"onnxruntime-web {version}", graph, graph.decoded(done["found"]))
