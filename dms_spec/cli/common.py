"""Holds what several verbs share: reading a batch and a spec, and summing up what was written."""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from dms_spec.artifact import Artifact, load_artifact
from dms_spec.cli.printing import note
from dms_spec.errors import DMSWarning, DTypeError, FileError, SpecError, closest, unknown
from dms_spec.files import array_target, check_suffix, read_arrays
from dms_spec.markup import text_table
from dms_spec.outputs import Target, check_not_input
from dms_spec.plugins import get_backend
from dms_spec.spec import PRESETS, SchedulerSpec
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


def names_of(text: str | None) -> tuple[str, ...] | None:
    """The names in a list with commas; None without one."""
    return None if text is None else tuple(name.strip() for name in text.split(","))


def schedule_file(args: argparse.Namespace) -> tuple[Artifact, ModalityBatch, Schedule]:
    """Reads the input, runs the scheduler, and converts everything to NumPy arrays.

    Arrays that no scheduler reads are named on stderr and left alone.
    """
    backend = get_backend(args.backend)
    device = backend.check_device(args.device)
    arrays = read_arrays(args.input)
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
    with warnings.catch_warnings():
        # The same words come back as notes of the result.
        warnings.simplefilter("ignore", DMSWarning)
        scheduler = backend.scheduler(artifact.spec, artifact.scheduler_parameters, device=device)
    moved = {name: backend.from_numpy(array, device) for name, array in arrays.items()}
    result = scheduler(ModalityBatch(**moved))
    return artifact, batch, result.converted(backend.to_numpy)


def output_target(output: Path, source: Path, kind: str) -> Target:
    """Gives the target of an output file, checked before any work is done.

    Raises:
        FileError: Its format is unknown, it is the input, something else is there, or its folder
            cannot be written to.
    """
    check_suffix(output)
    check_not_input(output, source)
    return array_target(output, kind)


def modality_summary(
    names: Sequence[str], active: NDArray[Any], weights: NDArray[Any]
) -> list[dict[str, Any]]:
    """Says for each modality in how many samples it takes part, and its mean weight there.

    The mean leaves out the samples without it; they would dilute it.
    """
    return [
        {
            "name": name,
            "active": int(active[:, m].sum()),
            "mean_weight_where_active": float(weights[active[:, m], m].mean())
            if active[:, m].any()
            else None,
        }
        for m, name in enumerate(names)
    ]


def modality_table(summary: Sequence[dict[str, Any]], samples: int) -> str:
    """Prints the same for people."""
    rows = []
    for row in summary:
        mean = row["mean_weight_where_active"]
        rows.append(
            (row["name"], f"{row['active']} of {samples}", "-" if mean is None else f"{mean:.3f}")
        )
    return text_table(("modality", "active in", "mean weight there"), rows, right=(1, 2))


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
            return Artifact(spec=SchedulerSpec.from_json(read_text(path)))
    except OSError as error:  # such as a JSON text in place of its file
        raise FileError(f"cannot read {path}", got=str(error)) from error
    raise SpecError(
        f"there is no spec {text!r}",
        expected=f"a preset ({', '.join(PRESETS)}), a JSON file or an artifact folder",
        fix=closest(text, PRESETS),
    )
