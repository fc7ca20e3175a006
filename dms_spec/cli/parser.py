"""Reads the words of a command, and says of a wrong one what may have been meant."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from dms_spec.cli.printing import tell_usage
from dms_spec.errors import closest

# How shtab completes the names of files, by shell. Source: `shtab.FILE`.
_FILES = {
    "bash": "_shtab_compgen_files",
    "zsh": "_files",
    "tcsh": "f",
    "fish": "(__fish_complete_path (commandline -ct))",
}


class Parser(argparse.ArgumentParser):
    """Is argparse's own, with suggestions, and with an example at the end of help and errors."""

    #: A whole command.
    example = ""

    def format_help(self) -> str:
        text = super().format_help()
        return f"{text}\nexample:\n  {self.example}\n" if self.example else text

    def error(self, message: str) -> NoReturn:
        said = message if message.endswith((".", "?")) else f"{message}."
        such = f" For example: {self.example}" if self.example else ""
        tell_usage(self.format_usage(), self.prog, f"{said}{such}")
        self.exit(2)

    def refuse(self, extra: Sequence[str]) -> NoReturn:
        """Ends with what is wrong with words that nothing takes."""
        first = extra[0]
        option = first.partition("=")[0]
        if not option.startswith("-"):
            self.error(f"{first!r} is one argument too many")
        known = (name for name in self._option_string_actions if name.startswith("--"))
        self.error(f"there is no option {option!r}. {closest(option, known)}")

    def complete_files(self) -> None:
        """Says for completion by shtab which arguments are files."""
        for action in self._actions:
            if action.type is Path:
                action.complete = _FILES  # type: ignore[attr-defined]

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            meant = closest(str(value), map(str, action.choices))
            raise argparse.ArgumentError(action, f"there is no {value!r}. {meant}")
