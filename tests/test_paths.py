"""Which path computes is chosen, said, and never changed in silence."""

from __future__ import annotations

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("numba")

from torch import Tensor  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

from dms_spec import SchedulerSpec  # noqa: E402
from dms_spec.errors import BackendUnavailable, UnknownName  # noqa: E402
from dms_torch import Fusion, paths  # noqa: E402

SPEC = SchedulerSpec.preset("paper", ("image", "text", "audio"))


def batch(size: int = 6) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(size)
    return {
        "features": torch.randn(size, 3, 8, generator=random),
        "logits": torch.randn(size, 3, 5, generator=random),
        "mc_logits": torch.randn(4, size, 3, 5, generator=random),
        "present": torch.rand(size, 3, generator=random) < 0.7,
    }


def grown(arrays: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same, with gradients."""
    return {k: x.requires_grad_() if x.is_floating_point() else x for k, x in arrays.items()}


def test_the_fastest_that_can_run_is_taken_and_said() -> None:
    fusion = Fusion(SPEC)
    assert fusion.path is None
    compiled = fusion(**batch())
    assert fusion.path == "numba"
    plain = fusion(**grown(batch()))
    assert fusion.path == "plain"
    torch.testing.assert_close(compiled.to_tuple()[:4], plain.to_tuple()[:4])
    with torch.no_grad():
        fusion(**grown(batch()))
    assert fusion.path == "numba"


def turned(x: Tensor) -> Tensor:
    return torch.complex(x, -x).conj().imag  # whose sign is a bit of the tensor


@pytest.mark.parametrize(
    "change", [turned, lambda x: x.flip(0), lambda x: x[:1].expand(x.shape), Tensor.double]
)
def test_any_memory_is_shared(change: Callable[[Tensor], Tensor]) -> None:
    arrays = {k: change(x) if x.is_floating_point() else x for k, x in batch().items()}
    fusion = Fusion(SPEC)
    with torch.inference_mode():
        found = fusion(**arrays)
    assert fusion.path == "numba"
    exact = Fusion(SPEC, path="plain")(**arrays)
    torch.testing.assert_close(found.to_tuple()[:4], exact.to_tuple()[:4])


@pytest.mark.parametrize("path", ["plain", "numba"])
def test_a_path_is_asked_for_by_argument_or_variable(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = Fusion(SPEC, path=path)
    monkeypatch.setenv(paths.VARIABLE, path)
    for fusion in (asked, Fusion(SPEC)):
        fusion(**batch())
        assert fusion.path == path


def test_what_cannot_run_is_refused() -> None:
    with pytest.raises(UnknownName, match="Did you mean 'plain'"):
        Fusion(SPEC, path="plane")
    with pytest.raises(BackendUnavailable, match=r"gradients are recorded.*torch\.no_grad"):
        Fusion(SPEC, path="numba")(**grown(batch()))
    with pytest.raises(NotImplementedError, match="a graph is traced"):
        each = [torch.stack([x, x]) for x in batch().values()]
        torch.vmap(lambda *given: Fusion(SPEC, path="numba")(*given).fused)(*each)


def test_weights_that_learn_go_another_way_than_what_was_read() -> None:
    """Loops read what has no gradient; the coefficients' own gradients need plain PyTorch."""
    learned = SPEC.replace(policy="learned_linear")
    found = []
    for path in ("numba", "plain"):
        fusion = Fusion(learned, path=path)
        fusion(**batch()).fused.square().sum().backward()
        found.append([parameter.grad for parameter in fusion.parameters()])
    torch.testing.assert_close(found[0], found[1])
    assert any(bool(gradient.any()) for gradient in found[0])


def test_what_is_not_installed_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "_INSTALLED", {"numba": False, "triton": False})
    with pytest.raises(BackendUnavailable, match="Triton is not installed"):
        Fusion(SPEC, path="triton")
    with pytest.raises(BackendUnavailable, match=r"Numba is not installed.*\[numba\]"):
        Fusion(SPEC, path="numba")
    fusion = Fusion(SPEC)
    fusion(**batch())
    assert fusion.path == "plain"
    assert "plain PyTorch; Numba is not installed" in paths.notes()[0]


def test_a_numba_that_does_not_load_is_left_out_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "_TRIED", {})
    monkeypatch.setitem(sys.modules, "dms_torch.on_numba", None)
    fusion = Fusion(SPEC)
    fusion(**batch())
    assert fusion.path == "plain"
    assert "plain PyTorch; Numba is installed and does not load (Module" in paths.notes()[0]
    with pytest.raises(BackendUnavailable, match=r"does not load.*Upgrade"):
        Fusion(SPEC, path="numba")(**batch())


def test_a_gpu_that_triton_does_not_know_is_left_to_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "_INSTALLED", {"numba": True, "triton": True})
    monkeypatch.setattr(paths, "_on_gpu", lambda tensors: True)
    monkeypatch.setattr(paths, "_capability", lambda tensor: (6, 1))
    assert paths.choose("auto", torch.ones(1)) == "plain"
    with pytest.raises(BackendUnavailable, match="the GPU is older"):
        paths.choose("triton", torch.ones(1))
    monkeypatch.setattr(paths, "_capability", lambda tensor: (9, 0))
    assert paths.choose("auto", torch.ones(1)) == "triton"


def under_forward_ad(fusion: Fusion) -> None:
    with torch.autograd.forward_ad.dual_level():
        fusion(**batch())


def under_a_mode(fusion: Fusion) -> None:
    with FlopCounterMode(display=False):
        fusion(**batch())


def under_grad(fusion: Fusion) -> None:
    arrays = batch()
    features = arrays.pop("features")
    torch.func.grad(lambda x: fusion(features=x, **arrays).fused.sum())(features)


def under_trace(fusion: Fusion) -> None:
    given = tuple(batch().values())
    torch.jit.trace(lambda *x: fusion(*x).fused, given, check_trace=False)


class Own(torch.Tensor):
    """A class of somebody's own."""


@pytest.mark.parametrize(
    "run",
    [
        under_forward_ad,
        under_a_mode,
        under_grad,
        under_trace,
        lambda fusion: fusion(**{k: x.as_subclass(Own) for k, x in batch().items()}),
    ],
    ids=["forward_ad", "mode", "grad", "trace", "subclass"],
)
@pytest.mark.filterwarnings("ignore")
def test_what_torch_has_to_see_is_plain(run: Callable[[Fusion], None]) -> None:
    fusion = Fusion(SPEC)
    run(fusion)
    assert fusion.path == "plain"


def test_compiled_graphs_are_plain() -> None:
    fusion = Fusion(SPEC)
    compiled = torch.compile(fusion, fullgraph=True, backend="eager")
    found = compiled(**batch()).weights
    assert fusion.path == "plain"
    torch.testing.assert_close(found, fusion(**batch()).weights)
    assert fusion.path == "numba"
    program = torch.export.export(fusion, args=(), kwargs=batch())
    torch.testing.assert_close(program.module()(**batch()).weights, fusion(**batch()).weights)


def test_threads_of_torch_are_not_exceeded_and_callers_do_not_disturb_each_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from dms_numba import threads

    fusion, batches = Fusion(SPEC), [batch(size) for size in range(1, 9)]
    alone = [fusion(**one).weights for one in batches]
    monkeypatch.setattr(threads, "_ENTRIES_OF_A_THREAD", 8)
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda one: fusion(**one).weights, batches))
    assert all(map(torch.equal, alone, together))
    before = torch.get_num_threads()
    monkeypatch.setattr(threads, "_pool", None)  # one thread needs none
    torch.set_num_threads(1)
    try:
        fusion(**batches[-1])
    finally:
        torch.set_num_threads(before)


def test_numba_is_not_imported_before_it_runs(spawn: Callable[..., object]) -> None:
    code = (
        "import sys, torch\n"
        "from dms_spec import SchedulerSpec, get_backend\n"
        "from dms_torch import Fusion\n"
        "spec = SchedulerSpec.preset('static', ('a', 'b'))\n"
        "get_backend('torch').capabilities\n"
        "Fusion(spec, path='plain')(features=torch.ones(2, 2, 3))\n"
        "assert not {'numba', 'triton'} & set(sys.modules)\n"
    )
    assert spawn("-c", code).code == 0
