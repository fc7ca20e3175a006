"""Keeps the graphs that were traced last: schedulers of one spec and parameters share them."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

from dms_onnx.lock import tracing
from dms_onnx.metadata import parameters_hash
from dms_onnx.session import Session
from dms_spec.artifact import Artifact
from dms_spec.engine.resolve import resolve

#: A graph that runs, and what is weaker in it than it looks.
Graph = tuple[Session, tuple[str, ...]]

# Enough for schedulers that are made again and again; what is large is traced again instead.
_MOST = 32
_LARGEST = 1 << 20

_shared: OrderedDict[Hashable, Graph] = OrderedDict()


class Graphs:
    """Holds the graphs of an artifact on a device, by what comes in. It may be pickled."""

    def __init__(self, artifact: Artifact, device: str) -> None:
        self._artifact, self._device = artifact, device
        self._own: dict[Hashable, Graph] = {}

    def get(self, inputs: Hashable, trace: Callable[[], tuple[Any, tuple[str, ...]]]) -> Graph:
        """Gives the graph for some inputs, traced now if it is not there."""
        with tracing():
            if inputs not in self._own:
                self._own[inputs] = self._found(inputs, trace)
            return self._own[inputs]

    def _found(self, inputs: Hashable, trace: Callable[[], tuple[Any, tuple[str, ...]]]) -> Graph:
        size = sum(array.nbytes for array in self._artifact.parameters.values())
        if size > _LARGEST:
            return self._traced(trace)
        key = (inputs, self._device, *self._content())
        graph = _shared.pop(key, None) or self._traced(trace)
        _shared[key] = graph
        if len(_shared) > _MOST:
            _shared.popitem(last=False)
        return graph

    def _traced(self, trace: Callable[[], tuple[Any, tuple[str, ...]]]) -> Graph:
        model, notes = trace()
        return Session(model.SerializeToString(), self._device), notes

    def _content(self) -> tuple[Hashable, ...]:
        """What a graph is made from: the spec, its functions, the parameters, and the model."""
        artifact = self._artifact
        resolved = resolve(artifact.spec, artifact.scheduler_parameters)
        return (
            json.dumps([artifact.spec.to_dict(), dict(artifact.model)]),
            resolved.policy.function,
            *(signal.function for signal in resolved.signals),
            parameters_hash(artifact.parameters),
        )
