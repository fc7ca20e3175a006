"""Finds which of the two wheels of ONNX Runtime is here, and what goes wrong when both are.

``onnxruntime`` and ``onnxruntime-gpu`` unpack into one folder. The one installed last wins;
removing either deletes files of the other, and what is left still imports, as an empty package.
"""

from __future__ import annotations

from typing import Any

from dms_spec.errors import BackendUnavailable
from dms_spec.plugins import installed_version

_WHEELS = ("onnxruntime", "onnxruntime-gpu")
_FIX = (
    "Run `pip uninstall -y onnxruntime onnxruntime-gpu`, then install one of them: "
    "`pip install onnxruntime` or `pip install onnxruntime-gpu`."
)


def installed() -> dict[str, str]:
    """Lists the wheels that are installed, with their versions."""
    return {name: found for name in _WHEELS if (found := installed_version(name))}


def conflict() -> str:
    """Says that both wheels are installed; empty if they are not."""
    found = installed()
    if len(found) < len(_WHEELS):
        return ""
    both = " and ".join(f"{name} {number}" for name, number in found.items())
    return f"{both} share one folder: the one installed last is used. {_FIX}"


def runtime() -> Any:
    """Imports the module onnxruntime, which must be whole.

    Raises:
        BackendUnavailable: It cannot be imported, or is what an uninstalled wheel left behind.
    """
    try:
        import onnxruntime
    except Exception as error:  # a broken native library raises whatever it likes
        raise BackendUnavailable(
            "onnxruntime cannot be imported", got=f"{type(error).__name__}: {error}", fix=_FIX
        ) from error
    if not hasattr(onnxruntime, "InferenceSession"):
        raise BackendUnavailable(
            "onnxruntime imports, but is empty",
            got=f"wheels: {', '.join(installed()) or 'none'}; one was removed beside the other",
            fix=_FIX,
        )
    return onnxruntime
