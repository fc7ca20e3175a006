"""The page "Try it in the browser": built, served from this machine, clicked through."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from runpy import run_path
from threading import Thread
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="the page's heads are learned: dms-spec[torch]")
pytest.importorskip("sklearn", reason="the page has its digits: dms-spec[demo]")

from dms_onnx.truth import Truth
from dms_spec.artifact import Artifact

HERE = Path(__file__).parent
SOURCE = HERE.parents[1] / "docs" / "try"
MODULES = HERE / "node_modules"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
NAMES = ("pixels", "projections", "spectrum", "gradients")


@dataclass(frozen=True)
class Visit:
    """What the page was built from, and what `try_page.mjs` saw."""

    artifact: Artifact
    folder: Path
    address: str
    requests: list[str]
    logged: list[str]
    steps: dict[str, dict[str, Any]]
    said: str

    def inputs(self, step: str) -> dict[str, np.ndarray]:
        given = self.steps[step]["inputs"]
        return {
            name: np.array([values], dtype=bool if name == "present" else np.float32)
            for name, values in given.items()
        }

    def outputs(self, step: str) -> dict[str, np.ndarray]:
        dtypes = {"active": bool, "predicted": np.int64}
        found = {
            name: np.array([values], dtype=dtypes.get(name, np.float32))
            for name, values in self.steps[step]["outputs"].items()
        }
        return found | {"predicted": found["predicted"][:, 0]}

    def weights(self, step: str) -> dict[str, float]:
        return dict(zip(NAMES, self.steps[step]["outputs"]["weights"], strict=True))


class _Quiet(SimpleHTTPRequestHandler):
    # Python does not know .mjs everywhere, and a browser runs no module of an unknown type.
    extensions_map = SimpleHTTPRequestHandler.extensions_map | {
        ".mjs": "text/javascript",
        ".wasm": "application/wasm",
    }

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def visit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Visit]:
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip(f"no Chromium is installed (looked for {', '.join(BROWSERS)})")
    for package in ("onnxruntime-web", "playwright-core"):
        if not (MODULES / package).is_dir():
            pytest.skip(f"the node package {package} is not installed: make test-runtimes")
    folder = tmp_path_factory.mktemp("try")
    artifact = run_path(str(SOURCE / "build.py"))["build"](folder / "page", MODULES)
    with ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(_Quiet, directory=folder / "page")
    ) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            address = f"http://127.0.0.1:{server.server_port}/"
            given = {"browser": browser, "profile": str(folder / "profile"), "page": address}
            done = subprocess.run(
                [node, str(HERE / "try_page.mjs")],
                input=json.dumps(given),
                capture_output=True,
                text=True,
                check=False,
                timeout=120,
            )
        finally:
            server.shutdown()
            thread.join()
    assert done.returncode == 0, done.stderr
    yield Visit(artifact, folder / "page", address, **json.loads(done.stdout))


def test_it_asks_nobody_else_and_has_nothing_to_complain_about(visit: Visit) -> None:
    assert all(url.startswith((visit.address, "data:")) for url in visit.requests), visit.requests
    assert any(url.endswith(".wasm") for url in visit.requests)
    assert visit.logged == []


def test_its_folder_has_what_it_loads_and_nothing_else(visit: Visit) -> None:
    loaded = {url.removeprefix(visit.address) for url in visit.requests}
    loaded = {name or "index.html" for name in loaded if not name.startswith("data:")}
    assert {path.name for path in visit.folder.iterdir()} == loaded


def test_a_click_moves_the_weights(visit: Visit) -> None:
    clean, noisy = visit.weights("clean"), visit.weights("a click on a slider")
    assert noisy["pixels"] < clean["pixels"] - 0.1  # 1.0 of noise, on the page's first digit
    assert visit.steps["clean"]["shown"] != visit.steps["a click on a slider"]["shown"]
    for step in visit.steps:
        if step != "nothing present":
            assert abs(sum(visit.weights(step).values()) - 1) <= 4 * np.finfo(np.float32).eps


def test_the_numbers_are_those_of_numpy(visit: Visit) -> None:
    # K eps of each output's scale: what every exported graph is verified to before it is written.
    truth = Truth(visit.artifact, heads=True, dtype="float32")
    for step in visit.steps:
        truth.answer(visit.inputs(step)).hold(visit.outputs(step))


def test_an_absent_view_has_weight_0_whatever_stands_in_its_place(visit: Visit) -> None:
    assert visit.weights("noise and a cover")["spectrum"] > 0
    for step in ("spectrum absent", "NaN in its place"):
        weights = visit.weights(step)
        assert weights.pop("spectrum") == 0
        assert min(weights.values()) > 0
    assert np.isnan(visit.inputs("NaN in its place")["spectrum"]).all()
    assert np.isfinite(visit.inputs("spectrum absent")["spectrum"]).all()
    absent, filled = (visit.steps[s]["outputs"] for s in ("spectrum absent", "NaN in its place"))
    assert absent == filled
    assert visit.said == "spectrum now NaN: not a bit of any output changed."


def test_nothing_present_is_the_class_frequencies(visit: Visit) -> None:
    outputs = visit.outputs("nothing present")
    assert not outputs["weights"].any() and not outputs["active"].any()
    np.testing.assert_array_equal(
        outputs["probabilities"][0], np.array(visit.artifact.model["prior"], dtype=np.float32)
    )


def test_degrading_is_the_same_every_time(visit: Visit) -> None:
    first = visit.steps["clean"]
    for step in ("back by the keyboard", "undone", "after a reload"):
        assert visit.steps[step]["inputs"] == first["inputs"], step
        assert visit.steps[step]["outputs"] == first["outputs"], step
    assert visit.steps["another digit"]["inputs"] != first["inputs"]


def test_the_degradation_is_what_the_page_says(visit: Visit) -> None:
    """Noise of the same draw at every level, and columns covered from the right."""
    clean, middle, both = (
        visit.inputs(step) for step in ("clean", "a click on a slider", "noise and a cover")
    )
    at_one, at_two = (x["pixels"] - clean["pixels"] for x in (middle, both))
    np.testing.assert_allclose(at_two, 2 * at_one, atol=1e-6)
    assert 0.7 < at_one.std() < 1.3  # 64 numbers: within three standard errors of 1
    covered, before = (x["gradients"].reshape(4, 8) for x in (both, clean))
    assert not covered[:, 4:].any()
    np.testing.assert_array_equal(covered[:, :4], before[:, :4])
