"""Holds what several verbs share: reading a batch and a spec, and summing up what was written."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dms_spec.artifact import Artifact, load_artifact
from dms_spec.cli.printing import note
from dms_spec.embeddings.sources.columns import Columns
from dms_spec.engine.scheduler import row_blocks
from dms_spec.engine.warning import quietly
from dms_spec.errors import (
    DMSError,
    DTypeError,
    FileError,
    MissingInput,
    SpecError,
    closest,
    unknown,
)
from dms_spec.files import SUFFIXES, array_target, check_suffix, read_arrays
from dms_spec.markup import text_table
from dms_spec.outputs import Target, check_not_input, is_artifact
from dms_spec.plugins import get_backend
from dms_spec.spec import PRESETS, SchedulerSpec
from dms_spec.streams import forget
from dms_spec.texts import read_text
from dms_spec.types import INPUT_NAMES, ModalityBatch, Schedule


def add_input_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of every verb that schedules a file."""
    parser.add_argument(
        "input",
        metavar="IN",
        type=Path,
        help=".npz or .safetensors with features [B, M, D], and as the spec needs them logits "
        "[B, M, C], mc_logits [T, B, M, C], present [B, M] (bool)",
    )
    parser.add_argument(
        "--spec",
        default="paper",
        metavar="S",
        help="a preset (paper, robust, static), a JSON file, or an artifact folder "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--modalities",
        metavar="A,B,...",
        help="names for a preset, in the arrays' order (default: modality_1, modality_2, ...)",
    )
    parser.add_argument(
        "--backend", default="numpy", help="where to compute (default: %(default)s)"
    )
    parser.add_argument("--device", help="one of the backend's devices (default: its first)")
    parser.add_argument("--json", action="store_true", help="print JSON, for machines")


def add_modalities(parser: argparse.ArgumentParser, others: str) -> None:
    """The option that says which arrays of a table are modalities."""
    parser.add_argument(
        "--modalities",
        metavar="A,B,...",
        help=f"these arrays are the modalities, whatever they look like; {others}",
    )


def check_order(verb: str, first: Path, second: Path) -> None:
    """Refuses an artifact that stands in the place of the table, and the other way round.

    Raises:
        FileError: They are swapped.
    """
    if is_artifact(second) and not is_artifact(first):
        raise FileError(
            "the arguments are swapped",
            expected="the artifact first, then the table",
            got=f"{first} {second}",
            fix=f"Run dms {verb} {second} {first} ...",
        )


def check_input(args: argparse.Namespace) -> None:
    """Refuses an artifact that stands in the place of the batch.

    Raises:
        FileError: It does.
    """
    if is_artifact(args.input):
        raise FileError(
            f"{args.input} is no input",
            expected="a batch or a table as IN, and the artifact as --spec",
            got="an artifact",
            fix=f"Name a file of arrays as IN, and say --spec {args.input}",
        )


_COLUMNS = {
    "label": ("labels", "the column with the classes (default: labels)"),
    "group": ("groups", "the column with the groups (default: groups)"),
    "weight": ("sample_weight", "the column with the weights (default: sample_weight)"),
    "split": ("split", "a column that says train, validation or test for each row"),
    "id": ("id", "a column that names the rows"),
}


def add_columns(parser: argparse.ArgumentParser, *names: str) -> None:
    """The options that say which columns of a frame are what.

    Args:
        parser: Of a verb that reads a table.
        names: Of the options beside ``--modality``.
    """
    group = parser.add_argument_group("columns of .parquet, .arrow, .feather and .csv")
    group.add_argument(
        "--modality",
        metavar="NAME=COL,...",
        action="append",
        help="a modality and its column of vectors, or its columns of numbers, of which 'e5_*' "
        "names all that begin so; can be repeated (default: as the artifact was learned, else "
        "every column of vectors)",
    )
    _add_roles(group, names)


def add_roles(parser: argparse.ArgumentParser, *names: str) -> None:
    """The options that say which columns are what, beside the modalities."""
    _add_roles(parser.add_argument_group("columns that go with the embeddings"), names)


def _add_roles(group: argparse._ArgumentGroup, names: Sequence[str]) -> None:
    for name in names:
        group.add_argument(f"--{name}", metavar="COL", help=_COLUMNS[name][1])


def roles_of(args: argparse.Namespace) -> dict[str, Any]:
    """Reads these options, as `Columns` has them."""
    return {role: getattr(args, name, None) for name, (role, _) in _COLUMNS.items()}


def columns_of(args: argparse.Namespace) -> Columns:
    """Reads these options.

    Raises:
        SpecError: A modality is not ``NAME=COL,...``, or is given twice.
    """
    modalities: dict[str, tuple[str, ...]] = {}
    for text in args.modality or ():
        name, equals, columns = text.partition("=")
        wanted = tuple(column.strip() for column in columns.split(","))
        if not equals or not name.strip() or not all(wanted) or name.strip() in modalities:
            raise SpecError(
                "--modality does not name a modality and its columns",
                expected="NAME=COL,... once for each, such as image=clip or text=e5_*",
                got=text,
            )
        modalities[name.strip()] = wanted
    return Columns(modalities=modalities, **roles_of(args))


def names_of(text: str | None) -> tuple[str, ...] | None:
    """The names in a list with commas; None without one."""
    return None if text is None else tuple(name.strip() for name in text.split(","))


def size_of(text: str, option: str) -> int:
    """Reads a number of bytes, such as 500MB or 2GB.

    Raises:
        SpecError: It is something else.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([KMGT]?)B?", text.strip(), re.IGNORECASE)
    if found is None:
        raise SpecError(
            f"{option} is no size", expected="a number of bytes, such as 500MB or 2GB", got=text
        )
    return int(float(found[1]) * 1000 ** " KMGT".index(found[2].upper() or " "))


def schedule_file(args: argparse.Namespace) -> tuple[Artifact, ModalityBatch, Schedule]:
    """Reads the input, runs the scheduler, and converts everything to NumPy arrays.

    Arrays that no scheduler reads are named on stderr and left alone.
    """
    artifact, batch, parts = schedule_parts(args)
    found = list(parts)
    return artifact, batch, found[0] if len(found) == 1 else _joined(found)


def schedule_parts(
    args: argparse.Namespace,
) -> tuple[Artifact, ModalityBatch, Iterator[Schedule]]:
    """Does the same for some samples at a time, in their order: at least one part."""
    check_input(args)
    backend = get_backend(args.backend)
    device = backend.check_device(args.device)
    arrays = read_arrays(args.input, wanted=lambda name, *_: name in INPUT_NAMES, mapped=True)
    if not {"features", "logits"} & set(arrays):
        raise MissingInput(
            f"{args.input} holds no batch",
            expected="features [B, M, D], or logits [B, M, C]",
            got=", ".join(arrays) or "no arrays",
            fix="If it is a table of embeddings, learn from it with dms fit; dms predict and "
            "dms explain --spec DIR then read it.",
        )
    for name in [name for name in arrays if name not in INPUT_NAMES]:
        hint = closest(name, INPUT_NAMES)
        if hint.startswith("Did"):  # a mistyped name must not lose an input
            raise unknown(f"array in {args.input}", name, INPUT_NAMES)
        note(f"{args.input}: array {name!r} is not used")
        del arrays[name]
    batch = ModalityBatch(**arrays)
    for name, array in arrays.items():
        # Otherwise each library refuses it in its own way. NumPy has no kind for bfloat16.
        if array.dtype.kind not in "biufc" and array.dtype.name != "bfloat16":
            raise DTypeError(
                f"{name} in {args.input} does not hold numbers",
                expected="bool" if name == "present" else "a floating dtype",
                got=str(array.dtype),
            )
    artifact = read_spec(args.spec, args.modalities, batch.shape[1])
    with quietly():  # the same words come back as notes of the result
        scheduler = backend.scheduler(artifact.spec, artifact.scheduler_parameters, device=device)

    def parts() -> Iterator[Schedule]:
        entries = sum(array.size for array in arrays.values())
        for rows in row_blocks(batch.shape[0], entries, _ENTRIES):
            part = {k: v[:, rows] if k == "mc_logits" else v[rows] for k, v in arrays.items()}
            moved = {k: backend.from_numpy(np.asarray(v), device) for k, v in part.items()}
            try:
                result = scheduler(ModalityBatch(**moved))
            except DMSError as error:  # its sample is counted from the first of these rows
                if rows.start:
                    error.args = (f"from sample {rows.start} on: {error}",)
                raise
            yield result.converted(backend.to_numpy)
            forget(*arrays.values())

    return artifact, batch, parts()


# Entries of a file that are scheduled at a time.
_ENTRIES = 1 << 23


def _joined(parts: Sequence[Schedule]) -> Schedule:
    """Joins the schedules of consecutive samples."""
    first = parts[0]

    def joined(array: Any, *others: Any) -> Any:
        return np.concatenate([array, *others])

    return Schedule(
        weights=joined(*(p.weights for p in parts)),
        fused=joined(*(p.fused for p in parts)),
        scores=joined(*(p.scores for p in parts)),
        active=joined(*(p.active for p in parts)),
        signals={name: joined(*(p.signals[name] for p in parts)) for name in first.signals},
        terms={name: joined(*(p.terms[name] for p in parts)) for name in first.terms},
        soundness=None if first.soundness is None else joined(*(p.soundness for p in parts)),
        notes=tuple(dict.fromkeys(note for p in parts for note in p.notes)),
    )


def output_target(output: Path, source: Path, kind: str) -> Target:
    """Gives the target of an output file, checked before any work is done.

    Raises:
        FileError: Its format is unknown, it is the input, something else is there, or its folder
            cannot be written to.
    """
    check_suffix(output)
    check_not_input(output, source)
    return array_target(output, kind)


def modality_table(summary: Sequence[dict[str, Any]], samples: int) -> str:
    """Prints the same for people."""
    rows = []
    for row in summary:
        mean = row["mean_weight_where_active"]
        rows.append(
            (row["name"], f"{row['active']} of {samples}", "-" if mean is None else f"{mean:.3f}")
        )
    return text_table(("modality", "active in", "mean weight there"), rows, right=(1, 2))


def json_spec(path: Path) -> str:
    """Reads the text of a spec.

    Raises:
        SpecError: It is no text.
        FileError: It cannot be read.
    """
    if path.suffix in SUFFIXES:
        raise SpecError(
            f"{path} is no spec",
            expected=f"a preset ({', '.join(PRESETS)}), a JSON file or an artifact folder",
            got="a file of arrays",
            fix="dms fit learns an artifact from a table of embeddings.",
        )
    return read_text(path)


def read_spec(text: str, modalities: str | None, count: int | None = None) -> Artifact:
    """Reads a spec from a preset's name, a JSON file or an artifact folder.

    Without names, a preset's modalities are numbered, as many as ``count`` says.

    Raises:
        SpecError: It is none of the three, or names are given that the spec has already.
    """
    path = Path(text)
    if text in PRESETS:
        if not modalities and count is None:
            raise SpecError(
                f"preset {text!r} does not say which modalities there are",
                expected="--modalities A,B,...",
            )
        numbered = [f"modality_{i + 1}" for i in range(count or 0)]
        names = modalities.split(",") if modalities else numbered
        return Artifact(spec=SchedulerSpec.preset(text, tuple(name.strip() for name in names)))
    if modalities:
        raise SpecError("--modalities is for presets", got=f"--spec {text}, which names its own")
    try:
        if path.is_dir():
            return load_artifact(path)
        if path.is_file():
            return Artifact(spec=SchedulerSpec.from_json(json_spec(path)))
    except OSError as error:  # such as a JSON text in place of its file
        raise FileError(f"cannot read {path}", got=str(error)) from error
    raise SpecError(
        f"there is no spec {text!r}",
        expected=f"a preset ({', '.join(PRESETS)}), a JSON file or an artifact folder",
        fix=closest(text, PRESETS),
    )
