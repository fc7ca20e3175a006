"""What the documentation says is what the code does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import dms_spec
from dms_spec import errors
from dms_spec.cli import VERBS
from dms_spec.plugins import HOOKS
from dms_spec.spec import PRESETS

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCS = {page: page.read_text(encoding="utf-8") for page in (ROOT / "docs").rglob("*.md")}


def page(name: str) -> str:
    return DOCS[ROOT / "docs" / name]


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)


def test_the_readme_example_is_short() -> None:
    assert len(blocks(README, "python")[0].strip().splitlines()) <= 14


@pytest.mark.parametrize("target", ["demo", "test"])
def test_the_two_commands_exist(target: str) -> None:
    assert f"make {target}" in README
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    if target == "test":
        assert "make test" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_links_of_the_readme_lead_somewhere() -> None:
    for link in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (ROOT / link).exists(), link


def test_the_signal_of_the_guide_runs() -> None:
    """The guide's plugin is code: it registers a signal that computes what it says."""
    import array_api_compat.numpy as xp
    import numpy as np

    from dms_spec.equations.namespace import Namespace
    from dms_spec.interface.signal import Evidence

    scope: dict[str, object] = {}
    exec(blocks(page("guide/plugins.md"), "python")[0], scope)  # our own page
    signal = scope["dms_register_signals"]()[0].load()  # type: ignore[operator]
    logits = np.log([[[0.7, 0.2, 0.1], [0.4, 0.3, 0.3]]])
    evidence = Evidence(active=np.ones((1, 2), bool), dtype=logits.dtype, logits=logits)
    value = signal.function(Namespace.of(xp, np.ndarray), evidence, scale=2.0)
    np.testing.assert_allclose(value, [[1.0, 0.2]], rtol=1e-12)


def test_every_policy_and_signal_is_in_the_guide() -> None:
    from dms_spec.equations.plugin import dms_register_policies

    text = page("guide/published.md")
    assert all(f"`{thing.name}`" in text for thing in dms_register_policies())


def test_every_hook_is_documented() -> None:
    documented = set(re.findall(r"`(dms_register_\w+)`", page("guide/plugins.md")))
    assert documented == set(HOOKS)


def test_every_error_is_in_the_specification() -> None:
    table = re.findall(r"^\| `(\w+)` \| `(\w+)` \|", page("spec/2026.11/errors.md"), re.MULTILINE)
    own = {
        name: next(base.__name__ for base in kind.__mro__ if base.__module__ == "builtins")
        for name, kind in vars(errors).items()
        if isinstance(kind, type)
        and issubclass(kind, errors.DMSError)
        and kind is not errors.DMSError
    }
    assert dict(table) == own


def test_every_verb_is_documented() -> None:
    documented = set(re.findall(r"^\| `dms (\w+)", page("reference/cli.md"), re.MULTILINE))
    assert documented == set(VERBS)


def test_every_preset_is_documented() -> None:
    for text in (page("guide/start.md"), page("reference/cli.md")):
        assert all(f"`{preset}`" in text for preset in PRESETS)


def test_every_environment_variable_is_documented() -> None:
    used = set()
    for folder in ("dms_spec", "backends", "exporters"):
        for path in (ROOT / folder).rglob("*.py"):
            used |= set(re.findall(r"DMS_SPEC_[A-Z_]+", path.read_text(encoding="utf-8")))
    documented = set(
        re.findall(r"^\| `(DMS_SPEC_\w+)`", page("reference/environment.md"), re.MULTILINE)
    )
    assert used == documented


def test_every_example_is_on_the_page_of_examples() -> None:
    text = page("examples.md")
    shown = set(re.findall(r"`(examples/[\w./-]+)`", text))
    assert all((ROOT / path).exists() for path in shown)
    kinds = {".py", ".sh", ".mjs", ".cpp"}
    files = [p for p in (ROOT / "examples").rglob("*") if p.suffix in kinds]
    missing = [
        path
        for path in (str(file.relative_to(ROOT)) for file in files)
        if not any(path == one or path.startswith(f"{one}/") for one in shown)
    ]
    assert len(shown) > 10 and not missing, missing
    tutorials = (ROOT / "docs" / "tutorials").glob("tutorial_*.py")
    assert all(f":link: gallery/{path.stem}\n" in text for path in tutorials)


def test_public_names_are_all_reachable() -> None:
    for name in dms_spec.__all__:
        assert getattr(dms_spec, name) is not None
    assert set(dms_spec.__all__) <= set(dir(dms_spec))
    with pytest.raises(AttributeError, match="no_such"):
        dms_spec.no_such  # noqa: B018


def test_documents_name_one_edition_and_version() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert dms_spec.__version__ in changelog and dms_spec.__dms_spec_version__ in changelog
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {dms_spec.__version__}\n" in citation


def test_nothing_says_that_the_package_is_on_an_index() -> None:
    """Only `install_hint` knows how to install it, and pages say it of a checkout."""
    folders = ("dms_spec", "backends", "exporters", "examples", "docs", "benchmarks")
    texts = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file()]
    for path in (*texts, *ROOT.glob("*.md")):
        if path.suffix in (".py", ".md", ".cpp", ".mjs", ".html"):
            text = path.read_text(encoding="utf-8")
            assert not re.search(r"pip install [^\n#]*[\"' `]dms-spec", text), path


def test_every_array_of_a_table_is_documented() -> None:
    from dms_spec.embeddings.presence import RESERVED

    assert all(f"`{name}`" in page("guide/tables.md") for name in RESERVED)


def test_every_corruption_is_documented() -> None:
    from dms_spec.robustness.corruptions.features import FEATURES
    from dms_spec.robustness.corruptions.raw import RAW
    from dms_spec.robustness.patterns import SENSORS

    text = page("guide/robustness.md")
    assert all(f"`{name}`" in text for name in FEATURES | RAW)
    assert all(name.partition("_")[0].upper() in text for name in SENSORS)
