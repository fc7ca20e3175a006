"""The shell completes verbs, options, choices and files, by the script that shtab writes."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("shtab")

Run = Callable[..., Any]
#: What is typed before the tab, and what the shell offers.
TYPED = {
    "dms f": {"fit"},
    "dms emb": {"embed"},
    "dms fit --ep": {"--epochs"},
    "dms fit tr": {"train.npz"},
    "dms fit train.npz -o mo": {"model"},
    "dms robustness --protocol q": {"quick"},
    "dms embed --precision b": {"bfloat16"},
    "dms plugins l": {"list"},
}
# As bash does when the tab is pressed: the words, which of them, and the function that it knows.
ASK = """
source "$1"; shift
spec=$(complete -p dms); spec=${spec##*-F }; name=${spec%% *}
for typed in "$@"; do
  COMP_WORDS=($typed); COMP_CWORD=$(( ${#COMP_WORDS[@]} - 1 )); COMPREPLY=()
  $name dms "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"
  echo "${COMPREPLY[*]}"
done
"""


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_completes(spawn: Run, tmp_path: Path) -> None:
    script = spawn("-m", "shtab", "--shell", "bash", "--prog", "dms", "dms_spec.cli.parser")
    (tmp_path / "dms.bash").write_text(script.succeeded(), encoding="utf-8")
    (tmp_path / "train.npz").touch()
    (tmp_path / "model").mkdir()
    asked = ["bash", "--norc", "-c", ASK, "ask", "dms.bash", *TYPED]
    done = subprocess.run(asked, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert [set(line.split()) for line in done.stdout.splitlines()] == list(TYPED.values())
