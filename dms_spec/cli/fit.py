"""``dms fit`` learns heads and a scheduler from a table of embeddings."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from tempfile import gettempdir
from typing import Any

from dms_spec.artifact import Artifact, artifact_target, save_artifact
from dms_spec.cli.common import (
    add_columns,
    add_modalities,
    columns_of,
    json_spec,
    names_of,
    size_of,
)
from dms_spec.cli.log import Log
from dms_spec.cli.printing import note, say, say_json, tell, width
from dms_spec.cli.progress import Bar
from dms_spec.embeddings.origin import ENCODERS, Encoders, encoders_of
from dms_spec.embeddings.table import read_table
from dms_spec.errors import BackendUnavailable, FileError, SpecError, closest, install_hint
from dms_spec.markup import gigabytes, text_table
from dms_spec.outputs import remove
from dms_spec.plugins import get_backend, get_policy
from dms_spec.spec import PRESETS, SchedulerSpec

EXAMPLE = "dms fit train.npz -o model"

_SPEC = "robust"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "input",
        metavar="TRAIN",
        type=Path,
        help=".npz, .safetensors or a folder of .npy with an array [N, D] for each modality under "
        "its name, labels [N], and where they apply present.<modality> [N] (bool), train, "
        "validation and test (row indices), groups [N], sample_weight [N]; or columns in .parquet, "
        ".arrow, .feather or .csv",
    )
    add_modalities(parser, "other arrays are left alone")
    add_columns(parser, "label", "group", "weight", "split", "id")
    parser.add_argument(
        "-o", "--output", metavar="DIR", type=Path, required=True, help="artifact folder to make"
    )
    parser.add_argument(
        "--spec",
        metavar="S",
        help=f"a preset (paper, robust, static) or a JSON file (default: {_SPEC})",
    )
    parser.add_argument("--policy", metavar="P", help="a policy in place of the spec's")
    numbers = parser.add_argument_group("learning")
    for flag, kind, default, text in (
        ("--epochs", int, 200, "most epochs in a stage of gradient descent"),
        ("--patience", int, 20, "epochs without a better validation score before stopping"),
        ("--batch-size", int, 128, "rows in a step"),
        (
            "--lr",
            float,
            3e-3,
            "learning rate of Adam for heads in a common space; five times it for the policy",
        ),
        ("--width", int, 64, "width of the common feature space, where modalities share one"),
        ("--passes", int, 10, "passes of Monte-Carlo dropout; 0 for none"),
        (
            "--dropout",
            float,
            0.1,
            "rate of dropout on the heads' inputs, in the passes and in a common space",
        ),
        ("--noise", float, 0.4, "share of noisy rows; half of it counts in choosing a penalty"),
        ("--rank", int, 128, "directions of typicality's covariance, where it is low_rank"),
        (
            "--pull",
            float,
            0.01,
            "strength of the penalty that keeps the policy near the rule, where it starts",
        ),
        (
            "--consistency",
            float,
            0.1,
            "weight of the consistency loss, where modalities share a space",
        ),
        ("--seed", int, 0, "seed of everything random"),
    ):
        metavar = "INT" if kind is int else "X"
        help_text = f"{text} (default: %(default)s)"
        numbers.add_argument(flag, type=kind, default=default, metavar=metavar, help=help_text)
    parser.add_argument(
        "--covariance",
        choices=("full", "low_rank", "diagonal"),
        default="low_rank",
        help="its form, for typicality (default: %(default)s)",
    )
    parser.add_argument(
        "--class-weight",
        choices=("none", "balanced"),
        default="none",
        help="balanced weighs rows so that all classes count alike (default: %(default)s)",
    )
    parser.add_argument(
        "--log",
        metavar="FILE.jsonl",
        type=Path,
        help="add a line of JSON for each epoch of each stage, as it ends",
    )
    parser.add_argument(
        "--memory",
        metavar="SIZE",
        default="2GB",
        help="embeddings of a larger table lie in temporary files (TMPDIR) while it is learned "
        "from (default: %(default)s)",
    )
    parser.add_argument("--device", help="cpu, cuda, cuda:0, ... (default: cpu)")
    parser.add_argument("--overwrite", action="store_true", help="replace an artifact at DIR")
    parser.add_argument("--json", action="store_true", help="print JSON, for machines")


def run(args: argparse.Namespace) -> int:

    device = get_backend("torch").check_device(args.device)
    try:
        training = import_module("dms_torch.fit.training")
        import_module("tqdm")  # for the progress bar: before the work, not in it
    except ImportError as error:
        raise BackendUnavailable(
            "learning needs torch and tqdm", got=str(error), fix=install_hint("dms-spec[torch]")
        ) from error
    # Before the work, not after it.
    target = artifact_target(args.output, overwrite=args.overwrite)
    log = None if args.log is None else Log(args.log, "fit")
    settings = training.FitSettings(
        epochs=args.epochs,
        patience=args.patience,
        batch_size=args.batch_size,
        learning_rate=args.lr,
        width=args.width,
        passes=args.passes,
        dropout=args.dropout,
        noise=args.noise,
        covariance=args.covariance,
        rank=args.rank,
        pull=args.pull,
        consistency=args.consistency,
        class_weight=args.class_weight,
        seed=args.seed,
    )
    memory = size_of(args.memory, "--memory")
    given = _json_spec(args.spec)
    table = read_table(
        args.input,
        names_of(args.modalities),
        columns=columns_of(args),
        axis=given.modalities if given else None,
        need_labels=True,
        memory=memory,
    )
    _say_where(training.embedding_bytes(table), memory)
    spec = _spec(args, given, table.modalities)
    target.make_parent()  # where the checkpoint lies
    checkpoint = checkpoint_of(target.folder)
    with Bar() as bar:
        result = training.fit(
            table,
            spec,
            settings,
            device=device,
            checkpoint=checkpoint,
            overwrite=args.overwrite,
            report=_reporting(bar, log),
            memory=memory,
        )
    artifact = _with_origin(result.artifact, encoders_of(args.input, table.columns))
    save_artifact(args.output, artifact, overwrite=args.overwrite)
    remove(checkpoint, import_module("dms_torch.fit.checkpoint").MARK)
    if result.resumed:
        note(f"went on from a checkpoint at {result.resumed}")
    if args.json:
        say_json({"output": str(args.output), **artifact.model})
        return 0
    for text in result.notes:
        note(text)
    say(_summary(result.artifact.model, spec))
    say(f"wrote {args.output}: use it with dms predict {args.output} IN -o OUT.npz")
    return 0


def _say_where(size: int, memory: int) -> None:
    """Says before they are made that temporary files are needed, and how much room."""
    if size > memory:
        tell(
            f"the embeddings take {gigabytes(size)}: temporary files in {gettempdir()} need up to "
            f"{gigabytes(3 * size)}"
        )


def _with_origin(artifact: Artifact, encoders: Encoders) -> Artifact:
    """Keeps which encoders the embeddings come from, so that others are noticed later."""
    own = {name: about for name, about in encoders.items() if name in artifact.spec.modalities}
    return replace(artifact, model={**artifact.model, ENCODERS: own}) if own else artifact


def checkpoint_of(output: Path) -> Path:
    """Names the file that keeps the state of a run until its artifact is written."""
    return output.with_name(f"{output.name}.checkpoint.safetensors")


def _json_spec(text: str | None) -> SchedulerSpec | None:
    """Reads the spec of a JSON file; None for a preset."""
    if text is None or text in PRESETS:
        return None
    path = Path(text)
    try:
        if path.is_file():
            return SchedulerSpec.from_json(json_spec(path))
    except OSError as error:
        raise FileError(f"cannot read {path}", got=str(error)) from error
    raise SpecError(
        f"there is no spec {text!r}",
        expected=f"a preset ({', '.join(PRESETS)}) or a JSON file",
        fix=closest(text, PRESETS),
    )


def _spec(
    args: argparse.Namespace, given: SchedulerSpec | None, modalities: tuple[str, ...]
) -> SchedulerSpec:

    spec = given or SchedulerSpec.preset(args.spec or _SPEC, modalities)
    policy = args.policy
    if policy is None or policy == spec.policy:
        return spec
    # The options are the other policy's; coefficients mean nothing to one that weighs no signals.
    spec = spec.replace(policy=policy, policy_options={})
    return spec if get_policy(policy).uses_signals else spec.replace(coefficients={})


def _reporting(bar: Bar, log: Log | None) -> Callable[[Any], None]:
    """Gives what shows progress, and keeps it in the log."""
    stage = ""

    def report(progress: Any) -> None:
        nonlocal stage
        if progress.stage != stage:
            stage = progress.stage
            bar.begin(f"learning {stage}", progress.epochs, "epoch", progress.epoch - 1)
        bar.step(f"validation loss {progress.score:.4f}, best {progress.best_score:.4f}")
        if log is not None:
            log.write(
                stage=progress.stage,
                epoch=progress.epoch,
                epochs=progress.epochs,
                validation_loss=progress.score,
                best_validation_loss=progress.best_score,
            )

    return report


def _summary(model: dict[str, Any], spec: SchedulerSpec) -> str:
    data = model["data"]
    learned = f"{len(model['classes'])} classes, learned from {data['training_rows']} rows"
    lines = [
        f"policy {spec.policy}, fusion {spec.fusion}; {learned}",
        f"validation: {data['validation_rows']} rows, judged by heads that have not seen them",
        "",
    ]
    for name, measured in model["metrics"].items():
        lines += [_measured_table(name.replace("_", " "), measured, spec.modalities), ""]
        lines += [_recall(model["classes"], measured["fused"]["recall"])]
        lines += [*_comparison(measured), ""]
    return "\n".join(lines)


_COLUMNS = {
    "accuracy": "accuracy",
    "balanced": "balanced_accuracy",
    "log-loss": "nll",
    "ECE": "ece",
}
# Lines of recall beyond this many classes are left to the artifact.
_MOST_CLASSES = 20


def _measured_table(title: str, measured: dict[str, Any], modalities: tuple[str, ...]) -> str:
    """Writes fused beside what it has to be better than, a line each."""
    lines = {"fused": measured["fused"], "static": measured["static"]}
    lines |= {f"{name} alone": measured["modalities"][name] for name in modalities}
    if "concatenation" in measured:
        lines["one regression on all inputs"] = measured["concatenation"]
    rows = [
        [name, *(_number(key, own[key]) for key in _COLUMNS.values())]
        for name, own in lines.items()
    ]
    header = [f"{title}: {measured['samples']} rows", *_COLUMNS]
    return text_table(header, rows, right=range(1, len(header)), width=width())


def _recall(classes: list[Any], recall: list[float | None]) -> str:
    if len(classes) > _MOST_CLASSES:
        found = [(r, c) for r, c in zip(recall, classes, strict=True) if r is not None]
        least, worst = min(found, key=lambda pair: pair[0])
        return f"recall of {len(classes)} classes: least {_percent(least)}, of {worst}"
    each = (f"{c} {_percent(r)}" for c, r in zip(classes, recall, strict=True))
    return f"recall: {', '.join(each)}"


def _comparison(measured: dict[str, Any]) -> list[str]:
    """Says in plain words where the concatenation is better."""
    other, own = measured.get("concatenation"), measured["fused"]
    if not other or other["nll"] is None or other["nll"] >= own["nll"]:
        return []
    losses = f"log-loss {other['nll']:.3f} against {own['nll']:.3f}"
    return [f"One logistic regression on all inputs is better here: {losses}."]


def _number(key: str, value: float | None) -> str:
    if value is None or key.endswith("accuracy"):
        return _percent(value)
    return f"{value:.3f}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"
