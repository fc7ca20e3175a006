"""``dms robustness`` measures what a fitted artifact is worth when its inputs go wrong."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from typing import Any

from dms_spec.artifact import CARD, Artifact, load_artifact
from dms_spec.cli.common import add_columns, check_order, columns_of
from dms_spec.cli.printing import note, say, say_json, say_table
from dms_spec.cli.progress import Bar
from dms_spec.embeddings.origin import other_encoders
from dms_spec.embeddings.predictor import Predictor
from dms_spec.embeddings.sources.columns import Columns
from dms_spec.embeddings.table import read_table
from dms_spec.errors import (
    BackendUnavailable,
    SpecError,
    UnknownName,
    closest,
    install_hint,
    unknown,
)
from dms_spec.outputs import remove
from dms_spec.plugins import get_backend
from dms_spec.robustness import (
    Case,
    Corruption,
    Progress,
    Result,
    Samples,
    conditions,
    corruption,
    findings,
    measure,
    named,
    of_predictor,
    report,
    sensor_failure,
    sweep,
)
from dms_spec.robustness.corruptions.features import FEATURES
from dms_spec.robustness.store import STORE_MARK

_QUICK = ("gaussian", "zeroed", "absent", "conflict")
_PROTOCOLS = ("quick", "full", "sensor")


EXAMPLE = "dms robustness model train.npz -o report"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "artifact", metavar="DIR", type=Path, help="artifact folder, as dms fit writes it"
    )
    parser.add_argument(
        "input",
        metavar="IN",
        type=Path,
        help="a table with labels, as dms fit reads it: its test rows are measured, or all of them",
    )
    parser.add_argument(
        "-o", "--output", metavar="OUT_DIR", type=Path, required=True, help="folder for the report"
    )
    parser.add_argument(
        "--protocol",
        choices=_PROTOCOLS,
        help=f"quick: {', '.join(_QUICK)}; full: every corruption, and sensor; sensor: every set "
        "of modalities missing, random features missing, noise (default: quick)",
    )
    parser.add_argument(
        "--corruption",
        metavar="NAME[:S1,S2,...]",
        action="append",
        help="measure this corruption, at its own severities or at these, in place of a "
        "protocol; can be repeated",
    )
    parser.add_argument(
        "--modalities",
        metavar="A,B,...",
        help="corrupt these in every sample (default: half of them, drawn for each sample)",
    )
    add_columns(parser, "label", "split")
    parser.add_argument(
        "--seeds", metavar="INT", type=int, default=5, help="number of seeds (default: %(default)s)"
    )
    parser.add_argument(
        "--seed", metavar="INT", type=int, default=0, help="the first seed (default: %(default)s)"
    )
    parser.add_argument(
        "--backend", default="numpy", help="where to compute (default: %(default)s)"
    )
    parser.add_argument("--device", help="one of the backend's devices (default: its first)")
    parser.add_argument("--overwrite", action="store_true", help="replace a report in OUT_DIR")
    parser.add_argument(
        "--card", action="store_true", help="write a section into DIR/README.md as well"
    )
    parser.add_argument("--json", action="store_true", help="print JSON, for machines")


def run(args: argparse.Namespace) -> int:
    try:
        import_module("matplotlib")  # before the work, not after it
        import_module("tqdm")
    except ImportError as error:
        raise BackendUnavailable(
            "a robustness report needs matplotlib and tqdm",
            got=str(error),
            fix=install_hint("dms-spec[robustness]"),
        ) from error

    check_order("robustness", args.artifact, args.input)
    target = report.report_target(args.output, overwrite=args.overwrite)
    backend = get_backend(args.backend)
    fitted = load_artifact(args.artifact)
    # A row with nothing left is measured too: its answer is the class frequencies.
    spec = fitted.spec.replace(strict=False, nonfinite="mask")
    artifact = Artifact(spec=spec, parameters=fitted.parameters, model=fitted.model)
    predictor = Predictor(artifact, backend, args.device)
    columns = columns_of(args)
    table = read_table(
        args.input,
        columns=columns,
        before=Columns.of_model(fitted.model),
        axis=spec.modalities,
    )
    samples = Samples.of_table(table, predictor.classes, prior=predictor.model.prior)
    notes = [*other_encoders(fitted.model, args.input, columns), *samples.notes]
    if spec != fitted.spec:
        notes.append(
            "the spec refuses rows that are not finite or have nothing present; here they count"
        )
    samples = replace(samples, notes=tuple(notes))
    cases = _cases(args, spec.modalities)
    target.make_parent()  # where the store lies
    store = store_of(target.folder)
    with Bar() as bar:
        result = measure(
            {"fusion": of_predictor(predictor)},
            samples,
            cases,
            store=store,
            identity=_identity(fitted, args.backend),
            report=_reporting(bar),
        )
    title = f"Robustness of {args.artifact.resolve().name}: policy {spec.policy}"
    report.write_report(result, args.output, title=title, overwrite=args.overwrite)
    if args.card:
        report.put_in_card(args.artifact / CARD, report.section(result))
    remove(store, STORE_MARK)
    if result.resumed:
        note(f"went on after {result.resumed} finished cases")
    files = {name: str(args.output / name) for name in report.FILES}
    if args.json:
        data = {
            "output": str(args.output),
            "files": files,
            "samples": len(samples),
            "summary": result.summary(),
            "sensor_failure": result.sensor_failure(),
            "findings": findings.findings(result),
            "notes": list(result.notes),
        }
        say_json(data)
        return 0
    for text in result.notes:
        note(text)
    _print(result, args)
    return 0


def store_of(output: Path) -> Path:
    """Names the file that keeps finished cases until the report is written."""
    return output.with_name(f"{output.name}.cases.jsonl")


def _cases(args: argparse.Namespace, modalities: tuple[str, ...]) -> tuple[Case, ...]:

    if args.corruption and args.protocol:
        raise SpecError(
            "--corruption and --protocol exclude each other",
            fix="A corruption is measured in place of a protocol.",
        )
    if args.seeds < 1 or args.seed < 0:
        raise SpecError(
            "there are no such seeds",
            expected="--seeds 1 or more, --seed 0 or more",
            got=f"--seeds {args.seeds} --seed {args.seed}",
        )
    seeds = range(args.seed, args.seed + args.seeds)
    patterns = None
    if args.modalities is not None:
        if args.protocol == "sensor":
            raise SpecError(
                "--modalities has no meaning for the sensor protocol",
                fix="It takes every set of modalities; leave the option out.",
            )
        names = [name.strip() for name in args.modalities.split(",")]
        for name in names:
            if name not in modalities:
                raise unknown("modality", name, modalities)
        patterns = (named(dict.fromkeys(names)),)
    protocol = args.protocol or "quick"
    if args.corruption:
        return sweep(
            [_corruption(text) for text in args.corruption], patterns=patterns, seeds=seeds
        )
    cases: tuple[Case, ...] = ()
    if protocol != "sensor":
        names = list(_QUICK if protocol == "quick" else FEATURES)
        cases = sweep(names, patterns=patterns, seeds=seeds)
    return cases if protocol == "quick" else cases + sensor_failure(modalities, seeds=seeds)


def _corruption(text: str) -> Corruption:

    name, _, numbers = text.partition(":")
    if name not in FEATURES:  # raw inputs are for Python: a table holds features
        raise UnknownName(f"unknown corruption {name!r} of features", fix=closest(name, FEATURES))
    what = corruption(name)
    if not numbers:
        return what
    try:
        return what.at(*(float(number) for number in numbers.split(",")))
    except ValueError as error:
        if isinstance(error, SpecError):
            raise
        raise SpecError(
            f"severities of {name!r} are not numbers", expected="S1,S2,...", got=numbers
        ) from error


def _identity(artifact: Any, backend: str) -> str:
    """Makes a text that changes when the artifact or the place of computing does."""
    digest = sha256(json.dumps([backend, artifact.spec.to_dict(), dict(artifact.model)]).encode())
    for name, array in sorted(artifact.parameters.items()):
        digest.update(f"{name}{array.dtype}{array.shape}".encode() + array.tobytes())
    return digest.hexdigest()


def _reporting(bar: Bar) -> Callable[[Progress], None]:
    """Gives what shows progress."""
    begun = False

    def report(progress: Progress) -> None:
        nonlocal begun
        if not begun:
            bar.begin("measuring", progress.total, "case", progress.done - 1)
            begun = True
        bar.step(str(progress.case))

    return report


def _print(result: Result, args: argparse.Namespace) -> None:

    say(f"{result.samples} samples, {', '.join(result.modalities)}; backend {args.backend}\n")
    tables = [findings.accuracy_table(result)] if len(conditions.swept(result)) > 1 else []
    tables += [found for found in [findings.sensor_table(result)] if found[1]]
    for header, rows in tables:
        say_table(header, rows, right=range(1, len(header)))
        say()
    for text in findings.findings(result):
        say(text)
    if args.card:
        say(f"wrote a section into {args.artifact / 'README.md'}")
    say(f"wrote {args.output}: open {args.output / 'robustness.html'}")
