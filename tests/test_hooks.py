"""Training hooks: what they do to gradients and features, and that a model trains with them."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import Tensor, nn  # noqa: E402
from torch.nn import functional  # noqa: E402

from dms_spec.errors import ShapeError, SpecError  # noqa: E402
from dms_torch.hooks import FeatureDropper, GradientModulator  # noqa: E402

NAMES = ("audio", "image")


def batch(rows: int = 64, seed: int = 0) -> tuple[dict[str, Tensor], Tensor]:
    """Two modalities; the labels show in the first far better than in the second."""
    random = np.random.Generator(np.random.Philox(seed))
    labels = random.integers(3, size=rows)
    inputs = {
        name: torch.from_numpy(
            (np.eye(3)[labels] * strength + random.normal(size=(rows, 3))).astype(np.float32)
        )
        for name, strength in zip(NAMES, (4.0, 1.0), strict=True)
    }
    return inputs, torch.from_numpy(labels)


class Model(nn.Module):
    """Two encoders and a head for each; fused by the mean of the logits."""

    def __init__(self, dropper: FeatureDropper | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoders = nn.ModuleDict({name: nn.Linear(3, 4) for name in NAMES})
        self.heads = nn.ModuleList(nn.Linear(4, 3) for _ in NAMES)
        self.dropper = dropper

    def unimodal(self, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        h = torch.stack([torch.tanh(self.encoders[n](inputs[n])) for n in NAMES], dim=1)
        logits = torch.stack([head(h[:, m]) for m, head in enumerate(self.heads)], dim=1)
        return h, logits


def gradients(model: Model) -> dict[str, list[Tensor]]:
    return {
        name: [p.grad.clone() for p in model.encoders[name].parameters() if p.grad is not None]
        for name in NAMES
    }


def step(model: Model, inputs: dict[str, Tensor], labels: Tensor) -> Tensor:
    model.zero_grad()
    _, logits = model.unimodal(inputs)
    functional.cross_entropy(logits.mean(dim=1), labels).backward()
    return logits


def own_parameters(model: Model) -> dict[str, list[nn.Parameter]]:
    return {name: list(model.encoders[name].parameters()) for name in NAMES}


def logits_for(scores: list[float], rows: int = 4) -> tuple[Tensor, Tensor]:
    """Logits whose probability of class 0 is given, for each modality; and labels of class 0."""
    p = torch.tensor(scores, dtype=torch.float64)
    logits = torch.stack([p.log(), (1 - p).log()], dim=-1)
    return logits.expand(rows, -1, -1), torch.zeros(rows, dtype=torch.int64)


def test_ogm_scales_the_one_ahead_by_its_number() -> None:
    """Scores of 0.6 and 0.4 are 24 to 16: rho = 1.5, k = 0.851115 for alpha 0.1."""
    logits, labels = logits_for([0.6, 0.4])
    weights = [nn.Parameter(torch.ones(2, 3)), nn.Parameter(torch.ones(2, 3))]
    for weight in weights:
        weight.grad = torch.full((2, 3), 2.0)
    free = nn.Parameter(torch.ones(3))  # has no gradient
    k = GradientModulator(0.1, noise=False).after_backward(
        {"a": [weights[0], free], "b": [weights[1]]}, logits, labels
    )
    torch.testing.assert_close(
        k, torch.tensor([0.851115, 1.0], dtype=torch.float64), atol=5e-7, rtol=0
    )
    torch.testing.assert_close(weights[0].grad, torch.full((2, 3), 2 * 0.851115))
    torch.testing.assert_close(weights[1].grad, torch.full((2, 3), 2.0))
    assert free.grad is None


def test_the_noise_has_no_mean_and_the_gradients_own_spread() -> None:
    """And both modalities get it, also the one that is not scaled."""
    logits, labels = logits_for([0.6, 0.4])
    random = torch.Generator().manual_seed(1)
    before = [torch.randn(200, 500, generator=random) * 3 + 1 for _ in range(2)]
    weights = [nn.Parameter(torch.zeros(200, 500)) for _ in range(2)]
    for weight, gradient in zip(weights, before, strict=True):
        weight.grad = gradient.clone()
    modulator = GradientModulator(0.8, seed=3)
    k = modulator.after_backward({"a": weights[:1], "b": weights[1:]}, logits, labels)
    for weight, gradient, factor in zip(weights, before, k, strict=True):
        noise = weight.grad - factor.float() * gradient
        spread = float(gradient.std())
        assert abs(float(noise.mean())) < 5 * spread / noise.numel() ** 0.5
        assert abs(float(noise.std()) / spread - 1) < 0.02
    again = [nn.Parameter(torch.zeros(200, 500)) for _ in range(2)]
    for weight, gradient in zip(again, before, strict=True):
        weight.grad = gradient.clone()
    GradientModulator(0.8, seed=3).after_backward({"a": again[:1], "b": again[1:]}, logits, labels)
    assert torch.equal(again[0].grad, weights[0].grad)


def test_only_what_is_asked_for_is_modulated_and_one_number_has_no_spread() -> None:
    logits, labels = logits_for([0.6, 0.4])
    wide, single = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(1))
    wide.grad, single.grad = torch.ones(2, 2), torch.ones(1)
    modulator = GradientModulator(1.0, only=lambda p: p.ndim == 1)
    modulator.after_backward({"a": [wide, single], "b": []}, logits, labels)
    assert torch.equal(wide.grad, torch.ones(2, 2))
    torch.testing.assert_close(single.grad, torch.tensor([0.094852]), atol=1e-6, rtol=0)


def test_absent_modalities_have_no_say_in_the_ratio() -> None:
    logits, labels = logits_for([0.6, 0.4], rows=3)
    changed = logits.clone()
    present = torch.tensor([[True, True], [False, True], [True, False]])
    changed[~present] = torch.nan
    modulator = GradientModulator(0.3)
    k = modulator.after_backward({"a": [], "b": []}, changed, labels, present)
    torch.testing.assert_close(
        k, torch.tensor([0.578101, 1.0], dtype=torch.float64), atol=5e-7, rtol=0
    )
    gone = torch.tensor([[True, False]] * 3)
    assert (modulator.after_backward({"a": [], "b": []}, changed, labels, gone) == 1).all()


def test_hooks_refuse_what_does_not_fit() -> None:
    logits, labels = logits_for([0.6, 0.4])
    with pytest.raises(ShapeError, match="modalities"):
        GradientModulator().after_backward({"a": []}, logits, labels)
    with pytest.raises(SpecError, match="alpha"):
        GradientModulator(-1.0)
    for options in ({"base": 1.5}, {"slope": -1.0}, {"chance": 2.0}):
        with pytest.raises(SpecError, match="out of range"):
            FeatureDropper(**options)
    with pytest.raises(ShapeError, match="logits"):
        FeatureDropper().before_fusion(torch.zeros(4, 3, 2), logits, labels)


@pytest.mark.parametrize("noise", [False, True])
def test_a_model_trains_with_ogm(noise: bool) -> None:
    """The encoder that is ahead gets less, and the loss falls."""
    inputs, labels = batch()
    model = Model()
    modulator = GradientModulator(0.8, noise=noise)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.3)
    losses, held = [], 0
    for _ in range(40):
        logits = step(model, inputs, labels)
        before = gradients(model)
        k = modulator.after_backward(own_parameters(model), logits, labels)
        held += int(k[0] < 1)
        assert int((k < 1).sum()) <= 1 and ((k > 0) & (k <= 1)).all()
        if not noise:
            for m, name in enumerate(NAMES):
                for one, other in zip(before[name], gradients(model)[name], strict=True):
                    torch.testing.assert_close(other, k[m] * one)
        optimiser.step()
        losses.append(float(functional.cross_entropy(logits.detach().mean(dim=1), labels)))
    assert losses[-1] < 0.5 * losses[0]
    assert held > 20, "the strong modality is ahead for most of the time"


def test_opm_has_its_rates_and_its_scale() -> None:
    """Scores of 0.6 and 0.4: q = 0.6155292893, scale 1.4445953855."""
    rows = 20_000
    logits, labels = logits_for([0.6, 0.4], rows)
    features = torch.ones(rows, 2, 3, dtype=torch.float64)
    dropper = FeatureDropper(chance=1.0, rescale=True, seed=5)
    q = dropper.rates(logits, labels)
    wanted = torch.tensor([0.6155292893, 0.0], dtype=torch.float64)
    torch.testing.assert_close(q, wanted, atol=5e-11, rtol=0)
    found, keep_rows, present = dropper.before_fusion(features, logits, labels)
    share = 1 - float(present[:, 0].double().mean())
    assert abs(share - 0.6155) < 5 * (0.6155 * 0.3845 / rows) ** 0.5
    assert present[:, 1].all() and keep_rows.all(), "with two, a row is never fully dropped"
    assert (found[~present] == 0).all()
    torch.testing.assert_close(
        found[present], torch.full_like(found[present], 1.4445953855), atol=5e-11, rtol=0
    )


def test_opm_touches_some_batches_and_none_in_evaluation() -> None:
    logits, labels = logits_for([0.6, 0.4], rows=50)
    features = torch.ones(50, 2, 3, dtype=torch.float64)
    dropper = FeatureDropper(chance=0.7, seed=1)
    touched = [
        bool((~dropper.before_fusion(features, logits, labels).present).any()) for _ in range(300)
    ]
    assert abs(sum(touched) / 300 - 0.7) < 0.12
    dropper.eval()
    out = dropper(features, logits, labels)
    assert torch.equal(out.features, features) and out.present.all()
    assert dropper.step == 300
    # The same seed, the same batches.
    again = FeatureDropper(chance=0.7, seed=1)
    assert touched[:20] == [
        bool((~again.before_fusion(features, logits, labels).present).any()) for _ in range(20)
    ]


def test_opm_leaves_absent_ones_absent_and_says_what_is_left() -> None:
    logits, labels = logits_for([0.6, 0.4], rows=60)
    features = torch.ones(60, 2, 3, dtype=torch.float64)
    present = torch.tensor([[True, False], [True, True], [False, True]] * 20)
    features[~present] = torch.nan
    features.requires_grad_()
    dropper = FeatureDropper(chance=1.0, seed=2)
    found, keep_rows, left = dropper.before_fusion(features, logits, labels, present)
    assert not (left & ~present).any()
    assert torch.equal(keep_rows, left.any(dim=1)) and not keep_rows.all()
    found.sum().backward()
    assert torch.equal(features.grad, left[..., None].double().expand(-1, -1, 3))


def test_a_model_trains_with_opm_and_fusion() -> None:
    """The mask goes to `Fusion`, whose weights renormalise; rows without anything are left out."""
    from dms_spec import SchedulerSpec
    from dms_torch import Fusion
    from dms_torch.losses import present_cross_entropy

    inputs, labels = batch()
    model = Model(FeatureDropper(chance=0.9, seed=4))
    spec = SchedulerSpec(modalities=NAMES, policy="static", fusion="logit")
    fusion = Fusion(spec)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.05)
    losses = []
    for _ in range(60):
        optimiser.zero_grad()
        h, logits = model.unimodal(inputs)
        _, keep_rows, present = model.dropper(h, logits, labels)
        fused = fusion(features=h, logits=logits, present=present).fused
        loss = present_cross_entropy(fused, labels, keep_rows)
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.6 * losses[0]
    model.eval()
    _, logits = model.unimodal(inputs)
    assert model.dropper(h, logits, labels).present.all()
