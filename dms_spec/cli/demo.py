"""``dms demo`` weighs real scans of digits: a table, a picture and files to go on with."""

from __future__ import annotations

import argparse
import json
import shlex
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from dms_spec.artifact import Artifact, artifact_target, save_artifact
from dms_spec.cli.printing import say, say_json
from dms_spec.cli.progress import Bar
from dms_spec.errors import BackendUnavailable, install_hint
from dms_spec.files import array_mark, save_arrays
from dms_spec.outputs import Target
from dms_spec.plugins import get_backend

if TYPE_CHECKING:
    from dms_spec.demo.study import Study

_FILES = {
    "results.json": "every number, and the settings",
    "weights.png": "the weights as one view degrades",
    "digits.npz": "test scans under all conditions, for `dms schedule`",
}
_ARTIFACT = "robust"
_WRITTEN = {**_FILES, _ARTIFACT: "the scheduler 'robust', as an artifact"}
_SAMPLE = 3

_ARRAYS = "samples"
# What one knows a file of a demonstration by.
_MARKS = {
    "results.json": b'"corruption_learned_from"',
    "weights.png": b"dms demo",
    "digits.npz": array_mark("digits.npz", _ARRAYS),
}


EXAMPLE = "dms demo --table train.npz"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-o",
        "--output",
        metavar="DIR",
        type=Path,
        default=Path("demo-out"),
        help="folder for the files, made if missing (default: %(default)s)",
    )
    parser.add_argument(
        "--seed",
        metavar="INT",
        type=seed,
        default=0,
        help="seed of splits, dropout masks and noise, 0 or more (default: %(default)s)",
    )
    parser.add_argument(
        "--backend", default="numpy", help="where to compute (default: %(default)s)"
    )
    parser.add_argument(
        "--table",
        metavar="FILE",
        type=Path,
        help="write the scans as a table to try dms fit on, .npz, .safetensors or .parquet, and "
        "nothing else",
    )
    parser.add_argument("--json", action="store_true", help="print JSON, for machines")


def seed(text: str) -> int:
    """Reads an integer that can seed (argparse names this function when it is not)."""
    if (value := int(text)) < 0:
        raise argparse.ArgumentTypeError(f"a seed is 0 or more, not {value}")
    return value


def run(args: argparse.Namespace) -> int:
    if args.table is not None:
        return _write_table(args)
    try:
        from dms_spec.demo import picture, report, study

        import_module("tqdm")  # for the progress bar: before the work, not in it
    except ImportError as error:
        raise _needs("scikit-learn, matplotlib and tqdm", error) from error

    backend = get_backend(args.backend)
    # Before the work, not after it.
    target = Target.of_folder(args.output, _MARKS, overwrite=True)
    artifact_target(args.output / _ARTIFACT, overwrite=True)
    result = study.run_study(
        backend,
        args.seed,
        study.REPEATS,
        lambda splits: Bar().over(splits, "training and measuring", "split"),
    )
    data = report.as_data(result, args.backend, args.seed)
    with target.writing() as new:
        new["results.json"].write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
        save_arrays(new["digits.npz"], result.example, _ARRAYS)
        picture.draw(new["weights.png"], result)
    learned = Artifact(spec=study.SPECS["robust"], parameters=result.parameters)
    save_artifact(target.folder / _ARTIFACT, learned, overwrite=True)
    if args.json:
        files = {name: str(args.output / name) for name in _WRITTEN}
        say_json(data | {"files": files})
        return 0
    say(report.as_text(result, args.backend))
    say(_next_steps(args.output, result))
    return 0


def _write_table(args: argparse.Namespace) -> int:
    try:
        from dms_spec.demo.table import TEST_RUNS, digits_table, table_target, write_table
    except ImportError as error:
        raise _needs("scikit-learn", error) from error

    target = table_target(args.table)  # before the work, not after it
    arrays = digits_table(args.seed)
    write_table(target, arrays)
    shapes = {name: list(array.shape) for name, array in arrays.items()}
    if args.json:
        say_json({"output": str(args.table), "arrays": shapes})
        return 0
    say(f"wrote {args.table}: " + ", ".join(f"{name} {shape}" for name, shape in shapes.items()))
    say(f"test marks the scans of the last {TEST_RUNS} runs of writers, to measure on")
    table = shlex.quote(str(args.table))
    say(f"\nGo on with\n  dms fit {table} -o model")
    return 0


def _needs(packages: str, error: ImportError) -> BackendUnavailable:
    return BackendUnavailable(
        f"the demo needs {packages}", got=str(error), fix=install_hint("dms-spec[demo]")
    )


def _next_steps(folder: Path, result: Study) -> str:
    """Lists the files, and two commands that go on with them."""
    sample = result.samples[_SAMPLE]
    width = max(len(str(folder / name)) for name in _WRITTEN)
    data, spec, weights = (
        shlex.quote(str(folder / name)) for name in ("digits.npz", _ARTIFACT, "weights.npz")
    )
    return "\n".join(
        [
            "",
            "Files",
            *(f"  {folder / name!s:{width}}  {what}" for name, what in _WRITTEN.items()),
            "",
            "Go on with",
            f"  dms schedule {data} -o {weights} \\\n    --spec {spec}",
            f"  dms explain {data} --spec {spec} --sample {_SAMPLE}",
            (
                f"(sample {_SAMPLE}: a {sample.label} under {sample.condition!r}, degraded: "
                f"{', '.join(sample.degraded)})"
            ),
        ]
    )
