"""The DMS paper's tables on these sets, beside the paper's own numbers."""

from __future__ import annotations

from measured import Numbers
from tables import compared, few
from text import Lines, count, one, prose, table

from dms_spec.robustness import metrics

# The DMS paper (arXiv 2506.12724): VQA v2, BLIP-2. Not ours, other data.
_PAPER_CLEAN = {"static": 72.1, "co_attention": 73.3, "modality_dropout": 73.5, "dms": 74.4}
_PAPER_NOISE = {
    "image (blur, occlusion)": {"static": 56.7, "co_attention": 60.2, "dms": 65.9},
    "text (spelling, masking)": {"static": 59.1, "co_attention": 62.3, "dms": 67.4},
}
_PAPER_FACTORS = {"DMS": 74.4, "alpha = 0": 73.2, "beta = 0": 73.6, "gamma = 0": 72.5}


def paper(numbers: Numbers) -> Lines:
    """All of them."""
    seeds = few(numbers)
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
        theirs = _PAPER_CLEAN.get(quoted.get(method, ""), float("nan"))
        own = [one(numbers.mean(name, method, "clean", most=seeds)) for name in numbers.sets]
        clean.append([title, *own, f"*{one(theirs)}*"])
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
        prose("""
            arXiv 2506.12724 measures BLIP-2 on VQA v2. Its numbers (*in italics*) are not ours,
            and of other data: they are here for context. DMS rule: all coefficients 1, variance
            summed over classes, agreement of predictions, over probabilities, with the heads of
            robust.
        """),
        "",
        f"**Table 1, clean**, the first {count(seeds)}",
        *table(["", *numbers.sets, "*paper: VQA v2*"], clean),
        "",
        prose("""
            **Table 2, noise in one modality**: accuracy, and in brackets the degradation 100
            (noisy - clean) / clean. One modality of every sample has noise of sigma 1, or is
            zeroed; nobody is told.
        """),
        *_noise(numbers, methods, seeds),
        "",
        prose(f"""
            **Table 3, without one factor**, the first {count(seeds)}. For robust see the table
            above. *Paper, VQA v2:
        """)
        + " "
        + ", ".join(f"{k} {v}" for k, v in _PAPER_FACTORS.items())
        + ".*",
        *compared(numbers, factors, seeds),
        "",
        prose(f"""
            **Table 4, a second backbone**, the first {count(seeds)}: the same on 64 principal
            components of each modality, of the corrupted features. *The paper has LLaVA, judged
            for helpfulness (3.6 to 4.1) and factuality (72.4 to 78.9).*
        """),
        *compared(numbers, second, seeds),
    ]


def _noise(numbers: Numbers, methods: dict[str, str], most: int) -> Lines:
    def cell(name: str, method: str, condition: str) -> str:
        noisy, clean = (numbers.mean(name, method, c, most=most) for c in (condition, "clean"))
        change = metrics.degradation(clean, noisy)
        return f"{one(noisy)} ({change:.1f})"

    lines: Lines = []
    for name in numbers.sets:
        conditions = numbers.alone(name)
        rows = [[c, *(cell(name, method, c) for method in methods)] for c in conditions]
        lines += table([name, *methods.values()], rows)
    rows = []
    for modality, row in _PAPER_NOISE.items():
        changes = {k: metrics.degradation(_PAPER_CLEAN[k], v) for k, v in row.items()}
        rows.append(
            [modality, *(f"*{v} ({changes[k]:.1f})*" for k, v in row.items())],
        )
    return [*lines, *table(["*paper: VQA v2*", "static", "co-attention", "DMS"], rows)]
