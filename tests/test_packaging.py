"""The wheel: what is in it, what it costs to import, and that it stands on its own feet."""

from __future__ import annotations

import ast
import json
import os
import re
import site
import tomllib
import zipfile
from collections.abc import Callable
from importlib.resources import files
from itertools import chain
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

import dms_spec
from dms_spec._version import PACKAGE

ROOT = Path(__file__).resolve().parents[1]
Run = Callable[..., Any]

FRAMEWORKS = ("torch", "jax", "tensorflow", "onnx", "onnxruntime", "array_api_strict", "sklearn")
# The folders that hold packages beside the core.
PARTS = ("backends", "exporters")
TOOLS = ("pytest", "_pytest", "hypothesis", "matplotlib", "tqdm", "scipy")


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory, spawn: Run) -> Path:
    """The project's wheel, built as its README says."""
    folder = tmp_path_factory.mktemp("wheel")
    done = spawn("-m", "hatchling", "build", "-t", "wheel", "-d", folder, cwd=ROOT)
    assert done.code == 0, done.err
    (path,) = folder.iterdir()
    return path


@pytest.fixture(scope="session")
def members(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_the_wheel_is_pure_and_of_this_version(wheel: Path) -> None:
    assert wheel.name == f"dms_spec-{PACKAGE}-py3-none-any.whl"


def test_packages_are_at_the_top(members: set[str]) -> None:
    """Core, backends and exporters side by side, wherever their folders are; nothing else."""
    info = f"dms_spec-{PACKAGE}.dist-info"
    ours = {path.name for folder in PARTS for path in (ROOT / folder).iterdir()}
    assert ours == {
        "dms_numba",
        "dms_numpy",
        "dms_onnx",
        "dms_onnxruntime",
        "dms_torch",
        "dms_triton",
    }
    assert {name.split("/")[0] for name in members} == {"dms_spec", *ours, info}
    for name in ("dms_spec/__init__.py", "dms_spec/__main__.py", "dms_numpy/plugin.py"):
        assert name in members


def test_every_module_of_the_tree_is_shipped(members: set[str]) -> None:
    for package in (ROOT / "dms_spec", *(p for part in PARTS for p in (ROOT / part).iterdir())):
        for path in package.rglob("*.py"):
            assert path.relative_to(package.parent).as_posix() in members


@pytest.mark.clause("DMS-V-004")
def test_what_is_not_code_is_shipped_too(members: set[str], wheel: Path) -> None:
    """Markers of typing, the machine copy of the clauses, and the licence."""
    assert {"dms_spec/py.typed", "dms_numpy/py.typed"} <= members
    name = "dms_spec/conformance/clauses.toml"
    assert name in members
    with zipfile.ZipFile(wheel) as archive:
        tree = files("dms_spec.conformance").joinpath("clauses.toml").read_bytes()
        assert archive.read(name) == tree
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in members)


def test_nothing_else_is_shipped(members: set[str]) -> None:
    """No tests, no data, no caches, no notes."""
    odd = {
        name
        for name in members
        if not name.endswith((".py", "/py.typed", "/clauses.toml")) and ".dist-info/" not in name
    }
    suite = "dms_spec/conformance"
    data = (f"{suite}/vectors/", "dms_spec/schemas/")
    assert {name for name in odd if not name.startswith(data)} == {f"{suite}/report.schema.json"}
    # What `pytest --pyargs dms_spec.conformance` finds.
    own = {f"{suite}/{name}.py" for name in ("test_conformance", "pytest_plugin", "pytest_suite")}
    assert not {name for name in members if "test" in name or "/data/" in name} - own


def test_metadata_names_what_is_needed_and_no_more(wheel: Path, members: set[str]) -> None:
    (name,) = (name for name in members if name.endswith(".dist-info/METADATA"))
    with zipfile.ZipFile(wheel) as archive:
        lines = archive.read(name).decode().splitlines()
    needs = {
        line.removeprefix("Requires-Dist: ").split(">")[0].strip()
        for line in lines
        if line.startswith("Requires-Dist: ") and "extra ==" not in line
    }
    assert needs == {"numpy", "pluggy", "array-api-compat", "safetensors"}
    assert "License-Expression: Apache-2.0" in lines


@pytest.mark.clause("DMS-H-005")
def test_the_wheel_runs_without_the_tree(
    wheel: Path, install: Run, spawn: Run, tmp_path: Path
) -> None:
    """Installed alone: its own modules, its plugins by entry points, the worked example right."""
    folder = install(tmp_path / "installed", [wheel])
    # -S: nothing that an editable install leaves in site-packages takes part.
    path = os.pathsep.join([str(folder), *site.getsitepackages()])
    code = """
        import dms_numpy, dms_spec, sys
        from dms_spec.cli import main
        print(dms_spec.__file__, dms_numpy.__file__, sep="\\n", file=sys.stderr)
        raise SystemExit(main(["doctor", "--json"]))
        """
    outcome = spawn("-S", "-c", dedent(code), env={"PYTHONPATH": path}, cwd=tmp_path)
    report = json.loads(outcome.succeeded())
    assert {run["verdict"] for run in report["runs"] if run["backend"] == "numpy"} == {"ok"}
    assert all(line.startswith(str(folder)) for line in outcome.err.splitlines())


# ---------------------------------------------------------------------------------------- import


@pytest.mark.clause("DMS-A-004")
@pytest.mark.parametrize(
    "use",
    [
        "",
        "dms_spec.SchedulerSpec; dms_spec.ModalityBatch; dms_spec.DMSError",
        "dms_spec.get_backend('numpy')",
        "dms_spec.get_backend('numpy').scheduler(dms_spec.SchedulerSpec.preset('robust', ('a',)))",
        "import dms_spec.cli; dms_spec.cli.main(['plugins', 'list'])",
    ],
    ids=["import", "names", "backend", "scheduler", "listing"],
)
def test_the_core_imports_no_framework(spawn: Run, use: str) -> None:
    code = f"import dms_spec, sys\n{use}\nprint(*sys.modules, sep='\\n', file=sys.stderr)"
    outcome = spawn("-c", code)
    outcome.succeeded()
    loaded = set(outcome.err.splitlines())
    assert "dms_spec" in loaded
    assert not loaded & {*FRAMEWORKS, *TOOLS}
    if not use:  # so that it costs next to nothing beside `import numpy`
        assert not any(name.startswith(("numpy", "dms_numpy", "dms_strict")) for name in loaded)


@pytest.mark.clause("DMS-A-004")
def test_no_module_of_the_core_imports_a_framework_at_its_top() -> None:
    """By reading every module: the subprocess above sees only those that it imports."""
    # The suite's own draws need hypothesis; only its checks import them.
    for path in (ROOT / "dms_spec").rglob("*.py"):
        parts = path.relative_to(ROOT / "dms_spec").parts
        if parts[0] == "demo" or "checks" in parts or path.name == "strategies.py":
            continue
        if path.name in (
            "pytest_plugin.py",
            "pytest_suite.py",
            "test_conformance.py",
        ):  # pytest imports these
            continue
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            assert not {n.split(".")[0] for n in names} & {*FRAMEWORKS, *TOOLS}, path


def test_every_public_name_is_there(spawn: Run) -> None:
    """Each is imported on its own, so that none relies on the import of another."""
    code = """
        import sys
        import dms_spec
        for name in dms_spec.__all__:
            for module in [m for m in sys.modules if m.startswith("dms_spec.")]:
                del sys.modules[module]
            assert name in dir(dms_spec), name
            assert getattr(dms_spec, name) is not None, name
        try:
            dms_spec.Scheduller
        except AttributeError as error:
            assert "Scheduller" in str(error)
        else:
            raise SystemExit("a misspelt name was found")
        """
    spawn("-c", dedent(code)).succeeded()


# -------------------------------------------------------------------------------------- interface


@pytest.mark.parametrize("name", ["Scheduler", "Backend", "ArrayBackend", "Exporter"])
def test_public_methods_are_abstract_or_final(name: str) -> None:
    """What a plugin may write and what it may not change are told apart, for every method."""
    kind = getattr(dms_spec, name)
    public = {
        member
        for base in kind.__mro__
        if base is not object and base.__module__.startswith("dms_spec")
        for member in vars(base)
        if not member.startswith("_") or member == "__call__"
    }
    assert public
    for member in public:
        final = getattr(getattr(kind, member), "__final__", False)
        assert (member in kind.__abstractmethods__) != final, member
    with pytest.raises(TypeError, match="abstract"):
        kind()


def test_a_backend_of_ones_own_must_say_everything() -> None:
    """One abstract method left out, and there is no instance."""

    class Half(dms_spec.ArrayBackend):
        name = "half"

    with pytest.raises(TypeError, match="capabilities"):
        Half()  # type: ignore[abstract]


# ------------------------------------------------------------------------------- what is pinned


def _pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line.split("==") for line in lines if line and not line.startswith("#")]
    assert all(len(pin) == 2 and re.fullmatch(r"[\w.]+", pin[1]) for pin in pins), pins
    return {_canonical(name): version for name, version in pins}


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_everything_that_is_installed_for_the_project_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    stated = [
        *project["project"]["dependencies"],
        *chain.from_iterable(project["project"]["optional-dependencies"].values()),
        *chain.from_iterable(project["dependency-groups"].values()),
    ]
    names = {_canonical(re.match(r"[\w.-]+", one)[0]) for one in stated if isinstance(one, str)}
    # Ourselves; and the wheel that stands in for onnxruntime where there is a GPU.
    assert names - {"dms-spec", "onnxruntime-gpu"} <= set(_pins())


def test_what_builds_is_pinned_to_the_same_version() -> None:
    files = [ROOT / "pyproject.toml", *ROOT.glob("examples/*/pyproject.toml")]
    for file in files:
        requires = tomllib.loads(file.read_text(encoding="utf-8"))["build-system"]["requires"]
        assert requires == [f"hatchling=={_pins()['hatchling']}"], file


@pytest.mark.parametrize("folder", ["tests/runtimes", "docs/try"])
def test_npm_packages_are_exact_and_hashed(folder: str) -> None:
    """The lock says what is in a package, and not which registry it came from."""
    package = json.loads((ROOT / folder / "package.json").read_text(encoding="utf-8"))
    text = (ROOT / folder / "package-lock.json").read_text(encoding="utf-8")
    lock = json.loads(text)["packages"]
    assert lock[""]["dependencies"] == package["dependencies"]
    assert all(re.fullmatch(r"\d+\.\d+\.\d+", v) for v in package["dependencies"].values())
    for name, entry in lock.items():
        assert name == "" or entry["integrity"].startswith("sha512-"), name
    assert '"resolved"' not in text
