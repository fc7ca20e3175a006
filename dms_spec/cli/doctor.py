"""``dms doctor`` shows what really runs where, ready to paste into an issue."""

from __future__ import annotations

import argparse
import platform
from typing import Any

import numpy as np

from dms_spec._version import EDITION, PACKAGE
from dms_spec.cli.codes import GOOD, OUT_OF_TOLERANCE, UNAVAILABLE
from dms_spec.cli.printing import say, say_json, say_table, say_verdict
from dms_spec.conformance import oracle, worked_example
from dms_spec.conformance.closeness import finfo
from dms_spec.errors import DMSError
from dms_spec.plugins import available, discover, get_backend, installed_version, loaded
from dms_spec.types import ModalityBatch

_PACKAGES = (
    "numpy",
    "numba",
    "pluggy",
    "array-api-compat",
    "safetensors",
    "torch",
    "triton",
    "onnx",
    "onnxruntime",
    "onnxruntime-gpu",
)


EXAMPLE = "dms doctor"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON, for machines")


def run(args: argparse.Namespace) -> int:

    packages = {name: installed_version(name) or "not installed" for name in _PACKAGES}
    runs = examine()
    ailing = [r for r in loaded(discover()) if r.status not in ("ok", "unavailable", "disabled")]
    if args.json:
        report = {
            "dms-spec": PACKAGE,
            "edition": EDITION,
            "python": platform.python_version(),
            "platform": platform.platform(),
            "packages": packages,
            "runs": runs,
            "notes": _notes(),
            "plugins_with_problems": [
                {"name": r.name, "status": r.status, "reason": r.reason, "fix": r.fix}
                for r in ailing
            ],
        }
        say_json(report)
    else:
        say(f"dms-spec {PACKAGE}, specification {EDITION}")
        say(f"Python {platform.python_version()} on {platform.platform()}")
        say(", ".join(f"{name} {number}" for name, number in packages.items()))
        say("\nThe worked example of the specification, run on each backend, device and dtype:")
        header = ("backend", "device", "dtype", "verdict", "worst error (eps of the dtype)")
        rows = [(r["backend"], r["device"], r["dtype"], r["verdict"], r["error"]) for r in runs]
        say_table(header, rows)
        for name, notes in _notes().items():
            for note in notes:
                say(f"\n{name}: {note}")
        for r in ailing:
            say(f"\n{r.name} ({r.distribution}) is {r.status}: {r.reason}\n{r.fix}")
        bad = sum(r["verdict"] != "ok" for r in runs)
        end = f"{bad} of {len(runs)} runs are not ok" if bad else f"all {len(runs)} runs are ok"
        say_verdict(f"\n{end}", good=not bad)
    if any(r["verdict"] == "wrong" for r in runs):
        return OUT_OF_TOLERANCE
    return UNAVAILABLE if ailing or any(r["verdict"] == "failed" for r in runs) else GOOD


def _notes() -> dict[str, list[str]]:
    """Collects what each backend that works says about itself on this machine."""
    notes = {}
    for name in available("backend"):
        try:
            notes[name] = list(get_backend(name).capabilities.notes)
        except DMSError:  # its run has failed as well, and says why
            continue
    return {name: own for name, own in notes.items() if own}


def examine() -> list[dict[str, Any]]:
    """Runs the worked example on everything that claims to run: one entry for each combination."""
    runs = []
    for name in available("backend"):
        try:
            backend = get_backend(name)
            claims = backend.capabilities
        except DMSError as error:
            runs.append(_entry(name, "-", "-", "failed", str(error)))
            continue
        for device in claims.devices:
            for dtype in claims.dtypes:
                try:
                    error_eps = _worked_example(backend, device, dtype)
                # A doctor reports whatever a backend throws.
                except Exception as error:
                    runs.append(
                        _entry(name, device, dtype, "failed", f"{type(error).__name__}: {error}")
                    )
                else:
                    verdict = "ok" if error_eps <= _ALLOWED else "wrong"
                    runs.append(_entry(name, device, dtype, verdict, f"{error_eps:.1f}"))
    return runs


# Weights and fused values of the example are below 1 in size, and the sums behind them short.
_ALLOWED = 16.0


def _entry(backend: str, device: str, dtype: str, verdict: str, error: str) -> dict[str, Any]:
    return {
        "backend": backend,
        "device": device,
        "dtype": dtype,
        "verdict": verdict,
        "error": error,
    }


def _worked_example(backend: Any, device: str, dtype: str) -> float:
    """Finds the largest error of weights and fused values, in eps of their own dtype."""
    spec, arrays = worked_example.SPEC, worked_example.arrays(dtype)
    moved = {name: backend.from_numpy(array, device) for name, array in arrays.items()}
    result = backend.scheduler(spec, device=device)(ModalityBatch(**moved))
    exact = oracle.schedule(spec, arrays)
    worst = 0.0
    for name in ("weights", "fused"):
        got = backend.to_numpy(getattr(result, name))
        error = np.abs(got.astype(np.float64) - np.asarray(getattr(exact, name)))
        worst = max(worst, float(error.max()) / float(finfo(got.dtype).eps))
    return worst
