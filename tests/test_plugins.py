"""Plugins, proved with distributions that are built, installed with pip and found by dms-spec.

The strangers below are installed all at once, the good beside every kind of broken: whatever one
of them does, the others must go on working.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from textwrap import dedent
from typing import Any

import numpy as np
import pytest

from dms_spec._version import PLUGIN_ABI
from dms_spec.conformance import worked_example
from dms_spec.files import read_arrays

ROOT = Path(__file__).resolve().parents[1]
Run = Callable[..., Any]


@dataclass(frozen=True)
class Stranger:
    """A distribution of somebody else: modules by name, and its entry points."""

    modules: dict[str, str]
    entries: dict[str, str] = field(default_factory=dict)

    def write(self, name: str, folder: Path) -> Path:
        """The project as its author would have it."""
        folder.mkdir(parents=True)
        for module, code in self.modules.items():
            (folder / f"{module}.py").write_text(dedent(code), encoding="utf-8")
        files = ", ".join(f'"{module}.py"' for module in self.modules)
        entries = self.entries or {next(iter(self.modules)): next(iter(self.modules))}
        lines = [
            "[build-system]",
            'requires = ["hatchling"]',
            'build-backend = "hatchling.build"',
            "[project]",
            f'name = "{name}"',
            'version = "1.2"',
            "[project.entry-points.dms_spec]",
            *(f'{key} = "{value}"' for key, value in entries.items()),
            "[tool.hatch.build.targets.wheel]",
            f"only-include = [{files}]",
        ]
        (folder / "pyproject.toml").write_text("\n".join(lines), encoding="utf-8")
        return folder


_ENGINE = """
import array_api_compat.numpy as xp
import numpy as np
from dms_spec import ArrayBackend, Capabilities
from dms_spec.equations.namespace import Namespace

class Backend(ArrayBackend):
    name = "{name}"
    capabilities = Capabilities(dtypes=("float64", "float32"))

    def namespace(self, device):
        return Namespace.of(xp, np.ndarray)

    def from_numpy(self, array, device):
        return array

    def to_numpy(self, array):
        return array
"""


def _offers(name: str, engine: str) -> str:
    return f"""
        from dms_spec import Descriptor, hookimpl

        def load():
            from {engine} import Backend
            return Backend()

        @hookimpl
        def dms_register_backends():
            return [Descriptor(name="{name}", load=load)]
        """


_IDEAS = """
    from __future__ import annotations

    from typing import TYPE_CHECKING

    from dms_spec import Descriptor, hookimpl

    if TYPE_CHECKING:  # as linters advise
        from dms_spec.equations.namespace import Namespace

    def hinted(ns: Namespace, evidence, *, power: float = 1.0):
        return loudness(ns, evidence, power=power)

    def loudness(ns, evidence, *, power: float = 1.0):
        return ns.xp.mean(ns.xp.abs(evidence.features) ** power, axis=-1)

    def flat(ns, evidence):
        return ns.xp.mean(evidence.features, axis=(1, 2))

    def average(ns, evidence):
        return ns.xp.mean(evidence.features, axis=(0, 2), keepdims=False)[None, :]

    def loudest(ns, given, *, gain: float = 1.0):
        return {"loud": gain * given.signals["loudness"]}

    def signal(function, name=None):
        def load():
            from dms_spec.interface.signal import Signal
            return Signal(
                name=name or function.__name__, function=function, needs=("features",),
                direction=1, source="here", equation="1", bounds="[0, inf)",
            )
        return load

    def policy():
        from dms_spec.interface.policy import Policy
        return Policy(
            name="loudest", function=loudest, source="here", equation="2", uses_signals=True
        )

    def fickle():
        raise RuntimeError("it is gone")

    @hookimpl
    def dms_register_signals():
        return [
            Descriptor(name="loudness", load=signal(loudness)),
            Descriptor(name="flat", load=signal(flat)),
            Descriptor(name="average", load=signal(average)),
            Descriptor(name="hinted", load=signal(hinted)),
            Descriptor(name="volume", load=signal(loudness)),
            Descriptor(name="weights", load=signal(loudness, "weights")),
        ]

    @hookimpl
    def dms_register_policies():
        return [Descriptor(name="loudest", load=policy), Descriptor(name="fickle", load=fickle)]
    """

_FAULTY = """
    from dms_spec import Descriptor, hookimpl

    def explode():
        raise OSError("libengine.so is of another machine")

    def misnamed():
        from acme_engine import Backend
        return Backend()

    def mute():
        from acme_engine import Backend
        class Mute(Backend):
            name = "mute"
            @property
            def capabilities(self):
                raise RuntimeError("no driver answers")
        return Mute()

    @hookimpl
    def dms_register_backends():
        return [
            Descriptor(name="old", load=explode, abi=ABI - 1),
            Descriptor(name="newer", load=explode, abi=ABI + 1),
            Descriptor(name="future", load=explode, editions=("2931.01",)),
            Descriptor(name="needy", load=explode, requires=("numpy", "no-such-dist"),
                       extra="dms-faulty[all]"),
            Descriptor(name="plain_needy", load=explode, requires=("no-such-dist",)),
            Descriptor(name="unloadable", load=explode),
            Descriptor(name="exiting", load=lambda: exit("no licence")),
            Descriptor(name="impostor", load=lambda: object()),
            Descriptor(name="misnamed", load=misnamed),
            Descriptor(name="mute", load=mute),
        ]
    """.replace("ABI", str(PLUGIN_ABI))

# Prints wherever it can, and offers signals under names that are taken.
_LOUD = """
    import sys
    from dms_spec import Descriptor, hookimpl
    from dms_spec.interface.signal import Signal

    print("look at me")
    print("\\x1b[31mand me", "x" * 10**6, file=sys.stderr)

    def constant(ns, evidence):
        return ns.xp.ones_like(evidence.features[..., 0])

    def named(name):
        def load():
            print("loading", name)
            return Signal(name=name, function=constant, needs=("features",), direction=1,
                          source="here", bounds="[1, 1]")
        return Descriptor(name=name, load=load)

    @hookimpl
    def dms_register_signals():
        print("registering")
        return [named("ones"), *map(named, TAKEN)]
    """.replace("TAKEN", repr(("probabilities", "predicted", "soundness", "features", "terms.a")))

_SLOPPY = """
    from dms_spec import Descriptor, hookimpl

    @hookimpl
    def dms_register_backends():
        return [Descriptor(**({"name": "sloppy", "load": list} | FIELDS))]
    """

STRANGERS: dict[str, Stranger] = {
    "dms-acme": Stranger(
        {"acme": _offers("acme", "acme_engine"), "acme_engine": _ENGINE.format(name="acme")}
    ),
    "dms-ideas": Stranger({"ideas": _IDEAS}),
    "dms-noimport": Stranger({"noimport": "import a_module_that_is_not_there"}),
    "dms-crashes": Stranger({"crashes": "shares = 1 / 0"}),
    "dms-exits": Stranger({"exits": "raise SystemExit('come back later')"}),
    "dms-odd": Stranger(
        {
            "odd": """
            class Odd(BaseException):
                def __str__(self):
                    raise Odd
            raise Odd
            """
        }
    ),
    "dms-endless": Stranger(
        {
            "endless": """
            from itertools import repeat
            from dms_spec import hookimpl
            @hookimpl
            def dms_register_backends():
                return repeat("words")
            """
        }
    ),
    "dms-loud": Stranger({"loud": _LOUD}),
    "dms-typo": Stranger(
        {
            "typo": """
            from dms_spec import hookimpl
            @hookimpl
            def dms_register_backend():
                return []
            """
        }
    ),
    "dms-unmarked": Stranger({"unmarked": "def dms_register_backends():\n    return []\n"}),
    "dms-hookless": Stranger({"hookless": "backends = []"}),
    "dms-curious": Stranger(
        {
            "curious": """
            from dms_spec import hookimpl
            @hookimpl
            def dms_register_backends(config):
                return []
            """
        }
    ),
    "dms-raises": Stranger(
        {
            "raises": """
            from dms_spec import hookimpl
            @hookimpl
            def dms_register_backends():
                raise KeyError("the moon")
            """
        }
    ),
    "dms-nothing": Stranger(
        {
            "nothing": """
            from dms_spec import hookimpl
            @hookimpl
            def dms_register_backends():
                pass
            """
        }
    ),
    "dms-words": Stranger(
        {
            "words": """
            from dms_spec import hookimpl
            @hookimpl
            def dms_register_backends():
                return ["words"]
            """
        }
    ),
    "dms-malformed": Stranger({"unused": ""}, {"malformed": "not a module at all!!"}),
    "dms-twin-a": Stranger(
        {"twin_a": _offers("twin", "twin_a_engine"), "twin_a_engine": _ENGINE.format(name="twin")},
        {"twin": "twin_a"},
    ),
    "dms-twin-b": Stranger(
        {"twin_b": _offers("twin", "twin_b_engine"), "twin_b_engine": _ENGINE.format(name="twin")},
        {"twin": "twin_b"},
    ),
    "dms-echo-a": Stranger(
        {"echo_a": _offers("echo", "echo_a_engine"), "echo_a_engine": _ENGINE.format(name="echo")}
    ),
    "dms-echo-b": Stranger(
        {"echo_b": _offers("echo", "echo_b_engine"), "echo_b_engine": _ENGINE.format(name="echo")}
    ),
    "dms-faulty": Stranger({"faulty": _FAULTY}),
    "dms-sloppy-name": Stranger({"sloppy_name": _SLOPPY.replace("FIELDS", '{"name": None}')}),
    "dms-sloppy-load": Stranger({"sloppy_load": _SLOPPY.replace("FIELDS", '{"load": None}')}),
    "dms-sloppy-abi": Stranger({"sloppy_abi": _SLOPPY.replace("FIELDS", '{"abi": "1"}')}),
    "dms-sloppy-requires": Stranger(
        {"sloppy_requires": _SLOPPY.replace("FIELDS", '{"requires": "torch"}')}
    ),
    "dms-sloppy-version": Stranger(
        {"sloppy_version": _SLOPPY.replace("FIELDS", '{"requires": ("numpy>=2",)}')}
    ),
}

# Offers a backend under the name of a bundled one; not installed beside the others.
USURPER = Stranger(
    {"usurper": _offers("numpy", "usurper_engine"), "usurper_engine": _ENGINE.format(name="numpy")}
)


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory, build_wheels: Run) -> dict[str, Path]:
    """A wheel of each stranger, and of the worked example of a third party, by name."""
    folder = tmp_path_factory.mktemp("strangers")
    projects = [
        stranger.write(name, folder / name)
        for name, stranger in (STRANGERS | {"dms-usurper": USURPER}).items()
    ]
    built = build_wheels(folder / "wheels", [*projects, ROOT / "examples" / "dms-strict"])
    assert len(built) == len(projects) + 1
    return {wheel.name.split("-")[0].replace("_", "-"): wheel for wheel in built}


@pytest.fixture(scope="session")
def crowd(tmp_path_factory: pytest.TempPathFactory, wheels: dict[str, Path], install: Run) -> Path:
    """A folder with all strangers installed, good and bad."""
    chosen = [wheel for name, wheel in wheels.items() if name != "dms-usurper"]
    return install(tmp_path_factory.mktemp("crowd"), chosen)


@pytest.fixture(scope="session")
def in_crowd(crowd: Path, spawn: Run) -> Run:
    """Runs ``dms`` where all strangers are installed."""

    def run(*args: object, **variables: str) -> Any:
        return spawn("-m", "dms_spec", *args, env={"PYTHONPATH": str(crowd)} | variables)

    return run


def _listing(outcome: Any) -> list[dict[str, str]]:
    return list(json.loads(outcome.succeeded()))


@pytest.fixture(scope="session")
def listing(in_crowd: Run) -> list[dict[str, str]]:
    """What ``dms plugins list --json`` says about the crowd."""
    return _listing(in_crowd("plugins", "list", "--json"))


def _find(listing: list[dict[str, str]], **wanted: str) -> list[dict[str, str]]:
    return [row for row in listing if all(row[key] == value for key, value in wanted.items())]


# What stands in the listing: plugin, name, status, words of the reason.
BAD = [
    ("noimport", "noimport", "broken", ["a_module_that_is_not_there"]),
    ("crashes", "crashes", "broken", ["ZeroDivisionError"]),
    ("exits", "exits", "broken", ["SystemExit", "come back later"]),
    ("odd", "odd", "broken", ["Odd", "cannot be printed"]),
    ("endless", "endless", "invalid", ["more than 1000"]),
    ("typo", "typo", "invalid", ["'dms_register_backend'", "'dms_register_backends'"]),
    ("unmarked", "unmarked", "invalid", ["dms_register_backends", "@hookimpl"]),
    ("hookless", "hookless", "invalid", ["dms_register_backends", "dms_register_exporters"]),
    ("curious", "curious", "invalid", ["config"]),
    ("raises", "raises", "broken", ["dms_register_backends", "KeyError", "the moon"]),
    ("nothing", "nothing", "broken", ["dms_register_backends", "NoneType"]),
    ("words", "words", "invalid", ["str", "Descriptor"]),
    ("malformed", "malformed", "invalid", ["not a module at all!!"]),
    ("twin", "twin", "duplicate", ["dms-twin-a 1.2", "dms-twin-b 1.2"]),
    ("echo_a", "echo", "duplicate", ["dms-echo-a 1.2", "dms-echo-b 1.2"]),
    ("echo_b", "echo", "duplicate", ["dms-echo-a 1.2", "dms-echo-b 1.2"]),
    ("faulty", "old", "incompatible", [str(PLUGIN_ABI - 1)]),
    ("faulty", "newer", "incompatible", [str(PLUGIN_ABI + 1)]),
    ("faulty", "future", "incompatible", ["2931.01"]),
    ("faulty", "needy", "unavailable", ["no-such-dist"]),
    ("faulty", "plain_needy", "unavailable", ["no-such-dist"]),
    ("sloppy_name", "sloppy_name", "invalid", ["name", "None"]),
    ("sloppy_load", "sloppy_load", "invalid", ["load", "None"]),
    ("sloppy_abi", "sloppy_abi", "invalid", ["abi", "'1'"]),
    ("sloppy_requires", "sloppy_requires", "invalid", ["requires", "'torch'"]),
    ("sloppy_version", "sloppy_version", "invalid", ["requires", "numpy>=2"]),
]
IDS = [f"{plugin}-{name}" if plugin != name else name for plugin, name, _, _ in BAD]


# ------------------------------------------------------------------------------------- listing


@pytest.mark.clause("DMS-H-001", "DMS-H-003", "DMS-H-004", "DMS-H-007", "DMS-H-008")
@pytest.mark.parametrize(("plugin", "name", "status", "words"), BAD, ids=IDS)
def test_a_bad_plugin_is_listed_with_reason_and_mend(
    listing: list[dict[str, str]], plugin: str, name: str, status: str, words: list[str]
) -> None:
    rows = _find(listing, plugin=plugin, name=name)
    assert rows
    for row in rows:
        assert row["status"] == status
        for word in words:
            assert word in row["reason"]
        assert row["fix"]
        assert row["distribution"].startswith("dms-")
        assert row["distribution"].endswith(" 1.2")


def test_every_stranger_is_judged_here(listing: list[dict[str, str]]) -> None:
    """No bad plugin of the crowd is listed as fine, and none is missing from the table above."""
    lazy = {"unloadable", "exiting", "impostor", "misnamed", "mute"}  # found out when asked for
    good = {"acme", "strict", "numpy", "torch"}
    if find_spec("numba"):
        good |= {"numba"}
    if all(find_spec(name) for name in ("ndonnx", "onnx", "onnxruntime", "onnx_ir", "spox")):
        good |= {"onnxruntime"}
    distributions = {*STRANGERS, "dms-spec", "dms-strict"}
    if find_spec("dms_jax"):
        good, distributions = good | {"jax"}, distributions | {"dms-jax"}
    fine = {row["name"] for row in listing if row["kind"] == "backend" and row["status"] == "ok"}
    assert fine == good | lazy
    unfit = {(row["plugin"], row["name"]) for row in listing if row["status"] != "ok"}
    named = {("ideas", "ideas"), ("loud", "loud")}  # for names of signals that are taken
    assert unfit == {(plugin, name) for plugin, name, _, _ in BAD} | named
    assert {row["distribution"].split()[0] for row in listing} == distributions


@pytest.mark.clause("DMS-H-001", "DMS-I-004")
def test_a_signal_cannot_take_the_name_of_an_output(listing: list[dict[str, str]]) -> None:
    taken = [row for row in _find(listing, kind="signal") if row["status"] != "ok"]
    assert {row["status"] for row in taken} == {"invalid"}
    assert [row["reason"].split("'")[1] for row in taken] == [
        "weights", "probabilities", "predicted", "soundness", "features", "terms.a",
    ]  # fmt: skip
    assert len(_find(listing, name="ones", status="ok")) == 1


def test_what_a_plugin_prints_while_it_is_loaded_is_kept(
    in_crowd: Run, listing: list[dict[str, str]], example: Path, tmp_path: Path
) -> None:
    (row,) = _find(listing, name="ones")
    assert row["said"].startswith("look at me\n") and 500 <= len(row["said"]) < 510
    assert "'look at me\\n\\x1b[31mand me" in in_crowd("plugins", "list").succeeded()
    spec = _spec(tmp_path, policy="linear", policy_options={}, signals={"ones": {}})
    args = ("schedule", example, "-o", tmp_path / "out.npz", "--spec", spec, "--json")
    outcome = in_crowd(*args)
    json.loads(outcome.succeeded())
    assert outcome.err == ""


@pytest.mark.clause("DMS-H-003")
def test_an_unavailable_one_names_the_command(listing: list[dict[str, str]]) -> None:
    """The plugin's own extra where it has one, else what is missing and only that."""
    assert "pip install 'dms-faulty[all]'" in _find(listing, name="needy")[0]["fix"]
    assert "pip install 'no-such-dist'" in _find(listing, name="plain_needy")[0]["fix"]
    assert "numpy" not in _find(listing, name="needy")[0]["reason"]


@pytest.mark.clause("DMS-I-003", "DMS-H-001")
@pytest.mark.parametrize(
    "args",
    [("--help",), ("--version",), ("plugins", "list"), ("plugins", "--help"), ("backends",)],
    ids=" ".join,
)
@pytest.mark.parametrize("strictness", ["0", "1"])
def test_help_and_listing_work_among_the_broken(
    in_crowd: Run, args: tuple[str, ...], strictness: str
) -> None:
    """Also where DMS_SPEC_STRICT_PLUGINS forbids the use of any plugin."""
    outcome = in_crowd(*args, DMS_SPEC_STRICT_PLUGINS=strictness)
    if args == ("backends",) and strictness == "1":
        outcome.refused(4)
        return
    text = outcome.succeeded()
    assert text
    if args == ("plugins", "list"):
        for _, name, status, _ in BAD:
            assert any(name in line and status in line for line in text.splitlines()), name


def test_listing_shows_tracebacks_only_on_request(in_crowd: Run) -> None:
    assert "Traceback" not in in_crowd("plugins", "list").out
    text = in_crowd("plugins", "list", "--traceback").out
    assert "Traceback" in text
    assert 'raise KeyError("the moon")' in text


def test_backends_and_doctor_survive_the_broken(in_crowd: Run) -> None:
    """`dms backends` and `dms doctor` say what cannot run and why, and go on to the next."""
    rows = {row["name"]: row for row in json.loads(in_crowd("backends", "--json").succeeded())}
    assert rows["acme"]["dtypes"] == ["float64", "float32"]
    assert rows["needy"]["status"] == "unavailable"
    for name, word in (("mute", "no driver answers"), ("unloadable", "libengine.so")):
        assert rows[name]["status"] == "broken"
        assert word in rows[name]["reason"]

    outcome = in_crowd("doctor", "--json")
    assert outcome.code == 4
    report = json.loads(outcome.out)
    verdicts = {(run["backend"], run["dtype"]): run["verdict"] for run in report["runs"]}
    assert verdicts["numpy", "float64"] == verdicts["acme", "float32"] == "ok"
    assert verdicts["strict", "float64"] == "ok"
    assert verdicts["mute", "-"] == verdicts["unloadable", "-"] == "failed"
    ailing = {row["name"] for row in report["plugins_with_problems"]}
    bad = {name for _, name, status, _ in BAD if status != "unavailable"}
    # `volume` loads a signal of another name, which no list can know.
    assert ailing == bad | {"ideas", "loud", "volume", "fickle"}
    (row,) = (row for row in report["plugins_with_problems"] if row["name"] == "fickle")
    assert "it is gone" in row["reason"] and row["status"] == "broken" and row["fix"]


@pytest.mark.clause("DMS-H-006")
def test_listing_imports_nothing_that_running_needs(spawn: Run, crowd: Path) -> None:
    """Neither the modules of installed backends nor their libraries, nor NumPy itself."""
    assert find_spec("array_api_strict") is not None  # so that its absence below means something
    code = """
        import sys
        from dms_spec.cli import main
        assert main(["plugins", "list"]) == 0
        print(*sys.modules, sep="\\n", file=sys.stderr)
        """
    outcome = spawn("-c", dedent(code), env={"PYTHONPATH": str(crowd)})
    assert outcome.code == 0
    loaded = set(outcome.err.splitlines())
    assert {"acme", "dms_strict.plugin", "dms_numpy.plugin"} <= loaded
    ours = {"acme_engine", "dms_strict.backend", "dms_numpy.backend", "dms_spec.equations.signals"}
    assert not loaded & (ours | {"numpy", "array_api_strict", "torch"})


# ----------------------------------------------------------------------------- explicit request


@pytest.mark.clause("DMS-H-002", "DMS-H-003", "DMS-H-008", "DMS-I-001", "DMS-I-002")
@pytest.mark.parametrize(
    ("name", "words"),
    [
        *{name: (name, words) for _, name, _, words in BAD}.values(),
        ("unloadable", ["OSError", "libengine.so", "dms-faulty"]),
        ("exiting", ["SystemExit", "no licence"]),
        ("impostor", ["dms_spec.interface.backend.Backend", "object"]),
        ("misnamed", ["'acme'", "'misnamed'"]),
        ("mute", ["RuntimeError", "no driver answers"]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_asking_for_a_bad_one_gives_its_reason(
    in_crowd: Run, example: Path, name: str, words: list[str]
) -> None:
    output = example.parent / "out.npz"
    outcome = in_crowd("schedule", example, "-o", output, "--backend", name)
    message = outcome.refused(4)
    for word in words:
        assert word in message
    assert list(example.parent.iterdir()) == [example]


@pytest.mark.clause("DMS-H-002", "DMS-A-003")
def test_a_misspelt_request_names_the_closest(in_crowd: Run, example: Path) -> None:
    outcome = in_crowd("schedule", example, "-o", example.parent / "o.npz", "--backend", "acmee")
    assert "'acme'" in outcome.refused(2)


@pytest.mark.clause("DMS-H-001", "DMS-H-005", "DMS-X-007")
def test_a_strangers_backend_computes_what_the_bundled_one_does(
    in_crowd: Run, example: Path
) -> None:
    """All three are found among the broken and give the numbers of the worked example."""
    outputs = {}
    for name in ("numpy", "acme", "strict"):
        path = example.parent / f"{name}.npz"
        in_crowd("schedule", example, "-o", path, "--backend", name).succeeded()
        outputs[name] = read_arrays(path)
    expected = [0.2281052807, 0.5280795964, 0.2438151229]
    for arrays in outputs.values():
        assert np.abs(arrays["weights"][0] - expected).max() < 1e-10  # the digits that are printed
        assert arrays.keys() == outputs["numpy"].keys()


# ------------------------------------------------------------------------------------- choosing


@pytest.mark.clause("DMS-H-004")
@pytest.mark.parametrize(
    ("disabled", "name", "left"),
    [
        ("dms-twin-a", "twin", "dms-twin-b"),
        ("dms-twin-b", "twin", "dms-twin-a"),
        ("echo_a", "echo", "dms-echo-b"),
        ("exits, dms-echo-b", "echo", "dms-echo-a"),
    ],
)
def test_disabling_one_of_two_frees_the_other(
    in_crowd: Run, example: Path, disabled: str, name: str, left: str
) -> None:
    """The mend that the listing offers does mend it, by plugin or by distribution."""
    variable = {"DMS_SPEC_DISABLE_PLUGINS": disabled}
    listing = _listing(in_crowd("plugins", "list", "--json", **variable))
    (row,) = _find(listing, name=name, status="ok")
    assert row["distribution"] == f"{left} 1.2"
    assert len(_find(listing, status="disabled")) == len(disabled.split(","))
    output = example.parent / "out.npz"
    in_crowd("schedule", example, "-o", output, "--backend", name, **variable).succeeded()


def test_asking_for_a_disabled_one_says_so(in_crowd: Run, example: Path) -> None:
    outcome = in_crowd(
        "schedule", example, "-o", example.parent / "o.npz", "--backend", "acme",
        DMS_SPEC_DISABLE_PLUGINS="acme",
    )  # fmt: skip
    assert "DMS_SPEC_DISABLE_PLUGINS" in outcome.refused(4)


@pytest.mark.clause("DMS-H-005")
def test_bundled_plugins_come_through_entry_points(in_crowd: Run, example: Path) -> None:
    """What is bundled is declared, can be disabled, and is gone then, like a stranger's."""
    declared = {entry.name: entry.dist for entry in entry_points(group="dms_spec")}
    for name in ("numpy", "equations"):
        assert declared[name] is not None
        assert declared[name].name == "dms-spec"
    args = ("schedule", example, "-o", example.parent / "out.npz")
    message = in_crowd(*args, DMS_SPEC_DISABLE_PLUGINS="numpy").refused(4)
    assert "disabled" in message
    message = in_crowd(*args, DMS_SPEC_DISABLE_PLUGINS="equations").refused(2)
    assert "'linear'" in message


@pytest.mark.clause("DMS-H-004", "DMS-H-005")
def test_a_bundled_name_has_no_precedence(
    spawn: Run, install: Run, wheels: dict[str, Path], example: Path, tmp_path: Path
) -> None:
    """A stranger who takes the name of a bundled backend makes it ambiguous, not his or ours."""
    folder = install(tmp_path / "installed", [wheels["dms-usurper"]])
    args = ("-m", "dms_spec", "schedule", example, "-o", tmp_path / "out.npz")
    message = spawn(*args, "--backend", "numpy", env={"PYTHONPATH": str(folder)}).refused(4)
    assert "duplicate" in message
    assert "dms-usurper 1.2" in message
    assert "dms-spec" in message


def test_strict_plugins_make_any_bad_one_fatal(in_crowd: Run, spawn: Run, example: Path) -> None:
    """With the variable, a fine backend is refused too; without bad plugins it changes nothing."""
    args = ("schedule", example, "-o", example.parent / "out.npz", "--backend", "acme")
    message = in_crowd(*args, DMS_SPEC_STRICT_PLUGINS="1").refused(4)
    assert any(name in message for _, name, _, _ in BAD)
    outcome = spawn("-m", "dms_spec", *args[:-2], env={"DMS_SPEC_STRICT_PLUGINS": "1"})
    outcome.succeeded()


@pytest.mark.clause("DMS-H-001", "DMS-I-003")
@pytest.mark.parametrize(
    "content",
    [b"[dms_spec]\nno equals sign here\n", b"\xff\xfe[dms_spec]\n"],
    ids=["syntax", "encoding"],
)
def test_damaged_metadata_of_one_distribution_costs_only_that_one(
    spawn: Run, crowd: Path, example: Path, tmp_path: Path, content: bytes
) -> None:
    folder = tmp_path / "damaged"
    info = folder / "dms_damaged-3.0.dist-info"
    info.mkdir(parents=True)
    metadata = "Metadata-Version: 2.1\nName: dms-damaged\nVersion: 3.0\n"
    (info / "METADATA").write_text(metadata, encoding="utf-8")
    (info / "entry_points.txt").write_bytes(content)
    env = {"PYTHONPATH": os.pathsep.join([str(folder), str(crowd)])}
    listing = _listing(spawn("-m", "dms_spec", "plugins", "list", "--json", env=env))
    (row,) = _find(listing, name="dms-damaged")
    assert row["status"] == "broken"
    assert row["distribution"] == "dms-damaged 3.0"
    assert "dms-damaged" in row["fix"]
    assert len(_find(listing, name="acme", status="ok")) == 1
    args = ("-m", "dms_spec", "schedule", example, "-o", tmp_path / "o.npz", "--backend", "acme")
    spawn(*args, env=env).succeeded()


# --------------------------------------------------------------------------- signals and policies


def _spec(tmp_path: Path, **changes: object) -> Path:
    fields = {
        "modalities": ["image", "text", "audio"],
        "policy": "loudest",
        "policy_options": {"gain": 3},
        "signals": {"loudness": {"power": 2.0}},
    }
    path = tmp_path / "spec.json"
    path.write_text(json.dumps(fields | changes), encoding="utf-8")
    return path


@pytest.mark.clause("DMS-Q-011")
@pytest.mark.parametrize("backend", ["numpy", "strict", "acme"])
def test_a_signal_and_a_policy_of_ones_own_run_everywhere(
    in_crowd: Run, example: Path, tmp_path: Path, backend: str
) -> None:
    """One function each, options set in JSON, and no code for them in any backend."""
    output = tmp_path / "out.npz"
    args = ("schedule", example, "-o", output, "--spec", _spec(tmp_path), "--backend", backend)
    in_crowd(*args).succeeded()
    got, given = read_arrays(output), worked_example.arrays()
    loudness = np.where(given["present"], (given["features"] ** 2).mean(axis=-1), 0)
    e = np.where(given["present"], np.exp(3 * loudness), 0)
    eps = np.finfo(np.float64).eps
    assert np.all(np.abs(got["loudness"] - loudness) <= 4 * eps)  # all below 1
    scale = 1 + 3 * 3 * loudness.max()
    assert np.all(np.abs(got["weights"] - e / e.sum(axis=1, keepdims=True)) <= 8 * eps * scale)


@pytest.mark.clause("DMS-A-003")
@pytest.mark.parametrize(
    ("changes", "close"),
    [
        ({"policy": "loudst"}, "'loudest'"),
        ({"policy_options": {"gian": 1}}, "'gain'"),
        ({"signals": {"loudness": {"powr": 1}}}, "'power'"),
        ({"signals": {"loudnes": {}}}, "'loudness'"),
    ],
    ids=str,
)
def test_misspelt_names_of_a_plugin_are_refused(
    in_crowd: Run, example: Path, tmp_path: Path, changes: dict[str, Any], close: str
) -> None:
    spec = _spec(tmp_path, **changes)
    outcome = in_crowd("schedule", example, "-o", tmp_path / "out.npz", "--spec", spec)
    assert close in outcome.refused(2)


@pytest.mark.clause("DMS-Q-012")
@pytest.mark.parametrize("backend", ["numpy", "strict"])
@pytest.mark.parametrize(
    "signal",
    [
        "flat",
        pytest.param(
            "average",
        ),
    ],
)
def test_a_signal_of_the_wrong_shape_is_refused_by_name(
    in_crowd: Run, example: Path, tmp_path: Path, signal: str, backend: str
) -> None:
    """One that forgets the modalities, and one that averages over the samples."""
    spec = _spec(
        tmp_path, policy="linear", policy_options={}, signals={signal: {}},
        coefficients={signal: 1.0},
    )  # fmt: skip
    args = ("schedule", example, "-o", tmp_path / "out.npz", "--spec", spec, "--backend", backend)
    message = in_crowd(*args).refused(2)
    assert f"'{signal}'" in message
    assert "[B, M]" in message


def test_a_signal_may_be_annotated_with_what_only_type_checkers_import(
    in_crowd: Run, example: Path, tmp_path: Path
) -> None:
    spec = _spec(tmp_path, policy="linear", policy_options={}, signals={"hinted": {"power": 2.0}})
    in_crowd("schedule", example, "-o", tmp_path / "out.npz", "--spec", spec).succeeded()


@pytest.mark.clause("DMS-H-002")
def test_a_signal_that_calls_itself_otherwise_is_refused(
    in_crowd: Run, example: Path, tmp_path: Path
) -> None:
    spec = _spec(tmp_path, policy="linear", policy_options={}, signals={"volume": {}})
    outcome = in_crowd("schedule", example, "-o", tmp_path / "out.npz", "--spec", spec)
    message = outcome.refused(4)
    assert "'volume'" in message
    assert "'loudness'" in message


# ---------------------------------------------------------------------------- the worked example


@pytest.mark.clause("DMS-H-005", "DMS-H-006")
def test_the_example_of_a_third_party_is_found_when_installed(
    spawn: Run, install: Run, wheels: dict[str, Path], tmp_path: Path
) -> None:
    """examples/dms-strict, from its own wheel in a fresh folder, is what the loader finds."""
    folder = install(tmp_path / "fresh", [wheels["dms-strict"]])
    code = """
        import sys
        from dms_spec import get_backend, plugin_records
        (record,) = [r for r in plugin_records() if r.plugin == "strict"]
        print(record.status, record.kind, sys.modules["dms_strict.plugin"].__file__)
        print("dms_strict.backend" in sys.modules, get_backend("strict").name)
        """
    outcome = spawn("-c", dedent(code), env={"PYTHONPATH": str(folder)})
    first, second = outcome.succeeded().splitlines()
    assert first == f"ok backend {folder / 'dms_strict' / 'plugin.py'}"
    assert second == "False strict"
