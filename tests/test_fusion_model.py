"""`dms_torch.FusionModel`: encoders see what is there and nothing else, and the whole learns."""

from __future__ import annotations

from collections import UserDict
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import Tensor, nn  # noqa: E402
from torch.utils import _pytree as pytree  # noqa: E402
from torch.utils.checkpoint import checkpoint  # noqa: E402

from dms_spec import Artifact, SchedulerSpec, get_backend  # noqa: E402
from dms_spec.embeddings.predictor import Predictor  # noqa: E402
from dms_spec.embeddings.table import Table  # noqa: E402
from dms_spec.errors import (  # noqa: E402
    DTypeError,
    MissingInput,
    ShapeError,
    SpecError,
    UnsupportedCapability,
)
from dms_torch import FusionModel, ModelOutput, fusion_loss, unimodal_loss  # noqa: E402
from dms_torch.fit import FitSettings, fit  # noqa: E402

NAMES = ("image", "text", "table")
WIDTHS = {"image": 4, "text": 6, "table": 5}
PAPER = SchedulerSpec.preset("paper", NAMES)
ROBUST = SchedulerSpec.preset("robust", NAMES)
LEVELS = ("feature", "logit", "probability", "evidence")


class Counted(nn.Module):
    """Encodes, and notes how many rows came in each call."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.rows = inner, []

    def forward(self, x: Tensor) -> Tensor:
        self.rows.append(len(x))
        return self.inner(x)


class Words(nn.Module):
    """The mean embedding of the tokens that the mask keeps."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.rows = nn.Embedding(9, 6), []

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        self.rows.append(len(input_ids))
        kept = attention_mask[..., None].to(self.table.weight.dtype)
        return (self.table(input_ids) * kept).sum(1) / kept.sum(1)


def model(fusion: str = "feature", **changes: object) -> FusionModel:
    torch.manual_seed(0)
    pixels = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    encoders = {
        "image": Counted(pixels),
        "text": Words(),
        "table": Counted(nn.Sequential(nn.Linear(3, 5), nn.Tanh())),
    }
    spec = changes.pop("spec", ROBUST if fusion == "evidence" else PAPER.replace(fusion=fusion))
    options = {"widths": WIDTHS, "width": 8, "classes": 3, "passes": 4, **changes}
    return FusionModel(encoders, spec, **options)


def batch(rows: int = 7) -> tuple[dict[str, object], Tensor]:
    """Inputs of three shapes; NaN, or a token that does not exist, wherever one is absent."""
    random = torch.Generator().manual_seed(1)
    present = torch.rand((rows, 3), generator=random) < 0.6
    present[0], present[1], present[2] = True, False, torch.tensor([True, False, True])
    image = torch.randn((rows, 1, 5, 6), generator=random)
    table = torch.randn((rows, 3), generator=random)
    ids = torch.randint(9, (rows, 4), generator=random)
    image[~present[:, 0]], ids[~present[:, 1]], table[~present[:, 2]] = (
        float("nan"),
        10**6,
        float("nan"),
    )
    text = UserDict(input_ids=ids, attention_mask=torch.ones_like(ids))  # as tokenizers give it
    return {"image": image, "text": text, "table": table}, present


@pytest.mark.filterwarnings("ignore:.*has no parameters:dms_spec.errors.DMSWarning")
@pytest.mark.parametrize("level", LEVELS)
def test_an_encoder_sees_its_rows_and_nothing_absent_reaches_an_output(level: str) -> None:
    net, (inputs, present) = model(level), batch()
    output = net(inputs, present)
    for m, name in enumerate(NAMES):
        assert net.encoders[name].rows == [int(present[:, m].sum())]
    assert torch.equal(output.active, present)
    assert not output.features[~present].any() and not output.logits[~present].any()
    values = [leaf for leaf in pytree.tree_leaves(output) if leaf is not output.scores]
    assert all(torch.isfinite(v).all() for v in values if isinstance(v, Tensor))
    some = present.any(dim=1)
    torch.testing.assert_close(output.weights.sum(1), some.to(torch.float32))
    torch.testing.assert_close(output.probabilities.sum(1), torch.ones(len(some)))
    torch.testing.assert_close(output.predictions.softmax(1)[some], output.probabilities[some])
    torch.testing.assert_close(output.probabilities[1], torch.full((3,), 1 / 3))


@pytest.mark.filterwarnings("ignore:.*has no parameters:dms_spec.errors.DMSWarning")
@pytest.mark.parametrize("level", LEVELS)
def test_a_row_alone_equals_the_row_in_the_batch(level: str) -> None:
    net, (inputs, present) = model(level).eval(), batch()
    whole = net(inputs, present)
    for i in range(len(present)):
        one = inputs | {"text": dict(inputs["text"])}
        alone = net(pytree.tree_map(lambda t, i=i: t[i : i + 1], one), present[i : i + 1])
        for key in ("weights", "fused", "predictions", "probabilities", "features", "logits"):
            torch.testing.assert_close(alone[key][0], whole[key][i])


def test_an_encoder_without_rows_is_not_called() -> None:
    net, (inputs, present) = model(), batch()
    told = net(inputs, present & torch.tensor([False, True, True]))
    left_out = net({"text": inputs["text"], "table": inputs["table"]}, present)
    as_none = net(
        inputs | {"image": None}, dict(zip(NAMES[1:], present.unbind(1)[1:], strict=True))
    )
    assert net.encoders["image"].rows == []
    for other in (left_out, as_none):
        torch.testing.assert_close(other.probabilities, told.probabilities)
    clean = {"image": torch.randn(2, 1, 5, 6), "table": torch.randn(2, 3)}
    assert torch.equal(net(clean).active, torch.tensor([[True, False, True]] * 2))


def test_gradients_reach_what_ran_and_a_step_lowers_the_loss() -> None:
    net, (inputs, present) = model(spec=PAPER.replace(policy="monotone")), batch()
    present[:, 2] = False
    labels = torch.arange(len(present)) % 3
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    totals = []
    for _ in range(3):
        output = net(inputs, present)
        losses = fusion_loss(output, output.predictions, labels, output.features)
        total = losses["total"] + unimodal_loss(output.mc_logits, labels, output.active)
        totals.append(float(total.detach()))
        optimizer.zero_grad()
        total.backward()
        gradients = {n: p.grad for n, p in net.named_parameters() if p.grad is not None}
        assert all(torch.isfinite(g).all() for g in gradients.values())
        for name, ran in zip(NAMES, (True, True, False), strict=True):
            own = [g for key, g in gradients.items() if key.startswith(f"encoders.{name}.")]
            assert bool(own) == ran and all(g.any() for g in own)
        assert gradients["heads/image/classifier/weight"].any()
        assert not gradients["heads/table/classifier/bias"].any()
        optimizer.step()
    assert totals[0] > totals[1] > totals[2]


def test_a_reentrant_checkpoint_refuses_what_lost_its_gradients() -> None:
    net, (inputs, present) = model(), batch()
    x = inputs["table"].requires_grad_()
    inputs.pop("table")
    output = checkpoint(lambda x: net(inputs | {"table": x}, present), x, use_reentrant=True)
    for key in ("fused", "predictions"):
        with pytest.raises(UnsupportedCapability, match="use_reentrant=False"):
            output[key]


def test_half_precision_encoders_and_autocast() -> None:
    net, (inputs, present) = model(), batch()
    exact = net(inputs, present)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = net(inputs, present)
    assert rough.probabilities.dtype == torch.float32
    torch.testing.assert_close(rough.probabilities, exact.probabilities, rtol=0.05, atol=0.02)


def test_the_output_is_a_pytree_of_its_tensors() -> None:
    net, (inputs, present) = (
        model(
            passes=0, spec=PAPER.replace(signals={"alignment": {}}, coefficients={"alignment": 1.0})
        ),
        batch(),
    )
    output = net(inputs, present)
    again = pytree.tree_unflatten(*pytree.tree_flatten(output))
    assert type(again) is ModelOutput and again.mc_logits is None and again.notes == output.notes
    assert torch.equal(again.predictions, output.predictions)


def test_it_is_saved_and_loaded_by_the_hubs_mixin(tmp_path: Path) -> None:
    hub = pytest.importorskip("huggingface_hub")

    class Small(FusionModel, hub.PyTorchModelHubMixin):
        def __init__(self, width: int) -> None:
            encoders = {name: nn.Linear(2, 3) for name in NAMES}
            widths = dict.fromkeys(NAMES, 3)
            spec = PAPER.replace(policy="monotone")
            super().__init__(encoders, spec, widths=widths, width=width, classes=2, passes=2)

    saved = Small(width=5).eval()
    saved.save_pretrained(tmp_path)
    loaded = Small.from_pretrained(tmp_path, strict=True)
    inputs = {name: torch.randn(4, 2) for name in NAMES}
    assert torch.equal(saved(inputs).probabilities, loaded(inputs).probabilities)


def test_bad_calls_say_what_is_wrong() -> None:
    net, (inputs, present) = model(), batch()
    with pytest.raises(MissingInput, match="no modality has an input"):
        net({"image": None})
    with pytest.raises(SpecError, match="'smell'"):
        net(inputs | {"smell": torch.zeros(7, 2)})
    with pytest.raises(ShapeError, match="disagree about the batch"):
        net(inputs | {"table": torch.zeros(6, 3)}, present)
    with pytest.raises(ShapeError, match="disagree about the batch"):
        net({"table": torch.tensor(1.0)})
    with pytest.raises(DTypeError, match="'text' holds no tensor"):
        net(inputs | {"text": ["a", "b"]})
    with pytest.raises(DTypeError, match="bool"):
        net(inputs, present.float())
    with pytest.raises(ShapeError, match="bool"):
        net(inputs, present[:3])
    with pytest.raises(SpecError, match="encoders"):
        FusionModel({}, PAPER, widths=WIDTHS, width=8, classes=3)
    with pytest.raises(SpecError, match="classes"):
        model(classes=0)
    net.encoders["table"] = nn.Linear(3, 4)
    with pytest.raises(ShapeError, match="'table' returns another shape"):
        net(inputs, present)
    net.encoders["table"] = nn.Identity()
    with pytest.raises(DTypeError, match="'table' does not return features"):
        net(inputs | {"table": torch.zeros(7, 5, dtype=torch.int64)}, present)


def fitted_artifact(spec: SchedulerSpec) -> Artifact:
    """Fitted on embeddings of three widths, some rows without one; the labels are strings."""
    random = np.random.default_rng(0)
    y = random.integers(3, size=240)
    arrays = {
        name: (random.normal(size=(240, WIDTHS[name])) + 2 * np.eye(3, WIDTHS[name])[y]).astype("f")
        for name in NAMES
    }
    arrays |= {f"present.{name}": random.random(240) < 0.8 for name in NAMES}
    table = Table.from_arrays(arrays | {"labels": np.array(["a", "b", "c"])[y]})
    return fit(table, spec, FitSettings(epochs=3, passes=4, width=8)).artifact


@pytest.mark.parametrize("spec", [ROBUST, PAPER], ids=["robust", "paper"])
def test_encoders_before_an_artifact_predict_what_it_predicts(spec: SchedulerSpec) -> None:
    artifact, (inputs, present) = fitted_artifact(spec), batch(40)
    inputs["image"] *= torch.linspace(1, 40, 40)[:, None, None, None]  # ever stranger
    net = FusionModel.from_artifact(model().encoders, artifact).eval()
    with torch.no_grad():
        output = net(inputs, present)
        embeddings, there = net.embed(inputs, present)
    assert torch.equal(there, present) and net.labels == ["a", "b", "c"]
    arrays = {name: values.numpy() for name, values in embeddings.items()}
    arrays |= {f"present.{name}": present[:, m].numpy() for m, name in enumerate(NAMES)}
    table = Table.from_arrays(arrays, axis=NAMES)
    for saved in (artifact, net.artifact()):
        said = Predictor(saved, get_backend("numpy")).predict(table)
        for name, values in (("probabilities", output.probabilities), ("weights", output.weights)):
            np.testing.assert_allclose(said[name], values.numpy(), atol=2e-6)
    assert len(np.unique(said["weights"].round(3))) > 20  # not a fixed share


def test_what_was_trained_is_an_artifact_of_its_own() -> None:
    net, (inputs, present) = model(spec=PAPER.replace(policy="monotone")), batch()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.rand(parameter.shape))
        output = net(inputs, present)
        embeddings, _ = net.embed(inputs, present)
    arrays = {name: values.numpy() for name, values in embeddings.items()}
    arrays |= {f"present.{name}": present[:, m].numpy() for m, name in enumerate(NAMES)}
    said = Predictor(net.artifact(), get_backend("numpy")).predict(
        Table.from_arrays(arrays, axis=NAMES)
    )
    np.testing.assert_allclose(said["probabilities"], output.probabilities.numpy(), atol=2e-6)
    again = FusionModel.from_artifact(net.encoders, net.artifact())
    torch.testing.assert_close(again(inputs, present).probabilities, output.probabilities)


def test_parameters_that_do_not_fit_are_refused() -> None:
    with pytest.raises(SpecError, match=r"'heads\.image\.classifer\.weight'.*classifier"):
        model(parameters={"heads.image.classifer.weight": torch.zeros(4, 3)})
    with pytest.raises(ShapeError, match=r"classifier\.weight does not fit"):
        model(parameters={"heads.image.classifier.weight": torch.zeros(3, 4)})
    with pytest.raises(SpecError, match="no common space"):
        model(width=None)


@pytest.mark.slow
@torch.no_grad()  # with gradients, torch itself warns where a graph breaks
def test_compiled_it_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """The graph breaks where rows are chosen. Both are plain: Numba's loops are in no graph."""
    monkeypatch.setenv("DMS_TORCH_PATH", "plain")
    net, (inputs, present) = model(), batch()
    inputs["text"] = dict(inputs["text"])
    torch._dynamo.reset()
    compiled = torch.compile(net, backend="eager")
    for rows in (slice(None), slice(2, 6)):
        some = pytree.tree_map(lambda t, rows=rows: t[rows], inputs)
        said = compiled(some, present[rows])
        assert torch.equal(said.probabilities, net(some, present[rows]).probabilities)
