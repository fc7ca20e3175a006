"""The graphs that every runtime is given, what they should answer, and how it is written down."""

from __future__ import annotations

import base64
import csv
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from dms_spec.artifact import Artifact, load_artifact
from dms_spec.cli import main
from dms_spec.plugins import get_exporter
from dms_spec.spec import SchedulerSpec

if TYPE_CHECKING:
    from dms_onnx.truth import Answer, Truth

Arrays = Mapping[str, np.ndarray]

HERE = Path(__file__).parent
NAMES = ("image", "text", "audio")
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@dataclass(frozen=True)
class Graph:
    """An exported graph, the batches that it is held to, and what they should give."""

    name: str
    spec: SchedulerSpec
    path: Path
    truth: Truth
    batches: dict[str, Arrays]
    answers: dict[str, Answer]

    def encoded(self) -> list[dict[str, Any]]:
        """The batches for `tensors.mjs`."""
        return [
            {name: _encoded(array) for name, array in arrays.items()}
            for arrays in self.batches.values()
        ]

    def decoded(self, found: list[dict[str, Any]]) -> dict[str, Arrays]:
        """What `tensors.mjs` made of the outputs, by batch."""
        return {
            what: {name: _decoded(**value) for name, value in outputs.items()}
            for what, outputs in zip(self.batches, found, strict=True)
        }


def _encoded(array: np.ndarray) -> dict[str, Any]:
    data = base64.b64encode(array.tobytes()).decode()
    return {"type": array.dtype.name, "dims": array.shape, "data": data}


def _decoded(type: str, dims: list[int], data: Any) -> np.ndarray:  # noqa: A002 - as in JSON
    if type == "string":
        return np.array(data).reshape(dims)
    return np.frombuffer(base64.b64decode(data), dtype=type).reshape(dims)


@pytest.fixture(params=["paper", "robust", "fitted"])
def graph(request: pytest.FixtureRequest, graphs: Callable[[str], Graph]) -> Graph:
    return graphs(request.param)


@pytest.fixture(scope="session")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Graph]:
    """Exports a graph by its name, once."""
    made: dict[str, Graph] = {}

    def make(name: str) -> Graph:
        if name not in made:
            made[name] = _exported(name, tmp_path_factory.mktemp(name))
        return made[name]

    return make


def _exported(name: str, folder: Path) -> Graph:
    for module in ("onnx", "ndonnx", "spox"):
        pytest.importorskip(module, reason=f"the exporter needs {module}: dms-spec[onnx]")
    from dms_onnx import batches
    from dms_onnx.trace import input_axes
    from dms_onnx.truth import Truth

    heads = name == "fitted"
    artifact = _fitted(folder) if heads else Artifact(spec=_spec(name))
    path = get_exporter("onnx").export(artifact, folder)
    truth = Truth(artifact, heads=heads, dtype="float32")
    drawn = dict(batches.draw(input_axes(artifact, heads=heads), "float32"))
    answers = {what: truth.answer(arrays) for what, arrays in drawn.items()}
    return Graph(name, artifact.spec, path, truth, drawn, answers)


def _spec(name: str) -> SchedulerSpec:
    """A preset, or a rule with nothing in it that would have to be fitted."""
    if name != "rule":
        return SchedulerSpec.preset(name, NAMES)
    signals = {"confidence": {}, "uncertainty": {"reduction": "sum"}, "corroboration": {}}
    return SchedulerSpec(
        modalities=NAMES,
        signals=signals,
        coefficients=dict.fromkeys(signals, 0.5),
        fusion="logit",
    )


def _fitted(folder: Path) -> Artifact:
    """Learned in a moment: it has heads, and classes with names; it need not be any good."""
    pytest.importorskip("torch", reason="dms fit needs torch: dms-spec[torch]")
    random = np.random.Generator(np.random.Philox(0))
    classes = random.integers(3, size=60)
    table = {
        name: (classes[:, None] + random.normal(size=(60, 4 + m))).astype(np.float32)
        for m, name in enumerate(NAMES)
    }
    np.savez(folder / "train.npz", **table, labels=np.array(["cat", "dog", "eel"])[classes])
    options = ("--epochs", "3", "--passes", "3")
    assert main(["fit", str(folder / "train.npz"), "-o", str(folder / "model"), *options]) == 0
    return load_artifact(folder / "model")


@dataclass
class Ledger:
    """The worst error of every output of every graph in every runtime."""

    cells: dict[tuple[str, str], dict[str, tuple[float, float]]] = field(default_factory=dict)

    def add(self, runtime: str, graph: str, answer: Answer, found: Arrays) -> None:
        """What an answer that was held says, and the largest plain difference beside it."""
        for name, units in answer.worst.items():
            exact = answer.exact[name]
            finite = np.isfinite(exact)
            off = np.abs(found[name][finite].astype(np.float64) - exact[finite])
            cell = self.cells.setdefault((graph, name), {})
            before = cell.get(runtime, (0.0, 0.0))
            cell[runtime] = max(before[0], units), max(before[1], float(off.max(initial=0.0)))

    def write(self, path: Path) -> None:
        runtimes = sorted({name for cell in self.cells.values() for name in cell}, key=str.lower)
        with path.open("w", encoding="utf-8", newline="") as file:
            rows = csv.writer(file, lineterminator="\n")
            rows.writerow(["graph", "output", *runtimes])
            for (graph, name), cell in self.cells.items():
                shown = (
                    f"{cell[r][0]:.2f} ({cell[r][1]:.0e})" if r in cell else "" for r in runtimes
                )
                rows.writerow([graph, name, *shown])


@pytest.fixture(scope="session")
def ledger() -> Iterator[Ledger]:
    """Written at the end, as a table, to the file that MEASURED names."""
    ledger = Ledger()
    yield ledger
    if path := os.environ.get("MEASURED"):
        ledger.write(Path(path))


@pytest.fixture
def hold(ledger: Ledger) -> Callable[..., None]:
    """Holds what a runtime found, by batch and output, to what is right."""

    def hold(runtime: str, graph: Graph, found: Mapping[str, Arrays]) -> None:
        for what, answer in graph.answers.items():
            try:
                answer.hold(found[what])
            except AssertionError as error:
                raise AssertionError(f"{runtime}, {graph.name}, {what}: {error}") from error
            ledger.add(runtime, graph.name, answer, found[what])

    return hold


class Node:
    """Node, with the packages that `make test-runtimes` installs into this folder."""

    def __init__(self, program: str) -> None:
        self._program = program

    def run(self, script: str, given: Mapping[str, Any]) -> Any:
        """A script of this folder: JSON in, JSON out."""
        done = subprocess.run(
            [self._program, str(HERE / script)],
            input=json.dumps(given),
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def folder(self, package: str) -> Path:
        """Where a package lies; skips the test where it is not installed."""
        folder = HERE / "node_modules" / package
        if not folder.exists():
            pytest.skip(f"the node package {package} is not installed: make test-runtimes")
        return folder

    def version(self, package: str) -> str:
        about = (self.folder(package) / "package.json").read_text(encoding="utf-8")
        return str(json.loads(about)["version"])


@pytest.fixture(scope="session")
def node() -> Node:
    program = shutil.which("node")
    if program is None:
        pytest.skip("node is not installed")
    return Node(program)


@pytest.fixture(scope="session")
def browser() -> str:
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"no Chromium is installed (looked for {', '.join(BROWSERS)})")
    return found


class _Quiet(SimpleHTTPRequestHandler):
    # Python does not know .mjs everywhere, and a browser runs no module of an unknown type.
    extensions_map = SimpleHTTPRequestHandler.extensions_map | {
        ".mjs": "text/javascript",
        ".wasm": "application/wasm",
    }

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture(scope="session")
def serve() -> Iterator[Callable[[Path], str]]:
    """Serves folders on this machine, each at the address that comes back."""
    with ExitStack() as stack:

        def start(folder: Path) -> str:
            handler = partial(_Quiet, directory=str(folder))
            server = stack.enter_context(ThreadingHTTPServer(("127.0.0.1", 0), handler))
            thread = Thread(target=server.serve_forever)
            thread.start()
            stack.callback(thread.join)
            stack.callback(server.shutdown)
            return f"http://127.0.0.1:{server.server_port}/"

        yield start
