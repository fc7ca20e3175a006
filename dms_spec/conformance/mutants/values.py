"""Wrong about signals and fusion."""

from __future__ import annotations

from dms_spec.conformance.mutants.mutant import Mutant

MUTANTS: tuple[Mutant, ...] = ()
