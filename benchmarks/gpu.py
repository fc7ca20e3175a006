"""Runs everything that needs a GPU, and writes one folder of small files.

``make gpu`` runs it on a machine with a GPU that reaches no registry; ``make gpu-wheels`` has
fetched beforehand what such a machine lacks. Nothing is installed. Four steps, each with a limit
of time: the tests marked ``gpu``, the conformance suite on the device in plain PyTorch and with
Triton's kernels, and `bench_gpu`, which times both. A step that fails or takes too long is said in
``summary.json``, and the others still run.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("torch", "triton", "numpy", "transformers", "pytest", "hypothesis", "ml_dtypes")
TESTS = ("test_kernels.py", "test_mc_dropout.py", "test_onnxruntime.py")
#: Seconds that the suite may take; Triton compiles for many shapes.
SUITES = {"plain": 90, "triton": 130}


def steps(device: str, folder: Path, *, trial: bool) -> dict[str, tuple[list[str], int]]:
    """Names each step's command, and the seconds that it may take."""
    python = [sys.executable, "-m"]
    tests = [str(ROOT / "tests" / name) for name in TESTS]
    bench = [sys.executable, str(ROOT / "benchmarks" / "bench_gpu.py"), "--device", device]
    small = ["--seconds", "0.3"]
    if trial:
        small = ["--seconds", "0.01", "--shrink", "4096", "--eager"]
    return {
        "tests": ([*python, "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", *tests], 130),
        **{
            f"conformance-{path}": (conformance(device, path, folder, trial=trial), seconds)
            for path, seconds in SUITES.items()
            if path == "plain" or device != "cpu"
        },
        "benchmark": ([*bench, *small, "-o", str(folder / "speed.csv")], 130),
    }


def conformance(device: str, path: str, folder: Path, *, trial: bool) -> list[str]:
    """The command that runs the suite on one path, with Triton on fewer cases and one dtype."""
    command = ["env", f"DMS_TORCH_PATH={path}", sys.executable, "-m", "dms_spec", "check", "torch"]
    examples = 2 if trial else 10 if path == "triton" else 30
    dtypes = ["--dtype", "float32"] if path == "triton" else []
    report = ["--report", str(folder / f"conformance-{path}.json")]
    return [*command, "--device", device, "--examples", str(examples), *dtypes, *report]


def machine(device: str) -> dict[str, object]:
    """Says where the results come from."""
    import torch

    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed"
    commit = ROOT / ".gpu" / "commit"
    return {
        "device": device,
        "name": torch.cuda.get_device_name() if device != "cpu" else platform.machine(),
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
        "packages": versions,
        "commit": commit.read_text().strip() if commit.exists() else "unknown",
    }


def run(command: list[str], seconds: int, log: Path) -> dict[str, object]:
    """Runs one step, shows what it prints, and keeps it."""
    start, lines = time.monotonic(), []
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    limited = ["timeout", str(seconds), *command]
    with subprocess.Popen(
        limited, cwd=ROOT, env=environment, text=True, stdout=-1, stderr=subprocess.STDOUT
    ) as process:
        for line in process.stdout or ():
            print(line, end="", flush=True)
            lines.append(line.replace(str(ROOT), "."))
    log.write_text("".join(lines), encoding="utf-8")
    code = process.returncode
    status = "passed" if code == 0 else f"took more than {seconds} s" if code == 124 else "failed"
    return {"status": status, "exit": code, "seconds": round(time.monotonic() - start, 1)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, default=Path("benchmarks/results/gpu"))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--trial", action="store_true", help="few cases and tiny shapes")
    args = parser.parse_args()
    try:
        import torch
    except ImportError:
        print(f"{sys.executable} has no torch: make gpu PYTHON=...", file=sys.stderr)
        return 4
    if args.device != "cpu" and not torch.cuda.is_available():
        print("there is no CUDA device here: nothing was run", file=sys.stderr)
        return 4
    args.output.mkdir(parents=True, exist_ok=True)
    summary: dict[str, object] = {"machine": machine(args.device)}
    done = {}
    for name, (command, seconds) in steps(args.device, args.output, trial=args.trial).items():
        print(f"\n== {name}", flush=True)
        done[name] = run(command, seconds, args.output / f"{name}.txt")
        summary["steps"] = done
        text = json.dumps(summary, indent=2)
        (args.output / "summary.json").write_text(text + "\n", encoding="utf-8")
    print("\n" + "\n".join(f"{name}: {step['status']}" for name, step in done.items()))
    return 0 if all(step["exit"] == 0 for step in done.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
