"""Draws reports: a matrix of clauses and backends as Markdown or HTML, and a badge."""

from __future__ import annotations

from collections.abc import Sequence

from dms_spec.conformance.clauses import clauses
from dms_spec.conformance.report import Report, Result
from dms_spec.markup import escape, html_page, html_table, markdown_table, plain_markdown, shown

_SIGNS = {
    "passed": "✓",
    "refusal_ok": "✓",
    "failed": "✗",
    "error": "✗",
    "refusal_missing": "✗",
    "xpass": "✗",
    "suite_error": "!",
    "xfail": "~",
    "not_claimed": "-",
    "not_run": "?",
}
_WORDS = {
    "✓": "passed",
    "✗": "failed",
    "!": "the suite itself failed",
    "~": "expected to fail, with a reason",
    "-": "not claimed",
    "?": "not run",
}
# What one cell shows when several checks of a clause differ: the first of these that is among them.
_FIRST = ("✗", "!", "~", "?", "✓", "-")

_COLOURS = {
    "conformant": "#2e7d32",
    "conformant-with-declared-gaps": "#a15c00",
    "partial": "#5f6368",
    "non-conformant": "#b3261e",
    "invalid-run": "#5f6368",
}


_LONGEST_BADGE = 120

#: What one knows a drawing by, whatever its format.
DRAWN = "Drawn by dms report"


def markdown(reports: Sequence[Report]) -> str:
    """Writes a verdict for each report, the matrix of clauses, and the worst errors."""
    parts = ["# Conformance results", "", _about(reports), ""]
    parts.append(markdown_table(("backend", "verdict", *_level_names(reports)), _verdicts(reports)))
    if reasons := _gaps(reports):
        parts += ["", "## What did not pass", ""]
        parts += [f"- {plain_markdown(reason)}" for reason in reasons]
    parts += ["", "## Clauses", "", f"{_legend()}.", ""]
    parts.append(markdown_table(("clause", *_columns(reports)), _matrix(reports)))
    parts += ["", "## Worst error", "", "In eps of its scale; 8 are allowed.", ""]
    parts.append(markdown_table(("output", *_columns(reports)), _errors(reports)))
    return "\n".join(parts) + "\n"


def html(reports: Sequence[Report]) -> str:
    """Writes the same as one page that needs nothing else. A clause shows its text on hover."""
    columns = _columns(reports)
    body = ["<h1>Conformance results</h1>", f"<p>{escape(_about(reports))}</p>"]
    body.append(
        html_table(("backend", "verdict", *_level_names(reports)), _verdicts(reports), kind=_kind)
    )
    if reasons := _gaps(reports):
        items = "".join(f"<li><pre>{escape(reason)}</pre></li>" for reason in reasons)
        body += ["<h2>What did not pass</h2>", f"<ul>{items}</ul>"]
    body += ["<h2>Clauses</h2>", f"<p>{escape(_legend())}.</p>"]
    body.append(html_table(("clause", *columns), _matrix(reports), kind=_kind, hint=_text_of))
    body += ["<h2>Worst error</h2>", "<p>In eps of its scale; 8 are allowed.</p>"]
    body.append(html_table(("output", *columns), _errors(reports), kind=_kind))
    return html_page("Conformance", "\n".join(body), _STYLE)


def badge(report: Report) -> str:
    """Draws one line as SVG: the edition, and for each level how much passed of what there is."""
    label = shown(f"dms-spec {report.edition}", _LONGEST_BADGE)
    message = shown(badge_message(report), _LONGEST_BADGE)
    left, right = 7 * len(label) + 12, 7 * len(message) + 12
    return _BADGE.format(
        label=escape(label),
        message=escape(message),
        width=left + right,
        left=left,
        right=right,
        middle_left=left / 2,
        middle_right=left + right / 2,
        colour=_COLOURS[report.verdict],
    )


def badge_message(report: Report) -> str:
    """Writes what the badge says. The denominators are those of a whole run."""
    if report.verdict in ("invalid-run", "partial"):
        return report.verdict
    parts = [
        f"{level} {count['passed']}/{count['of']}"
        for level, count in report.levels.items()
        if count["passed"]
    ]
    expected = report.counts["xfail"]
    return " · ".join(parts + ([f"{expected} xfail"] if expected else []))


# ------------------------------------------------------------------------------------ the tables


def _about(reports: Sequence[Report]) -> str:
    """Writes editions and suites, which are the same for all or worth knowing."""
    editions = " and ".join(dict.fromkeys(r.edition for r in reports))
    suites = " and ".join(dict.fromkeys(r.suite for r in reports))
    cases = " or ".join(dict.fromkeys(str(r.examples) for r in reports))
    same = len({r.clauses_sha256 for r in reports}) == 1
    return (
        f"Edition {editions}, suite {suites}, {cases} cases for each property"
        f"{'' if same else ', clauses of different texts'}. "
        f"{DRAWN} from the reports of dms check."
    )


def _columns(reports: Sequence[Report]) -> list[str]:
    return [f"{r.backend['name']} {where}" for r in reports for where in _wheres(r)]


def _wheres(report: Report) -> list[str]:
    """Names the dtypes, with the device where there are several."""
    devices = dict.fromkeys(r.device for r in report.results)
    dtypes = dict.fromkeys(r.dtype for r in report.results if not r.check.startswith("refuses_"))
    return [f"{d} {t}" if len(devices) > 1 else t for d in devices for t in dtypes]


def _at(report: Report, where: str) -> list[Result]:
    device, _, dtype = where.rpartition(" ")
    return [r for r in report.results if r.dtype == dtype and device in ("", r.device)]


def _matrix(reports: Sequence[Report]) -> list[list[str]]:
    ids = dict.fromkeys(c for report in reports for r in report.results for c in r.clauses)
    rows = []
    for clause in sorted(ids):
        cells = []
        for report in reports:
            for where in _wheres(report):
                signs = {_SIGNS[r.status] for r in _at(report, where) if clause in r.clauses}
                cells.append(next((sign for sign in _FIRST if sign in signs), ""))
        rows.append([clause, *cells])
    return rows


def _errors(reports: Sequence[Report]) -> list[list[str]]:
    columns = [
        {
            name: max(r.worst.get(name, 0.0) for r in _at(report, where))
            for name in {n for r in _at(report, where) for n in r.worst}
        }
        for report in reports
        for where in _wheres(report)
    ]
    names = sorted({name for column in columns for name in column})
    return [
        [name, *(f"{column[name]:.2f}" if name in column else "" for column in columns)]
        for name in names
    ]


def _verdicts(reports: Sequence[Report]) -> list[list[str]]:
    rows = []
    for report in reports:
        cells = [
            f"{report.levels[level]['passed']} of {report.levels[level]['of']}"
            for level in _level_names(reports)
        ]
        rows.append([report.backend["name"], report.verdict, *cells])
    return rows


def _level_names(reports: Sequence[Report]) -> list[str]:
    return [n for n in reports[0].levels if any(report.levels[n]["of"] for report in reports)]


def _gaps(reports: Sequence[Report]) -> list[str]:
    return [
        f"{report.backend['name']}, {r.check} [{r.device}, {r.dtype}], {r.status}: {r.message}"
        for report in reports
        for r in report.results
        if _SIGNS[r.status] in "✗!~?"
    ]


def _legend() -> str:
    return ", ".join(f"{sign} {word}" for sign, word in _WORDS.items())


def _text_of(clause: str) -> str:
    known = clauses().get(clause)
    return known.text if known else ""


def _kind(cell: str) -> str:
    return {"✓": "good", "✗": "bad", "~": "gap", "non-conformant": "bad", "conformant": "good"}.get(
        cell, "plain"
    )


_STYLE = """th, td { text-align: center; }
thead th { position: sticky; top: 0; background: var(--paper); }
.good { color: var(--good); } .bad { color: var(--bad); font-weight: bold; }
.gap { color: var(--gap); }
pre { white-space: pre-wrap; }"""

_BADGE = """<!-- Drawn by dms report. -->
<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="20" role="img" \
aria-label="{label}: {message}">
<rect width="{width}" height="20" rx="3" fill="{colour}"/>
<rect width="{left}" height="20" rx="3" fill="#444"/>
<g fill="#fff" font-family="Verdana,DejaVu Sans,sans-serif" font-size="11" text-anchor="middle">
<text x="{middle_left}" y="14">{label}</text>
<text x="{middle_right}" y="14">{message}</text>
</g>
</svg>
"""
