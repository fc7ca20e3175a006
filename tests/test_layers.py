"""The tower of `docs/internals.md`: a floor imports only from floors below, nothing in a circle.

Every import counts: those for type checkers, and those inside functions.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
#: Where each package lies.
HOMES = {
    path.name: path
    for folder in (ROOT, ROOT / "backends", ROOT / "exporters")
    for path in folder.glob("dms_*")
}

#: From the ground up; a floor's modules may import each other, and those of floors below.
FLOORS: tuple[tuple[str, ...], ...] = (
    (
        "dms_spec._version",
        "dms_spec.colours",
        "dms_spec.errors",
        "dms_spec.markup",
        "dms_spec.pictures",
    ),
    (
        "dms_spec.outputs",
        "dms_spec.scratch",
        "dms_spec.staging",
        "dms_spec.streams",
        "dms_spec.texts",
        "dms_spec.typed",
    ),
    ("dms_spec.artifact", "dms_spec.files", "dms_spec.spec", "dms_spec.types"),
    ("dms_spec.interface",),
    ("dms_spec.plugins",),
    ("dms_spec.equations",),
    ("dms_spec.engine",),
    ("dms_spec.embeddings", "dms_spec.conformance"),
    (
        "dms_spec.bulk",
        "dms_spec.demo",
        "dms_spec.encoding",
        "dms_spec.robustness",
        "dms_spec.speed",
    ),
    ("dms_numpy", "dms_numba", "dms_torch", "dms_onnx", "dms_onnxruntime", "dms_triton"),
    (
        "dms_spec.cli",
        "dms_spec.estimator",
        "dms_spec.hub",
        "dms_spec.pretrained",
        "dms_spec.__main__",
    ),
    ("dms_spec.__init__",),  # the front door: it names everything, and nothing imports it
)

#: What the core may import anywhere: it is always there, and quick.
LIGHT = {"numpy", "pluggy", "array_api_compat"}

Tree = dict[str, ast.Module]
Edge = tuple[str, str, bool]


def parsed() -> Tree:
    """Every module of the project, by name."""
    return {
        ".".join((*path.relative_to(home.parent).parent.parts, path.stem)): ast.parse(
            path.read_text(encoding="utf-8")
        )
        for home in HOMES.values()
        for path in home.rglob("*.py")
    }


def edges(tree: Tree) -> Iterator[Edge]:
    """Who imports whom, and whether inside a function: ours by module, others by package."""
    for name, module in tree.items():
        lazy = {
            id(node)
            for function in ast.walk(module)
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
            for node in ast.walk(function)
        }
        for node in ast.walk(module):
            if isinstance(node, ast.Import):
                targets = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{name}: a relative import"
                targets = [f"{node.module}.{alias.name}" for alias in node.names]
            else:
                continue
            for target in targets:
                yield name, found(tree, target), id(node) in lazy


def found(tree: Tree, target: str) -> str:
    """The module of ours that a dotted name lies in; the package, where it is not ours."""
    parts = target.split(".")
    if parts[0] not in HOMES:
        return parts[0]
    for length in range(len(parts), 0, -1):
        stem = ".".join(parts[:length])
        for name in (stem, f"{stem}.__init__"):
            if name in tree:
                return name
    raise AssertionError(f"nothing is called {target}")


def floor(module: str) -> int:
    """How high a module stands."""
    exact = {name: level for level, names in enumerate(FLOORS) for name in names}
    stem = module
    while stem not in exact:
        assert "." in stem, f"{module} stands on no floor"
        stem = stem.rpartition(".")[0]
    return exact[stem]


def upward(tree: Tree) -> list[str]:
    """Imports from a higher floor, or of another plugin that is not below."""
    return [
        f"{source} imports {target}"
        for source, target, _ in edges(tree)
        if target in tree and floor(target) > floor(source)
    ]


def circles(tree: Tree) -> list[list[str]]:
    """Modules that import each other, in any number of steps: Tarjan's components."""
    graph: dict[str, list[str]] = {name: [] for name in tree}
    for source, target, _ in edges(tree):
        if target in tree and target != source:
            graph[source].append(target)
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    components: list[list[str]] = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for other in graph[name]:
            if other not in index:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], index[other])
        if low[name] == index[name]:
            component = []
            while not component or component[-1] != name:
                component.append(stack.pop())
            components.append(sorted(component))

    for name in graph:
        if name not in index:
            visit(name)
    return [component for component in components if len(component) > 1]


def heavy(tree: Tree) -> set[str]:
    """Modules of ours that import something heavy as soon as they are imported themselves."""
    at_once: dict[str, set[str]] = {name: set() for name in tree}
    for source, target, lazy in edges(tree):
        if not lazy:
            at_once[source].add(target)
    found_heavy: set[str] = set()
    while True:
        more = {
            name
            for name, targets in at_once.items()
            if name not in found_heavy
            and any(t in found_heavy or (t not in tree and is_heavy(t)) for t in targets)
        }
        if not more:
            return found_heavy
        found_heavy |= more


def is_heavy(package: str) -> bool:
    return package not in LIGHT | set(sys.stdlib_module_names)


def hidden(tree: Tree) -> list[str]:
    """Imports inside functions of what is not heavy: they hide a circle, or nothing."""
    weighty = heavy(tree)
    return [
        f"{source} imports {target} inside a function"
        for source, target, lazy in edges(tree)
        if lazy and target in tree and target not in weighty
    ]


@pytest.fixture(scope="module")
def tree() -> Tree:
    return parsed()


def test_each_floor_imports_only_from_floors_below(tree: Tree) -> None:
    assert upward(tree) == []


def test_nothing_imports_in_a_circle(tree: Tree) -> None:
    assert circles(tree) == []


def test_an_import_inside_a_function_is_of_something_heavy(tree: Tree) -> None:
    assert hidden(tree) == []


def test_packages_beside_the_core_import_each_other_one_way(tree: Tree) -> None:
    """ONNX Runtime and Triton's folder stand on the exporter, torch on Numba, Numba on NumPy."""
    pairs = {
        (source.split(".")[0], target.split(".")[0])
        for source, target, _ in edges(tree)
        if target in tree
    }
    beside = {(a, b) for a, b in pairs if a != b and "dms_spec" not in (a, b)}
    assert beside == {
        ("dms_onnxruntime", "dms_onnx"),
        ("dms_triton", "dms_onnx"),
        ("dms_numba", "dms_numpy"),
        ("dms_torch", "dms_numba"),
    }


def planted(tree: Tree, module: str, code: str) -> Tree:
    """The tree with some lines more in one module."""
    added = ast.Module(body=[*tree[module].body, *ast.parse(code).body], type_ignores=[])
    return tree | {module: added}


def test_a_planted_fault_is_found(tree: Tree) -> None:
    """Every kind of it: at the top, for type checkers, inside a function."""
    up = planted(tree, "dms_spec.types", "from dms_spec.plugins import available")
    assert "dms_spec.types imports dms_spec.plugins.__init__" in upward(up)
    for code in (
        "from dms_spec.engine.scheduler import check_batch",
        "if TYPE_CHECKING:\n    from dms_spec.engine.scheduler import check_batch",
        "def f():\n    from dms_spec.engine.scheduler import check_batch",
    ):
        (circle,) = circles(planted(tree, "dms_spec.engine.pipeline", code))
        assert circle == ["dms_spec.engine.pipeline", "dms_spec.engine.scheduler"]
    lazy = planted(
        tree, "dms_spec.plugins.registry", "def f():\n    from dms_spec.errors import unknown"
    )
    assert hidden(lazy) == ["dms_spec.plugins.registry imports dms_spec.errors inside a function"]
