"""`dms_torch.Fusion`: the same numbers as everywhere, in a module that trains and compiles."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import Tensor, nn  # noqa: E402

from dms_spec import ModalityBatch, SchedulerSpec, get_backend, load_artifact, save_artifact  # noqa: E402
from dms_spec.conformance import oracle, worked_example  # noqa: E402
from dms_spec.errors import (  # noqa: E402
    DTypeError,
    MissingInput,
    NonFiniteInput,
    NothingPresent,
    ShapeError,
    SpecError,
)
from dms_torch import Fusion, FusionOutput, consistency_loss, fusion_loss, weight_entropy  # noqa: E402

NAMES = ("image", "text", "audio")
LEARNED = ("learned_linear", "residual_mlp", "monotone")
PAPER = SchedulerSpec.preset("paper", NAMES)


def learned(policy: str, **changes: object) -> SchedulerSpec:
    return PAPER.replace(policy=policy, **changes)


def tensors(batch: int = 6, dtype: torch.dtype = torch.float64, seed: int = 0) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random, dtype=torch.float64).to(dtype)

    present = torch.rand((batch, 3), generator=random) < 0.7
    present[0] = False  # nothing at all
    present[1] = True
    return {
        "features": normal(batch, 3, 4),
        "logits": normal(batch, 3, 5) * 2,
        "mc_logits": normal(4, batch, 3, 5) * 2,
        "present": present,
    }


def test_the_worked_example_in_torch() -> None:
    arrays = worked_example.arrays()
    output = Fusion(worked_example.SPEC)(**{k: torch.from_numpy(v) for k, v in arrays.items()})
    exact = oracle.schedule(worked_example.SPEC, arrays)
    np.testing.assert_allclose(output.weights.numpy(), exact.weights, rtol=1e-14)
    np.testing.assert_allclose(output.fused.numpy(), exact.fused, rtol=1e-13, atol=1e-15)


def test_the_output_by_attribute_by_key_and_as_a_tuple() -> None:
    output = Fusion(PAPER)(**tensors())
    assert isinstance(output, FusionOutput)
    fused, weights, *_ = output
    assert output.weights is weights is output["weights"] is output[1]
    assert output["fused"] is fused and set(output.signals) == set(PAPER.signals)
    with pytest.raises(AttributeError):
        output["no such thing"]


def test_named_inputs_are_stacked_in_the_specs_order() -> None:
    batch = tensors()
    stacked = Fusion(PAPER)(**batch)
    named = {
        role: {name: batch[role][..., m, :] for m, name in reversed(list(enumerate(NAMES)))}
        for role in ("features", "logits", "mc_logits")
    }
    named["present"] = {name: batch["present"][:, m] for m, name in enumerate(NAMES)}
    for key, value in enumerate(stacked.to_tuple()[:4]):
        assert torch.equal(Fusion(PAPER)(**named)[key], value)


@pytest.mark.parametrize("how", ["none", "no entry"])
def test_a_name_without_a_tensor_is_absent_for_the_batch(how: str) -> None:
    batch = tensors()
    gone = batch | {"present": batch["present"] & torch.tensor([True, True, False])}
    expected = Fusion(PAPER)(**gone)
    named = {
        role: {name: batch[role][..., m, :] for m, name in enumerate(NAMES[:2])}
        | ({"audio": None} if how == "none" else {})
        for role in ("features", "logits", "mc_logits")
    }
    output = Fusion(PAPER)(**named, present=batch["present"])
    assert torch.equal(output.weights, expected.weights)
    assert torch.equal(output.fused, expected.fused)


def test_misfits_are_refused() -> None:
    batch, fusion = tensors(), Fusion(PAPER)
    with pytest.raises(SpecError, match="'audio'"):
        fusion(features={"audoi": batch["features"][:, 0]}, logits=batch["logits"])
    with pytest.raises(ShapeError, match="common width"):
        fusion(features={"image": torch.ones(2, 3), "text": torch.ones(2, 4)})
    with pytest.raises(MissingInput, match="confidence"):
        fusion(features=batch["features"])
    with pytest.raises(DTypeError, match="bool"):
        fusion(**batch | {"present": batch["present"].float()})
    with pytest.raises(DTypeError, match="another library"):
        fusion(**batch | {"logits": batch["logits"].numpy()})
    with pytest.raises(NothingPresent, match="sample 0"):
        Fusion(PAPER.replace(strict=True))(**batch)
    with pytest.raises(NonFiniteInput, match="'text'"):
        batch["features"][1, 1, 0] = torch.nan
        Fusion(PAPER.replace(nonfinite="raise"))(**batch)


@pytest.mark.clause("DMS-L-007", "DMS-L-008")
@pytest.mark.parametrize("policy", LEARNED)
def test_learning_starts_at_the_rule(policy: str) -> None:
    batch = tensors()
    rule = Fusion(PAPER)(**batch)
    start = Fusion(learned(policy))(**batch)
    # Parameters are float32; the monotone one starts beside the rule, never on it.
    close = 0.05 if policy == "monotone" else 1e-6
    torch.testing.assert_close(start.weights, rule.weights, rtol=0, atol=close)


def test_a_rule_with_a_zero_cannot_be_learned_away_from() -> None:
    coefficients = dict(PAPER.coefficients) | {"alignment": 0.0}
    with pytest.raises(SpecError, match="above 0"):
        Fusion(learned("learned_linear", coefficients=coefficients))


@pytest.mark.parametrize("policy", ["linear", *LEARNED, "co_attention", "static", "dmome"])
@pytest.mark.clause("DMS-X-002", "DMS-X-007")
def test_saved_by_torch_loaded_by_numpy(policy: str, tmp_path: Path) -> None:
    """Whatever was learned, NumPy gives the same weights; and torch reads back the same bits."""
    plain = policy in ("co_attention", "static", "dmome")
    spec = SchedulerSpec(modalities=NAMES, policy=policy) if plain else learned(policy)
    fusion = Fusion(spec, width=4)
    with torch.no_grad():
        for parameter in fusion.parameters():
            parameter += torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    save_artifact(tmp_path / "artifact", fusion.artifact())
    loaded = load_artifact(tmp_path / "artifact")
    batch = tensors()
    mine = fusion(**batch).weights.detach().numpy()
    scheduler = get_backend("numpy").scheduler(loaded.spec, loaded.parameters)
    theirs = scheduler(ModalityBatch(**{k: v.numpy() for k, v in batch.items()})).weights
    np.testing.assert_allclose(theirs, mine, rtol=1e-12, atol=1e-15)
    again = Fusion(loaded.spec, loaded.parameters)
    assert torch.equal(again(**batch).weights, fusion(**batch).weights)
    again.load_state_dict(fusion.state_dict())
    assert all(
        torch.equal(a, b) for a, b in zip(again.parameters(), fusion.parameters(), strict=True)
    )
    pickle.loads(pickle.dumps(fusion))  # crosses process borders


# ------------------------------------------------------------------------------------ gradients


@pytest.mark.clause("DMS-G-001")
def test_signals_are_constants_unless_asked() -> None:
    batch = tensors()
    for detach in (True, False):
        logits = batch["logits"].clone().requires_grad_()
        output = Fusion(PAPER.replace(detach_signals=detach))(**batch | {"logits": logits})
        if detach:
            assert not output.weights.requires_grad
        else:
            output.weights[:, 0].sum().backward()
            assert logits.grad is not None and logits.grad.abs().sum() > 0


@pytest.mark.clause("DMS-G-003")
@pytest.mark.parametrize("policy", ["linear", *LEARNED])
def test_gradcheck_of_features_logits_passes_and_parameters(policy: str) -> None:
    batch = tensors(batch=3)
    fusion = Fusion(learned(policy, detach_signals=False)).double()
    names = [name for name, _ in fusion.named_parameters()]

    def run(
        features: Tensor, logits: Tensor, mc_logits: Tensor, *parameters: Tensor
    ) -> tuple[Tensor, ...]:
        given = {"features": features, "logits": logits, "mc_logits": mc_logits}
        given |= {"present": batch["present"]}
        state = dict(zip(names, parameters, strict=True))
        output = torch.func.functional_call(fusion, state, kwargs=given)
        return output.fused, output.weights

    inputs = [batch[name] for name in ("features", "logits", "mc_logits")]
    inputs += [parameter.detach().clone() for parameter in fusion.parameters()]
    assert torch.autograd.gradcheck(run, [x.requires_grad_() for x in inputs])


@pytest.mark.clause("DMS-G-003")
def test_gradients_equal_finite_differences_of_the_oracle() -> None:
    """Through every signal of the method, against the independent implementation."""
    batch = {name: value[1:3] for name, value in tensors().items() if name != "mc_logits"}
    batch["mc_logits"] = tensors()["mc_logits"][:, 1:3]
    batch["present"][:] = True
    spec = PAPER.replace(detach_signals=False)
    random = np.random.Generator(np.random.Philox(3))
    direction = random.normal(size=(2, 4))
    for role in ("features", "logits", "mc_logits"):
        leaf = batch[role].clone().requires_grad_()
        output = Fusion(spec)(**batch | {role: leaf})
        (output.fused * torch.from_numpy(direction)).sum().backward()
        arrays = {name: value.numpy() for name, value in batch.items()}
        for _ in range(10):
            where = tuple(int(random.integers(size)) for size in leaf.shape)
            step, values = 1e-5, []
            for sign in (1, -1):
                moved = arrays[role].copy()
                moved[where] += sign * step
                exact = oracle.schedule(spec, arrays | {role: moved})
                values.append((exact.fused * direction).sum())
            difference = (values[0] - values[1]) / (2 * step)
            # Central differences: an error of step^2 and of eps/step.
            assert abs(leaf.grad[where].item() - difference) < 1e-8


@pytest.mark.clause("DMS-G-002")
@pytest.mark.parametrize("filler", [float("nan"), float("inf"), -float("inf"), 0.0])
@pytest.mark.parametrize("policy", ["linear", *LEARNED, "co_attention"])
@pytest.mark.parametrize("fusion_level", ["feature", "logit", "probability"])
def test_gradients_are_finite_whatever_fills_the_gaps(
    filler: float, policy: str, fusion_level: str
) -> None:
    """Zero vectors, one-hot predictions, absent modalities, and a sample with nothing at all."""
    batch = tensors(dtype=torch.float32)
    batch["features"][1, 0] = 0
    batch["logits"][1, 1] = torch.tensor([0.0, *[-torch.inf] * 4])
    batch["mc_logits"][:, 1, 1] = torch.tensor([0.0, *[-200.0] * 4])
    for role in ("features", "logits", "mc_logits"):
        batch[role][..., ~batch["present"], :] = filler
    spec = SchedulerSpec(
        modalities=NAMES,
        policy=policy,
        signals={
            "confidence": {}, "uncertainty": {}, "alignment": {}, "mutual_information": {},
            "agreement": {}, "energy": {},
        },
        detach_signals=False,
        fusion=fusion_level,
        coefficients={} if policy == "co_attention" else {
            "confidence": 1.0, "uncertainty": 1.0, "alignment": 1.0, "mutual_information": 1.0,
            "agreement": 1.0, "energy": 0.1,
        },
    )  # fmt: skip
    leaves = {k: v.clone().requires_grad_() for k, v in batch.items() if k != "present"}
    fusion = Fusion(spec, width=4)
    output = fusion(**leaves, present=batch["present"])
    fused = torch.where(output.fused.isfinite(), output.fused, 0)
    (fused.square().sum() + output.weights.square().sum()).backward()
    for name, leaf in leaves.items():
        if leaf.grad is None:
            continue  # nothing of it was read
        assert leaf.grad.isfinite().all(), name
        absent = leaf.grad[..., ~batch["present"], :]
        assert (absent == 0).all(), f"an absent modality's {name} get a gradient"
    for name, parameter in fusion.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


# --------------------------------------------------------------------------- precision, compile


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_and_autocast_compute_in_float32(dtype: torch.dtype) -> None:
    batch = tensors(dtype=dtype)
    wide = {k: v.float() if v.is_floating_point() else v for k, v in batch.items()}
    fusion = Fusion(PAPER)
    output, expected = fusion(**batch), fusion(**wide)
    assert output.weights.dtype == torch.float32 and output.fused.dtype == dtype
    assert torch.equal(output.weights, expected.weights)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = fusion(**wide)
    assert torch.equal(inside.weights, expected.weights)
    assert inside.fused.dtype == torch.float32 and torch.equal(inside.fused, expected.fused)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("policy", ["linear", "monotone"])
def test_compiled_whole_and_once(policy: str) -> None:
    """fullgraph, dynamic batch: the eager numbers and gradients, one graph for all batches."""
    torch._dynamo.reset()
    fusion = Fusion(learned(policy))
    graphs = []

    def counting(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> object:
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(fusion, fullgraph=True, dynamic=True, backend=counting)
    # Sizes unlike M, D, C and T: the compiler takes equal first sizes for the same size.
    for size in (7, 9, 2, 33):
        batch = tensors(size, torch.float32, seed=size)
        output = compiled(**batch)
        torch.testing.assert_close(output.weights, fusion(**batch).weights)
    assert len(graphs) == 1, "a new batch size or mask compiled again"
    if policy == "monotone":
        output.weights[:, 0].sum().backward()
        assert all(parameter.grad.isfinite().all() for parameter in fusion.parameters())


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_compiled_by_inductor() -> None:
    torch._dynamo.reset()
    fusion = Fusion(PAPER)
    compiled = torch.compile(fusion, fullgraph=True, dynamic=True)
    batch = tensors(7, torch.float32)
    torch.testing.assert_close(compiled(**batch).fused, fusion(**batch).fused)


def test_a_compiled_graph_refuses_a_spec_that_looks_at_values() -> None:
    torch._dynamo.reset()
    compiled = torch.compile(Fusion(PAPER.replace(strict=True)), backend="eager", fullgraph=True)
    with pytest.raises(Exception, match="look at values"):
        compiled(**tensors())


def test_the_training_example_learns() -> None:
    script = Path(__file__).resolve().parents[1] / "examples" / "train_torch.py"
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.split()[1]) > 0.85  # one half of a digit alone gives about 0.8


# --------------------------------------------------------------------------------------- losses


@pytest.mark.clause("DMS-O-003")
def test_the_consistency_loss_pushes_the_weights_only_on_request() -> None:
    """Allowed to, it drives them to one-hot; by default it sends them nothing."""
    h = tensors()["features"][1:2]
    for detach in (True, False):
        scores = torch.zeros(1, 3, dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.SGD([scores], lr=0.5)
        for _ in range(2000):
            optimizer.zero_grad()
            loss = consistency_loss(h, torch.softmax(scores, -1), detach_weights=detach)
            if loss.requires_grad:
                loss.backward()
                optimizer.step()
        largest = torch.softmax(scores, -1).max().item()
        assert largest == pytest.approx(1 / 3) if detach else largest > 0.99


def test_the_total_loss_and_its_parts() -> None:
    batch = tensors()
    fusion = Fusion(learned("learned_linear"))
    output = fusion(**batch)
    head = nn.Linear(4, 5).double()
    labels = torch.arange(6) % 5
    parts = fusion_loss(
        output, head(output.fused), labels, batch["features"], consistency=0.5, entropy=0.1
    )
    some = output.active.any(-1)
    task = nn.functional.cross_entropy(head(output.fused)[some], labels[some])
    torch.testing.assert_close(parts["task"], task)
    expected = task + 0.5 * parts["consistency"] - 0.1 * parts["entropy"]
    torch.testing.assert_close(parts["total"], expected)
    parts["total"].backward()
    assert all(p.grad.isfinite().all() for p in (*fusion.parameters(), *head.parameters()))


def test_weight_entropy_by_hand() -> None:
    weights = torch.tensor([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]], requires_grad=True)
    each = weight_entropy(weights, reduction="none")
    torch.testing.assert_close(each.detach(), torch.tensor([np.log(2.0), 0.0, 0.0]).float())
    torch.testing.assert_close(weight_entropy(weights).detach().item(), np.log(2.0) / 2)
    each.sum().backward()
    assert weights.grad.isfinite().all()
