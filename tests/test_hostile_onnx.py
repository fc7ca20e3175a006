"""Hostile ``.onnx`` files: one message, the right exit code, no traceback, no memory, no crash."""

from __future__ import annotations

import contextlib
import io
import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dms_spec.cli import main
from dms_spec.errors import DMSError, FileError, VerificationError
from dms_spec.plugins import get_exporter
from dms_spec.spec import SchedulerSpec

onnx = pytest.importorskip("onnx")
pytest.importorskip("ndonnx")
pytest.importorskip("spox")
pytest.importorskip("onnx_ir")
pytest.importorskip("onnxruntime")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from dms_onnx.files import read_model  # noqa: E402
from dms_onnx.trace import PREFIX, parameters_hash  # noqa: E402
from dms_onnxruntime import Session  # noqa: E402
from dms_spec.artifact import Artifact  # noqa: E402

Run = Callable[..., Any]
Model = Any  # onnx.ModelProto
Change = Callable[[Model], None]

NAMES = ("a", "b", "c")


def _export(artifact: Artifact) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        return bytes(get_exporter("onnx").export(artifact, Path(folder)).read_bytes())


def _anchored() -> Artifact:
    spec = SchedulerSpec(
        modalities=NAMES,
        signals={"anchored_alignment": {}},
        coefficients={"anchored_alignment": 1.0},
    )
    anchor = np.linspace(-1, 1, 4, dtype=np.float32)
    return Artifact(spec=spec, parameters={"signals.anchored_alignment.anchor": anchor})


def _fitted() -> Artifact:
    random = np.random.Generator(np.random.Philox(1))
    parameters: dict[str, np.ndarray] = {}
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
            values = random.uniform(0.5, 1.5, size=shape).astype(np.float32)
            parameters[f"heads.{name}.{short}"] = values
    model = {"classes": ["no", "yes"], "prior": [0.5, 0.5], "dropout": 0.1, "passes": 3}
    signals = {"confidence": {}, "uncertainty": {"reduction": "sum"}}
    weighed = dict.fromkeys(signals, 0.5)
    spec = SchedulerSpec(modalities=NAMES, signals=signals, coefficients=weighed, fusion="logit")
    return Artifact(spec=spec, parameters=parameters, model=model)


# Once for all: small, and with every kind of thing that a file may hold.
GOOD = {
    name: _export(artifact)
    for name, artifact in {
        "plain": Artifact(spec=SchedulerSpec.preset("robust", NAMES)),
        "anchored": _anchored(),
        "fitted": _fitted(),
    }.items()
}


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(model: Model, path: str = "hostile.onnx") -> Path:
    Path(path).write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    return Path(path)


def changed(which: str, change: Change) -> Path:
    model = onnx.load_from_string(GOOD[which])
    change(model)
    return write(model)


def refused(dms: Run, path: Path, code: int = 2) -> str:
    """By the verb with its code, and by the session unless it is wrong in its numbers alone."""
    message = str(dms("verify", path).refused(code))
    assert "Traceback" not in message
    return message


# -------------------------------------------------------------------------- not a model at all

JUNK = {
    "empty": b"",
    "text": b"This is not a model.\n" * 40,
    "zip": b"PK\x03\x04" + b"\0" * 300,
    "pickle": b"\x80\x04\x95\x0c\x00\x00\x00\x00\x00\x00\x00]\x94(K\x01K\x02e.",
    "zeros": b"\0" * 1000,
    "ones": b"\xff" * 1000,
    "nested": b"\x0a\xff\xff\xff\x7f" * 300,
    "json": json.dumps({"ir_version": 10, "graph": {}}).encode(),
}


@pytest.mark.clause("DMS-X-013")
@pytest.mark.parametrize("name", JUNK)
def test_what_is_no_model_is_refused(dms: Run, work: Path, name: str) -> None:
    path = write(JUNK[name])
    assert "hostile.onnx" in refused(dms, path)
    for read in (read_model, Session.load):
        with pytest.raises(FileError, match=r"hostile\.onnx"):
            read(path)


@pytest.mark.parametrize("which", GOOD)
def test_every_cut_is_refused(dms: Run, work: Path, which: str) -> None:
    """Protobuf reads many a cut file without a word; not one of them may pass."""
    content = GOOD[which]
    step = max(1, len(content) // 47)
    for length in {*range(0, len(content), step), *(len(content) - k for k in range(1, 12))}:
        path = write(content[:length])
        assert dms("verify", path).code in (2, 3), length


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(
    which=st.sampled_from(sorted(GOOD)),
    spots=st.lists(
        st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), min_size=1, max_size=3
    ),
)
def test_damaged_bytes_are_refused_or_harmless(which: str, spots: list[tuple[float, int]]) -> None:
    """Exit 0 with a report, or 2 or 3 with one message; never a traceback."""
    content = bytearray(GOOD[which])
    for place, change in spots:
        content[int(place * len(content))] ^= change
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "damaged.onnx")
        path.write_bytes(content)
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(["verify", str(path)])
        assert code in (0, 2, 3), err.getvalue()
        assert "Traceback" not in err.getvalue()
        if code:
            assert out.getvalue() == ""
            assert err.getvalue().startswith("dms: ")
        with contextlib.suppress(DMSError):
            Session.load(path)


# ------------------------------------------------------------------------- what no export has


def _outside(location: str) -> Change:
    def change(model: Model) -> None:
        tensor = model.graph.initializer[-1]
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in {"location": location, "offset": "0", "length": "16"}.items():
            entry = tensor.external_data.add()
            entry.key, entry.value = key, value

    return change


def _outside_in_a_constant(model: Model) -> None:
    tensor = numpy_helper.from_array(np.zeros(4, dtype=np.float32))
    node = helper.make_node("Constant", [], ["_far"], value=tensor)
    _outside("../../etc/passwd")(
        helper.make_model(helper.make_graph([], "g", [], [], [node.attribute[0].t]))
    )
    node.attribute[0].t.data_location = TensorProto.EXTERNAL
    entry = node.attribute[0].t.external_data.add()
    entry.key, entry.value = "location", "../../etc/passwd"
    model.graph.node.insert(0, node)


def _custom_domain(model: Model) -> None:
    node = next(node for node in model.graph.node if node.op_type == "Softmax")
    node.domain = "com.example"
    model.opset_import.append(helper.make_opsetid("com.example", 1))


def _unused_domain(model: Model) -> None:
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))


def _function(model: Model) -> None:
    nodes = [helper.make_node("Exp", ["x"], ["y"])]
    model.functions.append(
        helper.make_function("local", "Trust", ["x"], ["y"], nodes, list(model.opset_import))
    )


def _branch(name: str) -> Any:
    value = helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
    constant = helper.make_node(
        "Constant", [], [name], value=numpy_helper.from_array(np.zeros(1, dtype=np.float32))
    )
    return helper.make_graph([constant], name, [], [value])


def _if(model: Model) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "_yes"))
    branches = {"then_branch": _branch("_then"), "else_branch": _branch("_else")}
    model.graph.node.append(helper.make_node("If", ["_yes"], ["_branched"], **branches))


def _loop(model: Model) -> None:
    """For ever."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["_on"], ["_go"])],
        "body",
        [
            helper.make_tensor_value_info("_i", TensorProto.INT64, []),
            helper.make_tensor_value_info("_on", TensorProto.BOOL, []),
        ],
        [helper.make_tensor_value_info("_go", TensorProto.BOOL, [])],
    )
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "_yes"))
    model.graph.node.append(helper.make_node("Loop", ["", "_yes"], [], body=body))


def _graphs(model: Model) -> None:
    """A list of graphs, where one is usual."""
    attribute = onnx.AttributeProto(name="odd", type=onnx.AttributeProto.GRAPHS)
    attribute.graphs.append(_branch("_odd"))
    model.graph.node[0].attribute.append(attribute)


def _sparse(model: Model) -> None:
    values = numpy_helper.from_array(np.ones(1, dtype=np.float32), "_sparse")
    indices = numpy_helper.from_array(np.zeros(1, dtype=np.int64), "_at")
    tensor = helper.make_sparse_tensor(values, indices, [10**11])
    model.graph.sparse_initializer.append(tensor)


def _sparse_constant(model: Model) -> None:
    _sparse(model)
    tensor = model.graph.sparse_initializer.pop()
    model.graph.node.insert(0, helper.make_node("Constant", [], ["_s"], sparse_value=tensor))


def _training(model: Model) -> None:
    model.training_info.add().algorithm.CopyFrom(_branch("_step"))


FOREIGN: list[tuple[Change, str]] = [
    (_outside("../../etc/passwd"), "data in other files"),
    (_outside("/etc/passwd"), "data in other files"),
    (_outside("beside.bin"), "data in other files"),
    (_outside_in_a_constant, "data in other files"),
    (_custom_domain, "com.example"),
    (_unused_domain, "com.microsoft"),
    (_function, "functions"),
    (_if, "subgraphs"),
    (_loop, "subgraphs"),
    (_graphs, "subgraphs"),
    (_sparse, "sparse tensors"),
    (_sparse_constant, "sparse tensors"),
    (_training, "graphs for training"),
]


@pytest.mark.clause("DMS-X-013")
@pytest.mark.parametrize(
    ("change", "word"), FOREIGN, ids=[f"{k}-{word}" for k, (_, word) in enumerate(FOREIGN)]
)
def test_what_no_export_has_is_refused(dms: Run, work: Path, change: Change, word: str) -> None:
    """By name, before any runtime sees the file, and nothing beside it is read."""
    Path("beside.bin").write_bytes(np.zeros(4, dtype=np.float32).tobytes())
    path = changed("anchored", change)
    message = refused(dms, path)
    assert word in message and "no export of dms-spec has" in message
    with pytest.raises(FileError, match=word.replace(".", r"\.")):
        Session.load(path)


# ----------------------------------------------------------------------- sizes that are not there


def _claim(*dims: int) -> Change:
    def change(model: Model) -> None:
        tensor = next(t for t in model.graph.initializer if t.name.endswith("anchor"))
        tensor.dims[:] = dims

    return change


def _claim_without_data(model: Model) -> None:
    _claim(10**12)(model)
    next(t for t in model.graph.initializer if t.name.endswith("anchor")).ClearField("raw_data")


def _claim_in_a_constant(model: Model) -> None:
    tensor = numpy_helper.from_array(np.zeros(1, dtype=np.float32))
    tensor.dims[:] = [10**12]
    model.graph.node.insert(0, helper.make_node("Constant", [], ["_huge"], value=tensor))


CLAIMS: dict[str, Change] = {
    "terabytes": _claim(10**12),
    "overflow": _claim(2**62, 2**62),
    "negative": _claim(-4),
    "two negative": _claim(-2, -2),
    "none": _claim(0),
    "no data": _claim_without_data,
    "constant": _claim_in_a_constant,
    "scalar": _claim(),
}


@pytest.mark.parametrize("name", CLAIMS)
def test_a_tensor_has_the_data_of_its_shape(dms: Run, work: Path, name: str) -> None:
    path = changed("anchored", CLAIMS[name])
    message = refused(dms, path)
    assert "size of its shape" in message or "damaged tensor" in message
    with pytest.raises(FileError):
        read_model(path)


def _input_is(name: str, kind: int | None = None, **dims: int) -> Change:
    def change(model: Model) -> None:
        (value,) = (value for value in model.graph.input if value.name == name)
        if kind is not None:
            value.type.tensor_type.elem_type = kind
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in dims:
                dim.dim_value = dims[dim.dim_param]

    return change


@pytest.mark.parametrize("size", [10**9, 2**40, 2**62])
def test_a_huge_size_of_an_input_allocates_nothing(dms: Run, work: Path, size: int) -> None:
    assert str(size) in refused(dms, changed("plain", _input_is("logits", C=size)))


def _with_parameters(model: Model, artifact: Artifact) -> None:
    """Metadata and initializers of another artifact, as if it had been exported."""
    del model.graph.initializer[:]
    for name, array in artifact.parameters.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
    for key, value in {
        "spec": json.dumps(artifact.spec.to_dict()),
        "parameters": json.dumps(sorted(artifact.parameters)),
        "parameters_sha256": parameters_hash(artifact.parameters),
    }.items():
        _meta(key, value)(model)


def test_a_width_that_a_parameter_really_has_is_bounded_too(dms: Run, work: Path) -> None:
    """Its bytes are all there; batches of it would be many times as large."""
    anchor = np.ones(2**18, dtype=np.float32)
    given = _anchored()
    big = Artifact(spec=given.spec, parameters=dict.fromkeys(given.parameters, anchor))
    nodes = [
        helper.make_node("ReduceSum", ["features", "axis"], ["weights"], keepdims=0),
        helper.make_node("Identity", ["weights"], ["scores"]),
        helper.make_node("Identity", ["weights"], ["anchored_alignment"]),
        helper.make_node("Identity", ["present"], ["active"]),
        helper.make_node("ReduceSum", ["features", "one"], ["fused"], keepdims=0),
    ]
    rows = ["B", 3, len(anchor)]
    graph = helper.make_graph(
        nodes,
        "g",
        [
            helper.make_tensor_value_info("features", TensorProto.FLOAT, rows),
            helper.make_tensor_value_info("present", TensorProto.BOOL, ["B", 3]),
        ],
        [
            *(
                helper.make_tensor_value_info(name, TensorProto.FLOAT, ["B", 3])
                for name in ("weights", "scores", "anchored_alignment")
            ),
            helper.make_tensor_value_info("active", TensorProto.BOOL, ["B", 3]),
            helper.make_tensor_value_info("fused", TensorProto.FLOAT, ["B", len(anchor)]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    _with_parameters(model, big)
    for name, axis in (("axis", 2), ("one", 1)):
        model.graph.initializer.append(numpy_helper.from_array(np.array([axis]), name))
    message = refused(dms, write(model))
    assert "inputs are too many to verify" in message


# ---------------------------------------------------------------------------------- wrong types

TYPES: dict[str, tuple[Change, list[str]]] = {
    "presence float": (_input_is("present", TensorProto.FLOAT), ["present"]),
    "logits int64": (_input_is("logits", TensorProto.INT64), ["logits", "int64"]),
    "logits string": (_input_is("logits", TensorProto.STRING), ["logits"]),
    "logits bfloat16": (_input_is("logits", TensorProto.BFLOAT16), ["logits"]),
    "logits complex": (_input_is("logits", TensorProto.COMPLEX64), ["logits"]),
    "logits undefined": (_input_is("logits", 0), ["logits"]),
    "logits unheard of": (_input_is("logits", 9999), ["logits"]),
}


@pytest.mark.parametrize("name", TYPES)
def test_an_input_of_a_wrong_type_is_refused(dms: Run, work: Path, name: str) -> None:
    """By the checker, since the operators do not take it, or by the verification."""
    outcome = dms("verify", changed("plain", TYPES[name][0]))
    assert outcome.code in (2, 3)
    assert "Traceback" not in outcome.err and outcome.err.startswith("dms: ")


@pytest.mark.parametrize("dtype", ["int64", "bool", "str", "complex64", "nan", "inf"])
def test_a_parameter_of_a_wrong_type_is_refused(dms: Run, work: Path, dtype: str) -> None:
    """With a hash that fits: whoever made it could compute one."""

    def change(model: Model) -> None:
        (tensor,) = (t for t in model.graph.initializer if t.name.endswith("anchor"))
        odd = (
            np.full(4, float(dtype), dtype=np.float32)
            if dtype in ("nan", "inf")
            else np.ones(4).astype(dtype if dtype != "str" else object)
        )
        if dtype == "str":
            odd[:] = "x"
        tensor.CopyFrom(numpy_helper.from_array(odd, tensor.name))
        _meta("parameters_sha256", parameters_hash({tensor.name: odd}))(model)

    outcome = dms("verify", changed("anchored", change))
    assert outcome.code in (2, 3), outcome.err
    assert outcome.err.startswith("dms: ")


def _sequence_input(model: Model) -> None:
    value = model.graph.input[0]
    kind = helper.make_tensor_type_proto(TensorProto.FLOAT, ["B"])
    value.type.CopyFrom(helper.make_sequence_type_proto(kind))


def _rankless_input(model: Model) -> None:
    model.graph.input[0].type.tensor_type.ClearField("shape")


def _untyped_output(model: Model) -> None:
    model.graph.output[0].ClearField("type")


def _no_graph(model: Model) -> None:
    model.ClearField("graph")


def _no_opset(model: Model) -> None:
    del model.opset_import[:]


def _two_opsets(model: Model) -> None:
    model.opset_import.append(helper.make_opsetid("", 18))


def _two_initializers(model: Model) -> None:
    model.graph.initializer.append(model.graph.initializer[0])


def _two_outputs(model: Model) -> None:
    model.graph.output.append(model.graph.output[0])


def _cycle(model: Model) -> None:
    model.graph.node[0].input[0] = model.graph.node[-1].output[0]


def _unknown_operator(model: Model) -> None:
    model.graph.node[3].op_type = "Frobnicate"


def _no_outputs(model: Model) -> None:
    del model.graph.output[:]


def _far_future(model: Model) -> None:
    model.ir_version = 2**40


ODD = (
    _sequence_input,
    _rankless_input,
    _untyped_output,
    _no_graph,
    _no_opset,
    _two_opsets,
    _two_initializers,
    _two_outputs,
    _cycle,
    _unknown_operator,
    _no_outputs,
    _far_future,
)


@pytest.mark.parametrize("change", ODD, ids=lambda f: f.__name__)
def test_an_odd_graph_is_refused(dms: Run, work: Path, change: Change) -> None:
    outcome = dms("verify", changed("anchored", change))
    assert outcome.code in (2, 3), outcome.err
    assert outcome.err.startswith("dms: ") and "Traceback" not in outcome.err
    assert outcome.out == ""


# ------------------------------------------------------------------------------------- metadata


def _meta(key: str, value: str | None) -> Change:
    def change(model: Model) -> None:
        kept = [entry for entry in model.metadata_props if entry.key != f"{PREFIX}{key}"]
        kept = [onnx.StringStringEntryProto(key=e.key, value=e.value) for e in kept]
        del model.metadata_props[:]
        model.metadata_props.extend(kept)
        if value is not None:
            entry = model.metadata_props.add()
            entry.key, entry.value = f"{PREFIX}{key}", value

    return change


def _spec(**changes: Any) -> str:
    return json.dumps(SchedulerSpec.preset("robust", NAMES).to_dict() | changes)


_DEEP = "[" * 100_000
_ABOUT = {"classes": ["no", "yes"], "prior": [0.5, 0.5], "dropout": 0.1, "passes": 3}


def _about(**changes: Any) -> str:
    return json.dumps(_ABOUT | changes)


_ENERGY = {"signals": {"energy": {"temperature": 10**400}}, "coefficients": {"energy": 1.0}}
METADATA: list[tuple[str, str, str | None]] = [
    *(
        ("fitted", key, value)
        for key in ("spec", "parameters", "model")
        for value in ("", "{", _DEEP, "null", "7", '"text"', "[1]", "[[]]", "[{}]", "{}", "NaN")
    ),
    *(("fitted", key, None) for key in ("spec", "parameters", "model", "parameters_sha256")),
    ("fitted", "parameters", '["heads.a.scale.zero"]'),
    ("fitted", "parameters", '["nobody", "heads.a.scale.zero"]'),
    ("plain", "parameters", '["nobody"]'),
    ("plain", "parameters", '["features", "weights"]'),
    ("plain", "parameters", '["__class__", "../../etc/passwd"]'),
    ("plain", "model", _about()),
    ("plain", "spec", _spec(modalities=["a"])),
    ("plain", "spec", _spec(modalities=[f"m{i}" for i in range(100_000)])),
    ("plain", "spec", _spec(policy="nobody")),
    ("plain", "spec", _spec(policy="learned_linear")),
    ("plain", "spec", _spec(edition="2931.01")),
    ("plain", "spec", _spec(signals={"confidence": {"normalize": "maybe"}}, coefficients={})),
    ("plain", "spec", _spec(**_ENERGY)),
    ("plain", "spec", _spec(signals={"energy": {"temperature": 0}}, coefficients={})),
    ("plain", "spec", _spec(signals={"nobody": {}}, coefficients={})),
    ("plain", "spec", _spec(coefficients={"confidence": 1e308})),
    ("fitted", "spec", _spec(modalities=["a", "b", "zebra"])),
    ("fitted", "spec", _spec(fusion="feature")),
    ("fitted", "model", _about(classes=[])),
    ("fitted", "model", _about(classes=["no"])),
    ("fitted", "model", _about(classes=["no", 7])),
    ("fitted", "model", _about(classes=[10**30, 1])),
    ("fitted", "model", _about(classes=[0, 1])),
    ("fitted", "model", _about(classes=[f"c{i}" for i in range(100_000)])),
    ("fitted", "model", _about(prior=[1e400, 0])),
    ("fitted", "model", _about(prior=[0.9, 0.1])),
    ("fitted", "model", _about(dropout=1.0)),
    ("fitted", "model", _about(dropout=0.9)),
    ("fitted", "model", _about(passes=-1)),
    ("fitted", "model", _about(passes=2**70, classes=["yes", "no"])),
]


@pytest.mark.clause("DMS-X-012")
@pytest.mark.parametrize(("which", "key", "value"), METADATA)
def test_hostile_metadata_is_refused(
    dms: Run, work: Path, which: str, key: str, value: str | None
) -> None:
    """One message, not of a mile's length, and no traceback."""
    outcome = dms("verify", changed(which, _meta(key, value)))
    assert outcome.code in (2, 3), outcome.err
    assert outcome.out == ""
    assert outcome.err.startswith("dms: ") and "Traceback" not in outcome.err
    assert len(outcome.err) < 2000


# ---------------------------------------------------------------------------------------- bombs

HUGE = 10**11  # entries: 400 GB of float32
LARGE = 4 * 10**9  # entries that fit a large machine, and then there is no room for anything else


def _ints(name: str, *values: int) -> Any:
    return numpy_helper.from_array(np.array(values, dtype=np.int64), name)


def _scalar(name: str, value: int) -> Any:
    return numpy_helper.from_array(np.array(value, dtype=np.int64), name)


_ONE = numpy_helper.from_array(np.ones(1, dtype=np.float32), "_e0")


def _double(times: int) -> Iterator[Any]:
    """A few bytes for each doubling."""
    for k in range(times):
        yield helper.make_node("Concat", [f"_e{k}", f"_e{k}"], [f"_e{k + 1}"], axis=0)


def _bombs(size: int) -> dict[str, tuple[list[Any], list[Any], str]]:
    """Nodes, initializers, and the name of the value that would be large."""
    node = helper.make_node
    side = int(size**0.5)
    return {
        "Expand": ([node("Expand", ["_e0", "_n"], ["_e"])], [_ONE, _ints("_n", size)], "_e"),
        "ConstantOfShape": ([node("ConstantOfShape", ["_n"], ["_e"])], [_ints("_n", size)], "_e"),
        "Range": (
            [node("Range", ["_a", "_n", "_b"], ["_r"]), node("Cast", ["_r"], ["_e"], to=1)],
            [_scalar("_a", 0), _scalar("_n", size), _scalar("_b", 1)],
            "_e",
        ),
        "Tile": ([node("Tile", ["_e0", "_n"], ["_e"])], [_ONE, _ints("_n", size)], "_e"),
        "Pad": ([node("Pad", ["_e0", "_n"], ["_e"])], [_ONE, _ints("_n", 0, size)], "_e"),
        "MatMul": (
            [
                node("Expand", ["_e0", "_l"], ["_left"]),
                node("Expand", ["_e0", "_r"], ["_right"]),
                node("MatMul", ["_left", "_right"], ["_e"]),
            ],
            [_ONE, _ints("_l", side, 1), _ints("_r", 1, side)],
            "_e",
        ),
        "Concat": ([*_double(size.bit_length())], [_ONE], f"_e{size.bit_length()}"),
        "Concat of an input": (
            [
                node("Cast", ["present"], ["_e0"], to=TensorProto.FLOAT),
                *_double(size.bit_length()),
            ],
            [],
            f"_e{size.bit_length()}",
        ),
        "a size computed": (
            [
                node("Shape", ["features"], ["_s"]),
                node("Mul", ["_s", "_n"], ["_m"]),
                node("ConstantOfShape", ["_m"], ["_e"]),
            ],
            [_ints("_n", size, 1, 1)],
            "_e",
        ),
        "a size read": (
            [
                node("ReduceSum", ["features"], ["_t"], keepdims=0),
                node("Cast", ["_t"], ["_i"], to=TensorProto.INT64),
                node("Mul", ["_i", "_z"], ["_o"]),
                node("Add", ["_o", "_n"], ["_m"]),
                node("ConstantOfShape", ["_m"], ["_e"]),
            ],
            [_ints("_z", 0), _ints("_n", size)],
            "_e",
        ),
    }


def bomb(name: str, size: int) -> bytes:
    """A good file whose weights take a detour through something enormous."""
    model = onnx.load_from_string(GOOD["anchored"])
    nodes, initializers, large = _bombs(size)[name]
    for node in model.graph.node:
        node.output[:] = ["_own" if value == "weights" else value for value in node.output]
        node.input[:] = ["_own" if value == "weights" else value for value in node.input]
    tail = [
        helper.make_node("ReduceMin", [large], ["_small"], keepdims=0),
        helper.make_node("Mul", ["_small", "_zero"], ["_nought"]),
        helper.make_node("Add", ["_own", "_nought"], ["weights"]),
    ]
    model.graph.node.extend([*nodes, *tail])
    zero = numpy_helper.from_array(np.zeros((), dtype=np.float32), "_zero")
    model.graph.initializer.extend([*initializers, zero])
    return bytes(model.SerializeToString())


_MEASURED = """
    import re, resource, sys
    from dms_spec.cli import main
    # Whatever happens, this machine stays alive.
    resource.setrlimit(resource.RLIMIT_AS, (24 << 30, 24 << 30))
    code = main(["verify", sys.argv[1]])
    print(re.search(r"VmHWM:\\s*(\\d+) kB", open("/proc/self/status").read())[1])
    raise SystemExit(code)
    """


@pytest.mark.parametrize(
    ("name", "size"),
    [
        *((name, HUGE) for name in ("Expand", "Range", "MatMul", "Concat", "a size read")),
        *((name, LARGE) for name in ("Concat of an input", "a size computed", "a size read")),
    ],
)
def test_a_bomb_is_an_error_and_not_a_dead_machine(
    spawn: Run, work: Path, name: str, size: int
) -> None:
    """A few bytes that ask for more memory than there is, or than is fair."""
    if not Path("/proc/self/status").is_file():
        pytest.skip("memory is bounded and measured by way of /proc")
    path = write(bomb(name, size))
    outcome = spawn("-c", dedent(_MEASURED), path)
    assert outcome.code in (2, 3), outcome.err
    assert outcome.err.startswith("dms: ") and "Traceback" not in outcome.err
    assert int(outcome.out) < 4 << 20, "kilobytes"


@pytest.mark.parametrize("name", ["Expand", "ConstantOfShape", "Range", "Tile", "Pad", "MatMul"])
def test_a_bomb_that_the_file_fixes_is_seen_before_anything_runs(work: Path, name: str) -> None:
    """Also by a session, which has no bounds on memory."""
    path = write(bomb(name, HUGE))
    for read in (read_model, Session.load):
        with pytest.raises(FileError, match="no scheduler needs"):
            read(path)


def test_the_detour_of_the_bombs_is_legal_where_it_is_small(dms: Run, work: Path) -> None:
    """Else refusing them would prove nothing."""
    for name in _bombs(2):
        outcome = dms("verify", write(bomb(name, 2)))
        assert outcome.code == 0, (name, outcome.err)


def test_the_bound_on_memory_is_lifted_again(dms: Run, work: Path) -> None:
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_DATA)
    dms("verify", write(GOOD["plain"])).succeeded()
    dms("verify", write(b"")).refused()
    assert resource.getrlimit(resource.RLIMIT_DATA) == before


def test_a_session_compares_the_parameters_with_their_hash(work: Path) -> None:
    def change(model: Model) -> None:
        tensor = next(t for t in model.graph.initializer if t.name.endswith("anchor"))
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) + 1, tensor.name))

    Session.load(write(GOOD["anchored"]))
    with pytest.raises(VerificationError, match="not those that were exported"):
        Session.load(changed("anchored", change))


def test_a_verification_that_fails_says_so_in_python_too(work: Path) -> None:
    path = changed("plain", _meta("spec", _spec(fusion="probability")))
    with pytest.raises(VerificationError):
        get_exporter("onnx").verify(path)
    Session.load(path)  # it runs: what it computes is the caller's to check
