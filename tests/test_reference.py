"""The reference has everything that is public, and its examples run."""

from __future__ import annotations

import doctest
import inspect
import re
import warnings
from contextlib import chdir
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import dms_spec
from dms_spec import SchedulerSpec, Table, save_artifact
from dms_spec.errors import DMSWarning

pytest.importorskip("torch")
pytest.importorskip("sklearn")
pytest.importorskip("pyarrow")
pytest.importorskip("onnxruntime")

ROOT = Path(__file__).resolve().parents[1]
REFERENCE = "\n".join(
    path.read_text(encoding="utf-8") for path in (ROOT / "docs" / "reference" / "api").glob("*.md")
)
#: The packages that are public, beside the modules of `dms_spec` that the reference names itself.
PACKAGES = (
    "dms_spec.conformance",
    "dms_spec.conformance.vectors",
    "dms_spec.plugins",
    "dms_spec.robustness",
    "dms_onnxruntime",
    "dms_torch",
    "dms_torch.adapters",
    "dms_torch.fit",
)
FRONT = [name for name in (*dms_spec.__all__, "FusionClassifier") if not name.startswith("__")]
#: Public names without an example of their own, and why.
WITHOUT = {
    "dms_spec.hookimpl": "an object of pluggy's, in the example of Descriptor",
    "dms_spec.conformance.parametrize_with_checks": "it makes tests: the guide has them",
    "dms_spec.conformance.vectors.FORMAT": "a constant",
    "dms_spec.conformance.vectors.FORMAT_VERSION": "a constant",
    "dms_spec.conformance.vectors.Embedded": "a part of Vector",
    "dms_spec.conformance.vectors.Expected": "a part of Vector",
    "dms_spec.plugins.HOOKS": "a constant",
    "dms_spec.plugins.hookimpl": "the same",
    "dms_spec.plugins.installed_version": "for records",
    "dms_torch.fit.Fitted": "what fit returns",
    "dms_torch.fit.Progress": "what fit reports",
} | {
    f"dms_spec.robustness.{name}": "a constant, or what others take, give or report"
    for name in (
        *("EVERY", "HALF", "Answer", "Corrupted", "Corruption", "Measured", "Method", "Pattern"),
        *("Progress", "Scale", "Scene"),
    )
}
#: Needs a model of transformers: `docs/guide/mllm.md` has examples that the tests run.
ADAPTERS = "dms_torch.adapters"

PUBLIC = dict.fromkeys(
    [f"dms_spec.{name}" for name in FRONT]
    + [f"{package}.{name}" for package in PACKAGES for name in import_module(package).__all__]
)
WITH_EXAMPLE = [n for n in PUBLIC if n not in WITHOUT and not n.startswith(ADAPTERS)]


def described() -> set[str]:
    """What the pages describe: one by one, or as the members of a module."""
    names = set(re.findall(r"^\.\. auto(?:class|function|exception|data):: (\S+)", REFERENCE, re.M))
    for name, options in re.findall(r"^\.\. automodule:: (\S+)\n((?:   :.*\n)*)", REFERENCE, re.M):
        module = import_module(name)
        listed = re.search(r":members: (.+)", options)
        if listed:
            names |= {f"{name}.{one.strip()}" for one in listed[1].split(",")}
        else:
            names |= {f"{name}.{one}" for one in _members(module)}
    return names


def _members(module: ModuleType) -> list[str]:
    own = (
        n
        for n, thing in vars(module).items()
        if getattr(thing, "__module__", "") == module.__name__
    )
    return list(getattr(module, "__all__", own))


def test_everything_public_is_in_the_reference() -> None:
    found, constants = described(), {name for name, why in WITHOUT.items() if "constant" in why}
    things = {id(_thing(name)) for name in found}
    missing = {n for n in PUBLIC.keys() - found - constants if id(_thing(n)) not in things}
    assert not missing, sorted(missing)


def _thing(name: str) -> object:
    module, _, rest = name.rpartition(".")
    try:
        return getattr(import_module(module), rest)
    except (ImportError, AttributeError):
        return name


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the examples begin with: a table of sixty rows, and an artifact learned from it."""
    from dms_torch.fit import FitSettings, fit

    path = tmp_path_factory.mktemp("reference")
    random, labels = np.random.default_rng(0), np.arange(60) % 2
    arrays = {
        name: (random.normal(size=(60, width)) + labels[:, None]).astype(np.float32)
        for name, width in (("image", 3), ("text", 2))
    } | {"labels": labels}
    np.savez(path / "train.npz", **arrays)
    spec = SchedulerSpec.preset("robust", ("image", "text"))
    settings = FitSettings(epochs=3)
    save_artifact(path / "model", fit(Table.from_arrays(arrays), spec, settings).artifact)
    return path


@pytest.mark.parametrize("name", WITH_EXAMPLE)
def test_the_example_runs(name: str, folder: Path) -> None:
    thing = _thing(name)
    assert inspect.getdoc(thing), name
    (test,) = (
        t
        for t in doctest.DocTestFinder(recurse=False).find(thing, name, globs={})  # type: ignore[arg-type]
    )
    assert test.examples, f"{name} has no example"
    said: list[str] = []
    with chdir(folder), warnings.catch_warnings():
        warnings.simplefilter("ignore", DMSWarning)
        result = doctest.DocTestRunner().run(test, out=said.append)
    assert not result.failed, "".join(said)
