"""The C++ example: compiled, linked to the library of the Python wheel, run."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

SOURCE = Path(__file__).parents[2] / "examples" / "cpp" / "schedule.cpp"
HEADER = "onnxruntime_cxx_api.h"
FOLDERS = ("/usr/include/onnxruntime", "/usr/local/include/onnxruntime")


@pytest.fixture
def headers() -> Path:
    """They are in no Python or node package: Debian's libonnxruntime-dev has them."""
    places = (os.environ.get("ONNXRUNTIME_INCLUDE", ""), *FOLDERS)
    for folder in map(Path, filter(None, places)):
        if (folder / HEADER).exists():
            return folder
    pytest.skip(f"no {HEADER} in {', '.join(FOLDERS)} or in what ONNXRUNTIME_INCLUDE names")


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """A folder with the wheel's library under the names that linker and loader look for."""
    onnxruntime = pytest.importorskip("onnxruntime", reason="not installed: dms-spec[onnxruntime]")
    found = sorted((Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so.*"))
    if not found:
        pytest.skip("this wheel of onnxruntime has no library to link to")
    folder = tmp_path / "lib"
    folder.mkdir()
    for name in ("libonnxruntime.so", "libonnxruntime.so.1"):
        (folder / name).symlink_to(found[0])
    return folder


def test_the_example_computes_what_the_spec_says(
    headers: Path, library: Path, graphs: Callable[[str], Any], tmp_path: Path
) -> None:
    compiler = shutil.which("c++")
    if compiler is None:
        pytest.skip("no C++ compiler is installed")
    program = tmp_path / "schedule"
    strict = ("-std=c++17", "-Wall", "-Wextra", "-Werror")
    linked = ("-isystem", headers, "-L", library, f"-Wl,-rpath,{library}", "-lonnxruntime")
    subprocess.run([compiler, *strict, SOURCE, "-o", program, *linked], check=True)
    graph = graphs("paper")
    done = subprocess.run([program, graph.path], capture_output=True, text=True, check=True)
    found = {
        name: np.array([values], dtype=np.float32)
        for name, *values in map(str.split, done.stdout.splitlines())
    }
    answer = graph.truth.answer(
        {
            "features": np.array([[[1, 0], [0.9, 0.3], [np.nan, np.nan]]], np.float32),
            "logits": np.array([[[4, 0, 0], [1, 0.5, 0], [np.nan] * 3]], np.float32),
            "mc_logits": np.zeros((1, 1, 3, 3), np.float32),
            "present": np.array([[True, True, False]]),
        }
    )
    assert list(found) == ["weights", "fused"]
    for name, array in found.items():
        answer.context.expect_close(name, name, array, answer.exact[name], answer.scale[name])
