"""Describes what a scheduler computes: plain data, JSON in and out, no arrays and no plugins."""

from __future__ import annotations

import json
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import asdict, dataclass, field, fields, replace
from math import inf
from typing import Any, Literal, Self, get_args

from dms_spec._version import EDITION, SUPPORTED_EDITIONS
from dms_spec.errors import FileError, SpecError, closest, unknown
from dms_spec.texts import parse_json

Fusion = Literal["feature", "logit", "probability", "evidence"]
NonFinite = Literal["mask", "raise"]
Options = Mapping[str, Any]

_PRESETS: dict[str, dict[str, Any]] = {
    # DMS as published, with the normalised confidence and the variance averaged over classes.
    "paper": {
        "policy": "linear",
        "signals": {
            "confidence": {"normalize": True},
            "uncertainty": {"reduction": "mean"},
            "alignment": {},
        },
        "coefficients": {"confidence": 1.0, "uncertainty": 1.0, "alignment": 1.0},
        "fusion": "feature",
    },
    # Each modality's prediction is evidence as far as the modality is sound: as its features are
    # like those that its head has learned from, and as what it says is borne out by the others.
    # None can overrule the rest by more than a bound. `dms fit` learns what typicality, the policy
    # and the level read; none of it needs Monte-Carlo passes.
    "robust": {
        "policy": "soundness",
        "signals": {"typicality": {}},
        "coefficients": {"typicality": 1.0},
        "fusion": "evidence",
    },
    # Equal weights for what is present: the baseline to beat.
    "static": {"policy": "static", "signals": {}, "coefficients": {}, "fusion": "feature"},
}

PRESETS: tuple[str, ...] = tuple(_PRESETS)


@dataclass(frozen=True, kw_only=True)
class SchedulerSpec:
    """Says what a scheduler computes, wherever it runs (DMS-A-001 to DMS-A-003).

    Args:
        modalities: Names, in the order of the arrays' M axis.
        policy: Name of the policy.
        policy_options: Keyword options of the policy.
        signals: Options of each signal to compute, by signal name.
        coefficients: Non-negative coefficient of each signal in the scores.
        fusion: What is summed: features, logits, or probabilities; or ``"evidence"``: class
            probabilities as far as each modality is sound, for policies that give logs of trust.
        nonfinite: ``"mask"``: a modality with NaN or Inf counts as absent; ``"raise"``: error.
        strict: Raise when a sample has nothing active, instead of giving a row of zeros.
        detach_signals: Keep gradients out of the signals.
        edition: Edition of the specification.

    Raises:
        SpecError: A value is of the wrong kind, out of range, or contradicts another.

    Example:
        >>> from dms_spec import SchedulerSpec
        >>> spec = SchedulerSpec.preset("paper", ("image", "text", "audio"))
        >>> SchedulerSpec.from_json(spec.to_json()) == spec
        True
        >>> spec.replace(policy="monotone").policy
        'monotone'
    """

    modalities: tuple[str, ...]
    policy: str = "linear"
    policy_options: Options = field(default_factory=dict)
    signals: Mapping[str, Options] = field(default_factory=dict)
    coefficients: Mapping[str, float] = field(default_factory=dict)
    fusion: Fusion = "feature"
    nonfinite: NonFinite = "mask"
    strict: bool = False
    detach_signals: bool = True
    edition: str = EDITION

    def __post_init__(self) -> None:
        names = self.modalities
        _expect("modalities", names, list | tuple)
        if not all(isinstance(name, str) and name for name in names):
            raise SpecError(
                "modalities are not names", expected="a list of strings", got=f"{names!r}"
            )
        object.__setattr__(self, "modalities", tuple(names))
        if not names or len(set(names)) != len(names):
            raise SpecError(
                "modalities need different names",
                expected="at least one name, each once",
                got=f"{list(names)}",
            )
        for key, kind in (
            ("policy", str),
            ("strict", bool),
            ("detach_signals", bool),
            ("edition", str),
        ):
            _expect(key, getattr(self, key), kind)
        for key, choices in (("fusion", get_args(Fusion)), ("nonfinite", get_args(NonFinite))):
            if getattr(self, key) not in choices:
                raise SpecError(
                    f"{key} has an unknown value",
                    expected=" or ".join(repr(choice) for choice in choices),
                    got=repr(getattr(self, key)),
                )
        for key in ("policy_options", "signals", "coefficients"):
            _expect(key, getattr(self, key), Mapping)
        for name, options in self.signals.items():
            _expect(f"signals.{name}", options, Mapping)
        for name, value in self.coefficients.items():
            self._check_coefficient(name, value)
        if self.edition not in SUPPORTED_EDITIONS:
            raise SpecError(
                "the spec is of an edition that this package does not know",
                expected=" or ".join(SUPPORTED_EDITIONS),
                got=repr(self.edition),
                fix="Update dms-spec, or rewrite the spec for a supported edition.",
            )

    def _check_coefficient(self, name: str, value: object) -> None:
        if name not in self.signals:
            raise SpecError(
                f"coefficient {name!r} belongs to no signal of the spec",
                fix=closest(name, self.signals),
            )
        try:
            good = not isinstance(value, bool | str) and 0 <= float(value) < inf  # type: ignore[arg-type]
        except (TypeError, ValueError, OverflowError):
            good = False
        if not good:
            raise SpecError(
                f"coefficient {name!r} is not usable",
                expected="a finite number, 0 or more",
                got=repr(value),
                fix="The sign is the signal's own: uncertainty already counts against.",
            )

    @classmethod
    def preset(cls, name: str, modalities: tuple[str, ...]) -> Self:
        """Gives a ready-made spec: ``paper``, ``robust`` or ``static``.

        Raises:
            UnknownName: There is no preset of that name.
        """
        if name not in _PRESETS:
            raise unknown("preset", name, PRESETS)
        return cls(modalities=modalities, **deepcopy(_PRESETS[name]))

    def replace(self, **changes: Any) -> Self:
        """Copies the spec with some fields changed, and checks the copy like a new spec."""
        return replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Gives plain data for JSON. `from_dict` turns it back into an equal spec."""
        return asdict(self) | {"modalities": list(self.modalities)}

    def to_json(self) -> str:
        """Writes the spec as a JSON text."""
        return json.dumps(self.to_dict(), indent=2)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Reads a spec from plain data.

        Raises:
            UnknownName: A key is not a field; the message names the closest one.
            SpecError: A value is not legal.
        """
        _expect("the spec", data, Mapping)
        known = [f.name for f in fields(cls)]
        for key in data:
            if key not in known:
                raise unknown("key in the spec", key, known)
        if "modalities" not in data:
            raise SpecError(
                "the spec names no modalities",
                expected='"modalities": ["image", "text", ...]',
                fix="Names are given in the order of the arrays' M axis.",
            )
        _expect("modalities", data["modalities"], list | tuple)
        return cls(**dict(data))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Reads a spec from a JSON text.

        Raises:
            SpecError: The text is not JSON, or not an object, or a value is not legal.
            UnknownName: A key is not a field.
        """
        try:
            data = parse_json(text, "the spec")
        except FileError as error:
            raise SpecError("the spec is not JSON", got=error.got) from error
        return cls.from_dict(data)


def _expect(key: str, value: object, kind: Any) -> None:
    if not isinstance(value, kind):
        name = {Mapping: "an object", bool: "true or false", str: "a string"}.get(kind, "a list")
        raise SpecError(f"{key} is of the wrong kind", expected=name, got=repr(value))
