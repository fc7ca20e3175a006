"""``dms check``, the same suite under pytest, its reports, and expected failures."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dms_spec.conformance.clauses import clauses
from dms_spec.conformance.context import Context
from dms_spec.conformance.expected import Expectation, read_expected
from dms_spec.conformance.mutants import get_mutant
from dms_spec.conformance.mutants.mutant import Mutant, MutantBackend, library
from dms_spec.conformance.reading import read_reports
from dms_spec.conformance.registry import LEVELS, checks
from dms_spec.conformance.render import badge, badge_message, html, markdown
from dms_spec.conformance.report import Report, Result, write_report
from dms_spec.conformance.runner import (
    Planned,
    known_checks,
    plan,
    report,
    run,
    run_check,
    run_one,
)
from dms_spec.conformance.strategies import Case
from dms_spec.errors import FileError, SpecError, UnknownName, UnsupportedCapability
from dms_spec.interface.capabilities import Capabilities
from dms_spec.plugins import get_backend

Dms = Callable[..., object]


@pytest.fixture(scope="module")
def numpy_report() -> Report:
    backend = get_backend("numpy")
    planned = plan(backend, dtypes=["float32"])
    return run(backend, planned, registered=len(planned), examples=2)


@pytest.fixture(scope="module")
def partial_report(numpy_report: Report) -> Report:
    """The same, as the part of a whole run that it is."""
    return replace(numpy_report, registered=len(plan(get_backend("numpy"))))


# ------------------------------------------------------------------------------------ the registry


def test_every_check_names_a_clause_a_level_and_says_what_it_does() -> None:
    for check in checks():
        assert check.clauses and set(check.clauses) <= set(clauses())
        assert check.level in LEVELS and check.summary


def test_every_level_has_a_check() -> None:
    assert {check.level for check in checks()} == set(LEVELS)


@pytest.mark.parametrize("kind", ["names", "levels", "clauses"])
def test_a_selection_of_what_is_not_there_is_refused(kind: str) -> None:
    with pytest.raises(SpecError, match="to run"):
        checks(**{kind: ["nothing_of_that_name"]})


def test_the_plan_holds_every_claimed_dtype_and_refuses_the_others() -> None:
    planned = plan(get_backend("numpy"))
    assert {one.dtype for one in planned} == {"float64", "float32", "float16", "bfloat16"}
    assert [p.check.name for p in planned if p.dtype == "bfloat16"] == ["refuses_dtype_bfloat16"]
    with pytest.raises(UnsupportedCapability, match="does not claim bfloat16"):
        plan(get_backend("numpy"), dtypes=["bfloat16"])


# ------------------------------------------------------------------------------------ verdicts


def test_numpy_is_conformant_and_gradients_are_not_counted_as_passed(numpy_report: Report) -> None:
    assert numpy_report.verdict == "conformant" and not numpy_report.reasons
    assert numpy_report.levels["gradients"]["passed"] == 0
    idle = [r for r in numpy_report.results if r.status == "not_claimed"]
    assert (
        len([r for r in idle if r.level == "gradients"]) == numpy_report.levels["gradients"]["of"]
    )
    assert all(r.message == "needs gradients" for r in idle)
    assert sum(numpy_report.counts.values()) == len(numpy_report.results)


def _with(report_: Report, *changed: Result, **fields: object) -> Report:
    names = {r.check for r in changed}
    kept = tuple(r for r in report_.results if r.check not in names)
    return replace(report_, results=kept + changed, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("status", "level", "verdict"),
    [
        ("failed", "core", "non-conformant"),
        ("error", "gradients", "non-conformant"),
        ("suite_error", "learned", "invalid-run"),
        ("xpass", "learned", "non-conformant"),
        ("refusal_missing", "core", "non-conformant"),
        ("xfail", "core", "non-conformant"),
        ("xfail", "gradients", "conformant-with-declared-gaps"),
        ("not_claimed", "gradients", "conformant"),
    ],
)
def test_what_each_status_makes_of_the_verdict(
    numpy_report: Report, status: str, level: str, verdict: str
) -> None:
    one = replace(numpy_report.results[0], status=status, level=level)  # type: ignore[arg-type]
    assert _with(numpy_report, one).verdict == verdict


def test_a_selection_certifies_nothing_and_an_empty_one_is_invalid(numpy_report: Report) -> None:
    some = replace(numpy_report, results=numpy_report.results[:3])
    assert some.verdict == "partial"
    none = replace(numpy_report, results=())
    assert none.verdict == "invalid-run" and none.reasons == ["nothing was executed"]


def test_a_suite_that_catches_nothing_is_invalid(numpy_report: Report) -> None:
    blind = replace(numpy_report, self_test={"uniform": False})
    assert blind.verdict == "invalid-run" and "uniform" in blind.reasons[0]


def test_an_unclaimed_policy_that_runs_is_a_missing_refusal() -> None:
    """What a backend does not claim it has to refuse: silence would be a fall-back."""
    fewer = Mutant(
        name="modest",
        summary="claims one policy",
        clause="DMS-C-002",
        claims=lambda c: replace(c, policies=("linear", "static")),
    )
    backend = MutantBackend(fewer)
    planned = [p for p in plan(backend, dtypes=["float32"]) if p.check.name.startswith("refuses_")]
    statuses = {p.check.name: run_one(backend, p).status for p in planned}
    assert statuses["refuses_policy_co_attention"] == "refusal_ok"

    class Careless(type(get_backend("numpy"))):  # type: ignore[misc]
        capabilities = Capabilities(dtypes=("float32",))

    # It computes float64 although it does not claim it: NumPy underneath would.
    careless = Careless()
    result = [
        run_one(careless, p) for p in plan(careless) if p.check.name == "refuses_dtype_bfloat16"
    ]
    assert [r.status for r in result] == ["refusal_ok"]


# ------------------------------------------------------------------------------------ messages


def test_a_failure_quotes_the_clause_and_reproduces_itself(dms: Dms) -> None:
    check = "check_any_case_matches_the_oracle"
    (one,) = plan(get_mutant("uniform"), checks([check]), dtypes=["float32"])
    result = run_one(get_mutant("uniform"), one, examples=20)
    assert result.status == "failed"
    assert clauses()["DMS-N-001"].text in result.message
    assert "Failing test case" in result.message and "arrays" in result.message
    assert len(result.reproduce.splitlines()) <= 3
    scope: dict[str, object] = {}
    with pytest.raises(AssertionError, match="DMS-N-001"):
        exec(result.reproduce, scope)
    run_check("numpy", check, dtype="float32")


def test_certify_mode_repeats_exactly_and_explore_mode_does_not() -> None:
    backend = get_mutant("uniform")
    (one,) = plan(backend, checks(["check_any_case_matches_the_oracle"]), dtypes=["float32"])

    def found(seed: int | None) -> str:
        return run_one(backend, one, examples=5, seed=seed).message

    assert found(None) == found(None)
    assert found(1) == found(1)
    worst = [run_one(get_backend("numpy"), one, examples=30, seed=seed).worst for seed in (1, 2)]
    assert worst[0] != worst[1]


# ------------------------------------------------------------------------------------ reports


def test_a_report_survives_its_file_and_a_changed_one_is_refused(
    partial_report: Report, tmp_path: Path
) -> None:
    path = tmp_path / "report.json"
    write_report(path, partial_report)
    data = json.loads(path.read_text())
    assert json.loads(json.dumps(read_reports([path])[0].to_dict())) == data
    assert data == json.loads(json.dumps(partial_report.to_dict()))
    for change in (
        {"verdict": "non-conformant"},
        {"counts": data["counts"] | {"passed": 1}},
        {"report_version": 2},
        {"results": data["results"][1:]},
        {"backend": 3},
        {"seed": 1.5},
        {"more": 1},
        {"results": [data["results"][0] | {"status": "good"}, *data["results"][1:]]},
    ):
        path.write_text(json.dumps(data | change))
        with pytest.raises((FileError, UnknownName)):
            read_reports([path])
    path.write_text("[]")
    with pytest.raises(FileError, match="is no report"):
        read_reports([path])


@pytest.mark.parametrize("what", ["registered", "self_test", "twice", "level", "suite"])
def test_what_a_report_says_of_the_suite_is_not_believed(
    partial_report: Report, tmp_path: Path, what: str
) -> None:
    """A selection that says that it is whole, wrong backends that it has not met, other checks."""
    few = replace(partial_report, results=partial_report.results[:6])
    first = few.results[0]
    forged = {
        "registered": replace(few, registered=6),
        "self_test": replace(few, self_test={}),
        "twice": replace(few, results=(*few.results, first)),
        "level": replace(few, results=(replace(first, level="export"), *few.results[1:])),
        "suite": replace(few, suite="0.0.1"),
    }[what]
    path = tmp_path / "report.json"
    path.write_text(json.dumps(few.to_dict()))
    assert read_reports([path])[0].verdict == "partial"
    path.write_text(json.dumps(forged.to_dict()))
    with pytest.raises(FileError, match="another suite" if what == "suite" else "add up"):
        read_reports([path])


def test_a_report_follows_the_schema_that_ships(numpy_report: Report) -> None:
    """By hand: required keys, no others, and the words of each enumeration."""
    from importlib.resources import files

    text = files("dms_spec.conformance").joinpath("report.schema.json").read_text(encoding="utf-8")
    schema, data = json.loads(text), numpy_report.to_dict()
    assert set(data) == set(schema["required"]) == set(schema["properties"])
    own = schema["$defs"]["result"]
    for result in data["results"]:
        assert set(result) == set(own["required"])
        assert result["status"] in schema["$defs"]["status"]["enum"]
        assert result["level"] in schema["$defs"]["level"]["enum"]
        assert all(re.match(r"DMS-[A-Z]-\d{3}$", clause) for clause in result["clauses"])
    assert set(schema["$defs"]["level"]["enum"]) == set(LEVELS)
    assert set(schema["$defs"]["status"]["enum"]) == set(data["counts"])
    assert data["verdict"] in schema["properties"]["verdict"]["enum"]


def test_a_report_names_no_person_machine_or_path(numpy_report: Report) -> None:
    import getpass
    import platform

    text = json.dumps(numpy_report.to_dict())
    for private in (str(Path.home()), platform.node(), sys.prefix):
        assert private not in text
    assert f'"{getpass.getuser()}"' not in text


def test_pictures_of_a_report_say_the_same(numpy_report: Report) -> None:
    bad = replace(numpy_report.results[0], status="failed", message="<b>wrong</b>")
    both = [numpy_report, _with(numpy_report, bad)]
    page, text = html(both), markdown(both)
    for drawn in (page, text):
        assert "non-conformant" in drawn and bad.clauses[0] in drawn and "✗" in drawn
    assert "<b>wrong</b>" not in page and "&lt;b&gt;wrong" in page
    assert "http" not in page.replace("http-equiv", "")
    core = numpy_report.levels["core"]
    assert f"core {core['passed']}/{core['of']}" in badge_message(numpy_report)
    assert badge_message(numpy_report) in badge(numpy_report)
    assert badge_message(replace(numpy_report, results=())) == "invalid-run"


def test_what_did_not_pass_comes_first_and_signs_differ(numpy_report: Report) -> None:
    bad = replace(numpy_report.results[0], status="failed", message="it is wrong")
    known = replace(numpy_report.results[1], status="xfail", message="as expected")
    mixed = replace(numpy_report, results=(bad, known, *numpy_report.results[2:]))
    for drawn in (html([mixed]), markdown([mixed])):
        assert drawn.index("it is wrong") < drawn.index("expected to fail")
        assert "✗" in drawn and "~" in drawn


# ---------------------------------------------------------------------------- runs that go wrong


def _one() -> Planned:
    return plan(get_backend("numpy"), checks(["check_worked_example"]), dtypes=["float32"])[0]


def _raising(error: BaseException) -> Planned:
    def run(ctx: Context) -> None:
        raise error

    return replace(_one(), check=replace(_one().check, name="check_that_raises", run=run))


@pytest.mark.parametrize("error", [SystemExit(3), ValueError("what a day"), MemoryError()])
def test_a_run_survives_a_check_that_raises(error: BaseException) -> None:
    planned = [_one(), _raising(error), _one()]
    found = run(get_backend("numpy"), planned, registered=3, examples=2)
    assert [r.status for r in found.results] == ["passed", "suite_error", "passed"]
    assert found.results[1].message.startswith(f"the suite itself failed: {type(error).__name__}")
    assert "in run of test_check.py, line" in found.results[1].message
    # It says nothing about the backend.
    assert found.verdict == "invalid-run"
    assert found.reasons == ["the suite itself failed in check_that_raises"]


def _raise(error: BaseException) -> Any:
    raise error


@pytest.mark.parametrize(
    "where",
    [
        {"around": lambda call: _raise(SystemExit(3))},
        {"convert": lambda array, device: _raise(ValueError("what a day"))},
        {"namespace": library(where=lambda *given, **how: _raise(MemoryError()))},
        {
            "claims": lambda claims: replace(claims, policies=("static",)),
            "batch": lambda arrays: {},
        },
    ],
    ids=["a call", "an array", "its library", "an empty batch"],
)
def test_what_a_backend_raises_is_a_failure_of_its_clause(where: dict[str, Any]) -> None:
    backend = MutantBackend(Mutant(name="raises", summary="raises", clause="", **where))
    planned = plan(backend, checks(["check_weights_sum_to_one"]), dtypes=["float32"])
    found = run(backend, planned, registered=1, examples=2)
    assert [r.status for r in found.results] == ["error"]
    assert found.results[0].message.startswith("DMS-W-002: the backend raised ")
    assert found.verdict == "non-conformant"


_MISSHAPEN: dict[str, Any] = {
    "no schedule": lambda result: None,
    "no weights": lambda result: replace(result, weights=None),
    "no signals": lambda result: replace(result, signals={}),
    "signals in a list": lambda result: replace(result, signals=list(result.signals.values())),
    "one modality less": lambda result: replace(result, scores=result.scores[:, 1:]),
    "a flat value": lambda result: replace(result, fused=result.fused[0]),
    "notes that are numbers": lambda result: replace(result, notes=(3,)),
}


@pytest.mark.parametrize("what", _MISSHAPEN)
def test_a_result_of_no_form_is_the_backends_fault(what: str) -> None:
    """Checks read what came back, so its form is a clause and not a crash of the suite."""
    change = _MISSHAPEN[what]
    wrong = Mutant(
        name="misshapen",
        summary=what,
        clause="",
        result=lambda result, batch, spec: change(result),
    )
    names = ["check_worked_example", "check_few_passes", "check_terms_sum_to_scores"]
    planned = plan(MutantBackend(wrong), checks(names), dtypes=["float32"])
    found = [run_one(MutantBackend(wrong), one, examples=5) for one in planned]
    assert {r.status for r in found} == {"failed"}, found
    assert all(r.message.startswith(("DMS-S-001", "DMS-C-006")) for r in found), found


def test_the_slowest_checks_are_named(numpy_report: Report, dms: Dms) -> None:
    slowest = numpy_report.slowest
    assert len(slowest) == 10
    assert [one["seconds"] for one in slowest] == sorted(
        (r.seconds for r in numpy_report.results), reverse=True
    )[:10]
    args = ("--check", "check_worked_example", "--dtype", "float32", "--durations")
    out = str(dms("check", "numpy", *args).succeeded())
    assert re.search(r"check_worked_example +cpu float32 +\d+\.\d s", out)


def test_a_run_that_is_stopped_tells_what_it_found() -> None:
    planned = [_one(), _raising(KeyboardInterrupt()), _one()]
    found = run(get_backend("numpy"), planned, registered=3, examples=2)
    assert [r.status for r in found.results] == ["passed", "not_run", "not_run"]
    assert found.verdict == "invalid-run"
    assert found.reasons == ["it was stopped before check_that_raises"]


def test_a_case_that_cannot_be_kept_ends_no_run() -> None:
    def failed(planned: Planned, context: Context) -> None:
        raise OSError("no space left")

    result = run_one(get_backend("numpy"), _raising(ValueError("what a day")), failed=failed)
    assert "the case could not be kept: OSError: no space left" in result.message


def test_a_backend_that_changes_its_mind_breaks_determinism() -> None:
    calls = iter(range(10**6))

    def wrong_at_times(ctx: Context) -> None:
        @ctx.given(ctx.cases())
        def property_(case: Case) -> None:
            ctx.expect("DMS-W-001", next(calls) != 3, "a weight is negative")

    one = replace(_one(), check=replace(_one().check, run=wrong_at_times))
    result = run_one(get_backend("numpy"), one, examples=20)
    assert result.status == "failed"
    assert result.message.startswith(
        "DMS-C-004: the same case fails in one run and not in the next"
    )
    assert "a weight is negative" in result.message


def test_a_refusal_names_the_claim_that_invited_it() -> None:
    error = UnsupportedCapability("no such thing here", capability="policy:linear")
    modest = Mutant(name="modest", summary="modest", clause="", around=lambda call: _raise(error))
    result = run_one(MutantBackend(modest), _one())
    assert "it was asked because every policy and float64, float32, float16" in result.message


def test_a_wrong_value_is_named_with_its_place_and_the_right_one() -> None:
    (one,) = plan(get_mutant("uniform"), checks(["check_worked_example"]), dtypes=["float32"])
    message = run_one(get_mutant("uniform"), one).message
    assert re.search(
        r"weights is off by .* at \[0, \d\]: got 0\.33333334, expected 0\.\d+", message
    )


# ------------------------------------------------------------------------------------ expectations


def _expected(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "expected.toml"
    path.write_text(text)
    return path


def test_expected_failures_are_exact_and_strict(tmp_path: Path) -> None:
    backend = get_mutant("uniform")
    name = "check_any_case_matches_the_oracle"
    path = _expected(tmp_path, f'[[expect]]\ncheck = "{name}"\nreason = "it is a mutant"\n')
    expected = read_expected(path, known_checks(backend))
    (one,) = plan(backend, checks([name]), dtypes=["float32"])
    assert run_one(backend, one, examples=10, expected=expected).status == "xfail"
    (good,) = plan(get_backend("numpy"), checks([name]), dtypes=["float32"])
    assert run_one(get_backend("numpy"), good, examples=2, expected=expected).status == "xpass"
    elsewhere = [Expectation(check=name, reason="r", dtype="float64")]
    assert run_one(backend, one, examples=10, expected=elsewhere).status == "failed"


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ('[[expect]]\ncheck = "check_any_case"\nreason = "r"\n', UnknownName),
        ('[[expect]]\ncheck = "check_worked_example"\n', SpecError),
        ('[[expect]]\ncheck = "check_worked_example"\nreason = " "\n', SpecError),
        (
            '[[expect]]\ncheck = "check_worked_example"\nreason = "r"\ndevices = "cpu"\n',
            UnknownName,
        ),
        ("[[expected]]\n", UnknownName),
        ("not toml", FileError),
    ],
)
def test_an_entry_that_matches_nothing_is_an_error(
    text: str, error: type[Exception], tmp_path: Path
) -> None:
    with pytest.raises(error):
        read_expected(_expected(tmp_path, text), known_checks(get_backend("numpy")))


# ------------------------------------------------------------------------------------ front ends


def test_dms_check_says_it_and_exits_accordingly(dms: Dms, tmp_path: Path) -> None:
    name = "check_worked_example"
    good = dms("check", "numpy", "--check", name, "--dtype", "float32")
    assert good.code == 0 and "partial" in good.out
    bad = dms("check", "mutant:uniform", "--check", name, "--dtype", "float32")
    assert bad.code == 1 and "DMS-A-007" in bad.out and "run_check('mutant:uniform'" in bad.out
    path = tmp_path / "report.json"
    args = ("--check", name, "--dtype", "float32", "--report", path, "--json")
    done = dms("check", "numpy", *args)
    assert json.loads(done.out) == json.loads(path.read_text())
    for suffix in ("md", "html", "svg"):
        drawn = tmp_path / f"report.{suffix}"
        assert dms("report", path, "-o", drawn).code == 0
        assert drawn.stat().st_size > 100
    listed = dms("check", "--list").succeeded()
    assert name in listed and "mutant:uniform" in listed


@pytest.mark.parametrize(
    "args",
    [
        (),
        ("numpy", "--seed", "3"),
        ("numpy", "--examples", "0"),
        ("numpy", "--level", "kore"),
        ("numpy", "--check", "check_everything"),
        ("numpy", "--dtype", "bfloat16"),
        ("nympy",),
        ("mutant:none",),
        ("numpy", "--report", "report.pdf"),
        ("numpy", "--expected", "not-there.toml"),
    ],
)
def test_bad_usage_of_dms_check_is_refused(dms: Dms, args: tuple[str, ...]) -> None:
    dms("check", *args).refused()


def test_a_device_that_is_not_there_is_unavailable(dms: Dms) -> None:
    dms("check", "numpy", "--device", "cuda").refused(4)


def test_exploring_finds_a_case_and_freezes_it(dms: Dms, tmp_path: Path) -> None:
    from dms_spec.conformance.vectors import hold, read_vectors

    done = dms(
        "check", "mutant:uniform", "--check", "check_any_case_matches_the_oracle",
        "--dtype", "float32", "--explore", "--seed", "5", "--examples", "20", "--freeze", tmp_path,
    )  # fmt: skip
    assert done.code == 1 and "seed 5" in done.err
    assert "--explore --seed 5 --examples 20 --freeze found" in done.out
    (vector,) = read_vectors(tmp_path)
    result = get_backend("numpy").scheduler(vector.spec, vector.parameters)
    from dms_spec.types import ModalityBatch

    hold(vector, result(ModalityBatch(**vector.arrays)).arrays())


_OWN = """
from dms_spec.conformance import parametrize_with_checks

@parametrize_with_checks("numpy", levels=("learned",), examples=1)
def test_dms(check):
    check()
"""


def test_an_author_runs_the_checks_in_their_own_tests(spawn: Dms, tmp_path: Path) -> None:
    (tmp_path / "test_own.py").write_text(_OWN)
    done = spawn("-m", "pytest", "-q", "-p", "no:cacheprovider", tmp_path, cwd=tmp_path)
    count = sum(check.level == "learned" for check in checks()) * 3  # dtypes of NumPy
    assert done.code == 0 and f"{count} passed" in done.out, done.out


def test_the_suite_runs_from_the_installed_package(spawn: Dms, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    base = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "--pyargs", "dms_spec.conformance")
    own = ("--dms-backend", "numpy", "--dms-dtype", "float32", "--dms-examples", "1")
    one = spawn(*base, *own, "-k", "check_worked_example", "--dms-report", path, cwd=tmp_path)
    assert one.code == 0 and "numpy is partial" in one.out, one.out
    assert read_reports([path])[0].executed == 1
    none = spawn(*base, *own, "-k", "nothing_at_all", cwd=tmp_path)
    assert none.code == 3 and "nothing was executed" in none.out
    bare = spawn(*base, cwd=tmp_path)
    assert bare.code != 0 and "needs to know what to check: --dms-backend" in bare.out


def test_the_pytest_plugin_imports_nothing_but_pytest(spawn: Dms) -> None:
    """It is loaded in every session of everybody who has dms-spec installed."""
    code = (
        "import sys, pytest; before = set(sys.modules); "
        "import dms_spec.conformance.pytest_plugin; new = set(sys.modules) - before; "
        "bad = {m.partition('.')[0] for m in new} & {'numpy', 'hypothesis', 'torch', 'onnx'}; "
        "assert not bad, bad; assert len(new) < 20, sorted(new)"
    )
    done = spawn("-c", code)
    assert done.code == 0, done.err


def test_report_counts_every_planned_check(numpy_report: Report) -> None:
    backend = get_backend("numpy")
    planned = plan(backend, dtypes=["float32"])
    again = report(
        backend,
        [replace(r) for r in numpy_report.results],
        registered=len(planned),
        examples=2,
        seed=None,
        self_test={},
    )
    assert len(again.results) == len(planned)
