"""The tables of the page: each function is one section."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from measured import METHODS, ORACLE, OWN_HEADS, SAME_HEADS, Numbers
from measures import FORMS, skew
from protocol import CONDITIONS, NOISE, OTHERS, SHARES, TOLD
from text import Lines, count, one, prose, table, three, two

#: The columns of a set's tables: title, condition, metric.
_FIRST = [*((c, c, "accuracy") for c in CONDITIONS), ("ece clean", "clean", "ece"),
          ("ece noisy", "noisy", "ece")]  # fmt: skip
_SECOND = [*((c, c, "accuracy") for c in OTHERS), ("ece", "other", "ece")]


def accuracy(numbers: Numbers, name: str) -> Lines:
    """One set: every method in every condition."""
    own, quoted = numbers.about["tables"][name], numbers.peers(name)
    widths = ", ".join(f"{key} {width}" for key, width in own["modalities"].items())
    lines = [
        f"## {name}",
        "",
        prose(f"""
            {len(own["modalities"])} modalities ({widths}), {own["classes"]} classes,
            {own["rows"]} rows, test rows: {own["test"]}. The first {len(SAME_HEADS)} have the
            same heads; the last {len(OWN_HEADS)} have fits of their own, with the first
            {count(few(numbers))}.
        """),
        *_methods(numbers, name, _FIRST, quoted),
        *_methods(numbers, name, _SECOND, {}),
    ]
    if quoted:
        lines += ["", f"† {numbers.quoted['what']} {numbers.quoted['source']}"]
    return lines


def _methods(
    numbers: Numbers,
    name: str,
    columns: list[tuple[str, str, str]],
    quoted: dict[str, dict[str, float]],
) -> Lines:
    def row(method: str) -> dict[str, float]:
        return {title: numbers.mean(name, method, c, metric) for title, c, metric in columns}

    rows = {title: row(method) for method, title in METHODS.items()}
    best = {
        title: _format(
            float(pick([row.get(title, np.nan) for row in (*rows.values(), *quoted.values())])),
            title,
        )
        for title, _, metric in columns
        for pick in ((np.nanmin if metric == "ece" else np.nanmax),)
    }

    def cells(row: dict[str, float], bold: bool = True) -> list[str]:
        texts = {title: _format(row.get(title, np.nan), title) for title in best}
        return [f"**{t}**" if bold and t == best[title] else t for title, t in texts.items()]

    oracle, static = row("oracle"), rows[METHODS["static"]]
    bound = {c: max(oracle[c], static[c]) for c in oracle if not c.startswith("ece")}
    body = [[title, *cells(row)] for title, row in rows.items()]
    body += [
        [f"*{ORACLE}*", *cells(oracle, False)],
        ["*max(static, oracle)*", *cells(bound, False)],
    ]
    body += [[title, *cells(row)] for title, row in quoted.items()]
    return table(["", *best], body)


def _format(value: float, column: str) -> str:
    return two(value) if column.startswith("ece") else one(value)


def skewed(numbers: Numbers) -> Lines:
    """The sets as they are, and with few rows of half of the classes, by every score."""
    methods = ("robust", "static", "averaged", "concatenation")
    scores = {"auc": three, "balanced": one, "log-loss": three, "ece": three, "accuracy": one}
    rows = []
    for name in numbers.sets:
        for condition in ("clean", *map(skew, SHARES)):
            if numbers.seeds(name, "robust", condition):
                title = "as it is" if condition == "clean" else condition
                cells = [
                    " / ".join(draw(numbers.mean(name, m, condition, score)) for m in methods)
                    for score, draw in scores.items()
                ]
                rows.append([name, title, *cells])
    titles = ["AUC", "balanced accuracy", "log-loss", "ECE", "accuracy"]
    return [
        "## Skewed classes",
        "",
        prose("""
            Each cell: robust / static with the same heads / averaged logistic regressions / one
            logistic regression on the concatenation. Half of the classes, drawn by the seed, keep
            20, 10 or 5 % of their training rows and of their test rows (at least two and one).
            Nothing is corrupted. AUC is that of each class against the rest, the mean over classes;
            balanced accuracy the mean recall; log-loss in nats. Where a class has one or two test
            rows left, balanced accuracy and AUC of one seed say little.
        """),
        *table(["set", "version", *titles], rows),
    ]


def told(numbers: Numbers) -> Lines:
    """The drawn modalities are absent, and `present` says so."""
    rows = [
        [title, *(one(numbers.mean(name, method, TOLD)) for name in numbers.sets)]
        for method, title in METHODS.items()
    ]
    return [
        "## Absent, and everybody is told",
        "",
        prose("""
            Another protocol: the drawn modalities are absent and `present` says so. Static is
            then what the mask oracle is.
        """),
        *table(["", *numbers.sets], rows),
    ]


def _pair(numbers: Numbers, most: int) -> Callable[[str, str], str]:
    """Clean accuracy, and the mean over the five levels of noise and zeroed."""

    def text(name: str, method: str) -> str:
        clean = numbers.mean(name, method, "clean", most=most)
        corrupted = [numbers.mean(name, method, c, most=most) for c in (*NOISE, "zeroed")]
        return f"{one(clean)} / {one(float(np.mean(corrupted)))}"

    return text


def compared(numbers: Numbers, methods: dict[str, str], most: int) -> Lines:
    """Clean and corrupted accuracy of some methods on every set."""
    text = _pair(numbers, most)
    rows = [
        [title, *(text(name, method) for name in numbers.sets)] for method, title in methods.items()
    ]
    return table(["clean / corrupted", *numbers.sets], rows)


def few(numbers: Numbers) -> int:
    """How many of the first seeds the parts were measured with."""
    seeds: int = numbers.about["seeds"]["parts"]
    return seeds


def forms(numbers: Numbers) -> Lines:
    """What learning is worth: robust with less of it."""
    titles = {
        "robust": "robust",
        **{name: name.removeprefix("robust, ") for name in FORMS},
        "static": "static",
    }
    columns = {
        "clean": ("clean",),
        "sigma .1 to .5": NOISE[:3],
        "strong": (*NOISE[3:], "zeroed"),
        "conflict": ("conflict",),
        "swap": ("swap",),
        "other": tuple(c for c in OTHERS if c != "swap"),
    }
    lines = [
        "## What learning is worth",
        "",
        prose("""
            Robust as it is learned, and with less of it: parameters are taken out of the same
            artifact, and the defaults stand. Accuracy in %; *strong* is sigma 1, sigma 2 and
            zeroed; *other* is every other kind of corruption but swap.
        """),
    ]
    for name in numbers.sets:
        rows = [
            [title, *(one(_mean_of(numbers, name, method, cs)) for cs in columns.values()),
             three(numbers.mean(name, method, "clean", "ece"))]
            for method, title in titles.items()
        ]  # fmt: skip
        lines += table([name, *columns, "ece clean"], rows)
    return lines


def _mean_of(numbers: Numbers, name: str, method: str, conditions: tuple[str, ...]) -> float:
    return float(np.mean([numbers.mean(name, method, c) for c in conditions]))


def parts(numbers: Numbers) -> Lines:
    """What the signals and the forms of robust are worth."""
    seeds = few(numbers)
    methods = {
        "robust": "robust",
        "robust, full covariance": "typicality by a full covariance",
        "robust, diagonal covariance": "typicality by a diagonal covariance",
        "static": "static",
    }
    return [
        "## What the parts of robust are worth",
        "",
        prose(f"""
            Means of the first {count(seeds)}; *corrupted* is the mean over the five levels of
            noise and zeroed. Each line was fitted anew.
        """),
        *compared(numbers, methods, seeds),
    ]


def missing(numbers: Numbers) -> Lines:
    """Every set of modalities missing."""
    methods = {
        "static": "static",
        "robust": "robust",
        "robust, presence drawn": "robust, presence drawn in training",
        "dmome": "SimMLM (DMoME)",
        "dmome, MoFe": "SimMLM (DMoME), MoFe loss",
    }
    columns = {
        "accuracy": "average",
        "expected accuracy, p 0.2": "expected, p 0.2",
        "counter-intuitive rate, all": "CR, all",
        "counter-intuitive rate, adjacent": "CR, adjacent",
    }
    lines = [
        "## Missing modalities",
        "",
        prose(f"""
            Every set of modalities but all is missing in turn (EMM of arXiv 2503.18445): absent
            and *told*, or *untold* at the training mean. *Average* is over all sets, the empty
            one included; *expected* if each is missing by itself with probability 0.2. CR, the
            counter-intuitive rate (SimMLM, arXiv 2507.19264), is how often, in %, a sample is
            right with fewer modalities and wrong with more; 0 is best. In training each
            modality was drawn absent from 30 % of the rows where it says so; the MoFe loss is
            SimMLM's second stage. Means of the first {count(few(numbers))}.
        """),
    ]
    for name in numbers.sets:
        rows = [
            [
                title,
                *(
                    one(numbers.mean(name, method, f"missing, {told}", metric))
                    for told in ("told", "untold")
                    for metric in columns
                ),
            ]
            for method, title in methods.items()
        ]
        header = [name, *(f"{told}: {c}" for told in ("told", "untold") for c in columns.values())]
        lines += table(header, rows)
    return lines


def covariance(numbers: Numbers) -> Lines:
    """How weights go with losses."""
    metric = "weight-loss covariance"
    rows = []
    for method, title in METHODS.items():
        cells = [
            " / ".join(
                "-" if np.isnan(value) else f"{value:+.3f}"
                for condition in ("clean", "sigma 1")
                for value in (numbers.mean(name, method, condition, metric),)
            )
            for name in numbers.sets
        ]
        if any(cell != "- / -" for cell in cells):
            rows.append([title, *cells])
    return [
        "## Weights against losses",
        "",
        prose("""
            Covariance of a modality's weight and its own loss in nats, summed over modalities:
            below 0 dynamic weights help (Zhang et al. 2023, arXiv 2306.02050).
        """),
        *table(["clean / sigma 1", *numbers.sets], rows),
    ]


def runtimes(numbers: Numbers) -> Lines:
    """NumPy, torch and the exported graph: the same labels."""
    rows = []
    for name in numbers.sets:
        cells = []
        for where in ("torch", "onnx"):
            same = numbers.all(name, "robust", f"{where}: share of equal labels")
            off = max(numbers.all(name, "robust", f"{where}: largest difference"))
            cells += [f"{100 * min(same):g} %", f"{off:.1e}"]
        rows.append([name, *cells])
    return [
        "## Other runtimes",
        "",
        prose("""
            The robust artifact in torch, and its exported graph in ONNX Runtime, beside NumPy, on
            every test row of every condition and seed: the smallest share of equal labels in any
            condition, and the largest difference of a probability.
        """),
        *table(["", "torch: equal labels", "largest difference", "ONNX: equal labels",
                "largest difference"], rows),
    ]  # fmt: skip


def seconds(numbers: Numbers) -> Lines:
    """What a fit takes."""
    rows = []
    for name in numbers.sets:
        own, heads, other = (
            numbers.mean(name, "robust", f"fit{what}", "CPU seconds")
            for what in ("", ", heads alone", ", scikit-learn")
        )
        rows.append(
            [name, *(one(v) for v in (own, heads, other)), one(own / heads), one(own / other)]
        )
    header = ["", "robust", "heads alone", "scikit-learn", "/ heads", "/ scikit-learn"]
    return [
        "## Time of a fit",
        "",
        prose("""
            CPU seconds, one thread, the first seed. *Heads alone* is `dms fit` with uniform
            weights; *scikit-learn* one `LogisticRegression(max_iter=1000)` for each modality.
        """),
        *table(header, rows),
    ]
