"""Runs and trains schedulers in PyTorch: the backend, the module, the losses, the fit.

Needs the extra ``torch``.
"""

from __future__ import annotations

from importlib import import_module

# plugin.py lies in this package and must be importable without torch.
_HOME = {
    "Fusion": "fusion",
    "FusionModel": "model",
    "FusionOutput": "output",
    "ModelOutput": "output",
    "TorchBackend": "backend",
    "consistency_loss": "losses",
    "fusion_loss": "losses",
    "unimodal_loss": "losses",
    "weight_entropy": "losses",
    "in_torch": "published",
    "GradientModulator": "hooks",
    "FeatureDropper": "hooks",
    "mc_dropout": "dropout",
    "sample_logits": "dropout",
}
__all__ = list(_HOME)


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'dms_torch' has no attribute {name!r}")
    return getattr(import_module(f"dms_torch.{_HOME[name]}"), name)
