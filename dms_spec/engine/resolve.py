"""Looks up the functions behind the names of a spec, and checks every option."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

import numpy as np

from dms_spec.equations.evidence import FUSION_PARAMETERS
from dms_spec.errors import ShapeError, SpecError, closest, unknown
from dms_spec.interface.policy import Policy
from dms_spec.interface.signal import Signal
from dms_spec.plugins import get_policy, get_signal
from dms_spec.spec import SchedulerSpec
from dms_spec.types import Array

# Where the functions of this package's own signals and policies are.
_EQUATIONS = "dms_spec.equations."

# What each level of fusion sums.
_FUSES = {
    "feature": "features",
    "logit": "logits",
    "probability": "logits",
    "evidence": "logits",
}


@dataclass(frozen=True, kw_only=True)
class Resolved:
    """A spec whose names have been looked up.

    Attributes:
        spec: The spec as given.
        policy: The policy.
        signals: The spec's signals, in its order.
        parameters: Parameter arrays by full name, ``policy.<name>``, ``signals.<signal>.<name>`` or
            ``fusion.<name>``.
        sizes: What the spec and its parameters fix: M, K, and D or C where a parameter has them.
    """

    spec: SchedulerSpec
    policy: Policy
    signals: tuple[Signal, ...]
    parameters: Mapping[str, Array]
    sizes: Mapping[str, int]

    def parameters_of(self, prefix: str) -> dict[str, Array]:
        """The parameters of one owner, by short name."""
        start = f"{prefix}."
        return {
            name.removeprefix(start): array
            for name, array in self.parameters.items()
            if name.startswith(start)
        }

    def unfitted(self, signal: Signal) -> bool:
        """Says whether a signal works without the parameters that it could have."""
        return signal.parameters_optional and not self.parameters_of(f"signals.{signal.name}")

    def built_in(self) -> bool:
        """Says whether every function is one of this package's, which know no array library."""
        functions = [self.policy.function, *(signal.function for signal in self.signals)]
        return all(
            getattr(function, "__module__", "").startswith(_EQUATIONS) for function in functions
        )

    def reasons(self) -> dict[str, str]:
        """The arrays that a batch must have, each with what needs it."""
        reasons = {_FUSES[self.spec.fusion]: f"fusion {self.spec.fusion!r}"}
        for name in self.policy.needs:
            reasons.setdefault(name, f"policy {self.policy.name!r}")
        for signal in self.signals:
            for name in () if signal.optional or self.unfitted(signal) else signal.needs:
                reasons.setdefault(name, f"signal {signal.name!r}")
        return reasons

    def reads(self) -> set[str]:
        """The arrays that are of use: those that a batch must have, and those that it may have."""
        read = set(self.reasons())
        for signal in self.signals:
            read |= set(() if self.unfitted(signal) else signal.needs)
        return read

    def shares_space(self) -> bool:
        """Says whether anything relates the features of different modalities to each other."""
        return (
            self.spec.fusion == "feature"
            or "features" in self.policy.needs
            or any("features" in s.needs and not s.by_itself for s in self.signals)
        )

    def notes(self) -> tuple[str, ...]:
        """Says what is weaker than it looks, whatever the data."""
        notes = [
            f"signal {signal.name!r} has no parameters and is 0: fit them, with dms fit"
            for signal in self.signals
            if self.unfitted(signal)
        ]
        if self.policy.uses_signals and self.policy.parameters and not self.parameters_of("policy"):
            notes.append(
                f"policy {self.policy.name!r} has no parameters and is the rule of the "
                "coefficients: fit them, with dms fit"
            )
        if self.spec.fusion == "evidence" and not self.parameters_of("fusion"):
            notes.append(
                "fusion 'evidence' has no parameters and takes all classes to be equally likely: "
                "fit them, with dms fit"
            )
        if len(self.spec.modalities) != 2:
            return tuple(notes)
        return tuple(notes) + tuple(
            f"signal {signal.name!r} is equal for both of two modalities and cancels in their "
            "weights; anchored_alignment does not"
            for signal in self.signals
            if signal.cancels_with_two and self.spec.coefficients.get(signal.name)
        )


def resolve(spec: SchedulerSpec, parameters: Mapping[str, Array] | None = None) -> Resolved:
    """Looks up a spec's policy and signals, and checks their options and parameters.

    Raises:
        UnknownName: No policy or signal of that name, or an option or parameter that nobody has.
        PluginError: The name belongs to a plugin that is broken.
        SpecError: An option has the wrong kind of value, a parameter is missing, coefficients are
            given to a policy that has no use for them, or something that is no log of trust stands
            where one is needed.
        ShapeError: A parameter does not have the shape that its owner declares.
    """
    policy = get_policy(spec.policy)
    signals = tuple(get_signal(name) for name in spec.signals)
    _check_options(f"policy {policy.name!r}", policy.function, spec.policy_options)
    for signal in signals:
        _check_options(f"signal {signal.name!r}", signal.function, spec.signals[signal.name])
    if spec.coefficients and not policy.uses_signals:
        raise SpecError(
            f"policy {policy.name!r} has no use for coefficients",
            got=f"coefficients for {', '.join(spec.coefficients)}",
            fix='Remove them, or choose a policy that weighs signals, such as "linear".',
        )
    _check_trust(spec, policy, signals)
    given = dict(parameters or {})
    shapes = {f"policy.{name}": axes for name, axes in policy.parameters.items()}
    needed = set() if policy.parameters_optional and not set(shapes) & set(given) else set(shapes)
    for signal in signals:
        own = {f"signals.{signal.name}.{name}": axes for name, axes in signal.parameters.items()}
        shapes |= own
        if not signal.parameters_optional or set(own) & set(given):
            needed |= set(own)
    if spec.fusion == "evidence":
        own = {f"fusion.{name}": axes for name, axes in FUSION_PARAMETERS.items()}
        shapes |= own
        needed |= set(own) if set(own) & set(given) else set()
    for name in given:
        if name not in shapes:
            raise unknown("parameter", name, shapes)
    if missing := sorted(needed - set(given)):
        raise SpecError(
            "the spec needs parameters that were not given",
            expected=", ".join(missing),
            got=", ".join(sorted(given)) or "none",
            fix="Parameters live in an artifact folder; a JSON spec alone has none.",
        )
    sizes = {"M": len(spec.modalities), "K": len(spec.coefficients)}
    for name, array in given.items():
        _check_shape(name, shapes[name], tuple(array.shape), sizes)
    for name in {"fusion.prior", "fusion.priors"} & set(given):
        if isinstance(given[name], np.ndarray):  # an array that is traced has no values
            _check_frequencies(name, given[name])
    return Resolved(spec=spec, policy=policy, signals=signals, parameters=given, sizes=sizes)


def _check_trust(spec: SchedulerSpec, policy: Policy, signals: tuple[Signal, ...]) -> None:
    """Refuses what is not a log of trust where one is needed: trust is not a matter of degree
    there.
    """
    if spec.fusion == "evidence" and not policy.log_trust:
        raise SpecError(
            "fusion 'evidence' needs to know how far each modality is trusted by itself",
            expected="a policy whose scores are logs of trust, such as 'soundness'",
            got=f"policy {policy.name!r}, whose scores only rank modalities",
            fix='Choose policy "soundness", or another level of fusion.',
        )
    for signal in signals if policy.log_trust else ():
        if signal.name in spec.coefficients and not signal.log_trust:
            raise SpecError(
                f"policy {policy.name!r} cannot weigh signal {signal.name!r}",
                expected="signals that are logs of trust, at most 0, such as 'typicality'",
                got=f"{signal.name!r}, which lies in: {signal.bounds}",
                fix="Leave its coefficient out; it is computed and returned all the same.",
            )


def _check_shape(name: str, axes: str, shape: tuple[int, ...], sizes: dict[str, int]) -> None:
    """Compares a parameter with its declared axes, and learns the sizes not known before.

    Axes are alternatives such as ``"D | M D"``. M, K (coefficients), D and C mean the same for
    every parameter; a small letter, such as d in ``"D d"``, is a size of its owner's own, and a
    number is that size.
    """
    owner = name.rpartition(".")[0]
    fixed = {f"{owner}.{axis}": int(axis) for axis in axes.split() if axis.isdigit()}
    for alternative in axes.split("|"):
        letters = [axis if axis.isupper() else f"{owner}.{axis}" for axis in alternative.split()]
        found = dict(zip(letters, shape, strict=False))
        if len(letters) == len(shape) and all(
            # A letter may stand there twice.
            found[letter] == size == (sizes | fixed).get(letter, size)
            for letter, size in zip(letters, shape, strict=True)
        ):
            sizes |= found
            return
    known = ", ".join(f"{k.rpartition('.')[2]} = {v}" for k, v in sizes.items() if k[-1] in axes)
    raise ShapeError(
        f"parameter {name!r} has the wrong shape",
        expected=f"[{axes.strip()}]" + (f" with {known}" if known else ""),
        got=str(list(shape)),
        fix="The parameter belongs to another spec, or to encoders of another width.",
    )


def _check_frequencies(name: str, array: Array) -> None:
    """Refuses what cannot be the frequencies of classes. A modality may have seen no class."""
    negative = bool((array < 0).any())
    if negative or not (name == "fusion.priors" or bool((array > 0).any())):
        raise SpecError(
            f"parameter {name!r} holds no class frequencies",
            expected="numbers of 0 or more, and one that is more",
            got="a negative number" if negative else "zeros alone",
            fix="Count how often each class occurs in the training rows.",
        )


def _check_options(owner: str, function: Callable[..., Any], options: Mapping[str, Any]) -> None:
    """Compares options with the keyword-only arguments of a function and their annotations."""
    known = {
        name: _hint(function, name)
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY
    }
    for name, value in options.items():
        if name not in known:
            raise SpecError(f"{owner} has no option {name!r}", fix=closest(name, known))
        kind = known[name]
        if get_origin(kind) is Literal:
            good, expected = value in get_args(kind), " or ".join(map(repr, get_args(kind)))
        elif kind is float:
            good = isinstance(value, int | float) and not isinstance(value, bool)
            expected = "a number"
        else:
            good, expected = _is(value, kind), getattr(kind, "__name__", str(kind))
        if not good:
            raise SpecError(
                f"option {name!r} of {owner} is not usable", expected=expected, got=repr(value)
            )


def _is(value: Any, kind: Any) -> bool:
    try:
        return isinstance(value, kind)
    except TypeError:  # such as list[int], whose items are not looked at
        return isinstance(value, get_origin(kind) or object)


def _hint(function: Callable[..., Any], option: str) -> Any:
    """The annotation of one option, object if there is none.

    The other annotations are left alone: they may name what only a type checker imports.
    """
    function = inspect.unwrap(function)  # that of a plugin is guarded
    annotation = function.__annotations__.get(option, object)
    lone = type("Lone", (), {"__annotations__": {option: annotation}})
    try:
        return get_type_hints(lone, function.__globals__)[option]
    except NameError:
        return object
