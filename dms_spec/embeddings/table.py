"""Holds a table: one array of frozen embeddings per modality, with presence, labels and a split.

Everything that a table can be wrong in is found here, before anything is learned from it. A file
and arrays in memory come in by the same door, `Table.from_arrays`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from dms_spec.embeddings.arrays import column_names, to_array
from dms_spec.embeddings.labels import listed, read_labels, tally, unlabelled
from dms_spec.embeddings.modalities import on_axis, read_embeddings
from dms_spec.embeddings.nonfinite import (
    NonFinite,
    absence,
    columns_to_leave,
    finite_rows,
    nonfinite,
)
from dms_spec.embeddings.presence import by_name, is_reserved, presence
from dms_spec.embeddings.roles import choose
from dms_spec.embeddings.sources.columns import Columns, Taken, Wanted
from dms_spec.embeddings.sources.frames import arrays_of_frame, open_frame, take_of
from dms_spec.embeddings.sources.reading import read_source
from dms_spec.embeddings.split import (
    SPLITS,
    check_disjoint,
    read_groups,
    read_weights,
    row_indices,
    straddling,
)
from dms_spec.errors import MissingInput, NonFiniteInput
from dms_spec.markup import counted
from dms_spec.streams import forget

# Numbers at a time, of all embeddings.
_PART_VALUES = 1 << 21


@dataclass(frozen=True, kw_only=True)
class Table:
    """N samples seen through M modalities.

    Attributes:
        embeddings: ``[N, D_m]`` floating, by modality, in the order of the M axis.
        present: bool ``[N, M]``. Where it is False the embeddings may hold anything.
        labels: ``[N]``, integers or strings; None if the table has none.
        labelled: bool ``[N]``, which rows have a label; None: all. Elsewhere ``labels`` may hold
            anything.
        train: Rows to learn from, in rising order; None if the table has no split.
        test: Rows to measure on, in rising order; None if there are none.
        validation: Rows to choose settings on, in rising order; None leaves the choice of rows to
            whoever learns. Never learned from, and never among ``train`` or ``test``.
        groups: ``[N]``, integers from 0: rows of one group (one subject, one recording) stay
            together in every fold. None: every row stands alone.
        sample_weight: float64 ``[N]``, finite, 0 or more: how much each row counts in learning
            and in what is measured on validation rows. None: all count alike.
        nonfinite: By modality, where rows that claim to be present hold NaN or Inf. These rows
            are False in ``present``.
        remarks: What was found odd in reading it, in words.
        columns: Which columns of a frame it comes from; None if it comes from arrays.

    Example:
        >>> import numpy as np
        >>> from dms_spec import Table
        >>> random = np.random.default_rng(0)
        >>> table = Table.from_arrays(
        ...     {
        ...         "image": random.normal(size=(4, 8)),
        ...         "text": random.normal(size=(4, 6)),
        ...         "labels": ["cat", "dog", "cat", "dog"],
        ...     }
        ... )
        >>> table.modalities, len(table)
        (('image', 'text'), 4)
    """

    embeddings: Mapping[str, NDArray[Any]]
    present: NDArray[np.bool_]
    labels: NDArray[Any] | None = None
    labelled: NDArray[np.bool_] | None = None
    train: NDArray[np.intp] | None = None
    test: NDArray[np.intp] | None = None
    validation: NDArray[np.intp] | None = None
    groups: NDArray[np.intp] | None = None
    sample_weight: NDArray[np.float64] | None = None
    nonfinite: Mapping[str, NonFinite] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    columns: Columns | None = None

    @classmethod
    def from_arrays(
        cls,
        arrays: Mapping[str, Any],
        modalities: Sequence[str] | None = None,
        *,
        axis: Sequence[str] | None = None,
        widths: Mapping[str, int] | None = None,
        need_labels: bool = False,
        strict_labels: bool = True,
        ordered: bool = True,
        where: str = "the table",
        columns: Sequence[str] = (),
    ) -> Self:
        """Makes a table of arrays by name, in any container, and checks all that can be checked.

        Args:
            arrays: ``[N, D_m]`` for each modality under its name, as a list, a NumPy array, a
                tensor or a data frame of numbers; and where they apply

                - ``labels`` [N]: integers or strings; NaN, None or "" where none is known;
                - ``present.<modality>`` [N], bool, for each modality that is missing somewhere;
                  or ``present`` [N, M], bool: a mapping or data frame by modality, or columns in
                  the order of ``present_names`` [M], else in the order of the arrays;
                - ``train``, ``validation``, ``test``: row indices, or bool [N];
                - ``groups`` [N]: integers or strings;
                - ``sample_weight`` [N]: numbers, 0 or more.
            modalities: These arrays are the modalities, in this order, and others are left alone
                with a note. None takes all, and refuses one that looks like a mask, labels, the
                names of rows, or row indices.
            axis: The modalities of an artifact or a spec: the M axis. Other arrays are left alone
                with a note; to learn, they must be left out by ``modalities``.
            widths: D by modality. One of ``axis`` without an array is then absent in all rows,
                with a note; without widths it is an error.
            need_labels: Refuse a table that cannot be learned from: see `check_learnable`.
            strict_labels: Refuse labels that are not classes. Otherwise the table has no labels
                then, and a note says why.
            ordered: Whether the order of the arrays is their author's; a ``.safetensors`` file
                keeps none.
            where: What messages call the table.
            columns: All names that it has, for messages; by default those of the arrays.

        Raises:
            MissingInput, ShapeError, DTypeError, SpecError: It is not a table; the message names
                the array.
        """
        given = by_name({name: a for name, a in arrays.items() if a is not None})
        plain = {name: to_array(name, value, where) for name, value in given.items()}
        names, notes = choose(plain, modalities, axis, where, learn=need_labels)
        parts_of = {name: column_names(given[name]) for name in names}
        embeddings = read_embeddings({name: plain[name] for name in names}, parts_of, where)
        rows = len(embeddings[names[0]])
        if axis is not None:
            embeddings, lacking = on_axis(embeddings, axis, widths, where)
            notes += lacking
        claimed = presence(plain, tuple(embeddings), rows, where, ordered=ordered)
        claimed &= np.isin(list(embeddings), names)
        finite = [finite_rows(array) for array in embeddings.values()]
        labels = read_labels(plain.get("labels"), rows, where, strict=strict_labels)
        parts: dict[str, Any] = {
            n: row_indices(n, plain[n], rows, where) for n in SPLITS if n in plain
        }
        check_disjoint(parts, where)
        table = cls(
            embeddings=embeddings,
            present=claimed & np.stack(finite, axis=1),
            labels=labels.values,
            labelled=labels.known,
            **parts,
            groups=read_groups(plain.get("groups"), rows, where),
            sample_weight=read_weights(plain.get("sample_weight"), rows, where),
            nonfinite={
                name: nonfinite(array, claimed[:, m], finite[m])
                for m, (name, array) in enumerate(embeddings.items())
            },
            remarks=notes + labels.notes,
        )._where_labelled()
        if need_labels:
            check_learnable(table, where, columns or tuple(given))
        return table

    @classmethod
    def from_frame(
        cls,
        frame: Any,
        columns: Columns | Mapping[str, Wanted] | Taken,
        modalities: Sequence[str] | None = None,
        *,
        where: str = "the frame",
        **options: Any,
    ) -> Self:
        """Makes a table of a data frame, with the checks of `from_arrays`.

        Args:
            frame: Of pandas or polars, a ``pyarrow.Table``, a ``datasets.Dataset``, or anything
                else with ``__arrow_c_stream__``.
            columns: Which columns are what; or for each modality its column of vectors, or its
                columns of numbers as a pattern or a list.
            modalities: These of them, in this order.
            where: What messages call the frame.
            options: Of `from_arrays`.

        Raises:
            MissingInput, ShapeError, DTypeError, SpecError: A column is not there, cannot be read,
                or is taken twice; or the table is not one.
            BackendUnavailable: pyarrow is not installed.
        """
        opened = open_frame(frame, where)
        taken = columns if isinstance(columns, Taken) else take_of(opened, columns)
        arrays = arrays_of_frame(opened, taken, widths=options.get("widths"))
        options |= {"where": where, "columns": opened.names}
        table = cls.from_arrays(arrays, modalities or taken.chosen, **options)
        return replace(table, remarks=(*taken.notes, *table.remarks), columns=taken.columns())

    def _where_labelled(self) -> Self:
        """Leaves rows without a label out of every part of a split."""
        if self.labelled is None:
            return self
        known = self.labelled
        parts = {name: getattr(self, name) for name in SPLITS}
        kept: dict[str, Any] = {n: p if p is None else p[known[p]] for n, p in parts.items()}
        return replace(self, **kept, remarks=(*self.remarks, unlabelled(known)))

    def __len__(self) -> int:
        return len(self.present)

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names, in the order of the M axis."""
        return tuple(self.embeddings)

    def rows(self, index: slice | NDArray[np.intp]) -> Self:
        """Gives some of the rows, without the split."""
        columns = ("labels", "labelled", "groups", "sample_weight")
        own = {name: getattr(self, name) for name in columns}
        changes: dict[str, Any] = dict.fromkeys(SPLITS) | {
            name: None if array is None else array[index] for name, array in own.items()
        }
        return replace(
            self,
            embeddings={name: array[index] for name, array in self.embeddings.items()},
            present=self.present[index],
            **changes,
        )

    def parts(self, index: NDArray[np.intp] | None = None) -> Iterator[Self]:
        """Gives some of the rows, or all, in their order and some at a time: at least one part.

        What was read of mapped embeddings is let go of.
        """
        rows = len(self) if index is None else len(index)
        width = sum(array.shape[1] for array in self.embeddings.values())
        step = max(1, _PART_VALUES // width)
        for start in range(0, max(rows, 1), step):
            some = slice(start, min(start + step, rows))
            yield self.rows(some if index is None else index[some])
            forget(*self.embeddings.values())

    def training_rows(self) -> NDArray[np.intp]:
        """``train``, or all rows with a label that are neither in ``test`` nor ``validation``."""
        if self.train is not None:
            return self.train
        free = np.ones(len(self), dtype=bool) if self.labelled is None else self.labelled.copy()
        for other in (self.test, self.validation):
            if other is not None:
                free[other] = False
        return np.flatnonzero(free)

    def labelled_rows(self) -> NDArray[np.intp]:
        """The rows that have a label."""
        if self.labels is None:
            return np.zeros(0, dtype=np.intp)
        known = np.ones(len(self), dtype=bool) if self.labelled is None else self.labelled
        return np.flatnonzero(known)

    def notes(self) -> tuple[str, ...]:
        """What was found to be weaker than it claims, in words."""
        absent = tuple(bad.note(name) for name, bad in self.nonfinite.items() if bad.rows)
        return (*self.remarks, *absent, *self._split_notes())

    def _split_notes(self) -> tuple[str, ...]:
        """Says what is measured on rows that are strange to training, or too near to it."""
        notes = []
        train = self.training_rows()
        for name in ("validation", "test"):
            part = getattr(self, name)
            if part is None:
                continue
            if self.labels is not None:
                unseen = ~np.isin(self.labels[part], self.labels[train])
                if unseen.any():
                    notes.append(
                        f"{name} rows of classes that no training row has, which count as wrong: "
                        f"{tally(self.labels[part][unseen])}"
                    )
            if self.groups is not None and (both := straddling(self.groups, train, part)):
                notes.append(
                    f"{counted(both, 'group')} with rows both in training and in {name}: what is "
                    "measured there does not hold for a new group"
                )
        return tuple(notes)

    def refuse_nonfinite(self) -> None:
        """Refuses NaN and Inf, for a spec with ``nonfinite="raise"``.

        Raises:
            NonFiniteInput: A row that is present holds NaN or Inf.
        """
        for name, bad in self.nonfinite.items():
            if bad.rows:
                raise NonFiniteInput(
                    f"modality {name!r} is not finite where it is present",
                    expected='finite embeddings, since the spec says nonfinite="raise"',
                    got=f"NaN or Inf in {counted(bad.rows, 'row')}: {bad}",
                    fix="Fix them, or mark them absent in present.",
                )


def read_table(
    path: Path | str,
    modalities: Sequence[str] | None = None,
    *,
    columns: Columns | None = None,
    before: Columns | None = None,
    axis: Sequence[str] | None = None,
    widths: Mapping[str, int] | None = None,
    need_labels: bool = False,
    strict_labels: bool = True,
    mapped: bool = False,
    memory: int | None = None,
) -> Table:
    """Reads a table from a file, or from a folder of ``.npy`` files.

    Args:
        path: ``.npz``, ``.safetensors`` or ``NAME.npy`` for each array of `Table.from_arrays`. A
            ``.safetensors`` file holds no strings: there ``present_names`` is metadata, such as
            ``"image,text"``. Or a frame: ``.parquet``, ``.arrow``, ``.feather``, ``.csv``.
        modalities: See `Table.from_arrays`, for this and all others.
        columns: Which columns of a frame are what. Without modalities, each column of vectors is
            one under its own name.
        before: The columns that an artifact was learned from, see `Columns.of_model`.
        axis: The modalities of an artifact or a spec.
        widths: D by modality.
        need_labels: Refuse a table that cannot be learned from.
        strict_labels: Refuse labels that are not classes.
        mapped: Leave large arrays in the file, see `dms_spec.files.read_arrays`. Columns are read
            whole: `read_parts` reads some rows at a time.
        memory: Bytes. A file with more embeddings is mapped, see ``mapped``; columns are copied to
            temporary files first, some rows at a time. None for no limit.

    Raises:
        FileError: The file cannot be read.
        MissingInput, ShapeError, DTypeError, SpecError: The table is not one; the message names
            the array.
        BackendUnavailable: It is a frame, and pyarrow is not installed.

    Example:
        >>> from dms_spec import read_table
        >>> table = read_table("train.npz")
        >>> table.modalities, table.labels[:4]
        (('image', 'text'), array([0, 1, 0, 1]))
    """
    path = Path(path)

    def wanted(name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> bool:
        """What is no modality is left alone, and looked at where it could be a mask."""
        known = modalities or axis
        mask = axis is not None and len(shape) == 2 and shape[1] == len(axis)
        return known is None or name in known or is_reserved(name) or mask

    found = read_source(
        path,
        columns or Columns(),
        before,
        widths=widths,
        wanted=wanted,
        mapped=mapped,
        memory=memory,
    )
    table = Table.from_arrays(
        found.arrays,
        modalities or found.chosen,
        axis=axis,
        widths=widths,
        need_labels=need_labels,
        strict_labels=strict_labels,
        ordered=found.ordered,
        where=str(path),
        columns=found.names,
    )
    return replace(table, remarks=(*found.notes, *table.remarks), columns=found.columns)


def check_learnable(table: Table, where: str = "the table", columns: Sequence[str] = ()) -> None:
    """Refuses a table that nothing can be learned from.

    Args:
        table: The table.
        where: What messages call it.
        columns: All names that it has; by default its modalities.

    Raises:
        MissingInput: There are no labels, no training rows, only one class, or a modality is
            absent in all training rows; or the validation rows given are none.
    """
    if table.labels is None:
        raise MissingInput(
            f"{where} has no labels",
            expected="labels [N], integers or strings",
            got=listed(columns or table.modalities, 20),
            fix="Give an array labels, or name a frame's column: --label NAME (in Python: "
            "Columns(labels=...)). `dms demo --table train.npz` writes a table that has them.",
        )
    if table.validation is not None and not len(table.validation):
        raise MissingInput(
            f"{where} has no validation rows",
            expected="some rows with a label, or no array validation",
            got="none",
            fix="Without the array, they are drawn from the training rows.",
        )
    rows = table.training_rows()
    present = table.present[rows]
    if not present.any():
        raise MissingInput(
            f"nothing is present in any training row of {where}",
            expected="rows with at least one modality",
            got=f"{len(rows)} training rows",
            fix=columns_to_leave(table.nonfinite),
        )
    for m, modality in enumerate(table.modalities):
        own = {name: bad for name, bad in table.nonfinite.items() if name == modality}
        if not present[:, m].any():
            raise MissingInput(
                f"modality {modality!r} is absent in all training rows of {where}",
                expected="rows to learn from",
                got=absence(table.nonfinite.get(modality), len(rows)),
                fix=columns_to_leave(own) or "Leave the modality out.",
            )
    count = present.any(axis=1)
    if table.sample_weight is not None:
        count &= table.sample_weight[rows] > 0
    classes = np.unique(table.labels[rows][count])
    if len(classes) < 2:
        raise MissingInput(
            f"the training rows of {where} are all of one class",
            expected="two classes or more",
            got=f"class {classes.tolist()[0]!r} alone"
            if len(classes)
            else "no row that weighs more than 0",
            fix="There is nothing to tell apart: add rows of another class, or other labels.",
        )
