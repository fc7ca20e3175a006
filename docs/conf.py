"""Sphinx configuration. Built with warnings as errors: ``make docs``."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dms_spec._version import EDITION, PACKAGE

project = "dms-spec"
author = "The dms-spec maintainers"
copyright = "the dms-spec maintainers, Apache-2.0"  # noqa: A001 - Sphinx's name
version = release = PACKAGE

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
]
myst_enable_extensions = ["dollarmath", "deflist", "colon_fence", "substitution"]
myst_heading_anchors = 3
myst_substitutions = {"edition": EDITION, "package": PACKAGE}
# The equations' names are ours (E1 and on), given with \tag.
myst_dmath_double_inline = False

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
# An attribute is described in its class's docstring, once.
napoleon_use_ivar = True
default_role = "code"

# try: the page of `make try`, and what npm puts there.
exclude_patterns = ["_build", "try"]
html_theme = "furo"
html_title = f"dms-spec {PACKAGE}"
html_show_sourcelink = False
