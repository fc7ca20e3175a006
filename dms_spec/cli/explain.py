"""``dms explain`` says why each modality of a sample got its weight."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from math import exp
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dms_spec.artifact import Artifact
from dms_spec.cli.common import (
    add_columns,
    add_input_arguments,
    columns_of,
    read_spec,
    schedule_file,
)
from dms_spec.cli.explain_evidence import hear
from dms_spec.cli.explain_evidence import text as heard_text
from dms_spec.cli.explain_plot import check_plot, draw
from dms_spec.cli.printing import note, say, say_json
from dms_spec.embeddings.predictor import Predictor
from dms_spec.embeddings.sources.columns import Columns
from dms_spec.embeddings.table import Table, read_table
from dms_spec.errors import ShapeError
from dms_spec.files import SUFFIXES, read_arrays
from dms_spec.markup import text_table
from dms_spec.plugins import get_backend
from dms_spec.types import Schedule

# A smaller loss of trust is not worth a remark.
_LEAST_LOSS = 0.05


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_input_arguments(parser)
    parser.epilog = (
        "With an artifact of dms fit as S, IN may be a table of embeddings, as dms predict takes."
    )
    add_columns(parser)
    parser.add_argument(
        "--sample",
        type=int,
        nargs="+",
        default=[0],
        metavar="I",
        help="row or rows to explain, counted from 0 (default: 0)",
    )
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw a picture as well")


def run(args: argparse.Namespace) -> int:
    if args.plot is not None:
        check_plot(args.plot)
    artifact = _with_heads(args)
    policy, explained, notes = _of_batch(args) if artifact is None else _of_table(args, artifact)
    if args.plot is not None:
        draw(args.plot, explained)
    if args.json:
        report = {"policy": policy, "notes": notes, "samples": explained}
        say_json(report)
        return 0
    texts = (heard_text(s) if "classes" in s else _text(s) for s in explained)
    say("\n\n".join(texts))
    for text in notes:
        note(text)
    if args.plot is not None:
        say(f"\nwrote {args.plot}")
    return 0


_Explained = tuple[str, list[dict[str, Any]], list[str]]


def _of_batch(args: argparse.Namespace) -> _Explained:
    artifact, batch, result = schedule_file(args)
    spec = artifact.spec
    _check_samples(args.sample, batch.shape[0])
    explained = [explain(row, spec.modalities, batch.present, result) for row in args.sample]
    if spec.fusion == "evidence":
        classes = range(result.fused.shape[-1])
        explained = [
            hear(
                sample,
                batch.logits[sample["sample"]],
                {"fused": result.fused[sample["sample"]]},
                artifact.scheduler_parameters,
                classes,
            )
            for sample in explained
        ]
    return spec.policy, explained, list(result.notes)


def _of_table(args: argparse.Namespace, artifact: Artifact) -> _Explained:
    """Schedules a table in place of a batch, by the heads of an artifact."""
    spec = artifact.spec
    predictor = Predictor(artifact, get_backend(args.backend), args.device)
    embeddings = read_table(
        args.input,
        columns=columns_of(args),
        before=Columns.of_model(artifact.model),
        axis=spec.modalities,
        widths=predictor.model.widths,
        strict_labels=False,
    )
    _check_samples(args.sample, len(embeddings))
    rows = embeddings.rows(np.array(args.sample))
    result = predictor.schedule(rows)
    explained = [
        explain(row, spec.modalities, rows.present, result) for row in range(len(args.sample))
    ]
    if spec.fusion == "evidence":
        explained = _of_evidence(predictor, rows, result, explained)
    explained = [
        one | {"sample": sample} for one, sample in zip(explained, args.sample, strict=True)
    ]
    return spec.policy, explained, [*rows.notes(), *result.notes]


def _of_evidence(
    predictor: Predictor, rows: Table, result: Schedule, explained: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Adds what the heads said; the joint expert, where there is one, is the last to speak."""
    with np.errstate(divide="ignore"):
        logits = np.log(predictor.unimodal(rows).astype(np.float64))
    answers = predictor.predict(rows)["probabilities"]
    own = predictor.artifact.scheduler_parameters
    heard = []
    for row, sample in enumerate(explained):
        outcomes = {"fused": result.fused[row]}
        if "joint.share" in predictor.artifact.parameters:
            outcomes["with joint"] = answers[row]
        heard.append(hear(sample, logits[row], outcomes, own, list(predictor.classes)))
    return heard


def _with_heads(args: argparse.Namespace) -> Artifact | None:
    """Gives the artifact if it has heads and the input has embeddings for them."""
    if not Path(args.spec).is_dir():
        return None
    artifact = read_spec(args.spec, args.modalities)
    if not artifact.has_heads:
        return None
    if args.input.suffix not in SUFFIXES:  # a batch is no frame, and no folder
        return artifact
    names = set(read_arrays(args.input, wanted=lambda *_: False))
    batch = names & {"features", "logits"} and not names >= set(artifact.spec.modalities)
    return None if batch else artifact


def _check_samples(wanted: Sequence[int], samples: int) -> None:
    for sample in wanted:
        if not 0 <= sample < samples:
            raise ShapeError(
                "there is no such sample",
                expected=f"0 to {samples - 1}" if samples else "a batch that has samples",
                got=str(sample),
            )


def explain(
    sample: int, names: tuple[str, ...], present: NDArray[np.bool_] | None, result: Schedule
) -> dict[str, Any]:
    """Explains what happened to one sample, as plain data.

    A term's *contribution* is its value less its mean over the active modalities, because weights
    depend on differences of scores alone. The contributions of a modality sum to its score less the
    mean score.
    """
    active = result.active[sample]
    count = int(active.sum())
    modalities = []
    for m, name in enumerate(names):
        state = "active"
        if not active[m]:
            there = present is None or bool(present[sample, m])
            state = "not finite" if there else "absent"
        entry: dict[str, Any] = {
            "name": name,
            "state": state,
            "weight": float(result.weights[sample, m]),
        }
        if active[m]:
            entry |= {
                "score": float(result.scores[sample, m]),
                "signals": {k: float(v[sample, m]) for k, v in result.signals.items()},
                "terms": {k: float(v[sample, m]) for k, v in result.terms.items()},
                "contributions": {
                    k: float(v[sample, m] - v[sample][active].mean())
                    for k, v in result.terms.items()
                },
            }
            if result.soundness is not None:
                entry |= {
                    "trust": exp(float(result.scores[sample, m])),
                    "soundness": float(result.soundness[sample, m]),
                }
        modalities.append(entry)
    return {
        "sample": sample,
        "active": count,
        "equal_share": 1 / count if count else 0.0,
        "modalities": modalities,
    }


def _text(explained: dict[str, Any]) -> str:
    entries = explained["modalities"]
    active = [entry for entry in entries if entry["state"] == "active"]
    signals = list(active[0]["signals"]) if active else []
    terms = list(active[0]["terms"]) if active else []
    header = [
        "modality",
        "weight",
        "score",
        *(f"= {t}" if not i else f"+ {t}" for i, t in enumerate(terms)),
    ]
    header += [f"[{name}]" for name in signals]
    rows = []
    for entry in entries:
        if entry["state"] == "active":
            row = [entry["name"], f"{entry['weight']:.3f}", f"{entry['score']:+.3f}"]
            row += [f"{entry['terms'][t]:+.3f}" for t in terms]
            row += [f"{entry['signals'][s]:.4f}" for s in signals]
        else:
            row = [entry["name"], "0.000", entry["state"], *("" for _ in (*terms, *signals))]
        rows.append(row)
    lines = [
        f"sample {explained['sample']}: weight is the softmax of score, [signal] as measured",
        text_table(header, rows, right=range(1, len(header))),
    ]
    lines += [_reason(entry, explained) for entry in entries]
    return "\n".join(lines)


def _reason(entry: dict[str, Any], explained: dict[str, Any]) -> str:
    """Explains one modality in a sentence."""
    name, share = entry["name"], explained["equal_share"]
    if entry["state"] == "absent":
        return f"- {name}: absent, so its weight is 0 and nothing in it was read"
    if entry["state"] == "not finite":
        return f"- {name}: present, but it holds NaN or Inf, so it counts as absent"
    if explained["active"] == 1:
        return f"- {name}: the only one active, so it has all the weight"
    # Round-off is no reason.
    contributions = {k: value for k, value in entry["contributions"].items() if abs(value) > 1e-6}
    if not contributions:
        return (
            f"- {name}: {entry['weight']:.3f}, the equal share: no term differs between modalities"
        )
    ranked = sorted(contributions, key=lambda term: -abs(contributions[term]))
    parts = [f"{term} {contributions[term]:+.3f}{_aside(term, entry)}" for term in ranked]
    return (
        f"- {name}: {entry['weight']:.3f} against an equal share of {share:.3f}; "
        f"contributions: {', '.join(parts)}"
    )


def _aside(term: str, entry: dict[str, Any]) -> str:
    """Says what a term means, where its number does not."""
    lost = -float(entry["signals"].get("typicality", 0.0))
    if term != "typicality" or entry["contributions"][term] > 0 or lost < _LEAST_LOSS:
        return ""
    left = "less than 1 %" if exp(-lost) < 0.01 else f"{100 * exp(-lost):.0f} %"
    return f" (unlike what its head has learned from, which leaves {left} of its trust)"
