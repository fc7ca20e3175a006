"""Says where a measurement was taken: machine, cores, versions and commit."""

from __future__ import annotations

import os
import platform
from contextlib import suppress
from pathlib import Path

from dms_spec._version import PACKAGE
from dms_spec.plugins import installed_version

_PACKAGES = ("numpy", "numba", "torch", "onnxruntime")


def setting() -> dict[str, str]:
    """Describes this machine and what is installed."""
    versions = {name: installed_version(name) for name in _PACKAGES}
    return {
        "machine": _processor(),
        "cores": str(len(cores())),
        "python": platform.python_version(),
        "dms-spec": PACKAGE,
    } | {name: version for name, version in versions.items() if version}


def cores() -> set[int]:
    """The cores that this process may use; as far as the system tells."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
