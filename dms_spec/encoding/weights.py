"""Names the weights of a torch model by their hash."""

from __future__ import annotations

from hashlib import sha256
from typing import Any

import torch


def digest(model: Any) -> str:
    """Gives the SHA-256 of names, dtypes, shapes and bytes of everything in a ``state_dict``."""
    found = sha256()
    for name, tensor in sorted(model.state_dict().items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return found.hexdigest()
