"""The ONNX Runtime backend: where it runs, what it takes, and what it says when it cannot."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import sys
import types
import warnings
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

from dms_spec import plugins
from dms_spec.conformance.strategies import Case, cases
from dms_spec.errors import (
    BackendUnavailable,
    DMSError,
    DMSWarning,
    DTypeError,
    FileError,
    MissingInput,
    ShapeError,
    UnknownName,
    UnsupportedCapability,
    install_hint,
)
from dms_spec.plugins import get_backend
from dms_spec.spec import SchedulerSpec
from dms_spec.types import ModalityBatch, Schedule

ort = pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")
pytest.importorskip("ndonnx")
pytest.importorskip("spox")
pytest.importorskip("onnx_ir")

from dms_onnx import session as session_module  # noqa: E402
from dms_onnx import wheels  # noqa: E402
from dms_onnx.session import cuda_works  # noqa: E402
from dms_onnx.trace import trace_predictor, trace_scheduler  # noqa: E402
from dms_onnxruntime import Session  # noqa: E402
from dms_spec.artifact import Artifact  # noqa: E402

Arrays = dict[str, Any]

NAMES = ("a", "b", "c")
ROBUST = SchedulerSpec.preset("robust", NAMES)
PAPER = SchedulerSpec.preset("paper", NAMES)
WITHOUT_CUDA = pytest.mark.skipif(cuda_works(), reason="CUDA works here")
FORK = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")


def graph(spec: SchedulerSpec = PAPER, dtype: str = "float32", *, terms: bool = False) -> bytes:
    dtypes = dict.fromkeys(("features", "logits", "mc_logits"), dtype) | {"present": "bool"}
    model, _ = trace_scheduler(Artifact(spec=spec), dtypes, terms=terms)
    return bytes(model.SerializeToString())


def batch(rows: int = 7, dtype: str = "float32", passes: int = 4) -> Arrays:
    random = np.random.Generator(np.random.Philox(11))
    shapes = {"features": (rows, 3, 5), "logits": (rows, 3, 4), "mc_logits": (passes, rows, 3, 4)}
    arrays = {name: random.normal(size=shape).astype(dtype) for name, shape in shapes.items()}
    return arrays | {"present": random.random((rows, 3)) > 0.3}


@pytest.fixture(scope="module")
def paper() -> bytes:
    return graph()


@pytest.fixture(scope="module")
def session(paper: bytes) -> Session:
    return Session(paper)


def same_bits(one: Arrays, other: Arrays) -> None:
    assert one.keys() == other.keys()
    for name, array in one.items():
        left, right = np.asarray(array), np.asarray(other[name])
        assert left.dtype == right.dtype and left.shape == right.shape, name
        assert left.tobytes() == right.tobytes(), name


def schedule(spec: SchedulerSpec, arrays: Arrays, backend: str = "onnxruntime") -> Schedule:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DMSWarning)
        scheduler = get_backend(backend).scheduler(spec)
    return scheduler(ModalityBatch(**arrays))


# -------------------------------------------------------------------------------------- devices


@WITHOUT_CUDA
@pytest.mark.clause("DMS-C-003")
@pytest.mark.parametrize("device", ["cuda", "cuda:0", "cuda:7"])
def test_cuda_without_cuda_is_an_error_with_the_reason(paper: bytes, device: str) -> None:
    with pytest.raises(BackendUnavailable, match=device) as caught:
        Session(paper, device)
    assert caught.value.expected == "CUDAExecutionProvider"
    assert "CPUExecutionProvider" in caught.value.got
    assert "pip" in caught.value.fix or "driver" in caught.value.fix
    assert "cuda" not in get_backend("onnxruntime").capabilities.devices
    with pytest.raises(BackendUnavailable, match=device):
        get_backend("onnxruntime").scheduler(PAPER, device=device)


@pytest.mark.clause("DMS-C-003")
def test_a_provider_that_is_listed_and_does_not_start_is_an_error(
    paper: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wheel for CUDA on a machine without a driver: ONNX Runtime goes on, on the CPU."""
    real = ort.InferenceSession
    given: dict[str, Any] = {}

    def silently_on_the_cpu(*args: Any, **options: Any) -> Any:
        given.update(options)
        return real(*args, **options | {"providers": ["CPUExecutionProvider"]})

    both = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(ort, "get_available_providers", lambda: both)
    monkeypatch.setattr(ort, "InferenceSession", silently_on_the_cpu)
    with pytest.raises(BackendUnavailable, match="does not run on 'cuda'"):
        Session(paper, "cuda")
    assert [name for name, _ in given["providers"]] == ["CUDAExecutionProvider"]
    assert not given["enable_fallback"]  # else a run that fails is taken up on the CPU


@pytest.mark.parametrize("device", ["gpu", "", "CPU", "cpu:0", "cuda:", "cuda:x", "cuda:-1", "mps"])
def test_an_unknown_device_is_not_taken_for_the_cpu(paper: bytes, device: str) -> None:
    with pytest.raises(BackendUnavailable, match="no device"):
        Session(paper, device)


def test_placement_says_where_nodes_really_ran(session: Session) -> None:
    placed = session.placement(batch())
    assert placed.keys() == {"CPU"}
    assert placed["CPU"] > 10


@pytest.mark.clause("DMS-C-001")
def test_the_capabilities_say_what_is_here_and_what_is_not() -> None:
    capabilities = get_backend("onnxruntime").capabilities
    assert capabilities.devices[0] == "cpu"
    assert {"float32", "float16", "float64"} == set(capabilities.dtypes)
    notes = " ".join(capabilities.notes)
    assert ort.__version__ in notes
    assert ("no CUDA" in notes) == (not cuda_works())
    assert len(set(capabilities.notes)) == len(capabilities.notes)


# --------------------------------------------------------------------------------------- inputs


def test_a_missing_input_is_named(session: Session) -> None:
    arrays = batch()
    del arrays["present"]
    with pytest.raises(MissingInput, match="nothing for present"):
        session.run(arrays)


def test_an_unknown_input_is_named_with_the_closest(session: Session) -> None:
    with pytest.raises(UnknownName, match="'logits'"):
        session.run(batch() | {"logit": np.zeros((7, 3, 4), dtype=np.float32)})


BAD_INPUTS: dict[str, tuple[str, Callable[[Any], Any], type[DMSError]]] = {
    "double": ("logits", lambda a: a.astype("float64"), DTypeError),
    "half": ("features", lambda a: a.astype("float16"), DTypeError),
    "integers": ("logits", lambda a: a.astype("int64"), DTypeError),
    "integer mask": ("present", lambda a: a.astype("int64"), DTypeError),
    "list": ("logits", lambda a: a.tolist(), DTypeError),
    "objects": ("logits", lambda a: a.astype(object), DTypeError),
    "other byte order": ("logits", lambda a: a.astype(">f4"), DTypeError),
    "rank": ("logits", lambda a: a[0], ShapeError),
    "samples": ("logits", lambda a: a[:3], ShapeError),
    "modalities": ("present", lambda a: a[:, :2], ShapeError),
    "classes": ("mc_logits", lambda a: a[..., :2], ShapeError),
    "no classes": ("logits", lambda a: a[..., :0], ShapeError),
    "no passes": ("mc_logits", lambda a: a[:0], ShapeError),
    "no features": ("features", lambda a: a[..., :0], ShapeError),
}


@pytest.mark.parametrize("case", BAD_INPUTS)
def test_an_input_that_does_not_fit_is_named(session: Session, case: str) -> None:
    """What ONNX Runtime would say in its own words, or not at all."""
    name, change, kind = BAD_INPUTS[case]
    arrays = batch()
    with pytest.raises(kind) as caught:
        session.run(arrays | {name: change(arrays[name])})
    assert name in str(caught.value) or "mc_logits" in str(caught.value)


@pytest.mark.parametrize("model", [b"", b"nothing of the kind", b"\0" * 100])
def test_a_model_that_onnx_runtime_refuses_is_a_file_error(model: bytes) -> None:
    with pytest.raises(FileError, match="ONNX Runtime refuses the model"):
        Session(model)


def test_what_fails_inside_is_an_error_of_ours(
    session: Session, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Nothing beside it on stderr either."""

    def fail(*_: Any) -> None:
        raise RuntimeError("a kernel gave up")

    with monkeypatch.context() as patch:
        patch.setattr(session_module.Session, "_run", fail)
        with pytest.raises(DMSError, match="a kernel gave up"):
            session.run(batch())
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("layout", ["transposed", "strided", "read-only"])
def test_how_arrays_lie_in_memory_makes_no_difference(session: Session, layout: str) -> None:
    arrays = batch()
    changed = dict(arrays)
    for name, array in arrays.items():
        if layout == "transposed":
            changed[name] = np.asfortranarray(array)
        elif layout == "strided":
            changed[name] = np.repeat(array, 2, axis=-1)[..., ::2]
        else:
            array.flags.writeable = False
    same_bits(session.run(changed), session.run(arrays))


# ---------------------------------------------------------------------------------- no samples


@pytest.mark.clause("DMS-S-005")
@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_an_empty_batch_has_empty_answers(session: Session, library: str) -> None:
    arrays = batch(rows=0)
    if library == "torch":
        torch = pytest.importorskip("torch")
        arrays = {name: torch.from_numpy(array) for name, array in arrays.items()}
    shapes = {name: tuple(array.shape) for name, array in session.run(arrays).items()}
    assert shapes.pop("fused") == (0, 5)
    assert set(shapes.values()) == {(0, 3)}


def test_schedulers_of_one_spec_and_parameters_share_a_graph(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Traced once, whatever the sizes; other parameters and dtypes have graphs of their own."""
    traced = []

    def count(*args: Any, **how: Any) -> Any:
        traced.append(how)
        return trace_scheduler(*args, **how)

    monkeypatch.setattr("dms_onnxruntime.backend.trace_scheduler", count)
    monkeypatch.setattr("dms_onnxruntime.graphs._shared", OrderedDict())
    backend, static = get_backend("onnxruntime"), SchedulerSpec.preset("static", NAMES)

    def run(bias: float, *, rows: int = 4, dtype: str = "float32") -> Schedule:
        own = {"policy.bias": np.array([bias, 0, 1], dtype="float32")}
        return backend.scheduler(static, own)(ModalityBatch(**batch(rows, dtype)))

    first = run(2.0)
    assert np.array_equal(run(2.0).weights, first.weights) and len(traced) == 1
    run(2.0, rows=9)
    assert len(traced) == 1
    assert not np.array_equal(run(3.0).weights, first.weights) and len(traced) == 2
    run(2.0, dtype="float64")
    assert len(traced) == 3
    monkeypatch.setattr("dms_onnxruntime.graphs._LARGEST", 0)
    run(2.0)
    run(2.0)
    assert len(traced) == 5


@pytest.mark.clause("DMS-S-005", "DMS-Q-005")
@pytest.mark.parametrize("rows", [0, 1, 5])
@pytest.mark.parametrize("passes", [0, 1, 2])
@pytest.mark.parametrize("spec", [PAPER, ROBUST], ids=["paper", "robust"])
def test_hardly_any_samples_or_passes(spec: SchedulerSpec, rows: int, passes: int) -> None:
    """Shapes, dtypes and notes are those of NumPy, and the numbers within round-off."""
    arrays = batch(rows, passes=passes)
    found, wanted = schedule(spec, arrays), schedule(spec, arrays, "numpy")
    assert found.notes == wanted.notes
    told = passes < 2 and "uncertainty" in spec.signals
    assert any("two passes or more" in note for note in found.notes) == told
    for name, array in wanted.arrays().items():
        other = found.arrays()[name]
        assert other.dtype == array.dtype and other.shape == array.shape, name
        np.testing.assert_allclose(other, array, rtol=2e-5, atol=2e-6, err_msg=name)
    assert found.terms.keys() == wanted.terms.keys()


@settings(max_examples=20, deadline=None, derandomize=True, database=None)
@given(case=cases("float64", nonfinite=True))
def test_the_backend_agrees_with_numpy(case: Case) -> None:
    """Whatever is drawn: the same notes, the same active, the same shapes."""
    results = []
    for name in ("numpy", "onnxruntime"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DMSWarning)
            scheduler = get_backend(name).scheduler(case.spec, case.parameters)
        try:
            results.append(scheduler(ModalityBatch(**case.arrays)))
        except DMSError as error:
            results.append(type(error))
    wanted, found = results
    if isinstance(wanted, type) or isinstance(found, type):
        assert wanted == found
        return
    assert found.notes == wanted.notes
    assert np.array_equal(found.active, wanted.active)
    assert {k: v.shape for k, v in found.arrays().items()} == {
        k: v.shape for k, v in wanted.arrays().items()
    }
    assert {k: v.dtype for k, v in found.arrays().items()} == {
        k: v.dtype for k, v in wanted.arrays().items()
    }
    assert (found.weights[~found.active] == 0).all()


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
def test_every_dtype_is_computed_as_numpy_does(dtype: str) -> None:
    arrays = batch(dtype=dtype)
    found, wanted = schedule(PAPER, arrays), schedule(PAPER, arrays, "numpy")
    eps = np.finfo(np.float64 if dtype == "float64" else np.float32).eps
    for name, array in wanted.arrays().items():
        other = found.arrays()[name]
        assert other.dtype == array.dtype, name
        if name == "active":
            assert np.array_equal(other, array)
        elif name == "fused" and dtype == "float16":  # a rounding apart, where it falls otherwise
            assert np.abs(other - array).max() <= np.finfo(np.float16).eps * np.abs(array).max()
        else:
            finite = np.isfinite(array)
            assert np.array_equal(np.isfinite(other), finite), name
            assert np.abs(other[finite] - array[finite]).max() <= 64 * eps, name


@pytest.mark.clause("DMS-C-002")
def test_a_dtype_that_is_not_claimed_is_refused() -> None:
    with pytest.raises(UnsupportedCapability):
        schedule(PAPER, batch() | {"features": batch()["features"].astype(np.longdouble)})


# ---------------------------------------------------------------------------- pickles and forks


def test_a_session_survives_a_pickle(session: Session) -> None:
    copy = pickle.loads(pickle.dumps(session))
    assert copy.device == session.device
    same_bits(copy.run(batch()), session.run(batch()))


@pytest.mark.parametrize("used", [False, True])
def test_a_scheduler_survives_a_pickle(used: bool) -> None:
    """Also with graphs inside."""
    scheduler = get_backend("onnxruntime").scheduler(PAPER)
    given = ModalityBatch(**batch())
    wanted = scheduler(given)
    if not used:
        scheduler = get_backend("onnxruntime").scheduler(PAPER)
    copy = pickle.loads(pickle.dumps(scheduler))
    assert copy.spec == PAPER
    same_bits(copy(given).arrays(), wanted.arrays())


def _in_child(work: Callable[[], None]) -> None:
    """Run something in a fork that is killed if it hangs; it has to end well."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # threads and forks: the point here
        context = multiprocessing.get_context("fork")
        process = context.Process(target=work)
        process.start()
    process.join(30)
    hung = process.is_alive()
    if hung:
        process.kill()
        process.join()
    assert not hung, "the child hangs"
    assert process.exitcode == 0


@FORK
@pytest.mark.parametrize("threads", [None, 1, 4])
def test_a_session_may_be_used_after_a_fork(paper: bytes, threads: int | None) -> None:
    """By the child and, after it, by the parent: the same bits, and no waiting for ever."""
    session, arrays = Session(paper, threads=threads), batch(rows=300)
    wanted = session.run(arrays)
    _in_child(lambda: same_bits(session.run(arrays), wanted))
    same_bits(session.run(arrays), wanted)


@FORK
def test_a_session_may_be_dropped_after_a_fork(paper: bytes) -> None:
    """Its destructor would wait for threads that are not there."""
    held = [Session(paper, threads=4)]
    held[0].run(batch())
    _in_child(held.clear)
    assert held


@FORK
def test_a_scheduler_may_be_used_after_a_fork_and_a_fork() -> None:
    scheduler, given = get_backend("onnxruntime").scheduler(PAPER), ModalityBatch(**batch())
    wanted = scheduler(given).arrays()

    def child() -> None:
        same_bits(scheduler(given).arrays(), wanted)
        _in_child(lambda: same_bits(scheduler(given).arrays(), wanted))

    _in_child(child)


# ---------------------------------------------------------------------------------------- torch


def tensors(arrays: Arrays, device: str = "cpu") -> Arrays:
    torch = pytest.importorskip("torch")
    return {name: torch.from_numpy(array).to(device) for name, array in arrays.items()}


@pytest.mark.parametrize("dtype", ["float32", "float16", "float64"])
def test_tensors_give_the_bits_of_arrays(dtype: str) -> None:
    """Through IO binding: torch in, torch out."""
    torch = pytest.importorskip("torch")
    session, arrays = Session(graph(dtype=dtype, terms=True)), batch(dtype=dtype)
    wanted, found = session.run(arrays), session.run(tensors(arrays))
    assert all(isinstance(tensor, torch.Tensor) for tensor in found.values())
    same_bits({name: tensor.numpy() for name, tensor in found.items()}, wanted)


def test_how_tensors_lie_in_memory_makes_no_difference(session: Session) -> None:
    arrays = batch()
    strided = {
        name: tensor.repeat_interleave(2, dim=-1)[..., ::2].movedim(0, -1).contiguous()
        for name, tensor in tensors(arrays).items()
    }
    strided = {name: tensor.movedim(-1, 0) for name, tensor in strided.items()}
    assert not strided["logits"].is_contiguous()
    strided["logits"].requires_grad_()
    found = session.run(strided)
    same_bits({name: tensor.numpy() for name, tensor in found.items()}, session.run(arrays))


def test_the_outputs_are_the_callers_own(session: Session) -> None:
    """A second run writes elsewhere, and no input is written to."""
    given = tensors(batch())
    before = {name: tensor.clone() for name, tensor in given.items()}
    first = session.run(given)
    kept = {name: tensor.clone() for name, tensor in first.items()}
    session.run(tensors(batch(rows=3)))
    assert all((first[name] == kept[name]).all() for name in kept)
    assert all((given[name] == before[name]).all() for name in before)


def test_arrays_and_tensors_do_not_mix(session: Session) -> None:
    arrays = batch()
    for name in arrays:
        with pytest.raises(DTypeError, match=f"{name}: torch"):
            session.run(arrays | {name: tensors(arrays)[name]})


def test_a_tensor_of_another_dtype_is_not_read_as_what_it_is_not(session: Session) -> None:
    """Its bytes would be taken for numbers of the graph's dtype."""
    given = tensors(batch())
    for name in ("features", "logits", "mc_logits"):
        for other in (given[name].double(), given[name].half(), given[name].bfloat16()):
            with pytest.raises(DTypeError, match=name):
                session.run(given | {name: other})
    with pytest.raises(DTypeError, match="present"):
        session.run(given | {"present": given["present"].byte()})


def test_a_tensor_elsewhere_is_refused(session: Session) -> None:
    given = tensors(batch())
    with pytest.raises(DMSError, match="another device") as caught:
        session.run(given | {"logits": given["logits"].to("meta")})
    assert "logits: meta" in str(caught.value) and "nothing is copied in silence" in str(
        caught.value
    )


@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_classes_that_are_strings_come_out_as_strings_or_are_refused(library: str) -> None:
    parameters: Arrays = {}
    for name in NAMES:
        shapes = {
            "scale.zero": (2,),
            "scale.unit": (2,),
            "classifier.weight": (2, 2),
            "classifier.bias": (2,),
            "dropout.masks": (3, 2),
            "temperature": (),
        }
        for short, shape in shapes.items():
            parameters[f"heads.{name}.{short}"] = np.ones(shape, dtype=np.float32)
    model = {"classes": ["no", "yes"], "prior": [0.4, 0.6], "dropout": 0.1, "passes": 3}
    artifact = Artifact(spec=ROBUST, parameters=parameters, model=model)
    dtypes = dict.fromkeys(artifact.spec.modalities, "float32")
    session = Session(trace_predictor(artifact, dtypes)[0].SerializeToString())
    arrays: Arrays = {name: np.ones((4, 2), dtype=np.float32) for name in NAMES}
    arrays["present"] = np.zeros((4, 3), dtype=bool)
    if library == "numpy":
        assert session.run(arrays)["predicted"].tolist() == ["yes"] * 4
    else:
        with pytest.raises(UnsupportedCapability, match="predicted"):
            session.run(tensors(arrays))


# --------------------------------------------------------------------------------------- wheels


def _installed(*names: str) -> Callable[[str], str]:
    return lambda name: "1.99.0" if name in names else ""


@pytest.mark.parametrize(
    ("there", "status"),
    [("onnxruntime", "ok"), ("onnxruntime-gpu", "ok"), ("neither", "unavailable")],
)
def test_either_wheel_makes_the_backend_available(
    monkeypatch: pytest.MonkeyPatch, there: str, status: str
) -> None:
    """They are two distributions of one package; asking for one by name would refuse the other."""
    right = plugins.installed_version

    def version(name: str) -> str:
        return right(name) if not name.startswith("onnxruntime") else "1.99" * (name == there)

    monkeypatch.setattr("dms_spec.plugins.judging.installed_version", version)
    plugins.refresh()
    try:
        (record,) = [r for r in plugins.discover() if r.name == "onnxruntime"]
    finally:
        monkeypatch.undo()
        plugins.refresh()
    assert record.status == status
    if status == "unavailable":
        assert "onnxruntime or onnxruntime-gpu" in record.reason
        assert record.fix == install_hint("dms-spec[onnxruntime]")


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("onnxruntime",), []),
        (("onnxruntime-gpu",), []),
        ((), []),
        (
            ("onnxruntime", "onnxruntime-gpu"),
            ["onnxruntime 1.99.0", "onnxruntime-gpu 1.99.0", "one folder", "pip uninstall"],
        ),
    ],
    ids=["cpu", "gpu", "none", "both"],
)
def test_two_wheels_in_one_folder_are_explained(
    monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...], words: list[str]
) -> None:
    monkeypatch.setattr(wheels, "installed_version", _installed(*names))
    assert wheels.installed() == dict.fromkeys(names, "1.99.0")
    text = wheels.conflict()
    assert bool(text) == bool(words)
    assert all(word in text for word in words)
    notes = get_backend("onnxruntime").capabilities.notes
    assert (text in notes) == bool(text) or not text
    if not cuda_works():
        monkeypatch.setattr(session_module, "_has_gpu", lambda: False)
        if "onnxruntime-gpu" not in names:
            assert "no NVIDIA driver" in session_module.why_no_cuda()
        monkeypatch.setattr(session_module, "_has_gpu", lambda: True)
        reason = session_module.why_no_cuda()
        assert {
            (): "CPU wheel",
            ("onnxruntime",): "pip install onnxruntime-gpu",
            ("onnxruntime-gpu",): "driver",
        }.get(names, "one folder") in reason


@pytest.mark.clause("DMS-H-003")
def test_what_an_uninstalled_wheel_leaves_behind_is_explained(
    monkeypatch: pytest.MonkeyPatch, paper: bytes
) -> None:
    """It imports, and is empty."""
    monkeypatch.setitem(sys.modules, "onnxruntime", types.ModuleType("onnxruntime"))
    for use in (wheels.runtime, lambda: Session(paper)):
        with pytest.raises(BackendUnavailable, match="is empty") as caught:
            use()
        assert "pip uninstall -y onnxruntime onnxruntime-gpu" in caught.value.fix


def test_a_library_that_does_not_load_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(BackendUnavailable, match="cannot be imported"):
        wheels.runtime()


# ----------------------------------------------------------------------------------------- CUDA


def _cuda() -> Any:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available() or not cuda_works():
        pytest.skip("needs torch and ONNX Runtime with CUDA")
    return torch


@pytest.mark.gpu
@pytest.mark.parametrize("spec", [PAPER, ROBUST], ids=["paper", "robust"])
def test_cuda_gives_the_values_of_the_cpu(spec: SchedulerSpec) -> None:
    _cuda()
    arrays, backend = batch(rows=257), get_backend("onnxruntime")
    moved = {name: backend.from_numpy(array, "cuda") for name, array in arrays.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DMSWarning)
        found = backend.scheduler(spec, device="cuda")(ModalityBatch(**moved))
    wanted = schedule(spec, arrays)
    assert found.notes == wanted.notes
    for name, array in wanted.arrays().items():
        assert found.arrays()[name].device.type == "cuda"
        other = backend.to_numpy(found.arrays()[name])
        # TF32 would be off by a thousand times as much.
        np.testing.assert_allclose(other, array, rtol=1e-5, atol=1e-5, err_msg=name)


@pytest.mark.gpu
def test_cuda_tensors_go_in_and_out_without_a_copy_to_the_host(paper: bytes) -> None:
    torch = _cuda()
    session, given = Session(paper, "cuda"), tensors(batch(rows=64), "cuda")
    session.run(given)  # the first run allocates
    torch.cuda.synchronize()
    activities = [torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        found = session.run(given)
        torch.cuda.synchronize()
    names = [event.key for event in profile.key_averages()]
    assert not [name for name in names if "DtoH" in name]
    assert all(tensor.device.type == "cuda" for tensor in found.values())
    with pytest.raises(DMSError, match="another device"):
        session.run(given | {"logits": given["logits"].cpu()})
    placed = session.placement({name: tensor.cpu().numpy() for name, tensor in given.items()})
    assert placed["CUDA"] > placed.get("CPU", 0)
