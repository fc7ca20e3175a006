"""Errors: of our own and of the builtin, in words that help, and whole after a journey."""

from __future__ import annotations

import builtins
import copy
import pickle
import re
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from dms_spec import errors
from dms_spec.errors import DMSError, UnsupportedCapability, closest, install_hint, unknown

ROOT = Path(__file__).resolve().parents[1]
KINDS = sorted(
    (
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, DMSError) and kind is not DMSError
    ),
    key=lambda kind: kind.__name__,
)
WORDS = {"expected": "3 axes", "got": "2 axes", "fix": "Reshape it."}


def make(kind: type[DMSError]) -> DMSError:
    if issubclass(kind, UnsupportedCapability):
        return kind("it went wrong", capability="dtype:float8", **WORDS)
    return kind("it went wrong", **WORDS)


def _throw(error: DMSError) -> None:
    raise error


@pytest.mark.clause("DMS-E-002")
def test_the_table_of_the_specification_is_what_the_classes_are() -> None:
    """Every class stands in the table with the builtin that it is, and none is missing."""
    page = (ROOT / "docs" / "spec" / "2026.11" / "errors.md").read_text(encoding="utf-8")
    table = dict(re.findall(r"^\| `(\w+)` \| `(\w+)` \|", page, re.MULTILINE))
    assert set(table) == {kind.__name__ for kind in KINDS}
    for kind in KINDS:
        assert kind.__bases__ == (DMSError, getattr(builtins, table[kind.__name__]))


@pytest.mark.clause("DMS-E-001", "DMS-E-002")
@pytest.mark.parametrize("kind", KINDS)
def test_a_message_says_all_that_it_was_given(kind: type[DMSError]) -> None:
    """What happened, what was expected, what came, how to mend it: in this order."""
    message = str(make(kind))
    places = [message.index(word) for word in ("it went wrong", *WORDS.values())]
    assert places == sorted(places)
    assert str(kind("it went wrong")) == "it went wrong"


@pytest.mark.clause("DMS-E-004")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_errors_survive_pickling(kind: type[DMSError], protocol: int) -> None:
    error = make(kind)
    for back in (pickle.loads(pickle.dumps(error, protocol)), copy.copy(error)):
        assert type(back) is kind
        assert str(back) == str(error)
        assert back.args == error.args
        assert vars(back) == vars(error)


@pytest.mark.clause("DMS-E-004")
def test_errors_cross_processes() -> None:
    """As from the worker of a data loader."""
    error = make(UnsupportedCapability)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        caught = pool.submit(pickle.loads, pickle.dumps(error)).result(timeout=60)
    assert str(caught) == str(error)
    assert caught.capability == "dtype:float8"


_REFUSALS = """
    import numpy as np
    from dms_spec import ModalityBatch, SchedulerSpec, get_backend, load_artifact
    from dms_spec.artifact import Artifact, save_artifact
    from dms_spec.cli import main
    from dms_spec.conformance import worked_example as example
    from dms_spec.equations.policies import modality_dropout_presence

    good, spec, numpy = example.arrays(), example.SPEC, get_backend("numpy")

    def schedule(spec=spec, **changes):
        return numpy.scheduler(spec)(ModalityBatch(**(good | changes)))

    nan = good["features"] * np.nan
    attempts = [
        lambda: schedule(features=good["features"][0]),
        lambda: schedule(logits=good["logits"][:2]),
        lambda: schedule(features=None),
        lambda: schedule(features=None, logits=None),
        lambda: schedule(features=good["features"].astype(int)),
        lambda: schedule(features=good["features"].tolist()),
        lambda: schedule(present=good["present"] * 1.0),
        lambda: schedule(features=good["features"].astype(np.longdouble)),
        lambda: schedule(spec.replace(nonfinite="raise"), features=nan),
        lambda: schedule(spec.replace(strict=True), present=good["present"] & False),
        lambda: schedule(spec.replace(policy="liner")),
        lambda: schedule(spec.replace(policy="static")),
        lambda: schedule(spec.replace(modalities=("a", "b"))),
        lambda: spec.replace(coefficients={"confidence": -1}),
        lambda: SchedulerSpec.from_json("{"),
        lambda: SchedulerSpec(modalities=()),
        lambda: get_backend("nunpy"),
        lambda: numpy.scheduler(spec, device="abacus"),
        lambda: numpy.scheduler(spec, {"policy.bias": good["features"]}),
        lambda: load_artifact("nowhere"),
        lambda: save_artifact("new", Artifact(spec=spec, parameters={"a": np.array(np.nan)})),
        lambda: modality_dropout_presence(good["present"], seed=0, rate=1.5),
        lambda: modality_dropout_presence(good["features"], seed=0),
    ]
    for number, attempt in enumerate(attempts):
        try:
            attempt()
        except Exception as error:
            print(number, type(error).__mro__[:3], error)
        else:
            print(number, "passed")
    print(main(["schedule", "nowhere.npz", "-o", "out.npz"]))
    """


@pytest.mark.clause("DMS-E-003", "DMS-E-002")
def test_no_refusal_is_an_assertion(spawn: Callable[..., Any], tmp_path: Path) -> None:
    """Python that drops assertions (-O) refuses the same input with the same errors."""
    code = dedent(_REFUSALS)
    plain = spawn("-c", code, cwd=tmp_path).succeeded()
    stripped = spawn("-O", "-c", code, cwd=tmp_path).succeeded()
    assert stripped == plain
    *lines, code_of_main = plain.splitlines()
    assert code_of_main == "2"
    assert len(lines) == code.count("lambda: ")
    assert all("dms_spec.errors.DMSError" in line for line in lines), plain
    assert not list(tmp_path.iterdir())


@pytest.mark.clause("DMS-A-003")
@pytest.mark.parametrize(
    ("name", "known", "wanted"),
    [
        ("linaer", ["static", "linear"], ["'linear'"]),
        ("zzz", ["static", "linear"], ["linear", "static"]),
        ("zzz", [], ["none"]),
        ("", ["static"], ["static"]),
    ],
)
def test_unknown_names_the_closest_or_all(name: str, known: list[str], wanted: list[str]) -> None:
    hint = closest(name, known)
    for word in wanted:
        assert word in hint
    error = unknown("policy", name, iter(known))
    assert repr(name) in str(error)
    assert hint in str(error)


def test_a_hint_names_what_pip_can_find() -> None:
    """dms-spec is on no index: its extras come from a checkout, anything else from the index."""
    assert install_hint("dms-spec[torch]").endswith(
        "checkout of dms-spec, run pip install '.[torch]'"
    )
    assert install_hint("dms-spec", option="--upgrade").endswith("run pip install --upgrade '.'")
    assert install_hint("dms-mine[all]") == "Run pip install 'dms-mine[all]'"
    assert install_hint("one", "two") == "Run pip install 'one' 'two'"
