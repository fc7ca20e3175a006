"""Holds chimeras: backends that are wrong in several rare ways at once."""

from __future__ import annotations

from typing import Any

from dms_spec.conformance.mutants import draws, silence, sizes, state
from dms_spec.conformance.mutants.mutant import Mutant

_HOOKS = ("batch", "namespace", "resolved", "spec", "around", "result", "claims", "convert")
_PARTS = {
    mutant.name: mutant for module in (sizes, state, draws, silence) for mutant in module.MUTANTS
}


def _of(name: str, clause: str, *parts: str) -> Mutant:
    """Puts mutants together that are wrong in different places."""
    hooks: dict[str, Any] = {}
    for part in parts:
        for hook in _HOOKS:
            if value := getattr(_PARTS[part], hook):
                if hook in hooks:
                    raise ValueError(f"two parts of {name} share {hook}")
                hooks[hook] = value
    summary = f"puts {', '.join(parts[:-1])} and {parts[-1]} together"
    return Mutant(name=name, summary=summary, clause=clause, kind="several at once", **hooks)


MUTANTS = (
    _of("chimera_of_sizes", "DMS-N-001", "classes_past_1024", "rows_wrap", "presence_of_a_block"),
    _of("chimera_of_calls", "DMS-C-007", "notes_once", "coefficients_in_half", "fused_tail"),
    _of("chimera_of_numbers", "DMS-L-003", "four_signals", "own_buffers", "passes_past_16"),
    _of("chimera_of_silence", "DMS-P-004", "large_features_absent", "terms_turned", "eight_units"),
    _of("chimera_of_errors", "DMS-P-006", "first_sample_named", "bias_in_half", "empty_is_bare"),
)
