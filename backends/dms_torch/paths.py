"""Chooses the path of a primitive: plain PyTorch, Numba's loops, or Triton's kernels.

Without a request, ``"auto"`` takes the fastest that can run: Triton on a CUDA device, Numba on the
CPU where no gradient is recorded and no graph is traced, and plain PyTorch everywhere else. A path
that was asked for by name and cannot run is an error.
"""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from typing import NamedTuple

import torch
from torch import Tensor

from dms_spec.errors import BackendUnavailable, UnknownName, closest, install_hint
from dms_spec.plugins import installed_version
from dms_torch.looking import (
    are_ordinary,
    records_gradients,
    transforms_are_on,
    values_are_hidden,
)

#: What each path has a faster form of. The rest is plain PyTorch on every path.
FORMS = {
    "plain": (),
    "numba": ("alignment", "cosine", "entropy", "usable", "variance_over_passes", "weigh"),
    "triton": (
        "alignment",
        "entropy",
        "masked_softmax",
        "variance_over_passes",
        "weigh",
        "weighted_sum",
    ),
}
#: The environment variable that asks for a path, where the program does not.
VARIABLE = "DMS_TORCH_PATH"

# Found once: a graph that is traced cannot look.
_INSTALLED = {name: find_spec(name) is not None for name in ("numba", "triton")}


# The compute capability that Triton asks for at least.
_OLDEST = (7, 0)


# What was tried to load, and the error that came, if one did.
_TRIED: dict[str, str] = {}


class Obstacle(NamedTuple):
    """Says why a path cannot run, and how to fix it."""

    reason: str
    fix: str


def requested(path: str | None = None) -> str:
    """The path that was asked for: here, or by ``DMS_TORCH_PATH``; ``"auto"`` if by nobody.

    Raises:
        UnknownName: There is no such path.
        BackendUnavailable: What it needs is not installed.
    """
    path = path or os.environ.get(VARIABLE) or "auto"
    if path != "auto" and path not in FORMS:
        raise UnknownName(f"there is no path {path!r}", fix=closest(path, ("auto", *FORMS)))
    if path in _INSTALLED and (found := _missing(path)):
        raise _refusal(path, found)
    return path


def choose(asked: str, *tensors: Tensor) -> str:
    """The path on which a primitive of these tensors runs: ``"plain"``, ``"numba"``, ``"triton"``.

    Args:
        asked: What `requested` gave.
        tensors: All that it reads.

    Raises:
        BackendUnavailable: What was asked for cannot run on these tensors, here and now.
    """
    if asked == "auto":
        on_gpu = _on_gpu(tensors)
        if torch.compiler.is_compiling() and not on_gpu:
            return "plain"
        best = "triton" if on_gpu else "numba"
        return best if obstacle(best, *tensors) is None else "plain"
    if asked != "plain" and (found := obstacle(asked, *tensors)):
        if values_are_hidden():
            # A builtin error, because the compiler cannot trace the making of one of ours.
            raise NotImplementedError(f"path {asked!r} was asked for: {found.reason}. {found.fix}")
        raise _refusal(asked, found)
    return asked


def obstacle(path: str, *tensors: Tensor) -> Obstacle | None:
    """What keeps a path from running on these tensors; None if nothing does."""
    if found := _missing(path):
        return found
    if path == "numba":
        return _not_for_numba(tensors)
    return _not_for_triton(tensors)


def _missing(path: str) -> Obstacle | None:
    if _INSTALLED[path]:
        return None
    if path == "numba":
        return Obstacle("Numba is not installed", install_hint("dms-spec[numba]"))
    return Obstacle(
        "Triton is not installed",
        "Install a CUDA build of PyTorch, which brings it, or leave the path to 'auto'.",
    )


def _not_for_numba(tensors: tuple[Tensor, ...]) -> Obstacle | None:
    if values_are_hidden() or transforms_are_on():
        reason = "a graph is traced, or torch.func transforms the function"
        return Obstacle(reason, "Compiled loops see values alone: call the module by itself.")
    if any(tensor.device.type != "cpu" for tensor in tensors):
        return Obstacle("a tensor is not on the CPU", "Move it, or leave the path to 'auto'.")
    if not are_ordinary(*tensors):
        return Obstacle("a tensor is of a class of its own", "Leave the path to 'auto'.")
    if records_gradients(*tensors):
        reason = "gradients are recorded"
        return Obstacle(reason, "Call it under torch.no_grad(), or leave the path to 'auto'.")
    if error := _load_error():
        return Obstacle(f"Numba is installed and does not load ({error})", "Upgrade or remove it.")
    return None


def _load_error() -> str:
    """Says why Numba's loops do not load, and is empty if they do. It is tried once."""
    if "numba" not in _TRIED:
        try:
            import dms_torch.on_numba  # noqa: F401 - only whether it loads
        except Exception as error:  # whatever a package that does not fit raises
            _TRIED["numba"] = f"{type(error).__name__}: {error}"
        else:
            _TRIED["numba"] = ""
    return _TRIED["numba"]


def _not_for_triton(tensors: tuple[Tensor, ...]) -> Obstacle | None:
    if transforms_are_on():
        reason = "torch.func transforms the function"
        return Obstacle(reason, "Kernels have no such rule: leave the path to 'auto'.")
    if interpreted():
        hidden = values_are_hidden()
        reason = "Triton's interpreter runs no graph"
        return Obstacle(reason, "Unset TRITON_INTERPRET to compile.") if hidden else None
    if not _on_gpu(tensors):
        return Obstacle(
            "a tensor is not on a CUDA device",
            "Move it there. TRITON_INTERPRET=1 runs the kernels on the CPU, slowly, for tests.",
        )
    if not torch.compiler.is_compiling() and _capability(tensors[0]) < _OLDEST:
        return Obstacle("the GPU is older than Triton knows", "Leave the path to 'auto'.")
    if torch.onnx.is_in_onnx_export():
        return Obstacle("an ONNX graph is traced", "It takes plain PyTorch: leave it to 'auto'.")
    return None


def _on_gpu(tensors: tuple[Tensor, ...]) -> bool:
    return all(tensor.is_cuda for tensor in tensors)


def _capability(tensor: Tensor) -> tuple[int, int]:
    return torch.cuda.get_device_capability(tensor.device)


def interpreted() -> bool:
    """Says whether Triton was imported to interpret kernels, on the CPU, in place of compiling."""
    return _INTERPRETED


_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


def _refusal(path: str, found: Obstacle) -> BackendUnavailable:
    return BackendUnavailable(
        f"path {path!r} was asked for and cannot run: {found.reason}", fix=found.fix
    )


def notes() -> tuple[str, ...]:
    """Says on which path what would run on this machine, and why not on another."""
    told: tuple[str, ...] = (f"on the CPU: {_on_cpu()}", f"on a CUDA device: {_on_cuda()}")
    asked = requested()
    if asked != "auto":
        told = (*told, f"{VARIABLE} asks for {asked!r}")
    if asked == "triton" and interpreted():
        told = (*told, "Triton's interpreter runs the kernels: it certifies their logic alone")
    return told


def _on_cpu() -> str:
    if found := _missing("numba"):
        return f"plain PyTorch; {found.reason}"
    if error := _TRIED.get("numba"):
        return f"plain PyTorch; Numba is installed and does not load ({error})"
    loaded = sys.modules.get("dms_numba.primitives")  # asking does not import it
    compiled = loaded.notes()[0] if loaded else "its first call may compile for some seconds"
    return f"Numba where no gradient is recorded, else plain PyTorch; {compiled}"


def _on_cuda() -> str:
    if found := _missing("triton"):
        return f"plain PyTorch; {found.reason}"
    there = "" if torch.cuda.is_available() else ", but there is no such device"
    return f"Triton {installed_version('triton')}{there}"
