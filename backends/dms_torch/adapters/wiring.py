"""Hooks a model at the places of its anatomy, and carries one batch's weights through its calls."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial, wraps
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from dms_spec.errors import MissingInput
from dms_torch.adapters.anatomy import TEXT, Anatomy, find
from dms_torch.adapters.arguments import (
    CACHE,
    MASK,
    STATES,
    STATES_GATE,
    STATES_MASK,
    Arguments,
    parameters,
)
from dms_torch.adapters.refusals import check_attention, check_checkpointing, check_generation
from dms_torch.adapters.tokens import Images, Pooled, pool, positions, visible, without_answers
from dms_torch.adapters.weighing import Strength, Weighing, factors

Hook = Callable[[nn.Module, Arguments], Arguments | None]


class Wiring:
    """Reads the tokens of each prompt, asks once for its weights, and applies them from then on.

    Args:
        model: The model.
        modalities: Names in the order of the weights.
        strength: What the weights act on.
        decide: Makes weights ``[B, M]`` of what `pool` gives.

    Raises:
        UnsupportedCapability: The model's architecture is not known.
    """

    def __init__(
        self,
        model: nn.Module,
        modalities: Sequence[str],
        strength: Strength,
        decide: Callable[[Pooled], Tensor],
    ) -> None:
        self.model, self.modalities, self.strength, self.decide = (
            model,
            modalities,
            strength,
            decide,
        )
        self.anatomy: Anatomy = find(model, modalities)
        #: What a cross-attention reads; `find` saw to it that there is only one beside the text.
        self.other = next(m for m, name in enumerate(modalities) if name != TEXT)
        self.weighing: Weighing | None = None
        self._ids: Tensor | None = None
        self._labels: Tensor | None = None
        self._mask: Any = None
        self._past = 0
        self._rows: int | None = None  # samples of the generation that is under way
        self._handles: list[Any] = []
        self._wire()

    def _wire(self) -> None:
        at = self.anatomy
        self._before(self.model, self._called)
        self._before(at.embedding, self._embedding)
        self._before(at.stack, self._entering)
        for module in at.attentions:
            self._before(module, partial(self._attending, across=False))
        for module in at.readers:
            self._before(module, partial(self._attending, across=True))
        for layer in at.crossings:
            self._before(layer, self._crossing)
            self._handles.append(
                layer.get_submodule("cross_attn").register_forward_hook(self._crossed)
            )
        generate = getattr(self.model, "generate", None)
        self._own_generate = self.model.__dict__.get("generate")
        if generate is not None:
            self.model.__dict__["generate"] = self._generating(generate)
        forget_compiled()

    def _before(self, module: nn.Module, hook: Hook) -> None:
        named = partial(_by_name, hook, parameters(module))
        # First of all hooks, so that one that only looks sees the tokens as they are.
        handle = module.register_forward_pre_hook(named, prepend=True, with_kwargs=True)
        self._handles.append(handle)

    def remove(self) -> None:
        """Leaves the model as it was before."""
        for handle in self._handles:
            handle.remove()
        self.model.__dict__.pop("generate", None)
        if self._own_generate is not None:
            self.model.__dict__["generate"] = self._own_generate
        self.weighing = None
        forget_compiled()

    # What follows is called by the model, from the outside in.

    def _generating(self, generate: Callable[..., Any]) -> Callable[..., Any]:
        names = tuple(inspect.signature(generate).parameters)

        @wraps(generate)
        def weighed(*args: Any, **kwargs: Any) -> Any:
            if self._rows is not None:  # a wrapper of the model generates with the model
                return generate(*args, **kwargs)
            check_generation(kwargs)
            given = Arguments(names, args, kwargs)
            prompt = given.get("input_ids", "inputs", "attention_mask", "pixel_values")
            self.weighing, self._labels = None, None
            self._rows = None if prompt is None else prompt.shape[0]
            try:
                return generate(*args, **kwargs)
            finally:
                self._rows = None

        return weighed

    def _called(self, model: nn.Module, given: Arguments) -> None:
        # The labels of an encoder-decoder model are no part of the prompt.
        self._labels = None if self.anatomy.readers else given.get("labels")

    def _embedding(self, embedding: nn.Module, given: Arguments) -> None:
        ids = given.get(*given.names)
        if isinstance(ids, Tensor) and ids.ndim == 2:
            self._ids = ids

    def _entering(self, stack: nn.Module, given: Arguments) -> Arguments | None:
        cache = given.get(*CACHE)
        layer = getattr(self.anatomy.attentions[0], "layer_idx", None) or 0
        self._past = int(cache.get_seq_length(layer)) if cache is not None else 0
        if self._past:
            if self.weighing is None:
                raise MissingInput(
                    "the cache was filled before the scheduler was attached",
                    fix="Attach first, then run the prompt.",
                )
            return None
        if self._rows is None:
            self.weighing = None
        check_checkpointing(stack)
        self._mask = given.get(*MASK)
        if self.anatomy.entry is not stack:
            return None
        embedded = given.get("inputs_embeds")
        if embedded is None:
            embedded = self.anatomy.embedding(given.get("input_ids"))
            given = given.put(None, "input_ids")
        return given.put(self._weighed(embedded, given), "inputs_embeds")

    def _crossing(self, layer: nn.Module, given: Arguments) -> Arguments:
        if layer is self.anatomy.entry and not self._past:
            given = given.put(self._weighed(given.get("hidden_states"), given), "hidden_states")
        weighing, batch = self._now, given.get("hidden_states").shape[0]
        states = given.get(*STATES)
        if states is not None:  # the cache has them otherwise
            rows = states.reshape(batch, -1, states.shape[-1])
            given = given.put(weighing.tokens(rows, self.other).reshape(states.shape), *STATES)
        return given.put(weighing.gate(given.get(*STATES_GATE), batch, self.other), *STATES_GATE)

    def _crossed(self, attention: nn.Module, args: Any, output: tuple[Tensor, Any]) -> Any:
        return (self._now.contribution(output[0], self.other), *output[1:])

    def _attending(
        self, attention: nn.Module, given: Arguments, *, across: bool
    ) -> Arguments | None:
        keys = given.get("key_value_states")
        if across != (keys is not None) or self._now.neutral:
            return None
        mask, queries = given.get(*MASK), given.get("hidden_states")
        check_attention(attention, mask)
        if mask is not None:
            width = mask.shape[-1]
        elif keys is not None:
            width = keys.shape[1]
        else:
            width = _width(attention, given.get(*CACHE), self._past + queries.shape[1])
        causal = getattr(attention, "is_causal", True) and not across
        return given.put(self._now.masked(mask, queries, width, causal=causal), *MASK)

    @property
    def _now(self) -> Weighing:
        if self.weighing is None:
            raise MissingInput("the language model runs without a prompt that was weighed")
        return self.weighing

    def _weighed(self, embedded: Tensor, given: Arguments) -> Tensor:
        """Decides on the weights of a prompt, once, and weighs its tokens."""
        if self.weighing is None:
            # The first layer may be checkpointed with its hooks. It is run again in the backward
            # pass, but the decision is not: what it saves is no business of the checkpoint.
            with _apart():
                of, pooled = self._read(embedded, given)
                self.weighing = Weighing(of, factors(self.decide(pooled)), self.strength)
        return self.weighing.tokens(embedded)

    def _read(self, embedded: Tensor, given: Arguments) -> tuple[Tensor, Pooled]:
        """Says which token is of which modality, and pools them: a row for each sample."""
        batch, length = embedded.shape[:2]
        rows = self._rows or batch
        once = slice(None, None, batch // rows)  # beams of a sample are alike in the prompt
        images = None
        if self.anatomy.crossings:
            states = given.get(*STATES)
            if states is None:
                states = embedded.new_zeros((batch, 0, embedded.shape[-1]))
            images = Images.of(batch, states, given.get(*STATES_MASK), given.get(*STATES_GATE))
            images = Images(images.states[once], images.seen[once])
        shown = visible(self._mask, batch, length, embedded.device)[once]
        of = positions(self.modalities, self.anatomy.ids, self._prompt(rows, length), shown)
        of, notes = without_answers(of, self._labels, self.modalities.index(TEXT))
        return of, replace(pool(self.modalities, of, embedded[once], images), notes=notes)

    def _prompt(self, rows: int, length: int) -> Tensor | None:
        """Gives the ids of the prompt, which the embedding module was called with."""
        if not self.anatomy.ids:
            return None
        ids = self._ids
        if ids is None or ids.shape[1] != length or ids.shape[0] % rows:
            raise MissingInput(
                "it is not known which tokens are of which modality",
                expected="the prompt as input_ids",
                got="inputs_embeds",
            )
        return ids[:: ids.shape[0] // rows]


def forget_compiled() -> None:
    """Has compiled code made anew: it would go on without the hooks, or with them."""
    if "torch._dynamo" in sys.modules:
        torch.compiler.reset()


def _apart() -> AbstractContextManager[Any]:
    """Saves tensors for the backward pass as they are, whatever is around."""
    if torch.compiler.is_compiling() or not torch.is_grad_enabled():
        return nullcontext()  # a compiler does not know the other
    return saved_tensors_hooks(lambda tensor: tensor, lambda tensor: tensor)


def _by_name(
    hook: Hook, names: tuple[str, ...], module: nn.Module, args: Any, kwargs: Mapping[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """Calls a hook with arguments by name."""
    changed = hook(module, Arguments(names, args, kwargs))
    return None if changed is None else changed.packed


def _width(attention: nn.Module, cache: Any, grown: int) -> int:
    """Says how many keys an attention sees: those so far, or all places of a static cache."""
    layers, index = getattr(cache, "layers", ()), getattr(attention, "layer_idx", None)
    if not isinstance(index, int) or index >= len(layers):
        return grown
    return int(getattr(layers[index], "max_cache_len", None) or grown)
