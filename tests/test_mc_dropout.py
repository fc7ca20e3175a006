"""Monte-Carlo dropout with other people's modules: only dropout is on, and nothing is left on."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from dms_spec.errors import DTypeError, ShapeError, SpecError, UnsupportedCapability

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
else:
    torch = pytest.importorskip("torch")
    Tensor, nn = torch.Tensor, torch.nn

from dms_torch.dropout import active_dropout, mc_dropout, sample_logits


class Inner(nn.Module):
    """Two kinds of dropout, one of them nested, around a BatchNorm; one layer is used twice."""

    def __init__(self, rate: float = 0.5) -> None:
        super().__init__()
        self.first, self.norm = nn.Linear(6, 8), nn.BatchNorm1d(8)
        self.block = nn.ModuleDict({"drop": nn.Dropout(rate), "off": nn.Dropout(0.0)})
        self.alpha, self.last = nn.AlphaDropout(rate), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block["off"](self.block["drop"](x))
        x = self.alpha(torch.relu(self.norm(self.first(x))))
        out: Tensor = self.last(self.block["drop"](x))
        return out


def model(rate: float = 0.5) -> nn.Module:
    torch.manual_seed(0)
    made = nn.Sequential(Inner(rate), nn.Sequential(nn.Identity()))
    made(torch.randn(32, 6))  # BatchNorm has seen something
    made.eval()
    made[1].train()  # an odd mixture of modes, to be found again
    return made


def inputs(batch: int = 5) -> Tensor:
    return torch.randn(batch, 6, generator=torch.Generator().manual_seed(1))


def modes(of: nn.Module) -> list[bool]:
    return [module.training for module in of.modules()]


def same_state(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


# --- the context ---------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [False, True, None])
def test_only_active_dropout_is_on_inside_and_all_is_as_before_outside(
    training: bool | None,
) -> None:
    net = model()
    if training is not None:
        net.train(training)
    before, fused = modes(net), torch.backends.mha.get_fastpath_enabled()
    with mc_dropout(net) as inside:
        assert inside is net
        on = [name for name, module in net.named_modules() if module.training]
        assert on == ["0.block.drop", "0.alpha"]
        assert not torch.backends.mha.get_fastpath_enabled()
        with mc_dropout(net):
            pass
        assert net[0].alpha.training  # type: ignore[index]
    assert modes(net) == before
    assert torch.backends.mha.get_fastpath_enabled() == fused


def test_everything_is_put_back_after_an_exception() -> None:
    net = model()
    before = modes(net)
    with pytest.raises(ZeroDivisionError), mc_dropout(net):
        raise ZeroDivisionError
    assert modes(net) == before
    assert torch.backends.mha.get_fastpath_enabled()


def test_modes_are_set_past_an_overridden_train() -> None:
    """Some models freeze a part in train(), or merge weights in eval(): neither may happen."""

    class Stubborn(nn.Sequential):
        def train(self, mode: bool = True) -> Stubborn:
            raise AssertionError("train() was called")

    net = Stubborn(nn.Linear(6, 3), nn.Dropout(0.5))
    with mc_dropout(net):
        assert modes(net) == [False, False, True]
    assert modes(net) == [True, True, True]


@pytest.mark.parametrize(
    "layer",
    [
        nn.Dropout(0.4),
        nn.Dropout1d(0.4),
        nn.Dropout2d(0.4),
        nn.Dropout3d(0.4),
        nn.AlphaDropout(0.4),
        nn.FeatureAlphaDropout(0.4),
        type("Own", (nn.Dropout,), {})(0.4),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_every_kind_of_dropout_layer_counts(layer: nn.Module) -> None:
    net = nn.Sequential(nn.Identity(), layer)
    assert active_dropout(net) == [layer]
    x = torch.ones(2, 40, 1, 1, 1)
    x = x[..., 0] if isinstance(layer, nn.Dropout2d) else x
    x = x[..., 0, 0] if isinstance(layer, nn.Dropout1d) else x
    runs = sample_logits(net, x, passes=2, seed=0)
    assert not torch.equal(runs[0], runs[1])


def test_a_model_without_active_dropout_is_refused() -> None:
    class Functional(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.dropout(x, 0.5, training=self.training)

    for net in (nn.Linear(6, 3), nn.Sequential(nn.Linear(6, 3), nn.Dropout(0.0)), Functional()):
        before = modes(net)
        with pytest.raises(SpecError, match=r"F\.dropout.*nn\.Dropout"), mc_dropout(net):
            pass
        with pytest.raises(SpecError, match="no active dropout"):
            sample_logits(net, inputs(), passes=2, seed=0)
        assert modes(net) == before


def test_dropout_that_takes_no_part_is_refused() -> None:
    """It is there, it is on, and the forward goes around it."""

    class Around(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.drop = nn.Dropout(0.5)

        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.dropout(x, self.drop.p, training=self.training)

    net = Around()
    with pytest.raises(SpecError, match="did not use"):
        sample_logits(net, inputs(), passes=2, seed=0)
    assert modes(net) == [True, True]
    assert sample_logits(net, inputs(0), passes=2, seed=0).shape == (2, 0, 6)


def test_the_fused_transformer_path_does_not_swallow_the_dropout() -> None:
    """In eval mode and without gradients, torch would skip a layer's dropout altogether."""
    torch.manual_seed(0)
    net = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.5, batch_first=True).eval()
    x = torch.randn(3, 4, 8)
    with torch.no_grad(), mc_dropout(net):
        assert not torch.equal(net(x), net(x))
    runs = sample_logits(net, x, passes=3, seed=0)
    assert (runs.std(dim=0) > 0).all()


# --- sampling ------------------------------------------------------------------------------------


def test_passes_are_what_the_context_gives_and_parameters_stay() -> None:
    net, x = model(), inputs()
    before, state = modes(net), {k: v.clone() for k, v in net.state_dict().items()}
    runs = sample_logits(net, x, passes=4, seed=0)
    assert runs.shape == (4, 5, 3)
    assert not runs.requires_grad
    assert modes(net) == before
    assert same_state(state, net.state_dict())  # BatchNorm's statistics among them
    # Their mean over many passes of a linear net is that of the net without dropout.
    linear = nn.Sequential(nn.Dropout(0.3), nn.Linear(6, 2)).eval()
    many = sample_logits(linear, x, passes=4000, seed=0, chunk=500)
    error = (many.mean(dim=0) - linear(x)).abs()
    assert (error <= 5 * many.std(dim=0) / 4000**0.5).all()


def test_batchnorm_uses_its_running_statistics() -> None:
    """So a row does not depend on the other rows: alone it sees the same passes."""
    net = nn.Sequential(nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 2))
    net(torch.randn(64, 6) * 3 + 2)
    x = inputs(1)
    alone = sample_logits(net, x, passes=3, seed=0)
    # The first draws of a layer go to the first row.
    among = sample_logits(net, torch.cat([x, inputs(4) * 100]), passes=3, seed=0)
    torch.testing.assert_close(among[:, :1], alone)


def test_a_seed_means_the_same_passes_and_leaves_torch_alone() -> None:
    net, x = model(), inputs()
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    first = sample_logits(net, x, passes=4, seed=7)
    assert torch.equal(torch.rand(4), expected)
    torch.manual_seed(99)
    assert torch.equal(sample_logits(net, x, passes=4, seed=7), first)
    assert torch.equal(sample_logits(net, x, passes=9, seed=7)[:4], first)
    other = sample_logits(net, x, passes=4, seed=8)
    runs = [*first, *other]
    assert not any(torch.equal(a, b) for i, a in enumerate(runs) for b in runs[:i])


def test_the_random_state_is_put_back_after_an_exception() -> None:
    class Broken(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            self[0](x)
            raise ZeroDivisionError

    net = Broken(nn.Dropout(0.5))
    for chunk in (1, 2):
        state, before = torch.get_rng_state(), modes(net)
        with pytest.raises(ZeroDivisionError):
            sample_logits(net, inputs(), passes=2, seed=0, chunk=chunk)
        assert torch.equal(torch.get_rng_state(), state)
        assert modes(net) == before
        assert "forward" not in vars(net[0])


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 50])
def test_chunks_change_nothing_but_the_speed(chunk: int) -> None:
    """The draws are the same; a product over more rows may round otherwise."""
    net, x = model(), inputs()
    plain = sample_logits(net, x, passes=7, seed=5)
    calls: list[int] = []
    handle = net.register_forward_hook(lambda _, given, __: calls.append(len(given[0])))
    chunked = sample_logits(net, x, passes=7, seed=5, chunk=chunk)
    handle.remove()
    torch.testing.assert_close(chunked, plain)
    full, rest = divmod(7, chunk)
    assert calls == [5 * chunk] * full + [5 * rest] * (rest > 0)


def test_chunks_with_several_inputs_and_in_place_dropout() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.drop, self.last = nn.Dropout(0.5, inplace=True), nn.Linear(6, 3)

        def forward(self, left: Tensor, right: Tensor) -> Any:
            return SimpleNamespace(logits=self.last(self.drop(left * 1) + self.drop(right * 1)))

    left, right = inputs(), inputs() + 1
    plain = sample_logits(Two(), left, right, passes=2, seed=5)
    assert plain.shape == (2, 5, 3)
    torch.manual_seed(0)
    net = Two()
    plain = sample_logits(net, left, right, passes=5, seed=5)
    torch.testing.assert_close(sample_logits(net, left, right, passes=5, seed=5, chunk=5), plain)


def test_a_patched_forward_is_found_again() -> None:
    """Wrappers such as accelerate's put a forward of their own on a layer."""
    net = nn.Sequential(nn.Dropout(0.5), nn.Linear(6, 3))
    own = net[0].forward
    net[0].forward = lambda x: own(x) * 2
    patched = net[0].forward
    sample_logits(net, inputs(), passes=4, seed=0, chunk=4)
    assert net[0].forward is patched


def test_gradients_on_request() -> None:
    net, x = model(), inputs().requires_grad_()
    for chunk in (1, 2):
        runs = sample_logits(net, x, passes=2, seed=0, gradients=True, chunk=chunk)
        (gradient,) = torch.autograd.grad(runs.sum(), x)
        assert torch.isfinite(gradient).all()
        assert (gradient != 0).any()
    with torch.no_grad():
        assert not sample_logits(net, x, passes=2, seed=0, gradients=True).requires_grad
    assert torch.is_grad_enabled()


def test_what_does_not_fit_is_refused() -> None:
    net, x = model(), inputs()
    for word, passes, seed, chunk in (("passes", 0, 0, 1), ("seed", 1, -1, 1), ("chunk", 1, 0, 0)):
        with pytest.raises(SpecError, match=word):
            sample_logits(net, x, passes=passes, seed=seed, chunk=chunk)

    class Returns(nn.Module):
        def __init__(self, what: Any) -> None:
            super().__init__()
            self.drop, self.what = nn.Dropout(0.5), what

        def forward(self, *given: Any) -> Any:
            return self.what(self.drop(given[0]))

    with pytest.raises(DTypeError, match="dict"):
        sample_logits(Returns(lambda y: {"scores": y}), x, passes=1, seed=0)
    with pytest.raises(ShapeError, match="output"):
        sample_logits(Returns(lambda y: y.sum()), x, passes=2, seed=0, chunk=2)
    with pytest.raises(DTypeError, match="str"):
        sample_logits(Returns(lambda y: y), x, "mean", passes=2, seed=0, chunk=2)
    with pytest.raises(ShapeError, match="batch"):
        sample_logits(Returns(lambda y: y), x, x[:2], passes=2, seed=0, chunk=2)
    sequence_first = nn.Sequential(nn.Flatten(0, 1), nn.Dropout(0.5))
    with pytest.raises(ShapeError, match="dropout layer"):
        sample_logits(sequence_first, x, passes=2, seed=0, chunk=2)
    assert sample_logits(sequence_first, x, passes=2, seed=0).shape == (2, 30)
    with pytest.raises(UnsupportedCapability, match="meta"):
        sample_logits(net.to("meta"), x, passes=1, seed=0)


@pytest.mark.gpu
def test_on_cuda_as_on_the_cpu() -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    net, x = model().cuda(), inputs().cuda()
    torch.manual_seed(3)
    expected = torch.rand(4, device="cuda")
    torch.manual_seed(3)
    first = sample_logits(net, x, passes=4, seed=7)
    assert torch.equal(torch.rand(4, device="cuda"), expected)
    assert torch.equal(sample_logits(net, x, passes=4, seed=7), first)
    torch.testing.assert_close(sample_logits(net, x, passes=4, seed=7, chunk=3), first)
    assert not torch.equal(first[0], first[1])
