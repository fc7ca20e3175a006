"""What other tools make of an exported file: what the guide says survives does, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dms_spec.artifact import Artifact
from dms_spec.errors import VerificationError
from dms_spec.plugins import get_exporter
from dms_spec.spec import SchedulerSpec

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from onnx import TensorProto, compose, helper, numpy_helper, version_converter  # noqa: E402
from onnxruntime import quantization  # noqa: E402

# ONNX Runtime's calibration measures infinities, and does not use them.
pytestmark = pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning:onnxruntime")

NAMES = ("image", "text", "audio")
WIDTHS = (6, 4, 3)
PIXELS, CLASSES, ROWS = 10, 4, 60
Arrays = dict[str, np.ndarray]


def artifact() -> Artifact:
    """Heads at random: what they predict does not matter here."""
    random = np.random.default_rng(0)
    parameters: Arrays = {}
    for name, width in zip(NAMES, WIDTHS, strict=True):
        own = {
            "scale.zero": np.zeros(width),
            "scale.unit": np.ones(width),
            "classifier.weight": random.normal(size=(width, CLASSES)),
            "classifier.bias": random.normal(size=CLASSES),
            "temperature": np.array(1.0),
        }
        parameters |= {f"heads.{name}.{k}": v.astype(np.float32) for k, v in own.items()}
    spec = SchedulerSpec(
        modalities=NAMES,
        signals={"confidence": {}, "energy": {}},
        coefficients={"confidence": 3.0, "energy": 1.0},
        fusion="probability",
    )
    model = {"classes": list("wxyz"), "prior": [0.25] * CLASSES, "dropout": 0.0, "passes": 0}
    return Artifact(spec=spec, parameters=parameters, model=model)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return get_exporter("onnx").export(artifact(), tmp_path_factory.mktemp("exported"), opset=21)


def encoder() -> Any:
    """Two layers, as torch writes them."""
    random = np.random.default_rng(1)
    arrays = {
        "w1": random.normal(size=(PIXELS, 16)),
        "b1": random.normal(size=16),
        "w2": random.normal(size=(16, WIDTHS[0])),
        "b2": random.normal(size=WIDTHS[0]),
    }
    graph = helper.make_graph(
        [
            helper.make_node("Gemm", ["pixels", "w1", "b1"], ["hidden"], "first"),
            helper.make_node("Relu", ["hidden"], ["positive"], "relu"),
            helper.make_node("Gemm", ["positive", "w2", "b2"], ["features"], "second"),
        ],
        "encoder",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["B", PIXELS])],
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["B", WIDTHS[0]])],
        [numpy_helper.from_array(v.astype(np.float32), k) for k, v in arrays.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def rows(seed: int = 2) -> Arrays:
    random = np.random.default_rng(seed)
    sizes = dict(zip(("pixels", *NAMES), (PIXELS, *WIDTHS), strict=True))
    drawn = {k: random.normal(size=(ROWS, n)).astype(np.float32) for k, n in sizes.items()}
    return drawn | {"present": random.random((ROWS, 3)) < 0.8}


def run(model: Any, arrays: Arrays, *more: str) -> Arrays:
    """The outputs of a model, or of a file, for those arrays that it reads."""
    data = str(model) if isinstance(model, str | Path) else model.SerializeToString()
    session = onnxruntime.InferenceSession(data)
    names = [*(value.name for value in session.get_outputs()), *more]
    wanted = {value.name for value in session.get_inputs()}
    given = {name: array for name, array in arrays.items() if name in wanted}
    return dict(zip(names, session.run(names, given), strict=True))


def assert_equal(got: Arrays, expected: Arrays) -> None:
    for name, array in expected.items():
        np.testing.assert_array_equal(got[name], array, err_msg=name)


def prefixed(path: Path, prefix: str, **rename: bool) -> Any:
    model = onnx.load(path)
    for entry in model.metadata_props:
        entry.key = prefix + entry.key
    return compose.add_prefix(model, prefix, **rename)


def merged(first: Any, second: Any, io_map: list[tuple[str, str]]) -> Any:
    whole = compose.merge_models(first, second, io_map=io_map)
    del whole.opset_import[1:], whole.graph.value_info[:]
    return whole


@pytest.fixture(scope="module")
def whole(exported: Path) -> Any:
    ours = prefixed(exported, "dms/", rename_inputs=False, rename_outputs=False)
    return merged(encoder(), ours, [("features", "image")])


@pytest.mark.parametrize("opset", [22, 26])
def test_the_version_converter(exported: Path, tmp_path: Path, opset: int) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(version_converter.convert_version(onnx.load(exported), opset), path)
    assert_equal(run(path, rows()), run(exported, rows()))
    assert get_exporter("onnx").verify(path)["opset"] == opset


def test_encoders_in_front(exported: Path, whole: Any) -> None:
    onnx.checker.check_model(whole, full_check=True)
    seen = run(encoder(), rows())["features"]
    assert_equal(run(whole, rows()), run(exported, rows() | {"image": seen}))


def test_two_of_ours(exported: Path) -> None:
    both = merged(prefixed(exported, "a/"), prefixed(exported, "b/"), [])
    onnx.checker.check_model(both, full_check=True)
    given = {"a/": rows(2), "b/": rows(3)}
    found = run(both, {f"{p}{k}": v for p, own in given.items() for k, v in own.items()})
    for prefix, own in given.items():
        expected = run(exported, own)
        assert_equal({k: found[f"{prefix}{k}"] for k in expected}, expected)


class Reader(quantization.CalibrationDataReader):
    def __init__(self, names: set[str]) -> None:
        given = (rows(seed) for seed in range(10, 14))
        self.parts = iter([{k: v for k, v in own.items() if k in names} for own in given])

    def get_next(self) -> Arrays | None:
        return next(self.parts, None)


def static(source: Path, target: Path, **options: Any) -> None:
    names = {value.name for value in onnx.load(source).graph.input}
    quantization.quantize_static(source, target, Reader(names), **options)


@pytest.mark.parametrize(
    "quantise", [static, quantization.quantize_dynamic], ids=["static", "dynamic"]
)
def test_quantised_encoders_leave_the_scheduler_as_it_is(
    quantise: Callable[..., None], exported: Path, whole: Any, tmp_path: Path
) -> None:
    """Its nodes, named by their prefix, are excluded: bit for bit, on the features that arrive."""
    source, target = tmp_path / "whole.onnx", tmp_path / "quantised.onnx"
    onnx.save(whole, source)
    kept = [node.name for node in whole.graph.node if node.name.startswith("dms/")]
    quantise(source, target, nodes_to_exclude=kept)
    model = onnx.load(target)
    assert set(kept) <= {node.name for node in model.graph.node} and len(kept) > 40
    (seen,) = {
        name
        for node in model.graph.node
        for name in node.input
        if node.name in kept and name.startswith("features")
    }
    model.graph.output.append(helper.make_tensor_value_info(seen, TensorProto.FLOAT, None))
    found = run(model, rows())
    assert not np.array_equal(found[seen], run(encoder(), rows())["features"])  # eight bits
    assert_equal(found, run(exported, rows() | {"image": found[seen]}))


def test_a_quantised_scheduler_is_refused(exported: Path, tmp_path: Path) -> None:
    static(exported, tmp_path / "model.onnx")
    with pytest.raises(VerificationError):
        get_exporter("onnx").verify(tmp_path / "model.onnx")


def test_half_precision_is_an_option_of_the_export(exported: Path, tmp_path: Path) -> None:
    half = get_exporter("onnx").export(artifact(), tmp_path, dtype="float16")
    given = {k: v.astype(np.float16) if v.dtype.kind == "f" else v for k, v in rows().items()}
    found, expected = run(half, given), run(exported, rows())
    assert found["weights"].dtype == np.float32
    # A step of float16 in what comes in, several times over.
    np.testing.assert_allclose(found["weights"], expected["weights"], rtol=0, atol=0.02)


def test_an_optimised_file_computes_the_same(exported: Path, tmp_path: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    onnxruntime.InferenceSession(str(exported), options)
    assert_equal(run(tmp_path / "optimised.onnx", rows()), run(exported, rows()))
