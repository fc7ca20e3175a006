"""Encoders of timm: images to what a model has before its classifier."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm
import torch

from dms_spec.encoding.encoder import Encoder, Wish, about, no_kind
from dms_spec.encoding.openers import said
from dms_spec.encoding.weights import digest
from dms_spec.errors import FileError, SpecError


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
    try:
        place = f"local-dir:{name}" if Path(name).is_dir() else name
        model: Any = timm.create_model(place, pretrained=True, num_classes=0)
    except Exception as error:  # of many kinds: no such name, no network, no such file
        raise FileError(
            f"the encoder {wish.name!r} cannot be loaded",
            expected="a model of timm: a folder, or a name on the Hub",
            got=said(error),
        ) from error
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
            pooling=str(model.pretrained_cfg.get("global_pool") or getattr(model, "global_pool", "")),
            precision=wish.precision,
            sha256=digest(model),
            library=f"timm {timm.__version__}",
        ),
    )
