"""`dms_torch.Fusion`, with inputs by name, under the tools that people use PyTorch with."""

from __future__ import annotations

import copy
import io
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import Tensor, nn  # noqa: E402
from torch.utils import _pytree as pytree  # noqa: E402
from torch.utils.checkpoint import checkpoint  # noqa: E402

from dms_spec import SchedulerSpec  # noqa: E402
from dms_spec.errors import DTypeError, MissingInput, ShapeError, UnsupportedCapability  # noqa: E402
from dms_torch import Fusion, FusionOutput  # noqa: E402

NAMES = ("image", "text", "audio")
TWO = NAMES[:2]  # one that is not there goes the longer way
# Signals without mc_logits: a model in training has one pass.
SPEC = SchedulerSpec(
    modalities=NAMES,
    policy="monotone",
    signals={"confidence": {}, "alignment": {}},
    coefficients={"confidence": 1.0, "alignment": 1.0},
    detach_signals=False,
)
Inputs = dict[str, dict[str, Tensor | None]]


def named(batch: int = 7, seed: int = 0, names: tuple[str, ...] = NAMES) -> Inputs:
    random = torch.Generator().manual_seed(seed)
    return {
        "features": {name: torch.randn(batch, 4, generator=random) for name in names},
        "logits": {name: torch.randn(batch, 5, generator=random) for name in names},
        "present": {name: torch.rand(batch, generator=random) < 0.7 for name in names},
    }


def stacked(inputs: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {role: torch.stack(list(own.values()), 1) for role, own in inputs.items()}


def fusion(**changes: object) -> Fusion:
    return Fusion(SPEC.replace(**changes))


def close(one: FusionOutput, other: FusionOutput) -> None:
    assert isinstance(one, FusionOutput) and one.notes == other.notes
    torch.testing.assert_close(one.to_tuple()[:6], other.to_tuple()[:6])


# --------------------------------------------------------------------------------- the output


def test_the_output_is_a_pytree_of_its_tensors() -> None:
    output = fusion()(**named())
    leaves, spec = pytree.tree_flatten(output)
    # fused, weights, scores, active; two signals; the terms of the policy
    assert len(leaves) == 4 + 2 + len(output.terms)
    assert all(isinstance(leaf, Tensor) for leaf in leaves)
    close(pytree.tree_unflatten(leaves, spec), output)
    doubled = pytree.tree_map(lambda x: x + x, output)
    assert torch.equal(doubled.signals["confidence"], output.signals["confidence"] * 2)
    paths = [pytree.keystr(path) for path, _ in pytree.tree_flatten_with_path(output)[0]]
    assert paths[0] == ".fused" and ".signals['confidence']" in paths


@pytest.mark.filterwarnings("ignore::dms_spec.errors.DMSWarning")
def test_notes_and_soundness_survive_being_taken_apart() -> None:
    module = Fusion(SchedulerSpec.preset("robust", NAMES))
    output = module(**named())
    again = pytree.tree_unflatten(*pytree.tree_flatten(output))
    assert again.notes == output.notes != ()
    assert torch.equal(again.soundness, output.soundness)


@pytest.mark.filterwarnings("ignore::dms_spec.errors.DMSWarning")
def test_no_parameter_is_a_scalar_here_and_all_are_in_an_artifact() -> None:
    """FSDP2 shards an axis. An artifact, and what is learned, have the policy's own shapes."""
    module = Fusion(SchedulerSpec.preset("robust", NAMES))
    assert {name: p.shape for name, p in module.named_parameters()}["policy/doubt"] == (1,)
    assert module.artifact().parameters["policy.doubt"].shape == ()
    assert module.learned()["policy/doubt"].shape == ()


# ---------------------------------------------------------------------------- inputs by name


def test_misfits_by_name_are_refused() -> None:
    module, inputs = fusion(), named()
    with pytest.raises(MissingInput, match="features has no tensor"):
        module(features=dict.fromkeys(NAMES), logits=inputs["logits"])
    with pytest.raises(MissingInput, match="present has no tensor"):
        module(**inputs | {"present": dict.fromkeys(NAMES)})
    with pytest.raises(ShapeError, match="present of the modalities differ"):
        module(**inputs | {"present": inputs["present"] | {"text": torch.ones(8) > 0}})
    two = {name: inputs["features"][name] for name in NAMES[:2]}
    with pytest.raises(DTypeError, match="bool"):
        module(two, inputs["logits"], present=torch.ones(7, 3))


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_compiled_once_for_every_size() -> None:
    torch._dynamo.reset()
    module, graphs = fusion(), []

    def counting(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> object:
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(module, fullgraph=True, dynamic=True, backend=counting)
    for size in (7, 9, 2, 33):
        inputs = named(size, size, TWO)
        close(compiled(**inputs), module(**inputs))
    assert len(graphs) == 1, "a new batch size or mask compiled again"


def test_exported_by_torch_saved_and_loaded() -> None:
    module, rows = fusion().eval(), torch.export.Dim("rows", min=1, max=4096)
    inputs = named(3, names=TWO)
    program = torch.export.export(
        module, (), inputs, dynamic_shapes=pytree.tree_map(lambda _: {0: rows}, inputs)
    )
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    loaded = torch.export.load(file).module()
    for size in (1, 17):
        new = named(size, 1, TWO)
        close(loaded(**new), module(**new))


@pytest.mark.filterwarnings(
    "ignore:.*LeafSpec.*:FutureWarning", "ignore:.*shares the same shape constraints.*:UserWarning"
)
def test_exported_to_onnx_with_an_open_batch() -> None:
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fusion = fusion()
            self.heads = nn.ModuleDict({name: nn.Linear(4, 5) for name in TWO})

        def forward(self, present: Tensor, *rows: Tensor) -> tuple[Tensor, Tensor]:
            features = dict(zip(TWO, rows, strict=True))
            logits = {name: self.heads[name](row) for name, row in features.items()}
            output = self.fusion(features, logits, present=present)
            return output.fused, output.weights

    def given(size: int) -> tuple[Tensor, ...]:
        inputs = named(size, size)
        return stacked(inputs)["present"], *(inputs["features"][name] for name in TWO)

    model, rows = Model().eval(), torch.export.Dim("rows", min=1, max=4096)
    program = torch.onnx.export(
        model,
        given(3),
        dynamo=True,
        verbose=False,
        dynamic_shapes={"present": {0: rows}, "rows": tuple({0: rows} for _ in TWO)},
    )
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
    for size in (1, 17):
        new = given(size)
        feed = {i.name: x.numpy() for i, x in zip(session.get_inputs(), new, strict=True)}
        for got, expected in zip(session.run(None, feed), model(*new), strict=True):
            np.testing.assert_allclose(got, expected.detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
def test_a_trace_of_a_full_batch_holds_for_one_with_gaps() -> None:
    class Fused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fusion = fusion()

        def forward(self, features: Tensor, logits: Tensor, present: Tensor) -> Tensor:
            return self.fusion(features, logits, present=present).fused

    full, gaps, model = stacked(named()), stacked(named(9, seed=1)), Fused()
    full["present"][:] = True
    gaps["features"][~gaps["present"]] = torch.nan
    traced = torch.jit.trace(model, tuple(full.values()), check_trace=False)
    torch.testing.assert_close(traced(*gaps.values()), model(*gaps.values()))


# ------------------------------------------------------------------------------- torch.func


def test_functional_call_and_vmap_over_an_ensemble() -> None:
    module, inputs = fusion(), named()
    states = [{k: v + step for k, v in module.named_parameters()} for step in (0.0, 0.1)]
    both = {name: torch.stack([state[name] for state in states]) for name in states[0]}

    def run(state: dict[str, Tensor]) -> FusionOutput:
        return torch.func.functional_call(module, state, kwargs=inputs)

    together = torch.func.vmap(run)(both)
    for m, state in enumerate(states):
        close(pytree.tree_map(lambda x, m=m: x[m], together), run(state))


def test_vmap_gives_gradients_of_each_sample() -> None:
    module, inputs = fusion(), named()
    state = {name: p.detach() for name, p in module.named_parameters()}

    def loss(state: dict[str, Tensor], one: Inputs) -> Tensor:
        batch = pytree.tree_map(lambda x: x[None], one)
        return torch.func.functional_call(module, state, kwargs=batch).fused.square().sum()

    each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(state, inputs)
    module(**inputs).fused.square().sum().backward()
    for name, parameter in module.named_parameters():
        torch.testing.assert_close(each[name].sum(0), parameter.grad)


def test_vmap_refuses_a_spec_that_looks_at_values() -> None:
    module, inputs = fusion(strict=True), named()
    with pytest.raises(NotImplementedError, match="vmap"):
        torch.func.vmap(lambda x: module(x[None], x[None].mean(-1, True)).fused)(
            stacked(inputs)["features"]
        )


# -------------------------------------------------------------------- copies, files, dtypes


def test_state_goes_through_a_file_with_weights_only() -> None:
    module, other, file = fusion(), Fusion(SPEC, seed=1), io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    close(other(**named()), module(**named()))


def test_a_copy_is_equal_and_its_own() -> None:
    module, inputs = fusion(), named()
    before = module(**inputs)
    copied = copy.deepcopy(module)
    close(copied(**inputs), before)
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter += 1.0
    close(module(**inputs), before)
    assert not torch.equal(copied(**inputs).weights, before.weights)
    close(copy.deepcopy(before.__class__(*map(detached, before.to_tuple()))), before)


def detached(value: object) -> object:
    return pytree.tree_map(lambda x: x.detach() if isinstance(x, Tensor) else x, value)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_moved_to_another_dtype(dtype: torch.dtype) -> None:
    module, inputs = fusion(), named()
    expected = module(**inputs)
    moved = pytree.tree_map(lambda x: x.to(dtype) if x.is_floating_point() else x, inputs)
    output = module.to(dtype)(**moved)
    assert output.fused.dtype == dtype
    assert output.weights.dtype == (dtype if dtype == torch.float64 else torch.float32)
    # Parameters and inputs are rounded; what is computed of them is not.
    step = torch.finfo(dtype).eps if dtype != torch.float64 else 1e-6
    torch.testing.assert_close(output.weights.float(), expected.weights, rtol=0, atol=8 * step)


# --------------------------------------------------------------- checkpoints, several devices


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_checkpointing_gives_the_gradients_or_refuses() -> None:
    """A reentrant checkpoint returns a FusionOutput without history: reading it is refused."""
    module, inputs = fusion(), stacked(named())
    rows = inputs.pop("features").requires_grad_()

    def run(rows: Tensor) -> FusionOutput:
        return module(rows, **inputs)

    def gradient(loss: Tensor) -> Tensor:
        return torch.autograd.grad(loss, rows)[0]

    expected = gradient(run(rows).fused.square().sum())
    output = checkpoint(run, rows, use_reentrant=False)
    torch.testing.assert_close(gradient(output.fused.square().sum()), expected)
    checkpoint(lambda x: run(x).fused, rows, use_reentrant=True).square().sum().backward()
    torch.testing.assert_close(rows.grad, expected)  # a tensor may leave
    for leaves in (run, lambda x: (x.sum(), run(2 * x))):
        output = checkpoint(leaves, rows, use_reentrant=True)
        with pytest.raises(UnsupportedCapability, match="use_reentrant=False"):
            (output[1] if isinstance(output, tuple) else output).fused  # noqa: B018


def test_dataparallel_is_refused() -> None:
    """As `replicate` does it for each of several GPUs."""
    with pytest.raises(UnsupportedCapability, match="DistributedDataParallel"):
        nn.Sequential(fusion())[0]._replicate_for_data_parallel()


def test_two_ranks_stay_together_in_every_mode(tmp_path: Path) -> None:
    """With NaN where nothing is, two modalities absent on one rank, and inputs by name."""
    modes = ("plain", "plain by name", "static by name", "unused by name", "fsdp by name")
    script = Path(__file__).with_name("ddp_rank.py")
    ranks = [
        subprocess.Popen(
            [sys.executable, str(script), str(rank), str(tmp_path), *modes, "skipping"],
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for process in ranks:
        _, said = process.communicate(timeout=180)
        assert process.returncode == 0, said
    first = np.load(tmp_path / f"{modes[0]}-0.npy")
    assert np.isfinite(first).all()
    for mode in modes:
        one, other = (np.load(tmp_path / f"{mode}-{rank}.npy") for rank in range(2))
        np.testing.assert_array_equal(one, other, err_msg=mode)
        # The same steps, whoever sums the gradients.
        np.testing.assert_allclose(one, first, rtol=1e-5, atol=1e-6, err_msg=mode)
    skipping = [np.load(tmp_path / f"skipping-{rank}.npy") for rank in range(2)]
    assert np.isfinite(skipping[0]).all() and np.array_equal(*skipping)
