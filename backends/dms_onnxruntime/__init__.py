"""Runs schedulers in ONNX Runtime, and holds `Session`, which runs one exported file.

Needs the extra ``onnxruntime`` or ``onnxruntime-gpu``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dms_onnx.session import Session as Session

__all__ = ["Session"]


def __getattr__(name: str) -> object:
    # plugin.py lies in this package, and listing plugins must import neither NumPy nor the rest.
    if name != "Session":
        raise AttributeError(f"module 'dms_onnxruntime' has no attribute {name!r}")
    return getattr(import_module("dms_onnx.session"), name)
