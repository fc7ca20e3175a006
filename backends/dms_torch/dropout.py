"""Runs Monte-Carlo dropout with any torch module that has dropout layers.

Gal and Ghahramani 2016 (arXiv 1506.02142): leave dropout on after training, run several times,
and read uncertainty off the spread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dms_spec.errors import DTypeError, ShapeError, SpecError, UnsupportedCapability

_DROPOUT = (
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.Dropout3d,
    nn.AlphaDropout,
    nn.FeatureAlphaDropout,
)

_UNSEEN = (
    "Only dropout layers can be switched on. F.dropout(x, training=self.training) and the dropout "
    "arguments of nn.LSTM, nn.GRU and nn.MultiheadAttention follow the mode of their module. Put "
    "an nn.Dropout layer with p > 0 where the noise belongs."
)


def active_dropout(model: nn.Module) -> list[nn.Module]:
    """Lists the dropout layers of a module that would drop something: ``p > 0``, each once.

    Raises:
        SpecError: There is none.
    """
    layers: list[nn.Module] = [
        layer for layer in model.modules() if isinstance(layer, _DROPOUT) and layer.p > 0
    ]
    if not layers:
        raise SpecError(
            f"{type(model).__name__} has no active dropout",
            expected="at least one dropout layer with p > 0",
            got="none, so that every pass would be the same",
            fix=_UNSEEN,
        )
    return layers


@contextmanager
def mc_dropout(model: nn.Module) -> Iterator[nn.Module]:
    """Switches the model's dropout layers on and everything else to eval mode, within this context.

    BatchNorm keeps its running statistics and does not update them. The mode of every module is
    put back at the end, also after an exception. Modes are set one by one and not through
    ``train()``, which some models override. Torch's fused attention path, which in eval mode skips
    the dropout layers of ``nn.TransformerEncoderLayer``, is off meanwhile.

    Gradients are as the caller has them. Dropout that is not a layer cannot be seen:
    ``F.dropout(x, training=self.training)`` and the ``dropout`` arguments of ``nn.LSTM``,
    ``nn.GRU`` and ``nn.MultiheadAttention`` stay off.

    Raises:
        SpecError: The model has no active dropout layer.

    Example:
        >>> import torch
        >>> from dms_torch import mc_dropout
        >>> model = torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.BatchNorm1d(8)).eval()
        >>> with mc_dropout(model):
        ...     model[0].training, model[1].training
        (True, False)
    """
    layers = active_dropout(model)
    modes = [(module, module.training) for module in model.modules()]
    fused = torch.backends.mha.get_fastpath_enabled()
    try:
        torch.backends.mha.set_fastpath_enabled(False)
        for module, _ in modes:
            module.training = False
        for layer in layers:
            layer.training = True
        yield model
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
        for module, mode in modes:
            module.training = mode


def sample_logits(
    model: nn.Module,
    *inputs: Any,
    passes: int,
    seed: int,
    chunk: int | None = None,
    gradients: bool = False,
) -> Tensor:
    """Runs a model several times with its dropout on, and stacks what comes out.

    Every pass has a random stream of its own, derived from the seed and its number. So the same
    seed gives the same passes, the first ones are the same however many are run, and `chunk`
    changes nothing beyond round-off. Torch's own random state is left as it was.

    Args:
        model: Returns a tensor, or an object with a tensor ``logits``.
        inputs: What the model is called with, on its device.
        passes: T, at least 1.
        seed: Not negative.
        chunk: How many passes to run in one forward, by repeating the inputs along their first
            axis: faster for small batches, and more memory. The first axis of every input, of
            every dropout layer's input and of the output must be the batch. None: one at a time.
        gradients: Record gradients, as far as the caller does. Off by default.

    Returns:
        ``[T, ...]``: the model's output with an axis of passes in front.

    Raises:
        SpecError: The model has no active dropout layer, none of them took part, or a number is
            out of range.
        DTypeError: The output is not a tensor; with ``chunk``, an input is not.
        ShapeError: With ``chunk``, a first axis is not the batch.
        UnsupportedCapability: The model is on a device whose random state is not CPU's or CUDA's.

    Example:
        >>> import torch
        >>> from dms_torch import sample_logits
        >>> model = torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.Linear(8, 5))
        >>> sample_logits(model, torch.randn(4, 8), passes=10, seed=0).shape  # [T, B, C]
        torch.Size([10, 4, 5])
    """
    chunk = 1 if chunk is None else chunk
    for what, number, least in (("passes", passes, 1), ("seed", seed, 0), ("chunk", chunk, 1)):
        if number < least:
            raise SpecError(f"{what} is out of range", expected=f"{least} or more", got=str(number))
    layers = active_dropout(model)
    devices = _cuda_devices(model, inputs)
    batch = _batch(inputs) if chunk > 1 else 0
    results: list[Tensor] = []
    with (
        torch.random.fork_rng(devices),
        torch.set_grad_enabled(gradients and torch.is_grad_enabled()),
        mc_dropout(model),
    ):
        for start in range(0, passes, chunk):
            streams = [
                _Stream(devices, seed, number)
                for number in range(start, min(start + chunk, passes))
            ]
            with _pass_by_pass(layers, streams, batch):
                output = _logits(model(*_repeated(inputs, len(streams))))
            if output.numel() and not any(stream.moved() for stream in streams):
                raise SpecError(
                    f"{type(model).__name__} did not use its dropout layers",
                    expected="a forward that draws random numbers",
                    got="one that draws none, so that every pass is the same",
                    fix=_UNSEEN,
                )
            if len(streams) == 1:
                results.append(output[None])
            else:
                _check_batch("the output", output, len(streams) * batch)
                results.append(output.reshape(len(streams), batch, *output.shape[1:]))
    return torch.cat(results)


class _Stream:
    """Holds the random state of one pass, on the CPU and on CUDA devices."""

    def __init__(self, devices: Sequence[int], seed: int, number: int) -> None:
        # The generators themselves: torch.manual_seed would reseed every device there is.
        self._generators = [torch.default_generator]
        self._generators += [torch.cuda.default_generators[index] for index in devices]
        sequence = np.random.SeedSequence(seed, spawn_key=(number,))
        key = int(sequence.generate_state(1, np.uint64)[0])
        for generator in self._generators:
            generator.manual_seed(key)
        self._first = self._states = [generator.get_state() for generator in self._generators]

    @contextmanager
    def drawn_from(self) -> Iterator[None]:
        """Lets torch draw from this stream, where it was left, within this context."""
        for generator, state in zip(self._generators, self._states, strict=True):
            generator.set_state(state)
        yield
        self._states = [generator.get_state() for generator in self._generators]

    def moved(self) -> bool:
        """Says whether anything was drawn."""
        return not all(map(torch.equal, self._first, self._states))


@contextmanager
def _pass_by_pass(
    layers: Sequence[nn.Module], streams: Sequence[_Stream], batch: int
) -> Iterator[None]:
    """Lets each pass of a repeated batch draw from its own stream, within this context.

    One pass needs no more than to start from its stream. With several in one forward, each
    dropout layer treats them one after another, so that each draws what it would draw alone.
    """
    if len(streams) == 1:
        with streams[0].drawn_from():
            yield
        return

    def split(forward: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        def run(values: Tensor) -> Tensor:
            _check_batch("the input of a dropout layer", values, len(streams) * batch)
            parts = []
            for stream, part in zip(streams, values.chunk(len(streams)), strict=True):
                with stream.drawn_from():
                    parts.append(forward(part))
            return torch.cat(parts)

        return run

    with ExitStack() as undo:
        for layer in layers:
            had = vars(layer).get("forward")
            vars(layer)["forward"] = split(layer.forward)
            undo.callback(_put_back, layer, had)
        yield


def _put_back(layer: nn.Module, forward: Any) -> None:
    if forward is None:
        del vars(layer)["forward"]
    else:
        vars(layer)["forward"] = forward


def _cuda_devices(model: nn.Module, inputs: Sequence[Any]) -> list[int]:
    """Lists the CUDA devices that the model and its inputs are on."""
    tensors = [*model.parameters(), *model.buffers(), *inputs]
    devices = {tensor.device for tensor in tensors if isinstance(tensor, Tensor)}
    for device in devices:
        if device.type not in ("cpu", "cuda"):
            raise UnsupportedCapability(
                "dropout on this device cannot be seeded here",
                capability=f"device:{device.type}",
                expected="cpu or cuda",
                got=str(device),
                fix="Move the model, or use the context manager mc_dropout without a seed.",
            )
    return sorted(
        torch.cuda.current_device() if device.index is None else device.index
        for device in devices
        if device.type == "cuda"
    )


def _batch(inputs: Sequence[Any]) -> int:
    """Gives the size of the first axis, the same for all inputs."""
    for value in inputs:
        if not isinstance(value, Tensor):
            raise DTypeError(
                "an input cannot be repeated",
                expected="tensors with the batch as their first axis",
                got=type(value).__name__,
                fix="Leave chunk out: one pass at a time takes any input.",
            )
    sizes = {tuple(value.shape[:1]) for value in inputs}
    if len(sizes) != 1 or () in sizes:
        raise ShapeError(
            "the inputs disagree about the batch",
            expected="the same first axis for all",
            got=", ".join(str(list(value.shape)) for value in inputs) or "no inputs",
            fix="Leave chunk out: one pass at a time takes any input.",
        )
    return int(inputs[0].shape[0])


def _repeated(inputs: Sequence[Any], times: int) -> Sequence[Any]:
    return inputs if times == 1 else [torch.cat([value] * times) for value in inputs]


def _check_batch(what: str, values: Tensor, size: int) -> None:
    if values.ndim == 0 or values.shape[0] != size:
        raise ShapeError(
            f"{what} does not have the batch as its first axis",
            expected=f"[{size}, ...]",
            got=str(list(values.shape)),
            fix="Leave chunk out: one pass at a time makes no such demand.",
        )


def _logits(output: Any) -> Tensor:
    logits = output if isinstance(output, Tensor) else getattr(output, "logits", None)
    if not isinstance(logits, Tensor):
        raise DTypeError(
            "the model does not return logits",
            expected="a tensor, or an object with a tensor 'logits'",
            got=type(output).__name__,
            fix="Wrap the model in a module that returns its logits.",
        )
    return logits
