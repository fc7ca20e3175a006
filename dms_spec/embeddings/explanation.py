"""Explains predictions: why each modality of a sample got its weight, as plain data and as text."""

from __future__ import annotations

from math import exp
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dms_spec.embeddings.hearing import hear
from dms_spec.embeddings.hearing import text as heard_text
from dms_spec.embeddings.predictor import Predictor
from dms_spec.embeddings.table import Table
from dms_spec.markup import text_table
from dms_spec.types import Schedule

# A smaller loss of trust is not worth a remark.
_LEAST_LOSS = 0.05


class Explanations(list[dict[str, Any]]):
    """Holds one explanation for each sample, as plain data. As a string, they are text to read.

    Each has ``sample``, ``active`` (how many modalities are), ``equal_share`` and ``modalities``:
    for each its ``name``, ``state`` and ``weight``, and where it is active the ``score``,
    ``signals``, ``terms`` and ``contributions`` behind the weight. At fusion of evidence, each
    modality also has its ``trust`` and ``soundness`` and the class that it ``says``, and each
    sample its likeliest ``classes``.
    """

    def __str__(self) -> str:
        return self.text()

    def text(self, width: int | None = None) -> str:
        """Gives them as text to read.

        Args:
            width: The most characters in a line of a table; None for tables in one piece.
        """
        return "\n\n".join(
            heard_text(one, width) if "classes" in one else _text(one, width) for one in self
        )


def explain_table(predictor: Predictor, table: Table) -> tuple[Explanations, tuple[str, ...]]:
    """Explains every row of a table, and gives the notes of its schedule.

    Args:
        predictor: What predicts.
        table: Of its modalities.

    Raises:
        ShapeError, NonFiniteInput, NothingPresent: As in `Predictor.predict`.
    """
    spec = predictor.artifact.spec
    result = predictor.schedule(table)
    explained = [explain(row, spec.modalities, table.present, result) for row in range(len(table))]
    if spec.fusion == "evidence":
        explained = _of_evidence(predictor, table, result, explained)
    return Explanations(explained), result.notes


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


def _text(explained: dict[str, Any], width: int | None) -> str:
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
        text_table(header, rows, right=range(1, len(header)), width=width),
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
