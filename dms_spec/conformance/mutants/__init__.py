"""Holds backends that are wrong on purpose, each in one way that a real one could be wrong.

They measure the suite: a wrong backend that it does not catch is a gap in it. ``dms check`` runs
two of them before anything else. To see the suite fail, run ``dms check mutant:<name>``.
"""

from __future__ import annotations

import warnings

from dms_spec.conformance.context import ConformanceError, Context
from dms_spec.conformance.mutants import (
    arrays,
    chimeras,
    classes,
    draws,
    evidence,
    gradients,
    heads,
    learned,
    presence,
    rare,
    relations,
    signals,
    silence,
    sizes,
    state,
    typicality,
    values,
    weights,
)
from dms_spec.conformance.mutants.mutant import KINDS as KINDS
from dms_spec.conformance.mutants.mutant import (
    DifferentiableMutantBackend as DifferentiableMutantBackend,
)
from dms_spec.conformance.mutants.mutant import EquationsMutantBackend as EquationsMutantBackend
from dms_spec.conformance.mutants.mutant import HeadsMutantBackend as HeadsMutantBackend
from dms_spec.conformance.mutants.mutant import Mutant as Mutant
from dms_spec.conformance.mutants.mutant import MutantBackend as MutantBackend
from dms_spec.conformance.registry import Check, checks
from dms_spec.errors import unknown
from dms_spec.plugins import get_backend


def mutants() -> tuple[Mutant, ...]:
    """Lists every mutant, and those of gradients where torch is installed."""
    return (
        *presence.MUTANTS,
        *weights.MUTANTS,
        *signals.MUTANTS,
        *relations.MUTANTS,
        *typicality.MUTANTS,
        *values.MUTANTS,
        *evidence.MUTANTS,
        *learned.MUTANTS,
        *arrays.MUTANTS,
        *gradients.MUTANTS,
        *sizes.MUTANTS,
        *state.MUTANTS,
        *draws.MUTANTS,
        *silence.MUTANTS,
        *heads.MUTANTS,
        *classes.MUTANTS,
        *rare.MUTANTS,
        *chimeras.MUTANTS,
    )


def get_mutant(name: str) -> MutantBackend | EquationsMutantBackend:
    """Gives the backend of a mutant.

    Raises:
        UnknownName: There is none of that name.
    """
    found = {mutant.name: mutant for mutant in mutants()}
    if name not in found:
        raise unknown("mutant", name, found)
    mutant = found[name]
    if mutant.equations:
        return EquationsMutantBackend(mutant)
    if mutant.artifact or mutant.rows or mutant.alone:
        return HeadsMutantBackend(mutant)
    differentiable = get_backend(mutant.base).capabilities.gradients
    return DifferentiableMutantBackend(mutant) if differentiable else MutantBackend(mutant)


#: The two that every run starts with: they are cheap, and wrong in different ways.
_FIRST = ("absent_counted", "uniform")


def self_test() -> dict[str, bool]:
    """Says whether the suite catches two wrong backends, by the clauses that they break."""
    return {name: caught(get_mutant(name), examples=20) for name in _FIRST}


def caught(backend: MutantBackend | EquationsMutantBackend, *, examples: int) -> bool:
    """Says whether a check of the clause that a mutant breaks fails on it, and names the clause.

    What breaks one clause may break others as well. Which fails first depends on the cases that
    Hypothesis draws, and these differ between machines, so the others are let pass.
    """
    clause = backend.mutant.clause
    # First the checks whose main clause it is, then those that touch it.
    own = sorted(checks(clauses=[clause]), key=lambda check: check.clauses[0] != clause)
    return any(
        broken_clause(backend, check, examples=examples, only=clause) == clause for check in own
    )


def broken_clause(
    backend: MutantBackend | EquationsMutantBackend,
    check: Check,
    *,
    examples: int,
    only: str = "",
) -> str | None:
    """Names the clause in whose name a check fails on a mutant.

    Empty if it fails without naming one, None if it does not fail. Nothing is shrunk: nobody
    reads the case.
    """
    for device in backend.capabilities.devices:
        context = Context(
            backend=backend,
            device=device,
            dtype=backend.mutant.dtype,
            examples=examples,
            shrink=False,
            only=only,
        )
        if context.lacks(check.needs) or (check.dtypes and context.dtype not in check.dtypes):
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # warnings of a mutant are of no use
                check.run(context)
        except ConformanceError as error:
            return str(error).partition(":")[0]
        except Exception:  # it crashed, or refused: caught, but by no clause
            return ""
    return None
