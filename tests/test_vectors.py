"""Golden vectors: up to date, strict to read, and held to by all that claim to conform."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping
from importlib.resources import files
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from dms_spec import errors
from dms_spec.conformance import worked_example
from dms_spec.conformance.clauses import clauses
from dms_spec.conformance.context import ConformanceError
from dms_spec.conformance.vectors import (
    Vector,
    freeze,
    from_json,
    hold,
    read_vectors,
    to_json,
    write_vector,
)
from dms_spec.errors import (
    DTypeError,
    FileError,
    MissingInput,
    ShapeError,
    SpecError,
    UnknownName,
)
from dms_spec.interface.backend import Predictive
from dms_spec.plugins import available, get_backend
from dms_spec.spec import SchedulerSpec
from dms_spec.types import ModalityBatch

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "dms_spec" / "conformance" / "vectors"
CORE = sorted(path.name for path in FOLDER.glob("*.json"))
HEADS = "heads/d_heads.json"
NAMES = [*CORE, HEADS]

# Specs of two modalities that weigh alignment warn, as they should, and so does what is not fitted.
pytestmark = pytest.mark.filterwarnings(
    "ignore:signal .* is equal for both:dms_spec.errors.DMSWarning",
    "ignore:.* has no parameters and (is|takes):dms_spec.errors.DMSWarning",
)


def compute(backend: str, vector: Vector) -> Mapping[str, Any]:
    """What a backend makes of a vector."""
    found = get_backend(backend)
    device = found.check_device(None)
    if vector.heads:
        assert isinstance(found, Predictive)
        rows = found.row_predictor(vector.artifact, device)
        given = vector.heads.embeddings, vector.arrays["present"]
        schedule, probabilities = rows.predict(*given)
        own = {"probabilities": probabilities, "unimodal": rows.unimodal(*given)}
        return {**schedule.arrays(), **own}
    batch = ModalityBatch(**{k: found.from_numpy(a, device) for k, a in vector.arrays.items()})
    scheduler = found.scheduler(vector.spec, vector.parameters, device=device)
    return scheduler(batch).converted(found.to_numpy).arrays()


def held(backend: str, vector: Vector) -> None:
    """Hold a backend to a vector, refusals included."""
    if vector.refusal:
        with pytest.raises(getattr(errors, vector.refusal)):
            compute(backend, vector)
    else:
        hold(vector, compute(backend, vector))


# ------------------------------------------------------------------------------------- the files


@pytest.fixture(scope="module")
def built() -> dict[str, str]:
    path = ROOT / "docs" / "spec" / "build_vectors.py"
    spec = importlib.util.spec_from_file_location("build_vectors", path)
    assert spec and spec.loader
    module: ModuleType = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up by name
    spec.loader.exec_module(module)
    return module.build()


def test_there_is_a_file_for_each_topic(built: dict[str, str]) -> None:
    assert sorted(built) == sorted(NAMES), "run: make vectors"
    there = [path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("*.json")]
    assert sorted(there) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_the_files_are_up_to_date(built: dict[str, str], name: str) -> None:
    text = (FOLDER / name).read_text(encoding="utf-8")
    if text == built[name]:
        return
    # Another machine's exp and log may differ in the last bits; nothing else may.
    old, new = from_json(text), from_json(built[name])
    assert _without_numbers(text) == _without_numbers(built[name]), "run: make vectors"
    for one, other in zip(old, new, strict=True):
        for output, expected in one.expected.items():
            again = other.expected[output]
            # A tenth of an eps of the scale, where there is one.
            slack = 0.1 * np.finfo(np.float64).eps * np.minimum(expected.scale, 1e300)
            off = np.where(expected.values == again.values, 0, expected.values - again.values)
            assert (np.abs(off) <= 20 * slack).all(), "run: make vectors"
            np.testing.assert_allclose(expected.scale, again.scale, rtol=0.01)


def _without_numbers(text: str) -> Any:
    """A file without the numbers that the oracle computed."""
    data = json.loads(text)
    for vector in data["vectors"]:
        vector["expected"] = {k: x["shape"] for k, x in vector["expected"].items()}
    return data


@pytest.mark.parametrize("name", NAMES)
def test_reading_and_writing_lose_nothing(name: str) -> None:
    text = (FOLDER / name).read_text(encoding="utf-8")
    assert to_json(from_json(text)) == text


def test_the_files_are_small() -> None:
    assert sum((FOLDER / name).stat().st_size for name in CORE) < 500_000
    assert (FOLDER / HEADS).stat().st_size < 100_000
    for vector in read_vectors():
        sizes = {name: array.shape for name, array in vector.arrays.items()}
        batch, modalities = vector.active.shape
        assert batch <= 3 and modalities <= 8
        assert all(shape[-1] <= 5 for name, shape in sizes.items() if name != "present")
        assert sizes.get("mc_logits", (0,))[0] <= 3


#: Clauses of the families that vectors are for whose content is no value of one result.
NO_VALUE = {
    "DMS-L-004": "a law about two results",
    "DMS-F-010": "a law about two results",
    "DMS-L-012": "a law about two policies",
    "DMS-L-011": "about specs that are refused",
    "DMS-N-003": "about comparing",
    "DMS-N-005": "about half precision, which the files leave out",
    "DMS-N-006": "a permission",
    "DMS-Q-011": "about registered signals",
    "DMS-Q-012": "about registered signals",
}


def test_every_clause_about_values_is_covered_in_both_dtypes() -> None:
    wanted = {name for name in clauses() if name[4] in "PWQLFN"} - set(NO_VALUE)
    wanted |= {"DMS-A-007", "DMS-A-008", "DMS-S-001", "DMS-S-007"}
    for dtype in ("float64", "float32"):
        found = {c for vector in read_vectors() if vector.dtype == dtype for c in vector.clauses}
        assert found == wanted


def test_what_heads_give_is_covered_in_both_dtypes() -> None:
    wanted = {f"DMS-D-{number:03d}" for number in (1, 2, 4, 7, 8, 11, 12, 13)}
    for dtype in ("float64", "float32"):
        vectors = [vector for vector in read_vectors(level="heads") if vector.dtype == dtype]
        found = {clause for vector in vectors for clause in vector.clauses}
        assert wanted <= found


def test_vectors_of_no_level_are_refused() -> None:
    with pytest.raises(SpecError, match="no such level"):
        read_vectors(level="all")
    with pytest.raises(SpecError, match="no heads"):
        _ = read_vectors()[0].artifact


@pytest.mark.parametrize("change", [{"dropout": "0x1p+0"}, {"prior": None}, {"embeddings": {}}])
def test_damaged_heads_are_refused(change: dict[str, Any]) -> None:
    data = json.loads((FOLDER / HEADS).read_text(encoding="utf-8"))
    data["vectors"][0]["heads"] |= change
    with pytest.raises(FileError):
        from_json(json.dumps(data))


@pytest.mark.parametrize("name", ["probabilities", "unimodal"])
def test_wrong_class_probabilities_are_noticed(name: str) -> None:
    vector = next(v for v in read_vectors(level="heads") if name in v.expected)
    outputs = {k: np.array(v) for k, v in compute("numpy", vector).items()}
    hold(vector, outputs)
    outputs[name].flat[0] += 1e-4
    with pytest.raises(ConformanceError, match=f"DMS-D-011: {name}"):
        hold(vector, outputs)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("backend", available("backend"))
def test_every_backend_holds(backend: str, name: str) -> None:
    claims = get_backend(backend).capabilities
    for vector in read_vectors(FOLDER / name):
        if vector.dtype in claims.dtypes and vector.spec.policy in (
            claims.policies or vector.spec.policy
        ):
            held(backend, vector)


# ----------------------------------------------------------------------------- making and holding


def example(dtype: str = "float64", **changes: Any) -> Vector:
    return freeze(
        worked_example.SPEC.replace(**changes),
        worked_example.arrays(dtype),
        {},
        clause="DMS-A-007 DMS-W-002",
        description="the worked example",
        dtype=dtype,
    )


def test_a_vector_is_a_copy_of_its_case() -> None:
    arrays = worked_example.arrays()
    vector = freeze(
        worked_example.SPEC, arrays, {}, clause="DMS-A-007", description="a\nb", dtype="float64"
    )
    arrays["features"][:] = 0
    assert vector.arrays["features"].any()
    assert vector.description == "a b"
    assert (vector.computing, vector.eps) == ("float64", 2.0**-52)


@pytest.mark.parametrize("fusion", ["feature", "logit", "probability"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_frozen_too(dtype: str, fusion: str) -> None:
    """As a failing case may come in it; fused is rounded once more, and that is allowed."""
    pytest.importorskip("ml_dtypes")
    pytest.importorskip("torch")
    vector = example(dtype, fusion=fusion)
    assert vector.eps == 2.0**-23
    assert vector.expected["fused"].allowance.any()
    assert not vector.expected["weights"].allowance.any()
    (again,) = from_json(to_json([vector]))
    assert again.arrays["features"].dtype.name == dtype
    held("torch", again)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"clause": "DMS-A-999"}, UnknownName),
        ({"clause": ""}, SpecError),
        ({"dtype": "int8"}, SpecError),
        ({"arrays": {}}, MissingInput),
        ({"arrays": {"features": np.ones((1, 3, 2))}}, MissingInput),
        ({"arrays": {"features": np.ones((1, 2, 2)), "logits": np.ones((1, 2, 2))}}, ShapeError),
        ({"arrays": {"features": np.ones((1, 3)), "logits": np.ones((1, 3, 2))}}, ShapeError),
        ({"arrays": {"features": np.ones((1, 3, 2), int)}}, DTypeError),
        ({"spec": SchedulerSpec(modalities=("a", "b", "c"), policy="my_own")}, SpecError),
    ],
)
def test_what_cannot_be_frozen(changes: dict[str, Any], error: type[Exception]) -> None:
    given = {"clause": "DMS-A-007", "description": "", "dtype": "float64"} | changes
    spec = given.pop("spec", worked_example.SPEC)
    arrays = given.pop("arrays", worked_example.arrays())
    with pytest.raises(error):
        freeze(spec, arrays, {}, **given)


def test_a_list_is_as_good_as_an_array() -> None:
    for vector in read_vectors():
        if not vector.refusal:
            hold(vector, {k: np.asarray(v).tolist() for k, v in compute("numpy", vector).items()})


def _set(name: str, where: tuple[int, ...], value: float) -> Callable[[dict[str, Any]], None]:
    def change(outputs: dict[str, Any]) -> None:
        outputs[name][where] = value

    return change


def _put(name: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(outputs: dict[str, Any]) -> None:
        outputs[name] = value

    return change


@pytest.mark.parametrize(
    ("change", "clause"),
    [
        (_set("weights", (0, 0), 0.4675), "DMS-A-007"),
        (_set("weights", (2, 1), 1e-300), "DMS-P-001"),
        (_set("weights", (2, 0), 1 - 2.0**-53), "DMS-W-003"),
        (_set("weights", (0, 0), np.nan), "DMS-A-007"),
        (_set("scores", (2, 2), 0.0), "DMS-A-007"),
        (_set("scores", (0, 0), -np.inf), "DMS-A-007"),
        (_set("scores", (2, 2), np.inf), "DMS-A-007"),
        (_set("confidence", (2, 2), 1e-300), "DMS-P-009"),
        (_set("confidence", (0, 0), 0.5), "DMS-A-007"),
        (_set("fused", (0, 0), 0.5), "DMS-A-007"),
        (_set("active", (0, 0), False), "DMS-P-005"),
        (_put("weights", [[1.0, 0.0, 0.0]]), "DMS-S-001"),
        (_put("weights", [[1.0], [0.5, 0.5]]), "DMS-S-001"),
        (_put("fused", "three"), "DMS-S-001"),
        (dict.clear, "DMS-S-001"),
    ],
)
def test_what_is_wrong_is_named(change: Callable[[dict[str, Any]], None], clause: str) -> None:
    vector = example()
    outputs = {name: array.copy() for name, array in compute("numpy", vector).items()}
    hold(vector, outputs)
    change(outputs)
    with pytest.raises(ConformanceError, match=f"^{clause}: "):
        hold(vector, outputs)


def test_the_sum_of_weights_is_held_closer_than_each() -> None:
    """W-002 allows 4 M eps, whatever the scale of a weight."""
    (vector,) = (
        v
        for v in read_vectors()
        if v.description == "logits of 1e18"
        and v.dtype == "float64"
        and v.spec.policy == "linear"
        and "energy" in v.spec.signals
    )
    outputs = {name: array.copy() for name, array in compute("numpy", vector).items()}
    outputs["weights"] *= 1 + 1e-9
    with pytest.raises(ConformanceError, match=r"^DMS-W-002: "):
        hold(vector, outputs)


def test_nothing_active_gives_zeros() -> None:
    vector = next(v for v in read_vectors() if v.description.startswith("nothing present, logit"))
    outputs = {name: array.copy() for name, array in compute("numpy", vector).items()}
    outputs["fused"][0, 0] = 1e-30
    with pytest.raises(ConformanceError, match=r"^DMS-P-007: "):
        hold(vector, outputs)


def test_an_answer_to_what_must_be_refused() -> None:
    strict = worked_example.arrays() | {"present": np.zeros((3, 3), dtype=bool)}
    spec = worked_example.SPEC.replace(strict=True)
    vector = freeze(spec, strict, {}, clause="DMS-P-008", description="strict", dtype="float64")
    assert vector.refusal == "NothingPresent" and not vector.expected
    outputs = compute("numpy", freeze_like(vector, strict=False))
    with pytest.raises(ConformanceError, match=r"^DMS-P-008: .*NothingPresent"):
        hold(vector, outputs)


def freeze_like(vector: Vector, **changes: Any) -> Vector:
    return freeze(
        vector.spec.replace(**changes),
        vector.arrays,
        vector.parameters,
        clause=vector.clauses[0],
        description=vector.description,
        dtype=vector.dtype,
    )


def test_the_guide_shows_a_vector_that_ships() -> None:
    page = (ROOT / "docs" / "guide" / "vectors.md").read_text(encoding="utf-8")
    shown = json.loads(page.split("```json\n")[1].split("```")[0])
    (vector,) = shown.pop("vectors")
    data = json.loads((FOLDER / "w_weights.json").read_text(encoding="utf-8"))
    assert vector in data.pop("vectors")
    assert shown == data
    covered = {clause for vector in read_vectors() for clause in vector.clauses}
    numbers = f"{len(CORE)} files of less than 500 kB together, with {len(read_vectors())} cases"
    assert f"{numbers} of {len(covered)} clauses" in " ".join(page.split())


def test_they_are_in_the_wheel(build_wheels: Callable[..., list[Path]], tmp_path: Path) -> None:
    (wheel,) = build_wheels(tmp_path, [ROOT])
    with zipfile.ZipFile(wheel) as archive:
        for name in NAMES:
            shipped = archive.read(f"dms_spec/conformance/vectors/{name}")
            assert shipped == (FOLDER / name).read_bytes()


# --------------------------------------------------------------------------------------- reading


def test_a_vector_written_is_the_vector_read(tmp_path: Path) -> None:
    vector = example("float32")
    write_vector(tmp_path / "one.json", vector)
    for place in (tmp_path / "one.json", tmp_path):
        (again,) = read_vectors(place)
        assert to_json([again]) == to_json([vector])
        assert again.spec == vector.spec
        assert {a.dtype.name for a in again.arrays.values()} == {"float32", "bool"}
    with pytest.raises(FileError, match="cannot write"):
        write_vector(tmp_path / "no" / "one.json", vector)


def test_what_ships_is_read_by_default() -> None:
    assert [v.description for v in read_vectors()] == [v.description for v in read_vectors(FOLDER)]
    assert files("dms_spec.conformance").joinpath("vectors").is_dir()


@pytest.mark.parametrize("name", ["nothing", "empty", "binary.json"])
def test_nothing_to_read(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(FileError, match="cannot read"):
        read_vectors(tmp_path / name)


def _edit(old: str, new: str) -> Callable[[str], str]:
    def edit(text: str) -> str:
        assert old in text
        return text.replace(old, new)

    return edit


@pytest.mark.parametrize(
    "edit",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "[]",
        lambda text: "[" * 100_000,
        lambda text: text.replace('"vectors": [', '"vectors": [3,'),
        _edit('"dms-vectors"', '"dms-matrices"'),
        _edit('"format_version": 1', '"format_version": 2'),
        _edit('"edition": "2026.11",\n', '"edition": "2030.01",\n'),
        _edit('"k": "0x1p+3"', '"k": "inf"'),
        _edit('"k": "0x1p+3"', '"k": 8'),
        _edit('"k": "0x1p+3"', '"k": "8.0"'),
        _edit('"k": "0x1p+3"', '"k": "0x1p+9999"'),
        _edit('"k": "0x1p+3"', '"k": "0x1p+3", "l": ""'),
        _edit('"eps": "0x1p-23"', '"eps": "0x1p-52"'),
        _edit('"DMS-A-007"', '"DMS-A-999"'),
        _edit('"dtype": "float32"', '"dtype": "float8"'),
        _edit('"dtype":"float32"', '"dtype":"int32"'),
        _edit('"dtype":"float32"', '"dtype":"float16"'),
        _edit('"0x1.333334p-1"', '"0x1.333334000001p-1"'),
        _edit('"shape":[3,3,2]', '"shape":[3,3,3]'),
        _edit('"shape":[3,3,2]', '"shape":[3,3,2.0]'),
        _edit('"shape":[3,3,2]', '"shape":[9,2]'),
        _edit('"shape":[3,3,2]', '"shape":[2,3,3]'),
        _edit('"values":[1,1,1,1,1,0,1,0,0]', '"values":[1,1,1,1,1,0,1,0,2]'),
        _edit('"refusal": ""', '"refusal": "KeyError"'),
        _edit('"scores"', '"marks"'),
        _edit('"features"', '"fetures"'),
        _edit('"policy":"linear"', '"policy":7'),
        _edit('"description": "the worked example"', '"description": 7'),
        _edit('["image","text","audio"]', '["image","text"]'),
        lambda text: re.sub(r'"values":\["-?0x[^"]*"(.*"scale")', r'"values":["nan"\1', text),
        lambda text: re.sub(r'"scale":\["', '"scale":["-', text),
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, edit: Callable[[str], str]) -> None:
    text = to_json([example("float32")])
    damaged = edit(text)
    assert damaged != text
    (tmp_path / "damaged.json").write_text(damaged, encoding="utf-8")
    with pytest.raises(FileError, match=r"cannot read .*damaged\.json"):
        read_vectors(tmp_path)


# ------------------------------------------------------------------------------- other languages


def test_the_example_reads_them_without_hypothesis() -> None:
    """With nothing but the standard library: -S leaves out all that is installed."""
    example = ROOT / "examples" / "vectors" / "read_vectors.py"
    code = f"import runpy, sys; sys.argv = [{str(example)!r}, {str(FOLDER)!r}]; "
    code += f"runpy.run_path({str(example)!r}, run_name='__main__')"
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    passed, of = re.findall(r"^(\d+) of (\d+) vectors passed$", done.stdout, re.MULTILINE)[0]
    assert passed == of and int(of) > 100


def test_the_example_finds_those_that_ship() -> None:
    example = ROOT / "examples" / "vectors" / "read_vectors.py"
    done = subprocess.run([sys.executable, example], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


NODE = shutil.which("node")
needs_node = pytest.mark.skipif(NODE is None, reason="node is not installed")
JAVASCRIPT = ROOT / "examples" / "javascript"


def run_javascript(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(NODE), folder / "test.mjs", FOLDER], capture_output=True, text=True, check=False
    )


@needs_node
def test_javascript_holds() -> None:
    done = run_javascript(JAVASCRIPT)
    assert done.returncode == 0, done.stdout + done.stderr
    count = len(read_vectors())
    covered = {clause for vector in read_vectors() for clause in vector.clauses}
    last = f"{count} of {count} vectors passed, {len(covered)} clauses"
    assert done.stdout.splitlines()[-1] == last
    for page in (ROOT / "docs" / "guide" / "vectors.md", JAVASCRIPT / "README.md"):
        assert f"{count} of {count}" in page.read_text(encoding="utf-8"), "it tells another result"


# What the vectors must notice: each is a mistake that an implementer could make.
MISTAKES = {
    "uncertainty counts for": (
        "direction: -1,\n    value({ passes }, m, { reduction",
        "direction: 1,\n    value({ passes }, m, { reduction",
    ),
    "sample variance": ("** 2)))) / p.length;", "** 2)))) / (p.length - 1);"),
    "NaN counts as usable": ("features[m].every(Number.isFinite)", "true"),
    "single -Inf counts as unusable": (
        "Number.isFinite(Math.max(...row))",
        "row.every(Number.isFinite)",
    ),
    "passes are not looked at": ("[logits, ...passes]", "[logits]"),
    "log to the base 2": ("/ Math.log(classes)", "/ Math.log2(classes)"),
    "no largest entry": ("const top = Math.max(...row);", "const top = 0;"),
    "itself among the others": (
        "members.filter((n) => n !== m).map((n) => features[n])",
        "members.map((n) => features[n])",
    ),
    "a weight decides what is ruled out": ("some(([, row]) =>", "some(([w, row]) => w > 0 &&"),
    "the order of the signals": (
        "Object.keys(spec.coefficients).map(",
        "Object.keys(spec.signals).map(",
    ),
    "absent means present": ("!present || !!present.values[b * count + m]", "true"),
    "no softplus": ("(m) => softplus(theta.values[j]) *", "(m) => theta.values[j] *"),
    "attention over all": ("Math.sqrt(x.length)", "x.length"),
    "a temperature forgotten": ("return top + temperature * ", "return top + "),
    "the prior left in": (" - whole - Math.log(prior[y]), -1e4)", " - whole, -1e4)"),
    "no redundancy": ("const kappa = 1 / (1 + rho * (trusted - 1));", "const kappa = 1;"),
    "no least doubt": ("Math.min(scores[m], Math.log1p(-1e-6))", "scores[m]"),
    "an unseen class in the softmax": (
        "row.filter((x, y) => prior[y] > 0 && x",
        "row.filter((x) => x",
    ),
    "trust for soundness": ("Math.exp(logSoundness[m])", "Math.exp(scores[m])"),
    "weights of trust": ("weights: weigh(logSoundness)", "weights: weigh(scores)"),
    "strict forgotten": ("if (spec.strict &&", "if (false &&"),
}


@needs_node
@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_noticed(tmp_path: Path, mistake: str) -> None:
    old, new = MISTAKES[mistake]
    right = (JAVASCRIPT / "dms.mjs").read_text(encoding="utf-8")
    assert right.count(old) == 1, mistake
    (tmp_path / "dms.mjs").write_text(right.replace(old, new), encoding="utf-8")
    shutil.copy(JAVASCRIPT / "test.mjs", tmp_path)
    assert run_javascript(tmp_path).returncode == 1
