"""The folder for Triton Inference Server: its configuration is the graph's, and batches are rows.

No server runs here. Triton's own protobuf reads the configuration, and ONNX Runtime the graph.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from fuzzing import small_artifact

from dms_spec.artifact import Artifact, save_artifact
from dms_spec.errors import FileError, SpecError
from dms_spec.plugins import get_exporter
from dms_spec.spec import SchedulerSpec
from dms_spec.texts import read_json

pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

Run = Callable[..., Any]
PAPER = Artifact(spec=SchedulerSpec.preset("paper", ("image", "text", "audio")))
#: Where Triton's messages are in its client.
MESSAGES = "tritonclient/grpc/model_config_pb2.py"
#: What a size is where the graph leaves it open.
SIZES = {"D": 4, "C": 3, "T": 5}
#: ONNX Runtime's word for a type, and Triton's.
TYPES = {
    "tensor(float)": "TYPE_FP32",
    "tensor(float16)": "TYPE_FP16",
    "tensor(bool)": "TYPE_BOOL",
    "tensor(int64)": "TYPE_INT64",
    "tensor(string)": "TYPE_STRING",
}


@pytest.fixture(scope="module", params=["fitted", "bare"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of one model: of a fitted artifact, and of a bare scheduler with uncertainty."""
    artifact = small_artifact() if request.param == "fitted" else PAPER
    folder = tmp_path_factory.mktemp(request.param)
    path = get_exporter("triton").export(artifact, folder, name="trust")
    assert path == folder / "triton" / "trust" / "1" / "model.onnx"
    return path.parents[1]


def of_client(name: str) -> ModuleType:
    """One module of Triton's client, without those around it, which want other packages."""
    try:
        listed = files("tritonclient") or []
    except PackageNotFoundError:
        pytest.skip("tritonclient is not installed")
    (path,) = (f.locate() for f in listed if f.as_posix() == name)
    spec = importlib.util.spec_from_file_location(Path(name).stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def messages() -> ModuleType:
    return of_client(MESSAGES)


def session(model: Path) -> Any:
    return onnxruntime.InferenceSession(model / "1" / "model.onnx")


def test_triton_reads_what_the_graph_says(model: Path, messages: ModuleType) -> None:
    from google.protobuf import text_format

    text = (model / "config.pbtxt").read_text(encoding="utf-8")
    config = text_format.Parse(text, messages.ModelConfig())
    assert (config.name, config.backend) == (model.name, "onnxruntime")
    assert config.max_batch_size == 32 and config.HasField("dynamic_batching")
    assert [group.count for group in config.instance_group] == [1]
    graph = session(model)
    for tensors, values in (
        (config.input, graph.get_inputs()),
        (config.output, graph.get_outputs()),
    ):
        assert [tensor.name for tensor in tensors] == [value.name for value in values]
        for tensor, value in zip(tensors, values, strict=True):
            assert messages.DataType.Name(tensor.data_type) == TYPES[value.type]
            shape = tensor.reshape.shape if tensor.HasField("reshape") else tensor.dims
            wanted = [-1 if isinstance(axis, str) else axis for axis in value.shape[1:]]
            assert value.shape[0] == "B" and list(shape) == wanted
            assert len(tensor.dims) >= 1
    labelled = {tensor.name: tensor.label_filename for tensor in config.output}
    classes = labelled.pop("probabilities", "")
    assert not any(labelled.values())
    assert bool(classes) == (model / "labels.txt").exists()
    if classes:
        lines = (model / classes).read_text(encoding="utf-8").splitlines()
        assert lines == [str(name) for name in small_artifact().model["classes"]]


def test_requests_in_one_batch_are_answered_as_alone(model: Path) -> None:
    """Triton joins the requests along axis 0 of every input, and cuts every output there."""
    graph, random = session(model), np.random.default_rng(0)
    requests = []
    for rows in (1, 3, 2):
        request = {}
        for value in graph.get_inputs():
            shape = [rows, *(SIZES.get(axis, axis) for axis in value.shape[1:])]
            drawn = random.normal(size=shape)
            request[value.name] = drawn < 0.7 if value.name == "present" else np.float32(drawn)
        requests.append(request)
    names = [value.name for value in graph.get_outputs()]
    joined = {name: np.concatenate([r[name] for r in requests]) for name in requests[0]}
    together = dict(zip(names, graph.run(names, joined), strict=True))
    alone = [dict(zip(names, graph.run(names, request), strict=True)) for request in requests]
    for name in names:
        expected = np.concatenate([one[name] for one in alone])
        if expected.dtype.kind == "f":
            np.testing.assert_allclose(together[name], expected, rtol=1e-5, atol=1e-6)
        else:
            np.testing.assert_array_equal(together[name], expected)


def test_the_request_of_the_page_is_what_the_client_builds_and_the_graph_takes(
    tmp_path: Path,
) -> None:
    """Input by input, as JSON and as bytes; Triton's client joins them into a request."""
    page = Path(__file__).resolve().parents[1] / "docs" / "guide" / "serving.md"
    block = re.search(r"^```json\n(.*?)^```$", page.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    assert block is not None
    request = json.loads(block[1])
    give = of_client("tritonclient/http/_infer_input.py").InferInput
    want = of_client("tritonclient/http/_requested_output.py").InferRequestedOutput
    arrays = {}
    for one in request["inputs"]:
        dtype = {"FP32": np.float32, "BOOL": np.bool_}[one["datatype"]]
        array = np.array(one["data"], dtype).reshape(one["shape"])
        built = give(one["name"], one["shape"], one["datatype"])
        built.set_data_from_numpy(array, binary_data=False)
        tensor = built._get_tensor()
        assert np.array_equal(np.array(tensor.pop("data"), dtype), array.ravel())
        assert tensor == {key: one[key] for key in tensor} and len(tensor) == 3
        built.set_data_from_numpy(array)
        assert built._get_binary_data() == array.tobytes()
        arrays[one["name"]] = array
    names = [one["name"] for one in request["outputs"]]
    assert [want(name)._get_tensor()["name"] for name in names] == names
    small = small_artifact()
    spec = small.spec.replace(modalities=("image", "text"))
    parameters = {
        name.replace(".a.", ".image.").replace(".b.", ".text."): array[: 2 if ".b." in name else 3]
        if array.ndim and "bias" not in name
        else array
        for name, array in small.parameters.items()
    }
    artifact = Artifact(spec=spec, parameters=parameters, model=small.model)
    path = get_exporter("triton").export(artifact, tmp_path)
    found = dict(zip(names, onnxruntime.InferenceSession(path).run(names, arrays), strict=True))
    np.testing.assert_allclose(found["weights"], [[1, 0]])
    np.testing.assert_allclose(found["probabilities"].sum(), 1, rtol=1e-6)


def test_the_samples_are_first_and_the_answers_those_of_any_export(tmp_path: Path) -> None:
    """As many passes as samples: no shape could tell the two axes apart."""
    from dms_onnx.session import Session

    random = np.random.default_rng(1)
    batch = {
        "features": random.normal(size=(4, 3, 2)).astype(np.float32),
        "logits": random.normal(size=(4, 3, 5)).astype(np.float32),
        "mc_logits": random.normal(size=(4, 4, 3, 5)).astype(np.float32),
        "present": np.ones((4, 3), bool),
    }
    plain = get_exporter("onnx").export(PAPER, tmp_path / "plain")
    first = get_exporter("onnx").export(PAPER, tmp_path / "first", passes_axis=1)
    report = read_json(first.with_name("verification.json"))
    assert report["passes_axis"] == 1
    assert {v["name"]: v["shape"] for v in report["inputs"]}["mc_logits"] == ["B", "T", 3, "C"]
    sessions = [Session.load(path) for path in (plain, first)]
    expected, found = (one.run(batch) for one in sessions)
    raw = onnxruntime.InferenceSession(first)
    swapped = batch | {"mc_logits": batch["mc_logits"].swapaxes(0, 1)}
    for name, direct in zip(found, raw.run(list(found), swapped), strict=True):
        np.testing.assert_array_equal(found[name], expected[name])
        np.testing.assert_array_equal(direct, expected[name])
    uneven = batch | {"mc_logits": np.zeros((4, 2, 3, 5), np.float32)}
    messages = []
    for one in sessions:
        with pytest.raises(Exception, match=r"mc_logits.*T = 4, B = 4, 3") as caught:
            one.run(uneven)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]


@pytest.mark.parametrize("axis", ["0", "1", "2"])
def test_metadata_about_another_axis_is_found_out(tmp_path: Path, axis: str) -> None:
    import onnx

    from dms_spec.errors import DMSError

    exporter = get_exporter("onnx")
    path = exporter.export(PAPER, tmp_path, passes_axis=0 if axis == "1" else 1)
    model = onnx.load(path)
    data = {prop.key: prop.value for prop in model.metadata_props}
    onnx.helper.set_model_props(model, data | {"dms_spec.passes_axis": axis})
    onnx.save(model, path)
    with pytest.raises(DMSError, match=r"inputs are not those|passes_axis"):
        exporter.verify(path)


# ------------------------------------------------------------------------------------ the folder


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_the_command_writes_it_and_verify_reads_it(dms: Run, tmp_path: Path) -> None:
    words = ("export", "triton", "static", "--modalities", "a,b", "-o", tmp_path)
    dms(*words, "--name", "one", "--max-batch-size", "8").succeeded()
    dms(*words, "--name", "two").succeeded()  # beside it
    dms("verify", tmp_path / "triton" / "one" / "1" / "model.onnx").succeeded()
    assert "max_batch_size: 8\n" in (tmp_path / "triton/one/config.pbtxt").read_text("utf-8")
    assert "exists already" in dms(*words, "--name", "two").refused()
    for wrong in (
        ("--name", "../three"),
        ("--name", ".hidden"),
        ("--max-batch-size", "0"),
        ("--passes-axis", "0"),
    ):
        dms(*words, *wrong).refused()
    assert {path.name for path in (tmp_path / "triton").iterdir()} == {"one", "two"}
    dms("export", "onnx", "static", "--modalities", "a,b", "-o", tmp_path, "--name", "x").refused()


def test_only_an_earlier_export_is_replaced(tmp_path: Path) -> None:
    export = get_exporter("triton").export
    fitted = small_artifact()
    path = export(fitted, tmp_path)
    before = contents(tmp_path)
    export(fitted, tmp_path, overwrite=True)
    assert contents(tmp_path).keys() == before.keys()
    labels = path.parents[1] / "labels.txt"
    for changed in (labels, path.parents[1] / "config.pbtxt", path):
        ours = changed.read_bytes()
        changed.write_bytes(b"years")
        held = contents(tmp_path)
        with pytest.raises(FileError, match="not replaced"):
            export(fitted, tmp_path, overwrite=True)
        assert contents(tmp_path) == held
        changed.write_bytes(ours)
    notes = path.with_name("notes.txt")
    notes.write_bytes(b"years")
    export(fitted, tmp_path, overwrite=True)
    assert notes.read_bytes() == b"years"


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege on Windows")
def test_nothing_is_written_through_a_link(tmp_path: Path) -> None:
    export = get_exporter("triton").export
    path = export(PAPER, tmp_path)
    elsewhere = tmp_path / "elsewhere"
    path.parent.rename(elsewhere)
    path.parent.symlink_to(elsewhere)
    held = contents(elsewhere)
    with pytest.raises(FileError, match="not replaced"):
        export(PAPER, tmp_path, overwrite=True, dtype="float16")
    assert contents(elsewhere) == held


def test_an_artifact_takes_no_repository(tmp_path: Path) -> None:
    save_artifact(tmp_path / "art", small_artifact())
    with pytest.raises(FileError, match="stand in an artifact"):
        get_exporter("triton").export(small_artifact(), tmp_path / "art")


def test_a_class_that_is_no_line_is_refused(tmp_path: Path) -> None:
    from dataclasses import replace

    artifact = small_artifact()
    classes = [f"{name}\nline" for name in artifact.model["classes"]]
    broken = replace(artifact, model=artifact.model | {"classes": classes})
    with pytest.raises(SpecError, match="line"):
        get_exporter("triton").export(broken, tmp_path)
    assert not list(tmp_path.iterdir())
