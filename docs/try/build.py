"""Builds the page "Try it in the browser": static files alone, for any web server.

It learns from scikit-learn's digits as `dms fit` does, and exports what was learned as
`dms export onnx` does. It puts the graph, some test digits, the page and ONNX Runtime's
WebAssembly into one folder:

    python docs/try/build.py --packages docs/try/node_modules -o docs/_build/html/try
"""

# ruff: noqa: TID253 - a script, not the package: it needs what it imports

from __future__ import annotations

import argparse
import json
import math
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.random import Generator, Philox
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import MinMaxScaler

from dms_onnx.exporter import OnnxExporter
from dms_spec.artifact import Artifact
from dms_spec.demo.data import DRAWN, NAMES, TEST_SHARE
from dms_spec.demo.views import VIEWS
from dms_spec.embeddings.predictor import Predictor, evaluate
from dms_spec.embeddings.table import Table
from dms_spec.plugins import get_backend, get_signal
from dms_spec.spec import SchedulerSpec
from dms_torch.fit.training import fit

HERE = Path(__file__).resolve().parent
PAGE = ("index.html", "style.css", "page.js")
# The smallest set that runs a graph: the script with its loader inside, and the WebAssembly.
RUNTIME = ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm")

#: The default of `dms fit`.
PRESET = "robust"
SEED = 0
#: How many digits the page has.
SHOWN = 40
#: How the page lays out the numbers of a view, and what they are.
LAYOUT = {
    "pixels": ((8, 8), "the scan itself"),
    "projections": ((2, 8), "ink of each row, ink of each column"),
    "spectrum": ((8, 5), "strength of each spatial frequency"),
    "gradients": ((4, 8), "edges: four quarters, eight directions"),
}
#: Noise of the measured conditions, where the training range of a number is 1.
LEVELS = (0.0, 0.5, 1.0, 2.0)


def read_table() -> tuple[Table, NDArray[Any]]:
    """Reads the digits in the demonstration's four views, each scaled by its training rows."""
    digits = load_digits()
    train, test = train_test_split(
        np.arange(len(digits.target)),
        test_size=TEST_SHARE,
        stratify=digits.target,
        random_state=SEED,
    )
    embeddings = {}
    for name, view in VIEWS.items():
        inputs = view(digits.images)
        scaled = MinMaxScaler().fit(inputs[train]).transform(inputs)
        # Four decimals keep the page's file small; both sides then start from equal numbers.
        embeddings[name] = scaled.round(4).astype(np.float32)
    table = Table(
        embeddings=embeddings,
        present=np.ones((len(digits.target), len(NAMES)), dtype=bool),
        labels=digits.target,
        train=np.sort(train),
        test=np.sort(test),
    )
    return table, digits.images


def learn(table: Table) -> Artifact:
    """Learns what `dms fit` learns: heads, temperatures, what is typical of a view, a policy."""
    return fit(table, SchedulerSpec.preset(PRESET, NAMES)).artifact


def measure(artifact: Artifact, table: Table) -> list[dict[str, float]]:
    """Measures the artifact on all test digits, with noise on half of each one's views."""
    numpy = get_backend("numpy")
    predictor = Predictor(artifact, numpy)
    random = Generator(Philox(SEED))
    test = table.rows(table.test)
    some = np.tile(np.arange(len(NAMES)) < DRAWN, (len(test), 1))
    drawn = random.permuted(some, axis=1)
    noise = {name: random.standard_normal(x.shape) for name, x in test.embeddings.items()}
    clean = predictor.predict(test)["weights"][drawn]
    rows = []
    for level in LEVELS:
        embeddings = {
            name: (x + drawn[:, [m]] * level * noise[name]).astype(np.float32)
            for m, (name, x) in enumerate(test.embeddings.items())
        }
        noisy = Table(embeddings=embeddings, present=test.present, labels=test.labels)
        measured = evaluate(artifact, numpy, noisy)
        weights = predictor.predict(noisy)["weights"][drawn]
        rows.append(
            {
                "noise": level,
                "scheduled": measured["fused"]["accuracy"],
                "static": measured["static"]["accuracy"],
                "share": float(weights.sum() / len(test)),
                "rose": float((weights > clean).mean()),
            }
        )
    return rows


def draw(artifact: Artifact, table: Table) -> NDArray[np.intp]:
    """Draws the rows to show: those first whose clean weights are nearest to the mean."""
    weights = Predictor(artifact, get_backend("numpy")).predict(table.rows(table.test))["weights"]
    distance = np.square(weights - weights.mean(axis=0)).sum(axis=1)
    shown = Generator(Philox(SEED + 1)).permutation(len(table.test))[:SHOWN]
    return table.test[shown[np.argsort(distance[shown])]]


def describe(artifact: Artifact, table: Table, scans: NDArray[Any]) -> dict[str, Any]:
    """Describes everything that the page shows and does not compute."""
    spec = artifact.spec
    return {
        "modalities": [
            {"name": name, "shape": shape, "about": about}
            for name, (shape, about) in LAYOUT.items()
        ],
        "signals": [{"name": name, "better": get_signal(name).direction} for name in spec.signals],
        "classes": artifact.model["classes"],
        "preset": PRESET,
        "training": len(table.training_rows()),
        "test": len(table.test),
        "measured": measure(artifact, table),
        "digits": [
            {
                "row": int(row),
                "label": int(table.labels[row]),
                "scan": scans[row].astype(int).ravel().tolist(),
                # float32 to the nearest decimal: JavaScript reads it and rounds to float32 again.
                "views": {
                    name: [round(float(value), 4) for value in x[row]]
                    for name, x in table.embeddings.items()
                },
            }
            for row in draw(artifact, table)
        ],
    }


def build(output: Path, packages: Path) -> Artifact:
    """Puts the page together.

    Args:
        output: The folder; files of the page that are there already are replaced.
        packages: The ``node_modules`` that onnxruntime-web was installed into.

    Returns:
        What the page's graph was exported from.
    """
    runtime = packages / "onnxruntime-web" / "dist"
    if lacking := [name for name in RUNTIME if not (runtime / name).is_file()]:
        raise SystemExit(
            f"{runtime} has no {' and no '.join(lacking)}: run `npm install onnxruntime-web` "
            f"beside {packages}"
        )
    assert all(math.prod(LAYOUT[n][0]) == VIEWS[n](np.zeros((1, 8, 8))).shape[1] for n in NAMES)
    table, scans = read_table()
    artifact = learn(table)
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        shutil.copyfile(OnnxExporter().export(artifact, Path(folder)), output / "model.onnx")
    text = json.dumps(describe(artifact, table, scans), separators=(",", ":"))
    (output / "digits.json").write_text(text + "\n", encoding="utf-8")
    for source in (*(HERE / name for name in PAGE), *(runtime / name for name in RUNTIME)):
        shutil.copyfile(source, output / source.name)
    return artifact


def main() -> int:
    parser = argparse.ArgumentParser(description="Build the page 'Try it in the browser'.")
    parser.add_argument("-o", "--output", metavar="DIR", type=Path, required=True)
    parser.add_argument(
        "--packages", metavar="DIR", type=Path, default=HERE / "node_modules", help="node_modules"
    )
    args = parser.parse_args()
    build(args.output, args.packages)
    for path in sorted(args.output.iterdir()):
        print(f"{path.stat().st_size:>12,}  {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
