"""Attaches a scheduler to a multimodal language model: `attach`, and what it returns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, get_args

from torch import Tensor, nn

from dms_spec.errors import MissingInput, SpecError
from dms_torch.adapters.decision import Decision, modalities_of, schedule
from dms_torch.adapters.explain import Explanation, explain
from dms_torch.adapters.tokens import Pooled
from dms_torch.adapters.weighing import Strength
from dms_torch.adapters.wiring import Wiring

#: The name under which a model holds what is attached to it.
NAME = "dms"


class Attached(nn.Module):
    """A scheduler inside a model: the handle, and a context manager that detaches at its end.

    It is a submodule of the model, named ``dms``. So its parameters are trained, moved and saved
    with the model, and synchronised by DistributedDataParallel.

    Attributes:
        scheduler: What decides.
        heads: By modality.
        modalities: Names in the order of the weights.
        last: What was decided in the last call; None before the first.
    """

    def __init__(
        self,
        model: nn.Module,
        scheduler: nn.Module,
        strength: Strength,
        heads: Mapping[str, nn.Module],
    ) -> None:
        super().__init__()
        self.scheduler, self.heads = scheduler, nn.ModuleDict(heads)
        self.modalities = modalities_of(scheduler)
        self.last: Decision | None = None
        self._wiring = Wiring(model, self.modalities, strength, self._decide)
        self.to(next(self._wiring.anatomy.embedding.parameters()).device)
        model.add_module(NAME, self)

    def detach(self) -> None:
        """Takes the scheduler out of the model, which is then as it was before."""
        model = self._wiring.model
        if model._modules.get(NAME) is self:
            self._wiring.remove()
            del model._modules[NAME]

    def __enter__(self) -> Attached:
        return self

    def __exit__(self, *error: object) -> None:
        self.detach()

    def look(self, **inputs: Any) -> Decision:
        """Weighs a batch without running the language model.

        Args:
            inputs: What the model is called with.
        """
        pooled = pool_tokens(self._wiring.model, inputs, self.modalities)
        return schedule(self.scheduler, self.heads, pooled)

    def _decide(self, pooled: Pooled) -> Tensor:
        self.last = schedule(self.scheduler, self.heads, pooled)
        return self.last.weights

    def explain(self, sample: int = 0) -> Explanation:
        """Says for one sample of the last call which modality was trusted, and why.

        Raises:
            MissingInput: There was no call yet.
            ShapeError: The batch has no such sample.
        """
        if self.last is None:
            raise MissingInput("there is nothing to explain yet", fix="Call the model first.")
        return explain(self.last, sample)


def attach(
    model: nn.Module,
    scheduler: nn.Module,
    *,
    strength: Strength = "attention",
    heads: Mapping[str, nn.Module] | None = None,
) -> Attached:
    """Puts a scheduler into a multimodal language model of Hugging Face transformers.

    From then on each forward and each ``generate`` weighs the modalities of each sample's prompt,
    and says so in ``last``. A neutral weight, 1 / n of n modalities, changes nothing. Weight 0
    hides a modality and all that it holds, NaN included.

    Args:
        model: Decoder-only (Llava, LlavaNext, Qwen2-VL, Qwen2.5-VL, Idefics2, Idefics3, BLIP-2),
            with an encoder (BLIP-2 with T5), or with cross-attention (Idefics, Mllama). Found by
            structure, so that others of the same build may serve as well.
        scheduler: A `dms_torch.Fusion`, or a module that is called as one and has its ``spec``. It
            is moved to the device of the input embeddings.
            Its modalities are "text" and those that the model has tokens for, such as "image".
            Features are mean tokens, ``[B, D]``.
        strength: "attention" adds log(n w) to the attention scores of a modality's positions, or
            scales what a cross-attention adds by n w. "tokens" scales the tokens by n w,
            which a model that normalises them hardly feels.
        heads: By modality, a module that makes logits ``[B, C]`` of mean tokens ``[B, D_m]``, for
            schedulers with signals that need logits.

    Returns:
        The handle; a context manager, too.

    Raises:
        UnsupportedCapability: The architecture is not known; the message says what was looked for.
        SpecError: Something is attached already, or a name is of no modality.
    """
    model = getattr(model, "_orig_mod", model)  # what torch.compile wraps
    if strength not in get_args(Strength):
        raise SpecError(
            "there is no such strength",
            expected=" or ".join(map(repr, get_args(Strength))),
            got=repr(strength),
        )
    if hasattr(model, NAME):
        raise SpecError(
            f"the model has something named {NAME!r} already", fix="Detach the other one first."
        )
    strange = set(heads or {}) - set(modalities_of(scheduler))
    if strange:
        raise SpecError(
            "there are heads of no modality",
            expected=", ".join(map(repr, modalities_of(scheduler))),
            got=", ".join(map(repr, sorted(strange))),
        )
    return Attached(model, scheduler, strength, heads or {})


def pool_tokens(
    model: nn.Module, inputs: Mapping[str, Any], modalities: Sequence[str] = ("image", "text")
) -> Pooled:
    """Reads the mean token of each modality off a batch, without running the language model.

    These are the features that an attached scheduler sees: fit heads or typicality on them.

    Args:
        model: As in `attach`, whether or not something is attached.
        inputs: What the model is called with.
        modalities: Names in the order of the result.

    Raises:
        UnsupportedCapability: The architecture is not known.
    """
    wiring = Wiring(model, modalities, "attention", _stop)
    try:
        model(**inputs)
    except _Seen as seen:
        return seen.pooled
    finally:
        wiring.remove()
    raise AssertionError("the language model ran without its tokens being seen")


class _Seen(Exception):
    """Ends a forward as soon as its tokens are known."""

    def __init__(self, pooled: Pooled) -> None:
        super().__init__()
        self.pooled = pooled


def _stop(pooled: Pooled) -> Tensor:
    raise _Seen(pooled)
