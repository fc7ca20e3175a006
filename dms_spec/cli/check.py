"""``dms check`` runs the conformance suite on one backend, and writes a report."""

from __future__ import annotations

import argparse
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dms_spec.cli.codes import GOOD, NOT_CONFORMANT, OUT_OF_TOLERANCE
from dms_spec.cli.printing import say, say_json, say_table, say_under, say_verdict, tell
from dms_spec.cli.progress import Bar
from dms_spec.conformance.expected import read_expected
from dms_spec.conformance.render import DRAWN, badge, html, markdown
from dms_spec.conformance.report import REPORT_MARK, Report, write_report
from dms_spec.errors import BackendUnavailable, DMSError, FileError, SpecError, install_hint
from dms_spec.outputs import Target, writing_file

_DRAWN = DRAWN.encode()

if TYPE_CHECKING:
    from dms_spec.conformance.context import Context
    from dms_spec.conformance.runner import Planned


EXAMPLE = "dms check numpy --report numpy.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "backend", metavar="BACKEND", nargs="?", help="a backend, or mutant:NAME to see one fail"
    )
    parser.add_argument("--device", action="append", default=[], help="check this device only")
    parser.add_argument("--dtype", action="append", default=[], help="check this dtype only")
    parser.add_argument(
        "--level", action="append", default=[], help="check this level only: core, ..."
    )
    parser.add_argument("--check", action="append", default=[], help="run this check only")
    parser.add_argument("--clause", action="append", default=[], help="run checks of this clause")
    parser.add_argument("--list", action="store_true", help="list checks and mutants, run nothing")
    parser.add_argument(
        "--examples", type=int, help="cases to try for each property (default: 100)"
    )
    parser.add_argument(
        "--thorough", action="store_true", help="try 500 cases: minutes, where it takes one or two"
    )
    parser.add_argument(
        "--explore", action="store_true", help="draw new cases instead of the same in every run"
    )
    parser.add_argument("--seed", type=int, help="where --explore starts")
    parser.add_argument(
        "--freeze", metavar="DIR", type=Path, help="write the smallest failing cases as vectors"
    )
    parser.add_argument("--expected", metavar="FILE", type=Path, help="TOML of expected failures")
    parser.add_argument(
        "--report", metavar="FILE", type=Path, help="write the report: .json, .md, .html or .svg"
    )
    parser.add_argument(
        "--durations", action="store_true", help="list the ten checks that took longest"
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def run(args: argparse.Namespace) -> int:
    try:
        import hypothesis  # noqa: F401 - its absence is reported here, once
    except ImportError as error:
        raise BackendUnavailable(
            "the conformance suite needs hypothesis",
            fix=install_hint("dms-spec[conformance]"),
        ) from error
    from dms_spec.conformance.registry import checks
    from dms_spec.conformance.runner import find_backend, known_checks, plan
    from dms_spec.conformance.runner import run as run_suite

    if args.list:
        return _list()
    if not args.backend:
        raise SpecError(
            "there is nothing to check",
            expected="the name of a backend",
            fix="`dms backends` lists them.",
        )
    if args.seed is not None and not args.explore:
        raise SpecError("--seed is for --explore", fix="Without it the cases are always the same.")
    examples = _examples(args.examples, args.thorough)
    if args.report is not None:
        _check_format(args.report)
        Target.of_file(args.report, REPORT_MARK if args.report.suffix == ".json" else _DRAWN)
    backend = find_backend(args.backend)
    some = bool(args.check or args.level or args.clause)
    selected = checks(args.check, args.level, args.clause) if some else None
    expected = read_expected(args.expected, known_checks(backend)) if args.expected else []
    seed = _seed(args.seed) if args.explore else None
    if seed is not None:
        tell(f"exploring from seed {seed}")
    found = run_suite(
        backend,
        plan(backend, selected, devices=args.device, dtypes=args.dtype),
        registered=len(plan(backend)),
        examples=examples,
        seed=seed,
        expected=expected,
        failed=_freezer(args.freeze) if args.freeze else None,
        progress=lambda planned: Bar().over(
            planned, "checking", "check", lambda one: f"{one.check.name} {one.dtype}"
        ),
    )
    if args.report is not None:
        _write(args.report, found)
    if args.json:
        say_json(found.to_dict())
    else:
        _print(found)
        if args.durations:
            _print_slowest(found)
    return _exit_code(found)


def _examples(given: int | None, thorough: bool) -> int:
    from dms_spec.conformance.runner import EXAMPLES, THOROUGH

    if given is not None and thorough:
        raise SpecError("--thorough says how many cases to try", fix="Leave --examples out.")
    if given is not None and given < 1:
        raise SpecError(
            "there are no cases to try", expected="--examples 1 or more", got=f"{given}"
        )
    return given or (THOROUGH if thorough else EXAMPLES)


def _seed(given: int | None) -> int:

    return secrets.randbits(32) if given is None else given


def _freezer(folder: Path) -> Callable[[Planned, Context], None]:
    """Writes the smallest case of each check that fails."""
    from dms_spec.conformance.vectors import freeze, write_vector

    Target.of_folder(folder / "any.json", {}, overwrite=False).make_parent()

    def write(planned: Planned, context: Context) -> None:
        if context.last is None:
            return
        spec, arrays, parameters = context.last
        clause = planned.check.clauses[0]
        try:
            vector = freeze(
                spec,
                arrays,
                parameters,
                clause=clause,
                description=f"found by {planned.check.name}",
                dtype=planned.dtype,
            )
        except DMSError as error:  # what has to be refused has no answer to freeze
            tell(f"nothing to freeze for {planned.check.name}: {error}")
            return
        path = folder / f"{planned.id}.json"
        write_vector(path, vector)
        tell(f"froze {path}")

    return write


def _check_format(path: Path) -> None:

    if path.suffix not in (".json", ".md", ".html", ".svg"):
        raise FileError(
            f"no report is written as {path.suffix or 'a file without suffix'}",
            expected=".json, .md, .html or .svg",
            got=str(path),
        )


def _write(path: Path, report: Report) -> None:

    if path.suffix == ".json":
        write_report(path, report)
        return
    draw = {".md": markdown, ".html": html}.get(path.suffix)
    text = draw([report]) if draw else badge(report)
    with writing_file(path, _DRAWN) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _print(report: Report) -> None:
    for result in report.results:
        if result.status in ("failed", "error", "suite_error", "xpass", "refusal_missing"):
            say(f"{result.check} [{result.device}, {result.dtype}]: {result.status}")
            say_under(result.message)
            say(f"  reproduce:\n{_indented(result.reproduce)}")
            if report.seed is not None:
                again = f"--check {result.check} --dtype {result.dtype} --explore"
                say(
                    "  keep the case as a vector:\n"
                    f"    dms check {report.backend['name']} {again} --seed {report.seed} "
                    f"--examples {report.examples} --freeze found"
                )
            say()
    rows = [
        (level, f"{count['passed']} of {count['of']}")
        for level, count in report.levels.items()
        if count["of"]
    ]
    say_table(("level", "passed"), rows, right=(1,))
    counts = ", ".join(f"{n} {status}" for status, n in report.counts.items() if n)
    say(f"\n{counts}")
    worst = [(dtype, max(own.values(), default=0.0)) for dtype, own in report.worst.items()]
    if worst:
        shown = ", ".join(f"{dtype} {value:.2f}" for dtype, value in worst)
        say(f"worst error in eps of its scale, 8 allowed: {shown}")
    say_verdict(
        f"{report.backend['name']} is {report.verdict} to edition {report.edition}",
        good=_exit_code(report) == GOOD,
    )
    for reason in report.reasons:
        say(f"invalid: {reason}")
    if report.verdict == "partial":
        say("a selection certifies nothing: run all checks for a verdict")


def _print_slowest(report: Report) -> None:
    rows = [
        (one["check"], f"{one['device']} {one['dtype']}", f"{one['seconds']:.1f} s")
        for one in report.slowest
    ]
    say()
    say_table(("slowest", "where", "took"), rows, right=(2,))


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())


def _exit_code(report: Report) -> int:

    codes: dict[str, Any] = {"non-conformant": NOT_CONFORMANT, "invalid-run": OUT_OF_TOLERANCE}
    return int(codes.get(report.verdict, GOOD))


def _list() -> int:
    from dms_spec.conformance.mutants import mutants
    from dms_spec.conformance.registry import checks

    rows = [(c.name, c.summary, c.level, ", ".join(c.clauses)) for c in checks()]
    say_table(("check", "what", "level", "clauses"), rows)
    say()
    wrong = [(f"mutant:{m.name}", m.clause, m.summary) for m in mutants()]
    say_table(("mutant", "breaks", "what is wrong"), wrong)
    return 0
