"""``dms embed`` makes a table of embeddings: of images, texts and sounds, by your encoders."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from dms_spec.cli.common import add_roles, roles_of
from dms_spec.cli.printing import note, say, say_json, say_table
from dms_spec.cli.progress import Bar
from dms_spec.embeddings.roles import check_name
from dms_spec.embeddings.sources.columns import Columns
from dms_spec.encoding.embedding import Work, encode, fingerprint, starts
from dms_spec.encoding.encoder import Wish, load_encoder
from dms_spec.encoding.items import Source, read_items
from dms_spec.encoding.journal import Journal, check_journal
from dms_spec.encoding.openers import opener
from dms_spec.encoding.writing import REPORT, check_storable, table_target, write_table
from dms_spec.errors import BackendUnavailable, SpecError, closest, install_hint

EXAMPLE = "dms embed photos -o embedded.npz --image transformers:vit --label folder"

_KINDS = {
    "image": "images, which the encoder gets as RGB pictures of PIL",
    "text": "words, or .txt files of a folder",
    "audio": "sounds, of one channel",
    "file": "files of any kind, whose paths the encoder gets",
}
_PRECISIONS = ("float32", "float16", "bfloat16")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "input",
        metavar="IN",
        type=Path,
        help=".parquet, .arrow, .feather or .csv whose columns hold words, or paths from its own "
        "folder; or a folder of images, .txt and sounds, in which files of one name are one row",
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="OUT",
        type=Path,
        required=True,
        help="the table to write: .npz, .safetensors or .parquet; beside it OUT.json says what "
        "each encoder is, and which items have no embedding and why",
    )
    group = parser.add_argument_group(
        "encoders",
        "NAME is the modality, or left out. ENCODER is transformers:MODEL, "
        "sentence-transformers:MODEL or timm:MODEL, a folder or a name on the Hub; or "
        "module:function, which gets a list and returns numbers [n, D].",
    )
    for kind, text in _KINDS.items():
        group.add_argument(
            f"--{kind}",
            metavar="[NAME=]ENCODER",
            action="append",
            default=[],
            help=f"a modality of {text}; can be repeated",
        )
    group.add_argument(
        "--modality",
        metavar="NAME=COL",
        action="append",
        default=[],
        help="the column of a modality (default: the one with its name, else image, text, audio "
        "or file)",
    )
    group.add_argument(
        "--pooling",
        metavar="NAME=HOW",
        action="append",
        default=[],
        help="features, pooler, cls or mean, for transformers (default: what suits the model)",
    )
    group.add_argument(
        "--precision",
        choices=_PRECISIONS,
        default=_PRECISIONS[0],
        help="what the encoders of a library compute in (default: %(default)s)",
    )
    group.add_argument("--device", default="cpu", help="cpu, cuda, cuda:0, ... (default: cpu)")
    group.add_argument(
        "--batch-size", metavar="INT", type=int, default=32, help="items at a time (default: 32)"
    )
    add_roles(parser, "label", "group", "weight", "split", "id")
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="lose the work of a stopped run with another input or other settings",
    )
    parser.add_argument("--json", action="store_true", help="print JSON, for machines")


def run(args: argparse.Namespace) -> int:

    if args.batch_size < 1:
        raise SpecError(
            "--batch-size is not positive", expected="1 or more", got=str(args.batch_size)
        )
    wishes = _wishes(args)
    _check_bar()
    target = table_target(args.output, args.input)  # before the work, not after it
    path = target.folder / f"{next(iter(target.marks))}.unfinished"
    check_journal(path)
    items = read_items(args.input, _sources(wishes, args.modality), Columns(**roles_of(args)))
    check_storable(args.output, items)
    openers = {name: opener(wish.kind) for name, wish in wishes.items()}
    encoders = {name: load_encoder(wish) for name, wish in wishes.items()}
    run_of = fingerprint(items, encoders, args.batch_size, args.device)
    with Journal(path, run_of, replace=args.overwrite) as journal:
        done = len(journal)
        batches = len(starts(items.rows, args.batch_size)) * len(wishes)
        with Bar() as bar:
            bar.begin("encoding", batches, "batch", done)
            for name, encoder in encoders.items():
                work = Work(cells=items.cells[name], opened=openers[name], encoder=encoder)
                encode(name, work, journal, args.batch_size, partial(bar.step, name))
        report = write_table(target, items, encoders, journal, args.batch_size)
    journal.discard()
    if done:
        note(f"went on from an unfinished run, after {done} of {batches} batches")
    if args.json:
        say_json({"output": str(args.output), **report})
        return 0
    _print(args.output, report)
    return 0


def _check_bar() -> None:
    try:
        import_module("tqdm")  # for the progress bar: before the work, not in it
    except ImportError as error:
        raise BackendUnavailable(
            "embedding needs tqdm", got=str(error), fix=install_hint("dms-spec[embed]")
        ) from error


def _wishes(args: argparse.Namespace) -> dict[str, Wish]:
    """Reads which encoder each modality gets."""
    pooling = _pairs("--pooling", args.pooling)
    found: dict[str, Wish] = {}
    for kind in _KINDS:
        for text in getattr(args, kind):
            before, equals, encoder = text.partition("=")
            name = before.strip() if equals else kind
            check_name(name, "the command")
            if name in found:
                raise SpecError(
                    f"modality {name!r} is given twice",
                    expected=f"a name for each, such as --{kind} {name}_2={encoder or text}",
                )
            found[name] = Wish(
                name=encoder if equals else text,
                kind=kind,
                pooling=pooling.pop(name, None),
                precision=args.precision,
                device=args.device,
            )
    if not found:
        raise SpecError(
            "nothing says what to encode",
            expected="an encoder for some modality, such as --image timm:resnet18",
            got="none of " + ", ".join(f"--{kind}" for kind in _KINDS),
        )
    _check_known("--pooling", pooling, found)
    return found


def _sources(wishes: Mapping[str, Wish], given: list[str]) -> dict[str, Source]:
    columns = _pairs("--modality", given)
    _check_known("--modality", columns, wishes)
    return {name: Source(kind=wish.kind, column=columns.get(name)) for name, wish in wishes.items()}


def _pairs(option: str, given: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in given:
        name, equals, value = (part.strip() for part in text.partition("="))
        if not equals or not name or not value or name in found:
            raise SpecError(
                f"{option} does not say something of a modality",
                expected="NAME=VALUE, once for each",
                got=text,
            )
        found[name] = value
    return found


def _check_known(option: str, given: Mapping[str, str], known: Mapping[str, Any]) -> None:
    for name in given:
        if name not in known:
            raise SpecError(
                f"{option} names {name!r}, which is no modality here", fix=closest(name, known)
            )


def _print(output: Path, report: Mapping[str, Any]) -> None:
    rows = [
        (
            name,
            about["encoder"],
            about["width"],
            f"{about['present']} of {report['rows']}",
            ", ".join(f"{reason} {count}" for reason, count in about["absent"].items()) or "-",
        )
        for name, about in report["modalities"].items()
    ]
    say_table(("modality", "encoder", "width", "embedded", "absent"), rows, right=(2,))
    for text in report["notes"]:
        note(text)
    shapes = ", ".join(f"{name} {shape}" for name, shape in report["arrays"].items())
    say(f"wrote {output}: {shapes}")
    say(f"{output}{REPORT} says what the encoders are, and lists what is absent with the reason")
    if any(name == "labels" for name in report["arrays"]):
        say(f"\nGo on with\n  dms fit {output} -o model")
