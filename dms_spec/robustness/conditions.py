"""Says what a condition is, and which methods and conditions a report shows."""

from __future__ import annotations

from dms_spec.markup import shown as printable
from dms_spec.robustness.patterns import SENSORS
from dms_spec.robustness.result import Result

#: Corruption, severity and pattern.
Condition = tuple[str, float, str]


def label(result: Result, condition: Condition) -> str:
    """Names a condition in a few words."""
    name, severity, pattern = condition
    text = f"{name} {severity:g}" if result.corruptions[name]["unit"] else name
    return text if pattern in ("half", "every") else printable(f"{text} on {pattern}", 80)


def swept(result: Result) -> list[Condition]:
    """Lists the conditions that are not of the sensor-failure protocol, clean first."""
    return [condition for condition in result.conditions if condition[0] not in SENSORS]


def best_alone(result: Result) -> str | None:
    """Names the modality that does best alone on clean samples, chosen in hindsight."""
    names = [f"{m} alone" for m in result.modalities if f"{m} alone" in result.names]
    return max(names, key=lambda n: result.mean("accuracy", n, "clean") or 0.0, default=None)


def shown(result: Result) -> list[str]:
    """Lists methods, the mean baselines, and the best single modality."""
    single = best_alone(result)
    names = [n for n in result.names if not n.endswith(" alone") and " alone of " not in n]
    return [*names, *([single] if single else [])]
