"""Explains fusion of evidence: what each modality said, and how far it was believed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import exp, log
from typing import Any

import array_api_compat.numpy as xp
import numpy as np
from numpy.typing import NDArray

from dms_spec.equations.evidence import log_ratios
from dms_spec.equations.namespace import Namespace
from dms_spec.markup import text_table

Floats = NDArray[np.float64]

# Classes that a table has room for.
_MOST = 3
# Belief that moved by less than this factor was not moved by the others.
_MOVED = 1.25


def hear(
    explained: dict[str, Any],
    logits: NDArray[Any],
    outcomes: Mapping[str, NDArray[Any]],
    parameters: Mapping[str, NDArray[Any]],
    classes: Sequence[Any],
) -> dict[str, Any]:
    """Adds to the explanation of a sample what was said about its classes.

    Args:
        explained: As `explain` gives it; each active modality has its ``trust`` and ``soundness``.
        logits: Of the sample, ``[M, C]``; anything where not active.
        outcomes: Class probabilities of the sample after each step, by its name, ``[C]``.
        parameters: Of the scheduler, by full name.
        classes: The names of the classes.

    Returns:
        The explanation with ``classes`` (the likeliest, each with ``prior`` and the outcomes), and
        for each active modality ``says``: the class that it speaks for most, with its
        ``probability`` by that modality alone and how many ``times_prior`` that is.
    """
    count = len(classes)
    prior = parameters.get("fusion.prior", np.full(count, 1 / count))
    states = [entry["state"] == "active" for entry in explained["modalities"]]
    clean = np.where(np.array(states)[:, None], np.asarray(logits, dtype=np.float64), 0.0)
    priors = parameters.get("fusion.priors")
    shares = np.full(clean.shape, 1 / count) if priors is None else priors.astype(np.float64)
    said = log_ratios(Namespace.of(xp, np.ndarray), clean[None], shares)[0]
    modalities = []
    for entry, own, known in zip(explained["modalities"], said, shares, strict=True):
        if entry["state"] == "active":
            top = int(own.argmax())
            entry = entry | {
                "says": _plain(classes[top]) if own[top] > 0 else None,
                "probability": float(exp(own[top]) * known[top]),
                "times_prior": float(exp(own[top])),
            }
        modalities.append(entry)
    last = list(outcomes.values())[-1].astype(np.float64)
    rows = [
        {"class": _plain(classes[y]), "prior": float(prior[y])}
        | {name: float(array[y]) for name, array in outcomes.items()}
        for y in np.argsort(-last, kind="stable")[:_MOST]
    ]
    return explained | {"modalities": modalities, "classes": rows}


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def text(explained: dict[str, Any], width: int | None = None) -> str:
    """Gives the explanation of a sample as two tables and one sentence for each modality.

    Args:
        explained: What `hear` gives.
        width: The most characters in a line of a table.
    """
    rows = explained["classes"]
    header = list(rows[0])
    table = [[str(row["class"]), *(f"{row[name]:.3f}" for name in header[1:])] for row in rows]
    entries = explained["modalities"]
    columns = ["modality", "says", "alone", "times prior", "trust", "soundness", "weight"]
    return "\n".join(
        [
            f"sample {explained['sample']}: evidence counts as far as a modality is sound",
            text_table(header, table, right=range(1, len(header)), width=width),
            "",
            text_table(
                columns,
                [_row(entry) for entry in entries],
                right=range(2, len(columns)),
                width=width,
            ),
            *(_sentence(entry) for entry in entries),
        ]
    )


def _row(entry: dict[str, Any]) -> list[str]:
    if entry["state"] != "active":
        return [entry["name"], entry["state"], "", "", "", "", "0.000"]
    return [
        entry["name"],
        "nothing" if entry["says"] is None else str(entry["says"]),
        f"{entry['probability']:.3f}",
        f"{entry['times_prior']:.2f}",
        f"{entry['trust']:.3f}",
        f"{entry['soundness']:.3f}",
        f"{entry['weight']:.3f}",
    ]


def _sentence(entry: dict[str, Any]) -> str:
    name = entry["name"]
    if entry["state"] == "absent":
        return f"- {name}: absent, so its weight is 0 and nothing in it was read"
    if entry["state"] == "not finite":
        return f"- {name}: present, but it holds NaN or Inf, so it counts as absent"
    lost = exp(entry["signals"].get("typicality", 0.0))
    trust = f"trust {entry['trust']:.2f}"
    if lost < 0.95:
        trust += " (atypical)"
    odds = _log_odds(entry["soundness"]) - _log_odds(entry["trust"])
    if odds > log(_MOVED):
        why = "borne out"
    elif odds < -log(_MOVED):
        why = "contradicted"
    else:
        why = "neither borne out nor contradicted"
    return f"- {name}: {trust}, {why}: believed to {entry['soundness']:.2f}"


def _log_odds(share: float) -> float:
    held = min(max(share, 1e-300), 1 - 1e-12)
    return log(held) - log(1 - held)
