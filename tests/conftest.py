"""Shared by the tests of the command line, of files, of plugins and of the package itself."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from dms_spec.cli import main
from dms_spec.conformance import worked_example

ROOT = Path(__file__).resolve().parents[1]

# A width that somebody's shell, or a runner of tests, has set would break the lines of messages.
os.environ.pop("COLUMNS", None)


@dataclass(frozen=True)
class Outcome:
    """What one run of the command line left behind: exit code, stdout, stderr."""

    code: int
    out: str
    err: str

    def succeeded(self) -> str:
        """The run was good; returns its output."""
        assert self.code == 0, self.err
        assert "Traceback" not in self.err
        return self.out

    def refused(self, code: int = 2) -> str:
        """The run was refused with a code, one message and nothing else; returns the message."""
        assert self.code == code, self.err
        assert self.out == ""
        lines = self.err.splitlines()
        messages = [line for line in lines if not line.startswith("dms: note: ")]
        assert len(messages) == 1, self.err
        assert messages[0].startswith("dms: ")
        return messages[0]


@pytest.fixture
def dms(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Runs a verb in this process."""

    def run(*args: object) -> Outcome:
        capsys.readouterr()
        try:
            code = main([str(arg) for arg in args])
        except SystemExit as end:  # argparse
            code = end.code if isinstance(end.code, int) else 1
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return run


@pytest.fixture(scope="session")
def spawn() -> Callable[..., Outcome]:
    """Runs Python with some arguments in a process of its own, on top of other variables."""

    def run(*args: object, env: dict[str, str] | None = None, cwd: Path | None = None) -> Outcome:
        done = subprocess.run(
            [sys.executable, *map(str, args)],
            env=os.environ | (env or {}),
            cwd=cwd,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        return Outcome(done.returncode, done.stdout, done.stderr)

    return run


_BUILD = """
import os, sys
from hatchling.build import build_wheel
out, *roots = sys.argv[1:]
for root in roots:
    os.chdir(root)
    build_wheel(out)
"""


@pytest.fixture(scope="session")
def build_wheels(spawn: Callable[..., Outcome]) -> Callable[..., list[Path]]:
    """Builds the wheels of project folders into a folder, as pip would: by the PEP 517 hook."""

    def build(out: Path, roots: Sequence[Path]) -> list[Path]:
        out.mkdir(parents=True, exist_ok=True)
        done = spawn("-c", _BUILD, out, *roots)
        assert done.code == 0, done.err
        return sorted(out.glob("*.whl"))

    return build


@pytest.fixture(scope="session")
def install(spawn: Callable[..., Outcome]) -> Callable[..., Path]:
    """Installs wheels into a folder with pip, and nothing besides."""

    def run(target: Path, wheels: Sequence[Path]) -> Path:
        options = ("--no-deps", "--no-index", "--no-compile", "--disable-pip-version-check")
        done = spawn("-m", "pip", "install", "--quiet", *options, "--target", target, *wheels)
        assert done.code == 0, done.err
        return target

    return run


@pytest.fixture
def example(tmp_path: Path) -> Path:
    """The worked example as a file."""
    path = tmp_path / "example.npz"
    np.savez(path, allow_pickle=False, **worked_example.arrays())
    return path
