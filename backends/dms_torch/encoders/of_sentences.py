"""Encoders of sentence-transformers: for words, and for images where a model takes them."""

from __future__ import annotations

from typing import Any

import sentence_transformers
import torch

from dms_spec.encoding.encoder import Encoder, Wish, about, no_kind
from dms_spec.errors import SpecError
from dms_torch.encoders.loading import digest, loading, silence

_KINDS = ("text", "image")


def load(wish: Wish, name: str) -> Encoder:
    """Loads a model from a folder or from the Hub. It pools as its own files say.

    Raises:
        SpecError: It takes no such items, or a pooling is asked for.
        FileError: It cannot be loaded.
    """
    if wish.kind not in _KINDS:
        raise no_kind(wish, _KINDS)
    if wish.pooling is not None:
        raise SpecError(
            "--pooling is for encoders of transformers",
            got=f"{wish.name!r}, whose files say how it pools",
        )
    with loading(wish, "sentence-transformers"), silence():
        model = sentence_transformers.SentenceTransformer(
            name, device=wish.device, model_kwargs={"dtype": getattr(torch, wish.precision)}
        ).eval()

    def run(items: list[Any]) -> Any:
        found = model.encode(
            items, batch_size=len(items), show_progress_bar=False, convert_to_tensor=True
        )
        return found.float().cpu().numpy()

    def cut(items: list[Any]) -> int:
        limit = model.get_max_seq_length()
        if wish.kind != "text" or limit is None:
            return 0
        tokens = model.tokenizer(items, truncation=False, verbose=False)["input_ids"]
        return sum(len(own) > limit for own in tokens)

    return Encoder(
        run=run,
        about=about(
            wish,
            model=type(model[0]).__name__,
            pooling="as its files say",
            precision=wish.precision,
            sha256=digest(model),
            library=f"sentence-transformers {sentence_transformers.__version__}",
        ),
        cut=cut,
    )
