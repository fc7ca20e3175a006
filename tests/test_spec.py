"""The spec object: JSON and back, and everything that it refuses."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dms_spec._version import EDITION
from dms_spec.conformance import strategies
from dms_spec.engine.resolve import resolve
from dms_spec.errors import SpecError, UnknownName
from dms_spec.plugins import get_backend
from dms_spec.spec import PRESETS, SchedulerSpec

GOOD: dict[str, Any] = {
    "modalities": ["image", "text"],
    "signals": {"confidence": {"normalize": False}, "energy": {}},
    "coefficients": {"confidence": 2, "energy": 0.5},
}
KEYS = [field.name for field in fields(SchedulerSpec)]


@st.composite
def specs(draw: st.DrawFn) -> SchedulerSpec:
    """Any spec of the core, with any names and switches."""
    names = draw(st.lists(st.text(min_size=1), min_size=1, max_size=5, unique=True))
    spec: SchedulerSpec = draw(strategies.specs(len(names)))
    weighed = st.floats(0, allow_infinity=False, allow_nan=False) | st.integers(0, 2**60)
    return spec.replace(
        modalities=tuple(names),
        coefficients={name: draw(weighed) for name in spec.coefficients},
        nonfinite=draw(st.sampled_from(["mask", "raise"])),
        strict=draw(st.booleans()),
        detach_signals=draw(st.booleans()),
    )


@pytest.mark.clause("DMS-A-001", "DMS-A-002", "DMS-V-001")
@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(specs())
def test_json_gives_an_equal_spec_back(spec: SchedulerSpec) -> None:
    """Names in their order, numbers to the last bit, the edition written down."""
    data = json.loads(spec.to_json())
    assert set(data) == set(KEYS)
    assert data["modalities"] == list(spec.modalities)
    assert data["edition"] == EDITION
    back = SchedulerSpec.from_json(spec.to_json())
    assert back == spec
    assert back.modalities == spec.modalities
    assert SchedulerSpec.from_dict(spec.to_dict()) == spec


def test_plain_data_is_a_copy() -> None:
    """What is done to the plain data does not reach the spec."""
    spec = SchedulerSpec.from_dict(GOOD)
    data = spec.to_dict()
    data["signals"]["confidence"]["normalize"] = True
    data["coefficients"]["energy"] = 9
    assert spec == SchedulerSpec.from_dict(GOOD)


@pytest.mark.clause("DMS-A-003")
@pytest.mark.parametrize("key", KEYS)
def test_an_unknown_key_names_the_closest(key: str) -> None:
    """Each field, with two letters swapped."""
    wrong = key[:-3] + key[-2] + key[-3] + key[-1]
    assert wrong not in KEYS
    with pytest.raises(UnknownName, match=f"'{wrong}'.*'{key}'") as caught:
        SchedulerSpec.from_dict(GOOD | {wrong: None})
    assert isinstance(caught.value, LookupError)


@pytest.mark.clause("DMS-A-003")
def test_a_key_like_none_lists_them_all() -> None:
    with pytest.raises(UnknownName) as caught:
        SchedulerSpec.from_dict(GOOD | {"zzz": 1})
    assert all(key in str(caught.value) for key in KEYS)


@pytest.mark.clause("DMS-A-001", "DMS-A-005", "DMS-V-001")
@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"modalities": []}, "modalities"),
        ({"modalities": "image"}, "modalities"),
        ({"modalities": ["image", "image"]}, "once"),
        ({"modalities": ["image", ""]}, "modalities"),
        ({"modalities": ["image", 2]}, "modalities"),
        ({"modalities": ["image", ["text"]]}, "modalities"),
        ({"modalities": {"image": 1}}, "modalities"),
        ({"modalities": None}, "modalities"),
        ({"policy": None}, "policy"),
        ({"policy": ["linear"]}, "policy"),
        ({"policy_options": []}, "policy_options"),
        ({"signals": ["confidence"]}, "signals"),
        ({"signals": {"confidence": None, "energy": {}}}, "signals.confidence"),
        ({"coefficients": [1]}, "coefficients"),
        ({"coefficients": {"confidence": -0.5}}, "'confidence'"),
        ({"coefficients": {"confidence": float("nan")}}, "'confidence'"),
        ({"coefficients": {"confidence": float("inf")}}, "'confidence'"),
        ({"coefficients": {"confidence": "2"}}, "'confidence'"),
        ({"coefficients": {"confidence": True}}, "'confidence'"),
        ({"coefficients": {"confidence": None}}, "'confidence'"),
        ({"coefficients": {"confidence": [1]}}, "'confidence'"),
        ({"coefficients": {"confidenc": 1}}, "'confidence'"),
        ({"fusion": "features"}, "fusion"),
        ({"fusion": None}, "fusion"),
        ({"nonfinite": "ignore"}, "nonfinite"),
        ({"nonfinite": True}, "nonfinite"),
        ({"strict": 1}, "strict"),
        ({"strict": "yes"}, "strict"),
        ({"detach_signals": 0}, "detach_signals"),
        ({"edition": "2020.01"}, "'2020.01'"),
        ({"edition": 2026.11}, "edition"),
        ({"edition": None}, "edition"),
    ],
    ids=str,
)
def test_a_bad_value_is_refused(changes: dict[str, Any], word: str) -> None:
    """The field is named, and the error is a ValueError as well."""
    with pytest.raises(SpecError) as caught:
        SchedulerSpec.from_dict(GOOD | changes)
    assert isinstance(caught.value, ValueError)
    assert word in str(caught.value)


@pytest.mark.clause("DMS-A-005")
def test_a_copy_is_checked_like_a_new_one() -> None:
    spec = SchedulerSpec.from_dict(GOOD)
    assert spec.replace(strict=True).strict
    with pytest.raises(SpecError):
        spec.replace(coefficients={"confidence": -1.0})
    with pytest.raises(SpecError):
        spec.replace(signals={})  # the coefficients belong to none now


@pytest.mark.clause("DMS-A-001")
def test_a_spec_without_names_is_refused() -> None:
    with pytest.raises(SpecError, match="modalities"):
        SchedulerSpec.from_dict({})


@pytest.mark.clause("DMS-A-003")
@pytest.mark.parametrize(
    ("changes", "kind", "words"),
    [
        ({"policy": "lineal"}, UnknownName, ["'lineal'", "'linear'"]),
        ({"signals": {"enrgy": {}}, "coefficients": {}}, UnknownName, ["'enrgy'", "'energy'"]),
        ({"policy_options": {"rate": 1}}, SpecError, ["'rate'", "'linear'"]),
        (
            {"signals": {"energy": {"temprature": 1}}, "coefficients": {}},
            SpecError,
            ["'temprature'", "'temperature'"],
        ),
        (
            {"signals": {"energy": {"temperature": "hot"}}, "coefficients": {}},
            SpecError,
            ["'temperature'", "'hot'"],
        ),
        (
            {"signals": {"energy": {"temperature": True}}, "coefficients": {}},
            SpecError,
            ["'temperature'", "True"],
        ),
        (
            {"signals": {"confidence": {"normalize": 1}}, "coefficients": {}},
            SpecError,
            ["'normalize'", "1"],
        ),
    ],
    ids=str,
)
def test_names_and_options_are_checked_by_every_backend(
    changes: dict[str, Any], kind: type[Exception], words: list[str]
) -> None:
    """A spec is plain data; what its names mean is settled when a backend takes it."""
    spec = SchedulerSpec.from_dict(GOOD | changes)
    with pytest.raises(kind) as caught:
        get_backend("numpy").scheduler(spec)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.clause("DMS-A-006")
@pytest.mark.parametrize("policy", ["static", "co_attention", "modality_dropout"])
def test_coefficients_without_use_are_refused(policy: str) -> None:
    """Refused with them, taken without them."""
    spec = SchedulerSpec.from_dict(GOOD | {"policy": policy})
    with pytest.raises(SpecError, match=f"'{policy}'.*coefficients"):
        get_backend("numpy").scheduler(spec)
    get_backend("numpy").scheduler(spec.replace(coefficients={}))


@pytest.mark.clause("DMS-A-003")
@pytest.mark.parametrize(
    ("parameters", "kind", "words"),
    [
        ({}, SpecError, ["signals.anchored_alignment.anchor"]),
        (
            {"signals.anchored_alignment.ancor": np.ones(2)},
            UnknownName,
            ["'signals.anchored_alignment.anchor'"],
        ),
    ],
    ids=["missing", "misspelt"],
)
def test_parameters_are_those_that_the_spec_needs(
    parameters: dict[str, Any], kind: type[Exception], words: list[str]
) -> None:
    spec = SchedulerSpec(modalities=("a", "b"), signals={"anchored_alignment": {}})
    with pytest.raises(kind) as caught:
        resolve(spec, parameters)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.clause("DMS-A-007", "DMS-A-008")
def test_presets_are_what_the_specification_says() -> None:
    names = ("a", "b", "c")
    paper = SchedulerSpec(
        modalities=names,
        policy="linear",
        signals={
            "confidence": {"normalize": True},
            "uncertainty": {"reduction": "mean"},
            "alignment": {},
        },
        coefficients={"confidence": 1, "uncertainty": 1, "alignment": 1},
        fusion="feature",
    )
    assert SchedulerSpec.preset("paper", names) == paper
    static = SchedulerSpec(modalities=names, policy="static", signals={}, fusion="feature")
    assert SchedulerSpec.preset("static", names) == static
    assert set(PRESETS) == {"paper", "robust", "static"}


@pytest.mark.clause("DMS-A-003")
def test_an_unknown_preset_names_the_closest() -> None:
    with pytest.raises(UnknownName, match="'robust'"):
        SchedulerSpec.preset("rubust", ("a",))


def test_specs_of_one_preset_share_nothing() -> None:
    """What is done to the mappings of one spec must not reach the next of the same preset."""
    first, second = (SchedulerSpec.preset("paper", ("a", "b")) for _ in range(2))
    assert first == second
    assert first.signals is not second.signals
    assert first.signals["confidence"] is not second.signals["confidence"]
    assert first.coefficients is not second.coefficients
