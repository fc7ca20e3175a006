"""Says which columns of a frame are what: modalities by name or by pattern, labels, groups, ids."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any, Self

from dms_spec.embeddings.presence import PREFIX, RESERVED
from dms_spec.errors import MissingInput, SpecError, closest

#: A column's name, a pattern with ``*``, ``?`` or ``[...]``, or several of both.
Wanted = str | Sequence[str]

#: Arrays that a column of the same name gives without being asked.
OWN = tuple(name for name in RESERVED if not name.startswith("present"))

#: What `Columns` says beside the modalities.
ROLES = ("labels", "groups", "sample_weight", "split", "id")

# What pandas calls an index without a name, in a file.
_INDEX = re.compile(r"__index_level_\d+__")


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Says which columns of a frame are what.

    Attributes:
        modalities: By modality, the column with its vectors, or its columns of single numbers.
            Empty: every column of vectors is a modality under its own name.
        labels: The column with the classes; None: ``labels``, if there is one.
        groups: The column with the groups; None: ``groups``, if there is one.
        sample_weight: The column with the weights; None: ``sample_weight``, if there is one.
        split: A column that says ``train``, ``validation`` or ``test`` for each row.
        id: A column that names the rows. Nothing is learned from it.

    Example:
        >>> from dms_spec import Columns
        >>> modalities = {"image": "clip", "text": "e5_*"}
        >>> columns = Columns(modalities=modalities, labels="genre", id="track")
        >>> columns.roles()
        {'labels': 'genre', 'id': 'track'}
    """

    modalities: Mapping[str, Wanted] = field(default_factory=dict)
    labels: str | None = None
    groups: str | None = None
    sample_weight: str | None = None
    split: str | None = None
    id: str | None = None

    def roles(self) -> dict[str, str]:
        """The columns that are named beside the modalities, by what they are."""
        found = {name: getattr(self, name) for name in ROLES}
        return {name: column for name, column in found.items() if column is not None}

    def to_dict(self) -> dict[str, Any]:
        """Gives plain data for JSON, which `from_dict` reads."""
        modalities = {name: list(_listed(wanted)) for name, wanted in self.modalities.items()}
        return {"modalities": modalities, **self.roles()}

    @classmethod
    def of_model(cls, model: Mapping[str, Any]) -> Self | None:
        """Reads what an artifact's model keeps of the columns that it was learned from, if any.

        Raises:
            SpecError: It is damaged.
        """
        kept = model.get("columns")
        return None if kept is None else cls.from_dict(kept, "columns in the artifact's model")

    @classmethod
    def from_dict(cls, data: object, where: str) -> Self:
        """Reads what `to_dict` wrote.

        Raises:
            SpecError: It is something else.
        """
        if isinstance(data, Mapping):
            rest = {name: column for name, column in data.items() if name != "modalities"}
            blocks = data.get("modalities", {})
            texts = [*rest.values(), *_cells(blocks)]
            if isinstance(blocks, Mapping) and set(rest) <= set(ROLES) and _are_texts(texts):
                return cls(modalities=dict(blocks), **rest)
        raise SpecError(
            f"{where} does not name columns",
            expected=f"modalities, and some of {', '.join(ROLES)}",
            got=str(data),
        )


def _cells(blocks: object) -> list[object]:
    lists = list(blocks.values()) if isinstance(blocks, Mapping) else []
    return [cell for block in lists for cell in (block if isinstance(block, list) else [None])]


def _are_texts(values: Iterable[object]) -> bool:
    return all(isinstance(value, str) for value in values)


@dataclass(frozen=True, kw_only=True)
class Taken:
    """Says which columns of one frame were taken.

    Attributes:
        modalities: By modality, its columns in their order.
        arrays: By name of a table's array, such as ``labels``, the column that it comes from.
        split: The column that says for each row what it is for; None if there is none.
        id: The column that names the rows; None if there is none.
        notes: What was left out, in words.
        asked: Whether the modalities were asked for, and not found by what they hold.
    """

    modalities: Mapping[str, tuple[str, ...]]
    arrays: Mapping[str, str] = field(default_factory=dict)
    split: str | None = None
    id: str | None = None
    notes: tuple[str, ...] = ()
    asked: bool = True

    @property
    def chosen(self) -> tuple[str, ...] | None:
        """The modalities, if they were asked for: then a table takes them as they are."""
        return tuple(self.modalities) if self.asked else None

    def to_predict(self) -> Self:
        """Leaves out what is there to learn from, or to measure."""
        present = {name: c for name, c in self.arrays.items() if name.startswith(PREFIX)}
        return replace(self, arrays=present, split=None)

    def names(self) -> tuple[str, ...]:
        """All of them, each once."""
        single = [name for name in (self.split, self.id) if name is not None]
        blocks = [name for block in self.modalities.values() for name in block]
        return tuple(dict.fromkeys([*blocks, *self.arrays.values(), *single]))

    def columns(self) -> Columns:
        """The same as a request, without patterns: for the next frame of this kind."""
        named = {name: column for name, column in self.arrays.items() if name in ROLES}
        return Columns(modalities=self.modalities, **named, split=self.split, id=self.id)


def take(
    names: Sequence[str],
    columns: Columns,
    where: str,
    *,
    vectors: Sequence[str] = (),
    before: Columns | None = None,
) -> Taken:
    """Finds the columns that are asked for.

    Args:
        names: Of all columns of the frame.
        columns: What is asked for.
        where: The frame's name, for messages.
        vectors: Which columns hold vectors: the modalities, if none is asked for.
        before: What an artifact was learned from. It says what ``columns`` leaves open; a
            modality or label that this frame lacks whole is left out.

    Raises:
        MissingInput: There is no such column.
        SpecError: A column is taken twice.
    """
    roles = {name: _exact(column, name, names, where) for name, column in columns.roles().items()}
    if before is not None:
        roles = {n: c for n, c in before.roles().items() if c in names} | roles
    own = {name: name for name in names if name in OWN or name.startswith(PREFIX)}
    arrays = own | {name: c for name, c in roles.items() if name in OWN}
    fixed = {*arrays.values(), *roles.values()}
    blocks, notes = {}, []
    for modality, wanted in columns.modalities.items():
        blocks[modality], left = _block(modality, _listed(wanted), names, fixed, where)
        if left:
            notes.append(
                f"modality {modality!r} leaves out {', '.join(left)}: used as something else"
            )
    for modality, wanted in (before.modalities if before else {}).items():
        own_columns = _listed(wanted)
        if modality not in blocks and any(name in names for name in own_columns):
            blocks[modality] = tuple(_exact(n, modality, names, where) for n in own_columns)
    asked = bool(blocks)
    if not asked:
        blocks = {name: (name,) for name in vectors if name not in fixed}
    if not blocks:
        raise MissingInput(
            f"{where} has no column of vectors, and no modality is named",
            expected="--modality NAME=COL,... (in Python: Columns(modalities=...))",
            got=", ".join(names) or "no column",
            fix=_such_as(names),
        )
    _check_once(blocks, names, where)
    return Taken(
        modalities=blocks,
        arrays=arrays,
        split=roles.get("split"),
        id=roles.get("id"),
        notes=tuple(notes),
        asked=asked,
    )


def _listed(wanted: Wanted) -> tuple[str, ...]:
    return (wanted,) if isinstance(wanted, str) else tuple(wanted)


def _exact(column: str, what: str, names: Sequence[str], where: str) -> str:
    if column not in names:
        raise MissingInput(
            f"{where} has no column {column!r}, for {what}", fix=closest(column, names)
        )
    return column


def _block(
    modality: str, wanted: Sequence[str], names: Sequence[str], fixed: set[str], where: str
) -> tuple[tuple[str, ...], list[str]]:
    """Gives the columns of a modality, and those that a pattern leaves to something else."""
    block: list[str] = []
    left: list[str] = []
    for one in wanted:
        if one in names:
            if one in fixed:
                raise SpecError(
                    f"column {one!r} of {where} is taken twice",
                    expected="each column once",
                    got=f"modality {modality!r} and something else",
                    fix="Leave it out of one of the two.",
                )
            block.append(one)
            continue
        found = [n for n in names if fnmatchcase(n, one) and not _INDEX.fullmatch(n)]
        left += [name for name in found if name in fixed]
        found = [name for name in found if name not in fixed]
        if not found:
            raise MissingInput(
                f"no column of {where} is or matches {one!r}, for modality {modality!r}",
                expected="a column's name, or a pattern such as 'e5_*'",
                fix=closest(one.replace("*", "0"), [name for name in names if name not in fixed]),
            )
        block += sorted(found, key=natural)
    return tuple(block), left


def _such_as(names: Sequence[str]) -> str:
    """Gives an option for the first columns that are numbered, such as e5_0 and e5_1."""
    stems = [found[1] for name in names if (found := re.fullmatch(r"(.*\D)\d+", name))]
    stem = next((stem for stem in stems if stems.count(stem) > 1), "")
    name = stem.rstrip("_.-")
    return f"For example: --modality {name}='{stem}*'" if name else ""


def _check_once(blocks: Mapping[str, tuple[str, ...]], names: Sequence[str], where: str) -> None:
    owner: dict[str, str] = {}
    for modality, block in blocks.items():
        for name in block:
            if name in owner or list(names).count(name) > 1:
                first = owner.get(name)
                raise SpecError(
                    f"column {name!r} of {where} is "
                    + ("taken twice" if first is not None else "there twice"),
                    expected="each column once",
                    got="" if first is None else f"modalities {first!r} and {modality!r}",
                    fix="Use a narrower pattern, or list the columns.",
                )
            owner[name] = modality


def natural(name: str) -> list[tuple[int, str]]:
    """Sorts names as people count: ``e5_2`` before ``e5_10``."""
    return [(int(p), p) if p.isdecimal() else (-1, p) for p in re.split(r"(\d+)", name)]
