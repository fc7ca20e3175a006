"""Installs each extra alone, from the wheel, into a clean environment, and runs what it promises.

``make test-extras``, or ``python tests/packaging/extras.py plot demo`` for some of them. Run it
when a dependency, an extra or an import has changed. It takes about ten minutes and a fast line.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from environments import ROOT, Environment, Row, build_wheel, report
from promises import PROMISES, Promise, write_inputs


def try_alone(promise: Promise, wheel: Path, inputs: Path, folder: Path) -> Row:
    """One environment with one extra; it is removed afterwards."""
    environment = Environment.fresh(folder / "venv", folder / "work")
    what = f"{wheel}[{promise.extras}]" if promise.extras else wheel
    row = promise.kept(environment, inputs, "--constraint", ROOT / "constraints.txt", what)
    shutil.rmtree(folder)
    return row


def main(names: list[str]) -> int:
    chosen = [promise for promise in PROMISES if not names or promise.extras in names]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wheel = build_wheel(folder / "wheel")
        inputs = folder / "inputs"
        inputs.mkdir()
        write_inputs(inputs)
        return report(try_alone(promise, wheel, inputs, folder / "one") for promise in chosen)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
