"""Encoders of timm: images to what a model has before its classifier."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm
import torch

from dms_spec.encoding.encoder import Encoder, Wish, about, no_kind
from dms_spec.errors import SpecError
from dms_torch.encoders.loading import digest, loading


def load(wish: Wish, name: str) -> Encoder:
    """Loads a model with its learned weights, from a folder or from the Hub, without classifier.

    Raises:
        SpecError: It is asked for something else than images, or for a pooling.
        FileError: It cannot be loaded.
    """
    if wish.kind != "image":
        raise no_kind(wish, ("image",))
    if wish.pooling is not None:
        raise SpecError(
            "--pooling is for encoders of transformers", got=f"{wish.name!r}, which pools itself"
        )
    dtype = getattr(torch, wish.precision)
    with loading(wish, "timm"):
        place = f"local-dir:{name}" if Path(name).is_dir() else name
        model: Any = timm.create_model(place, pretrained=True, num_classes=0)
    model = model.eval().to(wish.device, dtype)
    prepare = timm.data.create_transform(**timm.data.resolve_model_data_config(model))

    @torch.inference_mode()
    def run(items: list[Any]) -> Any:
        batch = torch.stack([prepare(item) for item in items]).to(wish.device, dtype)
        return model(batch).float().cpu().numpy()

    return Encoder(
        run=run,
        about=about(
            wish,
            model=type(model).__name__,
            pooling=str(
                model.pretrained_cfg.get("global_pool") or getattr(model, "global_pool", "")
            ),
            precision=wish.precision,
            sha256=digest(model),
            library=f"timm {timm.__version__}",
        ),
    )
