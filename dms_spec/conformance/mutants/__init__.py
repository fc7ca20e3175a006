"""Backends that are wrong on purpose, each in one way that somebody could be wrong in.

They measure the suite: a wrong backend that it does not catch is a hole in it. ``dms check`` runs
two of them before anything else. An author who wants to see the suite bite runs
``dms check mutant:<name>``.
"""

from __future__ import annotations

from dms_spec.conformance.mutants.mutant import EquationsMutantBackend as EquationsMutantBackend
from dms_spec.conformance.mutants.mutant import Mutant as Mutant
from dms_spec.conformance.mutants.mutant import MutantBackend as MutantBackend
from dms_spec.errors import unknown


def mutants() -> tuple[Mutant, ...]:
    """Every mutant; those of gradients where torch is installed."""
    from dms_spec.conformance.mutants import (
        arrays,
        gradients,
        learned,
        presence,
        signals,
        values,
        weights,
    )

    return (
        *presence.MUTANTS,
        *weights.MUTANTS,
        *signals.MUTANTS,
        *values.MUTANTS,
        *learned.MUTANTS,
        *arrays.MUTANTS,
        *gradients.MUTANTS,
    )


def get_mutant(name: str) -> MutantBackend | EquationsMutantBackend:
    """The backend of a mutant.

    Raises:
        UnknownName: There is none of that name.
    """
    found = {mutant.name: mutant for mutant in mutants()}
    if name not in found:
        raise unknown("mutant", name, found)
    mutant = found[name]
    return EquationsMutantBackend(mutant) if mutant.equations else MutantBackend(mutant)


#: What every run is tested with first: cheap, and wrong in different ways.
_FIRST = ("absent_counted", "uniform")


def self_test() -> dict[str, bool]:
    """Whether the suite catches two wrong backends, by the clauses that they break."""
    return {name: caught(get_mutant(name), examples=20) for name in _FIRST}


def caught(backend: MutantBackend | EquationsMutantBackend, *, examples: int) -> bool:
    """Whether a check of the clause that a mutant breaks fails on it, and names the clause."""
    from dms_spec.conformance.registry import checks
    from dms_spec.conformance.runner import plan, run_one

    clause, dtype = backend.mutant.clause, backend.mutant.dtype
    return any(
        names(run_one(backend, one, examples=examples).message, clause)
        for one in plan(backend, checks(clauses=[clause]), dtypes=[dtype])
    )


def names(message: str, clause: str) -> bool:
    """Whether the message of a result is that of a clause that was broken."""
    return message.startswith(f"{clause}: ")
