"""Sphinx configuration. Built with warnings as errors: ``make docs``."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent / "ext"))

import gallery

from dms_spec._version import EDITION, PACKAGE

project = "dms-spec"
author = "The dms-spec maintainers"
copyright = "the dms-spec maintainers, Apache-2.0"  # noqa: A001 - Sphinx's name
version = release = PACKAGE

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
    # Our own, in ext/.
    "clauses",
    "gallery",
    "keyboard",
    "mathml",
]
html_math_renderer = "mathml"
myst_update_mathjax = False
myst_enable_extensions = ["dollarmath", "deflist", "colon_fence", "substitution"]
myst_heading_anchors = 3
# `make try` puts the live page beside these; until then there is nothing to link to.
LIVE = Path(__file__).parent / "_build" / "html" / "try" / "index.html"
myst_substitutions = {
    "edition": EDITION,
    "package": PACKAGE,
    "live": '<a href="try/index.html">Open it.</a>'
    if LIVE.exists()
    else "Run `make docs` after it, and this page links there.",
}
# The equations' names are ours (E1 and on), given with \tag.
myst_dmath_double_inline = False

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
# An attribute is described in its class's docstring, once.
napoleon_use_ivar = True
default_role = "code"
highlight_language = "none"

# The tutorials: scripts that run here, and become pages in gallery/.
sphinx_gallery_conf = {
    "examples_dirs": gallery.copied(),
    "gallery_dirs": "gallery",
    "filename_pattern": "/tutorial_",
    "within_subsection_order": "FileNameSortKey",
    "reset_modules": ("matplotlib", "gallery.look"),
    "capture_repr": (),
    "notebook_extensions": set(),
    "download_all_examples": False,
    "show_signature": False,
    "inspect_global_variables": False,
    # A page says nothing about the machine that built it.
    "write_computation_times": False,
    "min_reported_time": float("inf"),
}
# try: the page of `make try`, and what npm puts there. tutorials: what gallery/ is made of.
exclude_patterns = ["_build", "try", "tutorials"]
html_theme = "furo"
html_title = f"dms-spec {PACKAGE}, edition {EDITION}"
# The menu ends with the editions of the specification, the newest first.
templates_path = ["_templates"]
html_context = {
    "editions": sorted(p.parent.name for p in Path(__file__).parent.glob("spec/*/index.md"))[::-1]
}
html_sidebars = {
    "**": [
        "sidebar/brand.html",
        "sidebar/search.html",
        "sidebar/scroll-start.html",
        "sidebar/navigation.html",
        "sidebar/editions.html",
        "sidebar/scroll-end.html",
    ]
}
html_static_path = ["_static"]
html_css_files = ["pages.css"]
# The source of every page lies beside it, and "View this page" leads there.
html_copy_source = html_show_sourcelink = True
html_sourcelink_suffix = ""
html_theme_options = {"top_of_page_buttons": ["view"]}
autosummary_generate = False
