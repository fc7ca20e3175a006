"""Clean environments: builds the project's wheel, makes a venv, installs into it, runs there."""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
import venv
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Row:
    """One line of the table that a script prints: what ran, how long, and what went wrong."""

    name: str
    does: str
    seconds: float
    problem: str = ""


class Failed(Exception):
    """A command ended with another exit code than 0. The message is what it printed."""


def build_wheel(folder: Path) -> Path:
    """Builds the project's wheel into a folder."""
    call([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder], ROOT)
    (wheel,) = folder.glob("*.whl")
    return wheel


@dataclass(frozen=True)
class Environment:
    """A venv of its own, and the folder in which its commands run."""

    folder: Path
    work: Path

    @classmethod
    def fresh(cls, folder: Path, work: Path) -> Environment:
        venv.create(folder, with_pip=True)
        return cls(folder, work)

    def install(self, *arguments: object) -> None:
        call([self.folder / "bin" / "python", "-m", "pip", "install", "-q", *arguments], ROOT)

    def run(self, command: str) -> str:
        """Runs a command of this environment, such as ``dms doctor``; returns what it printed."""
        program, *arguments = shlex.split(command)
        return call([self.folder / "bin" / program, *arguments], self.work)


def call(arguments: Sequence[object], work: Path) -> str:
    """Runs a program and returns what it printed.

    Raises:
        Failed: Its exit code is not 0.
    """
    done = subprocess.run(
        [str(argument) for argument in arguments],
        cwd=work,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        shown = shlex.join(map(str, arguments))
        raise Failed(f"{shown}\nexit code {done.returncode}\n{done.stdout[-4000:]}")
    return done.stdout


def report(rows: Iterable[Row]) -> int:
    """Prints the table as rows come, then what went wrong; returns the exit code."""
    problems = []
    for row in rows:
        outcome = "FAILED" if row.problem else "passed"
        print(f"{row.name:<15}  {outcome}  {row.seconds:4.0f} s  {row.does}", flush=True)
        problems += [row] if row.problem else []
    for row in problems:
        print(f"\n{row.name}: {row.problem}", file=sys.stderr)
    return 1 if problems else 0


def timed(name: str, does: str, steps: Iterable[Callable[[], object]]) -> Row:
    """Takes some steps in turn; the first that fails ends the row."""
    start, problem = time.perf_counter(), ""
    try:
        for step in steps:
            step()
    except Failed as error:
        problem = str(error)
    return Row(name, does, time.perf_counter() - start, problem)
