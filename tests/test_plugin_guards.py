"""Signals and policies of a plugin read what they are given, and change and stop nothing else."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from dms_spec.errors import DMSError, DTypeError, PluginError, ShapeError
from dms_spec.interface.descriptor import Descriptor
from dms_spec.interface.policy import Policy
from dms_spec.interface.signal import Signal
from dms_spec.plugins import containment, get_backend, plugin_records, registry
from dms_spec.plugins.records import PluginRecord
from dms_spec.spec import SchedulerSpec
from dms_spec.types import ModalityBatch

NAMES = ("a", "b", "c")
BACKENDS = ("numpy", "torch", "strict", "onnxruntime")
EAGER = BACKENDS[:3]
Offer = Callable[..., None]


@pytest.fixture
def offer(monkeypatch: pytest.MonkeyPatch) -> Offer:
    """Offers a signal "foreign" or a policy "foreign", as if a plugin were installed."""

    def run(function: Callable[..., Any], *, policy: bool = False, **more: Any) -> None:
        own = {"name": "foreign", "function": function, "source": "here"} | more
        signal = {"needs": ("logits",), "direction": 1, "bounds": "[0, inf)"}

        def load() -> Any:
            return Policy(**own, uses_signals=True) if policy else Signal(**signal | own)

        record = PluginRecord(
            plugin="foreign",
            distribution="dms-foreign 1.2",
            status="ok",
            kind="policy" if policy else "signal",
            name="foreign",
            descriptor=Descriptor(name="foreign", load=load),
        )
        monkeypatch.setattr(registry, "_loaded", {})
        others = [one for one in plugin_records() if one.plugin != "foreign"]
        monkeypatch.setattr(registry, "_records", (*others, record))

    return run


def spec_of(*, policy: bool = False, **changes: Any) -> SchedulerSpec:
    if policy:
        return SchedulerSpec(modalities=NAMES, policy="foreign", signals={"confidence": {}})
    signals, coefficients = {"confidence": {}, "foreign": {}}, {"confidence": 1.0, "foreign": 1.0}
    return SchedulerSpec(modalities=NAMES, signals=signals, coefficients=coefficients, **changes)


def arrays() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    return {
        "features": random.normal(size=(4, 3, 2)).astype(np.float32),
        "logits": random.normal(size=(4, 3, 5)).astype(np.float32),
    }


def run(name: str, spec: SchedulerSpec) -> Any:
    """A schedule as NumPy arrays. What was given is afterwards as it was."""
    if name != "strict":
        pytest.importorskip(name)
    backend, given = get_backend(name), arrays()
    moved = {key: backend.from_numpy(array, "cpu") for key, array in given.items()}
    result = backend.scheduler(spec)(ModalityBatch(**moved)).converted(backend.to_numpy)
    assert all(np.array_equal(given[key], array) for key, array in arrays().items())
    return result


def best(ns: Any, evidence: Any) -> Any:
    return ns.xp.max(evidence.logits, axis=-1)


def terms_of(ns: Any, given: Any) -> Any:
    return {"own": given.signals["confidence"]}


# ------------------------------------------------------------------------------------- reading


def writes_zero(ns: Any, evidence: Any) -> Any:
    value = best(ns, evidence)
    evidence.logits[...] = 0.0
    return value


def empties_signals(ns: Any, given: Any) -> Any:
    own = terms_of(ns, given)
    given.signals["confidence"] = None
    given.signals.clear()
    return own


@pytest.mark.parametrize("name", BACKENDS)
def test_a_signal_cannot_change_what_others_read(offer: Offer, name: str) -> None:
    """Where the library has read-only views or counts writes it is refused; else it gets a copy."""
    offer(best)
    expected = run(name, spec_of())
    offer(writes_zero)
    if name in ("numpy", "torch"):
        with pytest.raises(PluginError, match="signal 'foreign'"):
            run(name, spec_of())
    else:
        result = run(name, spec_of())
        for key, array in expected.arrays().items():
            np.testing.assert_array_equal(result.arrays()[key], array)


@pytest.mark.parametrize("name", BACKENDS)
def test_a_policy_cannot_change_the_signals_of_the_result(offer: Offer, name: str) -> None:
    offer(empties_signals, policy=True)
    result = run(name, spec_of(policy=True))
    assert set(result.signals) == {"confidence"}
    np.testing.assert_allclose(result.scores, result.signals["confidence"], rtol=1e-6)


@pytest.mark.parametrize("name", EAGER)
def test_a_policy_that_observes_cannot_change_the_result(offer: Offer, name: str) -> None:
    def observe(ns: Any, schedule: Any) -> tuple[str, ...]:
        schedule.weights[...] = 1.0
        return ("I was here",)

    offer(terms_of, policy=True, observe=observe)
    if name == "strict":
        result = run(name, spec_of(policy=True))
        assert result.notes == ("I was here",)
        np.testing.assert_allclose(result.weights.sum(axis=1), 1.0, rtol=1e-6)
    else:
        with pytest.raises(PluginError, match="policy 'foreign'"):
            run(name, spec_of(policy=True))


@pytest.mark.parametrize("name", EAGER)
def test_what_was_returned_cannot_be_changed_later(offer: Offer, name: str) -> None:
    """As by a plugin that writes each answer into the same memory."""
    kept: list[Any] = []

    def again(ns: Any, evidence: Any) -> Any:
        if not kept:
            kept.append(ns.xp.zeros_like(evidence.logits[..., 0]))
        kept[0][...] = kept[0] + 1.0
        return kept[0]

    offer(again)
    first = run(name, spec_of()).signals["foreign"]
    run(name, spec_of())
    np.testing.assert_array_equal(first, 1.0)


def test_gradients_flow_through_a_guarded_signal_and_it_compiles(offer: Offer) -> None:
    torch = pytest.importorskip("torch")
    from dms_torch import Fusion

    offer(best)
    fusion = Fusion(spec_of(detach_signals=False))
    given = {key: torch.from_numpy(array) for key, array in arrays().items()}
    logits = given["logits"].clone().requires_grad_()
    fusion(given["features"], logits).weights[:, 0].sum().backward()
    assert (logits.grad != 0).any()
    torch._dynamo.reset()
    compiled = torch.compile(fusion, fullgraph=True, dynamic=True, backend="eager")
    torch.testing.assert_close(compiled(**given).weights, fusion(**given).weights)
    with torch.inference_mode():
        inner = {key: tensor.clone() for key, tensor in given.items()}
        assert torch.equal(fusion(**inner).weights, fusion(**given).weights)


# ------------------------------------------------------------------------------------- stopping


class Odd(BaseException):
    def __str__(self) -> str:
        raise Odd


def _raises(error: BaseException) -> Callable[..., Any]:
    def function(ns: Any, given: Any) -> Any:
        raise error

    return function


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("error", [SystemExit(0), Odd(), KeyError("x")], ids=lambda e: repr(e))
def test_whatever_is_raised_is_an_error_that_names_the_owner(
    offer: Offer, name: str, error: BaseException
) -> None:
    offer(_raises(error))
    with pytest.raises(DMSError, match="foreign.*" + type(error).__name__):
        run(name, spec_of())


def test_errors_of_dms_spec_and_an_interrupt_pass(offer: Offer) -> None:
    for error in (ShapeError("too narrow"), KeyboardInterrupt()):
        offer(_raises(error))
        with pytest.raises(type(error)):
            run("numpy", spec_of())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"function": lambda ns, given: [1.0]}, "list"),
        ({"function": lambda ns, given: {1: given.signals["confidence"]}}, "by name"),
        ({"observe": lambda ns, schedule: "one note"}, "tuple of strings"),
        ({"observe": _raises(SystemExit())}, "SystemExit"),
    ],
    ids=["list", "keys", "notes", "exit"],
)
def test_a_policy_returns_terms_and_notes(
    offer: Offer, changes: dict[str, Any], words: str
) -> None:
    offer(**{"function": terms_of, "policy": True} | changes)
    with pytest.raises(PluginError, match=f"policy 'foreign'.*{words}"):
        run("numpy", spec_of(policy=True))


def test_one_that_takes_long_is_named(
    offer: Offer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(containment, "PATIENCE", 0.1)
    offer(best)
    run("numpy", spec_of())
    assert capsys.readouterr().err == ""
    offer(lambda ns, evidence: (time.sleep(0.5), best(ns, evidence))[1])
    run("numpy", spec_of())
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("dms: note: signal 'foreign' has been running for 0.1 seconds")


# --------------------------------------------------------------------------------------- dtypes


@pytest.mark.parametrize("name", EAGER)
@pytest.mark.parametrize("dtype", ["int64", "bool", "complex64"])
def test_a_signal_is_of_a_real_floating_dtype(offer: Offer, name: str, dtype: str) -> None:
    offer(lambda ns, evidence: ns.xp.astype(best(ns, evidence), getattr(ns.xp, dtype)))
    with pytest.raises(DTypeError, match="signal 'foreign'.*float32.*" + dtype):
        run(name, spec_of())


def test_arrays_of_another_library_and_objects_are_refused(offer: Offer) -> None:
    pytest.importorskip("torch")
    offer(lambda ns, evidence: np.ones((4, 3), np.float32))
    with pytest.raises(DTypeError, match=r"torch.Tensor.*numpy.ndarray"):
        run("torch", spec_of())
    offer(lambda ns, evidence: np.full((4, 3), 1.0, dtype=object))
    with pytest.raises(DTypeError, match="object"):
        run("numpy", spec_of())


@pytest.mark.parametrize("name", BACKENDS)
def test_another_precision_becomes_the_computing_dtype(offer: Offer, name: str) -> None:
    offer(lambda ns, evidence: ns.xp.astype(best(ns, evidence), ns.xp.float64))
    result = run(name, spec_of())
    assert result.signals["foreign"].dtype == result.weights.dtype == np.float32


def test_options_may_be_annotated_with_generics(offer: Offer) -> None:
    def powers(ns: Any, evidence: Any, *, which: list[int] = []) -> Any:  # noqa: B006
        return best(ns, evidence)

    offer(powers)
    good = spec_of().replace(signals={"foreign": {"which": [1]}}, coefficients={})
    run("numpy", good)
    with pytest.raises(DMSError, match="'which'"):
        run("numpy", good.replace(signals={"foreign": {"which": 1}}))
