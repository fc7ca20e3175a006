"""Models of users that hold a `Fusion`, exported by torch, in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from dms_spec.artifact import Artifact
from dms_spec.conformance.closeness import K
from dms_spec.spec import SchedulerSpec

torch = pytest.importorskip("torch", reason="torch is not installed: dms-spec[torch]")
pytest.importorskip("onnxscript", reason="torch exports with onnxscript: make test-runtimes")
onnxruntime = pytest.importorskip("onnxruntime", reason="not installed: dms-spec[onnxruntime]")

from dms_torch import Fusion  # noqa: E402

pytestmark = [
    # torch's own, in its own code.
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning"),
    # That two inputs share their batch, which is meant.
    pytest.mark.filterwarnings("ignore:.*shares the same shape constraints.*:UserWarning"),
]

Arrays = Mapping[str, np.ndarray]
EPS = float(np.finfo(np.float32).eps)
INNER = ("features", "logits", "mc_logits")
COLUMN = f"torch {torch.__version__.split('+')[0]} in onnxruntime {onnxruntime.__version__}"


class Whole(torch.nn.Module):
    """Nothing but the scheduler, so that every size can be left open."""

    def __init__(self, spec: SchedulerSpec) -> None:
        super().__init__()
        self.fusion = Fusion(spec)

    def forward(self, features: Any, logits: Any, mc_logits: Any, present: Any) -> dict[str, Any]:
        return named(self.fusion(features, logits, mc_logits, present))


class Encoders(torch.nn.Module):
    """What a user writes: an encoder for each modality, an ensemble of heads, and `Fusion`."""

    def __init__(self, spec: SchedulerSpec, widths: Mapping[str, int]) -> None:
        super().__init__()
        self.encoders = torch.nn.ModuleDict(
            {name: torch.nn.Linear(width, 6) for name, width in widths.items()}
        )
        self.heads = torch.nn.ModuleList(torch.nn.Linear(6, 4) for _ in range(3))
        self.fusion = Fusion(spec)

    def forward(self, image: Any, text: Any, audio: Any, present: Any) -> dict[str, Any]:
        rows = {"image": image, "text": text, "audio": audio}
        features = torch.stack([self.encoders[name](row) for name, row in rows.items()], dim=1)
        passes = torch.stack([head(features) for head in self.heads])
        logits = passes.mean(dim=0)
        inner = dict(zip(INNER, (features, logits, passes), strict=True))
        return named(self.fusion(**inner, present=present)) | inner


def named(output: Any) -> dict[str, Any]:
    parts = ("weights", "fused", "scores", "active")
    return {name: output[name] for name in parts} | output.signals


def exported(
    module: Any, example: Arrays, axes: Mapping[str, tuple[str | int, ...]]
) -> Callable[[Arrays], dict[str, np.ndarray]]:
    """The module in ONNX Runtime, with the axes that have names left open."""
    module.eval()
    given = {name: torch.from_numpy(example[name]) for name in axes}
    outputs = list(module(**given))
    names = {axis for own in axes.values() for axis in own if isinstance(axis, str)}
    open_sizes = {name: torch.export.Dim(name) for name in sorted(names)}
    program = torch.onnx.export(
        module,
        tuple(given.values()),
        dynamo=True,
        verbose=False,
        input_names=list(axes),
        output_names=outputs,
        # Under a name torch freezes in silence what it cannot keep open, so that is what is tried.
        dynamic_shapes={
            name: {k: open_sizes[a] for k, a in enumerate(own) if isinstance(a, str)}
            for name, own in axes.items()
        },
    )
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
    inputs = {value.name: tuple(value.shape) for value in session.get_inputs()}
    assert list(inputs) == list(axes), "an input was lost, or its name"
    assert inputs == axes, "a size is frozen"
    return lambda arrays: dict(zip(outputs, session.run(outputs, dict(arrays)), strict=True))


@pytest.mark.parametrize("name", ["paper", "rule"])
def test_a_scheduler_with_every_size_open(
    name: str, graphs: Callable[[str], Any], hold: Callable[..., None]
) -> None:
    graph = graphs(name)
    axes = {
        "features": ("B", 3, "D"),
        "logits": ("B", 3, "C"),
        "mc_logits": ("T", "B", 3, "C"),
        "present": ("B", 3),
    }
    # Some specs do not read all that a module may be given.
    batches = {
        what: {"features": np.zeros((*arrays["present"].shape, 2), np.float32)} | dict(arrays)
        for what, arrays in graph.batches.items()
    }
    run = exported(Whole(graph.spec), next(iter(batches.values())), axes)
    hold(COLUMN, graph, {what: run(arrays) for what, arrays in batches.items()})


@pytest.mark.parametrize("name", ["paper", "rule"])
def test_a_model_with_encoders(name: str, graphs: Callable[[str], Any]) -> None:
    from dms_onnx import batches
    from dms_onnx.truth import Truth

    widths = {"image": 5, "text": 3, "audio": 4}
    axes = {name: ("B", width) for name, width in widths.items()} | {"present": ("B", 3)}
    spec = graphs(name).spec
    torch.manual_seed(0)
    module = Encoders(spec, widths)
    drawn = dict(batches.draw(axes, "float32"))
    run = exported(module, next(iter(drawn.values())), axes)
    truth = Truth(Artifact(spec=spec), heads=False, dtype="float32")
    for what, arrays in drawn.items():
        with torch.no_grad():
            eager = module(**{name: torch.from_numpy(array) for name, array in arrays.items()})
        outputs = {name: value.numpy() for name, value in eager.items()}
        own = {"eager": outputs, "exported": run(arrays)}
        for which, found in own.items():
            # Each is held to what is right for its own encoders' rounding.
            inner = {name: found.pop(name) for name in INNER}
            answer = truth.answer(inner | {"present": arrays["present"]})
            try:
                answer.hold(found)
            except AssertionError as error:
                raise AssertionError(f"{which}, {what}: {error}") from error
            found |= {
                name: np.where(answer.exact["active"][..., None], array, 0.0)
                for name, array in inner.items()
            }
        assert np.array_equal(own["exported"]["active"], own["eager"]["active"])
        for name in INNER:
            error = np.abs(own["exported"][name] - own["eager"][name])
            assert (error <= K * EPS * (1 + np.abs(own["eager"][name]))).all(), f"{what}: {name}"
