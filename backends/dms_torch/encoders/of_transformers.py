"""Encoders of transformers: any model whose output can be pooled to one vector for each item."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import transformers

from dms_spec.encoding.encoder import Encoder, Wish, about, no_kind
from dms_spec.encoding.openers import resampled
from dms_spec.errors import SpecError, closest
from dms_torch.encoders.loading import digest, loading, silence

_PREPARE: Mapping[str, Any] = {
    "image": transformers.AutoImageProcessor,
    "text": transformers.AutoTokenizer,
    "audio": transformers.AutoFeatureExtractor,
}

# A tokenizer that knows no limit gives a number far beyond this one.
_NO_LIMIT = 1_000_000

# They read the last position, which their training has padded. Source: the models' own pages in
# the documentation of transformers.
_PADDED_WHOLE = ("siglip", "siglip2")

Inputs = Mapping[str, Any]


def load(wish: Wish, name: str) -> Encoder:
    """Loads a model from a folder or from the Hub.

    Raises:
        SpecError: It takes no such items, lacks weights, or cannot be pooled so.
        FileError: It cannot be loaded.
    """
    if wish.kind not in _PREPARE:
        raise no_kind(wish, tuple(_PREPARE))
    with loading(wish, "transformers"), silence():
        prepare = _PREPARE[wish.kind].from_pretrained(name)
        model, info = transformers.AutoModel.from_pretrained(
            name, dtype=getattr(torch, wish.precision), output_loading_info=True
        )
    made = _Model(wish, prepare, model.eval().to(wish.device), set(info["missing_keys"]))
    return Encoder(
        run=made.run,
        about=about(
            wish,
            model=type(model).__name__,
            preparation=type(prepare).__name__,
            pooling=made.pooling,
            precision=wish.precision,
            sha256=digest(model, info["missing_keys"]),
            library=f"transformers {transformers.__version__}",
        ),
        cut=made.cut,
    )


class _Model:
    """Holds a model with what prepares its inputs, and pools its outputs."""

    def __init__(self, wish: Wish, prepare: Any, model: Any, missing: set[str]) -> None:
        self._kind, self._prepare, self._device = wish.kind, prepare, wish.device
        self._config = getattr(model.config, "text_config", None) or model.config
        self._whole = model.config.model_type in _PADDED_WHOLE
        self._features: Any = getattr(model, f"get_{wish.kind}_features", None)
        # Its config need not say so: one that was saved without its decoder says the contrary.
        both = hasattr(model, "encoder") and hasattr(model, "decoder")
        self._halved = self._features is None and both
        self._model = model.get_encoder() if self._halved else model
        self._dtype = model.dtype
        if wish.kind == "text" and prepare.pad_token is None:
            prepare.pad_token = prepare.eos_token
        self.pooling = wish.pooling or self._default(missing)
        self._check(wish, missing)

    @torch.inference_mode()
    def run(self, items: list[Any]) -> Any:
        """Gives float32 ``[n, D]``. Sounds come one at a time, since padding would be heard."""
        batches = [[item] for item in items] if self._kind == "audio" else [items]
        found = [self._pooled(self._inputs(batch)) for batch in batches]
        return torch.cat(found).float().cpu().numpy()

    def cut(self, items: list[Any]) -> int:
        """Counts the texts that are longer than what the model reads."""
        limit = self._limit() if self._kind == "text" else None
        if limit is None:
            return 0
        tokens = self._prepare(items, truncation=False, verbose=False)["input_ids"]
        return sum(len(own) > limit for own in tokens)

    def _limit(self) -> int | None:
        own = self._prepare.model_max_length
        found = own if own < _NO_LIMIT else getattr(self._config, "max_position_embeddings", None)
        return None if found is None else int(found)

    def _inputs(self, items: list[Any]) -> Inputs:
        if self._kind == "image":
            found = self._prepare(images=items, return_tensors="pt")
        elif self._kind == "text":
            limit = self._limit()
            found = self._prepare(
                items,
                padding="max_length" if self._whole else True,
                truncation=limit is not None,
                max_length=limit,
                return_tensors="pt",
            )
        else:
            rate = self._prepare.sampling_rate
            samples = [resampled(sound, rate) for sound in items]
            found = self._prepare(samples, sampling_rate=rate, return_tensors="pt")
        return {name: self._moved(tensor) for name, tensor in found.items()}

    def _moved(self, tensor: Any) -> Any:
        return tensor.to(self._device, self._dtype if tensor.is_floating_point() else None)

    def _pooled(self, inputs: Inputs) -> Any:
        if self.pooling == "features":
            found = self._features(**inputs)
            return getattr(found, "pooler_output", found)  # a tensor before transformers 5
        return _POOL[self.pooling](self._model(**inputs), inputs.get("attention_mask"))

    def _default(self, missing: set[str]) -> str:
        """Chooses what suits the model; for images after a look at what it gives for one."""
        if self._features is not None:
            return "features"
        if self._kind != "image":
            return "mean"
        from PIL import Image

        with torch.inference_mode():
            output = self._model(**self._inputs([Image.new("RGB", (64, 64))]))
        learned = not any("pooler" in name for name in missing)
        if learned and getattr(output, "pooler_output", None) is not None:
            return "pooler"
        return "cls" if output.last_hidden_state.ndim == 3 else "mean"

    def _check(self, wish: Wish, missing: set[str]) -> None:
        known = [name for name in POOLINGS if name != "features" or self._features is not None]
        if self.pooling not in known:
            raise SpecError(
                f"the encoder {wish.name!r} knows no pooling {self.pooling!r}",
                expected=", ".join(known),
                fix=closest(self.pooling, known),
            )
        lacking = [
            name
            for name in sorted(missing)
            if ("pooler" not in name or self.pooling == "pooler")
            and not (name.startswith("decoder.") and self._halved)
        ]
        if lacking:
            raise SpecError(
                f"the encoder {wish.name!r} lacks weights, which would be random",
                expected="all weights in its files",
                got=f"none for {', '.join(lacking[:3])}" + (", ..." if lacking[3:] else ""),
                fix="Choose another pooling, or the checkpoint of the encoder itself.",
            )


def _pooler(output: Any, _: Any) -> Any:
    found = getattr(output, "pooler_output", None)
    if found is None:
        raise SpecError("the model has no pooler", expected="another pooling: cls or mean")
    return found.flatten(start_dim=1)  # [n, D, 1, 1] of some convolutional models


def _cls(output: Any, _: Any) -> Any:
    return output.last_hidden_state[:, 0]


def _mean(output: Any, mask: Any) -> Any:
    """Averages ``[n, T, D]`` over the tokens of the mask ``[n, T]``, or ``[n, D, H, W]``."""
    hidden = output.last_hidden_state.float()
    if hidden.ndim == 4:
        return hidden.mean(dim=(2, 3))
    if mask is None or mask.shape != hidden.shape[:2]:
        return hidden.mean(dim=1)
    weights = mask.unsqueeze(-1).to(hidden.dtype)
    return (hidden * weights).sum(dim=1) / weights.sum(dim=1)


_POOL: Mapping[str, Callable[[Any, Any], Any]] = {"pooler": _pooler, "cls": _cls, "mean": _mean}

#: How the vectors of an item become one: ``features`` are those in a space of several towers.
POOLINGS = ("features", *_POOL)
