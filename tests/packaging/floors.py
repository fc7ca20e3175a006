"""Runs what every extra promises in one environment, at the lowest versions that are stated.

``make test-floors``. The versions come from ``pyproject.toml``: ``numpy>=2.1`` is installed as
``numpy==2.1``. Run it when a lower bound has changed, or code that leans on a dependency. The
lowest torch on PyPI brings CUDA, several GB; with ``PIP_FIND_LINKS`` or ``PIP_INDEX_URL`` pip takes
another build of the same version.
"""

from __future__ import annotations

import re
import tempfile
import tomllib
from dataclasses import replace
from functools import partial
from itertools import chain, count
from pathlib import Path

from environments import ROOT, Environment, build_wheel, report, timed
from promises import PROMISES, Promise, write_inputs

# onnxruntime stands for both of its wheels, which share one folder.
EXTRAS = (
    "completion,conformance,demo,embed,hub,matching,numba,onnxruntime,robustness,sklearn,tables,"
    "torch,transformers"
)

GRADIENTS = """
import torch
from dms_spec import SchedulerSpec
from dms_torch import Fusion
def fusion(**more):
    return Fusion(SchedulerSpec(modalities=("a", "b", "c"), policy="monotone",
                  signals={"confidence": {}}, coefficients={"confidence": 1.0}, **more))
features, logits = torch.randn(4, 3, 4), torch.randn(4, 3, 5, requires_grad=True)
fusion(detach_signals=False)(features, logits).fused.sum().backward()
assert logits.grad is not None and bool((logits.grad != 0).any())
compiled = torch.compile(fusion(), backend="eager", fullgraph=True, dynamic=True)
for rows in (4, 9, 1):
    compiled(torch.randn(rows, 3, 4), torch.randn(rows, 3, 5))
"""

# What has failed at a lower bound before, without a word or only when it is compiled.
ALSO = (
    Promise("torch", "gradients arrive; one compiled graph", (f"python -c '{GRADIENTS}'",)),
    Promise("conformance", "hold torch to the specification", ("dms check torch --examples 5",)),
    Promise(
        "conformance",
        "hold onnxruntime to it",
        ("dms check onnxruntime --examples 2 --dtype float32 --dtype float64",),
    ),
)


def floors() -> list[str]:
    """Every dependency and extra of ``pyproject.toml``, pinned to its lower bound."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    stated = chain(project["dependencies"], *project["optional-dependencies"].values())
    found = [re.fullmatch(r"([\w.-]+)>=([\w.]+)", one) for one in stated]
    return sorted({f"{one[1]}=={one[2]}" for one in found if one})


def main() -> int:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        inputs, pins = folder / "inputs", folder / "floors.txt"
        inputs.mkdir()
        write_inputs(inputs)
        pins.write_text("\n".join(floors()) + "\n", encoding="utf-8")
        print(pins.read_text(encoding="utf-8"))
        wheel = build_wheel(folder / "wheel")
        environment = Environment.fresh(folder / "venv", folder / "work")
        install = partial(environment.install, "--constraint", pins, f"{wheel}[{EXTRAS}]")
        together = timed("(install)", "the lowest versions go together", [install])
        if together.problem:
            return report([together])
        places = (replace(environment, work=folder / str(n)) for n in count())
        return report(
            promise.kept(place, inputs)
            for promise, place in zip((*PROMISES, *ALSO), places, strict=False)
        )


if __name__ == "__main__":
    raise SystemExit(main())
