"""Says which arrays of a table are modalities: all that look like one, or those that are chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from numpy.typing import NDArray

from dms_spec.embeddings.looks import look, look_of_mask, synonym
from dms_spec.embeddings.modalities import BATCH
from dms_spec.embeddings.presence import RESERVED, is_reserved
from dms_spec.errors import MissingInput, SpecError, closest
from dms_spec.plugins import available
from dms_spec.types import INPUT_NAMES, OUTPUT_NAMES

Arrays = Mapping[str, NDArray[Any]]


def choose(
    arrays: Arrays,
    chosen: Sequence[str] | None,
    axis: Sequence[str] | None,
    where: str,
    *,
    learn: bool = False,
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names the modalities for which there are arrays, and notes other arrays.

    Args:
        arrays: All of them, in the order of the container.
        chosen: The modalities that somebody named: these, in this order, whatever they look like.
        axis: The modalities of an artifact or a spec: those of them that there are. Others are
            left alone, unless one looks like a mask, or has the misspelt name of one that lacks.
        where: The table's name, for messages.
        learn: To be learned from: nothing beside the axis is left alone unless it is chosen so.

    Raises:
        SpecError: A name is reserved, or an array does not look like a modality.
        MissingInput: There is no such array, or no modality at all.
    """
    names = [name for name in arrays if not is_reserved(name)]
    for name in chosen or axis or names:
        check_name(name, where)
    if chosen is not None:
        _check_chosen(chosen, names, axis, where)
        kept = tuple(chosen)
    elif axis is not None:
        _check_others(arrays, names, axis, where, learn)
        kept = tuple(name for name in axis if name in names)
    else:
        _check_looks(arrays, names, where)
        kept = tuple(names)
    if not kept:
        raise MissingInput(
            f"{where} has no modality",
            expected=f"arrays {', '.join(axis)}"
            if axis
            else "an array [N, D] for each modality, under its name",
            got=", ".join(arrays) or "no array",
        )
    return kept, tuple(f"array {name!r} is not used" for name in names if name not in kept)


def check_name(name: str, where: str) -> None:
    """Refuses a name that a modality cannot have.

    Raises:
        SpecError: It is that of another array of a table, of a signal or of an output.
    """
    if is_reserved(name):
        raise SpecError(
            f"modality {name!r} has the name of another array of a table",
            expected=f"a name other than {', '.join(RESERVED)}",
            fix="Rename the modality.",
        )
    if name in OUTPUT_NAMES or name in available("signal"):
        meant = synonym(name)
        raise SpecError(
            f"{where} has an array {name!r}, which is the name of something else",
            expected="a modality under a name of its own; those of signals, and "
            f"{', '.join(OUTPUT_NAMES)} are taken",
            fix=(f"Did you mean {meant!r}? " if meant else "")
            + "Rename it, leave it out, or choose others with --modalities.",
        )


def _check_chosen(
    chosen: Sequence[str], names: list[str], axis: Sequence[str] | None, where: str
) -> None:
    if not chosen or len(set(chosen)) < len(chosen):
        raise SpecError(
            "the modalities chosen are not distinct names",
            expected="one or more, each once",
            got=", ".join(chosen) or "none",
        )
    for name in chosen:
        if name not in names:
            raise MissingInput(
                f"{where} lacks modality {name!r}",
                expected=", ".join(chosen),
                got=", ".join(names) or "none",
                fix=closest(name, names),
            )
        if axis is not None and name not in axis:
            raise SpecError(
                f"modality {name!r} is chosen, but it was not learned from",
                expected=f"some of {', '.join(axis)}",
                got=", ".join(chosen),
                fix=closest(name, axis),
            )


def _check_others(
    arrays: Arrays, names: list[str], axis: Sequence[str], where: str, learn: bool
) -> None:
    lacking = [name for name in axis if name not in names]
    for name in [name for name in names if name not in axis]:
        looks = look_of_mask(arrays[name], len(axis))
        near = _near(name, lacking) or ("present" if looks else _near(name, ["present"]))
        if not (near or lacking or learn):
            continue
        what = f"looks like {looks.what}" if looks else "is none of the modalities that are known"
        raise SpecError(
            f"array {name!r} in {where} {what}",
            expected=", ".join(axis),
            got=", ".join(arrays),
            fix=BATCH
            if name in INPUT_NAMES
            else (f"Did you mean {near!r}? " if near else "")
            + (f"There is no {lacking[0]!r}. " if lacking and not near else "")
            + "Rename it, leave it out, or choose others with --modalities.",
        )


def _near(name: str, known: Sequence[str]) -> str:
    """Gives the known name that this one is meant to be, in any case; empty if none is near."""
    plain = {other.lower(): other for other in known}
    close = get_close_matches(name.lower(), plain, n=1, cutoff=0.6)
    return plain[close[0]] if close else ""


def _check_looks(arrays: Arrays, names: list[str], where: str) -> None:
    bodies = [n for n in names if arrays[n].ndim > 1 and arrays[n].shape[1] > 1]
    bodies = [n for n in bodies if arrays[n].dtype != bool]
    rows = len(arrays[bodies[0]]) if bodies else 0
    looks = {
        name: look(name, arrays[name], len([n for n in bodies if n != name]), rows)
        for name in (names if len(names) > 1 else ())
    }
    rest = [name for name in bodies if not looks.get(name)] or names
    for name, found in looks.items():
        if found is None:
            continue
        meant = _near(name, RESERVED) or found.meant
        choice = f"--modalities {','.join(rest)} (in Python: modalities=...)"
        raise SpecError(
            f"array {name!r} in {where} looks like {found.what}",
            expected="embeddings [N, D] in each array that is to be a modality",
            got=f"{arrays[name].dtype} {list(arrays[name].shape)}",
            fix=f"{_instead(meant, arrays)}, or choose: {choice}.",
        )


def _instead(meant: str, arrays: Arrays) -> str:
    if not meant:
        return "A table needs none: leave it out"
    again = "It is there already: leave one out" if meant in arrays else "Rename it"
    return f"Did you mean {meant}? {again}"
