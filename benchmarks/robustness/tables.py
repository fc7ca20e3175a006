"""The tables: everything in results/README.md comes from robustness.csv and peers.json."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from protocol import CONDITIONS, NOISE, TOLD

from dms_spec.robustness import metrics

#: What is called how, in the order of the tables. Over the heads of ``robust``:
SAME_HEADS = {
    "robust": "**robust** (`dms fit`)",
    "static": "static, probabilities",
    "static_logit": "static, logits",
    "entropy": "entropy weights, probabilities",
    "entropy_logit": "entropy weights, logits (MLA)",
    "dms_rule": "DMS rule, variance averaged",
    "dms_rule_sum": "DMS rule, variance summed",
    "learned_dms": "DMS, learned",
    "qmf": "QMF weights",
    "tmc": "TMC weights",
    "dempster_shafer": "TMC (Dempster-Shafer)",
}
OWN_HEADS = {
    "dms_paper": "DMS, features (`paper`)",
    "co_attention": "co-attention",
    "modality_dropout": "modality dropout",
    "dmome": "SimMLM (DMoME)",
    "ma_afs": "MA-AFS (experimental)",
}
METHODS = SAME_HEADS | OWN_HEADS
ORACLE = "mask oracle"
#: Conditions in which the mask oracle is the bound.
STRONG = ("sigma 1", "sigma 2", "zeroed")
#: Points of accuracy that a bar may be missed by, and the part of the oracle to reach.
SLACK, PART = 0.5, 0.97

# The DMS paper (arXiv 2506.12724): VQA v2, BLIP-2. Not ours, other data.
_PAPER_CLEAN = {"static": 72.1, "co_attention": 73.3, "modality_dropout": 73.5, "dms": 74.4}
_PAPER_NOISE = {
    "image (blur, occlusion)": {"static": 56.7, "co_attention": 60.2, "dms": 65.9},
    "text (spelling, masking)": {"static": 59.1, "co_attention": 62.3, "dms": 67.4},
}
_PAPER_FACTORS = {"DMS": 74.4, "alpha = 0": 73.2, "beta = 0": 73.6, "gamma = 0": 72.5}

Lines = list[str]


class Numbers:
    """What was measured: means over seeds."""

    def __init__(self, folder: Path) -> None:
        self._values: dict[tuple[str, str, str, str], dict[int, float]] = {}
        with (folder / "robustness.csv").open(newline="") as file:
            for row in csv.DictReader(file):
                key = (row["set"], row["method"], row["condition"], row["metric"])
                self._values.setdefault(key, {})[int(row["seed"])] = float(row["value"])
        self.sets = list(dict.fromkeys(key[0] for key in self._values))
        quoted = json.loads((Path(__file__).parent / "peers.json").read_text())
        self.about_peers: dict[str, Any] = quoted
        self._peers: dict[str, dict[str, dict[str, float]]] = quoted["sets"]

    def seeds(self, name: str, method: str) -> int:
        """With how many seeds a method was measured."""
        return len(self._values[name, method, "clean", "accuracy"])

    def mean(
        self, name: str, method: str, condition: str, metric: str = "accuracy", most: int = 99
    ) -> float:
        """The mean over the seeds, at most so many of the first; NaN if there is nothing."""
        values = self._values.get((name, method, condition, metric), {})
        own = [value for seed, value in values.items() if seed < most]
        return float(np.mean(own)) if own else float("nan")

    def all(self, name: str, method: str, metric: str) -> list[float]:
        """Over all conditions and seeds."""
        return [
            value
            for key, values in self._values.items()
            if key[:2] == (name, method) and key[3] == metric
            for value in values.values()
        ]

    def conditions(self, name: str, method: str) -> list[str]:
        return [key[2] for key in self._values if key[:2] == (name, method)]

    def rows(self, name: str) -> dict[str, dict[str, float]]:
        """Of one set, every method in the columns of the tables; the oracle and peers too."""
        columns = [(c, c, "accuracy") for c in CONDITIONS]
        columns += [("ece clean", "clean", "ece"), ("ece noisy", "noisy", "ece")]
        titles = METHODS | {"oracle": ORACLE}
        found = {
            title: {column: self.mean(name, method, c, metric) for column, c, metric in columns}
            for method, title in titles.items()
        }
        return found | self.peers(name)

    def peers(self, name: str) -> dict[str, dict[str, float]]:
        """What was measured elsewhere on a set of that name."""
        return {f"{title} †": row for title, row in self._peers.get(name, {}).items()}

    def bar(self, name: str, condition: str) -> tuple[float, str]:
        """The best of all but robust and the oracle, and whose it is."""
        rows = self.rows(name)
        for title in (METHODS["robust"], ORACLE):
            del rows[title]
        best = max(rows, key=lambda title: rows[title][condition])
        return rows[best][condition], best


def write_tables(folder: Path) -> None:
    """Write README.md beside the numbers."""
    numbers = Numbers(folder)
    about = json.loads((folder / "environment.json").read_text())
    parts = [
        _intro(numbers, about),
        _must_hold(numbers),
        *(_accuracy(numbers, name, about) for name in numbers.sets),
        _told(numbers),
        _ablation(numbers),
        _paper(numbers),
        _missing(numbers),
        _covariance(numbers),
        _onnx(numbers),
        _time(numbers),
    ]
    text = "\n".join(line for part in parts for line in (*part, ""))
    (folder / "README.md").write_text(text.rstrip() + "\n", encoding="utf-8")


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> Lines:
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return [f"| {' | '.join(line)} |" for line in lines]


def _prose(text: str) -> str:
    """A paragraph in one line."""
    return " ".join(text.split())


def _one(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.1f}"


def _two(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.2f}"


def _count(seeds: int) -> str:
    return f"{seeds} seeds" if seeds > 1 else "seed"


def _intro(numbers: Numbers, about: dict[str, Any]) -> Lines:
    machine, versions = about["machine"], about["versions"]
    seeds = numbers.seeds(numbers.sets[0], "robust")
    return [
        "# Fusion under noise, conflict and missing modalities",
        "",
        _prose(f"""
            Written by `benchmarks/robustness/study.py FOLDER`. Every number is in
            `robustness.csv`, versions and settings in `environment.json`. {machine["cpu"]},
            {machine["cores"]} cores; Python {about["python"]},
        """)
        + " "
        + ", ".join(f"{name} {number}" for name, number in versions.items())
        + ".",
        "",
        _prose(f"""
            Means of {seeds} seeds, accuracy in %. The split is 80/20 by
            `RandomState(seed).permutation(n)`, or the set's own. Features are scaled to [0, 1]
            by the training rows. Test rows alone are corrupted, with `RandomState(1000 +
            seed)`: of each sample `max(1, M // 2)` modalities, by Gaussian noise, or set to 0
            (*zeroed*), and nobody is told. *Conflict* is RCML's routine (arXiv 2402.16897). ECE
            has 15 bins; *noisy* is its mean over the five levels of noise. All settings are the
            defaults of `dms fit`, the same for all sets. The design (how heads are scaled and
            start, how typicality is calibrated, where logits are fused) was worked out on the first
            splits of these very sets, their test rows in view: this is no blind test.
        """),
        "",
        "![Accuracy against condition](robustness.png)",
    ]


def _must_hold(numbers: Numbers) -> Lines:
    lines = [
        "## What must hold",
        "",
        _prose(f"""
            Bar: the best of static with the same heads, of every other method here and of every
            peer quoted (†), less {SLACK} points; the variants of robust and the oracle are no
            bar. Under strong noise and zeroed also {PART:.0%} of the mask oracle.
        """),
    ]
    total = met = 0
    for name in numbers.sets:
        rows = []
        for condition in CONDITIONS:
            own = numbers.mean(name, "robust", condition)
            best, who = numbers.bar(name, condition)
            margins = [own - (best - SLACK)]
            cells = [_one(own), f"{best - SLACK:.1f} ({who})", f"{margins[0]:+.1f}"]
            if condition in STRONG:
                bound = PART * numbers.mean(name, "oracle", condition)
                margins.append(own - bound)
                cells += [_one(bound), f"{margins[1]:+.1f}"]
            else:
                cells += ["", ""]
            good = min(margins) >= 0
            total, met = total + 1, met + good
            rows.append([condition, *cells, "met" if good else f"missed by {-min(margins):.1f}"])
        header = ["", "robust", "bar", "margin", f"{PART:.0%} of oracle", "margin", ""]
        lines += ["", f"**{name}**", "", *_table(header, rows)]
    lines[3:3] = ["", f"Met in {met} of {total} columns."]
    return lines


def _accuracy(numbers: Numbers, name: str, about: dict[str, Any]) -> Lines:
    rows = numbers.rows(name)
    own = about["tables"][name]
    oracle = rows.pop(ORACLE)
    bound = {
        c: max(oracle[c], rows[METHODS["static"]][c]) if c in CONDITIONS else float("nan")
        for c in oracle
    }
    columns = list(oracle)
    best = {c: _best([row[c] for row in rows.values()], c) for c in columns}

    def cells(row: dict[str, float], bold: bool = True) -> list[str]:
        return [
            f"**{text}**" if bold and text == best[c] else text
            for c in columns
            for text in (_format(row[c], c),)
        ]

    body = [[title, *cells(row)] for title, row in rows.items() if title in METHODS.values()]
    body += [[f"*{ORACLE}*", *cells(oracle, False)]]
    body += [["*max(static, oracle)*", *cells(bound, False)]]
    body += [[title, *cells(row)] for title, row in numbers.peers(name).items()]
    widths = ", ".join(f"{key} {width}" for key, width in own["modalities"].items())
    lines = [
        f"## {name}",
        "",
        _prose(f"""
            {len(own["modalities"])} modalities ({widths}), {own["classes"]} classes,
            {own["rows"]} rows, test rows: {own["test"]}. The first {len(SAME_HEADS)} have the
            same heads.
        """),
        "",
        *_table(["", *columns], body),
    ]
    if numbers.peers(name):
        lines += ["", f"† {numbers.about_peers['what']} {numbers.about_peers['source']}"]
    return lines


def _format(value: float, column: str) -> str:
    return _two(value) if column.startswith("ece") else _one(value)


def _best(values: list[float], column: str) -> str:
    pick = np.nanmin if column.startswith("ece") else np.nanmax
    return _format(float(pick(values)), column)


def _told(numbers: Numbers) -> Lines:
    rows = [
        [title, *(_one(numbers.mean(name, method, TOLD)) for name in numbers.sets)]
        for method, title in METHODS.items()
    ]
    return [
        "## Absent, and everybody is told",
        "",
        _prose("""
            Another protocol: the drawn modalities are absent and `present` says so. Static is
            then what the mask oracle is.
        """),
        "",
        *_table(["", *numbers.sets], rows),
    ]


def _pair(numbers: Numbers, most: int) -> Callable[[str, str], str]:
    """Clean accuracy, and the mean over the five levels of noise and zeroed."""

    def text(name: str, method: str) -> str:
        clean = numbers.mean(name, method, "clean", most=most)
        spoilt = [numbers.mean(name, method, c, most=most) for c in (*NOISE, "zeroed")]
        return f"{_one(clean)} / {_one(float(np.mean(spoilt)))}"

    return text


def _compared(numbers: Numbers, methods: dict[str, str], most: int) -> Lines:
    text = _pair(numbers, most)
    rows = [
        [title, *(text(name, method) for name in numbers.sets)] for method, title in methods.items()
    ]
    return _table(["clean / corrupted", *numbers.sets], rows)


def _few(numbers: Numbers) -> int:
    return numbers.seeds(numbers.sets[0], "robust, not learned")


def _ablation(numbers: Numbers) -> Lines:
    few = _few(numbers)
    methods = {
        "robust": "robust",
        "robust - confidence": "without confidence",
        "robust - uncertainty": "without uncertainty",
        "robust - corroboration": "without corroboration",
        "robust - typicality": "without typicality",
        "robust, not learned": "the rule it starts at, not learned",
        "robust, probabilities": "fusion of probabilities",
        "robust, full covariance": "typicality by a full covariance",
        "robust, diagonal covariance": "typicality by a diagonal covariance",
        "static": "static",
    }
    return [
        "## What the parts of robust are worth",
        "",
        _prose(f"""
            Means of the first {_count(few)}; *corrupted* is the mean over the five levels of
            noise and zeroed. Each line but the rule was fitted anew.
        """),
        "",
        *_compared(numbers, methods, few),
    ]


def _paper(numbers: Numbers) -> Lines:
    few = _few(numbers)
    methods = {
        "static": "static",
        "co_attention": "co-attention",
        "modality_dropout": "modality dropout",
        "dms_rule_sum": "DMS rule",
        "robust": "robust",
    }
    quoted = {"dms_rule_sum": "dms"} | {key: key for key in methods if key in _PAPER_CLEAN}
    clean = []
    for method, title in methods.items():
        paper = _PAPER_CLEAN.get(quoted.get(method, ""), float("nan"))
        own = [_one(numbers.mean(name, method, "clean")) for name in numbers.sets]
        clean.append([title, *own, f"*{_one(paper)}*"])
    factors = {
        "dms_rule_sum": "DMS rule",
        "dms_rule, alpha 0": "alpha = 0 (confidence)",
        "dms_rule, beta 0": "beta = 0 (uncertainty)",
        "dms_rule, gamma 0": "gamma = 0 (agreement)",
    }
    second = {
        "static": "static",
        "dms_rule_sum": "DMS rule",
        "robust": "robust",
        "static, PCA": "static, components",
        "dms_rule, PCA": "DMS rule, components",
        "robust, PCA": "robust, components",
    }
    return [
        "## The DMS paper's tables, on these sets",
        "",
        _prose("""
            arXiv 2506.12724 measures BLIP-2 on VQA v2. Its numbers (*in italics*) are not ours,
            and of other data: they are here for context. DMS rule: all coefficients 1, variance
            summed over classes, agreement of predictions, over probabilities, with the heads of
            robust.
        """),
        "",
        "**Table 1, clean**",
        "",
        *_table(["", *numbers.sets, "*paper: VQA v2*"], clean),
        "",
        _prose("""
            **Table 2, noise in one modality**: accuracy, and in brackets the degradation 100
            (noisy - clean) / clean. One modality of every sample has noise of sigma 1, or is
            zeroed; nobody is told.
        """),
        *_noise(numbers, methods),
        "",
        _prose(f"""
            **Table 3, without one factor**, the first {_count(few)}. For robust see the table
            above. *Paper, VQA v2:
        """)
        + " "
        + ", ".join(f"{k} {v}" for k, v in _PAPER_FACTORS.items())
        + ".*",
        "",
        *_compared(numbers, factors, few),
        "",
        _prose(f"""
            **Table 4, a second backbone**, the first {_count(few)}: the same on 64 principal
            components of each modality, of the corrupted features. *The paper has LLaVA, judged
            for helpfulness (3.6 to 4.1) and factuality (72.4 to 78.9).*
        """),
        "",
        *_compared(numbers, second, few),
    ]


def _noise(numbers: Numbers, methods: dict[str, str]) -> Lines:
    def cell(name: str, method: str, condition: str) -> str:
        noisy = numbers.mean(name, method, condition)
        change = metrics.degradation(numbers.mean(name, method, "clean"), noisy)
        return f"{_one(noisy)} ({change:.1f})"

    lines: Lines = []
    for name in numbers.sets:
        conditions = dict.fromkeys(c for c in numbers.conditions(name, "robust") if " on " in c)
        rows = [[c, *(cell(name, method, c) for method in methods)] for c in conditions]
        lines += ["", *_table([name, *methods.values()], rows)]
    rows = []
    for modality, row in _PAPER_NOISE.items():
        changes = {k: metrics.degradation(_PAPER_CLEAN[k], v) for k, v in row.items()}
        rows.append(
            [modality, *(f"*{v} ({changes[k]:.1f})*" for k, v in row.items())],
        )
    return [*lines, "", *_table(["*paper: VQA v2*", "static", "co-attention", "DMS"], rows)]


def _missing(numbers: Numbers) -> Lines:
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
        _prose(f"""
            Every set of modalities but all is missing in turn (EMM of arXiv 2503.18445): absent
            and *told*, or *untold* at the training mean. *Average* is over all sets, the empty
            one included; *expected* if each is missing by itself with probability 0.2. CR, the
            counter-intuitive rate (SimMLM, arXiv 2507.19264), is how often, in %, a sample is
            right with fewer modalities and wrong with more; 0 is best. In training each
            modality was drawn absent from 30 % of the rows where it says so; the MoFe loss is
            SimMLM's second stage. Means of the first {_count(_few(numbers))}.
        """),
    ]
    for name in numbers.sets:
        rows = [
            [
                title,
                *(
                    _one(numbers.mean(name, method, f"missing, {told}", metric))
                    for told in ("told", "untold")
                    for metric in columns
                ),
            ]
            for method, title in methods.items()
        ]
        header = [name, *(f"{told}: {c}" for told in ("told", "untold") for c in columns.values())]
        lines += ["", *_table(header, rows)]
    return lines


def _covariance(numbers: Numbers) -> Lines:
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
        _prose("""
            Covariance of a modality's weight and its own loss in nats, summed over modalities:
            below 0 dynamic weights help (Zhang et al. 2023, arXiv 2306.02050).
        """),
        "",
        *_table(["clean / sigma 1", *numbers.sets], rows),
    ]


def _onnx(numbers: Numbers) -> Lines:
    rows = []
    for name in numbers.sets:
        same = min(numbers.all(name, "robust", "onnx: share of equal predictions"))
        off = max(numbers.all(name, "robust", "onnx: largest difference"))
        rows.append([name, f"{100 * same:g} %", f"{off:.1e}"])
    return [
        "## The exported graph",
        "",
        _prose("""
            The first seed's robust artifact in ONNX Runtime beside NumPy, the worst of all
            conditions: equal predicted labels, and the largest difference of a probability.
        """),
        "",
        *_table(["", "equal labels", "largest difference"], rows),
    ]


def _time(numbers: Numbers) -> Lines:
    rows = []
    for name in numbers.sets:
        own, heads, other = (
            numbers.mean(name, "robust", f"fit{what}", "CPU seconds")
            for what in ("", ", heads alone", ", scikit-learn")
        )
        rows.append(
            [name, *(_one(v) for v in (own, heads, other)), _one(own / heads), _one(own / other)]
        )
    header = ["", "robust", "heads alone", "scikit-learn", "/ heads", "/ scikit-learn"]
    return [
        "## Time of a fit",
        "",
        _prose("""
            CPU seconds, one thread, the first seed. *Heads alone* is `dms fit` with uniform
            weights; *scikit-learn* one `LogisticRegression(max_iter=1000)` for each modality.
        """),
        "",
        *_table(header, rows),
    ]
