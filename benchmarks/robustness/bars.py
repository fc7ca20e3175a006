"""What must hold: robust against each rival in pairs, and against the mask oracle."""

from __future__ import annotations

from collections.abc import Iterator
from math import sqrt

import numpy as np
from measured import Numbers
from protocol import CONDITIONS
from text import Lines, one, prose, table

#: Conditions in which the mask oracle is the bound, and the part of it to reach.
STRONG, PART = ("sigma 1", "sigma 2", "zeroed"), 0.97
#: Points of accuracy that robust may be behind on clean data.
SLACK = 1.0
#: Conditions in which static must not be better, with three modalities or more.
CONTRARY = ("swap", "sign flip")


def must_hold(numbers: Numbers) -> Lines:
    """How many columns are met, and those that are not."""
    bars = {"rivals": rivals, "oracle": oracle, "clean": clean, "contrary": contrary}
    rows, missed = [], []
    for name in numbers.sets:
        cells = []
        for bar in bars.values():
            verdicts = list(bar(numbers, name))
            bad = [(name, _named(numbers, name, c), why) for c, why in verdicts if why]
            missed += bad
            cells.append(f"{len(verdicts) - len(bad)} of {len(verdicts)}" if verdicts else "")
        rows.append([name, str(len(numbers.modalities(name))), *cells])
    header = [
        "columns met",
        "modalities",
        "no rival better",
        f"{PART:.0%} of the oracle",
        f"clean within {SLACK:g}",
        "static not better where wrong and sure",
    ]
    lines = [
        "## What must hold",
        "",
        prose("""
            **No rival better**: in each condition robust is compared with each rival that was
            measured here, static with the same heads among them. The comparison is *paired*: both
            answer the same test rows, and the difference in being right is taken row by row. A
            column is missed if robust is below any one of them by more than two standard errors.
        """),
        "",
        prose("""
            The error is that of rows and of seeds. With d the difference on one trial (one row,
            one seed), D its mean over all T trials, and e = d - D, it is the root of
            V_row + max(0, V_seed - V_both). V_row = sum over rows of (sum of e over the row's
            trials)² / T²: a row that several seeds test counts once. V_seed = S / (S - 1) · sum
            over the S seeds of (sum of e over the seed's trials)² / T². V_both = sum of e² / T².
            This is clustering by rows and by seeds at once (Cameron, Gelbach and Miller 2011). With
            so many rivals and columns, some are missed by chance: one in forty of those where the
            two are equally good.
        """),
        "",
        prose(f"""
            **{PART:.0%} of the oracle**: at sigma 1 and above, and zeroed. **Clean within
            {SLACK:g}**: no rival is better by more than {SLACK:g} point on clean data. **Static
            not better where wrong and sure**: with three modalities or more robust is not below
            static under swap and sign flip. With two modalities that contradict each other, nobody
            can say which one is wrong.
        """),
        *table(header, rows),
        "",
        "Missed, by robust less the rival ± one standard error, in points of accuracy:"
        if missed
        else "None is missed.",
    ]
    if missed:
        lines += table(["set", "condition", "missed by"], missed)
    picture = "![Robust less its rivals, with two standard errors](differences.png)"
    return [*lines, "", picture]


def _named(numbers: Numbers, name: str, condition: str) -> str:
    two = len(numbers.modalities(name)) == 2 and condition in (*CONTRARY, "conflict")
    return f"{condition} (two modalities, one against the other)" if two else condition


#: A condition, and how it was missed; empty if it was not.
Verdict = tuple[str, str]


def rivals(numbers: Numbers, name: str) -> Iterator[Verdict]:
    """No rival is better by more than two standard errors."""
    for condition in numbers.conditions(name):
        below = [pair for pair in numbers.pairs(name, condition) if pair.highest < 0]
        worst = sorted(below, key=lambda pair: pair.difference)[:2]
        more = f" and {len(below) - 2} more" if len(below) > 2 else ""
        yield condition, "; ".join(map(str, worst)) + more


def oracle(numbers: Numbers, name: str) -> Iterator[Verdict]:
    """Nearly all of the mask oracle, where corruption is strong."""
    for condition in STRONG:
        own, bound = (numbers.mean(name, m, condition) for m in ("robust", "oracle"))
        part = own / bound
        yield condition, "" if part >= PART else f"{part:.1%} of the mask oracle ({one(bound)})"


def clean(numbers: Numbers, name: str) -> Iterator[Verdict]:
    """On clean data no rival is much better."""
    worst = min(numbers.pairs(name, "clean"), key=lambda pair: pair.difference)
    yield "clean, within 1 point", "" if worst.difference >= -SLACK else str(worst)


def contrary(numbers: Numbers, name: str) -> Iterator[Verdict]:
    """With three modalities or more, the mean is not better where one is wrong and sure."""
    if len(numbers.modalities(name)) < 3:
        return
    for condition in CONTRARY:
        pair = numbers.pair(name, condition, "static")
        yield condition, "" if pair.difference >= 0 else str(pair)


def quoted(numbers: Numbers) -> Lines:
    """Peers of whom means alone are known: beside, and no bar."""
    rows = []
    for name in numbers.sets:
        if peers := numbers.peers(name):
            cells = []
            for condition in CONDITIONS:
                best = max(peers, key=lambda peer: peers[peer][condition])
                cells.append(_beside(numbers, name, condition, peers[best][condition], best))
            rows.append([name, *cells])
    if not rows:
        return []
    return [
        "## Beside peers that were measured elsewhere",
        "",
        prose(f"""
            Robust less the best peer that is quoted (†), for context: this is no bar.
            {numbers.quoted["what"]} {numbers.quoted["source"]} Their single rows are not known, so
            that nothing can be paired: the error is that of two independent shares, √(p (1 - p) / n
            + q (1 - q) / n), with n the number of test rows over their seeds. The best of several
            is best in part by chance. Bold: beyond two standard errors.
        """),
        *table(["", *CONDITIONS], rows),
    ]


def _beside(numbers: Numbers, name: str, condition: str, peer: float, who: str) -> str:
    about = numbers.about["tables"][name]
    drawn = about["test"] != "its own"
    n = about["test rows"] * (numbers.quoted["seeds"][name] if drawn else 1)
    own = numbers.mean(name, "robust", condition)
    error = 100 * sqrt(sum(p * (1 - p) / n for p in (own / 100, peer / 100)))
    text = f"{own - peer:+.1f} ± {error:.1f}"
    text = f"**{text}**" if np.abs(own - peer) > 2 * error else text
    return f"{text} ({who.removesuffix(' †')})"
