"""The ONNX exporter: what it writes is right, and what is not right is not written, or refused."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from textwrap import dedent
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

from dms_spec._version import EDITION
from dms_spec.artifact import Artifact, save_artifact
from dms_spec.conformance.drawing import COVARIANCES, trust, typical
from dms_spec.conformance.drawing import level as random_level
from dms_spec.conformance.strategies import SIGNAL_OPTIONS, Case, cases
from dms_spec.embeddings.predictor import Predictor
from dms_spec.embeddings.table import Table
from dms_spec.errors import (
    DMSError,
    FileError,
    SpecError,
    UnsupportedCapability,
    VerificationError,
)
from dms_spec.interface.policy import Policy
from dms_spec.interface.signal import Signal
from dms_spec.plugins import available, get_backend, get_exporter, get_policy, get_signal, registry
from dms_spec.spec import SchedulerSpec

onnx = pytest.importorskip("onnx")
pytest.importorskip("ndonnx")
pytest.importorskip("spox")
pytest.importorskip("onnx_ir")
pytest.importorskip("onnxruntime")

from onnx import helper, numpy_helper  # noqa: E402
from onnx.reference import ReferenceEvaluator  # noqa: E402

from dms_onnx import namespace  # noqa: E402
from dms_onnx.files import check_model, read_model  # noqa: E402
from dms_onnx.opsets import IR_VERSIONS  # noqa: E402
from dms_onnx.trace import PREFIX, trace_predictor, trace_scheduler  # noqa: E402
from dms_onnx.verify import verify  # noqa: E402
from dms_onnxruntime import Session  # noqa: E402

Run = Callable[..., Any]
Model = Any  # onnx.ModelProto

NAMES = ("image", "text", "audio")
LEVELS = ("feature", "logit", "probability")
# Fusion of evidence without a joint expert, and with one.
EVIDENCE = ("evidence", "joint")
ALL_INPUTS = ("features", "logits", "mc_logits", "present")
WIDTHS, FEATURES, PASSES = (4, 3, 6), 5, 8


# A rule with something of everything in it, Monte-Carlo passes among them.
RULE = SchedulerSpec(
    modalities=NAMES,
    policy="monotone",
    signals={
        "confidence": {},
        "uncertainty": {"reduction": "sum"},
        "corroboration": {},
        "typicality": {},
    },
    coefficients={"confidence": 0.5, "uncertainty": 0.5, "corroboration": 0.5, "typicality": 1.0},
    fusion="logit",
)


def preset(name: str = "rule", **changes: Any) -> Artifact:
    spec = RULE if name == "rule" else SchedulerSpec.preset(name, NAMES)
    return Artifact(spec=spec.replace(**changes))


def model_of(artifact: Artifact, dtype: str = "float32", opset: int = 21) -> Model:
    """The graph, as it is before it is verified and written."""
    if artifact.model:
        dtypes = dict.fromkeys(artifact.spec.modalities, dtype)
        return trace_predictor(artifact, dtypes, opset)[0]
    from dms_onnx.trace import scheduler_inputs
    from dms_spec.engine.resolve import resolve

    inputs = scheduler_inputs(resolve(artifact.spec, artifact.scheduler_parameters))
    dtypes = {name: "bool" if name == "present" else dtype for name in inputs}
    return trace_scheduler(artifact, dtypes, opset)[0]


def fitted(
    level: str = "probability", classes: list[Any] | None = None, passes: int = PASSES
) -> Artifact:
    """Heads at random, as ``dms fit`` would leave them, dropout masks and all."""
    classes = ["cat", "dog", "eel"] if classes is None else classes
    random = np.random.Generator(np.random.Philox(7))

    def draw(*shape: int) -> np.ndarray:
        return random.normal(size=shape).astype(np.float32)

    parameters = {"head.weight": draw(FEATURES, len(classes)), "head.bias": draw(len(classes))}
    for name, width in zip(NAMES, WIDTHS, strict=True):
        parameters |= {
            f"heads.{name}.scale.zero": draw(width),
            f"heads.{name}.scale.unit": np.abs(draw(width)) + 1,
            f"heads.{name}.projection.weight": draw(width, FEATURES),
            f"heads.{name}.projection.bias": draw(FEATURES),
            f"heads.{name}.classifier.weight": draw(width, len(classes)),
            f"heads.{name}.classifier.bias": draw(len(classes)),
            # The same number in each: equal parameters must stay apart.
            f"heads.{name}.temperature": np.array(1.25, dtype=np.float32),
            f"heads.{name}.dropout.masks": (draw(passes, width) > -0.5).astype(np.float32),
        }
    if level == "joint":
        parameters |= {
            f"joint.{name}.weight": draw(width, len(classes))
            for name, width in zip(NAMES, WIDTHS, strict=True)
        }
        parameters |= {"joint.bias": draw(len(classes)), "joint.share": np.array(0.6, np.float32)}
    prior = np.arange(1, len(classes) + 1) / sum(range(1, len(classes) + 1))
    model = {"classes": classes, "prior": prior.tolist(), "dropout": 0.3, "passes": passes}
    robust = SchedulerSpec.preset("robust", NAMES)
    spec = robust if level in EVIDENCE else RULE.replace(fusion=level)
    return Artifact(spec=spec, parameters=parameters, model=model)


def table_of(rows: int = 40, dtype: str = "float32") -> Table:
    """Rows with gaps full of NaN; in the first two nothing is there."""
    random = np.random.Generator(np.random.Philox(3))
    present = random.random((rows, 3)) > 0.3
    present[:2] = False
    embeddings = {}
    for m, (name, width) in enumerate(zip(NAMES, WIDTHS, strict=True)):
        embeddings[name] = random.normal(size=(rows, width)).astype(dtype)
        embeddings[name][~present[:, m]] = np.nan
    return Table(embeddings=embeddings, present=present)


def batch_of(
    names: tuple[str, ...] = ALL_INPUTS, dtype: str = "float32", b: int = 5, d: int = 4, c: int = 3
) -> dict[str, np.ndarray]:
    random = np.random.Generator(np.random.Philox(4))
    shapes = {"features": (b, 3, d), "logits": (b, 3, c), "mc_logits": (4, b, 3, c)}
    arrays = {name: random.normal(size=shape).astype(dtype) for name, shape in shapes.items()}
    arrays["present"] = random.random((b, 3)) > 0.3
    return {name: arrays[name] for name in names}


def axes(value: Any) -> tuple[str | int, ...]:
    dims = value.type.tensor_type.shape.dim
    return tuple(d.dim_param if d.HasField("dim_param") else d.dim_value for d in dims)


def metadata(model: Model) -> dict[str, str]:
    return {entry.key: entry.value for entry in model.metadata_props}


@pytest.fixture(scope="module")
def rule() -> bytes:
    return bytes(model_of(preset()).SerializeToString())


@pytest.fixture(scope="module")
def heads() -> bytes:
    return bytes(model_of(fitted()).SerializeToString())


# --------------------------------------------------------------------- what is written is right


def draw_parameters(declared: dict[str, str], prefix: str, which: int = 0) -> dict[str, np.ndarray]:
    """Arrays for declared axes, such as ``"D | M D"``; ``which`` chooses the alternative."""
    random = np.random.Generator(np.random.Philox(5))
    sizes = {"M": 3, "K": 2, "D": 4, "C": 3}
    arrays = {}
    for name, text in declared.items():
        alternatives = text.split("|")
        shape = [sizes.get(axis, 3) for axis in alternatives[which % len(alternatives)].split()]
        arrays[f"{prefix}.{name}"] = random.normal(size=shape).astype(np.float32)
    return arrays


def place_of(width: int, which: int) -> dict[str, np.ndarray]:
    """Parameters of typicality, with one covariance after the other; then none."""
    random = np.random.Generator(np.random.Philox(6))
    own = typical(random, 3, width, COVARIANCES[which]) | trust(random, 3, width)
    return {f"signals.typicality.{name}": array.astype(np.float32) for name, array in own.items()}


def artifact_with(kind: str, name: str, level: str, which: int) -> Artifact:
    """A spec in which a policy or a signal of the registry takes part, with its parameters."""
    signals: dict[str, Any] = {"confidence": {}, "energy": {}}
    if kind == "policy":
        policy = get_policy(name)
        parameters = draw_parameters(dict(policy.parameters), "policy")
        if policy.parameters_optional and which % 2:
            parameters = {}
    else:
        policy = get_policy("linear")
        options = SIGNAL_OPTIONS.get(name, [{}])
        signals = {name: options[which % len(options)], "confidence": {}}
        signals |= {"energy": {}} if len(signals) < 2 else {}
        parameters = draw_parameters(dict(get_signal(name).parameters), f"signals.{name}", which)
        if name == "typicality":  # its parameters go together; batches are of several widths
            parameters = place_of(4, which)
    weighed = dict.fromkeys(signals, 1.5) if policy.uses_signals else {}
    if policy.log_trust:
        signals, weighed = {"typicality": {}}, {"typicality": 1.5}
        parameters |= place_of(4, which)
        level = "evidence"
        if which:
            drawn = random_level(np.random.Generator(np.random.Philox(which)), 3, 4)
            parameters |= {k: v.astype(np.float32) for k, v in drawn.items()}
    spec = SchedulerSpec(
        modalities=NAMES, policy=policy.name, signals=signals, coefficients=weighed, fusion=level
    )
    return Artifact(spec=spec, parameters=parameters)


EVERY = [("policy", name) for name in available("policy")]
EVERY += [("signal", name) for name in available("signal")]
HOW = list(zip(LEVELS, ("float32", "float16", "float32"), strict=True))
HOW += list(zip(LEVELS, ("float16", "float32", "float16"), strict=True))


@pytest.mark.clause("DMS-X-008")
@pytest.mark.parametrize("which", [0, 1, 2])
@pytest.mark.parametrize(("kind", "name"), EVERY)
def test_everything_registered_is_exported_and_right(kind: str, name: str, which: int) -> None:
    """Each at every level of fusion, each dtype; `verify` holds it to the oracle."""
    level, dtype = HOW[(which + 3 * (len(name) % 2)) % len(HOW)]
    model = model_of(artifact_with(kind, name, level, which), dtype)
    check_model(model, name)
    report = verify(model)
    assert report["dtype"] == dtype
    assert set(report["errors"]) == {"onnx", "onnxruntime"}
    for errors in report["errors"].values():
        assert errors.keys() >= {"weights", "fused", "scores"}
        assert max(errors.values()) <= report["allowed"] == 8


@pytest.mark.clause("DMS-X-008")
@settings(max_examples=25, deadline=None, derandomize=True, database=None)
@given(case=cases("float32"))
def test_any_spec_is_exported_and_right(case: Case) -> None:
    """Whatever is drawn; and on the batch drawn with it, the numbers are NumPy's."""
    artifact = Artifact(spec=case.spec, parameters=case.parameters)
    model = model_of(artifact)
    check_model(model, "drawn")
    verify(model)
    if case.arrays["mc_logits"].shape[0] == 0:
        return  # optional for a scheduler; a graph that has them as an input needs some
    wanted = {value.name for value in model.graph.input}
    found = Session(model.SerializeToString()).run(
        {name: array for name, array in case.arrays.items() if name in wanted}
    )
    there = found["weights"].sum(axis=1)
    assert ((there == 0) == ~found["active"].any(axis=1)).all()
    assert np.abs(there[there > 0] - 1).max(initial=0) <= 32 * np.finfo(np.float32).eps


@pytest.mark.clause("DMS-X-008", "DMS-X-011")
@pytest.mark.parametrize("level", [*LEVELS, *EVIDENCE])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_heads_are_exported_at_every_level(level: str, dtype: str) -> None:
    model = model_of(fitted(level), dtype)
    check_model(model, "heads")
    report = verify(model)
    assert report["dtype"] == dtype
    kinds = {value["name"]: value["dtype"] for value in report["outputs"]}
    assert kinds["probabilities"] == kinds["weights"] == "float32"


@pytest.mark.clause("DMS-X-009", "DMS-X-010")
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_inputs_and_outputs_have_the_names_and_axes_of_the_specification(dtype: str) -> None:
    model = model_of(preset("paper"), dtype)
    inputs = {value.name: axes(value) for value in model.graph.input}
    assert inputs == {
        "features": ("B", 3, "D"),
        "logits": ("B", 3, "C"),
        "mc_logits": ("T", "B", 3, "C"),
        "present": ("B", 3),
    }
    assert list(inputs) == ["features", "logits", "mc_logits", "present"]
    outputs = {value.name: axes(value) for value in model.graph.output}
    signals = ("confidence", "uncertainty", "alignment")
    square = dict.fromkeys(("weights", "scores", "active", *signals), ("B", 3))
    assert outputs == square | {"fused": ("B", "D")}
    kinds = {
        v.name: v.type.tensor_type.elem_type for v in (*model.graph.input, *model.graph.output)
    }
    floating = getattr(onnx.TensorProto, {"float32": "FLOAT", "float16": "FLOAT16"}[dtype])
    assert kinds["present"] == kinds["active"] == onnx.TensorProto.BOOL
    assert {kinds[name] for name in ("features", "logits", "mc_logits", "fused")} == {floating}
    assert {kinds[name] for name in ("weights", "scores", *signals)} == {onnx.TensorProto.FLOAT}


@pytest.mark.clause("DMS-X-009", "DMS-X-010")
def test_a_size_is_fixed_where_a_parameter_fixes_it_and_nowhere_else() -> None:
    artifact = artifact_with("signal", "anchored_alignment", "feature", 0)
    inputs = {value.name: axes(value) for value in model_of(artifact).graph.input}
    assert inputs == {"features": ("B", 3, 4), "logits": ("B", 3, "C"), "present": ("B", 3)}
    model = model_of(fitted())
    assert {value.name: axes(value) for value in model.graph.input} == {
        **{name: ("B", width) for name, width in zip(NAMES, WIDTHS, strict=True)},
        "present": ("B", 3),
    }
    outputs = {value.name: axes(value) for value in model.graph.output}
    assert outputs["probabilities"] == ("B", 3) and outputs["predicted"] == ("B",)


@pytest.mark.clause("DMS-X-010")
@pytest.mark.parametrize("sizes", [{"b": 1, "d": 1, "c": 1}, {"b": 257, "d": 33, "c": 9}])
def test_one_graph_serves_every_size(sizes: dict[str, int]) -> None:
    artifact, arrays = preset("paper"), batch_of(**sizes)
    found = Session(model_of(artifact).SerializeToString()).run(arrays)
    from dms_spec.types import ModalityBatch

    scheduler = get_backend("numpy").scheduler(artifact.spec)
    wanted = scheduler(ModalityBatch(**arrays)).arrays()
    assert found.keys() == wanted.keys()
    for name, array in wanted.items():
        assert found[name].shape == array.shape, name
        assert found[name].dtype == array.dtype, name
        np.testing.assert_allclose(found[name], array, rtol=2e-4, atol=2e-5, err_msg=name)


@pytest.mark.clause("DMS-X-012")
@pytest.mark.parametrize("artifact", [preset(), fitted()], ids=["scheduler", "heads"])
def test_the_metadata_says_what_it_is(artifact: Artifact) -> None:
    model = model_of(artifact)
    data = metadata(model)
    assert SchedulerSpec.from_json(data[f"{PREFIX}spec"]) == artifact.spec
    assert data[f"{PREFIX}edition"] == EDITION
    assert data[f"{PREFIX}modalities"] == "image,text,audio"
    assert data[f"{PREFIX}present"] == "True where a modality is there"
    assert json.loads(data[f"{PREFIX}parameters"]) == sorted(artifact.parameters)
    assert len(data[f"{PREFIX}parameters_sha256"]) == 64
    assert model.producer_name == "dms-spec"
    stored = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    for name, array in artifact.parameters.items():
        assert np.array_equal(stored[name], array), name


@pytest.mark.parametrize("artifact", [preset("paper"), fitted()], ids=["scheduler", "heads"])
def test_a_graph_has_nothing_but_onnx_in_one_file(artifact: Artifact) -> None:
    """No operators of others, no functions, no subgraphs, no data elsewhere, no copies."""
    model = model_of(artifact)
    assert [entry.domain for entry in model.opset_import] == [""]
    assert {node.domain for node in model.graph.node} == {""}
    assert not model.functions and not model.training_info
    assert not model.graph.sparse_initializer
    assert not any(a.HasField("g") or a.graphs for n in model.graph.node for a in n.attribute)
    assert not any(tensor.external_data for tensor in model.graph.initializer)
    assert "Identity" not in {node.op_type for node in model.graph.node}


def test_exports_are_reproducible() -> None:
    for artifact in (preset("paper"), fitted()):
        one, two = (model_of(artifact).SerializeToString(deterministic=True) for _ in range(2))
        assert one == two


@pytest.mark.parametrize("changes", [{"strict": True}, {"nonfinite": "raise"}], ids=str)
def test_what_a_graph_cannot_refuse_is_left_to_the_caller_with_a_note(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    path = get_exporter("onnx").export(preset(**changes), tmp_path)
    notes = json.loads(path.with_name("verification.json").read_text("utf-8"))["notes"]
    (word,) = changes
    assert any(word in note and "left to the caller" in note for note in notes)
    assert SchedulerSpec.from_json(metadata(onnx.load(path))[f"{PREFIX}spec"]) == (
        preset(**changes).spec
    )


# --------------------------------------------------------------------------------------- opsets


def test_the_ir_versions_are_the_least_that_carry_the_opsets() -> None:
    assert list(IR_VERSIONS) == list(range(18, 27))
    for opset, ir in IR_VERSIONS.items():
        least = helper.find_min_ir_version_for([helper.make_opsetid("", opset)])
        assert ir == least, opset


@pytest.mark.parametrize("opset", IR_VERSIONS)
@pytest.mark.parametrize("artifact", [preset("paper"), fitted()], ids=["scheduler", "heads"])
def test_every_opset_runs_and_says_the_same(artifact: Artifact, opset: int) -> None:
    model = model_of(artifact, opset=opset)
    check_model(model, f"opset {opset}")
    assert model.opset_import[0].version == opset
    assert model.ir_version == IR_VERSIONS[opset]
    if artifact.model:
        table = table_of()
        arrays = {**table.embeddings, "present": table.present}
    else:
        arrays = batch_of()
    found = Session(model.SerializeToString()).run(arrays)
    wanted = Session(model_of(artifact).SerializeToString()).run(arrays)
    for name, array in wanted.items():
        if array.dtype.kind == "f":
            np.testing.assert_allclose(found[name], array, rtol=1e-4, atol=1e-5, err_msg=name)
        else:
            assert np.array_equal(found[name], array), name
    if opset in (18, 26):
        assert verify(model)["opset"] == opset


@pytest.mark.parametrize("opset", [17, 27])
def test_an_opset_outside_the_table_is_not_written(dms: Run, tmp_path: Path, opset: int) -> None:
    args = ("static", "--modalities", "a,b", "-o", tmp_path / "out", "--opset", opset)
    message = dms("export", "onnx", *args).refused(2)
    assert "18 to 26" in message and str(opset) in message
    assert not (tmp_path / "out").exists()


# -------------------------------------------------------------------------------- fitted artifacts


@pytest.mark.clause("DMS-X-011")
@pytest.mark.parametrize("level", LEVELS)
def test_monte_carlo_dropout_survives(level: str) -> None:
    """The masks are constants of the graph, and its uncertainty is NumPy's, bit-identical twice."""
    artifact, table = fitted(level), table_of()
    model = model_of(artifact)
    stored = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    read = {name for node in model.graph.node for name in node.input}
    for name in NAMES:
        masks = f"heads.{name}.dropout.masks"
        assert np.array_equal(stored[masks], artifact.parameters[masks]), name
        assert masks in read
    session = Session(model.SerializeToString())
    arrays = {**table.embeddings, "present": table.present}
    one, two = session.run(arrays), session.run(arrays)
    assert all(one[name].tobytes() == two[name].tobytes() for name in one if name != "predicted")
    wanted = Predictor(artifact, get_backend("numpy")).predict(table)["uncertainty"]
    assert wanted[table.present].min() > 1e-6  # so that there is something to lose
    np.testing.assert_allclose(one["uncertainty"], wanted, rtol=1e-4, atol=1e-7)


@pytest.mark.clause("DMS-X-011")
@pytest.mark.parametrize("passes", [1, 2])
def test_hardly_any_passes(passes: int) -> None:
    """One pass says nothing about variance: it is 0, as everywhere."""
    artifact, table = fitted(passes=passes), table_of()
    model = model_of(artifact)
    check_model(model, "few passes")
    verify(model)
    arrays = {**table.embeddings, "present": table.present}
    found = Session(model.SerializeToString()).run(arrays)["uncertainty"]
    assert (found == 0).all() == (passes == 1)


@pytest.mark.parametrize("classes", [["cat", "dog", "eel"], [-7, 3, 4000000000], [False, True]])
@pytest.mark.parametrize("level", [*LEVELS, *EVIDENCE])
def test_predictions_are_those_of_the_library(level: str, classes: list[Any]) -> None:
    """Classes in their own values; a row with nothing active is the prior's."""
    artifact, table = fitted(level, classes), table_of()
    found = Session(model_of(artifact).SerializeToString()).run(
        {**table.embeddings, "present": table.present}
    )
    wanted = Predictor(artifact, get_backend("numpy")).predict(table)
    assert found.keys() == wanted.keys()
    for name in found.keys() - {"active", "predicted"}:
        np.testing.assert_allclose(found[name], wanted[name], rtol=1e-4, atol=1e-5, err_msg=name)
    assert np.array_equal(found["active"], wanted["active"])
    top = np.sort(wanted["probabilities"], axis=1)[:, -2:]
    clear = top[:, 1] - top[:, 0] > 1e-4
    assert clear.sum() > 30
    assert found["predicted"][clear].tolist() == wanted["predicted"][clear].tolist()
    nothing = ~found["active"].any(axis=1)
    assert nothing[:2].all()
    assert np.allclose(found["probabilities"][nothing], artifact.model["prior"])
    assert set(found["predicted"][nothing].tolist()) == {classes[-1]}


def test_what_is_absent_changes_no_bit(heads: bytes) -> None:
    session, table = Session(heads), table_of()
    results = []
    for filler in (np.nan, np.inf, 3e38, 0.0):
        filled = {
            name: np.where(table.present[:, m, None], array, np.float32(filler))
            for m, (name, array) in enumerate(table.embeddings.items())
        }
        results.append(session.run({**filled, "present": table.present}))
    for other in results[1:]:
        for name in ("probabilities", "weights", "uncertainty", "active"):
            assert other[name].tobytes() == results[0][name].tobytes(), name


def test_parameters_that_no_output_reads_or_that_are_equal_stay() -> None:
    """At the start of learning query and key are the same; a static policy reads no classifier."""
    eye = np.eye(4, dtype=np.float32)
    spec = SchedulerSpec(modalities=NAMES, policy="co_attention")
    twins = Artifact(spec=spec, parameters={"policy.query": eye, "policy.key": eye})
    idle = replace(fitted(), spec=SchedulerSpec.preset("static", NAMES))
    for artifact, opset in itertools.product((twins, idle), (18, 21, 26)):
        model = model_of(artifact, opset=opset)
        check_model(model, "parameters")
        verify(model)


# ------------------------------------------------------------------------------------ strangers

PLUGIN = """
    from dms_spec import Descriptor, hookimpl

    def loudness(ns, evidence, *, power: float = 1.0):
        return ns.xp.mean(ns.xp.abs(evidence.features) ** power, axis=-1)

    def loudest(ns, given, *, gain: float = 1.0):
        loud = gain * given.signals["loudness"]
        return {"loud": loud, "modest": -ns.xp.tanh(loud)}

    def signal():
        from dms_spec.interface.signal import Signal
        return Signal(name="loudness", function=loudness, needs=("features",), direction=1,
                      source="here", bounds="[0, inf)")

    def policy():
        from dms_spec.interface.policy import Policy
        return Policy(name="loudest", function=loudest, source="here", uses_signals=True)

    @hookimpl
    def dms_register_signals():
        return [Descriptor(name="loudness", load=signal)]

    @hookimpl
    def dms_register_policies():
        return [Descriptor(name="loudest", load=policy)]
    """
PROJECT = """
    [build-system]
    requires = ["hatchling"]
    build-backend = "hatchling.build"
    [project]
    name = "dms-loud"
    version = "1.0"
    [project.entry-points.dms_spec]
    loud = "loud"
    [tool.hatch.build.targets.wheel]
    only-include = ["loud.py"]
    """
LOUD = {
    "modalities": list(NAMES),
    "policy": "loudest",
    "policy_options": {"gain": 2.0},
    "signals": {"loudness": {"power": 2.0}},
}


@pytest.mark.clause("DMS-X-014")
def test_a_strangers_signal_and_policy_are_exported(
    spawn: Run, build_wheels: Run, install: Run, tmp_path: Path
) -> None:
    """Installed with pip, not a line about ONNX: a verified file that computes what they say."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "loud.py").write_text(dedent(PLUGIN), encoding="utf-8")
    (source / "pyproject.toml").write_text(dedent(PROJECT), encoding="utf-8")
    folder = install(tmp_path / "installed", build_wheels(tmp_path / "wheels", [source]))
    (tmp_path / "spec.json").write_text(json.dumps(LOUD), encoding="utf-8")
    args = ("-m", "dms_spec", "export", "onnx", tmp_path / "spec.json", "-o", tmp_path / "out")
    env = {"PYTHONPATH": str(folder)}
    spawn(*args, env=env).succeeded()
    path = tmp_path / "out" / "onnx" / "model.onnx"
    spawn("-m", "dms_spec", "verify", path, env=env).succeeded()
    arrays = batch_of(("features", "present"))
    found = Session.load(path).run(arrays)
    loudness = np.where(arrays["present"], (arrays["features"] ** 2).mean(axis=-1), 0)
    e = np.where(arrays["present"], np.exp(2 * loudness - np.tanh(2 * loudness)), 0)
    np.testing.assert_allclose(found["loudness"], loudness, rtol=1e-5)
    weights = e / np.maximum(e.sum(axis=1, keepdims=True), 1e-9)
    np.testing.assert_allclose(found["weights"], weights, rtol=1e-5, atol=1e-6)
    # Where the plugin is not installed, the file still runs, and verify says what is missing.
    done = spawn("-m", "dms_spec", "verify", path)
    assert "'loudest'" in done.refused(2)


def _plain(ns: Any, given: Any) -> Any:
    return {"x": ns.xp.sum(given.evidence.features, axis=-1)}


def _float(ns: Any, given: Any) -> Any:
    return {"x": given.evidence.features[..., 0] * float(given.evidence.features[0, 0, 0])}


def _branch(ns: Any, given: Any) -> Any:
    x = given.evidence.features[..., 0]
    return {"x": x if ns.xp.sum(x, axis=0)[0] > 0 else -x}


def _numpy(ns: Any, given: Any) -> Any:
    return {"x": np.exp(given.evidence.features[..., 0])}


def _to_numpy(ns: Any, given: Any) -> Any:
    return {"x": np.asarray(given.evidence.features, dtype=float)[..., 0]}


def _loop(ns: Any, given: Any) -> Any:
    features = given.evidence.features
    return {"x": sum(features[b] for b in range(features.shape[0]))[None, :, 0]}


def _item(ns: Any, given: Any) -> Any:
    return {"x": given.evidence.features[..., 0] * given.evidence.features.max().item()}


def _crash(ns: Any, given: Any) -> Any:
    raise KeyError("the moon")


@pytest.mark.clause("DMS-X-014")
@pytest.mark.parametrize(
    "function", [_float, _branch, _numpy, _to_numpy, _loop, _item, _crash], ids=lambda f: f.__name__
)
def test_what_cannot_be_traced_is_refused(
    dms: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: Any
) -> None:
    """A policy that looks at values: named, with the reason, and nothing written."""
    stranger = Policy(name="odd", function=function, source="here", needs=("features",))
    monkeypatch.setitem(registry._loaded, ("policy", "odd"), stranger)
    artifact = Artifact(spec=SchedulerSpec(modalities=NAMES, policy="odd"))
    with pytest.raises(SpecError, match="'odd'") as caught:
        get_exporter("onnx").export(artifact, tmp_path / "out")
    assert "cannot be traced" in str(caught.value)
    assert "look at no value" in caught.value.fix
    assert not (tmp_path / "out").exists()
    (tmp_path / "spec.json").write_text(artifact.spec.to_json(), encoding="utf-8")
    args = ("export", "onnx", tmp_path / "spec.json", "-o", tmp_path / "out")
    assert "cannot be traced" in dms(*args).refused(2)
    fine = Policy(name="odd", function=_plain, source="here", needs=("features",))
    monkeypatch.setitem(registry._loaded, ("policy", "odd"), fine)
    dms(*args).succeeded()


def test_a_plugin_that_computes_something_else_when_traced_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Verification holds a stranger to NumPy's float64, not to what was traced."""

    def sly(ns: Any, given: Any) -> Any:
        total = ns.xp.sum(given.evidence.features, axis=-1)
        return {"x": total if isinstance(total, np.ndarray) else total * 1.001}

    stranger = Policy(name="sly", function=sly, source="here", needs=("features",))
    monkeypatch.setitem(registry._loaded, ("policy", "sly"), stranger)
    artifact = Artifact(spec=SchedulerSpec(modalities=NAMES, policy="sly"))
    with pytest.raises(VerificationError, match="computes something else"):
        get_exporter("onnx").export(artifact, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "name", ["present", "weights", "predicted", "confidence", "Add_1_C", "head.bias", "B", "a b/é"]
)
def test_a_modality_may_be_called_anything_or_is_refused(tmp_path: Path, name: str) -> None:
    """With heads its name is an input's: never a crash, never a file that is wrong."""
    good = fitted()
    names = (name, *NAMES[1:])
    parameters = {key.replace(".image.", f".{name}."): a for key, a in good.parameters.items()}
    spec = good.spec.replace(modalities=names)
    artifact = Artifact(spec=spec, parameters=parameters, model=good.model)
    if name in ("B", "a b/é"):
        path = get_exporter("onnx").export(artifact, tmp_path)
        assert names == tuple(value.name for value in onnx.load(path).graph.input)[:3]
    else:
        with pytest.raises(SpecError, match=name):
            get_exporter("onnx").export(artifact, tmp_path)
        assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------------ tampering


def _initializer(model: Model, name: str) -> Any:
    return next(tensor for tensor in model.graph.initializer if tensor.name == name)


def _rewire(model: Model, name: str, other: str) -> None:
    """Whoever read one value reads another."""
    for node in model.graph.node:
        node.input[:] = [other if value == name else value for value in node.input]


def _produce(model: Model, output: str, op: str, *inputs: str, **attributes: Any) -> None:
    """The output goes through one more node: its own value comes under the name ``_own``."""
    for node in model.graph.node:
        node.output[:] = ["_own" if value == output else value for value in node.output]
        node.input[:] = ["_own" if value == output else value for value in node.input]
    model.graph.node.append(helper.make_node(op, [*inputs], [output], **attributes))


def _add(model: Model, name: str, array: np.ndarray) -> None:
    model.graph.initializer.append(numpy_helper.from_array(array, name))


def _remove_input(model: Model, name: str) -> None:
    (value,) = (value for value in model.graph.input if value.name == name)
    model.graph.input.remove(value)


def _set_metadata(model: Model, key: str, value: str) -> None:
    for entry in model.metadata_props:
        if entry.key == f"{PREFIX}{key}":
            entry.value = value


def mask_is_a_constant(model: Model) -> None:
    _remove_input(model, "present")
    _add(model, "present", np.ones((1, 3), dtype=bool))


def mask_is_unread(model: Model) -> None:
    _add(model, "_all", np.ones((1, 3), dtype=bool))
    _rewire(model, "present", "_all")


def mask_is_read_for_nothing(model: Model) -> None:
    """Read by a node, which is read by nobody."""
    mask_is_unread(model)
    model.graph.node.append(helper.make_node("Not", ["present"], ["_idle"]))


def mask_is_overruled(model: Model) -> None:
    """It reaches every output and changes none."""
    _add(model, "_all", np.ones((1, 3), dtype=bool))
    _rewire(model, "present", "_overruled")
    node = helper.make_node("Or", ["present", "_all"], ["_overruled"])
    model.graph.node.insert(0, node)


def uncertainty_is_zero(model: Model) -> None:
    _add(model, "_zero", np.zeros((), dtype=np.float32))
    _produce(model, "uncertainty", "Mul", "_own", "_zero")


def masks_are_ones(model: Model) -> None:
    masks = _initializer(model, "heads.text.dropout.masks")
    ones = np.ones_like(numpy_helper.to_array(masks))
    masks.CopyFrom(numpy_helper.from_array(ones, masks.name))


def masks_are_bypassed(model: Model) -> None:
    """The stored ones are as they were; the graph reads others."""
    shape = numpy_helper.to_array(_initializer(model, "heads.text.dropout.masks")).shape
    _add(model, "_ones", np.ones(shape, dtype=np.float32))
    _rewire(model, "heads.text.dropout.masks", "_ones")


def _freeze(axis: str, size: int) -> Callable[[Model], None]:
    def change(model: Model) -> None:
        for value in (*model.graph.input, *model.graph.output):
            for dim in value.type.tensor_type.shape.dim:
                if dim.dim_param == axis:
                    dim.dim_value = size

    return change


def batch_is_unnamed(model: Model) -> None:
    for value in (*model.graph.input, *model.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param == "B":
                dim.Clear()


def opset_too_new(model: Model) -> None:
    model.opset_import[0].version = 27


def opset_too_old(model: Model) -> None:
    model.opset_import[0].version = 17


def ir_too_new(model: Model) -> None:
    model.ir_version = 11


def weight_is_changed(model: Model) -> None:
    tensor = _initializer(model, "heads.audio.classifier.weight")
    array = numpy_helper.to_array(tensor).copy()
    array[0, 0] = np.nextafter(array[0, 0], np.float32(9))
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def output_is_renamed(model: Model) -> None:
    for node in model.graph.node:
        node.output[:] = ["trust" if value == "weights" else value for value in node.output]
    _rewire(model, "weights", "trust")
    for value in model.graph.output:
        if value.name == "weights":
            value.name = "trust"


def output_is_lost(model: Model) -> None:
    (value,) = (value for value in model.graph.output if value.name == "uncertainty")
    model.graph.output.remove(value)


def weights_are_off(model: Model) -> None:
    _add(model, "_more", np.array(1.0001, dtype=np.float32))
    _produce(model, "weights", "Mul", "_own", "_more")


def weights_are_rounded(model: Model) -> None:
    """Through half precision, and declared as such: half the digits are lost."""
    _produce(model, "weights", "Cast", "_own", to=onnx.TensorProto.FLOAT16)
    for value in model.graph.output:
        if value.name == "weights":
            value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16


def weights_are_swapped(model: Model) -> None:
    _add(model, "_order", np.array([1, 0, 2], dtype=np.int64))
    _produce(model, "weights", "Gather", "_own", "_order", axis=1)


def another_spec(model: Model) -> None:
    spec = json.loads(metadata(model)[f"{PREFIX}spec"])
    spec["coefficients"] |= {"confidence": 3.99}
    _set_metadata(model, "spec", json.dumps(spec))


def another_level(model: Model) -> None:
    spec = json.loads(metadata(model)[f"{PREFIX}spec"])
    other = {"probability": "logit", "logit": "probability"}[spec["fusion"]]
    _set_metadata(model, "spec", json.dumps(spec | {"fusion": other}))


def another_prior(model: Model) -> None:
    about = json.loads(metadata(model)[f"{PREFIX}model"])
    about["prior"] = about["prior"][::-1]
    _set_metadata(model, "model", json.dumps(about))


def another_class(model: Model) -> None:
    about = json.loads(metadata(model)[f"{PREFIX}model"])
    about["classes"][0] = "cow"
    _set_metadata(model, "model", json.dumps(about))


def hash_is_another(model: Model) -> None:
    _set_metadata(model, "parameters_sha256", "0" * 64)


TAMPERED: list[tuple[str, Callable[[Model], None], list[str]]] = [
    ("rule", mask_is_a_constant, ["'present' was lost"]),
    ("rule", mask_is_unread, ["present", "reach an output"]),
    ("rule", mask_is_read_for_nothing, ["present", "reach an output"]),
    ("rule", mask_is_overruled, ["something else", "missing at random"]),
    ("rule", _freeze("C", 3), ["size C", "frozen at 3"]),
    ("rule", _freeze("T", 4), ["size T", "frozen at 4"]),
    ("rule", _freeze("B", 1), ["size B", "frozen at 1"]),
    ("rule", batch_is_unnamed, ["size B"]),
    ("rule", opset_too_new, ["opset is too new", "27"]),
    ("rule", opset_too_old, ["opset is too old", "17"]),
    ("rule", ir_too_new, ["IR version", "11"]),
    ("rule", uncertainty_is_zero, ["uncertainty is off"]),
    ("rule", output_is_renamed, ["'weights' was lost"]),
    ("rule", output_is_lost, ["'uncertainty' was lost"]),
    ("rule", weights_are_off, ["weights is off"]),
    ("rule", weights_are_rounded, ["'weights'", "float16"]),
    ("rule", weights_are_swapped, ["weights is off"]),
    ("rule", another_spec, ["is off", "eps of its scale"]),
    ("rule", another_level, ["fused is off"]),
    ("rule", hash_is_another, ["0000", "SHA-256"]),
    ("heads", mask_is_a_constant, ["'present' was lost"]),
    ("heads", mask_is_read_for_nothing, ["present", "reach an output"]),
    ("heads", mask_is_overruled, ["something else", "missing at random"]),
    ("heads", uncertainty_is_zero, ["uncertainty is off"]),
    ("heads", masks_are_ones, ["SHA-256", "parameters are not those"]),
    ("heads", masks_are_bypassed, ["is off", "eps of its scale"]),
    ("heads", _freeze("B", 6), ["size B", "frozen at 6"]),
    ("heads", weight_is_changed, ["SHA-256"]),
    ("heads", another_prior, ["probabilities is off"]),
    ("heads", another_class, ["another class"]),
]


@pytest.mark.clause("DMS-X-009", "DMS-X-010", "DMS-X-011", "DMS-X-012")
@pytest.mark.parametrize(
    ("which", "change", "words"),
    TAMPERED,
    ids=[f"{which}-{k}-{change.__name__}" for k, (which, change, _) in enumerate(TAMPERED)],
)
def test_a_changed_file_is_refused_with_the_reason(
    dms: Run, tmp_path: Path, request: Any, which: str, change: Any, words: list[str]
) -> None:
    model = onnx.load_from_string(request.getfixturevalue(which))
    change(model)
    path = tmp_path / "changed.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(VerificationError) as caught:
        get_exporter("onnx").verify(path)
    message = dms("verify", path).refused(3)
    assert message == f"dms: {caught.value}"
    for word in words:
        assert word in message


def test_a_file_that_says_nothing_of_itself_is_not_ours(
    dms: Run, tmp_path: Path, rule: bytes
) -> None:
    model = onnx.load_from_string(rule)
    del model.metadata_props[:]
    (tmp_path / "bare.onnx").write_bytes(model.SerializeToString())
    message = dms("verify", tmp_path / "bare.onnx").refused(2)
    assert "not exported by dms-spec" in message and "no metadata" in message


def test_the_files_that_are_changed_above_are_good_before(dms: Run, rule: bytes) -> None:
    """Else refusing them would prove nothing."""
    verify(onnx.load_from_string(rule))
    verify(model_of(fitted()))


# ------------------------------------------------------------------- wrong primitives are caught


def _wrong_softmax(logits: Any, axis: int = -1) -> Any:
    return namespace.wrap(namespace.op.softmax(namespace.var(logits), axis=1))


def _variance_without_mean(mc_logits: Any) -> Any:
    p = namespace.op.softmax(namespace.var(mc_logits), axis=-1)
    squares = namespace.op.reduce_sum(namespace.op.mul(p, p), namespace.integers(-1), keepdims=0)
    return namespace.wrap(namespace.op.reduce_mean(squares, namespace.integers(0), keepdims=0))


def _sample_variance(mc_logits: Any) -> Any:
    right = RIGHT["variance_over_passes"](mc_logits)
    passes = namespace.op.cast(
        namespace.op.shape(namespace.var(mc_logits), start=0, end=1), to=np.float32
    )
    one = namespace.op.const(np.float32(1))
    factor = namespace.op.div(passes, namespace.op.max([namespace.op.sub(passes, one), one]))
    return right * namespace.wrap(factor)


def _negative_entropy(logits: Any) -> Any:
    return -RIGHT["entropy"](logits)


def _unmasked_softmax(scores: Any, active: Any) -> Any:
    return namespace.wrap(namespace.op.softmax(namespace.var(scores)))


def _unselected_softmax(scores: Any, active: Any) -> Any:
    """Right but for the rows in which nothing is active."""
    v = namespace.var
    masked = namespace.op.where(v(active), v(scores), v(-np.inf, scores))
    return namespace.wrap(namespace.op.softmax(masked))


def _plain_dot(left: Any, right: Any) -> Any:
    return namespace.array_api.sum(left * right, axis=-1)


def _clip_high(values: Any, low: float, high: float) -> Any:
    return RIGHT["clip"](values, low, high * 0.9)


RIGHT = {
    name: getattr(namespace, name)
    for name in ("softmax", "variance_over_passes", "entropy", "masked_softmax", "cosine", "clip")
}
WRONG = [
    ("rule", "softmax", _wrong_softmax),
    ("rule", "variance_over_passes", _variance_without_mean),
    ("rule", "variance_over_passes", _sample_variance),
    ("rule", "entropy", _negative_entropy),
    ("rule", "masked_softmax", _unmasked_softmax),
    ("rule", "masked_softmax", _unselected_softmax),
    ("rule", "clip", _clip_high),
    ("paper", "cosine", _plain_dot),
    ("paper", "clip", _clip_high),
]


@pytest.mark.clause("DMS-X-008")
@pytest.mark.parametrize(
    ("name", "primitive", "wrong"), WRONG, ids=[f"{n}-{w.__name__}" for n, _, w in WRONG]
)
def test_nothing_is_written_where_the_graph_is_wrong(
    dms: Run,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    primitive: str,
    wrong: Any,
) -> None:
    """One primitive at a time broken in the way that one breaks it: caught, and nothing on disk."""
    monkeypatch.setattr(namespace, primitive, wrong)
    with pytest.raises(VerificationError):
        get_exporter("onnx").export(preset(name), tmp_path)
    assert list(tmp_path.iterdir()) == []
    spec = tmp_path_factory.mktemp("spec") / "spec.json"
    spec.write_text(preset(name).spec.to_json(), encoding="utf-8")
    args = ("export", "onnx", spec, "-o", tmp_path / "out")
    assert "computes something else" in dms(*args).refused(3)
    assert list(tmp_path.iterdir()) == []


def test_an_earlier_export_survives_one_that_fails(
    dms: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    args = ("export", "onnx", "robust", "--modalities", "a,b,c", "-o", tmp_path, "--overwrite")
    dms(*args).succeeded()
    before = (tmp_path / "onnx" / "model.onnx").read_bytes()
    monkeypatch.setattr(namespace, "masked_softmax", _unmasked_softmax)
    dms(*args).refused(3)
    assert (tmp_path / "onnx" / "model.onnx").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["onnx"]


# -------------------------------------------------------------------------------- command line


@pytest.mark.clause("DMS-X-008")
def test_the_verbs_export_and_verify(dms: Run, tmp_path: Path) -> None:
    """One folder with two files; the verification says what was asked and how close it came."""
    args = ("export", "onnx", "paper", "--modalities", "image, text, audio", "-o", tmp_path)
    text = dms(*args).succeeded()
    folder = tmp_path / "onnx"
    assert sorted(path.name for path in folder.iterdir()) == ["model.onnx", "verification.json"]
    for word in ("features float32 [B, 3, D]", "weights", "onnxruntime", "opset 21", "wrote"):
        assert word in text
    report = json.loads((folder / "verification.json").read_text("utf-8"))
    content = (folder / "model.onnx").read_bytes()
    assert report["bytes"] == len(content)
    assert report["opset"] == 21 and report["ir_version"] == 10
    assert report["edition"] == EDITION and report["policy"] == "linear"
    assert report["batches"] >= 10 and report["allowed"] == 8
    assert set(report["errors"]) == {"onnx", "onnxruntime"}
    assert set(report["versions"]) >= {"dms-spec", "python", "numpy", "onnx", "onnxruntime"}
    import hashlib

    assert report["sha256"] == hashlib.sha256(content).hexdigest()
    text = dms("verify", folder / "model.onnx").succeeded()
    assert "is what it says it is" in text
    again = json.loads(dms("verify", folder / "model.onnx", "--json").succeeded())
    assert again.keys() == report.keys()
    assert again["inputs_sha256"] == report["inputs_sha256"]
    assert again["sha256"] == report["sha256"]


def test_a_fitted_artifact_is_exported_into_its_own_folder(dms: Run, tmp_path: Path) -> None:
    folder = tmp_path / "artifact"
    save_artifact(folder, fitted())
    before = {path.name for path in folder.iterdir()}
    report = json.loads(dms("export", "onnx", folder, "-o", folder, "--json").succeeded())
    assert {path.name for path in folder.iterdir()} == before | {"onnx"}
    assert report["output"] == str(folder / "onnx" / "model.onnx")
    assert [value["name"] for value in report["inputs"]] == [*NAMES, "present"]
    dms("verify", folder / "onnx" / "model.onnx").succeeded()


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_dtype_and_opset_are_chosen(dms: Run, tmp_path: Path, dtype: str) -> None:
    args = ("static", "--modalities", "a,b", "-o", tmp_path, "--dtype", dtype, "--opset", 18)
    report = json.loads(dms("export", "onnx", *args, "--json").succeeded())
    assert report["dtype"] == dtype and report["opset"] == 18 and report["ir_version"] == 8


def test_an_export_is_replaced_only_when_asked(dms: Run, tmp_path: Path) -> None:
    args = ("export", "onnx", "static", "--modalities", "a,b", "-o", tmp_path)
    dms(*args).succeeded()
    before = (tmp_path / "onnx" / "model.onnx").read_bytes()
    message = dms(*args, "--opset", 20).refused(2)
    assert "exists already" in message and "--overwrite" in message
    assert (tmp_path / "onnx" / "model.onnx").read_bytes() == before
    dms(*args, "--opset", 20, "--overwrite").succeeded()
    assert onnx.load(tmp_path / "onnx" / "model.onnx").opset_import[0].version == 20
    with pytest.raises(FileError, match="exists already"):
        get_exporter("onnx").export(preset(), tmp_path)


@pytest.mark.parametrize(
    ("args", "word"),
    [
        (("export", "onxn", "static", "--modalities", "a,b"), "'onnx'"),
        (("export", "onnx", "static"), "--modalities"),
        (("export", "onnx", "sttaic"), "'static'"),
        (("export", "onnx", "static", "--modalities", "a,a"), "each once"),
        (("export", "onnx", "static", "--modalities", "a", "--dtype", "bfloat16"), "float16"),
        (("export", "onnx", "static", "--modalities", "a", "--dtype", "float64"), "float32"),
        (("export", "onnx", "nowhere.json"), "nowhere.json"),
    ],
    ids=lambda value: " ".join(value[1:]) if isinstance(value, tuple) else "",
)
def test_a_bad_option_is_one_message_and_nothing_left(
    dms: Run, tmp_path: Path, args: tuple[Any, ...], word: str
) -> None:
    assert word in dms(*args, "-o", tmp_path / "out").refused(2)
    assert list(tmp_path.iterdir()) == []


def test_a_misspelt_option_of_the_library_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="opsett"):
        get_exporter("onnx").export(preset(), tmp_path, opsett=21)
    with pytest.raises(UnsupportedCapability, match="float64") as caught:
        get_exporter("onnx").export(preset(), tmp_path, dtype="float64")
    assert caught.value.capability == "dtype:float64"


def test_an_artifact_that_is_not_whole_is_refused(dms: Run, tmp_path: Path) -> None:
    good = fitted()
    some = {k: v for k, v in good.parameters.items() if "audio" not in k}
    for name, artifact in {
        "lacking": Artifact(spec=good.spec, parameters=some, model=good.model),
        "classes": replace(good, model={**good.model, "classes": ["a", "b"]}),
        "modelless": replace(good, model={}),
    }.items():
        save_artifact(tmp_path / name, artifact)
        dms("export", "onnx", tmp_path / name, "-o", tmp_path / "out").refused(2)
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("what", ["missing", "folder", "of no kind", "named onnx"])
def test_a_path_that_is_no_exported_file_is_refused(dms: Run, tmp_path: Path, what: str) -> None:
    path = tmp_path / ("model.onnx" if what in ("missing", "named onnx") else "model")
    if what in ("folder", "named onnx"):
        path.mkdir()
    message = dms("verify", path).refused(2)
    assert str(path) in message
    with pytest.raises(DMSError):
        read_model(path)


def test_without_onnx_runtime_it_says_that_one_runtime_was_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from dms_onnx import verify as module

    monkeypatch.setattr(module, "available", lambda kind: ("numpy",))
    report = verify(model_of(preset("static")))
    assert set(report["errors"]) == {"onnx"}
    assert any("not installed" in note for note in report["notes"])


def test_the_graph_runs_in_the_reference_evaluator_alone(rule: bytes) -> None:
    """What ONNX itself says that the operators mean, is what the runtime computes."""
    arrays = batch_of(("logits", "mc_logits", "present"))
    evaluator = ReferenceEvaluator(onnx.load_from_string(rule))
    found = dict(zip(evaluator.output_names, evaluator.run(None, arrays), strict=True))
    for name, array in Session(rule).run(arrays).items():
        np.testing.assert_allclose(found[name], array, rtol=1e-5, atol=1e-6, err_msg=name)


def test_a_signal_of_ones_own_beside_those_of_the_core(monkeypatch: pytest.MonkeyPatch) -> None:
    """With parameters of its own, and weighed by a learned policy."""

    def slope(ns: Any, evidence: Any) -> Any:
        return ns.xp.tanh(ns.xp.matmul(evidence.features, evidence.parameters["direction"]))

    stranger = Signal(
        name="slope",
        function=slope,
        needs=("features",),
        direction=-1,
        source="here",
        bounds="[-1, 1]",
        parameters={"direction": "D"},
    )
    monkeypatch.setitem(registry._loaded, ("signal", "slope"), stranger)
    parameters = draw_parameters(dict(get_policy("monotone").parameters), "policy")
    parameters |= draw_parameters({"direction": "D"}, "signals.slope")
    spec = SchedulerSpec(
        modalities=NAMES,
        policy="monotone",
        signals={"slope": {}, "confidence": {}},
        coefficients={"slope": 1.0, "confidence": 1.0},
    )
    model = model_of(Artifact(spec=spec, parameters=parameters))
    check_model(model, "slope")
    verify(model)
    arrays = batch_of(("features", "logits", "present"))
    found = Session(model.SerializeToString()).run(arrays)["slope"]
    wanted = np.tanh(arrays["features"] @ parameters["signals.slope.direction"])
    np.testing.assert_allclose(found, np.where(arrays["present"], wanted, 0), rtol=1e-5, atol=1e-6)
