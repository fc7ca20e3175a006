"""Prepares the tutorials: the folder that they run in, and the look of their pictures.

sphinx-gallery runs a script in its own folder. So the scripts are copied to a folder that is
built, and what they write stays there.
"""

from __future__ import annotations

import logging
import re
import shutil
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parents[1]
SCRIPTS, RUN = DOCS / "tutorials", DOCS / "_build" / "tutorials"


def copied() -> str:
    """Copies the scripts to where they run, and gives that folder."""
    shutil.copytree(SCRIPTS, RUN, dirs_exist_ok=True)
    return str(RUN)


def look(_conf: dict[str, Any], _name: str) -> None:
    """Sets the look of the pictures, before each script."""
    import matplotlib as mpl

    logging.getLogger("onnx_ir").setLevel(logging.WARNING)

    mpl.rcParams |= {
        "font.size": 9,
        "figure.dpi": 100,
        "savefig.dpi": 150,
        "figure.constrained_layout.use": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
    }


def setup(app: Any) -> dict[str, bool]:
    """Gives the small pictures of the index a text in their place."""
    app.connect("source-read", _named)
    return {"parallel_read_safe": True}


def _named(_app: Any, page: str, source: list[str]) -> None:
    if page == "gallery/index":
        source[0] = re.sub(r":alt: *$", ":alt: A picture of it", source[0], flags=re.MULTILINE)
